//! How captions are made: the method, the rules for what may come next, and named sets of both.

use engine::{Error, Result};

/// Names that [`Settings::preset`] knows.
pub const PRESETS: [&str; 3] = ["ours", "openclip-3", "openclip-4"];

/// CLIP's end id.
const CLIP_END: i32 = 49407;

/// How captions are made. Lengths count ids, the prompt's too.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How the next ids are chosen.
    pub method: Method,
    /// Longest caption; at most the model's context.
    pub max_length: usize,
    /// The end does not come before a caption has this many ids.
    pub min_length: usize,
    /// Divides positive scores of ids that the caption has already, multiplies negative ones; 1 changes nothing.
    pub repetition_penalty: f32,
    /// The id that ends a caption.
    pub end: i32,
}

/// How the next ids are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// The best id, again and again.
    Greedy,
    /// A random id of the `count` best, by softmax of logits over `temperature`. 1 is greedy.
    TopK {
        /// Number of ids; of equal ones the lower count first.
        count: usize,
        /// Above 1 evens the odds out, below 1 sharpens them.
        temperature: f32,
    },
    /// A random id of the fewest that together have probability `mass`, by softmax of logits over `temperature`; the mass
    /// is measured at temperature 1.
    TopP {
        /// In (0, 1].
        mass: f32,
        /// Above 1 evens the odds out, below 1 sharpens them.
        temperature: f32,
    },
    /// Beam search: the best of several captions that grow side by side.
    Beams {
        /// Number of beams, 2 or more in each group.
        count: usize,
        /// Divides `count`. As in open_clip no group is kept from what another has chosen: all of them find the same
        /// captions, so only one of `count / groups` beams is computed.
        groups: usize,
        /// What is added up and compared.
        score: BeamScore,
        /// Scores are divided by length to this power; above 0 favours long captions.
        length_penalty: f32,
    },
}

/// What a beam search adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeamScore {
    /// Log-probabilities, over the number of ids without the prompt.
    LogProbability,
    /// Raw logits, over the number of ids with the prompt: open_clip 3's, for equal captions.
    RawLogit,
}

impl Settings {
    /// These settings for texts of at most `context_length` ids that end with `end`.
    pub fn within(self, context_length: usize, end: i32) -> Settings {
        Settings { max_length: self.max_length.min(context_length), end, ..self }
    }

    /// The settings called `name`, with CLIP's end id; an error lists the names there are.
    ///
    /// `ours`: four beams of log-probabilities. `openclip-3`: what `CoCa.generate` of open_clip 2 and 3 does. `openclip-4`:
    /// what version 4 does by default, up to its rule for stopping early. Captions of different presets do not compare.
    pub fn preset(name: &str) -> Result<Settings> {
        let beams = |count, groups, score| Method::Beams { count, groups, score, length_penalty: 1.0 };
        let (method, min_length) = match name {
            "ours" => (beams(4, 1, BeamScore::LogProbability), 2),
            "openclip-3" => (beams(6, 3, BeamScore::RawLogit), 5),
            "openclip-4" => (beams(6, 1, BeamScore::LogProbability), 5),
            _ => {
                let names = PRESETS.join(", ");
                return Err(Error::invalid(format!("no preset of generation is called \"{name}\"; there are {names}")));
            }
        };
        Ok(Settings { method, max_length: 30, min_length, repetition_penalty: 1.0, end: CLIP_END })
    }

    /// Captions of one image that grow side by side.
    pub fn rows(&self) -> usize {
        match self.method {
            Method::Beams { count, groups, .. } => count / groups.max(1),
            _ => 1,
        }
    }

    /// Checks every setting against a model's context and vocabulary; the error names the setting and what would be right.
    pub fn validate(&self, context_length: usize, vocabulary_size: usize) -> Result<()> {
        let positive = |value: f32| value > 0.0 && value.is_finite();
        let method = match self.method {
            Method::Greedy => None,
            Method::TopK { count, temperature } => (count == 0 || !positive(temperature)).then(|| {
                format!("top-k needs 1 or more ids and a positive temperature, got {count} and {temperature}")
            }),
            Method::TopP { mass, temperature } => {
                (!positive(mass) || mass > 1.0 || !positive(temperature)).then(|| {
                    format!("top-p needs a mass in (0, 1] and a positive temperature, got {mass} and {temperature}")
                })
            }
            Method::Beams { count, groups, length_penalty, .. } => {
                let whole = groups > 0 && count.is_multiple_of(groups) && (2..=1024).contains(&(count / groups));
                (!whole || !length_penalty.is_finite()).then(|| {
                    format!(
                        "beam search needs 2 to 1024 beams in each of its groups and a finite length penalty, got {count} \
                         beams, {groups} groups, penalty {length_penalty}"
                    )
                })
            }
        };
        let (max, min) = (self.max_length, self.min_length);
        let problem = if method.is_some() {
            method
        } else if max < 2 || max > context_length || min >= max {
            Some(format!(
                "captions of {min} to {max} ids are wanted; the context holds 2 to {context_length}, min below max"
            ))
        } else if !positive(self.repetition_penalty) {
            Some(format!("the repetition penalty is {}, it must be positive", self.repetition_penalty))
        } else if vocabulary_size < 2 || self.end < 0 || self.end as usize >= vocabulary_size {
            Some(format!("the end id is {}, the vocabulary holds {vocabulary_size} ids", self.end))
        } else {
            None
        };
        problem.map_or(Ok(()), |problem| Err(Error::invalid(problem)))
    }
}
