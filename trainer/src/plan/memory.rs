//! The memory of a run, item by item, and which of its phases holds most.

use super::data::DataView;
use super::pass::Pass;
use crate::Result;
use crate::config::{Config, OptimizerKind};
use crate::data::emoji::{EmojiSet, SIDE, Split, floor_bytes};
use crate::data::{self, source::samples};
use crate::evaluate::EMOJI_SETS;
use crate::machine::resident_memory;
use crate::run::TRAINING_PAIRS;
use crate::task::Task;
use engine::{Parameter, Program, Workspace};
use kernels::matmul::panel_bytes;
use kernels::optimizer::{Adafactor, AdafactorSettings, AdamW, AdamWSettings, Optimizer, Rule};
use model::Coca;
use model::encoder::{ImageEncoder, TextEncoder};
use model::generate::{Generator, Settings};
use model::task::{TaskLogits, TaskPlan};

/// Bytes of a pixel of an image in memory.
pub(super) const PIXEL: usize = 3;

/// What was freed stays with the process up to about this size, for the next phase of the run: glibc gives larger blocks
/// back at once.
const KEPT: u64 = 32 << 20;

/// Bytes of a training run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// The program, its data and tokenizer, as this process holds them.
    pub program: u64,
    /// The f32 weights.
    pub master: u64,
    /// The bf16 copy of the weights; 0 when training in f32.
    pub bf16_copy: u64,
    /// The f32 gradients.
    pub gradients: u64,
    /// What the optimiser keeps from step to step.
    pub optimizer: u64,
    /// The exponential moving average of the weights; 0 without one.
    pub average: u64,
    /// The activations of one forward and backward pass.
    pub activations: u64,
    /// The most activations alive at one op of that pass: no plan without recomputation needs less.
    pub lower_bound: u64,
    /// The arena of activations: of that pass, or of one that only encodes or generates if that takes more.
    pub arena: u64,
    /// The inputs of the programs that stay while training: of the pass and, with accumulation, of the encoders.
    pub inputs: u64,
    /// With accumulation: features of all pairs of a step and their gradients, each once in a program and once outside.
    pub features: u64,
    /// Operands of matrix products, packed.
    pub panels: u64,
    /// The images of the batches that are prepared ahead or wait for their pass.
    pub batches: u64,
    /// A copy of the weights while they are saved.
    pub saving: u64,
    /// What evaluation holds: the averaged model, sets, inputs of its programs.
    pub evaluation: u64,
    /// Of that, keys, values and logits of the captions that are generated.
    pub captions: u64,
}

impl Memory {
    /// The phase of the run that holds most, and what is held then.
    pub fn peak(&self) -> (&'static str, u64) {
        let weights = self.master + self.bf16_copy + self.gradients + self.optimizer + self.average;
        let always = self.program + weights + self.arena + self.inputs + self.features + self.panels;
        let kept = |bytes: u64| bytes.min(KEPT);
        let phases = [
            ("training", self.batches),
            ("saving", kept(self.batches) + self.saving),
            ("evaluation", kept(self.batches) + kept(self.saving) + self.evaluation),
        ];
        let [first, rest @ ..] = phases;
        let (phase, more) = rest.into_iter().fold(first, |most, phase| if phase.1 > most.1 { phase } else { most });
        (phase, always + more)
    }

    /// What lies in the memory of a device that the run is on. Inputs lie there twice, as they land beside the kernels that
    /// still read those of the step before; with an average, evaluation has the averaged model beside the other.
    pub fn on_device(&self) -> u64 {
        let averaged = if self.average > 0 && self.evaluation > 0 { self.master + self.bf16_copy } else { 0 };
        let weights = self.master + self.bf16_copy + self.gradients + self.optimizer + self.average + averaged;
        weights + self.arena + 2 * self.inputs + self.features
    }
}

/// What does not depend on the batch of training.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    /// See [`Memory::program`].
    pub program: u64,
    optimizer: u64,
    /// The programs of the evaluation and what it holds; none if there is none.
    evaluation: Option<(Programs, Held)>,
}

/// What the evaluation of a run holds besides the averaged model.
#[derive(Clone, Copy, Debug)]
struct Held {
    all: u64,
    /// Of that, for captions.
    captions: u64,
}

impl Fixed {
    /// Records the programs of the evaluation.
    pub fn new(config: &Config, model: &Coca, task: Option<&Task>, data: &DataView) -> Result<Fixed> {
        let optimizer = optimizer_bytes(config.optimizer.kind, model)?;
        let batch = config.evaluation.batch_size;
        let evaluates = config.logging.report || config.evaluation.every > 0;
        let encode = || match task {
            None => encoders(model, batch),
            Some(task) => classifier(model, task, batch),
        };
        let encoders = evaluates.then(encode).transpose()?;
        let generates = task.is_none() && config.logging.report && config.evaluation.captions > 0;
        let generation = generates.then(|| generation(model, batch)).transpose()?;
        // Here the process holds all that a run reads and the code that it comes through, but none of what is counted below.
        let program = resident_memory();
        let Some(encoders) = encoders else { return Ok(Fixed { program, optimizer, evaluation: None }) };
        let (samples, sets) = match task {
            None => sets(config, model, data)?,
            // A set is read a batch at a time.
            Some(task) => (batch, batch * task.images * image_bytes(model)),
        };
        // The sets, and once more the images of a pass.
        let encoding = encoders.inputs + (sets + batch.min(samples) * image_bytes(model)) as u64;
        let Some((programs, logits)) = generation else {
            return Ok(Fixed { program, optimizer, evaluation: Some((encoders, Held { all: encoding, captions: 0 })) });
        };
        // Of the caches of a pass only the rows of its images are touched.
        let captions = programs.inputs * samples.min(batch) as u64 / batch as u64 + logits;
        let held = Held { all: encoding + captions, captions };
        Ok(Fixed { program, optimizer, evaluation: Some((encoders.beside(programs), held)) })
    }

    /// The memory of a run with this pass.
    pub fn memory(&self, config: &Config, model: &Coca, step: &Pass) -> Result<Memory> {
        let parameters = model.parameters();
        let (accumulation, width) = (config.batch.accumulation.max(1), model.config().embed_dim);
        let (mut training, mut features) = (Programs::of(model, [step.program()]), 0);
        let activations = step.program().plan();
        if step.is_given_features() {
            training = training.beside(encoders(model, step.batch())?);
            features = (8 * 4 * step.batch() * accumulation * width) as u64;
        }
        let waiting = ((config.data.prefetch + accumulation) * step.images() * image_bytes(model)) as u64;
        let master = parameters.master().bytes() as u64;
        let average = if config.ema.decay > 0.0 { master } else { 0 };
        let bf16_copy = parameters.bf16().map_or(0, |arena| arena.bytes() as u64);
        let (evaluation, captions) = match self.evaluation {
            None => (0, 0),
            // The averaged model is put together from a copy of the average before anything is evaluated.
            Some((_, held)) => {
                let averaged = if average > 0 { master + bf16_copy } else { 0 };
                let beside_training = if config.evaluation.every > 0 { waiting } else { 0 };
                (averaged + average.max(held.all) + beside_training, held.captions)
            }
        };
        let programs = self.evaluation.map_or(training, |(evaluating, _)| training.beside(evaluating));
        let matrix = parameters.entries().iter().map(|entry| entry.shape.elements()).max().unwrap_or(0);
        Ok(Memory {
            program: self.program,
            master,
            bf16_copy,
            gradients: parameters.gradient().map_or(0, |arena| arena.bytes() as u64),
            optimizer: self.optimizer,
            average,
            activations: activations.peak_bytes as u64,
            lower_bound: activations.lower_bound_bytes as u64,
            arena: programs.activations,
            inputs: training.inputs,
            features,
            panels: panel_bytes(programs.largest.max(matrix)) as u64,
            batches: waiting,
            saving: master,
            evaluation,
            captions,
        })
    }
}

/// Bytes of an image of the model.
pub(super) fn image_bytes(model: &Coca) -> usize {
    model.config().vision.image_size.pow(2) * PIXEL
}

/// Programs that run one after the other.
#[derive(Clone, Copy, Debug)]
struct Programs {
    /// Bytes of the arena that they share.
    activations: u64,
    /// Bytes of the inputs of all.
    inputs: u64,
    /// Elements of the largest tensor.
    largest: usize,
}

impl Programs {
    fn of<'a>(model: &Coca, programs: impl IntoIterator<Item = &'a Program>) -> Programs {
        let none = Programs { activations: 0, inputs: 0, largest: 0 };
        programs.into_iter().map(Program::plan).fold(none, |sum, plan| {
            let largest = plan.top.iter().map(|tensor| tensor.bytes / model.dtype().size()).max().unwrap_or(0);
            let inputs = plan.input_bytes as u64;
            sum.beside(Programs { activations: plan.peak_bytes as u64, inputs, largest })
        })
    }

    fn beside(self, other: Programs) -> Programs {
        Programs {
            activations: self.activations.max(other.activations),
            inputs: self.inputs + other.inputs,
            largest: self.largest.max(other.largest),
        }
    }
}

/// The programs that encode `batch` images and as many texts.
fn encoders(model: &Coca, batch: usize) -> Result<Programs> {
    let workspace = Workspace::new();
    let (images, texts) = (ImageEncoder::new(model, batch, &workspace)?, TextEncoder::new(model, batch, &workspace)?);
    Ok(Programs::of(model, [images.program(), texts.program()]))
}

/// The program that classifies `batch` samples.
fn classifier(model: &Coca, task: &Task, batch: usize) -> Result<Programs> {
    let plan = TaskPlan::of_logits(model, task.reads(), batch, task.images);
    let logits = TaskLogits::new(model, plan, &Workspace::new())?;
    Ok(Programs::of(model, [logits.program()]))
}

/// The programs that generate the captions of `batch` images by default, and bytes of logits outside of them.
fn generation(model: &Coca, batch: usize) -> Result<(Programs, u64)> {
    let text = &model.config().text;
    let settings = Settings::preset("ours")?.within(text.context_length, 0);
    let generator = Generator::new(model, batch, &settings, &Workspace::new())?;
    // The logits of a step are read out while the search holds those of the step before.
    let logits = 2 * batch * settings.rows() * text.vocabulary_size * size_of::<f32>();
    Ok((Programs::of(model, generator.programs()), logits as u64))
}

/// Number of samples of the largest set that [`Run::finish`](crate::run::Run::finish) evaluates, and bytes of all sets and
/// of what they are compared with.
fn sets(config: &Config, model: &Coca, data: &DataView) -> Result<(usize, usize)> {
    let image = image_bytes(model);
    // Where one cannot be opened, a run says so.
    let reading = config.evaluation_data();
    let count = |name| data::open(name, &reading).map_or(0, |source| samples(source.as_ref(), usize::MAX));
    let held_out: usize = config.evaluation.data.0.iter().map(|name| count(name)).sum();
    let all_of_emoji = format!("emoji:{}", Split::Train.name());
    if data.source().is_none_or(|source| source.name() != all_of_emoji) {
        let taken = data.source().map_or(TRAINING_PAIRS, |source| samples(source, TRAINING_PAIRS));
        // Pairs of the training data are held as a batch and as samples.
        return Ok((taken.max(held_out), (2 * taken + held_out) * image));
    }
    // The bundle once more, its splits as the model sees them, and what pixels alone are compared with.
    let set = EmojiSet::bundled()?;
    let counts = EMOJI_SETS.map(|(split, _)| set.split(split).len());
    let floor = EMOJI_SETS.map(|(split, _)| floor_bytes(&set, split)).into_iter().max().unwrap_or(0);
    let largest = counts.into_iter().max().unwrap_or(0).max(held_out);
    let held = counts.iter().sum::<usize>() + held_out;
    Ok((largest, set.drawings().len() * SIDE * SIDE + held * image + floor))
}

/// Bytes of an optimiser's state, which depends on the shapes alone.
fn optimizer_bytes(kind: OptimizerKind, model: &Coca) -> Result<u64> {
    let rule = |_: &Parameter| Rule { decay: false, learning_rate_scale: 1.0 };
    let optimizer: Box<dyn Optimizer> = match kind {
        OptimizerKind::AdamW => {
            let settings = AdamWSettings { beta1: 0.0, beta2: 0.0, epsilon: 0.0, weight_decay: 0.0 };
            Box::new(AdamW::new(settings, model.parameters(), rule)?)
        }
        OptimizerKind::Adafactor => {
            let settings = AdafactorSettings { beta1: 0.0, beta2: 0.0, weight_decay: 0.0, clip_threshold: 0.0 };
            Box::new(Adafactor::new(settings, model.parameters(), rule)?)
        }
    };
    Ok(optimizer.state().iter().map(|(_, arena)| arena.bytes() as u64).sum())
}
