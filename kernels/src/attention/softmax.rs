//! Row passes over a block of scores: mask, online softmax, and its backward from the kept log-sum-exp.

use super::tile::{TILE_ROWS, reach};
use super::{SEEN_BY_ITSELF, SEEN_LATER};
use crate::simd::{LANES, Level, fold};
use crate::vectorized;

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
    fn extent(&self, query: usize) -> usize {
        let needed = match self.causal {
            true => reach(self.shift(), query / TILE_ROWS * TILE_ROWS + 2 * TILE_ROWS).min(self.keys),
            false => self.keys,
        };
        needed.next_multiple_of(LANES)
    }

    /// Puts minus infinity where `query` sees nothing. `row` holds its defined scores.
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
        row[visible..].fill(f32::NEG_INFINITY);
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

/// e^x within 2 ulp for x up to 80; 0 below -87.33. As `simd::math::exp`, less what scores above their largest need.
#[inline(always)]
fn exp<L: Level>(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, kept in the low mantissa bits
    let bounded = if x < -87.33 { -87.33 } else { x };
    let shifted = L::fma(bounded, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    // ln 2 in two parts; n has at most 8 bits, so n times the first part is exact.
    let r = L::fma(n, -0.693_145_75, bounded);
    let r = L::fma(n, -1.428_606_8e-6, r);
    let p = L::fma(r, 1.0 / 5040.0, 1.0 / 720.0);
    let p = L::fma(p, r, 1.0 / 120.0);
    let p = L::fma(p, r, 1.0 / 24.0);
    let p = L::fma(p, r, 1.0 / 6.0);
    let p = L::fma(p, r, 0.5);
    let p = L::fma(p, r, 1.0);
    let p = L::fma(p, r, 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.33 { 0.0 } else { p * power }
}

/// What the online softmax knows of each query so far.
#[derive(Debug)]
pub(super) struct Running<'a> {
    /// Largest score.
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

vectorized! {
    /// Turns scores into exp(score - largest so far), keeps the running sum, and rescales what was accumulated before.
    pub(super) fn online_softmax(block: &Block<'_>, scores: &mut [f32], running: &mut Running<'_>) {
        for query in 0..block.queries {
            let extent = block.extent(query);
            if extent == 0 {
                continue;
            }
            let row = &mut scores[query * block.stride..][..extent];
            block.mask(query, row);
            let row = row.as_chunks_mut::<LANES>().0;
            let mut peak = [f32::NEG_INFINITY; LANES];
            for chunk in row.iter() {
                for (peak, &score) in peak.iter_mut().zip(chunk) {
                    *peak = if score > *peak { score } else { *peak };
                }
            }
            let mut largest = largest_of(peak);
            let before = if running.first { f32::NEG_INFINITY } else { running.largest[query] };
            largest = if before > largest { before } else { largest };
            // A row that has seen nothing yet keeps minus infinity; any finite shift makes its terms 0.
            let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
            let mut sums = [0.0f32; LANES];
            for chunk in row {
                for (sum, score) in sums.iter_mut().zip(chunk) {
                    *score = exp::<L>(*score - shift);
                    *sum += *score;
                }
            }
            let mut total = fold(sums);
            if !running.first {
                let factor = exp::<L>(before - shift);
                total += running.total[query] * factor;
                running.values[query * running.columns..][..running.columns].iter_mut().for_each(|value| *value *= factor);
            }
            running.largest[query] = largest;
            running.total[query] = total;
        }
    }

    /// Turns scores into probabilities and their gradients into score gradients: p = exp(score - log-sum-exp),
    /// dscore = p (dp - delta).
    pub(super) fn softmax_backward(block: &Block<'_>, scores: &mut [f32], gradients: &mut [f32], log_sum_exp: &[f32], delta: &[f32]) {
        for query in 0..block.queries {
            let extent = block.extent(query);
            if extent == 0 {
                continue;
            }
            let row = &mut scores[query * block.stride..][..extent];
            let gradient = &mut gradients[query * block.stride..][..extent];
            block.mask(query, row);
            // The products leave gradients past the diagonal undefined, and 0 times NaN is NaN.
            gradient[block.visible(query)..].fill(0.0);
            let (log_sum_exp, delta) = (log_sum_exp[query], delta[query]);
            for (scores, gradients) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(gradient.as_chunks_mut::<LANES>().0) {
                for (score, gradient) in scores.iter_mut().zip(gradients) {
                    let probability = exp::<L>(*score - log_sum_exp);
                    *score = probability;
                    *gradient = probability * (*gradient - delta);
                }
            }
        }
    }
}

/// The largest lane.
#[inline(always)]
fn largest_of(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] = if other > lanes[lane] { other } else { lanes[lane] };
        }
        width /= 2;
    }
    lanes[0]
}
