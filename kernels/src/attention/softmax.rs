//! Row passes over a block of scores: mask, online softmax, and its backward from the kept log-sum-exp.

use super::tile::{TILE_ROWS, reach};
use super::{SEEN_BY_ITSELF, SEEN_LATER};
use crate::simd::{LANES, math};
use crate::simd::registers::{self, Kernel, Lanes, exp};
use crate::vectorized;
use engine::cpu::Isa;

/// A block of scores: queries `first_query ..` against the keys `first_key ..` of a tile, both counted in their
/// sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub first_query: usize,
    pub queries: usize,
    pub first_key: usize,
    pub keys: usize,
    /// Elements between rows of the block.
    pub stride: usize,
    pub causal: bool,
    /// What scores are multiplied by, positive.
    pub scale: f32,
    pub key_mask: Option<KeyMask<'a>>,
}

impl Block<'_> {
    /// Index of the first query minus that of the first key.
    pub fn shift(&self) -> isize {
        self.first_query as isize - self.first_key as isize
    }

    /// Keys of the tile that `query` (counted in the block) may see.
    fn visible(&self, query: usize) -> usize {
        if self.causal { reach(self.shift(), query + 1).min(self.keys) } else { self.keys }
    }

    /// Elements of the row that must be defined: the products' register tiles read a few keys past the diagonal.
    pub fn extent(&self, query: usize) -> usize {
        let needed = match self.causal {
            true => reach(self.shift(), query / TILE_ROWS * TILE_ROWS + 2 * TILE_ROWS).min(self.keys),
            false => self.keys,
        };
        needed.next_multiple_of(LANES)
    }

    /// Puts minus infinity where key bits hide a key from `query`. `row` holds its defined scores.
    #[inline(always)]
    fn mask(&self, query: usize, row: &mut [f32]) {
        let visible = self.visible(query);
        if let Some(mask) = self.key_mask {
            let own = (self.first_query + query).checked_sub(self.first_key).filter(|&own| own < visible);
            let itself = own.map(|own| row[own]);
            row.iter_mut().zip(mask.bias).for_each(|(score, bias)| *score += bias);
            if let (Some(own), Some(itself)) = (own, itself) {
                row[own] = if mask.bits[own] & SEEN_BY_ITSELF != 0 { itself } else { f32::NEG_INFINITY };
            }
        }
    }
}

/// Key bits of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyMask<'a> {
    pub bits: &'a [u8],
    /// 0 for keys that later rows see, else minus infinity: as long as a row of scores.
    pub bias: &'a [f32],
}

/// Fills the bias of a [`KeyMask`].
pub(super) fn fill_bias(bits: &[u8], bias: &mut [f32]) {
    let values = bits.iter().map(|bits| if bits & SEEN_LATER != 0 { 0.0 } else { f32::NEG_INFINITY });
    bias.iter_mut().zip(values.chain(std::iter::repeat(0.0))).for_each(|(bias, value)| *bias = value);
}

/// What the online softmax knows of each query so far.
#[derive(Debug)]
pub(super) struct Running<'a> {
    /// Largest score, not scaled.
    pub largest: &'a mut [f32],
    /// Sum of the exponentials of the scores, less the largest.
    pub total: &'a mut [f32],
    /// Rows of accumulated values, to be rescaled.
    pub values: &'a mut [f32],
    /// Elements of such a row, whole vectors.
    pub columns: usize,
    /// True for the first tile of keys: nothing was accumulated.
    pub first: bool,
}

/// Turns scores into exp(scale (score - largest so far)), keeps the running sum, and rescales what was accumulated before.
pub(super) fn online_softmax(isa: Isa, block: &Block<'_>, scores: &mut [f32], running: &mut Running<'_>) {
    // SAFETY: the instruction set is a queue's.
    unsafe { registers::run(isa, Online { block, scores, running }) };
}

/// Turns scores into probabilities and their gradients into those of scaled scores: p = exp(scale score - log-sum-exp),
/// p (dp - delta).
pub(super) fn softmax_backward(
    isa: Isa,
    block: &Block<'_>,
    scores: &mut [f32],
    gradients: &mut [f32],
    log_sum_exp: &[f32],
    delta: &[f32],
) {
    // SAFETY: the instruction set is a queue's.
    unsafe { registers::run(isa, Backward { block, scores, gradients, log_sum_exp, delta }) };
}

vectorized! {
    /// Turns the largest score of each query into its log-sum-exp, and the sum of its terms into what they are multiplied by. Both
    /// are 0 for a query that has seen nothing.
    pub(super) fn log_sum_exp(largest: &mut [f32], total: &mut [f32], scale: f32) {
        for (largest, total) in largest.iter_mut().zip(total) {
            let seen = *largest > f32::NEG_INFINITY;
            let value = *largest * scale + math::ln::<L>(*total);
            *largest = if seen { value } else { 0.0 };
            *total = if seen { 1.0 / *total } else { 0.0 };
        }
    }
}

struct Online<'a, 'b> {
    block: &'a Block<'a>,
    scores: &'a mut [f32],
    running: &'a mut Running<'b>,
}

impl Kernel for Online<'_, '_> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        let Online { block, scores, running } = self;
        // The largest scores of all rows first: the sums of a row need not wait for its own.
        for query in 0..block.queries {
            let row = &mut scores[query * block.stride..][..block.extent(query)];
            block.mask(query, row);
            let visible = block.visible(query);
            // SAFETY: whole vectors of the row.
            let largest = unsafe {
                let hidden = R::splat(f32::NEG_INFINITY);
                let mut peak = hidden;
                for at in (0..row.len()).step_by(R::COUNT) {
                    let pointer = row.as_mut_ptr().add(at);
                    let mut values = R::load(pointer);
                    if at + R::COUNT > visible {
                        values = values.first(visible.saturating_sub(at), hidden);
                        values.store(pointer);
                    }
                    peak = values.max(peak);
                }
                peak.largest()
            };
            if running.first {
                running.largest[query] = largest;
            } else if !row.is_empty() {
                let before = running.largest[query];
                let largest = if before > largest { before } else { largest };
                // SAFETY: rows of whole vectors.
                let factor = unsafe {
                    let shift = R::splat(shift(largest, block.scale));
                    let factor = exp(R::splat(before).multiply_add(R::splat(block.scale), shift));
                    let values = &mut running.values[query * running.columns..][..running.columns];
                    for at in (0..values.len()).step_by(R::COUNT) {
                        let pointer = values.as_mut_ptr().add(at);
                        R::load(pointer).multiply(factor).store(pointer);
                    }
                    factor.largest()
                };
                running.total[query] *= factor;
                running.largest[query] = largest;
            }
        }
        let scale = block.scale;
        for query in 0..block.queries {
            let row = &mut scores[query * block.stride..][..block.extent(query)];
            // SAFETY: whole vectors of the row.
            let total = unsafe {
                let (scale, shift) = (R::splat(scale), R::splat(shift(running.largest[query], scale)));
                let mut sums = R::splat(0.0);
                for at in (0..row.len()).step_by(R::COUNT) {
                    let pointer = row.as_mut_ptr().add(at);
                    let values = exp(R::load(pointer).multiply_add(scale, shift));
                    values.store(pointer);
                    sums = sums.add(values);
                }
                sums.total()
            };
            running.total[query] = if running.first { total } else { running.total[query] + total };
        }
    }
}

/// What is added to scaled scores so that the largest becomes 0. A row that has seen nothing yet has minus infinity; any finite
/// shift makes its terms 0.
#[inline(always)]
fn shift(largest: f32, scale: f32) -> f32 {
    if largest == f32::NEG_INFINITY { 0.0 } else { -largest * scale }
}

struct Backward<'a> {
    block: &'a Block<'a>,
    scores: &'a mut [f32],
    gradients: &'a mut [f32],
    log_sum_exp: &'a [f32],
    delta: &'a [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        let Backward { block, scores, gradients, log_sum_exp, delta } = self;
        for query in 0..block.queries {
            let extent = block.extent(query);
            let row = &mut scores[query * block.stride..][..extent];
            let gradient = &mut gradients[query * block.stride..][..extent];
            block.mask(query, row);
            let visible = block.visible(query);
            // SAFETY: whole vectors of both rows.
            unsafe {
                let (scale, shift) = (R::splat(block.scale), R::splat(-log_sum_exp[query]));
                let delta = R::splat(-delta[query]);
                for at in (0..extent).step_by(R::COUNT) {
                    let (score, gradient) = (row.as_mut_ptr().add(at), gradient.as_mut_ptr().add(at));
                    let mut p = exp(R::load(score).multiply_add(scale, shift));
                    let mut d = p.multiply(R::load(gradient).add(delta));
                    // The products leave both undefined past the diagonal, and 0 times NaN is NaN.
                    if at + R::COUNT > visible {
                        let zero = R::splat(0.0);
                        (p, d) = (p.first(visible.saturating_sub(at), zero), d.first(visible.saturating_sub(at), zero));
                    }
                    p.store(score);
                    d.store(gradient);
                }
            }
        }
    }
}
