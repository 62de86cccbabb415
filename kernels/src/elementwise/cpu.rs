//! CPU code of the element-wise glue: one streaming pass.

use crate::simd::Float;
use crate::vectorized;
use engine::{CpuQueue, DType, Out, Result, Shared, View};
use half::bf16;

const GRAIN: usize = 1 << 14;

/// `out = a (+ b)`, or `out += a (+ b)`. Works in place on either input.
pub(super) fn add(queue: &CpuQueue, a: &View<'_>, b: Option<&View<'_>>, out: &mut Out<'_>) -> Result<()> {
    match out.meta().dtype {
        DType::BF16 => add_typed::<bf16>(queue, a, b, out),
        _ => add_typed::<f32>(queue, a, b, out),
    }
    Ok(())
}

/// `out = a` or `out += a` in another storage type.
pub(super) fn cast(queue: &CpuQueue, a: &View<'_>, out: &mut Out<'_>) -> Result<()> {
    match (a.meta().dtype, out.meta().dtype) {
        (DType::BF16, DType::BF16) => cast_typed::<bf16, bf16>(queue, a, out),
        (DType::BF16, _) => cast_typed::<bf16, f32>(queue, a, out),
        (_, DType::BF16) => cast_typed::<f32, bf16>(queue, a, out),
        _ => cast_typed::<f32, f32>(queue, a, out),
    }
}

fn cast_typed<S: Float, T: Float>(queue: &CpuQueue, a: &View<'_>, out: &mut Out<'_>) -> Result<()> {
    let a = a.slice::<S>()?;
    let accumulate = out.accumulates();
    let out = Shared::new(out.slice_mut::<T>()?);
    queue.parallel_ranges(a.len(), GRAIN, |range| {
        // SAFETY: ranges are disjoint.
        let out = unsafe { out.part(range.clone()) };
        cast_range::<S, T>(queue.isa(), &a[range], out, accumulate);
    });
    Ok(())
}

/// Addresses that tasks share; in place, an output is also an input.
#[derive(Clone, Copy)]
struct Addresses<T> {
    a: *const T,
    b: Option<*const T>,
    out: *mut T,
}

// SAFETY: tasks work on disjoint ranges.
unsafe impl<T> Send for Addresses<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Addresses<T> {}

fn add_typed<T: Float>(queue: &CpuQueue, a: &View<'_>, b: Option<&View<'_>>, out: &mut Out<'_>) {
    let (count, accumulate) = (out.meta().elements(), out.accumulates());
    let addresses =
        Addresses { a: a.pointer().cast::<T>(), b: b.map(|b| b.pointer().cast::<T>()), out: out.pointer().cast::<T>() };
    queue.parallel_ranges(count, GRAIN, |range| {
        // The whole struct, not its raw pointers, must enter the closure.
        let addresses = &addresses;
        add_range::<T>(queue.isa(), *addresses, range.start, range.end, accumulate);
    });
}

vectorized! {
    fn add_range<T: Float>(addresses: Addresses<T>, start: usize, end: usize, accumulate: bool) {
        let Addresses { a, b, out } = addresses;
        for index in start..end {
            // SAFETY: inside all tensors, which have equal shapes; an element is read before it is written.
            unsafe {
                let mut value = (*a.add(index)).widen();
                if let Some(b) = b {
                    value += (*b.add(index)).widen();
                }
                if accumulate {
                    value += (*out.add(index)).widen();
                }
                *out.add(index) = T::narrow(value);
            }
        }
    }

    fn cast_range<S: Float, T: Float>(a: &[S], out: &mut [T], accumulate: bool) {
        if accumulate {
            out.iter_mut().zip(a).for_each(|(out, a)| *out = T::narrow(out.widen() + a.widen()));
        } else {
            out.iter_mut().zip(a).for_each(|(out, a)| *out = T::narrow(a.widen()));
        }
    }
}
