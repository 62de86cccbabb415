//! Beam search for one image, step by step as in transformers' `BeamSearchScorer`, which open_clip 3 uses: the best
//! candidates either end a caption, which joins a short list of finished ones, or become the beams of the next step.

use super::candidates::{Candidate, Candidates};
use super::search::{Generated, Next, Search};
use super::{BeamScore, Settings};
use engine::Result;

/// The state of a search.
#[derive(Debug)]
pub(super) struct BeamSearch<'a> {
    settings: &'a Settings,
    score: BeamScore,
    length_penalty: f64,
    prompt: usize,
    open: Vec<Beam>,
    finished: Vec<Finished>,
    done: bool,
}

#[derive(Clone, Debug)]
struct Beam {
    ids: Vec<i32>,
    score: f32,
    log_probability: f64,
}

#[derive(Debug)]
struct Finished {
    /// Score over length.
    score: f64,
    caption: Generated,
}

/// An id that may follow a beam.
#[derive(Clone, Copy, Debug)]
struct Step {
    parent: usize,
    id: i32,
    score: f32,
    log_probability: f64,
}

impl<'a> BeamSearch<'a> {
    /// A search of [`Settings::rows`] beams that starts from `prompt`.
    pub fn new(settings: &'a Settings, prompt: &[i32], score: BeamScore, length_penalty: f32) -> BeamSearch<'a> {
        // All beams but the first start hopeless, so that the first step fills them with different ids.
        let open = (0..settings.rows())
            .map(|beam| Beam { ids: prompt.to_vec(), score: if beam == 0 { 0.0 } else { -1e9 }, log_probability: 0.0 })
            .collect();
        let (length_penalty, prompt) = (f64::from(length_penalty), prompt.len());
        BeamSearch { settings, score, length_penalty, prompt, open, finished: Vec::new(), done: false }
    }

    /// The best candidates of all beams, twice as many as beams, best first.
    fn best(&self, following: &[&Candidates]) -> Result<Vec<Step>> {
        let most = 2 * self.open.len();
        let mut best: Vec<Step> = Vec::with_capacity(most + 1);
        for (parent, (beam, candidates)) in self.open.iter().zip(following).enumerate() {
            let total = f64::from(candidates.total());
            let ranked = candidates.ranked(&beam.ids, self.settings, self.score == BeamScore::LogProbability)?;
            for Candidate { id, logit, score } in ranked.into_iter().take(most) {
                let score = score + beam.score;
                if best.len() < most || best.last().is_some_and(|last| score > last.score) {
                    let log_probability = beam.log_probability + f64::from(logit) - total;
                    let at = best.partition_point(|other| other.score >= score);
                    best.insert(at, Step { parent, id, score, log_probability });
                    best.truncate(most);
                }
            }
        }
        Ok(best)
    }

    /// A score over a length, the end's place counted.
    fn normalized(&self, score: f32, length: usize) -> f64 {
        let counted = match self.score {
            BeamScore::LogProbability => length - self.prompt,
            BeamScore::RawLogit => length,
        };
        f64::from(score) / (counted as f64).powf(self.length_penalty)
    }

    /// Puts a caption on the list of the best, which is as long as there are beams.
    fn keep(&mut self, score: f64, caption: Generated) {
        if self.finished.len() < self.open.len() || self.worst().is_none_or(|(_, worst)| score > worst) {
            self.finished.push(Finished { score, caption });
            if self.finished.len() > self.open.len()
                && let Some((at, _)) = self.worst()
            {
                self.finished.remove(at);
            }
        }
    }

    fn worst(&self) -> Option<(usize, f64)> {
        let scores = self.finished.iter().map(|finished| finished.score).enumerate();
        scores.min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

impl Search for BeamSearch<'_> {
    fn advance(&mut self, following: &[&Candidates], _: &dyn Fn(i32) -> Result<f32>) -> Result<Vec<Next>> {
        let beams = self.open.len();
        let best = self.best(following)?;
        let length = self.open[0].ids.len() + 1;
        let (mut next, mut rows) = (Vec::with_capacity(beams), Vec::with_capacity(beams));
        for (rank, step) in best.iter().enumerate() {
            if rows.len() == beams {
                break;
            }
            let &Step { parent, id, score, log_probability } = step;
            if id == self.settings.end && rank >= beams {
                continue; // not among the best
            }
            let mut ids = self.open[parent].ids.clone();
            ids.push(id);
            if id == self.settings.end {
                let caption = Generated { ids, log_probability: log_probability as f32 };
                self.keep(self.normalized(score, length), caption);
            } else {
                next.push(Beam { ids, score, log_probability });
                rows.push(Next { parent, id });
            }
        }
        // Done when no candidate, were it to end here, would make it onto the full list.
        let attainable = self.normalized(best[0].score, length);
        self.done = self.finished.len() >= beams && self.worst().is_some_and(|(_, worst)| worst >= attainable);
        self.open = next;
        if self.done || length >= self.settings.max_length {
            rows.clear();
        }
        Ok(rows)
    }

    fn finish(&mut self) -> Vec<Generated> {
        if !self.done {
            for beam in self.open.clone() {
                let score = self.normalized(beam.score, beam.ids.len());
                self.keep(score, Generated { ids: beam.ids, log_probability: beam.log_probability as f32 });
            }
        }
        // Of equal scores the later one comes first, as in transformers.
        self.finished.reverse();
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.drain(..).map(|finished| finished.caption).collect()
    }
}
