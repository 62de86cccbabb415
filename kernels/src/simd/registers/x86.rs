//! The vectors of AVX2 and AVX-512.

use super::{Lanes, Registers};
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

impl Lanes for __m512 {
    #[inline(always)]
    unsafe fn multiply(self, other: __m512) -> __m512 {
        // SAFETY: the instruction set is the caller's promise, as in all of these.
        unsafe { _mm512_mul_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn max(self, other: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_max_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, other: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mask_blend_ps(((1u32 << count.min(16)) - 1) as __mmask16, other, self) }
    }
    #[inline(always)]
    unsafe fn round(self) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
    }
    #[inline(always)]
    unsafe fn scale(self, exponent: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_scalef_ps(self, exponent) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_extractf32x8_ps::<1>(self).max(_mm512_castps512_ps256(self)).largest() }
    }
    #[inline(always)]
    unsafe fn total(self) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_castps512_ps256(self).add(_mm512_extractf32x8_ps::<1>(self)).total() }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_castps_si512(self);
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
            // Rounding would carry a NaN with a small payload into an infinity: it stays a quiet one.
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self);
            let halves = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, is_nan, quiet));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(halves));
        }
    }
}

impl Lanes for __m256 {
    #[inline(always)]
    unsafe fn multiply(self, other: __m256) -> __m256 {
        // SAFETY: the instruction set is the caller's promise, as in all of these.
        unsafe { _mm256_mul_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn max(self, other: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_max_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, other: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes);
            _mm256_blendv_ps(other, self, _mm256_castsi256_ps(kept))
        }
    }
    #[inline(always)]
    unsafe fn round(self) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
    }
    #[inline(always)]
    unsafe fn scale(self, exponent: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
            let power = _mm256_slli_epi32::<23>(_mm256_max_epi32(biased, _mm256_setzero_si256()));
            _mm256_mul_ps(self, _mm256_castsi256_ps(power))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let halves = _mm_max_ps(_mm256_extractf128_ps::<1>(self), _mm256_castps256_ps128(self));
            let pairs = _mm_max_ps(_mm_movehl_ps(halves, halves), halves);
            let one = _mm_max_ss(_mm_movehdup_ps(pairs), pairs);
            _mm_cvtss_f32(one)
        }
    }
    #[inline(always)]
    unsafe fn total(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let halves = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_castps_si256(self);
            let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
            // As for 16 elements.
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self, self));
            let halves = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan));
            let halves = _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storeu_si128(to.cast(), halves);
        }
    }
}

/// A type of the vectors of AVX-512 whose functions are theirs but for those that it is given.
macro_rules! wrapped {
    ($(#[$meta:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name(__m512);

        impl Registers for $name {
            const COUNT: usize = __m512::COUNT;
            const TILE_VECTORS: usize = __m512::TILE_VECTORS;

            #[inline(always)]
            unsafe fn splat(value: f32) -> $name {
                // SAFETY: the caller's, as in all of these.
                $name(unsafe { __m512::splat(value) })
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> $name {
                // SAFETY: as above.
                $name(unsafe { __m512::load(from) })
            }
            #[inline(always)]
            unsafe fn load_bf16(from: *const bf16) -> $name {
                // SAFETY: as above.
                $name(unsafe { __m512::load_bf16(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above.
                unsafe { self.0.store(to) }
            }
            #[inline(always)]
            unsafe fn add(self, other: $name) -> $name {
                // SAFETY: as above.
                $name(unsafe { self.0.add(other.0) })
            }
            $($own)*
        }
    };
}

wrapped! {
    /// Sums in f32 of products of pairs: what is loaded and splatted as a factor are the bits of two bf16 of a pair.
    Pairs {
        #[inline(always)]
        unsafe fn multiply_add(self, factor: Pairs, sum: Pairs) -> Pairs {
            // SAFETY: the caller's; both types are 64 bytes of any bits.
            unsafe {
                let pairs = |vector| std::mem::transmute::<__m512, __m512bh>(vector);
                Pairs(_mm512_dpbf16_ps(sum.0, pairs(factor.0), pairs(self.0)))
            }
        }
    }
}

wrapped! {
    /// f32 where the processor has an instruction that rounds to bf16.
    Rounding {
        #[inline(always)]
        unsafe fn multiply_add(self, factor: Rounding, sum: Rounding) -> Rounding {
            // SAFETY: the caller's.
            Rounding(unsafe { self.0.multiply_add(factor.0, sum.0) })
        }
    }
}

impl Lanes for Rounding {
    #[inline(always)]
    unsafe fn multiply(self, other: Rounding) -> Rounding {
        // SAFETY: the caller's, as in all of these.
        Rounding(unsafe { self.0.multiply(other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Rounding) -> Rounding {
        // SAFETY: as above.
        Rounding(unsafe { self.0.max(other.0) })
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, other: Rounding) -> Rounding {
        // SAFETY: as above.
        Rounding(unsafe { self.0.first(count, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Rounding {
        // SAFETY: as above.
        Rounding(unsafe { self.0.round() })
    }
    #[inline(always)]
    unsafe fn scale(self, exponent: Rounding) -> Rounding {
        // SAFETY: as above.
        Rounding(unsafe { self.0.scale(exponent.0) })
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: as above.
        unsafe { self.0.largest() }
    }
    #[inline(always)]
    unsafe fn total(self) -> f32 {
        // SAFETY: as above.
        unsafe { self.0.total() }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: as above; both types are 32 bytes of any bits.
        unsafe {
            let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
            _mm256_storeu_si256(to.cast(), halves);
        }
    }
}

// 6 x 4 sums, 4 vectors of B and a factor fill the 32 registers of AVX-512; 6 x 2 the 16 of AVX2.
registers!(__m512, 16, 4, _mm512_set1_ps, _mm512_loadu_ps, widen_16, _mm512_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps);
registers!(__m256, 8, 2, _mm256_set1_ps, _mm256_loadu_ps, widen_8, _mm256_storeu_ps, _mm256_add_ps, _mm256_fmadd_ps);
