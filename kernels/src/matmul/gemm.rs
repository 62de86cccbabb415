//! The blocked driver: packs blocks of A and B that stay in cache and runs the micro-kernel over their panels.
//!
//! k is taken whole up to [`KC`] words, so that C is touched once; a longer k adds block after block in f32.
//! B blocks are packed once and shared by all threads. Every task owns its part of C and the order of sums depends on shapes
//! alone, so results are the same bits for any number of threads.

use super::epilogue::{Epilogue, Target, finish};
use super::micro::{MAX_TILE, Micro, select};
use super::pack::{Source, pack_panel, words};
use engine::cpu::Isa;
use bytemuck::{Pod, Zeroable};
use engine::{CpuQueue, Shared};
use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most words of k in a packed block: shorter blocks fit caches better, and lose more by touching C again.
const KC: usize = 2048;
/// Bytes of the panels of A that a task holds against one panel of B: they stay in a level-2 cache while panels of B
/// stream by.
const GROUP_BYTES: usize = 192 << 10;
/// Rows of memory that are packed at a time where they run along the panels' width; even, for pairs.
const PACKED_ROWS: usize = 8;
/// Bytes of a packed block of B, and of A: together in a level-3 cache.
const BLOCK_BYTES: usize = 8 << 20;

/// Most bytes of packed panels that products of operands of at most `elements` elements leave behind for the next: one
/// block of A and one of B.
pub fn panel_bytes(elements: usize) -> usize {
    2 * BLOCK_BYTES.min(elements * size_of::<f32>())
}

/// One multiplication `C = A · B`, with A `[m, k]` and B `[k, n]` in whatever order of storage.
pub(crate) struct Gemm<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Source,
    pub b: Source,
    pub target: Target<'a>,
    pub epilogue: Epilogue<'a>,
}

/// A cache line: packed panels of B start on one, so that no vector load crosses two.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Packed A, packed B and partial sums, one set for each product that has run beside others. They grow on first use and
/// stay. Not the threads' own: which thread of a pool drives a product is chance, and each would come to have a set.
static BUFFERS: Mutex<Vec<[Vec<Line>; 3]>> = Mutex::new(Vec::new());

fn buffers() -> MutexGuard<'static, Vec<[Vec<Line>; 3]>> {
    BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn grown(buffer: &mut Vec<Line>, words: usize) -> &mut [u32] {
    let lines = words.div_ceil(16);
    if buffer.len() < lines {
        *buffer = Vec::new(); // free the old one first
        *buffer = vec![Line::zeroed(); lines];
    }
    &mut bytemuck::cast_slice_mut(buffer)[..words]
}

/// How the work is cut.
struct Cut {
    /// k per block.
    kc: usize,
    /// Panels of A and of B in a block.
    a_panels: usize,
    b_panels: usize,
}

fn cut(gemm: &Gemm<'_>, micro: Micro, block_bytes: usize) -> Cut {
    let per_word = if micro.pairs { 2 } else { 1 };
    let blocks = gemm.k.div_ceil(KC * per_word).max(1);
    let kc = gemm.k.div_ceil(blocks).next_multiple_of(2).max(2);
    let panel_bytes = |width: usize| words(kc, micro.pairs).max(1) * width * 4;
    let fitting = |width: usize, total: usize| {
        let most = (block_bytes / panel_bytes(width)).max(1);
        let panels = total.div_ceil(width);
        panels.div_ceil(panels.div_ceil(most).max(1)).max(1)
    };
    Cut { kc, a_panels: fitting(micro.rows, gemm.m), b_panels: fitting(micro.columns, gemm.n) }
}

/// Runs on the queue's threads.
pub(crate) fn gemm(queue: &CpuQueue, work: &Gemm<'_>) {
    blocked(queue, work, BLOCK_BYTES);
}

fn blocked(queue: &CpuQueue, work: &Gemm<'_>, block_bytes: usize) {
    let isa = queue.isa();
    let micro = select(isa, work.a.is_bf16);
    let Cut { kc, a_panels, b_panels } = cut(work, micro, block_bytes);
    let k_blocks = work.k.div_ceil(kc).max(1);
    let [mut a_buffer, mut b_buffer, mut c_buffer] = buffers().pop().unwrap_or_default();
    {
        let depth = words(kc, micro.pairs);
        let a_packed = Shared::new(grown(&mut a_buffer, depth * micro.rows * a_panels));
        let b_packed = Shared::new(grown(&mut b_buffer, depth * micro.columns * b_panels));
        // Sums of a long k wait in f32; an f32 target without an epilogue holds them itself.
        let in_target = work.target.is_f32() && work.epilogue.is_none();
        let partial = (k_blocks > 1 && !in_target)
            .then(|| Shared::new(bytemuck::cast_slice_mut::<u32, f32>(grown(&mut c_buffer, work.m * work.n))));
        for k_block in 0..k_blocks {
            let k0 = k_block * kc;
            let k_size = kc.min(work.k - k0);
            let depth = words(k_size, micro.pairs);
            let stage = Stage { first: k_block == 0, last: k_block + 1 == k_blocks };
            for b_first in (0..work.n.div_ceil(micro.columns)).step_by(b_panels) {
                let b_count = b_panels.min(work.n.div_ceil(micro.columns) - b_first);
                for a_first in (0..work.m.div_ceil(micro.rows)).step_by(a_panels) {
                    let a_count = a_panels.min(work.m.div_ceil(micro.rows) - a_first);
                    let b_stale = a_first == 0;
                    let b_tasks = if b_stale { b_count } else { 0 };
                    queue.parallel_ranges(b_tasks + a_count, 4, |range| {
                        // Neighbouring panels share the cache lines of a row: some rows at a time for all of them.
                        for k in (0..k_size).step_by(PACKED_ROWS) {
                            for index in range.clone() {
                                let (source, width, total, panel, packed) = match index.checked_sub(b_tasks) {
                                    None => (work.b, micro.columns, work.n, index, b_packed),
                                    Some(panel) => (work.a, micro.rows, work.m, panel, a_packed),
                                };
                                let (k, count) = match source.k_contiguous {
                                    true if k > 0 => continue,
                                    true => (0, k_size),
                                    false => (k, PACKED_ROWS.min(k_size - k)),
                                };
                                let first = (panel + if index < b_tasks { b_first } else { a_first }) * width;
                                let rows = width.min(total - first);
                                let start = (panel * depth + words(k, micro.pairs)) * width;
                                // SAFETY: each task packs panels of its own; the source covers rows and k.
                                unsafe {
                                    let out = packed.part(start..start + words(count, micro.pairs) * width);
                                    pack_panel(isa, source, micro.pairs, width, (first, rows), (k0 + k, count), out);
                                }
                            }
                        }
                    });
                    let block = Block { a_first, a_count, b_first, b_count, depth };
                    compute(queue, work, micro, block, stage, a_packed, b_packed, partial);
                }
            }
        }
    }
    buffers().push([a_buffer, b_buffer, c_buffer]);
}

#[derive(Clone, Copy)]
struct Stage {
    first: bool,
    last: bool,
}

#[derive(Clone, Copy)]
struct Block {
    a_first: usize,
    a_count: usize,
    b_first: usize,
    b_count: usize,
    depth: usize,
}

fn compute(
    queue: &CpuQueue,
    work: &Gemm<'_>,
    micro: Micro,
    block: Block,
    stage: Stage,
    a_packed: Shared<'_, u32>,
    b_packed: Shared<'_, u32>,
    partial: Option<Shared<'_, f32>>,
) {
    let Block { a_first, a_count, b_first, b_count, depth } = block;
    // A task is one panel of B against a group of panels of A; neighbouring tasks share the group.
    let a_group = (GROUP_BYTES / (depth * micro.rows * 4).max(1)).clamp(1, a_count);
    let a_groups = a_count.div_ceil(a_group);
    queue.parallel(b_count * a_groups, |task| {
        let (group, b_panel) = (task / b_count, task % b_count);
        let column = (b_first + b_panel) * micro.columns;
        let columns = micro.columns.min(work.n - column);
        let mut tile = [0.0f32; MAX_TILE];
        for a_panel in group * a_group..((group + 1) * a_group).min(a_count) {
            let row = (a_first + a_panel) * micro.rows;
            let rows = micro.rows.min(work.m - row);
            let (a_size, b_size) = (depth * micro.rows, depth * micro.columns);
            // SAFETY: the packed panels of this block, read-only now; the ISA was chosen as available; the tile of C
            // belongs to this task.
            unsafe {
                let a = a_packed.part(a_panel * a_size..(a_panel + 1) * a_size).as_ptr();
                let b = b_packed.part(b_panel * b_size..(b_panel + 1) * b_size).as_ptr();
                (micro.run)(depth, a, b, tile.as_mut_ptr());
                let place = Place { row, rows, column, columns, stride: micro.columns };
                match partial {
                    None => {
                        let accumulate = work.target.accumulate || !stage.first;
                        finish(queue.isa(), &tile, place, &work.target, accumulate, &work.epilogue);
                    }
                    Some(partial) => {
                        add_partial(&mut tile, place, work.n, partial, stage);
                        if stage.last {
                            let accumulate = work.target.accumulate;
                            finish(queue.isa(), &tile, place, &work.target, accumulate, &work.epilogue);
                        }
                    }
                }
            }
        }
    });
}

/// Where a tile lies in C, and how it lies in its buffer.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
    /// Elements from one row of the tile buffer to the next.
    pub stride: usize,
}

/// Adds what earlier k blocks left to the tile; leaves the sum for later ones.
///
/// # Safety
/// The tile's part of `partial` belongs to the calling task.
unsafe fn add_partial(tile: &mut [f32; MAX_TILE], place: Place, n: usize, partial: Shared<'_, f32>, stage: Stage) {
    for i in 0..place.rows {
        let start = (place.row + i) * n + place.column;
        // SAFETY: by contract.
        let held = unsafe { partial.part(start..start + place.columns) };
        let sums = &mut tile[i * place.stride..i * place.stride + place.columns];
        if !stage.first {
            sums.iter_mut().zip(held.iter()).for_each(|(sum, &held)| *sum += held);
        }
        if !stage.last {
            held.copy_from_slice(sums);
        }
    }
}

/// A single-threaded multiplication for use inside the tasks of other kernels: small operands, no parallel region.
pub(crate) fn gemm_here(isa: Isa, work: &Gemm<'_>) {
    thread_local! {
        static SMALL: RefCell<[Vec<Line>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    }
    let micro = select(isa, work.a.is_bf16);
    let depth = words(work.k, micro.pairs);
    let (a_panels, b_panels) = (work.m.div_ceil(micro.rows), work.n.div_ceil(micro.columns));
    SMALL.with(|buffers| {
        let mut buffers = buffers.borrow_mut();
        let [a_buffer, b_buffer] = &mut *buffers;
        let a_packed = grown(a_buffer, depth * micro.rows * a_panels);
        let b_packed = grown(b_buffer, depth * micro.columns * b_panels);
        let sides: [(Source, usize, usize, &mut [u32]); 2] =
            [(work.a, micro.rows, work.m, &mut *a_packed), (work.b, micro.columns, work.n, &mut *b_packed)];
        for (source, width, total, packed) in sides {
            for (panel, out) in packed.chunks_exact_mut((depth * width).max(1)).enumerate() {
                let first = panel * width;
                // SAFETY: the source covers rows and k; the queue's ISA is available.
                unsafe {
                    pack_panel(isa, source, micro.pairs, width, (first, width.min(total - first)), (0, work.k), out)
                };
            }
        }
        let mut tile = [0.0f32; MAX_TILE];
        for b_panel in 0..b_panels {
            let column = b_panel * micro.columns;
            for a_panel in 0..a_panels {
                let row = a_panel * micro.rows;
                // SAFETY: packed above; the target belongs to the caller.
                unsafe {
                    let a = a_packed.as_ptr().add(a_panel * depth * micro.rows);
                    let b = b_packed.as_ptr().add(b_panel * depth * micro.columns);
                    (micro.run)(depth, a, b, tile.as_mut_ptr());
                    let place = Place {
                        row,
                        rows: micro.rows.min(work.m - row),
                        column,
                        columns: micro.columns.min(work.n - column),
                        stride: micro.columns,
                    };
                    finish(isa, &tile, place, &work.target, work.target.accumulate, &work.epilogue);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::rng::Philox;
    use std::marker::PhantomData;

    #[test]
    fn small_blocks_give_the_same_bits() {
        let (m, n, k) = (61, 101, 4500);
        let mut random = Philox::new(7, 0);
        let (a, b): (Vec<f32>, Vec<f32>) = {
            let mut values = |count: usize| (0..count).map(|_| random.normal() as f32).collect();
            (values(m * k), values(n * k))
        };
        let source = |values: &[f32]| Source {
            pointer: values.as_ptr().cast(),
            stride: k,
            is_bf16: false,
            k_contiguous: true,
        };
        for isa in Isa::available() {
            let queue = CpuQueue::new(isa, 2).expect("threads");
            let product = |block_bytes: usize| {
                let mut c = vec![0.0f32; m * n];
                let pointer = c.as_mut_ptr().cast();
                let target =
                    Target { pointer, stride: n, is_bf16: false, accumulate: false, alpha: 1.0, lifetime: PhantomData };
                let work = Gemm { m, n, k, a: source(&a), b: source(&b), target, epilogue: Epilogue::default() };
                blocked(&queue, &work, block_bytes);
                c
            };
            // One panel of each operand a block, a few, all.
            let whole = product(BLOCK_BYTES);
            let exact: f64 = (0..k).map(|k| f64::from(a[k]) * f64::from(b[k])).sum();
            assert!((f64::from(whole[0]) - exact).abs() < 1e-2, "{isa}: {} is not {exact}", whole[0]);
            for block_bytes in [1, 400_000] {
                assert!(product(block_bytes) == whole, "{isa}: blocks of {block_bytes} bytes");
            }
        }
    }
}
