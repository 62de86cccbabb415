//! Squares of values, transposed in registers.

/// Pairs, then quads inside 128-bit lanes, then the lanes.
///
/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn avx2(mut x: [std::arch::x86_64::__m256; 8]) -> [std::arch::x86_64::__m256; 8] {
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
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;
    use engine::cpu::Isa;
    use std::mem::transmute;

    fn square<const SIDE: usize>(at: impl Fn(usize, usize) -> usize) -> [[f32; SIDE]; SIDE] {
        std::array::from_fn(|row| std::array::from_fn(|column| at(row, column) as f32))
    }

    #[test]
    fn rows_become_columns() {
        let place = |row, column| 100 * row + column;
        if Isa::best() >= Isa::Avx2 {
            // SAFETY: AVX2 is available; arrays and vectors have the same bits.
            let turned: [[f32; 8]; 8] = unsafe {
                let rows = transmute::<[[f32; 8]; 8], [std::arch::x86_64::__m256; 8]>(square(place));
                transmute(avx2(rows))
            };
            assert_eq!(turned, square(|row, column| place(column, row)));
        }
        if Isa::best() >= Isa::Avx512 {
            // SAFETY: as above, of AVX-512.
            let turned: [[f32; 16]; 16] = unsafe {
                let rows = transmute::<[[f32; 16]; 16], [std::arch::x86_64::__m512; 16]>(square(place));
                transmute(avx512(rows))
            };
            assert_eq!(turned, square(|row, column| place(column, row)));
        }
    }
}
