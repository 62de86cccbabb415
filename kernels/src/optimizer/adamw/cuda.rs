//! CUDA arm of AdamW: one launch over the arenas, a block for each piece of a trainable parameter.

use super::{AdamW, Factors, Step};
use crate::cuda::{PRELUDE, Part, constants, part, size};
use crate::optimizer::cuda::{Pieces, Trainable};
use crate::optimizer::gradient_arena;
use bytemuck::{Pod, Zeroable};
use engine::cuda::{Arguments, CudaQueue, Source};
use engine::{Buffer, Parameters, Result};
use std::sync::Arc;

const PARTS: &[Part] = &[PRELUDE, part!("optimizer", "pieces.cuh"), part!("optimizer/adamw", "adamw.cu")];
/// Elements of a piece: four packs for each thread.
const LENGTH: usize = 4096;

/// What is made for the parameters that are trainable.
#[derive(Debug)]
pub(super) struct Plan {
    trainable: Trainable,
    pieces: Pieces,
    segments: Arc<Buffer>,
}

/// As the kernel declares it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Segment {
    first: u64,
    count: u32,
    keep: f32,
    step: f32,
    unused: u32,
}

fn source() -> Source {
    Source { name: "adamw", parts: PARTS, constants: constants([("LENGTH", LENGTH as i64)]) }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    vec![source()]
}

impl Plan {
    fn new(queue: &CudaQueue, parameters: &Parameters) -> Result<Plan> {
        let trainable = parameters.entries().iter().filter(|entry| entry.trainable);
        let pieces = Pieces::new(queue.device(), trainable.clone().map(|e| e.shape.elements().div_ceil(LENGTH)))?;
        let segments = Buffer::on(queue.device(), trainable.count() * size_of::<Segment>())?;
        Ok(Plan { trainable: Trainable::of(parameters), pieces, segments })
    }
}

pub(super) fn update(adamw: &mut AdamW, queue: &CudaQueue, parameters: &Parameters, step: Step) -> Result<()> {
    let gradient = gradient_arena(parameters)?;
    if adamw.plan.as_ref().is_none_or(|plan| plan.trainable != Trainable::of(parameters)) {
        adamw.plan = None; // free the old one first
        adamw.plan = Some(Plan::new(queue, parameters)?);
    }
    let (Some(plan), Some(common)) = (&adamw.plan, adamw.rules.first().map(|&rule| adamw.factors(rule, step))) else {
        return Ok(());
    };
    let Some(launch) = plan.pieces.launch()? else { return Ok(()) };
    let rows = parameters.entries().iter().zip(&adamw.rules).filter(|(entry, _)| entry.trainable);
    let segments: Vec<Segment> = rows
        .map(|(entry, &rule)| {
            let Factors { keep, step, .. } = adamw.factors(rule, step);
            let count = size("elements of a parameter", entry.shape.elements())?;
            Ok(Segment { first: entry.offset as u64, count, keep, step, unused: 0 })
        })
        .collect::<Result<_>>()?;
    plan.segments.write::<u8>(0, bytemuck::cast_slice(&segments))?;
    let arguments = Arguments::new()
        .address(plan.pieces.address())
        .address(plan.segments.address(0))
        .address(parameters.master().address(0))
        .address(gradient.address(0))
        .address(parameters.bf16().map_or(0, |copy| copy.address(0)))
        .address(adamw.first.address(0))
        .address(adamw.second.address(0))
        .f32(common.gradient)
        .f32(common.first)
        .f32(common.second)
        .f32(common.second_new)
        .f32(common.root_correction)
        .f32(common.epsilon);
    queue.launch(&source(), "adamw", &launch, &arguments)
}
