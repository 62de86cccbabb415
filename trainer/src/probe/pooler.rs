//! The attentional probe: a new pooler and a softmax layer over the frozen encoder's output, trained as in the paper
//! (coca.md 1.4, table 9): Adafactor, label smoothing, gradients clipped, half a cosine, an average of the weights.

use super::rows::Rows;
use crate::config::{Schedule, ScheduleKind};
use crate::schedule::{average_decay, learning_rate};
use crate::{Error, Result};
use engine::rng::Philox;
use engine::{Buffer, DType, Parameter, Queue, Workspace};
use kernels::optimizer::{Adafactor, AdafactorSettings, Optimizer, Rule, Step, clip_factor, update_average};
use kernels::reduce::gradient_norm;
use model::heads::{Head, HeadConfig, HeadLogits, HeadStep};
use model::params::decays;
use serde::Serialize;

/// Largest global norm of the gradient.
const CLIP_NORM: f64 = 1.0;
/// Streams of random numbers from here on give the order of each epoch.
const ORDERS: u64 = 1 << 32;

/// How a pooler is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Updates.
    pub steps: u64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Samples in an update.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the target that all classes have together.
    pub label_smoothing: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Share of the average of the weights that a step keeps at most, see [`average_decay`]; 0: no average.
    pub average: f64,
    /// Of the starting weights and of the order of samples.
    pub seed: u64,
}

/// Trains a head on what it sees of a set, given the class of each sample.
///
/// # Errors
/// A setting is out of its range, the loss is no number any more, or the features cannot be read.
pub fn train(config: HeadConfig, recipe: &Recipe, rows: &Rows<'_>, targets: &[usize], queue: &Queue) -> Result<Head> {
    let head = Head::new(config, DType::F32, true)?;
    head.initialize(recipe.seed)?;
    let batch = recipe.batch.min(targets.len());
    let mut step = HeadStep::new(&head, batch, rows.count(), recipe.label_smoothing as f32, &Workspace::new())?;
    let parameters = head.parameters();
    let settings =
        AdafactorSettings { beta1: 0.9, beta2: 0.999, weight_decay: recipe.weight_decay, clip_threshold: 1.0 };
    let rule = |entry: &Parameter| Rule { decay: decays(&entry.name, &entry.shape), learning_rate_scale: 1.0 };
    let mut optimizer = Adafactor::new(settings, parameters, rule)?;
    let schedule =
        Schedule { kind: ScheduleKind::Cosine, warmup_steps: recipe.warmup_steps, steps: recipe.steps, minutes: 0.0 };
    let average = Buffer::zeroed(parameters.master().bytes())?;
    average.write(0, &parameters.master().read::<u8>(0, average.bytes())?)?;

    let mut order = Order { seed: recipe.seed, samples: targets.len(), epoch: 0, left: Vec::new() };
    for number in 0..recipe.steps {
        let samples = order.take(batch);
        let labels: Vec<i32> = samples.iter().map(|&sample| targets[sample] as i32).collect();
        let loss = step.run(queue, &rows.read(&samples)?, &labels, 1.0, false)?;
        let norm = gradient_norm(queue, parameters)?;
        if !(loss.is_finite() && norm.is_finite()) {
            return Err(Error::invalid(format!(
                "step {}: the loss of the pooler is {loss}, its gradient's norm {norm}: try a lower --learning-rate",
                number + 1
            )));
        }
        let update = Step {
            number: number + 1,
            learning_rate: learning_rate(&schedule, recipe.learning_rate, number),
            gradient_factor: clip_factor(norm, CLIP_NORM),
        };
        optimizer.step(queue, parameters, update)?;
        if recipe.average > 0.0 {
            update_average(queue, parameters, &average, average_decay(recipe.average, number))?;
        }
    }
    if recipe.average > 0.0 {
        head.set(&average.read(0, parameters.elements())?)?;
    }
    Ok(head)
}

/// Logits `[samples, classes]` of what a head sees of a set, `batch` samples in a pass.
///
/// # Errors
/// The features cannot be read.
pub fn logits(head: &Head, rows: &Rows<'_>, batch: usize, queue: &Queue) -> Result<Vec<f32>> {
    let samples: Vec<usize> = (0..rows.features.samples().len()).collect();
    let batch = batch.min(samples.len());
    let mut pass = HeadLogits::new(head, batch, rows.count(), &Workspace::new())?;
    let mut logits = Vec::new();
    for part in samples.chunks(batch) {
        logits.extend(pass.run(queue, &rows.read(part)?)?);
    }
    Ok(logits)
}

/// The samples of every epoch in an order of its own, one epoch after another.
struct Order {
    seed: u64,
    samples: usize,
    epoch: u64,
    left: Vec<usize>,
}

impl Order {
    fn take(&mut self, count: usize) -> Vec<usize> {
        while self.left.len() < count {
            let mut next: Vec<usize> = (0..self.samples).collect();
            Philox::new(self.seed, ORDERS + self.epoch).shuffle(&mut next);
            self.epoch += 1;
            self.left.extend(next);
        }
        self.left.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_sample_once() {
        let mut order = Order { seed: 3, samples: 10, epoch: 0, left: Vec::new() };
        let drawn: Vec<usize> = (0..5).flat_map(|_| order.take(4)).collect();
        for epoch in drawn.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
            assert_ne!(sorted, epoch);
        }
        assert_ne!(drawn[..10], drawn[10..]);
    }
}
