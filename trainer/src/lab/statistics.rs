//! Medians with confidence intervals that assume no distribution: times of a machine that others use have long tails.

use serde::{Deserialize, Serialize};

/// Chance that an interval misses the true value on one side.
const TAIL: f64 = 0.025;

/// A median and the 95 % confidence interval of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Median of the samples.
    pub median: f64,
    /// Low end of the interval.
    pub low: f64,
    /// High end of the interval.
    pub high: f64,
    /// How many samples there were. Fewer than 6 cannot give 95 %: the interval is then their whole range.
    pub samples: usize,
}

impl Estimate {
    /// Of samples; none without samples.
    ///
    /// The ends are order statistics: the median lies between the samples of rank k + 1 and n - k, k the largest number of
    /// heads that a fair coin stays at or below in n throws with a chance of 2.5 %.
    pub fn of(samples: &[f64]) -> Option<Estimate> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, count) = (sorted.first()?, sorted.len());
        let median = if count % 2 == 1 { sorted[count / 2] } else { sorted[count / 2 - 1].midpoint(sorted[count / 2]) };
        let spare = outside(count);
        let (low, high) = spare.map_or((*first, sorted[count - 1]), |k| (sorted[k], sorted[count - 1 - k]));
        Some(Estimate { median, low, high, samples: count })
    }

    /// The quotient of two estimates of different runs. The distances of the ends add up as roots of squares on a
    /// logarithmic scale (Zou and Donner, "Construction of confidence limits about effect measures", 2008).
    pub fn over(&self, other: &Estimate) -> Estimate {
        let median = self.median / other.median;
        let away = |own: f64, others: f64| own.ln().hypot(others.ln()).exp();
        Estimate {
            median,
            low: median / away(self.median / self.low, other.high / other.median),
            high: median * away(self.high / self.median, other.median / other.low),
            samples: self.samples.min(other.samples),
        }
    }

    /// The same samples in another unit.
    pub fn times(&self, factor: f64) -> Estimate {
        Estimate { median: self.median * factor, low: self.low * factor, high: self.high * factor, ..*self }
    }

    /// Half of the interval's width as a share of the median.
    pub fn spread(&self) -> f64 {
        0.5 * (self.high - self.low) / self.median
    }
}

/// The quotients of samples that were taken in pairs, side by side, so that what slowed one slowed the other.
pub fn quotients(numerators: &[f64], denominators: &[f64]) -> Vec<f64> {
    numerators.iter().zip(denominators).map(|(a, b)| a / b).collect()
}

/// How many of `count` sorted samples lie outside of the interval at each end; none if even the whole range is too narrow.
fn outside(count: usize) -> Option<usize> {
    let mut chance = 0.5f64.powi(count as i32);
    let mut total = 0.0;
    let mut found = None;
    for heads in 0..count / 2 {
        total += chance;
        if total > TAIL {
            break;
        }
        found = Some(heads);
        chance *= (count - heads) as f64 / (heads + 1) as f64;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::rng::Philox;

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Conover, "Practical nonparametric statistics": ranks of the 95 % interval of a median, counted from 1.
        let ranks = [(5, None), (6, Some(1)), (10, Some(2)), (20, Some(6)), (25, Some(8))];
        for (count, rank) in ranks {
            assert_eq!(outside(count).map(|k| k + 1), rank, "{count} samples");
        }
    }

    #[test]
    fn medians_of_known_samples() {
        let samples: Vec<f64> = [9, 2, 7, 4, 5, 6, 3, 8, 1, 10].map(f64::from).into();
        let estimate = Estimate::of(&samples).unwrap();
        assert_eq!(estimate, Estimate { median: 5.5, low: 2.0, high: 9.0, samples: 10 });
        assert_eq!(Estimate::of(&[3.0, 1.0, 2.0]).unwrap(), Estimate { median: 2.0, low: 1.0, high: 3.0, samples: 3 });
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(estimate.times(2.0).high, 18.0);
        assert!((Estimate { median: 2.0, low: 1.9, high: 2.3, samples: 9 }.spread() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn intervals_hold_the_median_as_often_as_they_say() {
        let mut random = Philox::new(3, 0);
        let mut held = 0;
        for _ in 0..1000 {
            // A distribution with a tail as long as that of times on a busy machine; its median is 1.
            let samples: Vec<f64> = (0..15).map(|_| (0.5 * random.normal()).exp()).collect();
            let estimate = Estimate::of(&samples).unwrap();
            held += usize::from(estimate.low <= 1.0 && 1.0 <= estimate.high);
        }
        assert!((945..=990).contains(&held), "{held} of 1000");
    }

    #[test]
    fn pairs_cancel_what_slows_both() {
        let mut random = Philox::new(4, 0);
        let slow: Vec<f64> = (0..30).map(|_| 1.0 + 9.0 * random.uniform()).collect();
        let twice: Vec<f64> = slow.iter().map(|seconds| 2.0 * seconds).collect();
        let ratio = Estimate::of(&quotients(&twice, &slow)).unwrap();
        assert!((ratio.median - 2.0).abs() < 1e-12 && ratio.high - ratio.low < 1e-12);
    }

    #[test]
    fn quotients_of_runs_are_wider_than_their_parts() {
        let estimate = |median| Estimate { median, low: median / 1.1, high: median * 1.1, samples: 20 };
        let ratio = estimate(3.0).over(&estimate(2.0));
        assert!((ratio.median - 1.5).abs() < 1e-12);
        let factor = (1.1f64.ln() * 2f64.sqrt()).exp();
        assert!((ratio.high - 1.5 * factor).abs() < 1e-12 && (ratio.low - 1.5 / factor).abs() < 1e-12);
    }
}
