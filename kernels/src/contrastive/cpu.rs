//! CPU code: a block of rows against blocks of columns, each by a small product and one pass.

use super::BLOCK;
use crate::matmul::{Layout, Operand, Sizes, multiply_here};
use crate::simd::{math, max_of, sum_of};
use crate::vectorized;
use engine::cpu::Isa;
use engine::{CpuQueue, Out, Result, Shared, View};
use std::cell::RefCell;

/// Columns of a block: with [`BLOCK`] rows 128 KiB of similarities, inside a level-2 cache.
pub(super) const COLUMNS: usize = 512;

thread_local! {
    static SIMILARITIES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with the similarities (times `scale`) of rows `rows` of `a` against each block of `b`, in order.
fn for_blocks(
    isa: Isa,
    a: &[f32],
    b: &[f32],
    width: usize,
    scale: f32,
    rows: std::ops::Range<usize>,
    mut body: impl FnMut(std::ops::Range<usize>, &mut [f32]),
) {
    let batch = b.len() / width;
    SIMILARITIES.with(|buffer| {
        let mut buffer = buffer.borrow_mut();
        buffer.resize(BLOCK * COLUMNS, 0.0);
        for start in (0..batch).step_by(COLUMNS) {
            let columns = start..(start + COLUMNS).min(batch);
            let tile = &mut buffer[..rows.len() * columns.len()];
            let sizes = Sizes { m: rows.len(), n: columns.len(), k: width };
            let target = (tile.as_mut_ptr().cast(), columns.len(), false);
            // SAFETY: both blocks lie inside the features; the tile is this thread's.
            unsafe {
                let (a, b) = (operand(&a[rows.start * width..], width), operand(&b[columns.start * width..], width));
                multiply_here(isa, Layout::Nt, sizes, a, b, target, false, scale);
            }
            body(columns, tile);
        }
    });
}

fn operand(values: &[f32], stride: usize) -> Operand {
    Operand { pointer: values.as_ptr().cast(), stride, is_bf16: false }
}

pub(super) fn forward(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (image, text) = (inputs[0].slice::<f32>()?, inputs[1].slice::<f32>()?);
    let scale = inputs[2].slice::<f32>()?[0].exp();
    let (batch, width) = (inputs[0].shape().rows(), inputs[0].shape().columns());
    let [loss, rows, columns, ..] = outputs else { unreachable!("declared by infer") };
    for (a, b, out) in [(image, text, &mut *rows), (text, image, &mut *columns)] {
        let out = Shared::new(out.slice_mut::<f32>()?);
        queue.parallel_ranges(batch, BLOCK, |range| {
            let (mut largest, mut sums) = ([f32::NEG_INFINITY; BLOCK], [0.0f32; BLOCK]);
            for_blocks(queue.isa(), a, b, width, scale, range.clone(), |columns, tile| {
                for (row, values) in tile.chunks_exact(columns.len()).enumerate() {
                    (largest[row], sums[row]) = merge(queue.isa(), values, largest[row], sums[row]);
                }
            });
            // SAFETY: tasks have rows of their own.
            let out = unsafe { out.part(range) };
            for (row, out) in out.iter_mut().enumerate() {
                *out = largest[row] + sums[row].ln();
            }
        });
    }
    let (rows, columns) = (rows.slice_mut::<f32>()?, columns.slice_mut::<f32>()?);
    let total: f64 = (0..batch)
        .map(|i| {
            let (a, b) = (&image[i * width..(i + 1) * width], &text[i * width..(i + 1) * width]);
            let diagonal = scale * dot(queue.isa(), a, b);
            f64::from(rows[i]) + f64::from(columns[i]) - 2.0 * f64::from(diagonal)
        })
        .sum();
    loss.slice_mut::<f32>()?[0] = (0.5 * total / batch as f64) as f32;
    Ok(())
}

pub(super) fn backward(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (image, text) = (inputs[0].slice::<f32>()?, inputs[1].slice::<f32>()?);
    let scale = inputs[2].slice::<f32>()?[0].exp();
    let (rows, columns) = (inputs[3].slice::<f32>()?, inputs[4].slice::<f32>()?);
    let (batch, width) = (inputs[0].shape().rows(), inputs[0].shape().columns());
    let factor = inputs[5].slice::<f32>()?[0] * 0.5 / batch as f32;
    let [dimage, dtext, dscale, scratch, _] = outputs else { unreachable!("declared by infer") };
    let scratch = scratch.slice_mut::<f32>()?;
    let sides = [(image, text, rows, columns, dimage), (text, image, columns, rows, dtext)];
    for (side, (a, b, own, other, out)) in sides.into_iter().enumerate() {
        let accumulates = out.accumulates();
        let out = Shared::new(out.slice_mut::<f32>()?);
        let along_scale = Shared::new(&mut *scratch);
        queue.parallel_ranges(batch, BLOCK, |range| {
            let block = range.start / BLOCK;
            // SAFETY: tasks have rows of their own.
            let out = unsafe { out.part(range.start * width..range.end * width) };
            let mut total = 0.0;
            for_blocks(queue.isa(), a, b, width, scale, range.clone(), |columns, tile| {
                for (row, values) in tile.chunks_exact_mut(columns.len()).enumerate() {
                    let i = range.start + row;
                    let diagonal = i.checked_sub(columns.start).filter(|&j| j < columns.len());
                    total += gradient_row(queue.isa(), values, own[i], &other[columns.clone()], diagonal, factor);
                }
                let sizes = Sizes { m: range.len(), n: width, k: columns.len() };
                let target = (out.as_mut_ptr().cast(), width, false);
                let accumulate = accumulates || columns.start > 0;
                // SAFETY: the tile, the block of `b` and the task's rows of the gradient.
                unsafe {
                    let (a, b) = (operand(tile, columns.len()), operand(&b[columns.start * width..], width));
                    multiply_here(queue.isa(), Layout::Nn, sizes, a, b, target, accumulate, scale);
                }
            });
            if side == 0 {
                // SAFETY: one element a task.
                unsafe { along_scale.part(block..block + 1)[0] = total };
            }
        });
    }
    let total: f32 = scratch[..batch.div_ceil(BLOCK)].iter().sum();
    let accumulates = dscale.accumulates();
    let dscale = dscale.slice_mut::<f32>()?;
    dscale[0] = if accumulates { dscale[0] + total } else { total };
    Ok(())
}

vectorized! {
    /// Adds a block of values to a running (maximum, sum of exponentials).
    fn merge(values: &[f32], largest: f32, sum: f32) -> (f32, f32) {
        let block = max_of(values);
        let top = if block > largest { block } else { largest };
        let added = sum_of((values,), |[value]| math::exp::<L>(value - top));
        (top, sum * math::exp::<L>(largest - top) + added)
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum_of((a, b), |[a, b]| a * b)
    }

    /// Turns similarities into their gradients; returns the sum of gradient times similarity.
    fn gradient_row(values: &mut [f32], own: f32, other: &[f32], diagonal: Option<usize>, factor: f32) -> f32 {
        let kept = diagonal.map_or(0.0, |at| values[at]);
        // On the diagonal the target is taken off below; its share of the sum goes with it.
        let total = sum_of((&*values, other), |[value, other]| {
            value * (math::exp::<L>(value - own) + math::exp::<L>(value - other))
        });
        for (value, other) in values.iter_mut().zip(other) {
            *value = factor * (math::exp::<L>(*value - own) + math::exp::<L>(*value - other));
        }
        if let Some(at) = diagonal {
            values[at] -= 2.0 * factor;
        }
        factor * (total - 2.0 * kept)
    }
}
