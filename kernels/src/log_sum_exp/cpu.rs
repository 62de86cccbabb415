//! CPU code: one task for a row, in two passes.

use crate::simd::{math, max_of, sum_of};
use crate::vectorized;
use engine::{CpuQueue, Out, Result, Shared, View};

pub(super) fn run(queue: &CpuQueue, x: &View<'_>, y: &mut Out<'_>) -> Result<()> {
    let (rows, n) = (x.shape().rows(), x.shape().columns());
    let x = x.slice::<f32>()?;
    let y = Shared::new(y.slice_mut::<f32>()?);
    queue.parallel(rows, |row| {
        let value = log_sum_exp(queue.isa(), &x[row * n..(row + 1) * n]);
        // SAFETY: tasks have rows of their own.
        let y = unsafe { &mut y.part(row..row + 1)[0] };
        *y = value;
    });
    Ok(())
}

vectorized! {
    fn log_sum_exp(x: &[f32]) -> f32 {
        let largest = max_of(x);
        largest + sum_of((x,), |[x]| math::exp::<L>(x - largest)).ln()
    }
}
