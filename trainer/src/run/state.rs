//! Everything that a run carries from step to step, as one checkpoint: weights, optimiser state, average, tokenizer, and
//! where the data stream stands.

use super::rates::Rates;
use super::unreached::{self, freeze_unreached};
use crate::checkpoint::{Checkpoint, Files};
use crate::config::{Config, OptimizerKind, Precision};
use crate::data::Position;
use crate::schedule::average_decay;
use crate::task::Task;
use crate::{Error, Result};
use engine::{Buffer, DType, Device, Parameter, Queue};
use kernels::optimizer::{
    Adafactor, AdafactorSettings, AdamW, AdamWSettings, Optimizer, Rule, Step, clamp, clip_factor, update_average,
};
use model::config::CocaConfig;
use model::params::decays;
use model::tokenizer::Tokenizer;
use model::{Coca, LOGIT_SCALE};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Largest logarithm of the temperature's factor, `ln 100`; the smallest is 0. As CLIP and open_clip clamp it.
const MAX_LOGIT_SCALE: f32 = 4.605_170_2;
/// Bytes written to a checkpoint at a time.
const BLOCK: usize = 1 << 22;

const ARCHITECTURE: &str = "architecture.json";
const PROGRESS: &str = "progress.json";
const TASK: &str = "task.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "weights.f32";
const AVERAGE: &str = "average.f32";

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps done, skipped ones included.
    pub step: u64,
    /// Steps whose loss or gradient was not finite.
    pub skipped: u64,
    /// Where the next batch starts.
    pub position: Position,
    /// Seconds of training so far.
    pub training_seconds: f64,
}

/// The model in training and its optimiser.
#[derive(Debug)]
pub struct State {
    /// The model, with gradients.
    pub model: Coca,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The task of its head, if it has one.
    pub task: Option<Arc<Task>>,
    /// How far it has come.
    pub progress: Progress,
    optimizer: Box<dyn Optimizer>,
    average: Option<Arc<Buffer>>,
}

impl State {
    /// The state in a checkpoint; without one a model at its start: random weights, or those in `model.init`. With a task it has
    /// a head, which starts at random.
    ///
    /// # Errors
    /// A setting is out of range, the weights in `model.init` or the checkpoint are of another model, or the tokenizer has
    /// more ids than the model.
    pub fn new(
        config: &Config,
        tokenizer: Tokenizer,
        task: Option<Task>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<State> {
        let architecture = match checkpoint {
            Some(checkpoint) => saved_architecture(config, checkpoint)?,
            None => config.architecture()?,
        };
        let (ids, rows) = (tokenizer.vocabulary_size(), architecture.text.vocabulary_size);
        if ids > rows {
            return Err(Error::invalid(format!(
                "the tokenizer has {ids} ids, the model {rows}: set model.overrides.text.vocabulary_size={ids}"
            )));
        }
        let head = task.as_ref().map(|task| task.head(&architecture));
        let mut model = Coca::with_head(architecture, head, dtype(config), true)?;
        // Of a checkpoint everything is read below.
        if checkpoint.is_none() {
            let folder = &config.model.init;
            let is_given = !folder.as_os_str().is_empty();
            if !is_given || task.is_some() {
                model.initialize(config.run.seed)?;
            }
            if is_given {
                initialize_from(&model, folder, config)?;
            }
        }
        freeze_unreached(config, task.as_ref(), &mut model)?;
        let settings = &config.optimizer;
        let rates = Rates::new(settings, &model)?;
        let rule = |entry: &Parameter| Rule {
            decay: decays(&entry.name, &entry.shape),
            learning_rate_scale: rates.of(&entry.name),
        };
        let optimizer: Box<dyn Optimizer> = match settings.kind {
            OptimizerKind::AdamW => Box::new(AdamW::new(
                AdamWSettings {
                    beta1: settings.beta1,
                    beta2: settings.beta2,
                    epsilon: settings.epsilon,
                    weight_decay: settings.weight_decay,
                },
                model.parameters(),
                rule,
            )?),
            OptimizerKind::Adafactor => Box::new(Adafactor::new(
                AdafactorSettings {
                    beta1: settings.beta1,
                    beta2: settings.beta2,
                    weight_decay: settings.weight_decay,
                    clip_threshold: 1.0,
                },
                model.parameters(),
                rule,
            )?),
        };
        let average = match config.ema.decay {
            decay if decay > 0.0 => {
                let weights = model.parameters().master();
                Some(weights.copy_on(weights.device())?)
            }
            _ => None,
        };
        let mut state =
            State { model, tokenizer, task: task.map(Arc::new), progress: Progress::default(), optimizer, average };
        if let Some(checkpoint) = checkpoint {
            state.restore(checkpoint)?;
        }
        Ok(state)
    }

    /// Moves weights, optimiser state and average to the memory of a device. Programs made before keep the old weights.
    ///
    /// # Errors
    /// The device has not so much memory.
    pub fn move_to(&mut self, device: &Device) -> Result<()> {
        self.model.parameters_mut().move_to(device)?;
        self.optimizer.move_to(device)?;
        self.average = self.average.as_ref().map(|average| average.copy_on(device)).transpose()?;
        Ok(())
    }

    /// The tokenizer that a checkpoint holds.
    ///
    /// # Errors
    /// It holds none, or a damaged one.
    pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
        Tokenizer::from_json(&String::from_utf8_lossy(&checkpoint.read(TOKENIZER)?))
    }

    /// The task that a checkpoint holds, if it is one's.
    ///
    /// # Errors
    /// What it holds is damaged.
    pub fn saved_task(checkpoint: &Checkpoint) -> Result<Option<Task>> {
        let held = checkpoint.files().any(|(name, _)| name == TASK);
        held.then(|| from_json(checkpoint, TASK)).transpose()
    }

    /// Updates the weights from the gradient, whose norm is given, and everything that follows them.
    ///
    /// # Errors
    /// The learning rate is no number.
    pub fn update(&mut self, queue: &Queue, config: &Config, learning_rate: f64, norm: f64) -> Result<()> {
        let step = Step {
            number: self.progress.step - self.progress.skipped + 1,
            learning_rate,
            gradient_factor: clip_factor(norm, config.optimizer.clip_norm),
        };
        let parameters = self.model.parameters();
        self.optimizer.step(queue, parameters, step)?;
        clamp(queue, parameters, LOGIT_SCALE, 0.0..=MAX_LOGIT_SCALE)?;
        match &self.average {
            Some(average) => {
                update_average(queue, parameters, average, average_decay(config.ema.decay, step.number - 1))
            }
            None => Ok(()),
        }
    }

    /// A sentence that names the parameters which no loss reaches, if there are any: they stay as they are.
    pub fn unreached(&self) -> Option<String> {
        unreached::describe(self.model.parameters().entries())
    }

    /// The logarithm of the temperature's factor.
    ///
    /// # Errors
    /// None in a model of this program.
    pub fn logit_scale(&self) -> Result<f64> {
        Ok(f64::from(self.model.parameters().read(LOGIT_SCALE)?[0]))
    }

    /// The average of the weights in arena order, if one is kept.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn average(&self) -> Result<Option<Vec<f32>>> {
        self.average.as_ref().map(|average| average.read(0, average.bytes() / 4)).transpose()
    }

    /// The model to evaluate, on the device of the run's: one with the averaged weights if there are any, else none (take
    /// [`State::model`]).
    ///
    /// # Errors
    /// Memory runs out.
    pub fn averaged_model(&self) -> Result<Option<Coca>> {
        let Some(average) = self.average()? else { return Ok(None) };
        let (config, head) = (self.model.config().clone(), self.model.head().copied());
        let mut model = Coca::with_head(config, head, self.model.dtype(), false)?;
        for entry in self.model.parameters().entries() {
            let values = &average[entry.offset..entry.offset + entry.shape.elements()];
            model.parameters().write(&entry.name, values)?;
        }
        model.parameters_mut().move_to(self.model.parameters().master().device())?;
        Ok(Some(model))
    }

    /// Bytes of the optimiser's state and of the average.
    pub fn optimizer_bytes(&self) -> usize {
        let state = self.optimizer.state();
        state.iter().map(|(_, buffer)| buffer).chain(&self.average.as_ref()).map(|buffer| buffer.bytes()).sum()
    }

    /// Every arena that a checkpoint holds, by file name.
    fn arenas(&self) -> Vec<(String, &Arc<Buffer>)> {
        let mut arenas = vec![(WEIGHTS.to_owned(), self.model.parameters().master())];
        arenas.extend(self.optimizer.state().into_iter().map(|(name, buffer)| (format!("optimizer.{name}"), buffer)));
        arenas.extend(self.average.as_ref().map(|average| (AVERAGE.to_owned(), average)));
        arenas
    }

    /// Adds everything to a checkpoint.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, files: &mut Files) -> Result<()> {
        for (name, buffer) in self.arenas() {
            files.add(&name, |out| {
                for offset in (0..buffer.bytes()).step_by(BLOCK) {
                    let count = BLOCK.min(buffer.bytes() - offset);
                    out.write_all(&buffer.read::<u8>(offset, count).map_err(std::io::Error::other)?)?;
                }
                Ok(())
            })?;
        }
        files.add_bytes(ARCHITECTURE, &to_json(self.model.config())?)?;
        if let Some(task) = &self.task {
            files.add_bytes(TASK, &to_json(task.as_ref())?)?;
        }
        files.add_bytes(TOKENIZER, self.tokenizer.to_json().as_bytes())?;
        files.add_bytes(PROGRESS, &to_json(&self.progress)?)
    }

    /// Takes everything from a checkpoint.
    ///
    /// # Errors
    /// A file is missing, or its size is that of another model or optimiser.
    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        for (name, buffer) in self.arenas() {
            if name == AVERAGE && !checkpoint.files().any(|(file, _)| file == AVERAGE) {
                return Err(Error::invalid(format!(
                    "{}: it has no average of the weights, which begins with a run: set ema.decay=0, or start anew with \
                     --resume none",
                    checkpoint.folder().display()
                )));
            }
            let bytes = checkpoint.read(&name)?;
            if bytes.len() != buffer.bytes() {
                let (found, needed) = (bytes.len(), buffer.bytes());
                return Err(other(checkpoint, &format!("{name} has {found} bytes and this run needs {needed}")));
            }
            buffer.write(0, &bytes)?;
        }
        let parameters = self.model.parameters();
        for entry in parameters.entries() {
            parameters.write(&entry.name, &parameters.read(&entry.name)?)?; // and the bf16 copy
        }
        self.progress = from_json(checkpoint, PROGRESS)?;
        Ok(())
    }
}

/// The architecture of a checkpoint, which must be the configuration's. The checkpoint's own word is enough where the
/// folder that the run once started from is gone.
fn saved_architecture(config: &Config, checkpoint: &Checkpoint) -> Result<CocaConfig> {
    if !checkpoint.files().any(|(name, _)| name == ARCHITECTURE) {
        return config.architecture(); // written before checkpoints had the file
    }
    let saved: CocaConfig = from_json(checkpoint, ARCHITECTURE)?;
    let preset = &config.model.preset;
    if config.model.init == Path::new(preset) && !Path::new(preset).exists() {
        return Ok(saved);
    }
    match differences(&saved, &config.architecture()?)? {
        none if none.is_empty() => Ok(saved),
        some => Err(other(checkpoint, &joined(&some))),
    }
}

fn other(checkpoint: &Checkpoint, what: &str) -> Error {
    Error::invalid(format!(
        "{}: {what}: it is of another model or optimiser; choose another folder with --out, or start anew with --resume none",
        checkpoint.folder().display()
    ))
}

/// What `model.overrides` may change of weights to start from: position tables are interpolated, the rest is no part of
/// the weights.
const FREE_TO_CHANGE: [&str; 7] = [
    "vision.image_size",
    "text.context_length",
    "text.pad_id",
    "text.cls_mask",
    "quick_gelu",
    "init_logit_scale",
    "image.",
];

/// Loads the weights of a folder, which must be of the same architecture but for what `model.overrides` may change.
fn initialize_from(model: &Coca, folder: &Path, config: &Config) -> Result<()> {
    let (stored, weights) = model::weights::load_folder(folder)?;
    let found = config.with_overrides(&stored)?;
    let fixed = |Difference { name, .. }: &&Difference| !FREE_TO_CHANGE.iter().any(|free| name.starts_with(free));
    if let Some(Difference { name, left, right }) = differences(&stored, &found)?.iter().find(fixed) {
        return Err(Error::invalid(format!(
            "model.overrides: {name} is {right}, the weights in {} have {left}, which cannot be changed: leave it out, or \
             leave model.init out to start from random weights",
            folder.display()
        )));
    }
    // The temperature comes with the weights, so its start does not matter; nor does a tokenizer that is not kept.
    let CocaConfig { init_logit_scale, tokenizer, .. } = model.config().clone();
    let found = CocaConfig { init_logit_scale, tokenizer, ..found };
    let differences = differences(&found, model.config())?;
    if !differences.is_empty() {
        return Err(Error::invalid(format!(
            "model.init: {} has {} as in model.preset {}; set model.preset to that folder",
            folder.display(),
            joined(&differences),
            config.model.preset
        )));
    }
    model.load(&weights)
}

/// A key that two architectures have different values for.
struct Difference {
    name: String,
    left: Value,
    right: Value,
}

/// `name left instead of right, …`.
fn joined(differences: &[Difference]) -> String {
    let text = |Difference { name, left, right }: &Difference| format!("{name} {left} instead of {right}");
    differences.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Where two architectures differ.
fn differences(left: &CocaConfig, right: &CocaConfig) -> Result<Vec<Difference>> {
    fn compare(path: &str, left: &Value, right: &Value, found: &mut Vec<Difference>) {
        match (left, right) {
            (Value::Object(keys), Value::Object(others)) => {
                let names: BTreeSet<&String> = keys.keys().chain(others.keys()).collect();
                for name in names {
                    let at = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                    compare(&format!("{path}.{name}"), &at(keys), &at(others), found);
                }
            }
            _ if left == right => {}
            _ => {
                let name = path.trim_start_matches('.').to_owned();
                found.push(Difference { name, left: left.clone(), right: right.clone() });
            }
        }
    }
    let value = |config| serde_json::to_value(config).map_err(|error| Error::invalid(error.to_string()));
    let mut found = Vec::new();
    compare("", &value(left)?, &value(right)?, &mut found);
    Ok(found)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::invalid(error.to_string()))
}

fn from_json<T: serde::de::DeserializeOwned>(checkpoint: &Checkpoint, name: &str) -> Result<T> {
    serde_json::from_slice(&checkpoint.read(name)?)
        .map_err(|error| Error::invalid(format!("{}: {name}: {error}", checkpoint.folder().display())))
}

/// The storage type of activations.
pub fn dtype(config: &Config) -> DType {
    match config.compute.dtype {
        Precision::F32 => DType::F32,
        Precision::BF16 => DType::BF16,
    }
}

#[cfg(test)]
mod tests;
