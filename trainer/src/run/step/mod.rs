//! The gradient of one optimiser step, of pairs under the two losses or of a task's samples. Plans are made when a batch first
//! needs them and grow with the texts.

mod pairs;
mod samples;

pub use pairs::{PairStepper, feature_flops};
pub use samples::SampleStepper;

use crate::config::{self, CheckKind, Config};
use crate::data::Batch;
use crate::task::Task;
use crate::{Error, Result};
use engine::{Check, Checkpointing, Device, Observer, Program, Queue, Workspace};
use model::Coca;
use model::config::TextConfig;
use model::packing::PackedText;
use model::train::TrainStep;

/// Observers of a run, innermost last.
pub type Observers<'a, 'b> = &'a mut [&'b mut (dyn Observer + Send)];

/// Losses of a step, unweighted; what a step has not is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Over all pairs, mean of both directions.
    pub contrastive: f32,
    /// Mean over all tokens that count.
    pub caption: f32,
    /// Mean over all samples whose class counts.
    pub class: f32,
}

impl Losses {
    /// What is minimised: the sum of the losses times their weights.
    pub fn total(&self, weights: &config::Loss) -> f64 {
        let Losses { contrastive, caption, class } = *self;
        weights.contrastive_weight * f64::from(contrastive)
            + weights.caption_weight * f64::from(caption)
            + f64::from(class)
    }
}

/// What the passes of one step gave; the gradient lies in the model's arena.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gradient {
    /// The losses.
    pub losses: Losses,
    /// Floating-point operations.
    pub flops: f64,
    /// Token ids that are not padding.
    pub tokens: usize,
}

/// Plans and runs the passes of a step.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a run has one")]
pub enum Stepper {
    /// Pretraining.
    Pairs(PairStepper),
    /// A task.
    Samples(SampleStepper),
}

impl Stepper {
    /// A stepper for the batch, losses and checks of a configuration, and its task if it has one.
    ///
    /// # Errors
    /// No loss has a weight, or a weight is negative or no number.
    pub fn new(config: &Config, task: Option<&Task>) -> Result<Stepper> {
        Ok(match task {
            None => Stepper::Pairs(PairStepper::new(config)?),
            Some(task) => Stepper::Samples(SampleStepper::new(config, task)?),
        })
    }

    /// The same stepper with no plans, whose programs run on a device.
    pub fn on(self, device: &Device) -> Stepper {
        match self {
            Stepper::Pairs(stepper) => Stepper::Pairs(stepper.on(device)),
            Stepper::Samples(stepper) => Stepper::Samples(stepper.on(device)),
        }
    }

    /// The activation arena, for other programs that run between steps.
    pub fn workspace(&self) -> &Workspace {
        match self {
            Stepper::Pairs(stepper) => stepper.workspace(),
            Stepper::Samples(stepper) => stepper.workspace(),
        }
    }

    /// The program of a pass, once there is one.
    pub fn program(&self) -> Option<&Program> {
        match self {
            Stepper::Pairs(stepper) => stepper.pass().map(TrainStep::program),
            Stepper::Samples(stepper) => stepper.program(),
        }
    }

    /// Parameters that get no gradient in a step, by name.
    ///
    /// # Errors
    /// The batch is too large for an op, or the model has not the head of the task.
    pub fn unreached(&self, model: &Coca) -> Result<Vec<String>> {
        match self {
            Stepper::Pairs(stepper) => stepper.unreached(model),
            Stepper::Samples(stepper) => stepper.unreached(model),
        }
    }

    /// Calls `each` with the programs of a step of the longest texts there can be, planned for the processor, where the model
    /// lies.
    ///
    /// # Errors
    /// As [`Stepper::unreached`], and those of `each`.
    pub fn longest(&self, model: &Coca, each: &mut dyn FnMut(&Program) -> Result<()>) -> Result<()> {
        match self {
            Stepper::Pairs(stepper) => stepper.longest_programs(model, each),
            Stepper::Samples(stepper) => each(stepper.longest(model)?.program()),
        }
    }

    /// Forward and backward over the batches of one step.
    ///
    /// # Errors
    /// An op refuses, a check fails, or memory runs out.
    pub fn run(&mut self, queue: &Queue, model: &Coca, batches: &[Batch], observers: Observers) -> Result<Gradient> {
        match self {
            Stepper::Pairs(stepper) => stepper.run(queue, model, batches, observers),
            Stepper::Samples(stepper) => stepper.run(queue, model, batches, observers),
        }
    }
}

/// Rows of the text tower and of the decoder to plan a pass of `batch` texts for that need these: room for longer texts,
/// but not beyond the longest there can be.
pub fn with_room(needed: (usize, usize), batch: usize, text: &TextConfig) -> (usize, usize) {
    let room = |needed: usize, most: usize| (needed + needed / 8).next_multiple_of(64).min(most);
    let most = PackedText::capacity(batch, text);
    (room(needed.0, most.0), room(needed.1, most.1))
}

/// Rows of the text tower and of the decoder for a plan that has had `planned`, so that each of these batches of texts fits.
fn grown<'a>(
    planned: (usize, usize),
    batches: impl Iterator<Item = &'a PackedText>,
    batch: usize,
    text: &TextConfig,
) -> (usize, usize) {
    let largest = |most: (usize, usize), rows: (usize, usize)| (most.0.max(rows.0), most.1.max(rows.1));
    let needed = batches.map(|texts| (texts.rows(), texts.decoder_rows.len())).fold((0, 0), largest);
    largest(planned, with_room(needed, batch, text))
}

/// The check that a configuration asks for.
pub fn check(config: &Config) -> Result<Option<Check>> {
    match config.compute.check {
        CheckKind::None => Ok(None),
        kind => Check::parse(kind.name()).map(Some),
    }
}

fn guard_bytes(config: &Config) -> Result<usize> {
    Ok(check(config)?.map_or(0, Check::guard_bytes))
}

fn checkpointing(config: &Config) -> Checkpointing {
    match config.compute.checkpointing {
        config::Checkpointing::None => Checkpointing::None,
        config::Checkpointing::Cheap => Checkpointing::Cheap,
        config::Checkpointing::Block => Checkpointing::Block,
    }
}

/// A key of `[loss]` as the programs take it.
fn weight(name: &str, value: f64) -> Result<f32> {
    match value {
        value if value.is_finite() && value >= 0.0 => Ok(value as f32),
        value => Err(Error::invalid(format!("loss.{name} must be a number of at least 0, not {value}"))),
    }
}

/// Tokens that the caption loss counts.
fn counted(texts: &PackedText, text: &TextConfig) -> usize {
    texts.labels.iter().filter(|&&label| label != text.pad_id as i32).count()
}

/// The share of each pass in the mean over what all of them count.
fn shares(counts: impl Iterator<Item = usize>) -> Vec<f64> {
    let counts: Vec<usize> = counts.collect();
    let total = counts.iter().sum::<usize>().max(1) as f64;
    match counts.len() {
        1 => vec![1.0],
        _ => counts.into_iter().map(|count| count as f64 / total).collect(),
    }
}
