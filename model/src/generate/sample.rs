//! One caption that grows by an id at a time: greedy, top-k, top-p. An id is drawn with one number of the caption's own
//! random stream, so it does not matter what else is computed beside it.

use super::search::{Generated, Next, Search, log_sum_exp, restrict};
use super::{Method, Settings};
use engine::Result;
use engine::rng::Philox;

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
    fn advance(&mut self, logits: &[&[f32]]) -> Result<Vec<Next>> {
        let total = log_sum_exp(logits[0])?;
        let id = if self.ids.len() + 1 >= self.settings.max_length {
            self.settings.end
        } else {
            let mut scores = logits[0].to_vec();
            restrict(&mut scores, &self.ids, self.settings);
            draw(&candidates(&scores, self.settings.method), &mut self.random) as i32
        };
        if id == self.pad {
            return Ok(Vec::new());
        }
        self.ids.push(id);
        self.log_probability += f64::from(logits[0][id as usize]) - total;
        Ok(if id == self.settings.end { Vec::new() } else { vec![Next { parent: 0, id }] })
    }

    fn finish(&mut self) -> Vec<Generated> {
        vec![Generated { ids: std::mem::take(&mut self.ids), log_probability: self.log_probability as f32 }]
    }
}

/// The ids that may be drawn, best first, with weights in proportion to their odds.
fn candidates(scores: &[f32], method: Method) -> Vec<(usize, f64)> {
    let better = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let all = 0..scores.len();
    let (mut kept, temperature) = match method {
        Method::TopK { count, temperature } => {
            let mut order: Vec<usize> = all.clone().collect();
            let (_, &mut last, _) = order.select_nth_unstable_by(count.min(scores.len()) - 1, better);
            (all.filter(|&id| scores[id] >= scores[last]).collect(), temperature)
        }
        Method::TopP { mass, temperature } => {
            let mut order: Vec<usize> = all.collect();
            order.sort_unstable_by(better);
            let largest = scores[order[0]];
            let odds: Vec<f64> = order.iter().map(|&id| f64::from(scores[id] - largest).exp()).collect();
            // An id stays if it and all that are worse have more than the mass that is to be cut off.
            let cut = (1.0 - f64::from(mass)) * odds.iter().sum::<f64>();
            let mut worse = 0.0;
            let dropped = odds.iter().skip(1).rev().take_while(|&&odds| {
                worse += odds;
                worse <= cut
            });
            order.truncate(order.len() - dropped.count());
            (order, temperature)
        }
        Method::Greedy | Method::Beams { .. } => (all.min_by(better).into_iter().collect::<Vec<_>>(), 1.0),
    };
    kept.sort_unstable_by(better);
    let largest = kept.first().map_or(0.0, |&id| scores[id]);
    kept.into_iter().map(|id| (id, (f64::from(scores[id] - largest) / f64::from(temperature)).exp())).collect()
}

fn draw(candidates: &[(usize, f64)], random: &mut Philox) -> usize {
    let mut left = random.uniform() * candidates.iter().map(|&(_, weight)| weight).sum::<f64>();
    let drawn = candidates.iter().find(|&&(_, weight)| {
        left -= weight;
        left < 0.0
    });
    drawn.or(candidates.last()).map_or(0, |&(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(scores: &[f32], method: Method) -> Vec<usize> {
        candidates(scores, method).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn filters_keep_what_they_should() {
        // Probabilities 0.1, 0.4, 0.2, 0.3.
        let scores = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
        assert_eq!(ids(&scores, Method::Greedy), [1]);
        let top = |count| Method::TopK { count, temperature: 1.0 };
        assert_eq!(ids(&scores, top(1)), [1]);
        assert_eq!(ids(&scores, top(2)), [1, 3]);
        assert_eq!(ids(&scores, top(9)), [1, 3, 2, 0]);
        assert_eq!(ids(&[1.0, 1.0, 0.0], top(1)), [0, 1], "ties stay");
        let top = |mass| Method::TopP { mass, temperature: 1.0 };
        assert_eq!(ids(&scores, top(1e-6)), [1]);
        assert_eq!(ids(&scores, top(0.35)), [1]);
        assert_eq!(ids(&scores, top(0.65)), [1, 3]);
        assert_eq!(ids(&scores, top(0.75)), [1, 3, 2]);
        assert_eq!(ids(&scores, top(1.0)), [1, 3, 2, 0]);
    }

    #[test]
    fn draws_follow_the_odds() {
        let scores = [0.0, 2f32.ln(), f32::NEG_INFINITY];
        for (temperature, expected) in [(1.0, 2.0 / 3.0), (0.5, 4.0 / 5.0)] {
            let kept = candidates(&scores, Method::TopK { count: 3, temperature });
            let mut random = Philox::new(3, 0);
            let draws = 20_000;
            let mut counts = [0; 3];
            (0..draws).for_each(|_| counts[draw(&kept, &mut random)] += 1);
            let share = f64::from(counts[1]) / f64::from(draws);
            let error = (expected * (1.0 - expected) / f64::from(draws)).sqrt();
            assert!((share - expected).abs() < 4.0 * error, "{share} at temperature {temperature}");
            assert_eq!(counts[2], 0);
        }
    }
}
