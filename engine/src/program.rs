//! A compiled tape: every op with the addresses it works on, run as a plain loop.

use crate::buffer::{Buffer, align_up};
use crate::cuda::{Graphs, Inputs, Run, Source};
use crate::observer::{Observer, StepView};
use crate::op::{Cost, Op, Out, View, Write};
use crate::plan::{Plan, plan};
use crate::ragged::{Ragged, clip, rows_in_use};
use crate::tape::{Home, Node, Tape, When};
use crate::{CudaQueue, Device, Element, Error, Meta, Phase, Queue, Result, Tensor, Workspace};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Settings of a compilation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compile {
    /// Free bytes after each planned tensor, checked by `Check::Poison`. Nonzero switches in-place merges off.
    pub guard_bytes: usize,
}

/// What a program needs of a device; see [`Program::kernels`].
#[derive(Clone, Debug, Default)]
pub struct Kernels {
    /// The source of every launch, in order.
    pub sources: Vec<Source>,
    /// Names of the ops without a kernel, each once.
    pub missing: Vec<&'static str>,
}

#[derive(Debug)]
struct Step {
    op: Arc<dyn Op>,
    inputs: Vec<Slot>,
    outputs: Vec<(Slot, When)>,
    scratch: Vec<bool>,
    phase: Phase,
    span: u32,
    place: String,
}

#[derive(Clone, Debug)]
struct Slot {
    meta: Meta,
    ragged: Option<usize>,
    address: Address,
    kept: bool,
}

#[derive(Clone, Debug)]
enum Address {
    Planned(usize),
    Owned(Arc<Buffer>, usize),
}

/// A tape ready to run, again and again.
#[derive(Debug)]
pub struct Program {
    id: u64,
    /// The tape that it was compiled from.
    tape: u32,
    steps: Vec<Step>,
    spans: Vec<String>,
    ragged: Vec<(Ragged, Home)>,
    slots: HashMap<u32, Slot>,
    plan: Plan,
    workspace: Workspace,
    guard_bytes: usize,
    /// On a device, the inputs there; on the CPU they are written in place.
    inputs: Option<Inputs>,
    graphs: Graphs,
}

impl Program {
    /// Plans the tape's memory and fixes its addresses, on the device of the workspace. Inputs move there with the values
    /// that they have; parameters must lie there already.
    pub fn compile(tape: Tape, workspace: &Workspace, settings: Compile) -> Result<Program> {
        if tape.is_eager() {
            return Err(Error::invalid("an eager tape has run already; record one with Tape::record"));
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let plan = plan(&tape, settings.guard_bytes);
        let inputs = match workspace.device() {
            Device::Cpu => check_on_host(&tape).map(|()| None)?,
            Device::Cuda(driver) => Some(Inputs::new(&tape, driver)?),
        };
        let slot = |id: u32| -> Option<Slot> {
            let (info, root) = (&tape.infos[id as usize], tape.root(id));
            let address = match tape.home(id) {
                Home::Owned(buffer, offset) => {
                    let moved = inputs.as_ref().and_then(|inputs| inputs.place(root));
                    let (buffer, offset) = moved.unwrap_or_else(|| (buffer.clone(), *offset));
                    Address::Owned(buffer, offset)
                }
                Home::Planned | Home::Alias(_) => Address::Planned(plan.offsets[root as usize]?),
            };
            let kept = tape.infos[root as usize].keep;
            Some(Slot { meta: info.meta, ragged: info.ragged, address, kept })
        };
        let slots: HashMap<u32, Slot> =
            (0..tape.infos.len() as u32).filter_map(|id| slot(id).map(|slot| (id, slot))).collect();
        let nodes = || tape.nodes.iter().filter(|node| !node.removed);
        let read: HashSet<u32> = nodes().flat_map(|node| node.inputs.iter().map(|input| tape.root(input.id))).collect();
        let mut written = HashSet::new();
        let mut steps = Vec::with_capacity(tape.nodes.len());
        for node in nodes() {
            check_written(&tape, node, &mut written)?;
            steps.push(Step {
                op: node.op.clone(),
                inputs: node.inputs.iter().map(|input| slots[&input.id].clone()).collect(),
                outputs: node.outputs.iter().map(|&(output, when)| (slots[&output.id].clone(), when)).collect(),
                scratch: node.outputs.iter().map(|(output, _)| is_scratch(&tape, &read, *output)).collect(),
                phase: node.phase,
                span: node.source.span,
                place: tape.place(node.source),
            });
        }
        Ok(Program {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tape: tape.id,
            steps,
            spans: tape.spans.iter().map(|span| span.path.clone()).collect(),
            ragged: tape.ragged.iter().map(|&group| (group, tape.home(group.offsets.id).clone())).collect(),
            slots,
            plan,
            workspace: workspace.clone(),
            guard_bytes: align_up(settings.guard_bytes),
            inputs,
            graphs: Graphs::default(),
        })
    }

    /// The memory plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// True if there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Copies values into an input. Fewer values than elements leave the rest as it was. On a device they travel beside the
    /// run that is under way, and the next one sees them.
    pub fn write<T: Element>(&self, tensor: Tensor, values: &[T]) -> Result<()> {
        let slot = self.slot(tensor)?;
        if T::DTYPE != slot.meta.dtype || values.len() > slot.meta.elements() {
            let count = values.len();
            return Err(Error::invalid(format!("cannot write {count} values of {} into {}", T::DTYPE, slot.meta)));
        }
        match &slot.address {
            Address::Owned(buffer, offset) => match &self.inputs {
                Some(inputs) if inputs.write(buffer, *offset, bytemuck::cast_slice(values))? => Ok(()),
                _ => buffer.write(*offset, values),
            },
            Address::Planned(_) => Err(Error::invalid("only inputs can be written before a run")),
        }
    }

    /// Copies out a kept tensor (clipped to the rows in use), a gradient or an input.
    pub fn read<T: Element>(&self, tensor: Tensor) -> Result<Vec<T>> {
        let slot = self.slot(tensor)?;
        let count = clip(slot.meta, slot.ragged.map(|group| self.used(group)).transpose()?).elements();
        self.read_part(tensor, 0..count)
    }

    /// As [`Program::read`], some of the elements.
    pub fn read_part<T: Element>(&self, tensor: Tensor, elements: Range<usize>) -> Result<Vec<T>> {
        let slot = self.slot(tensor)?;
        if T::DTYPE != slot.meta.dtype || elements.start > elements.end || elements.end > slot.meta.elements() {
            return Err(Error::invalid(format!("cannot read elements {elements:?} of {} as {}", slot.meta, T::DTYPE)));
        }
        let (first, count) = (elements.start * slot.meta.dtype.size(), elements.len());
        self.send_inputs()?;
        match &slot.address {
            Address::Owned(buffer, offset) => buffer.read(offset + first, count),
            Address::Planned(_) if !slot.kept => {
                Err(Error::invalid(format!("a tensor of {} was not kept: call Tape::keep before compiling", slot.meta)))
            }
            Address::Planned(offset) => self.workspace.lock().results_of(self.id)?.read(offset + first, count),
        }
    }

    /// Copies `count` elements into an input, from element `target.1` on. They come from element `source.2` of a tensor of
    /// the same type, an input or a kept tensor of this or of another program (of which nothing else ran since).
    pub fn copy(&self, source: (&Program, Tensor, usize), target: (Tensor, usize), count: usize) -> Result<()> {
        let (from, to) = (source.0.slot(source.1)?, self.slot(target.0)?);
        for (slot, first) in [(from, source.2), (to, target.1)] {
            if from.meta.dtype != slot.meta.dtype
                || first.checked_add(count).is_none_or(|end| end > slot.meta.elements())
            {
                let (from, to) = (from.meta, to.meta);
                return Err(Error::invalid(format!(
                    "cannot copy {count} elements of {from} from {} on into {to} from {} on",
                    source.2, target.1
                )));
            }
        }
        let size = from.meta.dtype.size();
        let Address::Owned(buffer, offset) = &to.address else {
            return Err(Error::invalid("only inputs can be written before a run"));
        };
        let offset = offset + target.1 * size;
        source.0.send_inputs()?;
        self.send_inputs()?;
        match &from.address {
            Address::Owned(owned, first) => buffer.copy(offset, owned, first + source.2 * size, count * size)?,
            Address::Planned(_) if !from.kept => {
                let meta = from.meta;
                return Err(Error::invalid(format!(
                    "a tensor of {meta} was not kept: call Tape::keep before compiling"
                )));
            }
            Address::Planned(first) => {
                let arena = source.0.workspace.lock();
                buffer.copy(offset, arena.results_of(source.0.id)?, first + source.2 * size, count * size)?;
            }
        }
        self.inputs.as_ref().map_or(Ok(()), |inputs| inputs.copied(buffer, offset))
    }

    /// Work of one run for the rows in use now.
    pub fn cost(&self) -> Result<Cost> {
        let used = self.all_used()?;
        Ok(self
            .steps
            .iter()
            .map(|step| step_cost(step, &used))
            .fold(Cost::default(), |sum, cost| Cost { flops: sum.flops + cost.flops, bytes: sum.bytes + cost.bytes }))
    }

    /// The kernels that a run on a device launches, and the ops that have none. Nothing runs there: the program may be
    /// compiled for another device.
    pub fn kernels(&self, cuda: &CudaQueue) -> Result<Kernels> {
        let (listing, list) = cuda.listing();
        let listing = Queue::Cuda(listing);
        // Addresses are only passed on, so any will do.
        let arena = Buffer::zeroed(0)?;
        let full: Vec<usize> = self.ragged.iter().map(|(group, _)| group.capacity).collect();
        let mut missing = Vec::new();
        for accumulate in [false, true] {
            for (index, step) in self.steps.iter().enumerate() {
                match self.run_step(&listing, &arena, &full, accumulate, index, step, &mut []) {
                    Err(Error::NoKernel(_)) if missing.contains(&step.op.name()) => {}
                    Err(Error::NoKernel(_)) => missing.push(step.op.name()),
                    result => result?,
                }
            }
        }
        let sources = std::mem::take(&mut *list.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        Ok(Kernels { sources, missing })
    }

    /// Compiles and loads every kernel of a run on a device, so that the first run does not wait for it; `progress` hears
    /// of each before its turn: how many are done, how many there are, its title. Nothing to do on the CPU.
    ///
    /// # Errors
    /// An op has no kernel for the device, or a kernel does not compile.
    pub fn prepare(&self, queue: &Queue, progress: &mut dyn FnMut(usize, usize, &str)) -> Result<()> {
        let Queue::Cuda(cuda) = queue else { return Ok(()) };
        let Kernels { sources, missing } = self.kernels(cuda)?;
        match &missing[..] {
            [] => cuda.prepare(&sources, progress),
            names => Err(Error::NoKernel(format!("these ops have no CUDA kernel yet: {}", names.join(", ")))),
        }
    }

    /// Runs the list. With `accumulate`, gradients of parameters are added to what their arena holds. On a device the run
    /// is submitted, not waited for; from its second time on it is one captured graph, if the queue says so.
    pub fn run(&mut self, queue: &Queue, accumulate: bool) -> Result<()> {
        self.run_observed(queue, accumulate, &mut [])
    }

    /// As [`Program::run`], with observers called around every node, each of which a device finishes before the next.
    pub fn run_observed(
        &mut self,
        queue: &Queue,
        accumulate: bool,
        observers: &mut [&mut (dyn Observer + Send)],
    ) -> Result<()> {
        self.check_queue(queue)?;
        self.send_inputs()?;
        let workspace = self.workspace.clone();
        let mut workspace = workspace.lock();
        let arena = workspace.claim(self.workspace.device(), self.plan.peak_bytes, self.id)?;
        let used = self.all_used()?;
        match queue {
            Queue::Cuda(cuda) if cuda.graphs() && observers.is_empty() => {
                let run = Run { arena: arena.pointer().addr(), used: used.clone(), accumulate };
                let mut graphs = std::mem::take(&mut self.graphs);
                let launches = &mut || self.run_steps(queue, &arena, &used, accumulate, &mut []);
                let result = graphs.run(cuda, run, launches);
                self.graphs = graphs;
                result
            }
            _ => queue.enter(|| self.run_steps(queue, &arena, &used, accumulate, observers)),
        }
    }

    fn run_steps(
        &self,
        queue: &Queue,
        arena: &Arc<Buffer>,
        used: &[usize],
        accumulate: bool,
        observers: &mut [&mut (dyn Observer + Send)],
    ) -> Result<()> {
        for (index, step) in self.steps.iter().enumerate() {
            self.run_step(queue, arena, used, accumulate, index, step, observers)?;
        }
        Ok(())
    }

    fn run_step(
        &self,
        queue: &Queue,
        arena: &Arc<Buffer>,
        used: &[usize],
        accumulate: bool,
        index: usize,
        step: &Step,
        observers: &mut [&mut (dyn Observer + Send)],
    ) -> Result<()> {
        let locate = |slot: &Slot| -> (*mut u8, Meta) {
            let pointer = match &slot.address {
                Address::Planned(offset) => arena.pointer().wrapping_add(*offset),
                Address::Owned(buffer, offset) => buffer.pointer().wrapping_add(*offset),
            };
            (pointer, clip(slot.meta, slot.ragged.map(|group| used[group])))
        };
        let inputs: Vec<View> = (step.inputs.iter())
            .map(|slot| {
                let (pointer, meta) = locate(slot);
                // SAFETY: the plan keeps tensors that live at this step apart, except for declared in-place pairs.
                unsafe { View::new(pointer, meta, queue.device()) }
            })
            .collect();
        let outputs: Vec<(*mut u8, Meta, Write)> = (step.outputs.iter())
            .map(|(slot, when)| {
                let (pointer, meta) = locate(slot);
                (pointer, meta, when.resolve(accumulate))
            })
            .collect();
        let mut outs: Vec<Out> = (outputs.iter())
            // SAFETY: as above.
            .map(|&(pointer, meta, write)| unsafe { Out::new(pointer, meta, write, queue.device()) })
            .collect();
        let explain = |error: Error| match error {
            Error::Invalid(detail) => Error::Op {
                op: step.op.name(),
                detail,
                inputs: inputs.iter().map(|view| view.meta().to_string()).collect::<Vec<_>>().join(", "),
                place: step.place.clone(),
            },
            Error::NoKernel(detail) => Error::NoKernel(format!("{detail}\n  at {}", step.place)),
            other => other,
        };
        if observers.is_empty() {
            return step.op.run(queue, &inputs, &mut outs).map_err(explain);
        }
        let output_bytes: Vec<usize> = step.outputs.iter().map(|(slot, _)| slot.meta.bytes()).collect();
        let planned: Vec<bool> =
            step.outputs.iter().map(|(slot, _)| matches!(slot.address, Address::Planned(_))).collect();
        let view = StepView {
            index,
            op: &step.op,
            phase: step.phase,
            span: &self.spans[step.span as usize],
            place: &step.place,
            device: queue.device(),
            inputs: &inputs,
            outputs: &outputs,
            output_bytes: &output_bytes,
            cost: step_cost(step, used),
            guard_bytes: self.guard_bytes,
            planned: &planned,
            scratch: &step.scratch,
        };
        for observer in observers.iter_mut() {
            observer.before(&view).map_err(explain)?;
        }
        step.op.run(queue, &inputs, &mut outs).map_err(explain)?;
        if let Queue::Cuda(cuda) = queue {
            cuda.synchronize().map_err(explain)?;
        }
        // In reverse, so that the observer nearest to the run (the profiler, when last) is called first.
        for observer in observers.iter_mut().rev() {
            observer.after(&view).map_err(explain)?;
        }
        Ok(())
    }

    fn send_inputs(&self) -> Result<()> {
        self.inputs.as_ref().map_or(Ok(()), Inputs::send)
    }

    fn check_queue(&self, queue: &Queue) -> Result<()> {
        let (compiled, asked) = (self.workspace.device(), queue.device());
        if compiled.is(asked) {
            return Ok(());
        }
        Err(Error::invalid(format!("a program compiled for {compiled} cannot run on {asked}: give it that workspace")))
    }

    fn slot(&self, tensor: Tensor) -> Result<&Slot> {
        let slot = self.slots.get(&tensor.id).filter(|_| tensor.tape == self.tape);
        slot.ok_or_else(|| Error::invalid(format!("a tensor of {} is not part of this program", tensor.meta())))
    }

    fn used(&self, group: usize) -> Result<usize> {
        let (group, home) = &self.ragged[group];
        rows_in_use(group, home)
    }

    fn all_used(&self) -> Result<Vec<usize>> {
        (0..self.ragged.len()).map(|group| self.used(group)).collect()
    }
}

/// An error if the node reads or adds to a planned tensor that no node before it writes; an op that was absorbed must
/// have all its outputs replaced before they are read.
fn check_written(tape: &Tape, node: &Node, written: &mut HashSet<u32>) -> Result<()> {
    let added = node.outputs.iter().filter(|(_, when)| *when == When::Add).map(|(output, _)| output);
    for tensor in node.inputs.iter().chain(added) {
        if matches!(tape.home(tensor.id), Home::Planned) && !written.contains(&tape.root(tensor.id)) {
            let metas: Vec<Meta> = node.inputs.iter().map(|input| input.meta()).collect();
            let detail = format!("a tensor of {} is used before anything writes it", tensor.meta());
            return Err(tape.explain(Error::invalid(detail), node.op.as_ref(), &metas, node.source));
        }
    }
    written.extend(node.outputs.iter().map(|(output, _)| tape.root(output.id)));
    Ok(())
}

/// An error if a tape that is to run on the CPU has parameters on a device.
fn check_on_host(tape: &Tape) -> Result<()> {
    for info in &tape.infos {
        if let Home::Owned(buffer, _) = &info.home
            && !buffer.device().is(&Device::Cpu)
        {
            return Err(Error::invalid(format!(
                "the parameters lie in the memory of {}, the program is to run on the CPU: give it a workspace on that device",
                buffer.device()
            )));
        }
    }
    Ok(())
}

fn is_scratch(tape: &Tape, read: &HashSet<u32>, output: Tensor) -> bool {
    let root = tape.root(output.id);
    let info = &tape.infos[root as usize];
    matches!(info.home, Home::Planned) && !info.keep && !read.contains(&root)
}

fn step_cost(step: &Step, used: &[usize]) -> Cost {
    let metas: Vec<Meta> =
        step.inputs.iter().map(|slot| clip(slot.meta, slot.ragged.map(|group| used[group]))).collect();
    step.op.cost(&metas)
}
