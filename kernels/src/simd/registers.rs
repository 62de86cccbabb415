//! Vector registers of f32 for each instruction set, for products that keep their sums in them.

use super::Float;
use engine::cpu::Isa;
use half::bf16;

/// A vector of f32 and what a register tile does with it.
///
/// # Safety
/// The functions need the CPU to have the instruction set; loads and stores touch `COUNT` elements.
pub(crate) trait Registers: Copy {
    /// Elements of a vector.
    const COUNT: usize;
    /// Vectors beside each other in a register tile.
    const TILE_VECTORS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Of bf16, widened.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
}

/// What is done with the vectors of an instruction set that is chosen at run time. `run` and what it calls are to be inlined.
pub(crate) trait Kernel {
    /// # Safety
    /// The CPU has the instruction set of these vectors, and what the kernel asks for.
    unsafe fn run<R: Registers>(self);
}

/// Runs a kernel with the widest vectors of an instruction set.
///
/// # Safety
/// The CPU has the instruction set, and what the kernel asks for.
pub(crate) unsafe fn run(isa: Isa, kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn avx512(kernel: impl Kernel) {
            // SAFETY: the caller's.
            unsafe { kernel.run::<__m512>() }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(kernel: impl Kernel) {
            // SAFETY: the caller's.
            unsafe { kernel.run::<__m256>() }
        }
        match isa {
            // SAFETY: the caller's.
            Isa::Avx512 | Isa::Avx512Bf16 => return unsafe { avx512(kernel) },
            // SAFETY: the caller's.
            Isa::Avx2 => return unsafe { avx2(kernel) },
            Isa::Scalar => {}
        }
    }
    let _ = isa;
    // SAFETY: the caller's.
    unsafe { kernel.run::<Plain>() }
}

/// What vectors are loaded from.
pub(crate) trait Stored: Float {
    /// A vector, widened.
    ///
    /// # Safety
    /// As [`Registers::load`].
    unsafe fn load<R: Registers>(from: *const Self) -> R;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<R: Registers>(from: *const f32) -> R {
        // SAFETY: the caller's.
        unsafe { R::load(from) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn load<R: Registers>(from: *const bf16) -> R {
        // SAFETY: the caller's.
        unsafe { R::load_bf16(from) }
    }
}

/// Four f32 in plain Rust, which compilers turn into the baseline's vectors.
pub(crate) type Plain = [f32; 4];

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
    unsafe fn load_bf16(from: *const bf16) -> Plain {
        // SAFETY: four elements, by the trait's contract.
        let halves = unsafe { from.cast::<[bf16; 4]>().read_unaligned() };
        std::array::from_fn(|lane| halves[lane].widen())
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
    use half::bf16;
    use std::arch::x86_64::*;

    macro_rules! registers {
        ($vector:ty, $count:literal, $tile:literal, $splat:ident, $load:ident, $widen:ident, $store:ident, $add:ident, $fma:ident) => {
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
                unsafe fn load_bf16(from: *const bf16) -> $vector {
                    // SAFETY: as above.
                    unsafe { $widen(from) }
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

    /// # Safety
    /// AVX-512, and 16 elements.
    #[inline(always)]
    unsafe fn widen_16(from: *const bf16) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))) }
    }

    /// # Safety
    /// AVX2, and 8 elements.
    #[inline(always)]
    unsafe fn widen_8(from: *const bf16) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))) }
    }

    // 6 x 4 sums, 4 vectors of B and a factor fill the 32 registers of AVX-512; 6 x 2 the 16 of AVX2.
    registers!(
        __m512,
        16,
        4,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        widen_16,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_fmadd_ps
    );
    registers!(
        __m256,
        8,
        2,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        widen_8,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_fmadd_ps
    );
}
