//! CPU code of the activations: one streaming pass.

use super::Activation;
use crate::simd::{Float, Write, map_of, math};
use crate::vectorized;
use engine::{CpuQueue, DType, Out, Result, Shared, View};
use half::bf16;

/// Elements of a task at least.
const GRAIN: usize = 1 << 13;

/// `out (+)= f(x)`, or with `dy` `out (+)= dy f'(x)`.
pub(super) fn run(
    queue: &CpuQueue,
    kind: Activation,
    x: &View<'_>,
    dy: Option<&View<'_>>,
    out: &mut Out<'_>,
) -> Result<()> {
    match out.meta().dtype {
        DType::BF16 => typed::<bf16>(queue, kind, x, dy, out),
        _ => typed::<f32>(queue, kind, x, dy, out),
    }
}

fn typed<T: Float>(
    queue: &CpuQueue,
    kind: Activation,
    x: &View<'_>,
    dy: Option<&View<'_>>,
    out: &mut Out<'_>,
) -> Result<()> {
    let x = x.slice::<T>()?;
    let dy = dy.map(View::slice::<T>).transpose()?;
    let write = Write::of::<T>(out.accumulates(), x.len());
    let out = Shared::new(out.slice_mut::<T>()?);
    queue.parallel_spans(x.len(), GRAIN, |range| {
        // SAFETY: ranges are disjoint.
        let out = unsafe { out.part(range.clone()) };
        match dy {
            None => forward::<T>(queue.isa(), kind, &x[range], out, write),
            Some(dy) => backward::<T>(queue.isa(), kind, &x[range.clone()], &dy[range], out, write),
        }
    });
    Ok(())
}

vectorized! {
    fn forward<T: Float>(kind: Activation, x: &[T], out: &mut [T], write: Write) {
        match kind {
            Activation::Gelu => map_of::<L, T, 1>(out, (x,), write, |[x]| math::gelu::<L>(x)),
            Activation::QuickGelu => map_of::<L, T, 1>(out, (x,), write, |[x]| math::quick_gelu::<L>(x)),
        }
    }

    fn backward<T: Float>(kind: Activation, x: &[T], dy: &[T], out: &mut [T], write: Write) {
        match kind {
            Activation::Gelu => {
                map_of::<L, T, 2>(out, (x, dy), write, |[x, dy]| dy * math::gelu_derivative::<L>(x));
            }
            Activation::QuickGelu => {
                map_of::<L, T, 2>(out, (x, dy), write, |[x, dy]| dy * math::quick_gelu_derivative::<L>(x));
            }
        }
    }
}
