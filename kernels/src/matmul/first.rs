//! The first product of a panel of B that lies in memory row by row: it is read where it lies, and packed on the way for the
//! products after it. So packing waits for memory while the multiply-adds go on.

use super::pack::Source;
use engine::cpu::Isa;

/// Columns of rows of memory that become a panel.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// The first element of the first row.
    pointer: *const u8,
    /// Elements from one row to the next.
    stride: usize,
    /// Rows: elements of k, not words.
    count: usize,
    /// At most those of a panel.
    columns: usize,
}

impl Rows {
    /// `columns` columns from `column` on of `count` rows from `row` on.
    pub fn new(source: &Source, (row, count): (usize, usize), (column, columns): (usize, usize)) -> Rows {
        let size = if source.is_bf16 { 2 } else { 4 };
        let pointer = source.pointer.wrapping_add((row * source.stride + column) * size);
        Rows { pointer, stride: source.stride, count, columns }
    }

    /// Elements from row `k` to the one `rows` after it, which behind the last one is of the next panel.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn ahead(&self, k: usize, rows: usize) -> isize {
        let (rows, count, stride) = (rows as isize, self.count as isize, self.stride as isize);
        if (k as isize) + rows < count { rows * stride } else { (rows - count) * stride + 32 }
    }
}

/// As [`super::micro::Run`], of all rows of the tile, with B from rows; fills the panel.
///
/// # Safety
/// As there; the rows are there, and belong to nobody who writes.
pub(crate) type First = unsafe fn(a: *const u32, rows: Rows, panel: *mut u32, tile: *mut f32);

/// The kernel for operands of an ISA that lie row by row, if it has one.
pub(crate) fn select(isa: Isa, is_bf16: bool) -> Option<First> {
    #[cfg(target_arch = "x86_64")]
    match (isa, is_bf16) {
        (Isa::Avx512 | Isa::Avx512Bf16, false) => return Some(avx512),
        (Isa::Avx512Bf16, true) => return Some(avx512_bf16),
        _ => {}
    }
    let _ = (isa, is_bf16);
    None
}

/// Rows that are fetched ahead.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 48;

/// # Safety
/// As [`First`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512(a: *const u32, rows: Rows, panel: *mut u32, tile: *mut f32) {
    use crate::simd::prefetch;
    use std::arch::x86_64::*;
    let (mut a, mut panel) = (a.cast::<f32>(), panel.cast::<f32>());
    let mut row = rows.pointer.cast::<f32>();
    let mask = ((1u64 << rows.columns) - 1) as u32;
    let (low, high) = (mask as __mmask16, (mask >> 16) as __mmask16);
    let mut sums = [[_mm512_setzero_ps(); 2]; 14];
    // SAFETY: masks keep to the columns; the panels hold `count` words of each row and column; the tile holds 14 x 32 values.
    unsafe {
        for k in 0..rows.count {
            let ahead = row.wrapping_offset(rows.ahead(k, AHEAD));
            prefetch(ahead.cast());
            prefetch(ahead.wrapping_add(16).cast());
            let (b0, b1) = (_mm512_maskz_loadu_ps(low, row), _mm512_maskz_loadu_ps(high, row.wrapping_add(16)));
            _mm512_storeu_ps(panel, b0);
            _mm512_storeu_ps(panel.add(16), b1);
            for (i, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*a.add(i));
                sum[0] = _mm512_fmadd_ps(value, b0, sum[0]);
                sum[1] = _mm512_fmadd_ps(value, b1, sum[1]);
            }
            a = a.add(14);
            panel = panel.add(32);
            row = row.wrapping_add(rows.stride);
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(tile.add(32 * i), sum[0]);
            _mm512_storeu_ps(tile.add(32 * i + 16), sum[1]);
        }
    }
}

/// # Safety
/// As [`First`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn avx512_bf16(a: *const u32, rows: Rows, panel: *mut u32, tile: *mut f32) {
    use crate::simd::prefetch;
    use std::arch::x86_64::*;
    let (mut a, mut panel) = (a.cast::<i32>(), panel.cast::<i32>());
    let mut row = rows.pointer.cast::<i16>();
    let mask = ((1u64 << rows.columns) - 1) as __mmask32;
    let mut sums = [[_mm512_setzero_ps(); 2]; 14];
    // Words of a pair: of two rows the elements of one column after the other.
    let halves = |first: i16| -> [i16; 32] { std::array::from_fn(|lane| first + lane as i16 / 2 + lane as i16 % 2 * 32) };
    let (left, right) = (halves(0), halves(16));
    // SAFETY: as in `avx512`; a word is a pair of bf16, whose bits the casts keep. Of an odd row nothing is read.
    unsafe {
        let (left, right) = (_mm512_loadu_si512(left.as_ptr().cast()), _mm512_loadu_si512(right.as_ptr().cast()));
        let pairs = |vector: __m512i| std::mem::transmute::<__m512i, __m512bh>(vector);
        for word in 0..rows.count.div_ceil(2) {
            let next = row.wrapping_add(rows.stride);
            let ahead = rows.ahead(2 * word, 2 * AHEAD);
            prefetch(row.wrapping_offset(ahead).cast());
            prefetch(next.wrapping_offset(ahead).cast());
            let there = if 2 * word + 1 < rows.count { mask } else { 0 };
            let (one, other) = (_mm512_maskz_loadu_epi16(mask, row), _mm512_maskz_loadu_epi16(there, next));
            let b0 = _mm512_permutex2var_epi16(one, left, other);
            let b1 = _mm512_permutex2var_epi16(one, right, other);
            _mm512_storeu_si512(panel.cast(), b0);
            _mm512_storeu_si512(panel.add(16).cast(), b1);
            let (b0, b1) = (pairs(b0), pairs(b1));
            for (i, sum) in sums.iter_mut().enumerate() {
                let value = pairs(_mm512_set1_epi32(*a.add(i)));
                sum[0] = _mm512_dpbf16_ps(sum[0], value, b0);
                sum[1] = _mm512_dpbf16_ps(sum[1], value, b1);
            }
            a = a.add(14);
            panel = panel.add(32);
            row = next.wrapping_add(rows.stride);
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(tile.add(32 * i), sum[0]);
            _mm512_storeu_ps(tile.add(32 * i + 16), sum[1]);
        }
    }
}
