//! CPU code: a chunk of logits by the blocked product, then one pass over each row.

use crate::cross_entropy::write_mean;
use crate::matmul::{Layout, Operand, Sizes, multiply};
use crate::simd::exponentials::exponentials;
use crate::simd::{Float, Write, map_of};
use crate::vectorized;
use engine::cpu::Isa;
use engine::{CpuQueue, DType, Error, Out, Result, Shared, View};
use half::bf16;

fn operand(view: &View<'_>, first_row: usize) -> Operand {
    let stride = view.shape().columns();
    let is_bf16 = view.meta().dtype == DType::BF16;
    let offset = first_row * stride * view.meta().dtype.size();
    Operand { pointer: view.pointer().wrapping_add(offset), stride, is_bf16 }
}

/// Rows that count; an error for a label outside the vocabulary.
fn count(labels: &[i32], ignore: i32, vocabulary: usize) -> Result<usize> {
    if let Some(row) = labels.iter().position(|&label| label != ignore && !(0..vocabulary as i32).contains(&label)) {
        return Err(Error::invalid(format!("label {} of row {row} is not below {vocabulary}", labels[row])));
    }
    Ok(labels.iter().filter(|&&label| label != ignore).count())
}

/// Rows of a chunk, so that all chunks are nearly equally large: products of few rows pack as much as those of many.
fn balanced(rows: usize, chunk: usize) -> usize {
    rows.div_ceil(rows.div_ceil(chunk).max(1)).max(1)
}

pub(super) fn forward(
    queue: &CpuQueue,
    ignore: i32,
    chunk: usize,
    inputs: &[View<'_>],
    outputs: &mut [Out<'_>],
) -> Result<()> {
    let [hidden, weight, labels] = inputs else { unreachable!("checked by infer") };
    let labels = labels.slice::<i32>()?;
    let (width, vocabulary) = (hidden.shape().columns(), weight.shape().columns());
    let valid = count(labels, ignore, vocabulary)?;
    let [loss, row_loss, logits] = outputs else { unreachable!("declared by infer") };
    let row_loss = row_loss.slice_mut::<f32>()?;
    let logits = logits.slice_mut::<f32>()?;
    let chunk = balanced(labels.len(), chunk);
    for start in (0..labels.len()).step_by(chunk) {
        let rows = chunk.min(labels.len() - start);
        let target = (logits.as_mut_ptr().cast(), vocabulary, false);
        let sizes = Sizes { m: rows, n: vocabulary, k: width };
        // SAFETY: the views cover these rows; the logits hold a chunk.
        unsafe { multiply(queue, Layout::Nn, sizes, operand(hidden, start), operand(weight, 0), target, false) };
        let (losses, wide) = (Shared::new(&mut row_loss[start..start + rows]), Shared::new(&mut *logits));
        queue.parallel_ranges(rows, 4, |range| {
            for row in range {
                let label = labels[start + row];
                // SAFETY: tasks have rows of their own.
                let (out, logits) = unsafe {
                    (&mut losses.part(row..row + 1)[0], wide.part(row * vocabulary..(row + 1) * vocabulary))
                };
                *out = if label == ignore {
                    0.0
                } else {
                    let target = logits[label as usize];
                    let (largest, sum) = exponentials(queue.isa(), logits);
                    largest + sum.ln() - target
                };
            }
        });
    }
    write_mean(row_loss, valid, loss)
}

pub(super) fn backward(
    queue: &CpuQueue,
    ignore: i32,
    chunk: usize,
    inputs: &[View<'_>],
    outputs: &mut [Out<'_>],
) -> Result<()> {
    let [hidden, weight, labels, gradient] = inputs else { unreachable!("checked by infer") };
    let labels = labels.slice::<i32>()?;
    let (width, vocabulary) = (hidden.shape().columns(), weight.shape().columns());
    let valid = count(labels, ignore, vocabulary)?;
    let scale = gradient.slice::<f32>()?[0] / valid.max(1) as f32;
    let [dhidden, dweight, loss, row_loss, _share, logits, narrow @ ..] = outputs else {
        unreachable!("declared by infer")
    };
    let row_loss = row_loss.slice_mut::<f32>()?;
    let is_bf16 = hidden.meta().dtype == DType::BF16;
    let narrow = match narrow.first_mut() {
        Some(narrow) => narrow.slice_mut::<bf16>()?,
        None => &mut [],
    };
    let logits = logits.slice_mut::<f32>()?;
    let dweight_target = (dweight.pointer(), vocabulary, dweight.meta().dtype == DType::BF16);
    let chunk = balanced(labels.len(), chunk);
    // One round even without rows: a weight gradient that is set must become zero.
    for start in (0..labels.len().max(1)).step_by(chunk) {
        let rows = chunk.min(labels.len() - start);
        let sizes = Sizes { m: rows, n: vocabulary, k: width };
        let target = (logits.as_mut_ptr().cast(), vocabulary, false);
        // SAFETY: the views cover these rows; the logits hold a chunk.
        unsafe { multiply(queue, Layout::Nn, sizes, operand(hidden, start), operand(weight, 0), target, false) };
        let losses = Shared::new(&mut row_loss[start..start + rows]);
        let (wide, small) = (Shared::new(&mut *logits), Shared::new(&mut *narrow));
        queue.parallel_ranges(rows, 4, |range| {
            for row in range {
                let span = row * vocabulary..(row + 1) * vocabulary;
                let label = labels[start + row];
                // SAFETY: tasks have rows of their own.
                let (loss, logits) = unsafe { (&mut losses.part(row..row + 1)[0], wide.part(span.clone())) };
                let label = usize::try_from(label).ok().filter(|_| label != ignore);
                // SAFETY: as above.
                let out = if is_bf16 { unsafe { small.part(span) } } else { &mut [] };
                *loss = row_gradient(queue.isa(), logits, label, scale, out);
            }
        });
        let pointer = if is_bf16 { narrow.as_ptr().cast::<u8>() } else { logits.as_ptr().cast() };
        let dlogits = Operand { pointer, stride: vocabulary, is_bf16 };
        let offset = start * width * hidden.meta().dtype.size();
        let dhidden_target = (dhidden.pointer().wrapping_add(offset), width, is_bf16);
        let accumulate = dhidden.accumulates();
        let sizes = Sizes { m: rows, n: width, k: vocabulary };
        // SAFETY: the views cover these rows, the outputs the products.
        unsafe {
            multiply(queue, Layout::Nt, sizes, dlogits, operand(weight, 0), dhidden_target, accumulate);
            let sizes = Sizes { m: width, n: vocabulary, k: rows };
            let accumulate = dweight.accumulates() || start > 0;
            multiply(queue, Layout::Tn, sizes, operand(hidden, start), dlogits, dweight_target, accumulate);
        }
    }
    write_mean(row_loss, valid, loss)
}

/// Turns the logits of a row into `scale (softmax - one hot)`, or zeros without a label: into `narrow` if that is as long, else
/// in place. Returns the row's loss.
fn row_gradient(isa: Isa, logits: &mut [f32], label: Option<usize>, scale: f32, narrow: &mut [bf16]) -> f32 {
    let Some(label) = label else {
        match narrow {
            [] => logits.fill(0.0),
            _ => narrow.fill(bf16::ZERO),
        }
        return 0.0;
    };
    let target = logits[label];
    let (largest, sum) = exponentials(isa, logits);
    let factor = scale / sum;
    let own = logits[label] * factor - scale;
    match narrow {
        [] => {
            multiply_row(isa, logits, factor);
            logits[label] = own;
        }
        _ => {
            narrow_row(isa, logits, factor, narrow);
            narrow[label] = bf16::narrow(own);
        }
    }
    largest + sum.ln() - target
}

vectorized! {
    fn multiply_row(row: &mut [f32], factor: f32) {
        row.iter_mut().for_each(|value| *value *= factor);
    }

    fn narrow_row(row: &[f32], factor: f32, narrow: &mut [bf16]) {
        map_of::<L, bf16, 1>(narrow, (row,), Write::Set, |[value]| value * factor);
    }
}
