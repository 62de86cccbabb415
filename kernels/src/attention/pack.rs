//! Moves head-sized matrices between packed tensors of f32 or bf16 and contiguous f32 scratch: copy, transpose, store.
//!
//! Scratch rows are whole vectors of [`LANES`]; columns past the head dimension are 0.

use crate::simd::transpose::SIDE;
use crate::simd::{Float, LANES, fold};
use crate::vectorized;

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

    /// Transposes `rows` rows of `columns` elements, `stride` apart, into `columns` rows of `to_stride`, which is a multiple of
    /// [`LANES`]. The scratch rows' elements past `rows` are 0.
    pub(super) fn transpose<T: Float>(from: &[T], stride: usize, rows: usize, columns: usize, to: &mut [f32], to_stride: usize) {
        let whole_columns = columns / SIDE * SIDE;
        for row in (0..rows).step_by(SIDE) {
            let count = SIDE.min(rows - row);
            for column in (0..whole_columns).step_by(SIDE) {
                // Short sequences are one such block: every lane reads some row, and what is not there becomes 0.
                let mut block = [[0.0f32; SIDE]; SIDE];
                for (index, block) in block.iter_mut().enumerate() {
                    let from = &from[(row + index).min(rows - 1) * stride + column..][..SIDE];
                    block.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
                }
                if count < SIDE {
                    for (index, block) in block.iter_mut().enumerate() {
                        *block = if index < count { *block } else { [0.0; SIDE] };
                    }
                }
                // SAFETY: `L` is a set that the CPU has.
                let block = unsafe { L::transposed(block) };
                for (index, block) in block.iter().enumerate() {
                    to[(column + index) * to_stride + row..][..SIDE].copy_from_slice(block);
                }
            }
            for index in 0..count {
                for column in whole_columns..columns {
                    to[column * to_stride + row + index] = from[(row + index) * stride + column].widen();
                }
            }
        }
        let filled = |column: usize| if column < whole_columns { rows.next_multiple_of(SIDE) } else { rows };
        for (column, row) in to.chunks_exact_mut(to_stride).enumerate().take(columns) {
            row[filled(column)..].fill(0.0);
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
