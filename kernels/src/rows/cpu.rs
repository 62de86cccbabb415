//! CPU code of rows by index.

use crate::simd::Float;
use crate::vectorized;
use engine::{CpuQueue, DType, Error, Out, Result, Shared, View};
use half::bf16;

/// Columns of a scatter task: a cache line of f32 or more, so that tasks do not share lines.
const COLUMNS: usize = 64;

pub(super) fn take(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => take_typed::<bf16>(queue, inputs, outputs),
        _ => take_typed::<f32>(queue, inputs, outputs),
    }
}

pub(super) fn give(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let index = inputs[1].slice::<i32>()?;
    check(index, inputs[0].shape().rows())?;
    match inputs[0].meta().dtype {
        DType::BF16 => scatter_add::<bf16, bf16>(queue, index, inputs[2].slice()?, &mut outputs[0]),
        _ => scatter_add::<f32, f32>(queue, index, inputs[2].slice()?, &mut outputs[0]),
    }
}

fn check(index: &[i32], rows: usize) -> Result<()> {
    match index.iter().position(|&row| row < 0 || row as usize >= rows) {
        None => Ok(()),
        Some(at) => Err(Error::invalid(format!("index[{at}] is {}, x has {rows} rows", index[at]))),
    }
}

fn take_typed<T: Float>(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (x, index) = (inputs[0].slice::<T>()?, inputs[1].slice::<i32>()?);
    let n = inputs[0].shape().columns();
    check(index, inputs[0].shape().rows())?;
    let accumulate = outputs[0].accumulates();
    let y = Shared::new(outputs[0].slice_mut::<T>()?);
    queue.parallel_ranges(index.len(), 64, |range| {
        for row in range {
            // SAFETY: tasks have rows of their own.
            let y = unsafe { y.part(row * n..(row + 1) * n) };
            let x = &x[index[row] as usize * n..][..n];
            if accumulate {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = T::narrow(y.widen() + x.widen()));
            } else {
                y.copy_from_slice(x);
            }
        }
    });
    Ok(())
}

/// `out[index[i]] += dy[i]` in the order of i (negative indices are passed over); zeroes `out` first if it is set. Tasks
/// own columns, so the order of additions is the same for any number of threads.
pub(crate) fn scatter_add<S: Float, T: Float>(
    queue: &CpuQueue,
    index: &[i32],
    dy: &[S],
    out: &mut Out<'_>,
) -> Result<()> {
    let n = out.shape().columns();
    let accumulate = out.accumulates();
    let out = out.slice_mut::<T>()?;
    let total = out.len();
    let out = Shared::new(out);
    if !accumulate {
        queue.parallel_ranges(total, 1 << 16, |range| {
            // SAFETY: ranges are disjoint.
            unsafe { out.part(range) }.fill(T::narrow(0.0));
        });
    }
    queue.parallel_ranges(n, COLUMNS, |columns| {
        for (from, &row) in index.iter().enumerate().filter(|&(_, &row)| row >= 0) {
            let start = row as usize * n;
            // SAFETY: tasks have columns of their own.
            let target = unsafe { out.part(start + columns.start..start + columns.end) };
            add::<S, T>(queue.isa(), &dy[from * n + columns.start..from * n + columns.end], target);
        }
    });
    Ok(())
}

vectorized! {
    fn add<S: Float, T: Float>(dy: &[S], out: &mut [T]) {
        out.iter_mut().zip(dy).for_each(|(out, dy)| *out = T::narrow(out.widen() + dy.widen()));
    }
}
