//! Products of small matrices that sit in cache: C (+)= A · B without packing, by register tiles of up to 6 rows and
//! 4 vectors. A is read by broadcast with any strides, so the same code serves A and Aᵀ.
//!
//! A and B hold words of 32 bits: an f32, or the bits of two bf16 that are neighbours along the depth.

use crate::simd::LANES;
use crate::simd::registers::{self, Kernel, Lanes, Products, Registers};
use engine::cpu::Isa;
use std::ops::Range;

/// Rows of a register tile; even, so that pairs of rows do not fall apart.
pub(super) const TILE_ROWS: usize = 6;

/// What a causal mask leaves to compute. The number is the index of the first query minus that of the first key, both
/// counted in their sequence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// Everything.
    None,
    /// Rows are queries, columns are keys: columns after the tile's last query are left alone.
    Columns(isize),
    /// Rows are queries, the depth runs over keys: it ends at the tile's last query.
    DepthEnd(isize),
    /// Rows are keys, the depth runs over queries: it starts at the tile's first key.
    DepthStart(isize),
}

/// `index + shift`, at least 0.
pub(super) fn reach(shift: isize, index: usize) -> usize {
    (index as isize + shift).max(0) as usize
}

/// C `[rows, columns]` = or += A `[rows, depth]` · B `[depth, columns]`, where `depth` counts words and C is f32.
///
/// Columns are computed in whole vectors: B and C have rows of a multiple of [`LANES`] elements.
#[derive(Debug)]
pub(super) struct Multiply<'a> {
    /// Words are pairs of bf16, of [`Isa::Avx512Bf16`].
    pub pairs: bool,
    pub a: &'a [f32],
    /// Words between rows of A and between steps of its depth.
    pub a_strides: (usize, usize),
    pub b: &'a [f32],
    pub b_stride: usize,
    pub c: &'a mut [f32],
    pub c_stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub accumulate: bool,
    pub limit: Limit,
}

impl Kernel for &mut Multiply<'_> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        // SAFETY: the caller's.
        unsafe { self.tiles::<R>() }
    }
}

impl Products for &mut Multiply<'_> {
    #[inline(always)]
    unsafe fn run<R: Registers>(self) {
        // SAFETY: the caller's.
        unsafe { self.tiles::<R>() }
    }
}

impl Multiply<'_> {
    /// Runs on the calling thread. `isa` is a queue's: the CPU has it.
    pub fn run(&mut self, isa: Isa) {
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        // The tiles trust these sizes.
        let width = self.columns.next_multiple_of(LANES);
        let last = |count: usize| count.saturating_sub(1);
        assert!(self.c.len() >= last(self.rows) * self.c_stride + width);
        if self.depth > 0 {
            assert!(self.a.len() > last(self.rows) * self.a_strides.0 + last(self.depth) * self.a_strides.1);
            assert!(self.b.len() >= last(self.depth) * self.b_stride + width);
        }
        #[cfg(target_arch = "x86_64")]
        if self.pairs {
            assert_eq!(isa, Isa::Avx512Bf16, "pairs of bf16 need its instruction");
            // SAFETY: as below.
            return unsafe { registers::run_pairs(self) };
        }
        // SAFETY: the path is available; sizes are checked above.
        unsafe { registers::run(isa, self) };
    }

    #[inline(always)]
    unsafe fn tiles<R: Registers>(&mut self) {
        let vectors = self.columns.div_ceil(R::COUNT);
        let panels = vectors.div_ceil(R::TILE_VECTORS);
        let word = if self.pairs { 2 } else { 1 };
        // Panels of nearly equal width: 5 vectors are 3 and 2, not 4 and 1.
        for panel in 0..panels {
            let first = panel * vectors / panels;
            let last = (panel + 1) * vectors / panels;
            for row in (0..self.rows).step_by(TILE_ROWS) {
                let count = TILE_ROWS.min(self.rows - row);
                let (mut end, mut depth) = (last, 0..self.depth);
                match self.limit {
                    Limit::None => {}
                    Limit::Columns(shift) => end = end.min(reach(shift, row + count).div_ceil(R::COUNT)),
                    Limit::DepthEnd(shift) => depth.end = depth.end.min(reach(shift, row + count).div_ceil(word)),
                    Limit::DepthStart(shift) => depth.start = (reach(-shift, row) / word).min(depth.end),
                }
                if first < end && (!depth.is_empty() || !self.accumulate) {
                    // SAFETY: the caller's matrices hold these rows, columns and depth.
                    unsafe { self.any_tile::<R>(row, count, first * R::COUNT, end - first, depth) };
                }
            }
        }
    }

    /// One register tile of `rows` rows and `vectors` vectors.
    #[inline(always)]
    unsafe fn any_tile<R: Registers>(
        &mut self,
        row: usize,
        rows: usize,
        column: usize,
        vectors: usize,
        depth: Range<usize>,
    ) {
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                // SAFETY: passed on.
                unsafe {
                    match (rows, vectors) {
                        $(
                            ($rows, 1) => self.tile::<R, $rows, 1>(row, column, depth),
                            ($rows, 2) => self.tile::<R, $rows, 2>(row, column, depth),
                            ($rows, 3) if R::TILE_VECTORS >= 3 => self.tile::<R, $rows, 3>(row, column, depth),
                            ($rows, 4) if R::TILE_VECTORS >= 4 => self.tile::<R, $rows, 4>(row, column, depth),
                        )*
                        _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                    }
                }
            };
        }
        dispatch!(6 5 4 3 2 1);
    }

    #[inline(always)]
    unsafe fn tile<R: Registers, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        row: usize,
        column: usize,
        depth: Range<usize>,
    ) {
        let (a_row, a_step) = self.a_strides;
        // SAFETY: rows row..row + ROWS, the vectors from `column` and the depth lie in the matrices.
        unsafe {
            let mut a = self.a.as_ptr().add(row * a_row + depth.start * a_step);
            let mut b = self.b.as_ptr().add(depth.start * self.b_stride + column);
            let c = self.c.as_mut_ptr().add(row * self.c_stride + column);
            let mut sums = [[R::splat(0.0); VECTORS]; ROWS];
            for _ in depth {
                let mut values = [R::splat(0.0); VECTORS];
                for (index, value) in values.iter_mut().enumerate() {
                    *value = R::load(b.add(index * R::COUNT));
                }
                for (index, sums) in sums.iter_mut().enumerate() {
                    let factor = R::splat(*a.add(index * a_row));
                    for (sum, &value) in sums.iter_mut().zip(&values) {
                        *sum = value.multiply_add(factor, *sum);
                    }
                }
                a = a.wrapping_add(a_step);
                b = b.wrapping_add(self.b_stride);
            }
            for (index, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    let target = c.add(index * self.c_stride + vector * R::COUNT);
                    let sum = if self.accumulate { R::load(target).add(sum) } else { sum };
                    sum.store(target);
                }
            }
        }
    }
}
