//! `coca plan`: what a training step costs in memory and work, from recorded programs that are never run. The arenas that
//! they name are reserved address space; no page of them is touched.
//!
//! Text rows are planned at capacity, as if every caption were as long as the context: an upper bound. A run plans for the
//! captions that it meets; see [`plan_bytes`] for its own figures.

use crate::config::{CheckKind, Checkpointing, Config, OptimizerKind, Precision};
use crate::machine::{Machine, bytes};
use crate::run::feature_flops;
use crate::{Error, Result};
use engine::{Compile, DType, Meta, Parameter, Program, Tape, Workspace};
use kernels::optimizer::{Adafactor, AdafactorSettings, AdamW, AdamWSettings, Optimizer, Rule};
use model::Coca;
use model::config::TextConfig;
use model::network::TextInputs;
use model::packing::PackedText;
use model::train::{Contrast, StepPlan, TrainStep};
use std::fmt::Write;

/// The search for the largest batch looks no further.
const MOST_BATCH: usize = 1 << 15;
/// Bytes of a pixel of an image in memory.
const PIXEL: usize = 3;

/// Bytes of every arena of a training run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanBytes {
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
    pub workspace: u64,
    /// The most activations alive at one op of that pass: no plan without recomputation needs less.
    pub workspace_lower_bound: u64,
    /// The activations of a pass that only encodes, the largest of evaluation's and accumulation's; they lie in the same
    /// arena.
    pub encoding: u64,
    /// The inputs of the pass.
    pub inputs: u64,
    /// With accumulation: features of all pairs of a step and their gradients, each once in a program and once outside.
    pub features: u64,
    /// The images of the batches that are prepared ahead or wait for their pass.
    pub batches: u64,
}

impl PlanBytes {
    /// All of it at its peak. Not counted: the program itself, its threads, what the data's source holds, and a few rows of
    /// Adafactor's scratch.
    pub fn total(&self) -> u64 {
        let weights = self.master + self.bf16_copy + self.gradients + self.optimizer + self.average;
        weights + self.workspace.max(self.encoding) + self.inputs + self.features + self.batches
    }
}

/// Bytes of a run of this configuration with `batch` pairs in a pass and texts of full length.
///
/// # Errors
/// The architecture is wrong, or the batch is empty or too large for an op.
pub fn peak_bytes(config: &Config, batch: usize) -> Result<PlanBytes> {
    let planner = Planner::new(config)?;
    planner.bytes(&planner.step(planner.at_capacity(batch))?)
}

/// As [`peak_bytes`], with the rows that a run has really planned for: [`TrainStep::plan`] of its step.
///
/// # Errors
/// As [`peak_bytes`].
pub fn plan_bytes(config: &Config, plan: StepPlan) -> Result<PlanBytes> {
    let planner = Planner::new(config)?;
    planner.bytes(&planner.step(plan)?)
}

/// The text of `coca plan`: parameters, work of a step, bytes of every arena, the largest tensors, and the largest batch
/// for `memory` bytes (none: what this machine has available).
///
/// # Errors
/// As [`peak_bytes`], or the machine does not say how much memory is available.
pub fn report(config: &Config, memory: Option<u64>) -> Result<String> {
    let memory = match memory.unwrap_or_else(|| Machine::detect().memory_available) {
        0 => return Err(Error::invalid("this machine does not say how much memory is available: give --memory")),
        memory => memory,
    };
    let planner = Planner::new(config)?;
    let step = planner.step(planner.at_capacity(config.batch.size))?;
    let found = planner.bytes(&step)?;
    let StepPlan { batch, text_rows, decoder_rows, .. } = step.plan();
    let (size, accumulation) = (config.batch.size, config.batch.accumulation);

    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{}", format!("{name:<20}{value}").trim_end());
    };
    let count = planner.model.parameter_count();
    line("model", format!("{}, {count} parameters", config.model.preset));
    let passes = if accumulation == 1 { "1 pass".into() } else { format!("{accumulation} passes") };
    line("step", format!("{} pairs: {passes} of {size}, in {}", config.pairs_per_step(), planner.model.dtype()));
    let length = text_rows / batch;
    line("text rows", format!("{text_rows} and {decoder_rows} in the decoder: every text of {length} rows (capacity)"));
    line("work", format!("{:.2} GFLOP a step, forward and backward", planner.flops(&step)? / 1e9));
    line("", String::new());
    let share = |value: u64| format!("{:>10}", bytes(value));
    line("weights, f32", share(found.master));
    line("weights, bf16", share(found.bf16_copy));
    line("gradients", share(found.gradients));
    line("optimiser state", format!("{}  {}", share(found.optimizer), config.optimizer.kind.name()));
    line("average", share(found.average));
    let bound = bytes(found.workspace_lower_bound);
    let kept = config.compute.checkpointing.name();
    line("activations", format!("{}  lower bound {bound}, checkpointing {kept}", share(found.workspace)));
    line("  of encoding", format!("{}  in the same memory", share(found.encoding)));
    line("inputs", share(found.inputs));
    line("features", share(found.features));
    line("batches ahead", share(found.batches));
    line("together", format!("{}  without the program itself and its data source", share(found.total())));
    line("", String::new());
    let place = bytes(memory);
    let best = match planner.largest_batch(memory)? {
        None => format!("none: not even one pair a pass fits in {place}"),
        Some((best, _)) if best >= MOST_BATCH => format!("{best} pairs a pass or more in {place}"),
        Some((best, total)) => format!("{best} pairs a pass in {place}, {} together", bytes(total)),
    };
    line("largest batch", best);
    Ok(format!("{text}\n{}", step.program().plan()))
}

/// A model that is planned for, with what does not depend on the batch.
struct Planner<'a> {
    config: &'a Config,
    model: Coca,
    optimizer: u64,
    /// Peak of the passes that encode for evaluation.
    evaluation: u64,
}

impl Planner<'_> {
    fn new(config: &Config) -> Result<Planner<'_>> {
        let dtype = match config.compute.dtype {
            Precision::F32 => DType::F32,
            Precision::BF16 => DType::BF16,
        };
        let model = Coca::new(config.architecture()?, dtype, true)?;
        let optimizer = optimizer_bytes(config.optimizer.kind, &model)?;
        let evaluation = encoding_bytes(&model, config.evaluation.batch_size)?;
        Ok(Planner { config, model, optimizer, evaluation })
    }

    /// A pass over `batch` pairs with texts of full length, as a run with this configuration plans it.
    fn at_capacity(&self, batch: usize) -> StepPlan {
        let Config { loss, compute, .. } = self.config;
        let (text_rows, decoder_rows) = PackedText::capacity(batch, self.text());
        let contrastive = match (loss.contrastive_weight > 0.0, self.config.batch.accumulation) {
            (false, _) => Contrast::Off,
            (true, 0 | 1) => Contrast::Within,
            (true, _) => Contrast::Given,
        };
        let checkpointing = match compute.checkpointing {
            Checkpointing::None => engine::Checkpointing::None,
            Checkpointing::Cheap => engine::Checkpointing::Cheap,
            Checkpointing::Block => engine::Checkpointing::Block,
        };
        let guard_bytes = if compute.check == CheckKind::Poison { engine::Check::Poison.guard_bytes() } else { 0 };
        let caption = loss.caption_weight > 0.0;
        StepPlan { batch, text_rows, decoder_rows, checkpointing, contrastive, caption, guard_bytes }
    }

    fn step(&self, plan: StepPlan) -> Result<TrainStep> {
        if plan.batch == 0 {
            return Err(Error::invalid("batch.size must be at least 1"));
        }
        TrainStep::new(&self.model, plan, &Workspace::new())
    }

    fn text(&self) -> &TextConfig {
        &self.model.config().text
    }

    fn image_bytes(&self) -> usize {
        self.model.config().vision.image_size.pow(2) * PIXEL
    }

    fn bytes(&self, step: &TrainStep) -> Result<PlanBytes> {
        let (plan, parameters, config) = (step.plan(), self.model.parameters(), self.config);
        let activations = step.program().plan();
        let given = plan.contrastive == Contrast::Given;
        let width = self.model.config().embed_dim;
        // ids, positions and key bits of a tower row; index and label of a decoder row; three offsets or rows of a text.
        let texts = 9 * plan.text_rows + 8 * plan.decoder_rows + 12 * plan.batch + 8;
        let gradients_in = if given { 2 * 4 * plan.batch * width } else { 0 };
        let accumulation = config.batch.accumulation.max(1);
        let features = if given { 8 * 4 * plan.batch * accumulation * width } else { 0 };
        let waiting = (config.data.prefetch + accumulation) * plan.batch * self.image_bytes();
        let master = parameters.master().bytes() as u64;
        Ok(PlanBytes {
            master,
            bf16_copy: parameters.bf16().map_or(0, |arena| arena.bytes() as u64),
            gradients: parameters.gradient().map_or(0, |arena| arena.bytes() as u64),
            optimizer: self.optimizer,
            average: if config.ema.decay > 0.0 { master } else { 0 },
            workspace: activations.peak_bytes as u64,
            workspace_lower_bound: activations.lower_bound_bytes as u64,
            encoding: if given {
                encoding_bytes(&self.model, plan.batch)?.max(self.evaluation)
            } else {
                self.evaluation
            },
            inputs: (plan.batch * self.image_bytes() + texts + gradients_in) as u64,
            features: features as u64,
            batches: waiting as u64,
        })
    }

    /// Floating-point operations of a whole step whose texts fill the plan.
    fn flops(&self, step: &TrainStep) -> Result<f64> {
        let (batch, config, text) = (step.plan().batch, self.model.config(), self.text());
        // The recorded ops know their work once a batch is there; any id that is no padding will do.
        let id = i32::from(text.pad_id == 0);
        let texts = PackedText::new(&vec![vec![id; text.context_length]; batch], text)?;
        step.write(&vec![0; batch * self.image_bytes()], &texts)?;
        let pass = step.cost()?.flops;
        // Accumulation encodes everything once before, and compares all pairs at once, forward and backward.
        let before = match step.plan().contrastive {
            Contrast::Given => feature_flops(config, &vec![text.context_length; self.config.pairs_per_step()]),
            _ => 0.0,
        };
        Ok(pass * self.config.batch.accumulation as f64 + before)
    }

    /// The largest batch whose total fits, and that total; by doubling, then bisection over recorded plans.
    fn largest_batch(&self, memory: u64) -> Result<Option<(usize, u64)>> {
        let total = |batch| Ok::<u64, Error>(self.bytes(&self.step(self.at_capacity(batch))?)?.total());
        let (mut fits, mut fails) = (None, 1);
        loop {
            match total(fails)? {
                bytes if bytes <= memory => fits = Some((fails, bytes)),
                _ => break,
            }
            if fails >= MOST_BATCH {
                return Ok(fits);
            }
            fails *= 2;
        }
        while let Some((batch, _)) = fits
            && batch + 1 < fails
        {
            let middle = batch.midpoint(fails);
            match total(middle)? {
                bytes if bytes <= memory => fits = Some((middle, bytes)),
                _ => fails = middle,
            }
        }
        Ok(fits)
    }
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

/// Peak of a pass that encodes `batch` images, or as many texts of full length; as `model::encoder` records them.
fn encoding_bytes(model: &Coca, batch: usize) -> Result<u64> {
    let size = model.config().vision.image_size;
    let mut images = Tape::record();
    let input = images.input("images", Meta::new([batch, size, size, PIXEL], DType::U8))?;
    let outputs = model.layers(&mut images).encode_image(input)?;
    for tensor in [outputs.features, outputs.tokens, outputs.encoded] {
        images.keep(tensor);
    }
    let (rows, decoder_rows) = PackedText::capacity(batch, &model.config().text);
    let mut texts = Tape::record();
    let inputs = TextInputs::declare(&mut texts, batch, rows, decoder_rows)?;
    let mut layers = model.layers(&mut texts);
    let encoded = layers.encode_text(&inputs)?;
    let features = layers.text_features(encoded, &inputs)?;
    texts.keep(features);
    let peak = |tape| -> Result<usize> {
        Ok(Program::compile(tape, &Workspace::new(), Compile::default())?.plan().peak_bytes)
    };
    Ok(peak(images)?.max(peak(texts)?) as u64)
}

#[cfg(test)]
mod tests;
