//! How well scores of classes tell the right one, and what knowing nothing of the image would reach.

use crate::evaluate::share_within;
use serde::Serialize;
use std::cmp::Ordering;

/// Classes that a top-5 answer names.
const FIVE: usize = 5;

/// What a probe, or a control, reaches on a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Which probe.
    pub probe: &'static str,
    /// Share of images whose class comes first.
    pub top1: f64,
    /// Share of images whose class is among the first five.
    pub top5: f64,
    /// Mean over the classes with images of the share whose class comes first.
    pub mean_per_class: f64,
}

impl Score {
    /// Of scores `[images, classes]` and the class of each image. A wrong class that scores as high as the right one counts
    /// as higher, and so does a score that is no number.
    pub fn of(probe: &'static str, scores: &[f32], classes: usize, right: &[usize]) -> Score {
        let rank = |(scores, &right): (&[f32], &usize)| {
            let not_below = |&&score: &&f32| score.partial_cmp(&scores[right]) != Some(Ordering::Less);
            scores.iter().filter(not_below).count() - 1
        };
        let ranks: Vec<usize> = scores.chunks_exact(classes).zip(right).map(rank).collect();
        let mut of_class = vec![Vec::new(); classes];
        right.iter().zip(&ranks).for_each(|(&class, &rank)| of_class[class].push(rank));
        of_class.retain(|ranks| !ranks.is_empty());
        let mean = of_class.iter().map(|ranks| share_within(ranks, 1)).sum::<f64>() / of_class.len().max(1) as f64;
        Score { probe, top1: share_within(&ranks, 1), top5: share_within(&ranks, FIVE), mean_per_class: mean }
    }

    /// Always the classes that are most frequent in training, given the class of each training sample.
    pub fn of_majority(training: &[usize], classes: usize, right: &[usize]) -> Score {
        let mut counts = vec![0usize; classes];
        training.iter().for_each(|&class| counts[class] += 1);
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by_key(|&class| std::cmp::Reverse(counts[class]));
        let mut scores = vec![0.0; classes];
        order.iter().enumerate().for_each(|(place, &class)| scores[class] = -(place as f32));
        Score::of("majority class", &scores.repeat(right.len()), classes, right)
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
        let found = Score::of("p", &scores, 3, &[0, 1, 1, 2]);
        assert_eq!((found.top1, found.top5), (0.5, 1.0));
        // Class 0 all right, class 1 none of two, class 2 all.
        assert_eq!(found.mean_per_class, 2.0 / 3.0);
    }

    #[test]
    fn controls_know_nothing_of_the_image() {
        let training = [1, 1, 1, 4, 4, 0, 2, 3, 5, 6, 6];
        let found = Score::of_majority(&training, 7, &[1, 1, 4, 5]);
        assert_eq!((found.top1, found.mean_per_class), (0.5, 1.0 / 3.0));
        // Most frequent are 1, then 4 and 6, then the first of those that stand once.
        assert_eq!(found.top5, 0.75);
        let chance = Score::of_chance(10);
        assert_eq!((chance.top1, chance.top5, Score::of_chance(3).top5), (0.1, 0.5, 1.0));
    }
}
