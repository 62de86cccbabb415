//! What happens to a finished tile of C on its way to memory: scale, bias, GELU with the pre-activation kept, GELU
//! backward, residual; set or add; f32 or bf16.

use super::gemm::Place;
use crate::simd::{Float, math};
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

/// Writes a tile.
///
/// # Safety
/// The tile's place lies inside C and the side matrices, and belongs to the calling task.
pub(crate) unsafe fn finish(
    isa: Isa,
    tile: &[f32],
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
        tile: &[f32],
        place: Place,
        target: &Target<'_>,
        accumulate: bool,
        epilogue: &Epilogue<'_>,
    ) {
        let Place { row, rows, column, columns, stride } = place;
        let mut line = [0.0f32; 32];
        let line = &mut line[..columns];
        for i in 0..rows {
            line.copy_from_slice(&tile[i * stride..i * stride + columns]);
            // SAFETY: the caller's contract; in-place residuals are read before the same element is written.
            let slice = |pointer: *mut u8, stride: usize| unsafe {
                std::slice::from_raw_parts_mut(pointer.cast::<T>().add((row + i) * stride + column), columns)
            };
            if target.alpha != 1.0 {
                line.iter_mut().for_each(|value| *value *= target.alpha);
            }
            if let Some(bias) = epilogue.bias {
                line.iter_mut().zip(&bias[column..column + columns]).for_each(|(value, bias)| *value += bias);
            }
            if let Some((activation, side)) = epilogue.activate {
                let kept = slice(side.pointer, side.stride);
                match activation {
                    Activation::Gelu => {
                        for (value, kept) in line.iter_mut().zip(kept) {
                            *kept = T::narrow(*value);
                            *value = math::gelu::<L>(kept.widen());
                        }
                    }
                    Activation::QuickGelu => {
                        for (value, kept) in line.iter_mut().zip(kept) {
                            *kept = T::narrow(*value);
                            *value = math::quick_gelu::<L>(kept.widen());
                        }
                    }
                }
            }
            if let Some((activation, side)) = epilogue.activation_backward {
                let kept = slice(side.pointer, side.stride);
                match activation {
                    Activation::Gelu => {
                        for (value, kept) in line.iter_mut().zip(kept) {
                            *value *= math::gelu_derivative::<L>(kept.widen());
                        }
                    }
                    Activation::QuickGelu => {
                        for (value, kept) in line.iter_mut().zip(kept) {
                            *value *= math::quick_gelu_derivative::<L>(kept.widen());
                        }
                    }
                }
            }
            if let Some(residual) = epilogue.residual {
                let residual = slice(residual.pointer, residual.stride);
                line.iter_mut().zip(residual).for_each(|(value, residual)| *value += residual.widen());
            }
            let out = slice(target.pointer, target.stride);
            if accumulate {
                out.iter_mut().zip(line.iter()).for_each(|(out, value)| *out = T::narrow(out.widen() + value));
            } else {
                out.iter_mut().zip(line.iter()).for_each(|(out, value)| *out = T::narrow(*value));
            }
        }
    }
}
