//! `coca eval` and `coca caption`.

use super::{Evaluator, TestSet, caption_row, captions_by};
use crate::cli::{CaptionArgs, EvalArgs, EvalTask, GenerationArgs};
use crate::config::Config;
use crate::data::emoji::{EmojiSet, Split};
use crate::data::{self, Ledger, Sample};
use crate::model_folder::ModelFolder;
use crate::report::{CaptionRow, Recall, RetrievalRow, ZeroShotRow};
use crate::{Error, Result};
use engine::{DType, Workspace};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pictures that `coca caption` captions in a pass.
const PASS: usize = 16;

/// `coca eval`: measures one task on one source and returns the table; with `--json` it is written as well.
///
/// # Errors
/// Model or data cannot be opened, or a file cannot be written.
pub fn evaluate(args: &EvalArgs) -> Result<String> {
    if args.task != EvalTask::Caption && args.generation != GenerationArgs::default() {
        return Err(Error::invalid("no captions are generated for this task: leave out how they are made"));
    }
    let folder = ModelFolder::open(&args.model, DType::F32)?;
    let mut evaluator =
        Evaluator::new(&folder.model, &folder.tokenizer, &folder.queue, &Workspace::new(), args.batch_size)?;
    let (set, names, ledger) = test_set(&evaluator, args)?;
    let written = |figures: Result<serde_json::Value>, table| written(args.json.as_deref(), figures?, &ledger, table);
    let width = evaluator.width();
    match args.task {
        EvalTask::ZeroShot => {
            let images = evaluator.image_features(&set.samples)?;
            let mut row = set.zero_shot(&images, &evaluator.text_features(&names)?, width);
            row.floor = set.pixel_floor().map(|floor| floor.zero_shot);
            written(figures(&row), zero_shot_text(&row))
        }
        EvalTask::Retrieval => {
            let images = evaluator.image_features(&set.samples)?;
            let texts: Vec<&str> = set.samples.iter().map(first_caption).collect();
            let row = set.retrieval(&images, &evaluator.text_features(&texts)?, width);
            written(figures(&row), retrieval_text(&row))
        }
        EvalTask::Caption => {
            let generated = captions_by(&args.generation, &evaluator, &set.samples)?;
            let row = caption_row(&set, &generated)?;
            written(figures(&row), caption_text(&row))
        }
    }
}

/// `coca caption`: one line an image.
///
/// # Errors
/// Model or an image cannot be read.
pub fn caption(args: &CaptionArgs) -> Result<String> {
    let folder = ModelFolder::open(&args.model, DType::F32)?;
    let batch = args.images.len().min(PASS);
    let evaluator = Evaluator::new(&folder.model, &folder.tokenizer, &folder.queue, &Workspace::new(), batch)?;
    let read = |path: &PathBuf| -> Result<Sample> {
        let image = folder.images(std::slice::from_ref(path))?;
        Ok(Sample { key: path.display().to_string(), image, captions: Vec::new() })
    };
    let samples = args.images.iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut text = String::new();
    for (sample, caption) in samples.iter().zip(captions_by(&args.generation, &evaluator, &samples)?) {
        let _ = writeln!(text, "{}\t{}", sample.key, caption.text);
    }
    Ok(text)
}

/// The set that `--data` names, its class names, and what was skipped of it.
fn test_set(evaluator: &Evaluator<'_>, args: &EvalArgs) -> Result<(TestSet, Vec<String>, Ledger)> {
    let (name, config) = (&args.data, Config::load(None, &args.sets)?.data);
    let mut ledger = Ledger::new(config.max_bad_share);
    if name == "emoji" || name.starts_with("emoji:") {
        let set = Arc::new(EmojiSet::bundled()?);
        let split = name.strip_prefix("emoji:").map_or(Ok(Split::All), Split::parse)?;
        let names = set.concepts().iter().map(|concept| concept.name.clone()).collect();
        return Ok((TestSet::emoji(evaluator, &set, split, "")?, names, ledger));
    }
    let source = data::open(name, &config)?;
    let (set, names) = TestSet::of_source(evaluator, source.as_ref(), &config, &mut ledger)?;
    Ok((set, names, ledger))
}

fn first_caption(sample: &Sample) -> &str {
    sample.captions.first().map_or("", String::as_str)
}

fn zero_shot_text(row: &ZeroShotRow) -> String {
    let floor = row.floor.map_or(String::new(), |(top1, top5)| {
        format!("\npixels alone   top-1 {:.2} %, top-5 {:.2} %", 100.0 * top1, 100.0 * top5)
    });
    format!(
        "{}: {} images, {} classes\nzero-shot      top-1 {:.2} %, top-5 {:.2} %{floor}\n",
        row.set,
        row.count,
        row.classes,
        100.0 * row.top1,
        100.0 * row.top5
    )
}

fn retrieval_text(row: &RetrievalRow) -> String {
    let line = |name: &str, recall: Recall| {
        let Recall { at_1, at_5, at_10 } = recall;
        format!("{name}  R@1 {:.2} %, R@5 {:.2} %, R@10 {:.2} %\n", 100.0 * at_1, 100.0 * at_5, 100.0 * at_10)
    };
    let (there, back) = (line("image to text", row.image_to_text), line("text to image", row.text_to_image));
    format!("{}: {} pairs\n{there}{back}", row.set, row.count)
}

fn caption_text(row: &CaptionRow) -> String {
    let mut text = format!("{}: {} images\nexact          {:.2} %\n", row.set, row.count, 100.0 * row.exact);
    for (name, value) in &row.scores {
        let _ = writeln!(text, "{name:<14} {value:.4}");
    }
    text
}

/// A row of figures as JSON.
fn figures(row: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(row).map_err(|error| Error::invalid(error.to_string()))
}

/// The table and what was skipped, both in a JSON file beside it as well if one is wanted.
fn written(json: Option<&Path>, mut figures: serde_json::Value, ledger: &Ledger, mut table: String) -> Result<String> {
    if ledger.faults() > 0 {
        let (bad, seen) = (ledger.faults(), ledger.seen());
        let _ = writeln!(table, "skipped        {bad} of {seen} samples: {}", ledger.summary());
    }
    if let Some(path) = json {
        figures["skipped"] = serde_json::json!(ledger.counts());
        model::weights::write_atomically(path, |file| write!(file, "{figures:#}"))?;
    }
    Ok(table)
}
