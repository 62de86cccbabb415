//! `coca eval` and `coca caption`.

use super::{Evaluator, TestSet, caption_row, captions};
use crate::cli::{CaptionArgs, EvalArgs, EvalTask};
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
use std::path::Path;
use std::sync::Arc;

/// `coca eval`: measures one task on one source and returns the table; with `--json` it is written as well.
///
/// # Errors
/// Model or data cannot be opened, or a file cannot be written.
pub fn evaluate(args: &EvalArgs) -> Result<String> {
    let folder = ModelFolder::open(&args.model, DType::F32)?;
    let mut evaluator =
        Evaluator::new(&folder.model, &folder.tokenizer, &folder.queue, &Workspace::new(), args.batch_size)?;
    let (set, names) = test_set(&evaluator, &args.data)?;
    let width = evaluator.width();
    match args.task {
        EvalTask::ZeroShot => {
            let images = evaluator.image_features(&set.samples)?;
            let mut row = set.zero_shot(&images, &evaluator.text_features(&names)?, width);
            if set.split.is_some() {
                row.floor = set.pixel_floor(&EmojiSet::bundled()?);
            }
            written(args.json.as_deref(), &row, zero_shot_text(&row))
        }
        EvalTask::Retrieval => {
            let images = evaluator.image_features(&set.samples)?;
            let texts: Vec<&str> = set.samples.iter().map(first_caption).collect();
            let row = set.retrieval(&images, &evaluator.text_features(&texts)?, width);
            written(args.json.as_deref(), &row, retrieval_text(&row))
        }
        EvalTask::Caption => {
            let generated = captions(&evaluator, &set.samples)?;
            let row = caption_row(&set.name, &set.samples, &generated)?;
            written(args.json.as_deref(), &row, caption_text(&row))
        }
    }
}

/// `coca caption`: one line an image.
///
/// # Errors
/// Model or an image cannot be read.
pub fn caption(args: &CaptionArgs) -> Result<String> {
    let folder = ModelFolder::open(&args.model, DType::F32)?;
    let evaluator = Evaluator::new(&folder.model, &folder.tokenizer, &folder.queue, &Workspace::new(), 1)?;
    let mut text = String::new();
    for path in &args.images {
        let image = folder.images(std::slice::from_ref(path))?;
        let sample = Sample { key: path.display().to_string(), image, captions: Vec::new() };
        let generated = captions(&evaluator, std::slice::from_ref(&sample))?;
        for caption in generated {
            let _ = writeln!(text, "{}\t{}", sample.key, caption.text);
        }
    }
    Ok(text)
}

/// The set that `--data` names, and its class names.
fn test_set(evaluator: &Evaluator<'_>, name: &str) -> Result<(TestSet, Vec<String>)> {
    if name == "emoji" || name.starts_with("emoji:") {
        let set = Arc::new(EmojiSet::bundled()?);
        let split = name.strip_prefix("emoji:").map_or(Ok(Split::All), Split::parse)?;
        let names = set.concepts().iter().map(|concept| concept.name.clone()).collect();
        return Ok((TestSet::emoji(evaluator, &set, split, "")?, names));
    }
    let config = Config::default();
    let source = data::open(name, &config.data)?;
    let mut ledger = Ledger::new(config.data.max_bad_share);
    let found = TestSet::of_source(evaluator, source.as_ref(), &config.data, &mut ledger)?;
    ledger.judge()?;
    Ok(found)
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

/// The table, with the figures in a JSON file beside it if one is wanted.
fn written(json: Option<&Path>, row: &impl Serialize, table: String) -> Result<String> {
    if let Some(path) = json {
        let figures = serde_json::to_vec_pretty(row).map_err(|error| Error::invalid(error.to_string()))?;
        model::weights::write_atomically(path, |file| file.write_all(&figures))?;
    }
    Ok(table)
}
