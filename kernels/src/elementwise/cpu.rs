//! CPU code of the element-wise glue: one streaming pass.

use super::sums::Sums;
use crate::simd::Write;
use crate::simd::registers::Stored;
use engine::{CpuQueue, DType, Out, Result, View};
use half::bf16;

/// Elements of a task at least.
const GRAIN: usize = 1 << 14;

/// `out = a (+ b)`, or `out += a (+ b)`; `b` has the storage type of `out`. Works in place on an input of that type.
pub(super) fn sum(queue: &CpuQueue, a: &View<'_>, b: Option<&View<'_>>, out: &mut Out<'_>) -> Result<()> {
    match (a.meta().dtype, out.meta().dtype) {
        (DType::BF16, DType::BF16) => sum_typed::<bf16, bf16>(queue, a, b, out),
        (DType::BF16, _) => sum_typed::<bf16, f32>(queue, a, b, out),
        (_, DType::BF16) => sum_typed::<f32, bf16>(queue, a, b, out),
        _ => sum_typed::<f32, f32>(queue, a, b, out),
    }
    Ok(())
}

fn sum_typed<A: Stored, T: Stored>(queue: &CpuQueue, a: &View<'_>, b: Option<&View<'_>>, out: &mut Out<'_>) {
    let count = out.meta().elements();
    let write = Write::of::<T>(out.accumulates(), count);
    let b = b.map(|b| b.pointer().cast::<T>());
    let sums = Sums { a: a.pointer().cast::<A>(), b, out: out.pointer().cast::<T>(), count, write };
    queue.parallel_spans(count, GRAIN, |range| {
        // The whole struct, not its raw pointers, must enter the closure.
        let sums = &sums;
        // SAFETY: inside all tensors, which have equal shapes; ranges are disjoint; the instruction set is a queue's.
        unsafe { sums.part(range).run(queue.isa()) };
        write.finish();
    });
}
