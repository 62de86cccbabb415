//! CPU attention, what both passes share: one task per (sequence, head) pair copies its head's rows into contiguous
//! scratch (keys transposed), then goes over blocks of queries and tiles of keys.
//!
//! What products read are words: f32, or where the processor multiplies them pairs of bf16 that are neighbours along the
//! depth of the product, which is the head's dimension for scores, keys or queries for the others. Sums are f32 always.
//!
//! Everything a task touches more than once stays in the second-level cache for the usual lengths.

use super::geometry::{Columns, Geometry, Sequences};
use super::pack::{load_rows, store_rows};
use super::softmax::{Block, KeyMask, fill_bias};
use super::tile::{Limit, Multiply, TILE_ROWS};
use super::{Attention, Visibility};
use crate::matmul::{self, pack_whole};
use crate::simd::registers::Stored;
use crate::simd::{Float, LANES};
use engine::cpu::Isa;
use engine::{DType, Element, Out, Result, Shared, View};
use std::ops::Range;

/// Most keys of a tile: a block of scores and the tile's keys and values fit the second-level cache.
const TILE_KEYS: usize = 320;

/// Columns of the heads of a tensor that is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    columns: Columns,
}

impl<'a, T: Element> Matrix<'a, T> {
    pub fn new(view: &View<'a>, columns: Columns) -> Result<Matrix<'a, T>> {
        Ok(Matrix { data: view.slice()?, columns })
    }

    pub fn stride(&self) -> usize {
        self.columns.stride
    }

    /// From the first element of `rows` at `column` of the heads on; rows are a stride apart. Empty without rows.
    pub fn rows(&self, rows: &Range<usize>, column: usize) -> &'a [T] {
        match rows.is_empty() {
            true => &[],
            false => &self.data[rows.start * self.columns.stride + self.columns.start + column..],
        }
    }
}

/// Columns of the heads of a tensor that tasks write, each its own rows and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a, T> {
    data: Shared<'a, T>,
    columns: Columns,
    pub accumulate: bool,
}

impl<'a, T: Element> Target<'a, T> {
    /// Several targets may share one tensor if their columns differ.
    pub fn new(out: &'a mut Out<'_>, columns: Columns) -> Result<Target<'a, T>> {
        let accumulate = out.accumulates();
        Ok(Target { data: Shared::new(out.slice_mut()?), columns, accumulate })
    }

    /// The same tensor seen at other columns.
    pub fn at(self, columns: Columns) -> Target<'a, T> {
        Target { columns, ..self }
    }

    /// The same tensor, set or added to.
    pub fn accumulating(self, accumulate: bool) -> Target<'a, T> {
        Target { accumulate, ..self }
    }

    /// `count` elements of a row.
    ///
    /// # Safety
    /// No other task touches them.
    pub unsafe fn part(&self, row: usize, column: usize, count: usize) -> &'a mut [T] {
        let start = row * self.columns.stride + self.columns.start + column;
        // SAFETY: the caller's.
        unsafe { self.data.part(start..start + count) }
    }
}

/// Columns of some rows of a target that one task owns.
#[derive(Debug)]
pub(super) struct Rows<'a, T> {
    target: Target<'a, T>,
    first: usize,
    column: usize,
    width: usize,
}

impl<T: Element> Rows<'_, T> {
    /// A row, and whether it is added to.
    pub fn row(&mut self, index: usize) -> (&mut [T], bool) {
        // SAFETY: the task's own.
        (unsafe { self.target.part(self.first + index, self.column, self.width) }, self.target.accumulate)
    }
}

/// Rows whose words a product reads one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left<'a> {
    pub words: &'a [f32],
    /// Words from one row to the next.
    pub stride: usize,
}

/// What all tasks of a call share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub isa: Isa,
    /// Words are pairs of bf16.
    pub pairs: bool,
    pub head_dim: usize,
    pub causal: bool,
    pub scale: f32,
    pub sequences: Sequences<'a>,
}

impl<'a> Call<'a> {
    /// `inputs` are those of the forward op.
    pub fn new(op: &Attention, isa: Isa, geometry: &Geometry, inputs: &[View<'a>]) -> Result<Call<'a>> {
        Ok(Call {
            isa,
            // Queries are read where they lie: with an even dimension no pair is half another head's.
            pairs: isa == Isa::Avx512Bf16
                && inputs[0].meta().dtype == DType::BF16
                && geometry.head_dim.is_multiple_of(2),
            head_dim: geometry.head_dim,
            causal: op.visibility != Visibility::All,
            scale: 1.0 / (geometry.head_dim as f32).sqrt(),
            sequences: Sequences::read(op, inputs)?,
        })
    }

    /// Words of a row of one head where products read whole vectors of it, and elements of one that they write.
    pub fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Words of a transposed tile.
    pub fn transposed(&self, tiles: &Tiles) -> usize {
        tiles.stride * self.words(self.head_dim)
    }

    /// Words of a depth of `count` elements.
    pub fn words(&self, count: usize) -> usize {
        matmul::words(count, self.pairs)
    }

    /// A head's columns of `rows` as words along rows: where they lie, or widened in `buffer`.
    pub fn along<'b, T: Stored>(
        &self,
        from: &Matrix<'b, T>,
        rows: &Range<usize>,
        column: usize,
        buffer: &'b mut [f32],
    ) -> Left<'b> {
        if self.pairs || T::DTYPE == DType::F32 {
            let (words, size) = (bytemuck::cast_slice(from.rows(rows, column)), size_of::<T>());
            return Left { words, stride: from.stride() * size / size_of::<f32>() };
        }
        self.across(from, rows, column, buffer);
        Left { words: buffer, stride: self.padded() }
    }

    /// Copies a head's columns of `rows`: a row of words for each, or for each two.
    pub fn across<T: Stored>(&self, from: &Matrix<'_, T>, rows: &Range<usize>, column: usize, to: &mut [f32]) {
        let to = &mut to[..self.words(rows.len()) * self.padded()];
        match self.pairs {
            true => self.pack(from, rows, column, false, self.padded(), to),
            false => load_rows(self.isa, from.rows(rows, column), from.stride(), self.head_dim, to, self.padded()),
        }
    }

    /// Transposes a head's columns of the rows from `first_row` on, tile by tile.
    pub fn transpose<T: Float>(
        &self,
        from: &Matrix<'_, T>,
        first_row: usize,
        column: usize,
        tiles: &Tiles,
        to: &mut [f32],
    ) {
        for (tile, to) in tiles.iter().zip(to.chunks_exact_mut(self.transposed(tiles))) {
            self.pack(from, &(first_row + tile.start..first_row + tile.end), column, true, tiles.stride, to);
        }
    }

    /// A head's columns of `rows` as a panel of a product, `width` words wide, of which the depth is along rows or across.
    fn pack<T: Float>(
        &self,
        from: &Matrix<'_, T>,
        rows: &Range<usize>,
        column: usize,
        along: bool,
        width: usize,
        to: &mut [f32],
    ) {
        let (count, elements) = (rows.len(), from.rows(rows, column));
        if count == 0 {
            return;
        }
        assert!(elements.len() >= (count - 1) * from.stride() + self.head_dim);
        let source = matmul::Source {
            pointer: elements.as_ptr().cast(),
            stride: from.stride(),
            is_bf16: T::DTYPE == DType::BF16,
            k_contiguous: along,
        };
        let (rows, depth) = if along { (count, self.head_dim) } else { (self.head_dim, count) };
        // SAFETY: the elements are there; the instruction set is a queue's.
        unsafe { pack_whole(self.isa, source, self.pairs, width, rows, depth, bytemuck::cast_slice_mut(to)) };
    }

    /// Writes scratch rows to a head's columns of `rows`, each times its scale, or all times the only one.
    ///
    /// # Safety
    /// No other task touches these rows and columns of the target.
    pub unsafe fn store<T: Stored>(
        &self,
        from: &[f32],
        to: &Target<'_, T>,
        rows: Range<usize>,
        column: usize,
        scales: &[f32],
    ) {
        let count = rows.len();
        let to = Rows { target: *to, first: rows.start, column, width: self.head_dim };
        store_rows(self.isa, &from[..count * self.padded()], self.padded(), scales, to);
    }

    /// `of` the distance of queries and keys if the mask is causal.
    pub fn limit(&self, of: impl Fn(isize) -> Limit, block: &Block<'_>) -> Limit {
        if self.causal { of(block.shift()) } else { Limit::None }
    }

    /// Fills the biases of all tiles if keys have bits.
    pub fn fill_biases(&self, sequence: usize, tiles: &Tiles, biases: &mut [f32]) {
        let Some(bits) = self.sequences.bits(sequence) else { return };
        for (tile, bias) in tiles.iter().zip(biases.chunks_exact_mut(tiles.stride)) {
            fill_bias(&bits[tile], bias);
        }
    }

    /// The block of queries `queries` and keys of tile `index`.
    pub fn block<'b>(
        &self,
        sequence: usize,
        queries: &Range<usize>,
        tiles: &Tiles,
        index: usize,
        biases: &'b [f32],
    ) -> Block<'b>
    where
        'a: 'b,
    {
        let keys = tiles.keys(index);
        let bias = &biases[index * tiles.stride..][..tiles.stride];
        let bits = self.sequences.bits(sequence);
        Block {
            first_query: queries.start,
            queries: queries.len(),
            first_key: keys.start,
            keys: keys.len(),
            stride: tiles.stride,
            causal: self.causal,
            scale: self.scale,
            key_mask: bits.map(|bits| KeyMask { bits: &bits[keys], bias }),
        }
    }

    /// scores = rows · transposed tile.
    pub fn multiply_scores(&self, rows: Left<'_>, transposed: &[f32], scores: &mut [f32], block: &Block<'_>) {
        Multiply {
            pairs: self.pairs,
            a: rows.words,
            a_strides: (rows.stride, 1),
            b: transposed,
            b_stride: block.stride,
            c: scores,
            c_stride: block.stride,
            rows: block.queries,
            columns: block.keys,
            depth: self.words(self.head_dim),
            accumulate: false,
            limit: self.limit(Limit::Columns, block),
        }
        .run(self.isa);
    }

    /// result (+)= scores · rows of keys or values.
    pub fn multiply_by_keys(
        &self,
        scores: &[f32],
        rows: &[f32],
        result: &mut [f32],
        block: &Block<'_>,
        accumulate: bool,
    ) {
        Multiply {
            pairs: self.pairs,
            a: scores,
            a_strides: (block.stride, 1),
            b: rows,
            b_stride: self.padded(),
            c: result,
            c_stride: self.padded(),
            rows: block.queries,
            columns: self.head_dim,
            depth: self.words(block.keys),
            accumulate,
            limit: self.limit(Limit::DepthEnd, block),
        }
        .run(self.isa);
    }
}

/// Splits the keys of a sequence into tiles of nearly equal length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    keys: usize,
    length: usize,
    /// Elements between rows of transposed keys and of score blocks.
    pub stride: usize,
}

impl Tiles {
    pub fn new(keys: usize) -> Tiles {
        let count = keys.div_ceil(TILE_KEYS).max(1);
        // Several tiles begin at whole vectors, so that no pair of keys is divided.
        let length = if count == 1 { keys.max(1) } else { keys.div_ceil(count).next_multiple_of(LANES) };
        // An odd number of cache lines keeps the rows of a panel from falling into the same sets.
        let lines = length.div_ceil(LANES);
        let stride = LANES * if lines > 4 { lines | 1 } else { lines };
        Tiles { keys, length, stride }
    }

    pub fn count(&self) -> usize {
        self.keys.div_ceil(self.length)
    }

    /// Keys of one tile.
    pub fn keys(&self, index: usize) -> Range<usize> {
        index * self.length..((index + 1) * self.length).min(self.keys)
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count()).map(|index| self.keys(index))
    }

}

/// Splits `count` queries into blocks of nearly equal length, at most `largest`, each a multiple of a register tile.
pub(super) fn blocks(count: usize, largest: usize) -> impl Iterator<Item = Range<usize>> {
    let number = count.div_ceil(largest).max(1);
    let length = count.div_ceil(number).next_multiple_of(TILE_ROWS).max(1);
    (0..count).step_by(length).map(move |start| start..(start + length).min(count))
}
