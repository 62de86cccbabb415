//! The blocked driver: packs operands into panels and runs the micro-kernel over them.
//!
//! k is taken whole up to [`KC`] words, so that C is touched once; a longer k adds block after block in f32.
//! The smaller operand is packed first, for all threads, in blocks that fit the level-3 cache. The larger is divided among
//! tasks: each packs a few of its panels for itself, which stay in its level-2 cache while the other's stream by. So the
//! larger operand is read once and never written back. Every task owns its part of C and the order of sums depends on shapes
//! alone, so results are the same bits for any number of threads.

use super::ahead::Ahead;
use super::epilogue::{Epilogue, Target, fetch, finish};
use super::first::{self, First, Rows};
use super::micro::{MAX_TILE, Micro, select};
use super::pack::{Source, pack_panels, words};
use super::skinny::{skinny, suits};
use bytemuck::{Pod, Zeroable};
use engine::cpu::Isa;
use engine::{CpuQueue, Shared};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most words of k in a packed block: shorter blocks fit caches better, and lose more by touching C again.
const KC: usize = 2048;
/// Bytes of the panels that a task packs for itself: they stay in a level-2 cache.
const OWN_BYTES: usize = 256 << 10;
/// Bytes of a block of the other operand, in a level-3 cache.
const BLOCK_BYTES: usize = 8 << 20;
/// Panels of the block in common that a task packs.
const PACKED_PANELS: usize = 4;
/// Tasks for each thread, if there are panels enough: what one thread does while the others have finished is short.
const TASKS: usize = 8;

/// The last tasks have so many times fewer panels.
const SMALLER: usize = 2;

/// Looks at what others are packing before this thread sleeps a little: they may want its core.
const SPINS: usize = 1000;
const NAP: Duration = Duration::from_micros(50);

/// Most bytes of packed panels that products of operands of at most `elements` elements leave behind for the next, beside
/// what each thread keeps.
pub fn panel_bytes(elements: usize) -> usize {
    BLOCK_BYTES.min(elements * size_of::<f32>())
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

/// A packed block and partial sums, one set for each product that has run beside others. They grow on first use and
/// stay. Not the threads' own: which thread of a pool drives a product is chance, and each would come to have a set.
static BUFFERS: Mutex<Vec<[Vec<Line>; 2]>> = Mutex::new(Vec::new());

thread_local! {
    /// Panels that a task packs for itself.
    static OWN: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

fn buffers() -> MutexGuard<'static, Vec<[Vec<Line>; 2]>> {
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

/// An operand by its panels.
#[derive(Clone, Copy)]
struct Panels {
    source: Source,
    /// Rows of a panel, and in all.
    width: usize,
    total: usize,
}

impl Panels {
    fn count(&self) -> usize {
        self.total.div_ceil(self.width)
    }

    /// Most panels, nearly equally many each time, of `depth` words that fit into `bytes`; at least one.
    fn fitting(&self, depth: usize, bytes: usize) -> usize {
        let most = (bytes / (4 * depth * self.width).max(1)).max(1);
        self.count().div_ceil(self.count().div_ceil(most).max(1)).max(1)
    }
}

/// Panels divided among tasks. The last ones are small: what one thread does while the others have finished is short.
#[derive(Clone, Copy)]
struct Groups {
    panels: usize,
    /// Panels of a task, how many such tasks there are, and panels of one after them.
    large: usize,
    count: usize,
    small: usize,
}

impl Groups {
    fn new(panels: usize, large: usize, threads: usize) -> Groups {
        let small = large.div_ceil(SMALLER);
        Groups { panels, large, count: (panels / large.max(1)).saturating_sub(threads), small: small.max(1) }
    }

    fn count(&self) -> usize {
        self.count + (self.panels - self.count * self.large).div_ceil(self.small)
    }

    /// Panels of a task, none of one behind the last.
    fn range(&self, task: usize) -> Range<usize> {
        let start = |task: usize| match task.checked_sub(self.count) {
            None => task * self.large,
            Some(more) => self.panels.min(self.count * self.large + more * self.small),
        };
        start(task)..start(task + 1)
    }
}

/// Runs on the queue's threads.
pub(crate) fn gemm(queue: &CpuQueue, work: &Gemm<'_>) {
    if suits(work) {
        skinny(queue, work);
    } else {
        blocked(queue, work, BLOCK_BYTES);
    }
}

fn blocked(queue: &CpuQueue, work: &Gemm<'_>, block_bytes: usize) {
    let micro = select(queue.isa(), work.a.is_bf16);
    let a = Panels { source: work.a, width: micro.rows, total: work.m };
    let b = Panels { source: work.b, width: micro.columns, total: work.n };
    let b_is_own = work.n >= work.m;
    let (shared, own) = if b_is_own { (a, b) } else { (b, a) };
    let k_blocks = work.k.div_ceil(KC * if micro.pairs { 2 } else { 1 }).max(1);
    let kc = work.k.div_ceil(k_blocks).next_multiple_of(2).max(2);
    let depth = words(kc, micro.pairs);
    let block = shared.fitting(depth, block_bytes);
    let group = own.fitting(depth, OWN_BYTES.min(block_bytes)).min(own.count().div_ceil(TASKS * queue.threads()));
    let groups = Groups::new(own.count(), group, queue.threads());
    // A whole tile of rows is there to be multiplied while panels of B are packed.
    let by_rows = b_is_own && !work.b.k_contiguous && work.b.is_bf16 == micro.pairs && work.m >= micro.rows;
    let pack_first = if by_rows { first::select(queue.isa(), work.b.is_bf16) } else { None };
    let [mut packed, mut sums] = buffers().pop().unwrap_or_default();
    {
        let packed = Shared::new(grown(&mut packed, depth * shared.width * block));
        // Sums of a long k wait in f32; an f32 target without an epilogue holds them itself.
        let in_target = work.target.is_f32() && work.epilogue.is_none();
        let partial = (work.k > kc && !in_target)
            .then(|| Shared::new(bytemuck::cast_slice_mut::<u32, f32>(grown(&mut sums, work.m * work.n))));
        for k in (0..work.k.max(1)).step_by(kc) {
            let k = k..work.k.min(k + kc);
            let stage = Stage { work, micro, depth: words(k.len(), micro.pairs), k: k.clone(), partial };
            for first in (0..shared.count()).step_by(block) {
                let panels = first..shared.count().min(first + block);
                let size = stage.depth * shared.width;
                let packs = panels.len().div_ceil(PACKED_PANELS);
                let done = AtomicUsize::new(0);
                queue.parallel(packs + groups.count(), |task| {
                    let Some(task) = task.checked_sub(packs) else {
                        let _done = Done(&done);
                        let range = task * PACKED_PANELS..panels.len().min((task + 1) * PACKED_PANELS);
                        // SAFETY: each task packs panels of its own.
                        let out = unsafe { packed.part(range.start * size..range.end * size) };
                        stage.pack(queue.isa(), &shared, first + range.start..first + range.end, &k, out);
                        return;
                    };
                    let range = groups.range(task);
                    OWN.with_borrow_mut(|buffer| {
                        let mine = grown(buffer, range.len() * stage.depth * own.width);
                        if pack_first.is_none() {
                            stage.pack(queue.isa(), &own, range.clone(), &k, mine);
                        }
                        // Threads take tasks in order, so others are at work on what is not packed yet.
                        let mut turns = 0;
                        while done.load(Ordering::Acquire) < packs {
                            turns += 1;
                            if turns < SPINS {
                                std::hint::spin_loop();
                            } else {
                                std::thread::sleep(NAP);
                            }
                        }
                        // SAFETY: only read from here on.
                        let held = unsafe { &*packed.part(0..panels.len() * size) };
                        let mut ahead = stage.ahead(&own, groups.range(task + queue.threads()));
                        let shared = (panels.clone(), held);
                        stage.multiply(queue.isa(), shared, (range, mine), b_is_own, pack_first, &mut ahead);
                    });
                });
            }
        }
    }
    buffers().push([packed, sums]);
}

/// Counts a task as done when it is dropped: also of one that panics, for which the others would wait for ever.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// What all tasks of a block of k share.
struct Stage<'a> {
    work: &'a Gemm<'a>,
    micro: Micro,
    /// Words of k.
    depth: usize,
    /// The block of k.
    k: Range<usize>,
    /// Sums of earlier blocks of k, where C cannot hold them.
    partial: Option<Shared<'a, f32>>,
}

impl Stage<'_> {
    fn pack(&self, isa: Isa, panels: &Panels, range: Range<usize>, k: &Range<usize>, out: &mut [u32]) {
        // SAFETY: the source covers its panels and k; a queue's ISA is available.
        unsafe { pack_panels(isa, panels.source, self.micro.pairs, panels.width, panels.total, range, k, out) }
    }

    /// Panels of an operand that are not packed yet.
    fn ahead(&self, panels: &Panels, range: Range<usize>) -> Ahead {
        let [start, end] = [range.start, range.end].map(|panel| panels.total.min(panel * panels.width));
        Ahead::new(&panels.source, start..end, &self.k)
    }

    /// All tiles of some panels of the operand in common and of those that a task has packed, or with the first of them packs.
    fn multiply(
        &self,
        isa: Isa,
        shared: (Range<usize>, &[u32]),
        own: (Range<usize>, &mut [u32]),
        b_is_own: bool,
        pack_first: Option<First>,
        ahead: &mut Ahead,
    ) {
        let mut tile = [0.0f32; MAX_TILE];
        let (own_width, shared_width) = match b_is_own {
            true => (self.micro.columns, self.micro.rows),
            false => (self.micro.rows, self.micro.columns),
        };
        for (i, shared_panel) in shared.0.enumerate() {
            // By index: without k the panels have no words, and C is still written.
            let theirs = shared.1[i * self.depth * shared_width..][..self.depth * shared_width].as_ptr();
            for (j, own_panel) in own.0.clone().enumerate() {
                let mine = own.1[j * self.depth * own_width..][..self.depth * own_width].as_mut_ptr();
                let (a, b) = if b_is_own { (shared_panel, own_panel) } else { (own_panel, shared_panel) };
                let place = self.place(a, b);
                fetch(place, &self.work.target, &self.work.epilogue);
                // SAFETY: the panels hold `depth` words, the rows are those of B; the ISA was chosen as available.
                unsafe {
                    if let Some(pack_first) = pack_first.filter(|_| i == 0) {
                        let k = (self.k.start, self.k.len());
                        let rows = Rows::new(&self.work.b, k, (place.column, place.columns));
                        pack_first(theirs, rows, mine, tile.as_mut_ptr());
                    } else {
                        let (a, b) = if b_is_own { (theirs, mine.cast_const()) } else { (mine.cast_const(), theirs) };
                        self.micro.run(place.rows, place.columns)(self.depth, a, b, tile.as_mut_ptr(), ahead.lines(self.depth));
                    }
                }
                self.finish(isa, place, &mut tile);
            }
        }
    }

    /// Where the tile of two panels lies.
    fn place(&self, a: usize, b: usize) -> Place {
        let (work, micro) = (self.work, self.micro);
        let (row, column) = (a * micro.rows, b * micro.columns);
        Place {
            row,
            rows: micro.rows.min(work.m - row),
            column,
            columns: micro.columns.min(work.n - column),
            stride: micro.columns,
        }
    }

    /// What happens to the sums of a tile.
    fn finish(&self, isa: Isa, place: Place, tile: &mut [f32; MAX_TILE]) {
        let (work, first, last) = (self.work, self.k.start == 0, self.k.end == self.work.k);
        let mut accumulate = work.target.accumulate;
        // SAFETY: the tile of C belongs to this task.
        unsafe {
            match self.partial {
                None => accumulate |= !first,
                Some(partial) => add_partial(tile, place, work.n, partial, first, last),
            }
            if self.partial.is_none() || last {
                finish(isa, tile, place, &work.target, accumulate, &work.epilogue);
            }
        }
    }
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
unsafe fn add_partial(
    tile: &mut [f32; MAX_TILE],
    place: Place,
    n: usize,
    partial: Shared<'_, f32>,
    first: bool,
    last: bool,
) {
    for i in 0..place.rows {
        let start = (place.row + i) * n + place.column;
        // SAFETY: by contract.
        let held = unsafe { partial.part(start..start + place.columns) };
        let sums = &mut tile[i * place.stride..i * place.stride + place.columns];
        if !first {
            sums.iter_mut().zip(held.iter()).for_each(|(sum, &held)| *sum += held);
        }
        if !last {
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
    let a = Panels { source: work.a, width: micro.rows, total: work.m };
    let b = Panels { source: work.b, width: micro.columns, total: work.n };
    let stage = Stage { work, micro, depth, k: 0..work.k, partial: None };
    SMALL.with_borrow_mut(|[a_buffer, b_buffer]| {
        let a_packed = grown(a_buffer, depth * a.width * a.count());
        let b_packed = grown(b_buffer, depth * b.width * b.count());
        stage.pack(isa, &a, 0..a.count(), &(0..work.k), a_packed);
        stage.pack(isa, &b, 0..b.count(), &(0..work.k), b_packed);
        let mut ahead = stage.ahead(&a, 0..0);
        stage.multiply(isa, (0..b.count(), b_packed), (0..a.count(), a_packed), false, None, &mut ahead);
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
