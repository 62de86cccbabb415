//! Moves head-sized matrices between packed tensors of f32 or bf16 and contiguous f32 scratch: copy and store.
//!
//! Scratch rows are whole vectors of [`LANES`]; columns past the head dimension are 0.

use super::cpu::Rows;
use crate::simd::registers::{self, Kernel, Lanes, Stored};
use crate::simd::{Float, LANES, LINE, fold, prefetch};
use crate::vectorized;
use engine::cpu::Isa;

/// Rows that are fetched ahead: the processor does not see that they are a stride apart.
const AHEAD: usize = 16;

/// Copies rows of `columns` elements, `stride` apart, into rows of `to_stride`.
pub(super) fn load_rows<T: Stored>(
    isa: Isa,
    from: &[T],
    stride: usize,
    columns: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    // SAFETY: the instruction set is a queue's.
    unsafe { registers::run(isa, Load { from, stride, columns, to, to_stride }) };
}

/// Rows of scratch into a tensor, or added to it: each times its scale, or all times the only one.
pub(super) fn store_rows<T: Stored>(isa: Isa, from: &[f32], from_stride: usize, scales: &[f32], to: Rows<'_, T>) {
    // SAFETY: the instruction set is a queue's.
    unsafe { registers::run(isa, Store { from, from_stride, scales, to }) };
}

struct Load<'a, T> {
    from: &'a [T],
    stride: usize,
    columns: usize,
    to: &'a mut [f32],
    to_stride: usize,
}

impl<T: Stored> Kernel for Load<'_, T> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        let Load { from, stride, columns, to, to_stride } = self;
        let whole = columns / R::COUNT * R::COUNT;
        for (from, to) in from.chunks(stride).zip(to.chunks_exact_mut(to_stride)) {
            for column in (0..columns).step_by(LINE / size_of::<T>()) {
                prefetch(from.as_ptr().wrapping_add(AHEAD * stride + column).cast());
            }
            let (from, to) = (&from[..columns], &mut to[..]);
            for at in (0..whole).step_by(R::COUNT) {
                // SAFETY: whole vectors of both rows.
                unsafe { T::load::<R>(from.as_ptr().add(at)).store(to.as_mut_ptr().add(at)) };
            }
            to[whole..].fill(0.0);
            to[whole..].iter_mut().zip(&from[whole..]).for_each(|(to, &from)| *to = from.widen());
        }
    }
}

struct Store<'a, 'b, T> {
    from: &'a [f32],
    from_stride: usize,
    scales: &'a [f32],
    to: Rows<'b, T>,
}

impl<T: Stored> Kernel for Store<'_, '_, T> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        let Store { from, from_stride, scales, mut to } = self;
        for (index, from) in from.chunks_exact(from_stride).enumerate() {
            let scale = scales[index.min(scales.len() - 1)];
            let (to, accumulate) = to.row(index);
            let from = &from[..to.len()];
            let whole = to.len() / R::COUNT * R::COUNT;
            for at in (0..whole).step_by(R::COUNT) {
                // SAFETY: whole vectors of both rows.
                unsafe {
                    let (from, to) = (from.as_ptr().add(at), to.as_mut_ptr().add(at));
                    let values = R::load(from).multiply(R::splat(scale));
                    T::store(if accumulate { values.add(T::load(to)) } else { values }, to);
                }
            }
            for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
                *to = T::narrow(if accumulate { to.widen() + from * scale } else { from * scale });
            }
        }
    }
}

vectorized! {
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
