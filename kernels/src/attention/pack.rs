//! Moves head-sized matrices between packed tensors of f32 or bf16 and contiguous f32 scratch: copy, transpose, store.
//!
//! Scratch rows are whole vectors of [`LANES`]; columns past the head dimension are 0.

use crate::simd::{Float, LANES, fold};
use crate::vectorized;

/// Side of the square blocks that are transposed at a time.
const SIDE: usize = 8;

vectorized! {
    /// Copies rows of `columns` elements, `stride` apart, times `scale`, into rows of `to_stride`.
    pub(super) fn load_rows<T: Float>(from: &[T], stride: usize, columns: usize, scale: f32, to: &mut [f32], to_stride: usize) {
        for (from, to) in from.chunks(stride).zip(to.chunks_exact_mut(to_stride)) {
            let (from, from_rest) = from[..columns].as_chunks::<LANES>();
            let (to, to_rest) = to.as_chunks_mut::<LANES>().0.split_at_mut(from.len());
            for (to, from) in to.iter_mut().zip(from) {
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = from.widen() * scale;
                }
            }
            if let Some(to) = to_rest.first_mut() {
                *to = [0.0; LANES];
                to.iter_mut().zip(from_rest).for_each(|(to, &from)| *to = from.widen() * scale);
            }
        }
    }

    /// Transposes `rows` rows of `columns` elements, `stride` apart, into `columns` rows of `to_stride`. The scratch
    /// rows' elements past `rows` are 0.
    pub(super) fn transpose<T: Float>(from: &[T], stride: usize, rows: usize, columns: usize, to: &mut [f32], to_stride: usize) {
        let (whole_rows, whole_columns) = (rows / SIDE * SIDE, columns / SIDE * SIDE);
        for row in (0..whole_rows).step_by(SIDE) {
            for column in (0..whole_columns).step_by(SIDE) {
                let mut block = [[0.0f32; SIDE]; SIDE];
                for (index, block) in block.iter_mut().enumerate() {
                    let from = &from[(row + index) * stride + column..][..SIDE];
                    block.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
                }
                let block = transposed(block);
                for (index, block) in block.iter().enumerate() {
                    to[(column + index) * to_stride + row..][..SIDE].copy_from_slice(block);
                }
            }
        }
        for row in 0..rows {
            let first = if row < whole_rows { whole_columns } else { 0 };
            for column in first..columns {
                to[column * to_stride + row] = from[row * stride + column].widen();
            }
        }
        for row in to.chunks_exact_mut(to_stride).take(columns) {
            row[rows..].fill(0.0);
        }
    }

    /// One row of scratch times `scale` into a tensor, or added to it.
    pub(super) fn store_row<T: Float>(from: &[f32], scale: f32, accumulate: bool, to: &mut [T]) {
        let (to, to_rest) = to.as_chunks_mut::<LANES>();
        let (from, from_rest) = from.as_chunks::<LANES>().0.split_at(to.len());
        for (to, from) in to.iter_mut().zip(from) {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = T::narrow(if accumulate { to.widen() + from * scale } else { from * scale });
            }
        }
        if let Some(from) = from_rest.first() {
            for (to, &from) in to_rest.iter_mut().zip(from) {
                *to = T::narrow(if accumulate { to.widen() + from * scale } else { from * scale });
            }
        }
    }

    /// The dot product of each row of the result, `stride` apart, with its gradient in scratch.
    pub(super) fn row_dots<T: Float>(result: &[T], stride: usize, columns: usize, gradient: &[f32], gradient_stride: usize, dots: &mut [f32]) {
        for ((result, gradient), dot) in result.chunks(stride).zip(gradient.chunks_exact(gradient_stride)).zip(dots) {
            let mut sums = [0.0f32; LANES];
            for (result, gradient) in result[..columns].chunks(LANES).zip(gradient.as_chunks::<LANES>().0) {
                match result.as_array::<LANES>() {
                    Some(result) => {
                        for lane in 0..LANES {
                            sums[lane] = L::fma(result[lane].widen(), gradient[lane], sums[lane]);
                        }
                    }
                    None => {
                        for (lane, result) in result.iter().enumerate() {
                            sums[lane] = L::fma(result.widen(), gradient[lane], sums[lane]);
                        }
                    }
                }
            }
            *dot = fold(sums);
        }
    }
}

/// Three rounds of exchanging halves, quarters and eighths of rows: each a pattern that compilers turn into shuffles.
#[inline(always)]
fn transposed(mut block: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
    let mut half = SIDE / 2;
    while half > 0 {
        let before = block;
        for (row, values) in block.iter_mut().enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                // Element (r, c) changes places with (r ^ half, c ^ half) where exactly one of them has the bit.
                if row & half != column & half {
                    *value = before[row ^ half][column ^ half];
                }
            }
        }
        half /= 2;
    }
    block
}
