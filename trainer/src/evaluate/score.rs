//! How well scores of classes tell the right one, and what knowing nothing of the sample would reach.

use super::share_within;
use crate::classes::Classes;
use serde::Serialize;
use std::cmp::Ordering;

/// Classes that a top-5 answer names.
const FIVE: usize = 5;

/// What a classifier, or a control, reaches on a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Which one.
    pub probe: &'static str,
    /// Share of samples whose class comes first.
    pub top1: f64,
    /// Share of samples whose class is among the first five.
    pub top5: f64,
    /// Mean over the classes with samples of the share whose class comes first.
    pub mean_per_class: f64,
}

impl Score {
    /// Of scores `[samples, classes]` and the class of each sample; one of none of the classes has no right answer. A wrong
    /// class that scores as high as the right one counts as higher, and so does a score that is no number.
    pub fn of(probe: &'static str, scores: &[f32], classes: usize, right: &[Option<usize>]) -> Score {
        let rank = |(scores, right): (&[f32], &Option<usize>)| {
            let right = scores[(*right)?];
            let not_below = |&&score: &&f32| score.partial_cmp(&right) != Some(Ordering::Less);
            Some(scores.iter().filter(not_below).count() - 1)
        };
        let ranks: Vec<Option<usize>> = scores.chunks_exact(classes).zip(right).map(rank).collect();
        let mut of_class = vec![Vec::new(); classes];
        for (class, rank) in right.iter().zip(&ranks) {
            if let (Some(class), Some(rank)) = (class, rank) {
                of_class[*class].push(*rank);
            }
        }
        of_class.retain(|ranks| !ranks.is_empty());
        let mean = of_class.iter().map(|ranks| share_within(ranks, 1)).sum::<f64>() / of_class.len().max(1) as f64;
        let ranks: Vec<usize> = ranks.into_iter().map(|rank| rank.unwrap_or(usize::MAX)).collect();
        Score { probe, top1: share_within(&ranks, 1), top5: share_within(&ranks, FIVE), mean_per_class: mean }
    }

    /// Always the classes that are most frequent in training.
    pub fn of_majority(training: &Classes, right: &[Option<usize>]) -> Score {
        let scores = training.by_frequency().repeat(right.len());
        Score::of("majority class", &scores, training.count(), right)
    }

    /// A guess.
    pub fn of_chance(classes: usize) -> Score {
        let share = |named: usize| named.min(classes) as f64 / classes as f64;
        Score { probe: "chance", top1: share(1), top5: share(FIVE), mean_per_class: share(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_scores_that_are_no_numbers_get_no_credit() {
        let scores = [3.0, 1.0, 2.0, 1.0, 1.0, 0.0, f32::NAN, 5.0, 0.0, 0.0, 0.0, 9.0];
        let found = Score::of("p", &scores, 3, &[0, 1, 1, 2].map(Some));
        assert_eq!((found.top1, found.top5), (0.5, 1.0));
        // Class 0 all right, class 1 none of two, class 2 all.
        assert_eq!(found.mean_per_class, 2.0 / 3.0);
        // A sample of no class is never right, and no class of its own.
        let found = Score::of("p", &scores, 3, &[Some(0), None, None, Some(2)]);
        assert_eq!((found.top1, found.top5, found.mean_per_class), (0.5, 0.5, 1.0));
    }

    #[test]
    fn controls_know_nothing_of_the_image() {
        let labels = ["1", "1", "1", "4", "4", "0", "2", "3", "5", "6", "6"];
        let training = Classes::of("s", &labels, 7).unwrap();
        let found = Score::of_majority(&training, &[1, 1, 4, 5].map(Some));
        assert_eq!((found.top1, found.mean_per_class), (0.5, 1.0 / 3.0));
        // Most frequent are 1, then 4 and 6, then the first of those that stand once.
        assert_eq!(found.top5, 0.75);
        let chance = Score::of_chance(10);
        assert_eq!((chance.top1, chance.top5, Score::of_chance(3).top5), (0.1, 0.5, 1.0));
    }
}
