//! CUDA arm of Adafactor: five launches over all trainable parameters, whatever their number.

use super::{Adafactor, Factors, Layout, Step};
use crate::cuda::{PRELUDE, Part, constants, part, size};
use crate::optimizer::cuda::{Pieces, THREADS, Trainable};
use crate::optimizer::gradient_arena;
use bytemuck::{Pod, Zeroable};
use engine::cuda::{Arguments, CudaQueue, Source};
use engine::{Buffer, Parameters, Result};
use std::sync::Arc;

const PARTS: &[Part] = &[PRELUDE, part!("optimizer", "pieces.cuh"), part!("optimizer/adafactor", "adafactor.cu")];
/// Elements of a piece of the update: four packs for each thread.
const LENGTH: usize = 4096;
/// Rows of a block, half a warp each.
const ROWS: usize = THREADS as usize / 16;

/// What is made for the parameters that are trainable.
#[derive(Debug)]
pub(super) struct Plan {
    trainable: Trainable,
    /// Of each launch, in order.
    launches: [(&'static str, Pieces); 5],
    parameters: Arc<Buffer>,
    found: Arc<Buffer>,
}

/// As the kernels declare it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Row {
    first: u64,
    second: u64,
    scratch: u64,
    count: u32,
    rows: u32,
    columns: u32,
    parts: u32,
    factored: u32,
    learning_rate: f32,
    keep: f32,
    unused: u32,
}

/// Addresses, as the kernels declare them.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Arenas {
    pieces: u64,
    parameters: u64,
    found: u64,
    master: u64,
    gradient: u64,
    copy: u64,
    momentum: u64,
    second: u64,
    scratch: u64,
}

/// As the kernels declare them.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Settings {
    gradient: f32,
    momentum: f32,
    momentum_new: f32,
    second: f32,
    second_new: f32,
    unused: u32,
    clip_threshold: f64,
}

/// Bytes of what a step finds of a parameter.
const FOUND: usize = 16;

fn source() -> Source {
    Source { name: "adafactor", parts: PARTS, constants: constants([("LENGTH", LENGTH as i64)]) }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    vec![source()]
}

impl Plan {
    fn new(adafactor: &Adafactor, queue: &CudaQueue, parameters: &Parameters) -> Result<Plan> {
        let layouts = parameters.entries().iter().zip(&adafactor.layouts).filter(|(entry, _)| entry.trainable);
        let layouts: Vec<&Layout> = layouts.map(|(_, layout)| layout).collect();
        let pieces =
            |count: &dyn Fn(&Layout) -> usize| Pieces::new(queue.device(), layouts.iter().map(|layout| count(layout)));
        let rows = |layout: &Layout| layout.rows.div_ceil(ROWS);
        let columns = |layout: &Layout| layout.columns.div_ceil(THREADS as usize);
        let factored = |layout: &Layout, count: usize| if layout.factored { count } else { 0 };
        let launches = [
            ("adafactor_squares", pieces(&|l| rows(l) + factored(l, l.parts * columns(l)))?),
            ("adafactor_means", pieces(&|l| factored(l, 1 + columns(l)))?),
            ("adafactor_sizes", pieces(&|l| factored(l, rows(l)))?),
            ("adafactor_rates", pieces(&|_| 1)?),
            ("adafactor_update", pieces(&|l| l.elements.div_ceil(LENGTH))?),
        ];
        let table = |bytes: usize| Buffer::on(queue.device(), layouts.len() * bytes);
        let (parameters_table, found) = (table(size_of::<Row>())?, table(FOUND)?);
        Ok(Plan { trainable: Trainable::of(parameters), launches, parameters: parameters_table, found })
    }
}

pub(super) fn update(adafactor: &mut Adafactor, queue: &CudaQueue, parameters: &Parameters, step: Step) -> Result<()> {
    let gradient = gradient_arena(parameters)?;
    if adafactor.plan.as_ref().is_none_or(|plan| plan.trainable != Trainable::of(parameters)) {
        adafactor.plan = None; // free the old one first
        adafactor.plan = Some(Plan::new(adafactor, queue, parameters)?);
    }
    let common = adafactor.layouts.first().map(|layout| adafactor.factors(layout.rule, step));
    let (Some(plan), Some(common)) = (&adafactor.plan, common) else { return Ok(()) };
    let layouts = parameters.entries().iter().zip(&adafactor.layouts).filter(|(entry, _)| entry.trainable);
    let rows: Vec<Row> = layouts
        .map(|(_, layout)| {
            let Factors { learning_rate, keep, .. } = adafactor.factors(layout.rule, step);
            Ok(Row {
                first: layout.offset as u64,
                second: layout.second as u64,
                scratch: layout.scratch as u64,
                count: size("elements of a parameter", layout.elements)?,
                rows: size("rows", layout.rows)?,
                columns: size("columns", layout.columns)?,
                parts: size("parts", layout.parts)?,
                factored: layout.factored.into(),
                learning_rate,
                keep,
                unused: 0,
            })
        })
        .collect::<Result<_>>()?;
    plan.parameters.write::<u8>(0, bytemuck::cast_slice(&rows))?;
    let settings = Settings {
        gradient: common.gradient,
        momentum: common.momentum,
        momentum_new: common.momentum_new,
        second: common.second,
        second_new: common.second_new,
        unused: 0,
        clip_threshold: common.clip_threshold,
    };
    for (kernel, pieces) in &plan.launches {
        let Some(launch) = pieces.launch()? else { continue };
        let arenas = Arenas {
            pieces: pieces.address(),
            parameters: plan.parameters.address(0),
            found: plan.found.address(0),
            master: parameters.master().address(0),
            gradient: gradient.address(0),
            copy: parameters.bf16().map_or(0, |copy| copy.address(0)),
            momentum: adafactor.momentum.address(0),
            second: adafactor.second.address(0),
            scratch: adafactor.scratch.address(0),
        };
        queue.launch(&source(), kernel, &launch, &Arguments::new().value(&arenas).value(&settings))?;
    }
    Ok(())
}
