//! `report.html`: one page that shows what a run did, complete in itself, and `report.json` with the data behind it.

mod chart;
pub(crate) mod gallery;
pub(crate) mod html;
mod page;
mod picture;
#[cfg(test)]
mod tests;

pub use picture::Picture;

use crate::machine::Machine;
use crate::metrics::StepRecord;
use crate::{Error, Result};
use model::weights::write_atomically;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Everything that the page shows. Shares are fractions of 1. Empty lists leave their sections out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportData {
    /// Heading of the page.
    pub title: String,
    /// What was run, where and how long.
    pub facts: RunFacts,
    /// Every step, as in `metrics.jsonl`.
    pub steps: Vec<StepRecord>,
    /// What the head of a task says.
    #[serde(default)]
    pub classes: Vec<ClassRow>,
    /// Zero-shot classification, the headline set first.
    pub zero_shot: Vec<ZeroShotRow>,
    /// Retrieval in both directions.
    pub retrieval: Vec<RetrievalRow>,
    /// Scores of generated captions.
    pub caption_scores: Vec<CaptionRow>,
    /// Pictures with the captions generated for them.
    pub captions: Vec<CaptionExample>,
    /// Queries with what was found for them.
    pub queries: Vec<QueryExample>,
    /// Bytes by purpose: arenas of the plan, measured peak.
    pub memory: Vec<(String, u64)>,
    /// Time by op or span, longest first.
    pub profile: Vec<ProfileRow>,
    /// Sentences that the reader should not miss: skipped pairs, an early stop.
    pub notes: Vec<String>,
}

/// What was run, where and how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The resolved configuration as TOML.
    pub config: String,
    /// The machine.
    pub machine: Machine,
    /// What of it computed: threads and their instructions, or the name of a GPU.
    pub used: String,
    /// Storage type of activations.
    pub dtype: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Training pairs in the data.
    pub pairs: u64,
    /// Pairs that one step compares.
    pub pairs_per_step: u64,
    /// Seconds of training, over all resumes.
    pub training_seconds: f64,
    /// Seconds of evaluation at the end.
    pub evaluation_seconds: f64,
    /// Most bytes that the process held at a time; 0 if unknown.
    pub peak_memory: u64,
    /// Best rate of the machine in GFLOP/s, if measured.
    pub peak_gflops: Option<f64>,
}

/// Classification of one test set by the head of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    /// Name of the set.
    pub set: String,
    /// What is special about it, in a few words.
    pub about: String,
    /// Samples.
    pub count: usize,
    /// Those of them whose class training has; the others count as wrong.
    pub known: usize,
    /// Classes to choose from.
    pub classes: usize,
    /// Share of samples whose class comes first.
    pub top1: f64,
    /// Share of samples whose class is among the first five.
    pub top5: f64,
    /// Mean over the classes of the share of their samples whose class comes first.
    pub mean_per_class: f64,
    /// VQA's accuracy, where several annotators answered.
    pub accuracy: Option<f64>,
    /// What the best guess from the texts alone would reach, where there are texts.
    pub floor: Option<f64>,
    /// What naming the most frequent class of the training data would reach.
    pub majority: f64,
    /// What a guess would reach.
    pub chance: f64,
    /// What training saw of the set.
    pub seen: Seen,
}

/// Zero-shot classification of one test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotRow {
    /// Name of the set.
    pub set: String,
    /// What is special about it, in a few words.
    pub about: String,
    /// Pictures.
    pub count: usize,
    /// Classes to choose from.
    pub classes: usize,
    /// Share of pictures whose class comes first.
    pub top1: f64,
    /// Share of pictures whose class is among the first five.
    pub top5: f64,
    /// The same two shares of the nearest training picture by pixels, if measured.
    pub floor: Option<(f64, f64)>,
    /// What training saw of the set.
    pub seen: Seen,
}

/// What training saw of a test set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// The pairs themselves.
    Pairs,
    /// The concepts, in other styles.
    Concepts,
    /// Neither the pictures nor the names.
    Nothing,
    /// Not known: data of the user's own.
    Unknown,
}

impl Seen {
    /// All of them, in the order of the page.
    pub const ALL: [Seen; 4] = [Seen::Concepts, Seen::Nothing, Seen::Unknown, Seen::Pairs];

    /// The heading of such sets.
    fn heading(self) -> &'static str {
        match self {
            Seen::Pairs => "Pairs of the training data: how well they were learned, not how well others are",
            Seen::Concepts => "Known concepts in styles never seen in training",
            Seen::Nothing => "Fresh concepts: neither their pictures nor their names were seen in training",
            Seen::Unknown => "Data of your own, beside the training data",
        }
    }
}

/// Retrieval on one test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalRow {
    /// Name of the set.
    pub set: String,
    /// Pairs.
    pub count: usize,
    /// From a picture to its text.
    pub image_to_text: Recall,
    /// From a text to its picture.
    pub text_to_image: Recall,
    /// The same two of the nearest training picture by pixels, if measured.
    pub floor: Option<(Recall, Recall)>,
    /// What training saw of the set.
    pub seen: Seen,
}

/// Share of queries whose match is among the first 1, 5 and 10.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// First.
    pub at_1: f64,
    /// Among the first five.
    pub at_5: f64,
    /// Among the first ten.
    pub at_10: f64,
}

/// Scores of the generated captions of one test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptionRow {
    /// Name of the set.
    pub set: String,
    /// Pictures.
    pub count: usize,
    /// Share of captions equal to a true one.
    pub exact: f64,
    /// Other scores by name: BLEU-4, ROUGE-L, CIDEr-D.
    pub scores: Vec<(String, f64)>,
    /// What training saw of the set.
    pub seen: Seen,
}

/// A picture with the caption generated for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptionExample {
    /// The picture.
    pub picture: Picture,
    /// What was generated.
    pub generated: String,
    /// A true caption.
    pub truth: String,
    /// Name of the set that the picture is from.
    pub set: String,
    /// True if the generated caption counts as right.
    pub right: bool,
}

/// A query with the first results, best first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryExample {
    /// What was looked for.
    pub query: Item,
    /// What was found.
    pub hits: Vec<Hit>,
}

/// A text or a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Item {
    /// A text.
    Text(String),
    /// A picture with its true name.
    Picture(Picture, String),
}

/// One result of a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// What was found.
    pub item: Item,
    /// Cosine similarity with the query.
    pub score: f64,
    /// True if it belongs to the query.
    pub right: bool,
}

/// Time of one op or span.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileRow {
    /// Its name.
    pub name: String,
    /// Calls in a step.
    pub calls: usize,
    /// Milliseconds in a step.
    pub milliseconds: f64,
    /// Share of the step.
    pub share: f64,
    /// GFLOP/s.
    pub gflops: f64,
    /// GB/s.
    pub gbytes: f64,
    /// Percent of the roofline.
    pub roofline_percent: f64,
}

/// Writes `report.json` and `report.html` into a folder and returns the path of the page.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, data: &ReportData) -> Result<PathBuf> {
    let json = folder.join("report.json");
    let text = serde_json::to_vec(data).map_err(|error| Error::io(&json, error.into()))?;
    write_atomically(&json, |file| file.write_all(&text))?;
    let html = folder.join("report.html");
    write_atomically(&html, |file| file.write_all(page::render(data).as_bytes()))?;
    Ok(html)
}
