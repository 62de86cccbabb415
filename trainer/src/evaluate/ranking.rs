//! Where the right answer stands among all answers, by similarity of unit features.

use crate::report::Recall;
use rayon::prelude::*;

/// For each query (rows of `queries`, `[queries, width]`) how many items (rows of `items`) that are not right score
/// higher than the best right one; `usize::MAX` if none is right. `right(query)` gives its right items. Of equal scores
/// the wrong ones count as higher, so that a model that tells nothing apart gets no credit.
pub fn ranks<'r>(
    queries: &[f32],
    items: &[f32],
    width: usize,
    right: impl Fn(usize) -> &'r [usize] + Sync,
) -> Vec<usize> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    (queries.par_chunks_exact(width).enumerate())
        .map(|(query, features)| {
            let right = right(query);
            let scores: Vec<f32> = items.chunks_exact(width).map(|item| dot(features, item)).collect();
            let Some(best) = right.iter().map(|&item| scores[item]).max_by(f32::total_cmp) else { return usize::MAX };
            let higher = |&(item, score): &(usize, &f32)| *score >= best && !right.contains(&item);
            scores.iter().enumerate().filter(higher).count()
        })
        .collect()
}

/// Share of ranks below `limit`; 0 of none.
pub fn share_within(ranks: &[usize], limit: usize) -> f64 {
    ranks.iter().filter(|&&rank| rank < limit).count() as f64 / ranks.len().max(1) as f64
}

/// Recall at 1, 5 and 10.
pub fn recall(ranks: &[usize]) -> Recall {
    let [at_1, at_5, at_10] = [1, 5, 10].map(|limit| share_within(ranks, limit));
    Recall { at_1, at_5, at_10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_the_wrong_items_that_score_at_least_as_high() {
        let items = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8, 1.0, 0.0];
        let queries = [1.0, 0.0, 0.0, 1.0, 0.8, 0.6];
        let right: [&[usize]; 3] = [&[0], &[2, 0], &[]];
        let ranks = ranks(&queries, &items, 2, |query| right[query]);
        // Item 3 ties with item 0; item 1 beats item 2 for the second query; the third has no answer.
        assert_eq!(ranks, [1, 1, usize::MAX]);
        assert_eq!(share_within(&ranks, 2), 2.0 / 3.0);
        assert_eq!(recall(&ranks), Recall { at_1: 0.0, at_5: 2.0 / 3.0, at_10: 2.0 / 3.0 });
        assert_eq!(share_within(&[], 1), 0.0);
    }
}
