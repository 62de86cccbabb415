//! What every method of generation shares: the caption's state machine, log-probabilities, and rules on the next id.

use super::Settings;
use engine::{Error, Result};

/// A caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Token ids: the prompt's, the generated, and the end if it was reached. No padding.
    pub ids: Vec<i32>,
    /// Sum of the log-probabilities (natural, of the model's own softmax) of the generated ids.
    pub log_probability: f32,
}

/// A row of the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// The row of the last step that it continues.
    pub parent: usize,
    /// The id to append.
    pub id: i32,
}

/// The caption or captions that grow for one image.
pub(super) trait Search {
    /// Takes the logits `[vocabulary]` after each open row and says which rows to compute next; none when it is done.
    fn advance(&mut self, logits: &[&[f32]]) -> Result<Vec<Next>>;

    /// The captions that were found, at least one, the best first.
    fn finish(&mut self) -> Vec<Generated>;
}

/// `ln(sum(exp(logits)))`; an error unless all logits are finite.
pub(super) fn log_sum_exp(logits: &[f32]) -> Result<f64> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, &logit| largest.max(logit));
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    let result = f64::from(largest) + sum.ln();
    if result.is_finite() { Ok(result) } else { Err(Error::invalid("the model's logits are not finite")) }
}

/// Applies the minimal length and the repetition penalty to the scores of what may follow `ids`.
pub(super) fn restrict(scores: &mut [f32], ids: &[i32], settings: &Settings) {
    if ids.len() < settings.min_length {
        scores[settings.end as usize] = f32::NEG_INFINITY;
    }
    let penalty = settings.repetition_penalty;
    if penalty != 1.0 {
        let mut seen = ids.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            let score = &mut scores[id as usize];
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_change_the_scores_that_they_should() {
        let settings = Settings { min_length: 3, repetition_penalty: 2.0, end: 3, ..Settings::preset("ours").unwrap() };
        let mut scores = [1.0, 2.0, -3.0, 4.0];
        restrict(&mut scores, &[1, 2, 1], &settings);
        assert_eq!(scores, [1.0, 1.0, -6.0, 4.0]);
        restrict(&mut scores, &[0, 0], &settings);
        assert_eq!(scores, [0.5, 1.0, -6.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn log_sum_exp_is_exact_and_refuses_what_is_not_finite() {
        assert!((log_sum_exp(&[1000.0, 1000.0]).unwrap() - (1000.0 + 2f64.ln())).abs() < 1e-12);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(log_sum_exp(&[0.0, bad]).is_err());
        }
    }
}
