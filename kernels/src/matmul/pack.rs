//! Packing: a block of an operand becomes panels that the micro-kernel reads front to back.
//!
//! A panel holds `WIDTH` rows of A (or columns of B) for all k of the block: word `[k][r]`. For the f32 kernels a word
//! is one f32 (bf16 is widened on the way); for the bf16 kernel it is the pair (2k, 2k+1). Missing rows and the odd last
//! k are zero, so the micro-kernel has no edge cases.

#[cfg(target_arch = "x86_64")]
use crate::simd::transpose;
use engine::cpu::Isa;
use half::bf16;

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

/// Packs rows `first..first + rows` (at most `width`) for k in `k0..k0 + kc` into `out`, which holds
/// `words(kc) * width` words.
///
/// # Safety
/// The source covers the range; `isa` is available.
pub(crate) unsafe fn pack_panel(
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
        if !source.k_contiguous && rows == width {
            // Sizes that the compiler knows become a few moves in place of a call for every row.
            match width {
                #[cfg(target_arch = "x86_64")]
                6 if isa == Isa::Avx2 => return pack_rows_avx2::<6>(source, pairs, first, k0, kc, out),
                #[cfg(target_arch = "x86_64")]
                16 if isa == Isa::Avx2 => return pack_rows_avx2::<16>(source, pairs, first, k0, kc, out),
                14 => return pack_rows::<14>(source, pairs, first, k0, kc, out),
                32 => return pack_rows::<32>(source, pairs, first, k0, kc, out),
                _ => {}
            }
        }
        match (source.is_bf16, source.k_contiguous) {
            (false, true) => transpose(isa, source.pointer.cast::<u32>(), source.stride, width, first, rows, k0, kc, out),
            #[cfg(target_arch = "x86_64")]
            (true, true) if !pairs && isa == Isa::Avx2 => {
                let base = source.pointer.cast::<bf16>().add(first * source.stride + k0);
                transpose_avx2::<true>(base.cast(), source.stride, width, rows, kc, out);
            }
            (true, true) if pairs && k0.is_multiple_of(2) && source.stride.is_multiple_of(2) && kc.is_multiple_of(2) => {
                let words = source.pointer.cast::<u32>();
                transpose(isa, words, source.stride / 2, width, first, rows, k0 / 2, kc / 2, out);
            }
            (false, false) => {
                let base = source.pointer.cast::<u32>();
                for k in 0..kc {
                    let row = std::slice::from_raw_parts(base.add((k0 + k) * source.stride + first), rows);
                    let target = &mut out[k * width..(k + 1) * width];
                    target[..rows].copy_from_slice(row);
                    target[rows..].fill(0);
                }
            }
            _ => {
                let base = source.pointer.cast::<bf16>();
                let (along_k, along_row) =
                    if source.k_contiguous { (1, source.stride) } else { (source.stride, 1) };
                let at = |r: usize, k: usize| u32::from((*base.add((first + r) * along_row + (k0 + k) * along_k)).to_bits());
                if pairs {
                    for pair in 0..kc.div_ceil(2) {
                        let target = &mut out[pair * width..(pair + 1) * width];
                        if 2 * pair + 1 < kc {
                            for r in 0..rows {
                                target[r] = at(r, 2 * pair) | at(r, 2 * pair + 1) << 16;
                            }
                        } else {
                            for r in 0..rows {
                                target[r] = at(r, 2 * pair);
                            }
                        }
                        target[rows..].fill(0);
                    }
                } else {
                    for k in 0..kc {
                        let target = &mut out[k * width..(k + 1) * width];
                        for r in 0..rows {
                            target[r] = at(r, k) << 16;
                        }
                        target[rows..].fill(0);
                    }
                }
            }
        }
    }
}

/// [`pack_rows`] with the vectors of AVX2.
///
/// # Safety
/// As [`pack_rows`]; AVX2 is available.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_rows_avx2<const WIDTH: usize>(
    source: Source,
    pairs: bool,
    first: usize,
    k0: usize,
    kc: usize,
    out: &mut [u32],
) {
    // SAFETY: passed on.
    unsafe { pack_rows::<WIDTH>(source, pairs, first, k0, kc, out) }
}

/// A whole panel whose rows of memory run along its width.
///
/// # Safety
/// As [`pack_panel`], with `WIDTH` rows.
#[inline(always)]
unsafe fn pack_rows<const WIDTH: usize>(
    source: Source,
    pairs: bool,
    first: usize,
    k0: usize,
    kc: usize,
    out: &mut [u32],
) {
    let at = |k: usize| (k0 + k) * source.stride + first;
    // SAFETY: `WIDTH` elements of row k, of the type that the source stores.
    let bf16s = |k: usize| unsafe { source.pointer.cast::<u16>().add(at(k)).cast::<[u16; WIDTH]>().read_unaligned() };
    let (panel, _) = out.as_chunks_mut::<WIDTH>();
    for (word, target) in panel.iter_mut().enumerate().take(words(kc, pairs)) {
        if !source.is_bf16 {
            // SAFETY: as above.
            *target = unsafe { source.pointer.cast::<u32>().add(at(word)).cast::<[u32; WIDTH]>().read_unaligned() };
            continue;
        }
        let (low, high) = match pairs {
            true if 2 * word + 1 < kc => (bf16s(2 * word), bf16s(2 * word + 1)),
            true => (bf16s(2 * word), [0; WIDTH]),
            false => ([0; WIDTH], bf16s(word)),
        };
        for r in 0..WIDTH {
            target[r] = u32::from(low[r]) | u32::from(high[r]) << 16;
        }
    }
}

/// Words of k in a panel.
pub(crate) fn words(kc: usize, pairs: bool) -> usize {
    if pairs { kc.div_ceil(2) } else { kc }
}

/// `out[k][r] = base[first + r][k0 + k]`.
unsafe fn transpose(
    isa: Isa,
    base: *const u32,
    stride: usize,
    width: usize,
    first: usize,
    rows: usize,
    k0: usize,
    kc: usize,
    out: &mut [u32],
) {
    assert!(out.len() >= kc * width && rows <= width);
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 {
        // SAFETY: the caller's source covers the rows; AVX2 is available.
        unsafe { transpose_avx2::<false>(base.add(first * stride + k0).cast(), stride, width, rows, kc, out) };
        return;
    }
    let mut r = 0;
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        while r < rows {
            let lanes = (rows - r).min(16);
            let mut k = 0;
            while k < kc {
                let depth = (kc - k).min(16);
                // SAFETY: inside the source and the panel by the counts; AVX-512 is available.
                unsafe {
                    transpose_16(
                        base.add((first + r) * stride + k0 + k),
                        stride,
                        lanes,
                        depth,
                        out.as_mut_ptr().add(k * width + r),
                        width,
                        (width - r).min(16),
                    );
                }
                k += depth;
            }
            r += lanes;
        }
    }
    let _ = isa;
    for r in r..rows {
        // SAFETY: the caller's source covers the row.
        let row = unsafe { std::slice::from_raw_parts(base.add((first + r) * stride + k0), kc) };
        for (k, &word) in row.iter().enumerate() {
            out[k * width + r] = word;
        }
    }
    for k in 0..kc {
        out[k * width + rows..(k + 1) * width].fill(0);
    }
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
                        let half = _mm_loadu_si128(source.cast::<u16>().add(element + k).cast());
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
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

/// Transposes up to 16 rows of up to 16 words; writes `keep` words of each of the `depth` result rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn transpose_16(
    source: *const u32,
    stride: usize,
    lanes: usize,
    depth: usize,
    out: *mut u32,
    out_stride: usize,
    keep: usize,
) {
    use std::arch::x86_64::*;
    let load_mask = (((1u32 << depth) - 1) & 0xffff) as __mmask16;
    let store_mask = (((1u32 << keep) - 1) & 0xffff) as __mmask16;
    let mut x = [_mm512_setzero_ps(); 16];
    for (lane, row) in x.iter_mut().enumerate().take(lanes) {
        // SAFETY: the mask keeps the load inside the row.
        *row = unsafe { _mm512_maskz_loadu_ps(load_mask, source.add(lane * stride).cast()) };
    }
    // Two rounds inside 128-bit lanes (pairs, then quads), two rounds among them.
    let mut y = x;
    for i in 0..8 {
        y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    for i in 0..4 {
        let pair = |a, b, high| {
            let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
            _mm512_castpd_ps(if high { _mm512_unpackhi_pd(a, b) } else { _mm512_unpacklo_pd(a, b) })
        };
        x[4 * i] = pair(y[4 * i], y[4 * i + 2], false);
        x[4 * i + 1] = pair(y[4 * i], y[4 * i + 2], true);
        x[4 * i + 2] = pair(y[4 * i + 1], y[4 * i + 3], false);
        x[4 * i + 3] = pair(y[4 * i + 1], y[4 * i + 3], true);
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
    for (k, row) in x.iter().enumerate().take(depth) {
        // SAFETY: `depth` rows of `keep` words belong to the panel.
        unsafe { _mm512_mask_storeu_ps(out.add(k * out_stride).cast(), store_mask, *row) };
    }
}
