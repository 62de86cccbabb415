//! CPU code of LayerNorm: a row stays in level-1 cache for its passes.

use super::PARTS;
use super::rows::{Backward, Forward};
use crate::elementwise::write_sum;
use crate::simd::registers::{self, Stored};
use crate::simd::Write;
use engine::{CpuQueue, DType, Out, Result, Shared, View};
use half::bf16;
use std::cell::RefCell;

/// Elements of a task at least.
const GRAIN: usize = 1 << 14;

thread_local! {
    /// Two rows in f32, of those that are stored in less.
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with room for two rows of `n` elements.
fn with_rows(n: usize, body: impl FnOnce(&mut [f32])) {
    ROWS.with_borrow_mut(|rows| {
        if rows.len() < 2 * n {
            rows.resize(2 * n, 0.0);
        }
        body(&mut rows[..2 * n]);
    });
}

pub(super) fn forward(queue: &CpuQueue, epsilon: f32, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => forward_typed::<bf16>(queue, epsilon, inputs, outputs),
        _ => forward_typed::<f32>(queue, epsilon, inputs, outputs),
    }
}

pub(super) fn backward(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => backward_typed::<bf16>(queue, inputs, outputs),
        _ => backward_typed::<f32>(queue, inputs, outputs),
    }
}

fn forward_typed<T: Stored>(
    queue: &CpuQueue,
    epsilon: f32,
    inputs: &[View<'_>],
    outputs: &mut [Out<'_>],
) -> Result<()> {
    let (x, weight, bias) = (inputs[0].slice::<T>()?, inputs[1].slice::<f32>()?, inputs[2].slice::<f32>()?);
    let residual = inputs.get(3).map(View::slice::<T>).transpose()?;
    let (rows, n) = (inputs[0].shape().rows(), inputs[0].shape().columns());
    let (y, sum, mean, rstd) = match outputs {
        [y, mean, rstd] => (y, None, mean, rstd),
        [y, sum, mean, rstd] => (y, Some(Shared::new(sum.slice_mut::<T>()?)), mean, rstd),
        _ => unreachable!("declared by infer"),
    };
    let (y, mean, rstd) =
        (Shared::new(y.slice_mut::<T>()?), Shared::new(mean.slice_mut::<f32>()?), Shared::new(rstd.slice_mut::<f32>()?));
    let write = Write::of::<T>(false, rows * n);
    queue.parallel_spans(rows, GRAIN.div_ceil(n), |range| {
        let span = range.start * n..range.end * n;
        // SAFETY: tasks have rows of their own.
        let (y, mean, rstd, sum) = unsafe {
            (y.part(span.clone()), mean.part(range.clone()), rstd.part(range.clone()), sum.map(|s| s.part(span.clone())))
        };
        let x = match (residual, sum) {
            (Some(residual), Some(sum)) => {
                write_sum(queue.isa(), &x[span.clone()], &residual[span], sum, Write::Set);
                &*sum
            }
            _ => &x[span],
        };
        with_rows(n, |wide| {
            let rows = Forward { epsilon, x, weight, bias, y, means: mean, rstds: rstd, wide, write };
            // SAFETY: the instruction set is a queue's.
            unsafe { registers::run(queue.isa(), rows) };
        });
    });
    Ok(())
}

fn backward_typed<T: Stored>(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (x, weight) = (inputs[0].slice::<T>()?, inputs[1].slice::<f32>()?);
    let (mean, rstd, dy) = (inputs[2].slice::<f32>()?, inputs[3].slice::<f32>()?, inputs[4].slice::<T>()?);
    let (rows, n) = (inputs[0].shape().rows(), inputs[0].shape().columns());
    let [dx, dweight, dbias, scratch] = outputs else { unreachable!("declared by infer") };
    let accumulate = dx.accumulates();
    let dx = Shared::new(dx.slice_mut::<T>()?);
    let partial = Shared::new(scratch.slice_mut::<f32>()?);
    let rows_per_part = rows.div_ceil(PARTS).max(1);
    queue.parallel(PARTS, |part| {
        let range = (part * rows_per_part).min(rows)..((part + 1) * rows_per_part).min(rows);
        let span = range.start * n..range.end * n;
        // SAFETY: tasks have rows and a partial sum of their own.
        let (dx, sums) = unsafe { (dx.part(span.clone()), partial.part(part * 2 * n..(part + 1) * 2 * n)) };
        let (means, rstds) = (&mean[range.clone()], &rstd[range]);
        let (x, dy) = (&x[span.clone()], &dy[span]);
        sums.fill(0.0);
        let (dweight, dbias) = sums.split_at_mut(n);
        with_rows(n, |wide| {
            let rows = Backward { x, weight, means, rstds, dy, dx, accumulate, dweight, dbias, wide };
            // SAFETY: the instruction set is a queue's.
            unsafe { registers::run(queue.isa(), rows) };
        });
    });
    for (out, half) in [(dweight, 0), (dbias, 1)] {
        let accumulate = out.accumulates();
        let out = out.slice_mut::<f32>()?;
        // SAFETY: the parallel region is over.
        let partial = unsafe { partial.part(0..PARTS * 2 * n) };
        for (column, out) in out.iter_mut().enumerate() {
            let total: f32 = (0..PARTS).map(|part| partial[part * 2 * n + half * n + column]).sum();
            *out = if accumulate { *out + total } else { total };
        }
    }
    Ok(())
}
