//! Squares of 8 by 8 values, transposed in registers.

/// Rows and columns of a square.
pub const SIDE: usize = 8;

/// Three rounds of exchanging halves, quarters and eighths of rows.
#[inline(always)]
pub(super) fn plain(mut block: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
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

/// Pairs, then quads inside 128-bit lanes, then the lanes.
///
/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn avx2(mut x: [std::arch::x86_64::__m256; SIDE]) -> [std::arch::x86_64::__m256; SIDE] {
    use std::arch::x86_64::*;
    let mut y = x;
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..4 {
            y[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
            y[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
        }
        for i in 0..2 {
            x[4 * i] = _mm256_shuffle_ps::<0x44>(y[4 * i], y[4 * i + 2]);
            x[4 * i + 1] = _mm256_shuffle_ps::<0xee>(y[4 * i], y[4 * i + 2]);
            x[4 * i + 2] = _mm256_shuffle_ps::<0x44>(y[4 * i + 1], y[4 * i + 3]);
            x[4 * i + 3] = _mm256_shuffle_ps::<0xee>(y[4 * i + 1], y[4 * i + 3]);
        }
        for i in 0..4 {
            y[i] = _mm256_permute2f128_ps::<0x20>(x[i], x[i + 4]);
            y[i + 4] = _mm256_permute2f128_ps::<0x31>(x[i], x[i + 4]);
        }
    }
    y
}

/// As [`avx2`] for 16 by 16 values: pairs and quads inside 128-bit lanes, then two rounds of lanes.
///
/// # Safety
/// The CPU has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn avx512(mut x: [std::arch::x86_64::__m512; 16]) -> [std::arch::x86_64::__m512; 16] {
    use std::arch::x86_64::*;
    let mut y = x;
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..8 {
            y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
            y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
        }
        for i in 0..4 {
            x[4 * i] = _mm512_shuffle_ps::<0x44>(y[4 * i], y[4 * i + 2]);
            x[4 * i + 1] = _mm512_shuffle_ps::<0xee>(y[4 * i], y[4 * i + 2]);
            x[4 * i + 2] = _mm512_shuffle_ps::<0x44>(y[4 * i + 1], y[4 * i + 3]);
            x[4 * i + 3] = _mm512_shuffle_ps::<0xee>(y[4 * i + 1], y[4 * i + 3]);
        }
        for i in 0..4 {
            y[i] = _mm512_shuffle_f32x4::<0x88>(x[i], x[i + 4]);
            y[i + 4] = _mm512_shuffle_f32x4::<0xdd>(x[i], x[i + 4]);
            y[i + 8] = _mm512_shuffle_f32x4::<0x88>(x[i + 8], x[i + 12]);
            y[i + 12] = _mm512_shuffle_f32x4::<0xdd>(x[i + 8], x[i + 12]);
        }
        for i in 0..8 {
            x[i] = _mm512_shuffle_f32x4::<0x88>(y[i], y[i + 8]);
            x[i + 8] = _mm512_shuffle_f32x4::<0xdd>(y[i], y[i + 8]);
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Level, Plain};

    #[test]
    fn rows_become_columns() {
        let block: [[f32; SIDE]; SIDE] =
            std::array::from_fn(|row| std::array::from_fn(|column| (row * SIDE + column) as f32));
        let wanted: [[f32; SIDE]; SIDE] = std::array::from_fn(|row| std::array::from_fn(|column| block[column][row]));
        // SAFETY: plain Rust.
        assert_eq!(unsafe { Plain::transposed(block) }, wanted);
        if engine::cpu::Isa::best() >= engine::cpu::Isa::Avx2 {
            // SAFETY: the machine has AVX2.
            assert_eq!(unsafe { crate::simd::Fused::transposed(block) }, wanted);
        }
    }
}
