//! One caption that grows by an id at a time: greedy, top-k, top-p. An id is drawn with one number of the caption's own
//! random stream, so it does not matter what else is computed beside it.

use super::candidates::{Candidate, Candidates};
use super::search::{Generated, Next, Search};
use super::{Method, Settings};
use engine::rng::Philox;
use engine::{Error, Result};

/// The state of one caption. As in open_clip a pad id ends it too (and is left out), and its last place is the end's.
#[derive(Debug)]
pub(super) struct Sample<'a> {
    settings: &'a Settings,
    pad: i32,
    random: Philox,
    ids: Vec<i32>,
    log_probability: f64,
}

impl<'a> Sample<'a> {
    pub fn new(settings: &'a Settings, pad: i32, prompt: &[i32], random: Philox) -> Sample<'a> {
        Sample { settings, pad, random, ids: prompt.to_vec(), log_probability: 0.0 }
    }
}

impl Search for Sample<'_> {
    fn advance(&mut self, following: &[&Candidates], logit: &dyn Fn(i32) -> Result<f32>) -> Result<Vec<Next>> {
        let [row] = following else { return Err(Error::invalid("a sample is one row")) };
        let total = row.total();
        let (id, logit) = if self.ids.len() + 1 >= self.settings.max_length {
            (self.settings.end, logit(self.settings.end)?)
        } else {
            let ranked = row.ranked(&self.ids, self.settings, false)?;
            let chosen = &ranked[draw(&odds(&ranked, self.settings.method), &mut self.random)];
            (chosen.id, chosen.logit)
        };
        if id == self.pad {
            return Ok(Vec::new());
        }
        self.ids.push(id);
        self.log_probability += f64::from(logit) - f64::from(total);
        Ok(if id == self.settings.end { Vec::new() } else { vec![Next { parent: 0, id }] })
    }

    fn finish(&mut self) -> Vec<Generated> {
        vec![Generated { ids: std::mem::take(&mut self.ids), log_probability: self.log_probability as f32 }]
    }
}

/// The odds of the first of `ranked`, those that may be drawn.
fn odds(ranked: &[Candidate], method: Method) -> Vec<f64> {
    let to_first = |candidate: &Candidate| f64::from(candidate.score - ranked[0].score);
    let (count, temperature) = match method {
        Method::TopK { count, temperature } => (count.min(ranked.len()), temperature),
        Method::TopP { mass, temperature } => {
            let odds: Vec<f64> = ranked.iter().map(|candidate| to_first(candidate).exp()).collect();
            // An id stays if it and all that are worse have more than the mass that is to be cut off.
            let cut = (1.0 - f64::from(mass)) * odds.iter().sum::<f64>();
            let mut worse = 0.0;
            let dropped = odds.iter().skip(1).rev().take_while(|&&odds| {
                worse += odds;
                worse <= cut
            });
            (ranked.len() - dropped.count(), temperature)
        }
        Method::Greedy | Method::Beams { .. } => (1, 1.0),
    };
    ranked[..count].iter().map(|candidate| (to_first(candidate) / f64::from(temperature)).exp()).collect()
}

/// A place, drawn by odds.
fn draw(odds: &[f64], random: &mut Philox) -> usize {
    let mut left = random.uniform() * odds.iter().sum::<f64>();
    let drawn = odds.iter().position(|odds| {
        left -= odds;
        left < 0.0
    });
    drawn.unwrap_or(odds.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that may be drawn, of some logits.
    fn ids(logits: &[f32], method: Method) -> Vec<i32> {
        let settings = Settings { method, min_length: 0, end: 0, ..Settings::preset("ours").unwrap() };
        let ranked = Candidates::new(0.., logits, 0.0).ranked(&[], &settings, false).unwrap();
        ranked[..odds(&ranked, method).len()].iter().map(|candidate| candidate.id).collect()
    }

    #[test]
    fn filters_keep_what_they_should() {
        // Probabilities 0.1, 0.4, 0.2, 0.3.
        let logits = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
        assert_eq!(ids(&logits, Method::Greedy), [1]);
        let top = |count| Method::TopK { count, temperature: 1.0 };
        assert_eq!(ids(&logits, top(1)), [1]);
        assert_eq!(ids(&logits, top(2)), [1, 3]);
        assert_eq!(ids(&logits, top(9)), [1, 3, 2, 0]);
        assert_eq!(ids(&[0.0, 1.0, 1.0], top(1)), [1], "of equal ones the lower id");
        let top = |mass| Method::TopP { mass, temperature: 1.0 };
        assert_eq!(ids(&logits, top(1e-6)), [1]);
        assert_eq!(ids(&logits, top(0.35)), [1]);
        assert_eq!(ids(&logits, top(0.65)), [1, 3]);
        assert_eq!(ids(&logits, top(0.75)), [1, 3, 2]);
        assert_eq!(ids(&logits, top(1.0)), [1, 3, 2, 0]);
    }

    #[test]
    fn draws_follow_the_odds() {
        let scores = [2f32.ln(), 0.0, f32::NEG_INFINITY];
        let ranked: Vec<_> = scores.iter().map(|&score| Candidate { id: 0, logit: score, score }).collect();
        for (temperature, expected) in [(1.0, 2.0 / 3.0), (0.5, 4.0 / 5.0)] {
            let odds = odds(&ranked, Method::TopK { count: 3, temperature });
            let mut random = Philox::new(3, 0);
            let draws = 20_000;
            let mut counts = [0; 3];
            (0..draws).for_each(|_| counts[draw(&odds, &mut random)] += 1);
            let share = f64::from(counts[0]) / f64::from(draws);
            let error = (expected * (1.0 - expected) / f64::from(draws)).sqrt();
            assert!((share - expected).abs() < 4.0 * error, "{share} at temperature {temperature}");
            assert_eq!(counts[2], 0);
        }
    }
}
