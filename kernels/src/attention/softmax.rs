//! Row passes over a block of scores: mask, online softmax, and its backward from the kept log-sum-exp.

use super::lanes::{Kernel, Lanes};
use super::tile::{TILE_ROWS, reach};
use super::{SEEN_BY_ITSELF, SEEN_LATER};

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
    fn extent(&self, query: usize, lanes: usize) -> usize {
        let needed = match self.causal {
            true => reach(self.shift(), query / TILE_ROWS * TILE_ROWS + 2 * TILE_ROWS).min(self.keys),
            false => self.keys,
        };
        needed.next_multiple_of(lanes)
    }

    /// Puts minus infinity where `query` sees nothing.
    ///
    /// # Safety
    /// `row` holds `extent` scores.
    #[inline(always)]
    unsafe fn mask<L: Lanes>(&self, query: usize, row: *mut f32, extent: usize) {
        let visible = self.visible(query);
        // SAFETY: visible <= extent; the bias is as long as a row.
        unsafe {
            if let Some(mask) = self.key_mask {
                let own = (self.first_query + query).checked_sub(self.first_key).filter(|&own| own < visible);
                let itself = own.map(|own| *row.add(own));
                for key in (0..visible).step_by(L::COUNT) {
                    L::store(row.add(key), L::add(L::load(row.add(key)), L::load(mask.bias.add(key))));
                }
                if let (Some(own), Some(itself)) = (own, itself) {
                    *row.add(own) = if mask.bits[own] & SEEN_BY_ITSELF != 0 { itself } else { f32::NEG_INFINITY };
                }
            }
            for key in visible..extent {
                *row.add(key) = f32::NEG_INFINITY;
            }
        }
    }
}

/// Key bits of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyMask<'a> {
    pub bits: &'a [u8],
    /// 0 for keys that later rows see, else minus infinity: whole vectors of finite or infinite values.
    pub bias: *const f32,
}

/// Fills the bias of a [`KeyMask`].
pub(super) fn fill_bias(bits: &[u8], bias: &mut [f32]) {
    let values = bits.iter().map(|bits| if bits & SEEN_LATER != 0 { 0.0 } else { f32::NEG_INFINITY });
    bias.iter_mut().zip(values.chain(std::iter::repeat(0.0))).for_each(|(bias, value)| *bias = value);
}

/// Turns scores into exp(score - largest so far), keeps the running sum, and rescales what was accumulated before.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnlineSoftmax<'a> {
    pub block: Block<'a>,
    pub scores: *mut f32,
    /// Largest score so far and sum of exponentials, one a query.
    pub largest: *mut f32,
    pub total: *mut f32,
    /// Rows of accumulated values, to be rescaled; `columns` is a multiple of a vector.
    pub values: *mut f32,
    pub columns: usize,
    /// True for the first tile of keys: nothing was accumulated.
    pub first: bool,
}

impl Kernel for OnlineSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for query in 0..self.block.queries {
            // SAFETY: the block has these rows; each holds `extent` scores; the statistics have one entry a query.
            unsafe {
                let row = self.scores.add(query * self.block.stride);
                let extent = self.block.extent(query, L::COUNT);
                if extent == 0 {
                    continue;
                }
                self.block.mask::<L>(query, row, extent);
                let mut peak = L::load(row);
                for key in (L::COUNT..extent).step_by(L::COUNT) {
                    peak = L::largest(peak, L::load(row.add(key)));
                }
                let mut largest = L::reduce_largest(peak);
                let before = if self.first { f32::NEG_INFINITY } else { *self.largest.add(query) };
                largest = largest.max(before);
                // A row that has seen nothing yet keeps minus infinity; any finite shift makes its terms 0.
                let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
                let minus = L::splat(-shift);
                let mut sum = L::zero();
                for key in (0..extent).step_by(L::COUNT) {
                    let value = L::exp(L::add(L::load(row.add(key)), minus));
                    L::store(row.add(key), value);
                    sum = L::add(sum, value);
                }
                let mut total = L::reduce_sum(sum);
                if !self.first {
                    let factor = (before - shift).exp();
                    total += *self.total.add(query) * factor;
                    let values = self.values.add(query * self.columns);
                    let factor = L::splat(factor);
                    for column in (0..self.columns).step_by(L::COUNT) {
                        L::store(values.add(column), L::multiply(L::load(values.add(column)), factor));
                    }
                }
                *self.largest.add(query) = largest;
                *self.total.add(query) = total;
            }
        }
    }
}

/// Turns scores into probabilities and their gradients into score gradients: p = exp(score - log-sum-exp),
/// dscore = p · (dp - delta).
#[derive(Clone, Copy, Debug)]
pub(super) struct SoftmaxBackward<'a> {
    pub block: Block<'a>,
    pub scores: *mut f32,
    pub gradients: *mut f32,
    /// One each a query.
    pub log_sum_exp: *const f32,
    pub delta: *const f32,
}

impl Kernel for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for query in 0..self.block.queries {
            // SAFETY: as in `OnlineSoftmax`.
            unsafe {
                let row = self.scores.add(query * self.block.stride);
                let gradient = self.gradients.add(query * self.block.stride);
                let extent = self.block.extent(query, L::COUNT);
                if extent == 0 {
                    continue;
                }
                self.block.mask::<L>(query, row, extent);
                // The products leave gradients past the diagonal undefined, and 0 times NaN is NaN.
                for key in self.block.visible(query)..extent {
                    *gradient.add(key) = 0.0;
                }
                let minus = L::splat(-*self.log_sum_exp.add(query));
                let delta = L::splat(-*self.delta.add(query));
                for key in (0..extent).step_by(L::COUNT) {
                    let probability = L::exp(L::add(L::load(row.add(key)), minus));
                    let difference = L::add(L::load(gradient.add(key)), delta);
                    L::store(row.add(key), probability);
                    L::store(gradient.add(key), L::multiply(probability, difference));
                }
            }
        }
    }
}
