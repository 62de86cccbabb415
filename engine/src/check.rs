//! Checks that wrap every node the same way: find the first non-finite value, unwritten or overrun outputs, or a node
//! whose fast path disagrees with the plain one.

use crate::buffer::Buffer;
use crate::cpu::Isa;
use crate::observer::{Observer, StepView};
use crate::op::{Out, View, Write};
use crate::rng::Philox;
use crate::{CpuQueue, DType, Device, Error, Meta, Queue, Result};
use half::bf16;
use std::sync::Arc;

/// Which check to run around every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Stop at the first node that writes a NaN or an infinity.
    Nan,
    /// Fill outputs with NaN before the node and guard bands after them; stop where either shows.
    /// The program must be compiled with [`Check::guard_bytes`], which also keeps outputs out of their inputs' memory.
    Poison,
    /// Run each node again on the scalar path with one thread and compare.
    Cpu,
}

impl Check {
    /// A check by its command-line name.
    pub fn parse(name: &str) -> Result<Check> {
        match name {
            "nan" => Ok(Check::Nan),
            "poison" => Ok(Check::Poison),
            "cpu" => Ok(Check::Cpu),
            _ => Err(Error::invalid(format!("unknown check '{name}', use nan, poison or cpu"))),
        }
    }

    /// The observer that does it.
    pub fn observer(self) -> Result<Box<dyn Observer + Send>> {
        Ok(match self {
            Check::Nan => Box::new(NanCheck),
            Check::Poison => Box::new(PoisonCheck),
            Check::Cpu => Box::new(CpuCheck { queue: Queue::Cpu(CpuQueue::new(Isa::Scalar, 1)?), saved: None }),
        })
    }

    /// Guard bytes that the program should be compiled with.
    pub fn guard_bytes(self) -> usize {
        if self == Check::Poison { 256 } else { 0 }
    }
}

const POISON: u8 = 0xff; // 0xffff and 0xffffffff are NaNs
const GUARD: u8 = 0xa5;

struct NanCheck;

impl Observer for NanCheck {
    fn after(&mut self, step: &StepView<'_>) -> Result<()> {
        for (index, &(pointer, meta, _)) in step.outputs.iter().enumerate().filter(|&(index, _)| !step.scratch[index]) {
            let broken = |pointer: *const u8, meta: Meta| -> Result<Option<(usize, f32)>> {
                Ok(first_where(step.local(pointer, meta.bytes())?.pointer(), meta, |value| !value.is_finite()))
            };
            if let Some((element, value)) = broken(pointer, meta)? {
                let mut inputs = Vec::new();
                let overwritten =
                    |view: &View| step.outputs.iter().any(|output| output.0.cast_const() == view.pointer());
                for (input, view) in step.inputs.iter().enumerate().filter(|(_, view)| !overwritten(view)) {
                    if broken(view.pointer(), view.meta())?.is_some() {
                        inputs.push(input.to_string());
                    }
                }
                let inherited = if inputs.is_empty() {
                    let kept = if step.inputs.iter().any(overwritten) { " that it did not overwrite" } else { "" };
                    format!("all its inputs{kept} are finite")
                } else {
                    format!("inputs {} are not finite either", inputs.join(", "))
                };
                return Err(Error::invalid(format!(
                    "output {index} ({meta}) holds {value} at element {element}; {inherited} ({:?} node {})",
                    step.phase, step.index
                )));
            }
        }
        Ok(())
    }
}

struct PoisonCheck;

impl Observer for PoisonCheck {
    fn before(&mut self, step: &StepView<'_>) -> Result<()> {
        if step.guard_bytes == 0 {
            return Err(Error::invalid("the poison check needs a program compiled with Check::guard_bytes"));
        }
        for (index, &(pointer, meta, write)) in step.outputs.iter().enumerate() {
            if write == Write::Set {
                // SAFETY: the output's own memory, about to be overwritten by the node.
                unsafe { step.fill(pointer, POISON, meta.bytes())? };
            }
            if step.planned[index] {
                // SAFETY: the planner left this many free bytes after each planned tensor.
                unsafe { step.fill(pointer.wrapping_add(step.output_bytes[index]), GUARD, step.guard_bytes)? };
            }
        }
        Ok(())
    }

    fn after(&mut self, step: &StepView<'_>) -> Result<()> {
        for (index, &(pointer, meta, _)) in step.outputs.iter().enumerate() {
            if !step.scratch[index]
                && let Some(element) = first_unwritten(step.local(pointer, meta.bytes())?.pointer(), meta)
            {
                return Err(Error::invalid(format!("output {index} ({meta}) was left unwritten at element {element}")));
            }
            if step.planned[index] {
                let band = step.local(pointer.wrapping_add(step.output_bytes[index]), step.guard_bytes)?;
                // SAFETY: the guard band that `before` filled, or a copy of it.
                let guard = unsafe { std::slice::from_raw_parts(band.pointer(), step.guard_bytes) };
                if let Some(byte) = guard.iter().position(|&byte| byte != GUARD) {
                    return Err(Error::invalid(format!(
                        "the node wrote {byte} bytes past the end of output {index} ({meta})"
                    )));
                }
            }
        }
        Ok(())
    }
}

struct CpuCheck {
    queue: Queue,
    /// Copies of inputs and outputs as they were before the node ran.
    saved: Option<(Vec<Arc<Buffer>>, Vec<Arc<Buffer>>)>,
}

impl CpuCheck {
    /// The node's outputs on the scalar path.
    fn run(&self, step: &StepView<'_>, inputs: &[Arc<Buffer>], before: &[Arc<Buffer>]) -> Result<Vec<Arc<Buffer>>> {
        let outputs = before.iter().map(|buffer| buffer.copy_on(&Device::Cpu)).collect::<Result<Vec<_>>>()?;
        let views: Vec<View> = (inputs.iter().zip(step.inputs))
            // SAFETY: copies that nobody writes to.
            .map(|(buffer, view)| unsafe { View::new(buffer.pointer(), view.meta(), &Device::Cpu) })
            .collect();
        let mut outs: Vec<Out> = (outputs.iter().zip(step.outputs))
            // SAFETY: as above, each output its own copy.
            .map(|(buffer, &(_, meta, write))| unsafe { Out::new(buffer.pointer(), meta, write, &Device::Cpu) })
            .collect();
        step.op.run(&self.queue, &views, &mut outs)?;
        Ok(outputs)
    }

    /// How far each output goes if every input changes by a share of itself, one up, another down, over that share. Where
    /// terms of either sign cancel that is more than the output itself, and so is what rounding makes of it.
    fn condition(
        &self,
        step: &StepView<'_>,
        inputs: &[Arc<Buffer>],
        before: &[Arc<Buffer>],
        plain: &[Arc<Buffer>],
    ) -> Result<Vec<f64>> {
        // One bit of a bf16; well above what rounding does in f32, and small enough for functions that bend.
        let has_bf16 = step.inputs.iter().any(|view| view.meta().dtype == DType::BF16);
        let share = if has_bf16 { DType::BF16.epsilon() } else { 2f64.powi(-16) };
        let mut changed = Vec::with_capacity(inputs.len());
        for (buffer, view) in inputs.iter().zip(step.inputs) {
            let (copy, meta) = (buffer.copy_on(&Device::Cpu)?, view.meta());
            let mut random = Philox::new(0, changed.len() as u64);
            let values = to_f64(copy.pointer(), meta).into_iter();
            let values = values.map(|value| value * (1.0 + if random.below(2) == 0 { share } else { -share }));
            match meta.dtype {
                DType::F32 => copy.write(0, &values.map(|value| value as f32).collect::<Vec<_>>())?,
                DType::BF16 => copy.write(0, &values.map(bf16::from_f64).collect::<Vec<_>>())?,
                DType::I32 | DType::U8 => {}
            }
            changed.push(copy);
        }
        let moved = self.run(step, &changed, before)?;
        let largest = |(index, (moved, plain)): (usize, (&Arc<Buffer>, &Arc<Buffer>))| {
            let meta = step.outputs[index].1;
            let (moved, plain) = (to_f64(moved.pointer(), meta), to_f64(plain.pointer(), meta));
            largest_finite(moved.iter().zip(&plain).map(|(moved, plain)| moved - plain)) / share
        };
        Ok(moved.iter().zip(plain).enumerate().map(largest).collect())
    }
}

impl Observer for CpuCheck {
    fn before(&mut self, step: &StepView<'_>) -> Result<()> {
        let copy = |pointer: *const u8, meta: Meta| -> Result<Arc<Buffer>> {
            let buffer = Buffer::zeroed(meta.bytes())?;
            let local = step.local(pointer, meta.bytes())?;
            // SAFETY: a live tensor of the program, or a copy of it, read before the node runs.
            buffer.write(0, unsafe { std::slice::from_raw_parts(local.pointer(), meta.bytes()) })?;
            Ok(buffer)
        };
        let inputs = step.inputs.iter().map(|view| copy(view.pointer(), view.meta())).collect::<Result<_>>()?;
        let outputs = step.outputs.iter().map(|&(pointer, meta, _)| copy(pointer, meta)).collect::<Result<_>>()?;
        self.saved = Some((inputs, outputs));
        Ok(())
    }

    fn after(&mut self, step: &StepView<'_>) -> Result<()> {
        let Some((inputs, before)) = self.saved.take() else { return Ok(()) };
        let outputs = self.run(step, &inputs, &before)?;
        let mut condition = None;
        let dtypes = (step.inputs.iter().map(View::meta)).chain(step.outputs.iter().map(|&(_, meta, _)| meta));
        let floats = dtypes.map(|meta| meta.dtype).filter(|dtype| dtype.is_float());
        let coarsest = floats.map(DType::epsilon).fold(0.0, f64::max);
        for (index, (buffer, &(pointer, meta, _))) in outputs.iter().zip(step.outputs).enumerate() {
            if step.scratch[index] {
                continue;
            }
            let fast = to_f64(step.local(pointer, meta.bytes())?.pointer(), meta);
            let plain = to_f64(buffer.pointer(), meta);
            let largest = largest_finite(plain.iter().copied());
            // Two orders of summation of up to 2^16 terms in f32, and a rounding to the coarsest type that the op stores:
            // an f32 gradient may be a sum over intermediates in bf16.
            let rounding = 2.0 * coarsest + 256.0 * f32::EPSILON as f64;
            let differs = |bound: f64| {
                // Equal infinities differ by NaN, which is not above the bound.
                let off = |(a, b): (&f64, &f64)| (a - b).abs() > bound || a.is_nan() != b.is_nan();
                fast.iter().zip(&plain).position(off)
            };
            if differs(largest * rounding).is_none() {
                continue;
            }
            // Rarely: whether what was added up cancelled.
            let condition = match &condition {
                Some(known) => known,
                None => condition.insert(self.condition(step, &inputs, &before, &outputs)?),
            };
            let bound = largest.max(condition[index]) * rounding;
            if let Some(element) = differs(bound) {
                return Err(Error::invalid(format!(
                    "output {index} ({meta}) element {element} is {} here and {} on the scalar path (bound {bound:e})",
                    fast[element], plain[element]
                )));
            }
        }
        Ok(())
    }
}

/// The largest magnitude of what is finite; 0 of nothing.
fn largest_finite(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).filter(|value| value.is_finite()).fold(0.0, f64::max)
}

fn first_where(pointer: *const u8, meta: Meta, found: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
    let count = meta.elements();
    // SAFETY: a live tensor of `count` elements of the matching type.
    unsafe {
        match meta.dtype {
            DType::F32 => std::slice::from_raw_parts(pointer.cast::<f32>(), count)
                .iter()
                .position(|&value| found(value))
                .map(|index| (index, *pointer.cast::<f32>().add(index))),
            DType::BF16 => std::slice::from_raw_parts(pointer.cast::<bf16>(), count)
                .iter()
                .position(|value| found(value.to_f32()))
                .map(|index| (index, (*pointer.cast::<bf16>().add(index)).to_f32())),
            DType::I32 | DType::U8 => None,
        }
    }
}

fn first_unwritten(pointer: *const u8, meta: Meta) -> Option<usize> {
    let count = meta.elements();
    // SAFETY: as in `first_where`.
    unsafe {
        match meta.dtype {
            DType::F32 => {
                std::slice::from_raw_parts(pointer.cast::<u32>(), count).iter().position(|&bits| bits == u32::MAX)
            }
            DType::BF16 => {
                std::slice::from_raw_parts(pointer.cast::<u16>(), count).iter().position(|&bits| bits == u16::MAX)
            }
            DType::I32 | DType::U8 => None,
        }
    }
}

fn to_f64(pointer: *const u8, meta: Meta) -> Vec<f64> {
    let count = meta.elements();
    // SAFETY: a live tensor or a copy of one, of `count` elements of the matching type.
    unsafe {
        match meta.dtype {
            DType::F32 => {
                std::slice::from_raw_parts(pointer.cast::<f32>(), count).iter().map(|&value| value.into()).collect()
            }
            DType::BF16 => {
                std::slice::from_raw_parts(pointer.cast::<bf16>(), count).iter().map(|value| value.to_f64()).collect()
            }
            DType::I32 => {
                std::slice::from_raw_parts(pointer.cast::<i32>(), count).iter().map(|&value| value.into()).collect()
            }
            DType::U8 => std::slice::from_raw_parts(pointer, count).iter().map(|&value| value.into()).collect(),
        }
    }
}
