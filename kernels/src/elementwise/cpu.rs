//! CPU code of the element-wise glue: one streaming pass.

use engine::{CpuQueue, DType, Element, Out, Result, Shared, View};
use half::bf16;

const GRAIN: usize = 1 << 14;

/// `out = a (+ b)`, or `out += a (+ b)`. Works in place on either input.
pub(super) fn add(queue: &CpuQueue, a: &View<'_>, b: Option<&View<'_>>, out: &mut Out<'_>) -> Result<()> {
    match out.meta().dtype {
        DType::BF16 => typed::<bf16>(queue, a, b, out, bf16::to_f32, bf16::from_f32),
        _ => typed::<f32>(queue, a, b, out, |value| value, |value| value),
    }
}

fn typed<T: Element>(
    queue: &CpuQueue,
    a: &View<'_>,
    b: Option<&View<'_>>,
    out: &mut Out<'_>,
    widen: impl Fn(T) -> f32 + Sync,
    narrow: impl Fn(f32) -> T + Sync,
) -> Result<()> {
    let count = out.meta().elements();
    let accumulates = out.accumulates();
    let a_address = a.pointer() as usize;
    let b_address = b.map(|view| view.pointer() as usize);
    // SAFETY: the output's memory; ranges given to tasks are disjoint.
    let target = Shared::new(unsafe { std::slice::from_raw_parts_mut(out.pointer().cast::<T>(), count) });
    queue.parallel_ranges(count, GRAIN, |range| {
        for index in range {
            // SAFETY: inside all tensors, which have equal shapes; in place, an element is read before it is written.
            unsafe {
                let mut value = widen(*(a_address as *const T).add(index));
                if let Some(b) = b_address {
                    value += widen(*(b as *const T).add(index));
                }
                let slot = &mut target.part(index..index + 1)[0];
                *slot = narrow(if accumulates { widen(*slot) + value } else { value });
            }
        }
    });
    Ok(())
}
