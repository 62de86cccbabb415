//! Adafactor: Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018, in the
//! variant of Lingvo's `XLAShardingAdafactor`, with which CoCa was trained: momentum, decoupled decay, and a second-moment
//! decay that has Adam's bias correction folded in.
//!
//! Second moments of a matrix with both sides of at least 128 are kept as a mean per row and a mean per column; those of
//! every other parameter whole.

mod cpu;
pub(crate) mod cuda;

use super::{Optimizer, Rule, Step, at_least_zero, check_parameters, check_step, decay_rate, rules};
use engine::buffer::ALIGNMENT;
use engine::{Buffer, Device, Parameter, Parameters, Queue, Result};
use std::ops::Range;
use std::sync::Arc;

/// The shortest side of a matrix whose second moments are factored.
const FACTORED_FROM: usize = 128;

/// Elements of a part of a parameter, and the most parts. They say how sums are split, so they depend on shapes alone.
const PART: usize = 1 << 16;
const MOST_PARTS: usize = 64;

/// Added to squared gradients.
const TINY: f32 = 1e-30;

/// Elements of a row of what is not factored.
const ROW: usize = 1 << 10;

/// What stays the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdafactorSettings {
    /// Decay of the momentum, an average of updates. 0.9 in the paper of CoCa.
    pub beta1: f64,
    /// Decay of the second moments. 0.999 in the paper of CoCa.
    pub beta2: f64,
    /// Decoupled decay, times the learning rate, of the parameters whose [`Rule`] says so. 0.01 in the paper of CoCa.
    pub weight_decay: f64,
    /// Updates of a parameter are scaled down to this root mean square, before the learning rate; 0: never.
    pub clip_threshold: f64,
}

/// `m = b1 m + (1 - b1) lr u; p -= m; p -= lr wd p`, where u is the gradient over the root of its second moment.
#[derive(Debug)]
pub struct Adafactor {
    settings: AdafactorSettings,
    layouts: Vec<Layout>,
    elements: usize,
    momentum: Arc<Buffer>,
    second: Arc<Buffer>,
    scratch: Arc<Buffer>,
    /// On a device, once there was a step.
    plan: Option<cuda::Plan>,
}

/// Where the state of one parameter lies.
#[derive(Clone, Copy, Debug)]
struct Layout {
    rule: Rule,
    /// First element in the parameter arenas.
    offset: usize,
    elements: usize,
    /// Sides of a factored matrix; any other parameter has rows of [`ROW`] elements, the last of what is left.
    rows: usize,
    columns: usize,
    factored: bool,
    /// Factored: first element of `rows` row means, with `columns` column means behind them at the next aligned element.
    /// Else of a second moment for every element.
    second: usize,
    /// Parts of rows that sums and work are split into.
    parts: usize,
    /// Factored: first of `parts` rows of partial sums and one of factors, of `columns` elements. Behind them, of every
    /// parameter, a sum and a factor for each row.
    scratch: usize,
}

/// The factors of one parameter in one step.
#[derive(Clone, Copy, Debug)]
struct Factors {
    gradient: f32,
    learning_rate: f32,
    /// 1 - lr wd.
    keep: f32,
    /// b1.
    momentum: f32,
    /// 1 - b1.
    momentum_new: f32,
    second: f32,
    second_new: f32,
    clip_threshold: f64,
}

fn aligned(elements: usize) -> usize {
    elements.next_multiple_of(ALIGNMENT / 4)
}

impl Layout {
    fn new(entry: &Parameter, rule: Rule) -> Layout {
        let elements = entry.shape.elements();
        let (rows, columns, factored) = match *entry.shape.dims() {
            [rows, columns] if rows.min(columns) >= FACTORED_FROM => (rows, columns, true),
            _ => (elements.div_ceil(ROW), ROW, false),
        };
        let parts = (elements / PART).clamp(1, MOST_PARTS);
        Layout { rule, offset: entry.offset, elements, rows, columns, factored, second: 0, parts, scratch: 0 }
    }

    /// The rows of a part.
    fn part(&self, part: usize) -> Range<usize> {
        let rows = self.rows.div_ceil(self.parts);
        (part * rows).min(self.rows)..((part + 1) * rows).min(self.rows)
    }

    /// The elements of these rows.
    fn span(&self, rows: Range<usize>) -> Range<usize> {
        rows.start * self.columns..(rows.end * self.columns).min(self.elements)
    }

    /// First of the factored columns' means.
    fn column_means(&self) -> usize {
        self.second + aligned(self.rows)
    }

    /// First of the factors of the columns.
    fn column_factors(&self) -> usize {
        self.scratch + self.parts * self.columns
    }

    /// First of the sums of the rows.
    fn row_sums(&self) -> usize {
        self.scratch + if self.factored { (self.parts + 1) * self.columns } else { 0 }
    }

    /// Elements in the arena of second moments.
    fn second_elements(&self) -> usize {
        if self.factored { aligned(self.rows) + aligned(self.columns) } else { aligned(self.elements) }
    }

    fn scratch_elements(&self) -> usize {
        aligned(self.row_sums() - self.scratch + 2 * self.rows)
    }

    /// Worked on by all threads at once, after one another. The others are a task each.
    fn is_large(&self) -> bool {
        self.parts > 1
    }
}

impl Adafactor {
    /// State of zero for these parameters, on their device. `rule` says how each is treated; those that are frozen at the time of a step
    /// are left alone.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(
        settings: AdafactorSettings,
        parameters: &Parameters,
        rule: impl Fn(&Parameter) -> Rule,
    ) -> Result<Adafactor> {
        decay_rate("beta1", settings.beta1)?;
        decay_rate("beta2", settings.beta2)?;
        at_least_zero("weight_decay", settings.weight_decay)?;
        at_least_zero("the update's clip threshold", settings.clip_threshold)?;
        let rules = rules(parameters, rule)?;
        let mut layouts: Vec<Layout> =
            parameters.entries().iter().zip(rules).map(|(entry, rule)| Layout::new(entry, rule)).collect();
        let (mut second, mut scratch) = (0, 0);
        for layout in &mut layouts {
            (layout.second, layout.scratch) = (second, scratch);
            second += layout.second_elements();
            scratch += layout.scratch_elements();
        }
        let elements = parameters.elements();
        let zeros = |elements: usize| Buffer::on(parameters.master().device(), elements * 4);
        let (momentum, second, scratch) = (zeros(elements)?, zeros(second)?, zeros(scratch)?);
        Ok(Adafactor { settings, layouts, elements, momentum, second, scratch, plan: None })
    }

    fn factors(&self, rule: Rule, step: Step) -> Factors {
        let AdafactorSettings { beta1, beta2, weight_decay, clip_threshold } = self.settings;
        let learning_rate = step.learning_rate * rule.learning_rate_scale;
        let second = second_moment_decay(beta2, step.number);
        Factors {
            gradient: step.gradient_factor as f32,
            learning_rate: learning_rate as f32,
            keep: if rule.decay { (1.0 - learning_rate * weight_decay) as f32 } else { 1.0 },
            momentum: beta1 as f32,
            momentum_new: (1.0 - beta1) as f32,
            second: second as f32,
            second_new: (1.0 - second) as f32,
            clip_threshold,
        }
    }
}

/// `b2 (1 - b2^(t-1)) / (1 - b2^t)`: the average of Adam, corrected for its start.
fn second_moment_decay(beta2: f64, step: u64) -> f64 {
    let power = |n: u64| beta2.powf(n as f64);
    beta2 * (1.0 - power(step - 1)) / (1.0 - power(step))
}

impl Optimizer for Adafactor {
    fn step(&mut self, queue: &Queue, parameters: &Parameters, step: Step) -> Result<()> {
        check_step(step)?;
        check_parameters(queue, parameters, self.elements, &self.momentum)?;
        match queue {
            Queue::Cpu(cpu) => queue.enter(|| cpu::update(self, cpu, parameters, step)),
            Queue::Cuda(cuda) => cuda::update(self, cuda, parameters, step),
        }
    }

    fn move_to(&mut self, device: &Device) -> Result<()> {
        (self.momentum, self.second) = (self.momentum.copy_on(device)?, self.second.copy_on(device)?);
        (self.scratch, self.plan) = (Buffer::on(device, self.scratch.bytes())?, None);
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Arc<Buffer>)> {
        vec![("momentum", &self.momentum), ("second_moment", &self.second)]
    }
}

#[cfg(test)]
mod tests;
