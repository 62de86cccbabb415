//! The vectors that attention's inner loops are written in: one trait, one implementation for each instruction set.

use engine::cpu::Isa;
use half::bf16;

/// A piece of work written once for all instruction sets.
pub(super) trait Kernel {
    type Output;

    /// # Safety
    /// The CPU has the instructions of `L`, and the pointers that the kernel holds are valid.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs a kernel on a path.
///
/// # Safety
/// As for [`Kernel::run`]; the path is available.
#[inline(always)]
pub(super) unsafe fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    // SAFETY: the caller's.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => x86::run_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::run_avx2(kernel),
            _ => kernel.run::<Scalar>(),
        }
    }
}

/// A vector of f32.
///
/// # Safety
/// All functions need the instructions of the implementing type; loads and stores touch `COUNT` elements.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Lanes: Copy {
    const COUNT: usize;
    /// Vectors beside each other in a register tile.
    const TILE_VECTORS: usize;
    type V: Copy;

    unsafe fn zero() -> Self::V;
    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, value: Self::V);
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    unsafe fn store_bf16(to: *mut bf16, value: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn multiply(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn multiply_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn largest(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn exp(value: Self::V) -> Self::V;
    unsafe fn reduce_sum(value: Self::V) -> f32;
    unsafe fn reduce_largest(value: Self::V) -> f32;
}

/// Coefficients of the Taylor series of exp from r⁷ down to r⁰: |r| <= ln 2 / 2 leaves 6e-9.
const EXP: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
/// ln 2 in two parts, the first exact in few bits.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Below this exp is 0 in f32.
const EXP_LOW: f32 = -104.0;

/// Plain Rust in groups of four, which compilers turn into baseline vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar;

fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    std::array::from_fn(|index| f(a[index], b[index]))
}

// SAFETY of the blocks: pointers are valid by the trait's contract.
impl Lanes for Scalar {
    const COUNT: usize = 4;
    const TILE_VECTORS: usize = 2;
    type V = [f32; 4];

    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 4] {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: see above.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: [f32; 4]) {
        // SAFETY: see above.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> [f32; 4] {
        // SAFETY: see above.
        unsafe { from.cast::<[bf16; 4]>().read_unaligned() }.map(bf16::to_f32)
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, value: [f32; 4]) {
        // SAFETY: see above.
        unsafe { to.cast::<[bf16; 4]>().write_unaligned(value.map(bf16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn multiply(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn multiply_add(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        zip(zip(a, b, |a, b| a * b), c, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn largest(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, f32::max)
    }
    #[inline(always)]
    unsafe fn exp(value: [f32; 4]) -> [f32; 4] {
        value.map(f32::exp)
    }
    #[inline(always)]
    unsafe fn reduce_sum(value: [f32; 4]) -> f32 {
        (value[0] + value[2]) + (value[1] + value[3])
    }
    #[inline(always)]
    unsafe fn reduce_largest(value: [f32; 4]) -> f32 {
        value[0].max(value[1]).max(value[2]).max(value[3])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{EXP, EXP_LOW, Kernel, LN_2, Lanes};
    use half::bf16;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the features are those of `Avx512`.
        unsafe { kernel.run::<Avx512>() }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the features are those of `Avx2`.
        unsafe { kernel.run::<Avx2>() }
    }

    #[derive(Clone, Copy, Debug)]
    pub(super) struct Avx512;

    #[derive(Clone, Copy, Debug)]
    pub(super) struct Avx2;

    macro_rules! lanes {
        ($name:ident, $count:literal, $vectors:literal, $v:ty, $zero:ident, $splat:ident, $load:ident, $store:ident,
         $add:ident, $multiply:ident, $fma:ident, $max:ident; $($rest:tt)*) => {
            // SAFETY of the blocks: the features and pointers are the caller's promise.
            impl Lanes for $name {
                const COUNT: usize = $count;
                const TILE_VECTORS: usize = $vectors;
                type V = $v;

                #[inline(always)]
                unsafe fn zero() -> $v {
                    // SAFETY: see above.
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn splat(value: f32) -> $v {
                    // SAFETY: see above.
                    unsafe { $splat(value) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> $v {
                    // SAFETY: see above.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(to: *mut f32, value: $v) {
                    // SAFETY: see above.
                    unsafe { $store(to, value) }
                }
                #[inline(always)]
                unsafe fn add(a: $v, b: $v) -> $v {
                    // SAFETY: see above.
                    unsafe { $add(a, b) }
                }
                #[inline(always)]
                unsafe fn multiply(a: $v, b: $v) -> $v {
                    // SAFETY: see above.
                    unsafe { $multiply(a, b) }
                }
                #[inline(always)]
                unsafe fn multiply_add(a: $v, b: $v, c: $v) -> $v {
                    // SAFETY: see above.
                    unsafe { $fma(a, b, c) }
                }
                #[inline(always)]
                unsafe fn largest(a: $v, b: $v) -> $v {
                    // SAFETY: see above.
                    unsafe { $max(a, b) }
                }
                $($rest)*
            }
        };
    }

    lanes! { Avx512, 16, 4, __m512, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps,
        _mm512_add_ps, _mm512_mul_ps, _mm512_fmadd_ps, _mm512_max_ps;

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> __m512 {
            // SAFETY: see above.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(to: *mut bf16, value: __m512) {
            // SAFETY: see above. Rounds to nearest even; NaN does not occur in finite inputs and stays a NaN.
            unsafe {
                let bits = _mm512_castps_si512(value);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
                let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
                _mm256_storeu_si256(to.cast(), high);
            }
        }
        #[inline(always)]
        unsafe fn exp(value: __m512) -> __m512 {
            // SAFETY: see above.
            unsafe {
                let value = _mm512_max_ps(value, _mm512_set1_ps(EXP_LOW));
                let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(value, _mm512_set1_ps(std::f32::consts::LOG2_E)));
                let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2[0]), value);
                let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2[1]), r);
                let mut p = _mm512_set1_ps(EXP[0]);
                for coefficient in &EXP[1..] {
                    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*coefficient));
                }
                _mm512_scalef_ps(p, n)
            }
        }
        #[inline(always)]
        unsafe fn reduce_sum(value: __m512) -> f32 {
            // SAFETY: see above.
            unsafe { _mm512_reduce_add_ps(value) }
        }
        #[inline(always)]
        unsafe fn reduce_largest(value: __m512) -> f32 {
            // SAFETY: see above.
            unsafe { _mm512_reduce_max_ps(value) }
        }
    }

    lanes! { Avx2, 8, 2, __m256, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        _mm256_add_ps, _mm256_mul_ps, _mm256_fmadd_ps, _mm256_max_ps;

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> __m256 {
            // SAFETY: see above.
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(to: *mut bf16, value: __m256) {
            // SAFETY: see above.
            unsafe {
                let mut values = [0.0f32; 8];
                _mm256_storeu_ps(values.as_mut_ptr(), value);
                for (index, value) in values.into_iter().enumerate() {
                    *to.add(index) = bf16::from_f32(value);
                }
            }
        }
        #[inline(always)]
        unsafe fn exp(value: __m256) -> __m256 {
            // SAFETY: see above.
            unsafe {
                let low = _mm256_set1_ps(-87.3);
                let keep = _mm256_cmp_ps::<_CMP_GE_OQ>(value, low);
                let value = _mm256_max_ps(value, low);
                let n = _mm256_round_ps::<8>(_mm256_mul_ps(value, _mm256_set1_ps(std::f32::consts::LOG2_E)));
                let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2[0]), value);
                let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2[1]), r);
                let mut p = _mm256_set1_ps(EXP[0]);
                for coefficient in &EXP[1..] {
                    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(*coefficient));
                }
                let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
                _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(exponent)), keep)
            }
        }
        #[inline(always)]
        unsafe fn reduce_sum(value: __m256) -> f32 {
            // SAFETY: see above.
            unsafe {
                let mut values = [0.0f32; 8];
                _mm256_storeu_ps(values.as_mut_ptr(), value);
                values.iter().sum()
            }
        }
        #[inline(always)]
        unsafe fn reduce_largest(value: __m256) -> f32 {
            // SAFETY: see above.
            unsafe {
                let mut values = [0.0f32; 8];
                _mm256_storeu_ps(values.as_mut_ptr(), value);
                values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            }
        }
    }
}
