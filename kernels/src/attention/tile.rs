//! Products of small matrices that sit in cache: C (+)= A · B without packing, by register tiles of up to 6 rows and
//! 4 vectors. A is read by broadcast with any strides, so the same code serves A and Aᵀ.

use super::lanes::{Kernel, Lanes};

/// Rows of a register tile.
pub(super) const TILE_ROWS: usize = 6;

/// What a causal mask leaves to compute. The number is the index of
/// the first query minus that of the first key, both counted in their sequence.
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

/// C `[rows, columns]` = or += A `[rows, depth]` · B `[depth, columns]`.
///
/// Columns are computed in whole vectors: B and C are readable and writable up to the next multiple of a vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Multiply {
    pub a: *const f32,
    /// Elements between rows of A and between steps of its depth.
    pub a_strides: (usize, usize),
    pub b: *const f32,
    pub b_stride: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub accumulate: bool,
    pub limit: Limit,
}

/// `index + shift`, at least 0.
pub(super) fn reach(shift: isize, index: usize) -> usize {
    (index as isize + shift).max(0) as usize
}

impl Kernel for Multiply {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let vectors = self.columns.div_ceil(L::COUNT);
        let panels = vectors.div_ceil(L::TILE_VECTORS);
        // Panels of nearly equal width: 5 vectors are 3 and 2, not 4 and 1.
        for panel in 0..panels {
            let first = panel * vectors / panels;
            let last = (panel + 1) * vectors / panels;
            let mut row = 0;
            while row < self.rows {
                let count = TILE_ROWS.min(self.rows - row);
                let (mut end, mut depth) = (last, 0..self.depth);
                match self.limit {
                    Limit::None => {}
                    Limit::Columns(shift) => end = end.min(reach(shift, row + count).div_ceil(L::COUNT)),
                    Limit::DepthEnd(shift) => depth.end = depth.end.min(reach(shift, row + count)),
                    Limit::DepthStart(shift) => depth.start = reach(-shift, row).min(depth.end),
                }
                if first < end && (!depth.is_empty() || !self.accumulate) {
                    // SAFETY: the caller's matrices hold these rows, columns and depth.
                    unsafe { self.tiles::<L>(row, count, first * L::COUNT, end - first, depth) };
                }
                row += count;
            }
        }
    }
}

impl Multiply {
    /// One register tile of `rows` rows and `vectors` vectors.
    #[inline(always)]
    unsafe fn tiles<L: Lanes>(
        &self,
        row: usize,
        rows: usize,
        column: usize,
        vectors: usize,
        depth: std::ops::Range<usize>,
    ) {
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                // SAFETY: passed on.
                unsafe {
                    match (rows, vectors) {
                        $(
                            ($rows, 1) => self.tile::<L, $rows, 1>(row, column, depth),
                            ($rows, 2) => self.tile::<L, $rows, 2>(row, column, depth),
                            ($rows, 3) if L::TILE_VECTORS >= 3 => self.tile::<L, $rows, 3>(row, column, depth),
                            ($rows, 4) if L::TILE_VECTORS >= 4 => self.tile::<L, $rows, 4>(row, column, depth),
                        )*
                        _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                    }
                }
            };
        }
        dispatch!(6 5 4 3 2 1);
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize, const VECTORS: usize>(
        &self,
        row: usize,
        column: usize,
        depth: std::ops::Range<usize>,
    ) {
        let (a_row, a_step) = self.a_strides;
        let count = depth.len();
        // SAFETY: rows row..row + ROWS, the vectors from `column` and the depth lie in the matrices.
        unsafe {
            let mut a = self.a.add(row * a_row + depth.start * a_step);
            let mut b = self.b.add(depth.start * self.b_stride + column);
            let c = self.c.add(row * self.c_stride + column);
            let mut sums = [[L::zero(); VECTORS]; ROWS];
            for _ in 0..count {
                let mut values = [L::zero(); VECTORS];
                for (index, value) in values.iter_mut().enumerate() {
                    *value = L::load(b.add(index * L::COUNT));
                }
                for (index, sums) in sums.iter_mut().enumerate() {
                    let factor = L::splat(*a.add(index * a_row));
                    for (sum, &value) in sums.iter_mut().zip(&values) {
                        *sum = L::multiply_add(factor, value, *sum);
                    }
                }
                a = a.add(a_step);
                b = b.add(self.b_stride);
            }
            for (index, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    let target = c.add(index * self.c_stride + vector * L::COUNT);
                    let sum = if self.accumulate { L::add(L::load(target), sum) } else { sum };
                    L::store(target, sum);
                }
            }
        }
    }
}
