//! `coca eval` and `coca caption`.

use super::eval_set::EvalSet;
use super::{
    Evaluator, captions_by, measure_captions, measure_classes, measure_retrieval, measure_zero_shot, read_templates,
};
use crate::cli::{CaptionArgs, EvalArgs, EvalTask};
use crate::data::Sample;
use crate::model_folder::ModelFolder;
use crate::{Error, Result};
use engine::{DType, Workspace};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Pictures that `coca caption` captions in a pass.
const PASS: usize = 16;

/// What was measured: the table, and a value for each of its rows.
#[derive(Debug)]
pub struct Figures {
    text: String,
    sets: serde_json::Value,
}

impl Figures {
    /// Figures with their table.
    pub(super) fn new(text: String, sets: &[impl Serialize]) -> Result<Figures> {
        let sets = serde_json::to_value(sets).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Figures { text, sets })
    }
}

/// `coca eval`: measures one task on each of the sets and returns the table; with `--json` the figures are written as well.
///
/// # Errors
/// Model or data cannot be opened, an argument is of another task, or a file cannot be written.
pub fn evaluate(args: &EvalArgs) -> Result<String> {
    args.check()?;
    let templates = match &args.templates {
        Some(path) => read_templates(path)?,
        None => vec!["{}".to_owned()],
    };
    let mut sets = EvalSet::open_all(args)?;
    let Figures { mut text, sets: figures } = match args.task {
        EvalTask::Classify => measure_classes(args, &mut sets)?,
        task => {
            let folder = ModelFolder::open(&args.model, DType::F32)?;
            let ModelFolder { model, tokenizer, queue } = &folder;
            let mut evaluator = Evaluator::new(model, tokenizer, queue, &Workspace::new(), args.batch_size)?;
            match task {
                EvalTask::ZeroShot => measure_zero_shot(&templates, &args.class_subsets()?, &mut evaluator, &mut sets)?,
                EvalTask::Retrieval => {
                    let most = args.captions_per_image.map_or(usize::MAX, NonZeroUsize::get);
                    measure_retrieval(most, &mut evaluator, &mut sets)?
                }
                _ => measure_captions(&args.generation, &evaluator, &mut sets)?,
            }
        }
    };
    text.extend(sets.iter().map(EvalSet::skipped_text));
    if let Some(path) = &args.json {
        let figures = serde_json::json!({ "task": args.task.name(), "sets": figures });
        model::weights::write_atomically(path, |file| write!(file, "{figures:#}"))?;
    }
    Ok(text)
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
