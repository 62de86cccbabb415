//! What is fetched while products run: the part of an operand that a thread's next task packs, a cache line for each word of k
//! that goes by. Its packing then waits for a cache in place of memory.

use super::pack::Source;
use crate::simd::LINE;
use std::ops::Range;

/// Bytes between rows across k from which on they are not fetched: they would fall into few sets of the cache, and take the panels
/// out of it.
const FAR: usize = 16 << 10;

/// Cache lines, one after the other: pieces of `piece` lines, with a gap from the end of each to the next. Any address will do.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    pub first: *const u8,
    /// Lines from the first one to the end of its piece.
    pub left: usize,
    pub piece: usize,
    pub gap: isize,
}

impl Lines {
    /// The next line.
    #[inline(always)]
    pub fn next(&mut self) -> *const u8 {
        let line = self.first;
        self.first = line.wrapping_add(LINE);
        self.left -= 1;
        if self.left == 0 {
            self.first = self.first.wrapping_offset(self.gap);
            self.left = self.piece;
        }
        line
    }
}

/// Rows of memory that are not fetched yet.
pub(crate) struct Ahead {
    first: *const u8,
    stride: usize,
    /// Lines of a row, of which there is one at least.
    piece: usize,
    next: usize,
    count: usize,
}

impl Ahead {
    /// The rows `rows` of an operand, for a range of k.
    pub fn new(source: &Source, rows: Range<usize>, k: &Range<usize>) -> Ahead {
        let size = if source.is_bf16 { 2 } else { 4 };
        let (across, along) = if source.k_contiguous { (&rows, k) } else { (k, &rows) };
        let stride = source.stride * size;
        let first = source.pointer.wrapping_add(across.start * stride + along.start * size);
        let lines = (along.len() * size).div_ceil(LINE);
        let count = if !source.k_contiguous && stride > FAR { 0 } else { across.len() * lines };
        Ahead { first, stride, piece: lines.max(1), next: 0, count }
    }

    /// The next `count` lines; after the last row one that is in the first-level cache, again and again.
    pub fn lines(&mut self, count: usize) -> Lines {
        let Ahead { first, stride, piece, next, .. } = *self;
        if next >= self.count {
            let near = std::ptr::from_ref(self).cast();
            return Lines { first: near, left: 1, piece: 1, gap: -(LINE as isize) };
        }
        self.next += count;
        let (row, line) = (next / piece, next % piece);
        let gap = stride as isize - (piece * LINE) as isize;
        Lines { first: first.wrapping_add(row * stride + line * LINE), left: piece - line, piece, gap }
    }
}
