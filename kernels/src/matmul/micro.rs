//! Register micro-kernels: one tile of C from one panel of A and one panel of B, for every instruction set.
//!
//! Tile sizes fill the registers: 14 x 32 of zmm (28 accumulators, 2 of B, one broadcast), 6 x 16 of ymm, 4 x 8 plain.

use engine::cpu::Isa;

/// The largest tile of any kernel, in elements.
pub(crate) const MAX_TILE: usize = 14 * 32;

/// A micro-kernel: `tile[i][j] = Σ_k a[k][i] · b[k][j]` over `depth` words of k, for the first `rows` of its rows at least.
///
/// # Safety
/// `a` holds `depth` times the kernel's rows, `b` `depth` times its columns, `tile` its rows times its columns; `rows` is at
/// least 1 and no more than its rows; the CPU has the ISA.
pub(crate) type Run = unsafe fn(rows: usize, depth: usize, a: *const u32, b: *const u32, tile: *mut f32);

/// A micro-kernel and its tile.
#[derive(Clone, Copy)]
pub(crate) struct Micro {
    pub rows: usize,
    pub columns: usize,
    /// Words are pairs of bf16.
    pub pairs: bool,
    pub run: Run,
}

/// The kernel for an ISA and a storage type.
pub(crate) fn select(isa: Isa, is_bf16: bool) -> Micro {
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512Bf16 if is_bf16 => return Micro { rows: 14, columns: 32, pairs: true, run: avx512_bf16 },
        Isa::Avx512 | Isa::Avx512Bf16 => return Micro { rows: 14, columns: 32, pairs: false, run: avx512 },
        Isa::Avx2 => return Micro { rows: 6, columns: 16, pairs: false, run: avx2 },
        Isa::Scalar => {}
    }
    let _ = (isa, is_bf16);
    Micro { rows: 4, columns: 8, pairs: false, run: scalar }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512(rows: usize, depth: usize, a: *const u32, b: *const u32, tile: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match rows {
            0..=2 => avx512_rows::<2>(depth, a, b, tile),
            3..=4 => avx512_rows::<4>(depth, a, b, tile),
            5..=6 => avx512_rows::<6>(depth, a, b, tile),
            7..=8 => avx512_rows::<8>(depth, a, b, tile),
            9..=10 => avx512_rows::<10>(depth, a, b, tile),
            11..=12 => avx512_rows::<12>(depth, a, b, tile),
            _ => avx512_rows::<14>(depth, a, b, tile),
        }
    }
}

/// # Safety
/// As [`Run`], of which it computes `R` rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512_rows<const R: usize>(depth: usize, a: *const u32, b: *const u32, tile: *mut f32) {
    use std::arch::x86_64::*;
    let (mut a, mut b) = (a.cast::<f32>(), b.cast::<f32>());
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    // SAFETY: the panels hold `depth` words of each row and column; the tile holds 14 x 32 values.
    unsafe {
        for _ in 0..depth {
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (i, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*a.add(i));
                sum[0] = _mm512_fmadd_ps(value, b0, sum[0]);
                sum[1] = _mm512_fmadd_ps(value, b1, sum[1]);
            }
            a = a.add(14);
            b = b.add(32);
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(tile.add(32 * i), sum[0]);
            _mm512_storeu_ps(tile.add(32 * i + 16), sum[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn avx512_bf16(rows: usize, depth: usize, a: *const u32, b: *const u32, tile: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match rows {
            0..=2 => avx512_bf16_rows::<2>(depth, a, b, tile),
            3..=4 => avx512_bf16_rows::<4>(depth, a, b, tile),
            5..=6 => avx512_bf16_rows::<6>(depth, a, b, tile),
            7..=8 => avx512_bf16_rows::<8>(depth, a, b, tile),
            9..=10 => avx512_bf16_rows::<10>(depth, a, b, tile),
            11..=12 => avx512_bf16_rows::<12>(depth, a, b, tile),
            _ => avx512_bf16_rows::<14>(depth, a, b, tile),
        }
    }
}

/// # Safety
/// As [`Run`], of which it computes `R` rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn avx512_bf16_rows<const R: usize>(depth: usize, a: *const u32, b: *const u32, tile: *mut f32) {
    use std::arch::x86_64::*;
    let (mut a, mut b) = (a.cast::<i32>(), b.cast::<i32>());
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    // SAFETY: as in `avx512`; a word is a pair of bf16, whose bits the casts keep.
    unsafe {
        let pairs = |vector: __m512i| std::mem::transmute::<__m512i, __m512bh>(vector);
        for _ in 0..depth {
            let b0 = pairs(_mm512_loadu_si512(b.cast()));
            let b1 = pairs(_mm512_loadu_si512(b.add(16).cast()));
            for (i, sum) in sums.iter_mut().enumerate() {
                let value = pairs(_mm512_set1_epi32(*a.add(i)));
                sum[0] = _mm512_dpbf16_ps(sum[0], value, b0);
                sum[1] = _mm512_dpbf16_ps(sum[1], value, b1);
            }
            a = a.add(14);
            b = b.add(32);
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(tile.add(32 * i), sum[0]);
            _mm512_storeu_ps(tile.add(32 * i + 16), sum[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(rows: usize, depth: usize, a: *const u32, b: *const u32, tile: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match rows {
            0..=2 => avx2_rows::<2>(depth, a, b, tile),
            3..=4 => avx2_rows::<4>(depth, a, b, tile),
            _ => avx2_rows::<6>(depth, a, b, tile),
        }
    }
}

/// # Safety
/// As [`Run`], of which it computes `R` rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_rows<const R: usize>(depth: usize, a: *const u32, b: *const u32, tile: *mut f32) {
    use std::arch::x86_64::*;
    let (mut a, mut b) = (a.cast::<f32>(), b.cast::<f32>());
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: the panels hold `depth` words of each row and column; the tile holds 6 x 16 values.
    unsafe {
        for _ in 0..depth {
            // A panel of B comes from the level-2 cache; prefetching beyond its end does nothing.
            crate::simd::prefetch(b.wrapping_add(16 * 16).cast());
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (i, sum) in sums.iter_mut().enumerate() {
                let value = _mm256_set1_ps(*a.add(i));
                sum[0] = _mm256_fmadd_ps(value, b0, sum[0]);
                sum[1] = _mm256_fmadd_ps(value, b1, sum[1]);
            }
            a = a.add(6);
            b = b.add(16);
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(tile.add(16 * i), sum[0]);
            _mm256_storeu_ps(tile.add(16 * i + 8), sum[1]);
        }
    }
}

unsafe fn scalar(_rows: usize, depth: usize, a: *const u32, b: *const u32, tile: *mut f32) {
    // SAFETY: the panels hold `depth` words of each row and column; the tile holds 4 x 8 values.
    let (a, b, tile) = unsafe {
        (
            std::slice::from_raw_parts(a.cast::<[f32; 4]>(), depth),
            std::slice::from_raw_parts(b.cast::<[f32; 8]>(), depth),
            &mut *tile.cast::<[[f32; 8]; 4]>(),
        )
    };
    let mut sums = [[0.0f32; 8]; 4];
    for (a, b) in a.iter().zip(b) {
        for (sum, &value) in sums.iter_mut().zip(a) {
            for (sum, &b) in sum.iter_mut().zip(b) {
                *sum += value * b;
            }
        }
    }
    *tile = sums;
}
