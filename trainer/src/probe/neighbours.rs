//! k nearest neighbours: no training, so that what it reaches is the features' own. As Wu et al., "Unsupervised feature
//! learning via non-parametric instance discrimination", 2018: a vote of the `NEIGHBOURS` most similar training samples,
//! each weighted by `exp(cosine / TEMPERATURE)`.

use model::encoder::nearest;

/// Training samples that vote.
pub const NEIGHBOURS: usize = 20;
/// Divides the similarity in a vote's weight.
pub const TEMPERATURE: f32 = 0.07;

/// Votes `[queries, classes]` for unit features `queries` `[queries, width]`, given those of training and the class of each.
pub fn votes(queries: &[f32], training: &[f32], width: usize, targets: &[usize], classes: usize) -> Vec<f32> {
    let mut votes = vec![0.0; queries.len() / width * classes];
    for (votes, found) in votes.chunks_exact_mut(classes).zip(nearest(queries, training, width, NEIGHBOURS)) {
        for (row, similarity) in found {
            // Below 1 for every feature; only the ratio of weights matters.
            votes[targets[row]] += ((similarity - 1.0) / TEMPERATURE).exp();
        }
    }
    votes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_neighbours_outvote_far_ones() {
        let mut training = vec![1.0, 0.0];
        let mut targets = vec![2];
        // 25 of the opposite direction, of which 19 are among the 20 nearest and weigh next to nothing.
        (0..25).for_each(|_| {
            training.extend([-1.0, 0.0]);
            targets.push(0);
        });
        let found = votes(&[1.0, 0.0, 0.6, 0.8], &training, 2, &targets, 3);
        assert_eq!((found.len(), found[1], found[2]), (6, 0.0, 1.0));
        let far = 19.0 * (-2.0f32 / 0.07).exp();
        assert!((found[0] - far).abs() < 1e-6 * far);
        let near = (-0.4f32 / 0.07).exp();
        assert!((found[5] - near).abs() < 1e-5 * near);
    }
}
