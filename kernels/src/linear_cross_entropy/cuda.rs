//! CUDA arm: logits by the matrix kernels, losses and gradients of rows by those of [`cross_entropy`](crate::cross_entropy).

use super::chunks_of;
use crate::cross_entropy::cuda::{Gradient, Labels, launch_mean, launch_rows, launch_share};
use crate::matmul::cuda::multiply;
use crate::matmul::{Layout, Matrix};
use engine::cuda::CudaQueue;
use engine::{Out, Result, View};

fn matrix(view: &View<'_>) -> Matrix {
    Matrix::new(view.address(), view.meta())
}

fn target(out: &Out<'_>) -> Matrix {
    Matrix::new(out.address(), out.meta())
}

pub(super) fn forward(queue: &CudaQueue, ignore: i32, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [hidden, weight, labels] = inputs else { unreachable!("checked by infer") };
    let [loss, row_loss, logits] = outputs else { unreachable!("declared by infer") };
    let (hidden, weight, logits) = (matrix(hidden), matrix(weight), target(logits));
    let labels = Labels::new(labels, [ignore; 2]);
    for rows in chunks_of(0..labels.rows, logits.rows) {
        let logits = logits.part(0..rows.len());
        multiply(queue, Layout::Nn, hidden.part(rows.clone()), weight, logits, false)?;
        let losses = row_loss.address() + 4 * rows.start as u64;
        launch_rows(queue, logits, labels.part(rows), 0.0, losses, None)?;
    }
    launch_mean(queue, labels, row_loss, loss)
}

pub(super) fn backward(queue: &CudaQueue, ignore: i32, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [hidden, weight, labels, gradient] = inputs else { unreachable!("checked by infer") };
    let [dhidden, dweight, loss, row_loss, share, logits, narrow @ ..] = outputs else {
        unreachable!("declared by infer")
    };
    let (hidden, weight, logits) = (matrix(hidden), matrix(weight), target(logits));
    let labels = Labels::new(labels, [ignore; 2]);
    // f32 gradients lie over the logits.
    let dlogits = narrow.first().map_or(logits, target);
    launch_share(queue, labels, gradient.address(), share.address())?;
    if labels.rows == 0 && !dweight.accumulates() {
        // A product of no terms: a gradient that is set must become zero.
        multiply(queue, Layout::Tn, hidden, dlogits.part(0..0), target(dweight), false)?;
    }
    for chunk in chunks_of(0..labels.rows, dlogits.rows) {
        for rows in chunks_of(chunk.clone(), logits.rows) {
            let logits = logits.part(0..rows.len());
            let out = dlogits.part(rows.start - chunk.start..rows.end - chunk.start);
            let gradient = Gradient { share: share.address(), out, accumulate: false };
            multiply(queue, Layout::Nn, hidden.part(rows.clone()), weight, logits, false)?;
            let losses = row_loss.address() + 4 * rows.start as u64;
            launch_rows(queue, logits, labels.part(rows), 0.0, losses, Some(gradient))?;
        }
        let dlogits = dlogits.part(0..chunk.len());
        let (hidden, target_rows) = (hidden.part(chunk.clone()), target(dhidden).part(chunk.clone()));
        multiply(queue, Layout::Nt, dlogits, weight, target_rows, dhidden.accumulates())?;
        let accumulate = dweight.accumulates() || chunk.start > 0;
        multiply(queue, Layout::Tn, hidden, dlogits, target(dweight), accumulate)?;
    }
    launch_mean(queue, labels, row_loss, loss)
}
