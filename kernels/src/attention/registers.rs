//! The vector registers that the matrix products keep their sums in, for each instruction set.

/// A vector of f32 and what a register tile does with it.
///
/// # Safety
/// The functions need the CPU to have the instruction set; loads and stores touch `COUNT` elements.
pub(super) trait Registers: Copy {
    /// Elements of a vector.
    const COUNT: usize;
    /// Vectors beside each other in a register tile.
    const TILE_VECTORS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
}

/// Four f32 in plain Rust, which compilers turn into the baseline's vectors.
pub(super) type Plain = [f32; 4];

impl Registers for Plain {
    const COUNT: usize = 4;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Plain {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Plain {
        // SAFETY: four elements, by the trait's contract.
        unsafe { from.cast::<Plain>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four elements, by the trait's contract.
        unsafe { to.cast::<Plain>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Plain) -> Plain {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }
    #[inline(always)]
    unsafe fn multiply_add(self, factor: Plain, sum: Plain) -> Plain {
        std::array::from_fn(|lane| self[lane] * factor[lane] + sum[lane])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Registers;
    use std::arch::x86_64::*;

    macro_rules! registers {
        ($vector:ty, $count:literal, $tile:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $fma:ident) => {
            impl Registers for $vector {
                const COUNT: usize = $count;
                const TILE_VECTORS: usize = $tile;

                #[inline(always)]
                unsafe fn splat(value: f32) -> $vector {
                    // SAFETY: the instruction set is the caller's promise.
                    unsafe { $splat(value) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> $vector {
                    // SAFETY: as above; the elements are the caller's.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn add(self, other: $vector) -> $vector {
                    // SAFETY: as in `splat`.
                    unsafe { $add(self, other) }
                }
                #[inline(always)]
                unsafe fn multiply_add(self, factor: $vector, sum: $vector) -> $vector {
                    // SAFETY: as in `splat`.
                    unsafe { $fma(self, factor, sum) }
                }
            }
        };
    }

    // 6 x 4 sums, 4 vectors of B and a factor fill the 32 registers of AVX-512; 6 x 2 the 16 of AVX2.
    registers!(__m512, 16, 4, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps);
    registers!(__m256, 8, 2, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_fmadd_ps);
}
