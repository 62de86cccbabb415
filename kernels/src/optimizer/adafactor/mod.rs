//! Adafactor: Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018, in the
//! variant of Lingvo's `XLAShardingAdafactor`, with which CoCa was trained: momentum, decoupled decay, and a second-moment
//! decay that has Adam's bias correction folded in.
//!
//! Second moments of a matrix with both sides of at least 128 are kept as a mean per row and a mean per column; those of
//! every other parameter whole.

mod cpu;

use super::{Arenas, Optimizer, Rule, Step, arenas, at_least_zero, check_parameters, check_step, decay_rate, rules};
use engine::buffer::ALIGNMENT;
use engine::{Buffer, Parameter, Parameters, Queue, Result};
use std::ops::Range;
use std::sync::Arc;

/// The shortest side of a matrix whose second moments are factored.
const FACTORED_FROM: usize = 128;

/// Elements of a part of a parameter, and the most parts. They say how sums are split, so they depend on shapes alone.
const PART: usize = 1 << 16;
const MOST_PARTS: usize = 16;

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
}

/// Where the state of one parameter lies.
#[derive(Clone, Copy, Debug)]
struct Layout {
    rule: Rule,
    /// First element in the parameter arenas.
    offset: usize,
    /// Sides of a factored matrix; any other parameter counts as one column.
    rows: usize,
    columns: usize,
    factored: bool,
    /// Factored: first element of `rows` row means, with `columns` column means behind them at the next aligned element.
    /// Else of a second moment for every element.
    second: usize,
    /// Parts of rows that sums and work are split into.
    parts: usize,
    /// First of `parts + 1` rows of `columns` elements.
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
        let (rows, columns) = match *entry.shape.dims() {
            [rows, columns] if rows.min(columns) >= FACTORED_FROM => (rows, columns),
            _ => (entry.shape.elements(), 1),
        };
        let parts = (rows * columns / PART).clamp(1, MOST_PARTS);
        Layout { rule, offset: entry.offset, rows, columns, factored: columns > 1, second: 0, parts, scratch: 0 }
    }

    fn elements(&self) -> usize {
        self.rows * self.columns
    }

    /// The rows of a part.
    fn part(&self, part: usize) -> Range<usize> {
        let rows = self.rows.div_ceil(self.parts);
        (part * rows).min(self.rows)..((part + 1) * rows).min(self.rows)
    }

    /// Elements in the arena of second moments.
    fn second_elements(&self) -> usize {
        if self.factored { aligned(self.rows) + aligned(self.columns) } else { aligned(self.elements()) }
    }

    fn scratch_elements(&self) -> usize {
        if self.factored { (self.parts + 1) * self.columns } else { 0 }
    }

    /// Worked on by all threads at once, after one another; they share scratch. The others are a task each.
    fn is_large(&self) -> bool {
        self.parts > 1
    }
}

impl Adafactor {
    /// State of zero for these parameters. `rule` says how each is treated; those that are frozen at the time of a step
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
        let shared = layouts.iter().filter(|l| l.is_large()).map(Layout::scratch_elements).max().unwrap_or(0);
        let (mut second, mut scratch) = (0, shared);
        for layout in &mut layouts {
            layout.second = second;
            second += layout.second_elements();
            if !layout.is_large() {
                layout.scratch = scratch;
                scratch += layout.scratch_elements();
            }
        }
        let elements = parameters.elements();
        let (momentum, second) = (Buffer::zeroed(elements * 4)?, Buffer::zeroed(second * 4)?);
        Ok(Adafactor { settings, layouts, elements, momentum, second, scratch: Buffer::zeroed(scratch * 4)? })
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
        let cpu = queue.cpu("adafactor")?;
        let arenas = arenas(parameters)?;
        let work: Vec<(Layout, Factors)> = (parameters.entries().iter().zip(&self.layouts))
            .filter(|(entry, _)| entry.trainable)
            .map(|(_, layout)| (*layout, self.factors(layout.rule, step)))
            .collect();
        // SAFETY: these belong to this optimizer, which is borrowed exclusively.
        let (momentum, second, scratch) = unsafe {
            (
                self.momentum.slice_mut(0, self.elements)?,
                self.second.slice_mut(0, self.second.bytes() / 4)?,
                self.scratch.slice_mut(0, self.scratch.bytes() / 4)?,
            )
        };
        queue.enter(|| cpu::update(cpu, &work, arenas, momentum, second, scratch));
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Arc<Buffer>)> {
        vec![("momentum", &self.momentum), ("second_moment", &self.second)]
    }
}

#[cfg(test)]
mod tests;
