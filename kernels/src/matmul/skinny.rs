//! Products of a few rows, as generation has them: bound by memory, so every weight is read once, from where it lies, and
//! nothing is packed.

use super::epilogue::finish;
use super::gemm::{Gemm, Place};
use super::pack::fetch;
use crate::simd::registers::{self, Kernel, Lanes, Registers, Stored};
use crate::simd::prefetch;
use engine::CpuQueue;
use half::bf16;
use std::marker::PhantomData;
use std::ops::Range;

/// Most rows of A: with more, packed panels win; in bf16 with fewer, where they have an instruction for pairs.
const MOST_ROWS: usize = 8;
const MOST_BF16_ROWS: usize = 6;
/// Columns of a task at least, where B's rows are columns of C, each read on its own; the longest tasks have no more than [`SUMS`].
const DOTS: usize = 32;
/// Columns of a task where B's rows run along those of C: long pieces of a row, sums that stay in level-1 cache.
const SUMS: usize = 512;
/// Rows of A that are multiplied together by a row of B, and sums of each, which would wait for one another.
const ROWS: usize = 3;
const CHAINS: usize = 4;
/// Steps of k that are worked on together where B's rows run along those of C.
const TOGETHER: usize = 4;
/// Rows of B that are fetched ahead there, and bytes where they are read one by one.
const AHEAD: usize = 16;
const AHEAD_BYTES: usize = 8 << 10;

/// True for products that [`skinny`] is made for: few rows, with k along them.
pub(super) fn suits(work: &Gemm<'_>) -> bool {
    let most = if work.a.is_bf16 { MOST_BF16_ROWS } else { MOST_ROWS };
    work.m <= most && work.a.k_contiguous && work.k > 0
}

/// Runs on the queue's threads. A task owns some columns of C; each of its sums has an order of its own.
pub(super) fn skinny(queue: &CpuQueue, work: &Gemm<'_>) {
    let task = |range: Range<usize>| {
        let mut tile = [0.0f32; MOST_ROWS * SUMS];
        let place = Place { row: 0, rows: work.m, column: range.start, columns: range.len(), stride: SUMS };
        // SAFETY: the operands cover the sizes; the columns of C belong to this task.
        unsafe {
            if work.a.is_bf16 {
                registers::run(queue.isa(), Columns::<bf16> { work, place, tile: &mut tile, stored: PhantomData });
            } else {
                registers::run(queue.isa(), Columns::<f32> { work, place, tile: &mut tile, stored: PhantomData });
            }
            finish(queue.isa(), &mut tile, place, &work.target, work.target.accumulate, &work.epilogue);
        }
    };
    if work.b.k_contiguous {
        queue.parallel_spans(work.n, DOTS, task);
    } else {
        queue.parallel_ranges(work.n, SUMS, task);
    }
}

/// Some columns of a product of operands that store `T` and cover the sizes.
struct Columns<'a, T> {
    work: &'a Gemm<'a>,
    place: Place,
    tile: &'a mut [f32],
    stored: PhantomData<T>,
}

impl<T: Stored> Kernel for Columns<'_, T> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        // SAFETY: the caller's.
        unsafe { columns::<R, T>(self.work, self.place, self.tile) }
    }
}

#[inline(always)]
unsafe fn columns<R: Lanes, T: Stored>(work: &Gemm<'_>, place: Place, tile: &mut [f32]) {
    let (a, b) = (work.a.pointer.cast::<T>(), work.b.pointer.cast::<T>());
    assert!(tile.len() >= place.rows * place.stride && place.columns <= place.stride);
    if !work.b.k_contiguous {
        let whole = work.k / TOGETHER * TOGETHER;
        for k in (0..work.k).step_by(TOGETHER) {
            let ahead = k + AHEAD;
            fetch(work.b, ahead.min(work.k)..(ahead + TOGETHER).min(work.k), place.column..place.column + place.columns);
            // SAFETY: the operands cover the sizes.
            unsafe {
                let (a, b) = (a.add(k), b.add(k * work.b.stride + place.column));
                if k < whole {
                    add_rows::<R, T, TOGETHER>(a, work.a.stride, b, work.b.stride, place, tile);
                } else {
                    for k in 0..work.k - whole {
                        add_rows::<R, T, 1>(a.add(k), work.a.stride, b.add(k * work.b.stride), work.b.stride, place, tile);
                    }
                }
            }
        }
        return;
    }
    for column in 0..place.columns {
        for row in (0..place.rows).step_by(ROWS) {
            // SAFETY: the operands cover the sizes.
            unsafe {
                let (a, b) = (a.add(row * work.a.stride), b.add((place.column + column) * work.b.stride));
                let mut sums = [0.0; ROWS];
                match place.rows - row {
                    1 => [sums[0]] = dots::<R, T, 1>(a, work.a.stride, b, work.k),
                    2 => [sums[0], sums[1]] = dots::<R, T, 2>(a, work.a.stride, b, work.k),
                    _ => sums = dots::<R, T, ROWS>(a, work.a.stride, b, work.k),
                }
                for (row, sum) in (row..place.rows).zip(sums) {
                    tile[row * place.stride + column] = sum;
                }
            }
        }
    }
}

/// Products of rows of A with a row of B, along k. Rows of B one after the other: memory is read in its order.
///
/// # Safety
/// Each row has `k` elements.
#[inline(always)]
unsafe fn dots<R: Lanes, T: Stored, const COUNT: usize>(
    a: *const T,
    a_stride: usize,
    b: *const T,
    k: usize,
) -> [f32; COUNT] {
    // SAFETY: elements of the rows.
    unsafe {
        let mut sums = [[R::splat(0.0); COUNT]; CHAINS];
        let whole = k / R::COUNT * R::COUNT;
        let mut at = 0;
        while at + CHAINS * R::COUNT <= whole {
            for (chain, sums) in sums.iter_mut().enumerate() {
                add_products(a.add(at + chain * R::COUNT), a_stride, b.add(at + chain * R::COUNT), sums);
            }
            at += CHAINS * R::COUNT;
        }
        while at < whole {
            add_products(a.add(at), a_stride, b.add(at), &mut sums[0]);
            at += R::COUNT;
        }
        let mut results = [0.0; COUNT];
        for (row, result) in results.iter_mut().enumerate() {
            let [one, two, three, four] = sums.map(|sums| sums[row]);
            *result = one.add(two).add(three.add(four)).total();
            for k in whole..k {
                *result += (*a.add(row * a_stride + k)).widen() * (*b.add(k)).widen();
            }
        }
        results
    }
}

/// Adds the products of a vector of each row of A with one of a row of B.
///
/// # Safety
/// The vectors are there.
#[inline(always)]
unsafe fn add_products<R: Registers, T: Stored, const COUNT: usize>(
    a: *const T,
    a_stride: usize,
    b: *const T,
    sums: &mut [R; COUNT],
) {
    prefetch(b.cast::<u8>().wrapping_add(AHEAD_BYTES));
    // SAFETY: the caller's.
    unsafe {
        let b: R = T::load(b);
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = b.multiply_add(T::load(a.add(row * a_stride)), *sum);
        }
    }
}

/// Adds the products of `COUNT` steps of k to the tile.
///
/// # Safety
/// `a` starts the tile's rows of `COUNT` elements, `b` starts `COUNT` rows of the tile's columns.
#[inline(always)]
unsafe fn add_rows<R: Registers, T: Stored, const COUNT: usize>(
    a: *const T,
    a_stride: usize,
    b: *const T,
    b_stride: usize,
    place: Place,
    tile: &mut [f32],
) {
    let whole = place.columns / R::COUNT * R::COUNT;
    // SAFETY: elements of the operands and of the tile.
    unsafe {
        let mut factors = [[0.0; COUNT]; MOST_ROWS];
        for (row, factors) in factors.iter_mut().enumerate().take(place.rows) {
            for (k, factor) in factors.iter_mut().enumerate() {
                *factor = (*a.add(row * a_stride + k)).widen();
            }
        }
        for column in (0..whole).step_by(R::COUNT) {
            let mut values = [R::splat(0.0); COUNT];
            for (k, value) in values.iter_mut().enumerate() {
                *value = T::load(b.add(k * b_stride + column));
            }
            for (row, factors) in factors.iter().enumerate().take(place.rows) {
                let target = tile.as_mut_ptr().add(row * place.stride + column);
                let mut sum = R::load(target);
                for (value, &factor) in values.iter().zip(factors) {
                    sum = value.multiply_add(R::splat(factor), sum);
                }
                sum.store(target);
            }
        }
        for column in whole..place.columns {
            for (row, factors) in factors.iter().enumerate().take(place.rows) {
                for (k, factor) in factors.iter().enumerate() {
                    tile[row * place.stride + column] += factor * (*b.add(k * b_stride + column)).widen();
                }
            }
        }
    }
}
