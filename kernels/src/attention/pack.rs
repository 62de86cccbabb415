//! Moves head-sized matrices between packed tensors of f32 or bf16 and contiguous f32 scratch: copy and store.
//!
//! Scratch rows are whole vectors of [`LANES`]; columns past the head dimension are 0.

use super::cpu::Rows;
use crate::simd::{Float, LANES, Level, fold, prefetch};
use crate::vectorized;

/// Rows that are fetched ahead: the processor does not see that they are a stride apart.
const AHEAD: usize = 16;

vectorized! {
    /// Copies rows of `columns` elements, `stride` apart, into rows of `to_stride`.
    pub(super) fn load_rows<T: Float>(from: &[T], stride: usize, columns: usize, to: &mut [f32], to_stride: usize) {
        for (from, to) in from.chunks(stride).zip(to.chunks_exact_mut(to_stride)) {
            for column in (0..columns).step_by(64 / size_of::<T>()) {
                prefetch(from.as_ptr().wrapping_add(AHEAD * stride + column).cast());
            }
            let (from, from_rest) = from[..columns].as_chunks::<LANES>();
            let (to, to_rest) = to.as_chunks_mut::<LANES>().0.split_at_mut(from.len());
            for (to, from) in to.iter_mut().zip(from) {
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = from.widen();
                }
            }
            if let Some(to) = to_rest.first_mut() {
                *to = [0.0; LANES];
                to.iter_mut().zip(from_rest).for_each(|(to, &from)| *to = from.widen());
            }
        }
    }

    /// Rows of scratch into a tensor, or added to it: each times its scale, or all times the only one.
    pub(super) fn store_rows<T: Float>(from: &[f32], from_stride: usize, scales: &[f32], to: Rows<'_, T>) {
        let mut to = to;
        for (index, from) in from.chunks_exact(from_stride).enumerate() {
            let scale = scales[index.min(scales.len() - 1)];
            let (to, accumulate) = to.row(index);
            store_row::<T, L>(from, scale, accumulate, to);
        }
    }

    /// The dot product of each row of the result with its gradient; rows of both are `stride` apart.
    pub(super) fn row_dots<T: Float>(result: &[T], gradient: &[T], stride: usize, columns: usize, dots: &mut [f32]) {
        for ((result, gradient), dot) in result.chunks(stride).zip(gradient.chunks(stride)).zip(dots) {
            let (result, result_rest) = result[..columns].as_chunks::<LANES>();
            let (gradient, gradient_rest) = gradient[..columns].as_chunks::<LANES>();
            let mut sums = [0.0f32; LANES];
            for (result, gradient) in result.iter().zip(gradient) {
                for lane in 0..LANES {
                    sums[lane] = L::fma(result[lane].widen(), gradient[lane].widen(), sums[lane]);
                }
            }
            for ((result, gradient), sum) in result_rest.iter().zip(gradient_rest).zip(&mut sums) {
                *sum = L::fma(result.widen(), gradient.widen(), *sum);
            }
            *dot = fold(sums);
        }
    }
}

/// One row. Values wait in arrays: the compiler cannot know that scratch and tensor do not overlap.
#[inline(always)]
fn store_row<T: Float, L: Level>(from: &[f32], scale: f32, accumulate: bool, to: &mut [T]) {
    let (to, to_rest) = to.as_chunks_mut::<LANES>();
    let (from, from_rest) = from.as_chunks::<LANES>().0.split_at(to.len());
    for (to, from) in to.iter_mut().zip(from) {
        let mut values = *from;
        values.iter_mut().for_each(|value| *value *= scale);
        if accumulate {
            values.iter_mut().zip(&*to).for_each(|(value, to)| *value += to.widen());
        }
        *to = T::narrow_lanes::<L>(values);
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest.iter().flatten()) {
        *to = T::narrow(if accumulate { to.widen() + from * scale } else { from * scale });
    }
}
