//! CPU code of the element-wise glue: one streaming pass.

use super::sums::Sums;
use crate::simd::Write;
use crate::simd::registers::Stored;
use engine::{CpuQueue, DType, Out, View};
use half::bf16;

const GRAIN: usize = 1 << 14;

/// `out = a (+ b)`, or `out += a (+ b)`. Works in place on either input.
pub(super) fn add(queue: &CpuQueue, a: &View<'_>, b: Option<&View<'_>>, out: &mut Out<'_>) {
    match out.meta().dtype {
        DType::BF16 => write::<bf16, bf16>(queue, a, b, out),
        _ => write::<f32, f32>(queue, a, b, out),
    }
}

/// `out = a` or `out += a` in another storage type.
pub(super) fn cast(queue: &CpuQueue, a: &View<'_>, out: &mut Out<'_>) {
    match (a.meta().dtype, out.meta().dtype) {
        (DType::BF16, DType::BF16) => write::<bf16, bf16>(queue, a, None, out),
        (DType::BF16, _) => write::<bf16, f32>(queue, a, None, out),
        (_, DType::BF16) => write::<f32, bf16>(queue, a, None, out),
        _ => write::<f32, f32>(queue, a, None, out),
    }
}

/// Addresses that tasks share; in place, the output is also an input.
#[derive(Clone, Copy)]
struct Addresses<S, T> {
    a: *const S,
    b: Option<*const T>,
    out: *mut T,
}

// SAFETY: tasks work on disjoint ranges.
unsafe impl<S, T> Send for Addresses<S, T> {}
// SAFETY: as above.
unsafe impl<S, T> Sync for Addresses<S, T> {}

fn write<S: Stored, T: Stored>(queue: &CpuQueue, a: &View<'_>, b: Option<&View<'_>>, out: &mut Out<'_>) {
    let count = out.meta().elements();
    let write = Write::of::<T>(out.accumulates(), count);
    let addresses =
        Addresses { a: a.pointer().cast::<S>(), b: b.map(|b| b.pointer().cast::<T>()), out: out.pointer().cast::<T>() };
    queue.parallel_ranges(count, GRAIN, |range| {
        // The whole struct, not its raw pointers, must enter the closure.
        let Addresses { a, b, out } = *{ &addresses };
        let (first, count) = (range.start, range.len());
        // SAFETY: inside all tensors, which have equal shapes; ranges are disjoint; the instruction set is a queue's.
        unsafe {
            let b = b.map(|b| b.add(first));
            Sums { a: a.add(first), b, out: out.add(first), count, write }.run(queue.isa());
        }
        write.finish();
    });
}
