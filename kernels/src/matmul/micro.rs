//! Register micro-kernels: one tile of C from one panel of A and one panel of B, for every instruction set.
//!
//! Tile sizes fill the registers: 14 x 32 of zmm (28 accumulators, 2 of B, one broadcast), 6 x 16 of ymm, 4 x 8 plain.

use super::ahead::Lines;
#[cfg(target_arch = "x86_64")]
use crate::simd::prefetch_far;
use engine::cpu::Isa;

/// The largest tile of any kernel, in elements.
pub(crate) const MAX_TILE: usize = 14 * 32;

/// A micro-kernel: `tile[i][j] = Σ_k a[k][i] · b[k][j]` over `depth` words of k, for the first of the panel's rows or columns or
/// for all; fetches a line for each word besides.
///
/// # Safety
/// `a` holds `depth` times the panel's rows, `b` `depth` times its columns, `tile` its rows times its columns; the CPU has the ISA.
pub(crate) type Run = unsafe fn(depth: usize, a: *const u32, b: *const u32, tile: *mut f32, ahead: Lines);

/// The micro-kernels of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Micro {
    pub rows: usize,
    pub columns: usize,
    /// Words are pairs of bf16.
    pub pairs: bool,
    /// For 2 rows, for 4 and so on, the last one for all.
    runs: &'static [Run],
    /// The same for the first half of the columns, or again for all.
    halves: &'static [Run],
}

impl Micro {
    /// The one that computes the first `rows` rows and `columns` columns, at least one of each, and as few besides as there is a
    /// kernel for.
    pub fn run(&self, rows: usize, columns: usize) -> Run {
        let runs = if 2 * columns <= self.columns { self.halves } else { self.runs };
        runs[(rows.div_ceil(2) - 1).min(runs.len() - 1)]
    }
}

/// The kernel for an ISA and a storage type.
pub(crate) fn select(isa: Isa, is_bf16: bool) -> Micro {
    #[cfg(target_arch = "x86_64")]
    macro_rules! runs {
        ($kernel:ident $vectors:literal: $($rows:literal)*) => { &[$($kernel::<$rows, $vectors>),*] };
    }
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512Bf16 if is_bf16 => {
            let (runs, halves) = (runs!(avx512_bf16 2: 2 4 6 8 10 12 14), runs!(avx512_bf16 1: 2 4 6 8 10 12 14));
            return Micro { rows: 14, columns: 32, pairs: true, runs, halves };
        }
        Isa::Avx512 | Isa::Avx512Bf16 => {
            let (runs, halves) = (runs!(avx512 2: 2 4 6 8 10 12 14), runs!(avx512 1: 2 4 6 8 10 12 14));
            return Micro { rows: 14, columns: 32, pairs: false, runs, halves };
        }
        Isa::Avx2 => {
            let runs: &[Run] = &[avx2::<2>, avx2::<4>, avx2::<6>];
            return Micro { rows: 6, columns: 16, pairs: false, runs, halves: runs };
        }
        Isa::Scalar => {}
    }
    let _ = (isa, is_bf16);
    Micro { rows: 4, columns: 8, pairs: false, runs: &[scalar], halves: &[scalar] }
}

/// # Safety
/// As [`Run`], of which it computes `R` rows and `V` vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<const R: usize, const V: usize>(
    depth: usize,
    a: *const u32,
    b: *const u32,
    tile: *mut f32,
    mut ahead: Lines,
) {
    use std::arch::x86_64::*;
    let (mut a, mut b) = (a.cast::<f32>(), b.cast::<f32>());
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: the panels hold `depth` words of each row and column; the tile holds 14 x 32 values.
    unsafe {
        for _ in 0..depth {
            prefetch_far(ahead.next());
            let mut columns = [_mm512_setzero_ps(); V];
            for (vector, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_ps(b.add(16 * vector));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*a.add(i));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_fmadd_ps(value, column, *sum);
                }
            }
            a = a.add(14);
            b = b.add(32);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(tile.add(32 * i + 16 * vector), sum);
            }
        }
    }
}

/// # Safety
/// As [`Run`], of which it computes `R` rows and `V` vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn avx512_bf16<const R: usize, const V: usize>(
    depth: usize,
    a: *const u32,
    b: *const u32,
    tile: *mut f32,
    mut ahead: Lines,
) {
    use std::arch::x86_64::*;
    let (mut a, mut b) = (a.cast::<i32>(), b.cast::<i32>());
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: as in `avx512`; a word is a pair of bf16, whose bits the casts keep.
    unsafe {
        let pairs = |vector: __m512i| std::mem::transmute::<__m512i, __m512bh>(vector);
        for _ in 0..depth {
            prefetch_far(ahead.next());
            let mut columns = [pairs(_mm512_setzero_si512()); V];
            for (vector, column) in columns.iter_mut().enumerate() {
                *column = pairs(_mm512_loadu_si512(b.add(16 * vector).cast()));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = pairs(_mm512_set1_epi32(*a.add(i)));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_dpbf16_ps(*sum, value, column);
                }
            }
            a = a.add(14);
            b = b.add(32);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(tile.add(32 * i + 16 * vector), sum);
            }
        }
    }
}

/// # Safety
/// As [`Run`], of which it computes `R` rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(depth: usize, a: *const u32, b: *const u32, tile: *mut f32, mut ahead: Lines) {
    use std::arch::x86_64::*;
    let (mut a, mut b) = (a.cast::<f32>(), b.cast::<f32>());
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: the panels hold `depth` words of each row and column; the tile holds 6 x 16 values.
    unsafe {
        for _ in 0..depth {
            prefetch_far(ahead.next());
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

unsafe fn scalar(depth: usize, a: *const u32, b: *const u32, tile: *mut f32, _: Lines) {
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
