//! CPU code of the reductions: f64 lanes over chunks of a fixed length.

use super::CHUNK;
use crate::vectorized;
use engine::{CpuQueue, Shared};

/// Independent f64 sums inside a chunk.
const LANES: usize = 32;

pub(super) fn sum(queue: &CpuQueue, values: &[f32]) -> Vec<f64> {
    chunked(queue, values, |values| sum_chunk(queue.isa(), values))
}

pub(super) fn sum_of_squares(queue: &CpuQueue, values: &[f32]) -> Vec<f64> {
    chunked(queue, values, |values| square_chunk(queue.isa(), values))
}

pub(super) fn count_non_finite(queue: &CpuQueue, values: &[f32]) -> Vec<f64> {
    chunked(queue, values, |values| count_chunk(queue.isa(), values))
}

/// The sum of each chunk.
fn chunked(queue: &CpuQueue, values: &[f32], kernel: impl Fn(&[f32]) -> f64 + Sync) -> Vec<f64> {
    let mut partial = vec![0.0f64; values.len().div_ceil(CHUNK)];
    let shared = Shared::new(&mut partial);
    queue.parallel_spans(values.len().div_ceil(CHUNK), 1, |chunks| {
        // SAFETY: tasks have elements of their own.
        let partial = unsafe { shared.part(chunks.clone()) };
        for (partial, values) in partial.iter_mut().zip(values[chunks.start * CHUNK..].chunks(CHUNK)) {
            *partial = kernel(values);
        }
    });
    partial
}

/// Sum of `term` over the values in [`LANES`] interleaved sums, added pairwise.
#[inline(always)]
pub(crate) fn lanes(values: &[f32], term: impl Fn(f32) -> f64) -> f64 {
    let mut sums = [0.0f64; LANES];
    let whole = values.chunks_exact(LANES);
    let rest = whole.remainder();
    for chunk in whole {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += term(value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += term(value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

vectorized! {
    fn sum_chunk(values: &[f32]) -> f64 {
        lanes(values, f64::from)
    }

    fn square_chunk(values: &[f32]) -> f64 {
        lanes(values, |value| f64::from(value) * f64::from(value))
    }

    fn count_chunk(values: &[f32]) -> f64 {
        lanes(values, |value| if value.is_finite() { 0.0 } else { 1.0 })
    }
}
