//! CPU code of LayerNorm: a row stays in level-1 cache for its passes.

use super::PARTS;
use crate::elementwise::write_sum;
use crate::simd::registers::Stored;
use crate::simd::{Float, Write, sum_of, sums_of};
use crate::vectorized;
use engine::{CpuQueue, DType, Out, Result, Shared, View};
use half::bf16;
use std::cell::RefCell;

/// Elements of a task.
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
    queue.parallel_ranges(rows, GRAIN.div_ceil(n), |range| {
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
        with_rows(n, |wide| forward_rows::<T>(queue.isa(), epsilon, x, weight, bias, y, mean, rstd, wide));
    });
    Ok(())
}

fn backward_typed<T: Float>(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
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
        let (mean, rstd) = (&mean[range.clone()], &rstd[range]);
        let (x, dy) = (&x[span.clone()], &dy[span]);
        with_rows(n, |wide| backward_rows::<T>(queue.isa(), x, weight, mean, rstd, dy, dx, accumulate, sums, wide));
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

vectorized! {
    fn forward_rows<T: Float>(
        epsilon: f32,
        x: &[T],
        weight: &[f32],
        bias: &[f32],
        y: &mut [T],
        means: &mut [f32],
        rstds: &mut [f32],
        wide: &mut [f32],
    ) {
        let n = weight.len();
        for (row, (x, y)) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).enumerate() {
            let x = T::wide(x, wide);
            let mean = sum_of((x,), |[x]| x) / n as f32;
            let variance = sum_of((x,), |[x]| {
                let centred = x - mean;
                centred * centred
            }) / n as f32;
            let rstd = 1.0 / (variance + epsilon).sqrt();
            (means[row], rstds[row]) = (mean, rstd);
            for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = T::narrow(L::fma((x - mean) * rstd, *weight, *bias));
            }
        }
    }

    fn backward_rows<T: Float>(
        x: &[T],
        weight: &[f32],
        means: &[f32],
        rstds: &[f32],
        dy: &[T],
        dx: &mut [T],
        accumulate: bool,
        sums: &mut [f32],
        wide: &mut [f32],
    ) {
        let n = weight.len();
        let (wide_x, wide_dy) = wide.split_at_mut(n);
        sums.fill(0.0);
        let (dweight, dbias) = sums.split_at_mut(n);
        for row in 0..means.len() {
            let (mean, rstd) = (means[row], rstds[row]);
            let x = T::wide(&x[row * n..(row + 1) * n], wide_x);
            let dy = T::wide(&dy[row * n..(row + 1) * n], wide_dy);
            let [sum_g, sum_gx] = sums_of((dy, weight, x), |[dy, weight, x]| {
                let g = dy * weight;
                [g, g * ((x - mean) * rstd)]
            });
            let (mean_g, mean_gx) = (sum_g / n as f32, sum_gx / n as f32);
            let parts = x.iter().zip(dy).zip(weight).zip(&mut *dweight).zip(&mut *dbias);
            let gradient = |((((x, dy), weight), dweight), dbias): ((((&f32, &f32), &f32), &mut f32), &mut f32)| {
                let hat = (x - mean) * rstd;
                *dweight += dy * hat;
                *dbias += dy;
                rstd * (dy * weight - mean_g - hat * mean_gx)
            };
            let targets = dx[row * n..(row + 1) * n].iter_mut();
            if accumulate {
                parts.zip(targets).for_each(|(parts, dx)| *dx = T::narrow(dx.widen() + gradient(parts)));
            } else {
                parts.zip(targets).for_each(|(parts, dx)| *dx = T::narrow(gradient(parts)));
            }
        }
    }
}
