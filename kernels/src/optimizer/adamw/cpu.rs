//! CPU code of AdamW: one streaming pass of 28 bytes an element, 30 with a bf16 copy.

use super::Factors;
use crate::simd::Float;
use crate::vectorized;
use engine::{CpuQueue, Shared};
use half::bf16;
use std::ops::Range;

/// Elements of a task.
const GRAIN: usize = 1 << 15;

/// Elements between two turns of the inner loop: what the narrowing reads again is then still in the first-level cache.
const BLOCK: usize = 1 << 11;

pub(super) fn update(
    queue: &CpuQueue,
    segments: &[(Range<usize>, Factors)],
    master: &mut [f32],
    gradient: &[f32],
    bf16: Option<&mut [bf16]>,
    first: &mut [f32],
    second: &mut [f32],
) {
    let tasks: Vec<(Range<usize>, Factors)> = (segments.iter())
        .flat_map(|(range, factors)| {
            let starts = range.clone().step_by(GRAIN);
            starts.map(move |start| (start..(start + GRAIN).min(range.end), *factors))
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
