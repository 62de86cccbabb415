//! Packing: a block of an operand becomes panels that the micro-kernel reads front to back.
//!
//! A panel holds `WIDTH` rows of A (or columns of B) for all k of the block: word `[k][r]`. For the f32 kernels a word
//! is one f32 (bf16 is widened on the way); for the bf16 kernel it is the pair (2k, 2k+1). Missing rows and the odd last
//! k are zero, so the micro-kernel has no edge cases.

#[cfg(target_arch = "x86_64")]
use crate::simd::registers::Registers;
#[cfg(target_arch = "x86_64")]
use crate::simd::transpose;
use crate::simd::{LINE, prefetch};
use engine::cpu::Isa;
use std::ops::Range;

/// An operand in memory.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub pointer: *const u8,
    /// Elements from one row in memory to the next.
    pub stride: usize,
    /// Stored as bf16.
    pub is_bf16: bool,
    /// True if neighbours in memory are neighbours in k, else neighbours in the panel's width.
    pub k_contiguous: bool,
}

// SAFETY: a read-only operand that outlives the parallel region.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

/// Rows of memory that are packed at a time where they run along the panels' width; even, for pairs.
const PACKED_ROWS: usize = 16;

/// Rows of memory that are fetched ahead of those that are packed: weights come from memory.
const AHEAD: usize = 48;
/// Elements of a row along k that are fetched ahead.
const AHEAD_ALONG: usize = 128;

/// Packs panels `range` of the `total` rows of an operand, `width` rows each, for k in `k` into `out`, which holds
/// `words(k) * width` words a panel.
///
/// # Safety
/// The source covers the panels and k; `isa` is available.
pub(crate) unsafe fn pack_panels(
    isa: Isa,
    source: Source,
    pairs: bool,
    width: usize,
    total: usize,
    range: Range<usize>,
    k: &Range<usize>,
    out: &mut [u32],
) {
    let size = words(k.len(), pairs) * width;
    // Neighbouring panels share the cache lines of a row: some rows at a time for all of them.
    let step = if source.k_contiguous { k.len() } else { PACKED_ROWS };
    for start in k.clone().step_by(step.max(1)) {
        let part = start..k.end.min(start + step);
        let before = words(start - k.start, pairs) * width;
        if !source.k_contiguous {
            let ahead = if start == k.start { start } else { start + AHEAD }..k.end.min(part.end + AHEAD);
            fetch(source, ahead, range.start * width..total.min(range.end * width));
        }
        for (index, panel) in range.clone().enumerate() {
            let (first, rows) = (panel * width, width.min(total - panel * width));
            let out = &mut out[index * size + before..][..words(part.len(), pairs) * width];
            // SAFETY: the caller's contract.
            unsafe { pack_panel(isa, source, pairs, width, (first, rows), (part.start, part.len()), out) };
        }
    }
}

/// All of a small operand as one panel: `width` words for each of `words(depth)`, zeros past the `rows` rows, of which there is
/// one at least.
///
/// # Safety
/// The source covers the rows and k; `isa` is available.
pub(crate) unsafe fn pack_whole(
    isa: Isa,
    source: Source,
    pairs: bool,
    width: usize,
    rows: usize,
    depth: usize,
    out: &mut [u32],
) {
    // SAFETY: the caller's.
    unsafe { pack_panel(isa, source, pairs, width, (0, rows), (0, depth), out) }
}

/// Asks for the cache lines of some columns of rows of memory.
pub(super) fn fetch(source: Source, rows: Range<usize>, columns: Range<usize>) {
    let size = if source.is_bf16 { 2 } else { 4 };
    for row in rows {
        for byte in (columns.start * size..columns.end * size).step_by(LINE) {
            prefetch(source.pointer.wrapping_add(row * source.stride * size + byte));
        }
    }
}

/// Packs rows `first..first + rows` (at most `width`) for `kc` of k from `k0` on into `out`, which holds `words(kc) * width`
/// words.
///
/// # Safety
/// The source covers the range; `isa` is available.
unsafe fn pack_panel(
    isa: Isa,
    source: Source,
    pairs: bool,
    width: usize,
    (first, rows): (usize, usize),
    (k0, kc): (usize, usize),
    out: &mut [u32],
) {
    // SAFETY: forwarded contract; each branch reads the type that the source stores.
    unsafe {
        let size = if source.is_bf16 { 2 } else { 4 };
        let (along_k, along_row) = if source.k_contiguous { (1, source.stride) } else { (source.stride, 1) };
        let base = source.pointer.add((first * along_row + k0 * along_k) * size);
        #[cfg(target_arch = "x86_64")]
        if !source.k_contiguous && isa >= Isa::Avx2 {
            // Sizes that the compiler knows become a few moves in place of a call for every row.
            match width {
                _ if isa >= Isa::Avx512 => return pack_rows_avx512(base, source, pairs, width, rows, kc, out),
                6 if rows == 6 => return pack_rows_avx2::<6>(base, source, kc, out),
                16 if rows == 16 => return pack_rows_avx2::<16>(base, source, kc, out),
                _ => {}
            }
        }
        #[cfg(target_arch = "x86_64")]
        if source.k_contiguous && isa >= Isa::Avx2 {
            let transpose = |bf16: bool| match (isa, bf16) {
                (Isa::Avx2, false) => transpose_avx2::<false>,
                (Isa::Avx2, true) => transpose_avx2::<true>,
                (_, false) => transpose_avx512::<false>,
                (_, true) => transpose_avx512::<true>,
            };
            if !pairs {
                return transpose(source.is_bf16)(base, source.stride, width, rows, kc, out);
            }
            // Pairs of bf16 are words as f32 are.
            if k0.is_multiple_of(2) && source.stride.is_multiple_of(2) && kc.is_multiple_of(2) {
                return transpose(false)(base, source.stride / 2, width, rows, kc / 2, out);
            }
        }
        let at = |r: usize, k: usize| {
            let element = r * along_row + k * along_k;
            match source.is_bf16 {
                true => u32::from(base.cast::<u16>().add(element).read()),
                false => base.cast::<u32>().add(element).read(),
            }
        };
        for (word, target) in out.chunks_exact_mut(width).enumerate() {
            for (r, target) in target[..rows].iter_mut().enumerate() {
                *target = match (source.is_bf16, pairs) {
                    (false, _) => at(r, word),
                    (true, false) => at(r, word) << 16,
                    (true, true) if 2 * word + 1 < kc => at(r, 2 * word) | at(r, 2 * word + 1) << 16,
                    (true, true) => at(r, 2 * word),
                };
            }
            target[rows..].fill(0);
        }
    }
}

/// Rows of memory, from `base` on, become rows of the panel: up to `width` of them are there, zeros behind.
///
/// # Safety
/// `base` starts `kc` rows of `rows` elements, a stride of the source apart; AVX-512 is available.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn pack_rows_avx512(
    base: *const u8,
    source: Source,
    pairs: bool,
    width: usize,
    rows: usize,
    kc: usize,
    out: &mut [u32],
) {
    use std::arch::x86_64::*;
    let count = words(kc, pairs);
    assert!(out.len() >= count * width && rows <= width);
    let mask = |count: usize| ((1u32 << count.min(16)) - 1) as __mmask16;
    for first in (0..width).step_by(16) {
        let (there, keep) = (mask(rows.saturating_sub(first)), mask(width - first));
        // SAFETY: masks keep to the elements of a row that the source covers.
        let f32s = |k: usize| unsafe {
            _mm512_maskz_loadu_epi32(there, base.cast::<i32>().wrapping_add(k * source.stride + first))
        };
        // SAFETY: as above.
        let bf16s = |k: usize| unsafe {
            let row = base.cast::<i16>().wrapping_add(k * source.stride + first);
            _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, row))
        };
        for word in 0..count {
            let value = match (source.is_bf16, pairs) {
                (false, _) => f32s(word),
                (true, false) => _mm512_slli_epi32::<16>(bf16s(word)),
                (true, true) if 2 * word + 1 < kc => {
                    _mm512_or_si512(bf16s(2 * word), _mm512_slli_epi32::<16>(bf16s(2 * word + 1)))
                }
                (true, true) => bf16s(2 * word),
            };
            // SAFETY: the words of a row of the panel.
            unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().add(word * width + first).cast(), keep, value) };
        }
    }
}

/// As [`pack_rows_avx512`] for whole panels of words.
///
/// # Safety
/// `base` starts `kc` rows of `WIDTH` elements, a stride of the source apart; AVX2 is available.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_rows_avx2<const WIDTH: usize>(base: *const u8, source: Source, kc: usize, out: &mut [u32]) {
    let (panel, _) = out.as_chunks_mut::<WIDTH>();
    for (k, target) in panel.iter_mut().enumerate().take(kc) {
        // SAFETY: `WIDTH` elements of row k, of the type that the source stores.
        unsafe {
            if source.is_bf16 {
                let row = base.cast::<u16>().add(k * source.stride).cast::<[u16; WIDTH]>().read_unaligned();
                for (target, half) in target.iter_mut().zip(row) {
                    *target = u32::from(half) << 16;
                }
            } else {
                *target = base.cast::<u32>().add(k * source.stride).cast::<[u32; WIDTH]>().read_unaligned();
            }
        }
    }
}

/// Words of k in a panel.
pub(crate) fn words(kc: usize, pairs: bool) -> usize {
    if pairs { kc.div_ceil(2) } else { kc }
}

/// `out[k][r] = source[r][k]` in blocks of 8 by 8; bf16 is widened to f32. Columns of `out` beyond `rows` become zero.
///
/// # Safety
/// `source` covers `rows` rows of `kc` elements, `stride` elements apart; AVX2 is available.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn transpose_avx2<const BF16: bool>(
    source: *const u8,
    stride: usize,
    width: usize,
    rows: usize,
    kc: usize,
    out: &mut [u32],
) {
    use std::arch::x86_64::*;
    assert!(out.len() >= kc * width && (1..=width).contains(&rows));
    let whole = kc / 8 * 8;
    for r in (0..width).step_by(8) {
        let (lanes, keep) = (rows.saturating_sub(r).min(8), (width - r).min(8));
        // Every lane reads some row, without a branch; what must be zero is made so, what lies past `keep` does not matter.
        let elements: [usize; 8] = std::array::from_fn(|lane| (r + lane).min(rows - 1) * stride);
        for k in (0..whole).step_by(8) {
            let mut x = [_mm256_setzero_ps(); 8];
            for (row, &element) in x.iter_mut().zip(&elements) {
                // SAFETY: 8 elements of a row that the source covers.
                *row = unsafe {
                    if BF16 {
                        __m256::load_bf16(source.cast::<half::bf16>().add(element + k))
                    } else {
                        _mm256_loadu_ps(source.cast::<f32>().add(element + k))
                    }
                };
            }
            if lanes < keep {
                // By constant places, so that the vectors stay in registers.
                for (lane, row) in x.iter_mut().enumerate() {
                    *row = if lane < lanes { *row } else { _mm256_setzero_ps() };
                }
            }
            // SAFETY: AVX2 is available.
            let x = unsafe { transpose::avx2(x) };
            for (i, row) in x.iter().enumerate() {
                let target = &mut out[(k + i) * width + r..];
                // In a narrow panel the words past `keep` belong to the next k, which is written after this one.
                if target.len() >= 8 && (keep == 8 || width < 8) {
                    // SAFETY: 8 words.
                    unsafe { _mm256_storeu_ps(target.as_mut_ptr().cast(), *row) };
                } else {
                    // SAFETY: same size, any bits are words.
                    let words = unsafe { std::mem::transmute::<__m256, [u32; 8]>(*row) };
                    target[..keep].copy_from_slice(&words[..keep]);
                }
            }
        }
        for k in whole..kc {
            for lane in 0..keep {
                let element = (r + lane) * stride + k;
                // SAFETY: an element of a row that the source covers.
                let word = || unsafe {
                    if BF16 { u32::from(*source.cast::<u16>().add(element)) << 16 } else { *source.cast::<u32>().add(element) }
                };
                out[k * width + r + lane] = if lane < lanes { word() } else { 0 };
            }
        }
    }
}

/// As [`transpose_avx2`] in blocks of 16 by 16.
///
/// # Safety
/// `source` covers `rows` rows of `kc` elements, `stride` elements apart; AVX-512 is available.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn transpose_avx512<const BF16: bool>(
    source: *const u8,
    stride: usize,
    width: usize,
    rows: usize,
    kc: usize,
    out: &mut [u32],
) {
    use std::arch::x86_64::*;
    assert!(out.len() >= kc * width && (1..=width).contains(&rows));
    let mask = |count: usize| ((1u32 << count) - 1) as __mmask16;
    let size = if BF16 { 2 } else { 4 };
    // Behind the end of a row come the rows of the next block, of this panel or another.
    let (along, below) = (AHEAD_ALONG.min(kc), width.min(16) * stride);
    for r in (0..width).step_by(16) {
        let (lanes, keep) = (rows.saturating_sub(r).min(16), mask((width - r).min(16)));
        // Every lane reads some row, without a branch; what must be zero is made so.
        let elements: [usize; 16] = std::array::from_fn(|lane| (r + lane).min(rows - 1) * stride);
        for k in (0..kc).step_by(16) {
            let depth = (kc - k).min(16);
            let ahead = if k + along < kc { along } else { below + along - kc };
            let mut x = [_mm512_setzero_ps(); 16];
            for (lane, (row, &element)) in x.iter_mut().zip(&elements).enumerate() {
                let mask = if lane < lanes { mask(depth) } else { 0 };
                prefetch(source.wrapping_add((element + k + ahead) * size));
                // SAFETY: the mask keeps to the elements of a row that the source covers.
                *row = unsafe {
                    if BF16 {
                        let half = _mm256_maskz_loadu_epi16(mask, source.cast::<i16>().add(element + k));
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
                    } else {
                        _mm512_maskz_loadu_ps(mask, source.cast::<f32>().add(element + k))
                    }
                };
            }
            // SAFETY: AVX-512 is available.
            let x = unsafe { transpose::avx512(x) };
            // SAFETY: `depth` rows of the words to keep belong to the panel.
            unsafe {
                let target = out.as_mut_ptr().add(k * width + r).cast::<f32>();
                if depth == 16 {
                    for (i, row) in x.iter().enumerate() {
                        _mm512_mask_storeu_ps(target.add(i * width), keep, *row);
                    }
                } else {
                    for (i, row) in x.iter().enumerate() {
                        _mm512_mask_storeu_ps(target.add(i * width), if i < depth { keep } else { 0 }, *row);
                    }
                }
            }
        }
    }
}
