//! Blocks of probabilities and score gradients, from f32 to pairs of bf16 in place: what the products of
//! [`Isa::Avx512Bf16`](engine::cpu::Isa) read.

use super::softmax::Block;
use crate::simd::LANES;

/// Neighbours of each row become the pairs of its first half.
pub(super) fn pair_along_rows(block: &Block<'_>, values: &mut [f32]) {
    for query in 0..block.queries {
        let row = &mut values[query * block.stride..][..block.extent(query)];
        // SAFETY: only blocks of this instruction set are paired.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            along_row(row)
        };
    }
}

/// Each two rows of `upper` become one of pairs, in the place of the first; those of `lower` one in the place of the second.
/// The rows of `lower` then become as by [`pair_along_rows`].
pub(super) fn pair_across_rows(block: &Block<'_>, upper: &mut [f32], lower: &mut [f32]) {
    for query in (0..block.queries).step_by(2) {
        let extent = block.extent(query);
        let (first, second) = upper[query * block.stride..][..2 * block.stride].split_at_mut(block.stride);
        let (first, second) = (&mut first[..extent], &mut second[..extent]);
        let (one, other) = lower[query * block.stride..][..2 * block.stride].split_at_mut(block.stride);
        let (one, other) = (&mut one[..extent], &mut other[..extent]);
        if query + 1 == block.queries {
            second.fill(0.0);
            other.fill(0.0);
        }
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            across_rows([first, second], [one, other]);
            along_row(one);
            along_row(other);
        }
    }
}

/// # Safety
/// The CPU has AVX-512 with bf16; the row is whole vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn along_row(row: &mut [f32]) {
    use std::arch::x86_64::*;
    let (vectors, pointer) = (row.len() / LANES, row.as_mut_ptr());
    // SAFETY: whole vectors of the row. What is written lies in front of what is still to be read.
    unsafe {
        for index in (0..vectors - vectors % 2).step_by(2) {
            let (low, high) = (_mm512_loadu_ps(pointer.add(index * LANES)), _mm512_loadu_ps(pointer.add((index + 1) * LANES)));
            let pairs = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(pointer.add(index / 2 * LANES).cast(), pairs);
        }
        if vectors % 2 == 1 {
            let last = _mm512_cvtneps_pbh(_mm512_loadu_ps(pointer.add((vectors - 1) * LANES)));
            _mm256_storeu_si256(pointer.add(vectors / 2 * LANES).cast(), std::mem::transmute::<__m256bh, __m256i>(last));
        }
    }
}

/// # Safety
/// The CPU has AVX-512 with bf16; the rows are whole vectors, equally many.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn across_rows(upper: [&mut [f32]; 2], lower: [&mut [f32]; 2]) {
    use std::arch::x86_64::*;
    let index: [i16; 2 * LANES] = std::array::from_fn(|lane| (lane / 2 + lane % 2 * LANES) as i16);
    let [first, second] = upper;
    let [one, other] = lower;
    // SAFETY: whole vectors of the rows.
    unsafe {
        let index = _mm512_loadu_si512(index.as_ptr().cast());
        for at in (0..first.len()).step_by(LANES) {
            let pair = |even: &[f32], odd: &[f32]| {
                let (even, odd) = (_mm512_loadu_ps(even.as_ptr().add(at)), _mm512_loadu_ps(odd.as_ptr().add(at)));
                let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even));
                _mm512_permutexvar_epi16(index, halves)
            };
            let (uppers, lowers) = (pair(first, second), pair(one, other));
            _mm512_storeu_si512(first.as_mut_ptr().add(at).cast(), uppers);
            _mm512_storeu_si512(second.as_mut_ptr().add(at).cast(), lowers);
        }
    }
}
