//! CPU code: one task for some rows, each row in two or three passes.

use crate::simd::{math, max_of, sum_of};
use crate::vectorized;
use engine::{CpuQueue, Error, Out, Result, Shared, View};

/// Rows of a task.
const GRAIN: usize = 8;

/// Rows that count; an error for a label that is no class.
fn count(labels: &[i32], classes: usize) -> Result<usize> {
    if let Some(row) = labels.iter().position(|&label| usize::try_from(label).is_ok_and(|label| label >= classes)) {
        return Err(Error::invalid(format!("label {} of row {row} is not below {classes}", labels[row])));
    }
    Ok(labels.iter().filter(|&&label| label >= 0).count())
}

pub(super) fn forward(queue: &CpuQueue, smoothing: f32, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (classes, labels) = (inputs[0].shape().columns(), inputs[1].slice::<i32>()?);
    let (logits, counted) = (inputs[0].slice::<f32>()?, count(labels, classes)?);
    let [loss, row_loss] = outputs else { unreachable!("declared by infer") };
    let row_loss = row_loss.slice_mut::<f32>()?;
    let losses = Shared::new(&mut *row_loss);
    queue.parallel_ranges(labels.len(), GRAIN, |range| {
        for row in range {
            // SAFETY: tasks have rows of their own.
            let out = unsafe { &mut losses.part(row..row + 1)[0] };
            let logits = &logits[row * classes..(row + 1) * classes];
            *out = usize::try_from(labels[row])
                .map_or(0.0, |label| row_loss_of(queue.isa(), logits, label, smoothing));
        }
    });
    write_mean(row_loss, counted, loss)
}

/// The mean of the losses of `count` rows, 0 of none; rows that do not count have a loss of 0.
pub fn write_mean(row_loss: &[f32], count: usize, loss: &mut Out<'_>) -> Result<()> {
    let total: f64 = row_loss.iter().map(|&loss| f64::from(loss)).sum();
    let mean = (total / count.max(1) as f64) as f32;
    let accumulates = loss.accumulates();
    let loss = loss.slice_mut::<f32>()?;
    loss[0] = if accumulates { loss[0] + mean } else { mean };
    Ok(())
}

pub(super) fn backward(queue: &CpuQueue, smoothing: f32, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (classes, labels) = (inputs[0].shape().columns(), inputs[1].slice::<i32>()?);
    let (logits, counted) = (inputs[0].slice::<f32>()?, count(labels, classes)?);
    let scale = inputs[2].slice::<f32>()?[0] / counted.max(1) as f32;
    let accumulates = outputs[0].accumulates();
    let gradients = Shared::new(outputs[0].slice_mut::<f32>()?);
    queue.parallel_ranges(labels.len(), GRAIN, |range| {
        for row in range {
            let span = row * classes..(row + 1) * classes;
            // SAFETY: tasks have rows of their own.
            let out = unsafe { gradients.part(span.clone()) };
            if !accumulates {
                out.fill(0.0);
            }
            if let Ok(label) = usize::try_from(labels[row]) {
                add_gradient(queue.isa(), &logits[span], label, smoothing, scale, out);
            }
        }
    });
    Ok(())
}

vectorized! {
    fn row_loss_of(logits: &[f32], label: usize, smoothing: f32) -> f32 {
        let largest = max_of(logits);
        let sum = sum_of((logits,), |[logit]| math::exp::<L>(logit - largest));
        // Differences from the largest logit, so that large logits do not cancel.
        let loss = sum.ln() - (1.0 - smoothing) * (logits[label] - largest);
        if smoothing == 0.0 {
            return loss; // the mean of the logits may be infinite
        }
        loss - smoothing * sum_of((logits,), |[logit]| logit - largest) / logits.len() as f32
    }

    /// Adds `scale (softmax - target)`.
    fn add_gradient(logits: &[f32], label: usize, smoothing: f32, scale: f32, out: &mut [f32]) {
        let largest = max_of(logits);
        let sum = sum_of((logits,), |[logit]| math::exp::<L>(logit - largest));
        let (factor, share) = (scale / sum, scale * smoothing / logits.len() as f32);
        out.iter_mut().zip(logits).for_each(|(out, logit)| *out += factor * math::exp::<L>(logit - largest) - share);
        out[label] -= scale * (1.0 - smoothing);
    }
}
