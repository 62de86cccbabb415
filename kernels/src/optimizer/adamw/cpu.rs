//! CPU code of AdamW: one streaming pass of 28 bytes an element, 30 with a bf16 copy.

use super::{AdamW, Factors, Step};
use crate::optimizer::{Arenas, arenas};
use crate::simd::Float;
use crate::vectorized;
use engine::{CpuQueue, Parameters, Result, Shared};
use half::bf16;
use std::ops::Range;

/// Elements of a task.
const GRAIN: usize = 1 << 15;

/// Elements between two turns of the inner loop: what the narrowing reads again is then still in the first-level cache.
const BLOCK: usize = 1 << 11;

pub(super) fn update(adamw: &AdamW, queue: &CpuQueue, parameters: &Parameters, step: Step) -> Result<()> {
    let Arenas { master, gradient, bf16 } = arenas(parameters)?;
    let (first, second) = (&adamw.first, &adamw.second);
    // SAFETY: the moments belong to the optimizer, which its caller has exclusively.
    let (first, second) = unsafe { (first.slice_mut(0, adamw.elements)?, second.slice_mut(0, adamw.elements)?) };
    let segments = parameters.entries().iter().zip(&adamw.rules).filter(|(entry, _)| entry.trainable);
    let tasks: Vec<(Range<usize>, Factors)> = segments
        .flat_map(|(entry, &rule)| {
            let (factors, end) = (adamw.factors(rule, step), entry.offset + entry.shape.elements());
            (entry.offset..end).step_by(GRAIN).map(move |start| (start..(start + GRAIN).min(end), factors))
        })
        .collect();
    let (master, first, second) = (Shared::new(master), Shared::new(first), Shared::new(second));
    let bf16 = bf16.map(Shared::new);
    queue.parallel(tasks.len(), |index| {
        let (range, factors) = tasks[index].clone();
        // SAFETY: segments do not overlap, and neither do the ranges that they are split into.
        let (master, first, second, bf16) = unsafe {
            (
                master.part(range.clone()),
                first.part(range.clone()),
                second.part(range.clone()),
                bf16.map(|bf16| bf16.part(range.clone())),
            )
        };
        update_range(queue.isa(), factors, master, &gradient[range], first, second, bf16);
    });
    Ok(())
}

vectorized! {
    fn update_range(
        factors: Factors,
        master: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        bf16: Option<&mut [bf16]>,
    ) {
        let mut copies = bf16.map(|bf16| bf16.chunks_mut(BLOCK));
        let moments = first.chunks_mut(BLOCK).zip(second.chunks_mut(BLOCK));
        for ((p, g), (m, v)) in master.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK)).zip(moments) {
            for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                let g = g * factors.gradient;
                *m += factors.first * (g - *m);
                *v = factors.second * *v + factors.second_new * (g * g);
                let denominator = v.sqrt() / factors.root_correction + factors.epsilon;
                *p = *p * factors.keep - factors.step * (*m / denominator);
            }
            if let Some(copy) = copies.as_mut().and_then(Iterator::next) {
                copy.iter_mut().zip(p.iter()).for_each(|(copy, p)| *copy = bf16::narrow(*p));
            }
        }
    }
}
