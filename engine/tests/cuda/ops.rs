//! Small f32 ops with a CPU path and kernels of the fake device.

use crate::fake::{Kernel, Memory};
use engine::cuda::{Arguments, Launch, Source};
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Shape, Tape, Target, Tensor, View};

/// Kernels of the ops below.
pub const KERNELS: &[(&str, Kernel)] = &[("scale", scale), ("product", product), ("rate", rate)];

const PARTS: &[(&str, &str)] = &[("ops.cu", "")];

fn source(add: bool) -> Source {
    Source { name: "ops", parts: PARTS, constants: vec![("ADD".to_owned(), i64::from(add))] }
}

fn word(argument: &[u8]) -> u64 {
    argument.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// Sets or adds `value(index)` to `count` elements.
fn each(memory: &mut Memory, [to, count, add]: [u64; 3], value: impl Fn(&mut Memory, usize) -> f32) {
    for index in 0..count as usize {
        let value = value(memory, index);
        let old = if add == 1 { memory.f32(to, index) } else { 0.0 };
        memory.set_f32(to, index, old + value);
    }
}

/// out, count, add, factor, x.
fn scale(memory: &mut Memory, arguments: &[Vec<u8>]) {
    let [to, count, add, factor, x] = [0, 1, 2, 3, 4].map(|index| word(&arguments[index]));
    each(memory, [to, count, add], |memory, index| f32::from_bits(factor as u32) * memory.f32(x, index));
}

/// out, count, add, a, b.
fn product(memory: &mut Memory, arguments: &[Vec<u8>]) {
    let [to, count, add, a, b] = [0, 1, 2, 3, 4].map(|index| word(&arguments[index]));
    each(memory, [to, count, add], |memory, index| memory.f32(a, index) * memory.f32(b, index));
}

/// out, count, add, scalars.
fn rate(memory: &mut Memory, arguments: &[Vec<u8>]) {
    let [to, count, add, scalars] = [0, 1, 2, 3].map(|index| word(&arguments[index]));
    let learning_rate = std::mem::offset_of!(engine::cuda::StepScalars, learning_rate) as u64;
    each(memory, [to, count, add], |memory, _| memory.f32(scalars + learning_rate, 0));
}

fn launch(
    queue: &engine::CudaQueue,
    kernel: &str,
    out: &Out<'_>,
    rest: impl FnOnce(Arguments) -> Arguments,
) -> Result<()> {
    let common = Arguments::new().address(out.address()).u64(out.meta().elements() as u64);
    let arguments = rest(common.u32(u32::from(out.accumulates())));
    queue.launch(&source(out.accumulates()), kernel, &Launch::linear(1, 32), &arguments)
}

/// An f32 description.
pub fn f32s(shape: impl Into<Shape>) -> Meta {
    Meta::new(shape, DType::F32)
}

/// Pushes an op and takes its first output.
#[track_caller]
pub fn push(tape: &mut Tape, op: impl Op + 'static, inputs: &[Tensor]) -> Tensor {
    tape.push(op, inputs).expect("push")[0]
}

fn set(out: &mut Out<'_>, value: impl Fn(usize) -> f32) -> Result<()> {
    let add = out.accumulates();
    for (index, element) in out.slice_mut::<f32>()?.iter_mut().enumerate() {
        *element = if add { *element + value(index) } else { value(index) };
    }
    Ok(())
}

fn same(inputs: &[Meta], count: usize) -> Result<Vec<Meta>> {
    match inputs {
        [first, ..] if inputs.len() == count => Ok(vec![*first]),
        _ => Err(Error::invalid(format!("expects {count} inputs"))),
    }
}

/// `factor · x`; with a fault its kernel is given another factor or one element too many.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub factor: f32,
    pub fault: Fault,
}

/// What is wrong with a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The factor is a tenth too large.
    Off,
    /// One element more is written.
    PastTheEnd,
    /// The last element is not written.
    Unwritten,
}

/// A sound op.
pub fn scale_by(factor: f32) -> Scale {
    Scale { factor, fault: Fault::None }
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1)
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(_) => {
                let x = inputs[0].slice::<f32>()?;
                set(&mut outputs[0], |index| self.factor * x[index])
            }
            Queue::Cuda(cuda) => {
                let factor = if self.fault == Fault::Off { 1.1 * self.factor } else { self.factor };
                let out = &outputs[0];
                let count = match self.fault {
                    Fault::PastTheEnd => out.meta().elements() + 1,
                    Fault::Unwritten => out.meta().elements() - 1,
                    _ => out.meta().elements(),
                };
                let arguments = Arguments::new().address(out.address()).u64(count as u64).u32(out.accumulates().into());
                let arguments = arguments.f32(factor).address(inputs[0].address());
                cuda.launch(&source(out.accumulates()), "scale", &Launch::linear(1, 32), &arguments)
            }
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        tape.push_into(*self, &[gradient], &[Target::Gradient(node.inputs[0])]).map(|_| ())
    }

    fn cost(&self, _: &[Meta]) -> Cost {
        Cost::default()
    }

    fn rows_from(&self, _: usize) -> Option<usize> {
        Some(0)
    }
}

/// `a · b`.
#[derive(Clone, Copy, Debug)]
pub struct Product;

impl Op for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 2)
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(_) => {
                let (a, b) = (inputs[0].slice::<f32>()?, inputs[1].slice::<f32>()?);
                set(&mut outputs[0], |index| a[index] * b[index])
            }
            Queue::Cuda(cuda) => launch(cuda, "product", &outputs[0], |arguments| {
                arguments.address(inputs[0].address()).address(inputs[1].address())
            }),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let (a, b) = (node.inputs[0], node.inputs[1]);
        tape.push_into(*self, &[gradient, b], &[Target::Gradient(a)])?;
        tape.push_into(*self, &[gradient, a], &[Target::Gradient(b)]).map(|_| ())
    }

    fn cost(&self, _: &[Meta]) -> Cost {
        Cost::default()
    }

    fn rows_from(&self, _: usize) -> Option<usize> {
        Some(0)
    }
}

/// The learning rate of the step in every element of a tensor like the input; on the device alone.
#[derive(Clone, Copy, Debug)]
pub struct Rate;

impl Op for Rate {
    fn name(&self) -> &'static str {
        "rate"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1)
    }

    fn run(&self, queue: &Queue, _: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(_) => Err(Error::invalid("runs on a device alone")),
            Queue::Cuda(cuda) => launch(cuda, "rate", &outputs[0], |arguments| arguments.address(cuda.scalars())),
        }
    }

    fn cost(&self, _: &[Meta]) -> Cost {
        Cost::default()
    }
}

/// A copy on the CPU alone.
#[derive(Clone, Copy, Debug)]
pub struct CpuOnly;

impl Op for CpuOnly {
    fn name(&self) -> &'static str {
        "cpu_only"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1)
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        queue.cpu(self.name())?;
        let x = inputs[0].slice::<f32>()?;
        set(&mut outputs[0], |index| x[index])
    }

    fn cost(&self, _: &[Meta]) -> Cost {
        Cost::default()
    }
}

/// Reads its input on the host whatever the queue.
#[derive(Clone, Copy, Debug)]
pub struct Careless;

impl Op for Careless {
    fn name(&self) -> &'static str {
        "careless"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1)
    }

    fn run(&self, _: &Queue, inputs: &[View<'_>], _: &mut [Out<'_>]) -> Result<()> {
        inputs[0].slice::<f32>().map(|_| ())
    }

    fn cost(&self, _: &[Meta]) -> Cost {
        Cost::default()
    }
}
