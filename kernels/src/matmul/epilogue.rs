//! What happens to a finished tile of C on its way to memory: scale, bias, GELU with the pre-activation kept, GELU
//! backward, residual; set or add; f32 or bf16.

use super::gemm::Place;
use crate::simd::{Float, LANES, Level, math, prefetch};
use crate::vectorized;
use engine::cpu::Isa;
use half::bf16;
use std::marker::PhantomData;

/// Which GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), exact.
    Gelu,
    /// x σ(1.702 x).
    QuickGelu,
}

/// Where C goes.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub pointer: *mut u8,
    /// Elements from one row to the next.
    pub stride: usize,
    pub is_bf16: bool,
    pub accumulate: bool,
    /// The product is multiplied by this before anything else.
    pub alpha: f32,
    pub lifetime: PhantomData<&'a mut u8>,
}

// SAFETY: tasks write disjoint tiles.
unsafe impl Send for Target<'_> {}
// SAFETY: as above.
unsafe impl Sync for Target<'_> {}

impl Target<'_> {
    pub fn is_f32(&self) -> bool {
        !self.is_bf16
    }
}

/// Another matrix of C's shape and type, with rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub pointer: *mut u8,
    pub stride: usize,
    pub lifetime: PhantomData<&'a mut u8>,
}

// SAFETY: tasks touch disjoint tiles.
unsafe impl Send for Side<'_> {}
// SAFETY: as above.
unsafe impl Sync for Side<'_> {}

/// What is fused behind the product.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Added to every row, f32 `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias; the value before it is written to the side matrix.
    pub activate: Option<(Activation, Side<'a>)>,
    /// The product is multiplied by the activation's derivative at the side matrix.
    pub activation_backward: Option<(Activation, Side<'a>)>,
    /// Added last.
    pub residual: Option<Side<'a>>,
}

impl Epilogue<'_> {
    pub fn is_none(&self) -> bool {
        self.bias.is_none() && self.activate.is_none() && self.activation_backward.is_none() && self.residual.is_none()
    }
}

/// Asks for the cache lines of a tile's place in C and the side matrices before its product is computed.
pub(crate) fn fetch(place: Place, target: &Target<'_>, epilogue: &Epilogue<'_>) {
    let size = if target.is_bf16 { 2 } else { 4 };
    let lines = |pointer: *mut u8, stride: usize| {
        for row in place.row..place.row + place.rows {
            let start = (row * stride + place.column) * size;
            for byte in [start, start + place.columns * size / 2, start + place.columns * size - 1] {
                prefetch(pointer.wrapping_add(byte));
            }
        }
    };
    lines(target.pointer, target.stride);
    for (_, side) in [epilogue.activate, epilogue.activation_backward].into_iter().flatten() {
        lines(side.pointer, side.stride);
    }
    if let Some(side) = epilogue.residual {
        lines(side.pointer, side.stride);
    }
}

/// Writes a tile, which is worked on in place.
///
/// # Safety
/// The tile's place lies inside C and the side matrices, and belongs to the calling task.
pub(crate) unsafe fn finish(
    isa: Isa,
    tile: &mut [f32],
    place: Place,
    target: &Target<'_>,
    accumulate: bool,
    epilogue: &Epilogue<'_>,
) {
    if target.is_bf16 {
        finish_as::<bf16>(isa, tile, place, target, accumulate, epilogue);
    } else {
        finish_as::<f32>(isa, tile, place, target, accumulate, epilogue);
    }
}

vectorized! {
    fn finish_as<T: Float>(
        tile: &mut [f32],
        place: Place,
        target: &Target<'_>,
        accumulate: bool,
        epilogue: &Epilogue<'_>,
    ) {
        if target.alpha != 1.0 {
            pass(tile, place, |_, _, _, values| values.iter_mut().for_each(|value| *value *= target.alpha));
        }
        if let Some(bias) = epilogue.bias {
            pass(tile, place, |_, column, count, values| add(values, load(&bias[column..column + count])));
        }
        match epilogue.activate {
            Some((Activation::Gelu, side)) => activate::<T, L>(tile, place, side, math::gelu::<L>),
            Some((Activation::QuickGelu, side)) => activate::<T, L>(tile, place, side, math::quick_gelu::<L>),
            None => {}
        }
        match epilogue.activation_backward {
            Some((Activation::Gelu, side)) => chain::<T>(tile, place, side, math::gelu_derivative::<L>),
            Some((Activation::QuickGelu, side)) => chain::<T>(tile, place, side, math::quick_gelu_derivative::<L>),
            None => {}
        }
        if let Some(side) = epilogue.residual {
            pass(tile, place, |row, column, count, values| {
                // SAFETY: the caller's contract.
                add(values, load(unsafe { part::<T>(side.pointer, side.stride, row, column, count) }));
            });
        }
        if accumulate {
            pass(tile, place, |row, column, count, values| {
                // SAFETY: the caller's contract.
                add(values, load(unsafe { part::<T>(target.pointer, target.stride, row, column, count) }));
            });
        }
        pass(tile, place, |row, column, count, values| {
            // SAFETY: the caller's contract. What lies here was read in a pass before: residuals may be in place.
            store(unsafe { part::<T>(target.pointer, target.stride, row, column, count) }, T::narrow_lanes::<L>(*values));
        });
    }
}

/// Keeps the values and applies the activation to what is kept: the value rounded to its storage type.
#[inline(always)]
fn activate<T: Float, L: Level>(tile: &mut [f32], place: Place, side: Side<'_>, activation: impl Fn(f32) -> f32) {
    pass(tile, place, |row, column, count, values| {
        let kept = T::narrow_lanes::<L>(*values);
        // SAFETY: the contract of `finish`.
        store(unsafe { part::<T>(side.pointer, side.stride, row, column, count) }, kept);
        values.iter_mut().zip(kept).for_each(|(value, kept)| *value = activation(kept.widen()));
    });
}

/// Multiplies by the derivative at what was kept.
#[inline(always)]
fn chain<T: Float>(tile: &mut [f32], place: Place, side: Side<'_>, derivative: impl Fn(f32) -> f32) {
    pass(tile, place, |row, column, count, values| {
        // SAFETY: the contract of `finish`.
        let kept = load(unsafe { part::<T>(side.pointer, side.stride, row, column, count) });
        values.iter_mut().zip(kept).for_each(|(value, x)| *value *= derivative(x));
    });
}

/// Elements of a row of a matrix.
///
/// # Safety
/// They lie in it, and belong to the caller.
#[inline(always)]
unsafe fn part<'a, T: Float>(pointer: *mut u8, stride: usize, row: usize, column: usize, count: usize) -> &'a mut [T] {
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts_mut(pointer.cast::<T>().add(row * stride + column), count) }
}

/// Goes over a tile, which lies in level-1 cache, in parts of [`LANES`] values: `work(row, column, count, values)`. Values
/// travel in arrays of fixed size, which become vector registers where the count is a constant; plain loops over them,
/// because what the standard library calls for an array would not be compiled for the instruction set. One pass for each
/// thing to do, so that what there is to do is not asked for every part.
#[inline(always)]
fn pass(tile: &mut [f32], place: Place, work: impl Fn(usize, usize, usize, &mut [f32; LANES])) {
    for i in 0..place.rows {
        let row = place.row + i;
        let (whole, rest) = tile[i * place.stride..i * place.stride + place.columns].as_chunks_mut::<LANES>();
        let last = place.column + whole.len() * LANES;
        for (part, values) in whole.iter_mut().enumerate() {
            work(row, place.column + part * LANES, LANES, values);
        }
        if !rest.is_empty() {
            let mut values = [0.0; LANES];
            values[..rest.len()].copy_from_slice(rest);
            work(row, last, rest.len(), &mut values);
            rest.copy_from_slice(&values[..rest.len()]);
        }
    }
}

/// A slice of at most [`LANES`] elements, widened; zeros behind it.
#[inline(always)]
fn load<T: Float>(slice: &[T]) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    for (value, element) in values.iter_mut().zip(slice) {
        *value = element.widen();
    }
    values
}

/// As many of the values as the slice holds.
#[inline(always)]
fn store<T: Float>(slice: &mut [T], values: [T; LANES]) {
    for (element, value) in slice.iter_mut().zip(values) {
        *element = value;
    }
}

#[inline(always)]
fn add(values: &mut [f32; LANES], terms: [f32; LANES]) {
    for (value, term) in values.iter_mut().zip(terms) {
        *value += term;
    }
}
