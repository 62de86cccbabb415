//! Where the right answer stands among all answers, by similarity of unit features: exact, without a matrix of all
//! similarities.

use crate::dot::dot;
use crate::report::Recall;
use rayon::prelude::*;
use std::cmp::Ordering;

/// Queries that a thread holds against the items at a time: they stay in its cache while the items pass by.
const BLOCK: usize = 32;

/// For each query (rows of `queries`, `[queries, width]`) how many items (rows of `items`) that are not right score
/// higher than the best right one; `usize::MAX` if none is right. `right(query)` gives its right items, each once. Of equal
/// scores the wrong ones count as higher, so that a model that tells nothing apart gets no credit; scores that are no
/// numbers count as equal.
pub fn ranks<'r>(
    queries: &[f32],
    items: &[f32],
    width: usize,
    right: impl Fn(usize) -> &'r [usize] + Sync,
) -> Vec<usize> {
    let row = |item: usize| &items[item * width..(item + 1) * width];
    let block = |(block, queries): (usize, &[f32])| {
        let asked = |(at, query): (usize, &[f32])| {
            let scores = right(block * BLOCK + at).iter().map(|&item| dot(query, row(item)));
            let best = scores.clone().max_by(f32::total_cmp)?;
            Some(Asked { best, right: scores.filter(|&score| not_below(score, best)).count(), all: 0 })
        };
        let mut asked: Vec<Option<Asked>> = queries.chunks_exact(width).enumerate().map(asked).collect();
        for item in items.chunks_exact(width) {
            for (query, asked) in queries.chunks_exact(width).zip(&mut asked) {
                if let Some(Asked { best, all, .. }) = asked {
                    *all += usize::from(not_below(dot(query, item), *best));
                }
            }
        }
        asked.into_iter().map(|asked| asked.map_or(usize::MAX, |Asked { right, all, .. }| all - right))
    };
    queries.par_chunks(BLOCK * width).enumerate().flat_map_iter(block).collect()
}

/// What is known of a query with a right item.
struct Asked {
    /// The best score of a right item.
    best: f32,
    /// Right items that are not below it.
    right: usize,
    /// Items that are not below it.
    all: usize,
}

fn not_below(score: f32, best: f32) -> bool {
    score.partial_cmp(&best) != Some(Ordering::Less)
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
    use proptest::prelude::*;

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

    #[test]
    fn features_that_are_no_numbers_get_no_credit() {
        let ranks = ranks(&[f32::NAN, 1.0], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 2, |_| &[0]);
        assert_eq!(ranks, [2]);
    }

    /// Rows of small whole numbers: their products are exact, and many are equal.
    fn rows(count: usize, width: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec((-2i8..=2).prop_map(f32::from), count * width)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn ranks_are_those_of_the_whole_matrix(
            (width, queries, items, right) in (1usize..40, 0usize..80, 1usize..50).prop_flat_map(|(width, queries, items)| {
                let right = prop::collection::vec(prop::collection::btree_set(0..items, 0..3), queries);
                (Just(width), rows(queries, width), rows(items, width), right)
            })
        ) {
            let right: Vec<Vec<usize>> = right.into_iter().map(|right| right.into_iter().collect()).collect();
            let found = ranks(&queries, &items, width, |query| &right[query]);
            let matrix: Vec<Vec<f64>> = (queries.chunks(width))
                .map(|query| {
                    let score = |item: &[f32]| query.iter().zip(item).map(|(a, b)| f64::from(a * b)).sum();
                    items.chunks(width).map(score).collect()
                })
                .collect();
            for ((scores, right), found) in matrix.iter().zip(&right).zip(found) {
                let best = right.iter().map(|&item| scores[item]).fold(f64::NEG_INFINITY, f64::max);
                let wrong = (0..scores.len()).filter(|item| !right.contains(item) && scores[*item] >= best).count();
                prop_assert_eq!(found, if right.is_empty() { usize::MAX } else { wrong });
            }
        }
    }
}
