//! The ids that may follow a caption, best first.

use super::{Method, Settings};
use engine::{Error, Result};
use kernels::top_k::MOST;

/// An id that may follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub id: i32,
    pub logit: f32,
    /// What the rules make of the logit.
    pub score: f32,
}

/// The ids that may follow a row, with their logits.
#[derive(Debug)]
pub(super) struct Candidates {
    best: Vec<(i32, f32)>,
    total: f32,
}

/// How many of the best logits of a row `settings` need, so that the rules can pass over some; 0 if all.
pub(super) fn wanted(settings: &Settings, vocabulary_size: usize) -> usize {
    let chosen = match settings.method {
        Method::Greedy => 1,
        Method::TopK { count, .. } => count,
        Method::TopP { .. } => return 0,
        Method::Beams { .. } => 2 * settings.rows(),
    };
    let passed_over = match settings.repetition_penalty {
        1.0 => 1, // the end
        penalty if penalty > 1.0 => settings.max_length + 1,
        _ => return 0, // any id may rise
    };
    let wanted = chosen.saturating_add(passed_over).min(vocabulary_size);
    if wanted <= MOST { wanted } else { 0 }
}

impl Candidates {
    /// From ids and their logits, in any order; `total` is the logarithm of the sum of the exponentials of all logits of
    /// the row.
    pub fn new(ids: impl IntoIterator<Item = i32>, logits: &[f32], total: f32) -> Candidates {
        Candidates { best: ids.into_iter().zip(logits.iter().copied()).collect(), total }
    }

    /// The logarithm of the sum of the exponentials of all logits.
    pub fn total(&self) -> f32 {
        self.total
    }

    /// Scored for what may follow `ids`, best first, of equal ones the lower id: log-probabilities or logits, to which the
    /// minimal length and the repetition penalty are applied. An error unless all logits of the row are finite.
    pub fn ranked(&self, ids: &[i32], settings: &Settings, log_probabilities: bool) -> Result<Vec<Candidate>> {
        if !self.total.is_finite() {
            return Err(Error::invalid("the model's logits are not finite"));
        }
        let penalty = settings.repetition_penalty;
        let scored = |&(id, logit): &(i32, f32)| {
            let mut score = if log_probabilities { logit - self.total } else { logit };
            if id == settings.end && ids.len() < settings.min_length {
                score = f32::NEG_INFINITY;
            }
            if penalty != 1.0 && ids.contains(&id) {
                score = if score < 0.0 { score * penalty } else { score / penalty };
            }
            Candidate { id, logit, score }
        };
        let mut ranked: Vec<Candidate> = self.best.iter().map(scored).collect();
        ranked.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        Ok(ranked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(method: Method, repetition_penalty: f32) -> Settings {
        Settings { method, repetition_penalty, min_length: 3, end: 3, ..Settings::preset("ours").unwrap() }
    }

    fn scores(logits: &[f32], ids: &[i32], settings: &Settings) -> Vec<(i32, f32)> {
        let ranked = Candidates::new(0.., logits, 0.5).ranked(ids, settings, false).unwrap();
        ranked.into_iter().map(|candidate| (candidate.id, candidate.score)).collect()
    }

    #[test]
    fn rules_change_the_scores_that_they_should() {
        let settings = settings(Method::Greedy, 2.0);
        let logits = [1.0, 2.0, -3.0, 4.0];
        assert_eq!(scores(&logits, &[1, 2, 1], &settings), [(3, 4.0), (0, 1.0), (1, 1.0), (2, -6.0)]);
        assert_eq!(scores(&logits, &[0, 0], &settings), [(1, 2.0), (0, 0.5), (2, -3.0), (3, f32::NEG_INFINITY)]);
        let ranked = Candidates::new(0.., &logits, 0.5).ranked(&[0, 1, 1], &settings, true).unwrap();
        assert_eq!(ranked[0], Candidate { id: 3, logit: 4.0, score: 3.5 });
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(Candidates::new(0.., &logits, bad).ranked(&[], &settings, false).is_err());
        }
    }

    /// The first of the ranked are the same whether all logits are there or as many of the largest as are wanted.
    #[test]
    fn as_many_as_are_wanted_are_enough() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * i * 31 + 7 * i) % 97) as f32 * 0.1 - 4.0).collect();
        let method =
            |count| Method::Beams { count, groups: 1, score: super::super::BeamScore::RawLogit, length_penalty: 1.0 };
        let mut largest: Vec<(i32, f32)> = (0..).zip(logits.iter().copied()).collect();
        largest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for (method, needed) in
            [(Method::Greedy, 1), (Method::TopK { count: 40, temperature: 1.0 }, 40), (method(6), 12)]
        {
            for penalty in [1.0, 1.5] {
                let settings = settings(method, penalty);
                let all = Candidates::new(0.., &logits, 7.0);
                let mut ids: Vec<i32> = largest[..settings.max_length].iter().map(|&(id, _)| id).collect();
                ids.truncate(if penalty == 1.0 { 2 } else { settings.max_length });
                let wanted = wanted(&settings, logits.len());
                assert!(wanted > needed && wanted <= needed + 1 + settings.max_length);
                let best = Candidates { best: largest[..wanted].to_vec(), total: 7.0 };
                let ranked =
                    |candidates: &Candidates| candidates.ranked(&ids, &settings, true).unwrap()[..needed].to_vec();
                assert_eq!(ranked(&best), ranked(&all), "{method:?} {penalty}");
            }
        }
        let all = |method, penalty| wanted(&settings(method, penalty), 10_000) == 0;
        assert!(all(Method::TopP { mass: 0.9, temperature: 1.0 }, 1.0) && all(Method::Greedy, 0.9));
        assert!(all(Method::TopK { count: 5000, temperature: 1.0 }, 1.0));
        assert_eq!(wanted(&settings(Method::TopK { count: 5000, temperature: 1.0 }, 1.0), 700), 700);
    }
}
