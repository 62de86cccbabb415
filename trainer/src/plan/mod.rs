//! `coca plan`: what a run costs in memory and work, from recorded programs that are never run. The arenas that they name
//! are reserved address space; no page of them is touched. Only the data is opened, for the length of its texts and for
//! the memory that it takes.

pub(crate) mod data;
mod memory;
mod pass;
#[cfg(test)]
mod tests;

use crate::config::{Config, TaskKind};
use crate::machine::{Machine, bytes};
use crate::run::{dtype, feature_flops};
use crate::task::Task;
use crate::{Error, Result};
use data::DataView;
use engine::cuda::Detected;
use memory::{Fixed, Memory, image_bytes};
use model::Coca;
use model::config::TextConfig;
use pass::Pass;
use std::fmt::Write;
use std::sync::Arc;

/// The search for the largest batch looks no further.
const MOST_BATCH: usize = 1 << 15;

/// The text of `coca plan`: parameters, work of a step, bytes of every item that a run holds and of the whole process at
/// its peak, the largest tensors, and the largest batch for `memory` bytes (none: what this machine has available). Of a GPU
/// the same: what lies there, and the largest batch for `memory` bytes (none: those of this machine's GPU, if it has one).
///
/// Of a task the data has to be there, as its classes are those of the data.
///
/// Not counted: pictures while they are decoded, what checks, profiles and a resumed checkpoint hold for a while, and what a
/// GPU's driver takes for itself.
///
/// # Errors
/// The architecture is wrong, the batch is too large for an op, or the machine does not say how much memory is available.
pub fn report(config: &Config, memory: Option<u64>) -> Result<String> {
    let machine = Machine::detect();
    let gpu_memory = memory.or(match &machine.cuda {
        Detected::Found { devices, .. } => devices.first().map(|device| device.memory_bytes),
        Detected::Absent(_) => None,
    });
    let memory = match memory.unwrap_or(machine.memory_available) {
        0 => return Err(Error::invalid("this machine does not say how much memory is available: give --memory")),
        memory => memory,
    };
    let architecture = config.architecture()?;
    let planner = Planner::new(config, DataView::open(config, &architecture))?;
    let step = planner.step(config.batch.size)?;
    let found = planner.memory(&step)?;
    let (text_rows, decoder_rows) = step.rows();
    let (size, accumulation) = (config.batch.size, config.batch.accumulation);

    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{}", format!("{name:<20}{value}").trim_end());
    };
    let count = planner.model.parameter_count();
    line("model", format!("{}, {count} parameters", config.model.preset));
    if let Some(Task { kind, classes, .. }) = planner.task.as_deref() {
        line("head", format!("{}, {} classes", kind.name(), classes.count()));
    }
    let passes = if accumulation == 1 { "1 pass".into() } else { format!("{accumulation} passes") };
    line("step", format!("{} pairs: {passes} of {size}, in {}", config.pairs_per_step(), planner.model.dtype()));
    if text_rows > 0 {
        line("text rows", format!("{text_rows} and {decoder_rows} in the decoder: {}", planner.data.about()));
    }
    line("work", format!("{:.2} GFLOP a step, forward and backward", planner.flops(&step)? / 1e9));
    line("", String::new());
    let share = |value: u64| format!("{:>10}", bytes(value));
    line("program and data", share(found.program));
    line("weights, f32", share(found.master));
    line("weights, bf16", share(found.bf16_copy));
    line("gradients", share(found.gradients));
    line("optimiser state", format!("{}  {}", share(found.optimizer), config.optimizer.kind.name()));
    line("average", share(found.average));
    let bound = bytes(found.lower_bound);
    let kept = config.compute.checkpointing.name();
    line("activations", format!("{}  of a pass, lower bound {bound}, checkpointing {kept}", share(found.activations)));
    line("arena", format!("{}  for these, and for those of evaluation", share(found.arena)));
    line("inputs", share(found.inputs));
    line("features", share(found.features));
    line("matrix panels", share(found.panels));
    line("batches ahead", format!("{}  in training", share(found.batches)));
    line("copy of weights", format!("{}  in saving", share(found.saving)));
    line(
        "sets and caches",
        format!("{}  in evaluation, {} for captions", share(found.evaluation), bytes(found.captions)),
    );
    let (phase, together) = found.peak();
    line("together", format!("{}  the whole process at its peak, in {phase}", share(together)));
    line("on a GPU", format!("{}  weights, state, arena, inputs twice", share(found.on_device())));
    line("", String::new());
    let largest = |memory: u64, held: fn(&Memory) -> u64| -> Result<String> {
        let place = bytes(memory);
        Ok(match planner.largest_batch(memory, held)? {
            None => format!("none: not even one pair a pass fits in {place}"),
            Some((best, _)) if best >= MOST_BATCH => format!("{best} pairs a pass or more in {place}"),
            Some((best, total)) => format!("{best} pairs a pass in {place}, {} together", bytes(total)),
        })
    };
    line("largest batch", largest(memory, |memory| memory.peak().1)?);
    if let Some(memory) = gpu_memory {
        line("largest on a GPU", largest(memory, Memory::on_device)?);
    }
    Ok(format!("{text}\n{}", step.program().plan()))
}

/// A run that is planned, with what does not depend on the batch.
struct Planner<'a> {
    config: &'a Config,
    data: DataView,
    task: Option<Arc<Task>>,
    model: Coca,
    fixed: Fixed,
}

impl Planner<'_> {
    fn new(config: &Config, data: DataView) -> Result<Planner<'_>> {
        let architecture = config.architecture()?;
        let task = data.task().cloned();
        if config.task.kind != TaskKind::Pretrain && task.is_none() {
            let about = data.about();
            return Err(Error::invalid(format!(
                "the classes of a task are those of its data, which is needed here: {about}"
            )));
        }
        let head = task.as_ref().map(|task| task.head(&architecture));
        let model = Coca::with_head(architecture, head, dtype(config), true)?;
        let fixed = Fixed::new(config, &model, task.as_deref(), &data)?;
        Ok(Planner { config, data, task, model, fixed })
    }

    /// A pass over `batch` pairs or samples, as a run with this configuration plans it.
    fn step(&self, batch: usize) -> Result<Pass> {
        let images = self.task.as_ref().map_or(1, |task| task.images);
        let rows = self.data.rows(batch * images, self.text())?;
        Pass::new(self.config, self.task.as_deref(), &self.model, batch, rows)
    }

    fn text(&self) -> &TextConfig {
        &self.model.config().text
    }

    fn memory(&self, step: &Pass) -> Result<Memory> {
        self.fixed.memory(self.config, &self.model, step)
    }

    /// Floating-point operations of a whole step.
    fn flops(&self, step: &Pass) -> Result<f64> {
        let images = vec![0; step.images() * image_bytes(&self.model)];
        let pass = step.flops(&images, &self.data.texts(step.images()), self.text())?;
        // Accumulation encodes everything once before, and compares all pairs at once, forward and backward.
        let before = match step.is_given_features() {
            true => feature_flops(self.model.config(), &self.data.lengths(self.config.pairs_per_step())),
            false => 0.0,
        };
        Ok(pass * self.config.batch.accumulation as f64 + before)
    }

    /// The largest batch of which what is `held` fits, and its bytes; by doubling, then bisection over recorded plans.
    fn largest_batch(&self, memory: u64, held: fn(&Memory) -> u64) -> Result<Option<(usize, u64)>> {
        let total = |batch| Ok::<u64, Error>(held(&self.memory(&self.step(batch)?)?));
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
