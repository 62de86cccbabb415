//! Element-wise glue: `add` of two tensors, `copy` and `cast`; the first two are free where the tape can pass memory on.

mod cpu;
pub(crate) mod cuda;
mod sums;

pub(crate) use sums::{add_to, write_sum};

use crate::case::{BEYOND_CACHES, Array, Case, Draw, Input, Reference, Tolerance};
use cuda::Operation;
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recompute, Recorded, Result, Tape, Target, Tensor, View};
use std::sync::Arc;

/// `a + b`; both of the same shape and dtype (f32 or bf16).
#[track_caller]
pub fn add(tape: &mut Tape, a: Tensor, b: Tensor) -> Result<Tensor> {
    Ok(tape.push(Add, &[a, b])?[0])
}

/// The same values in another storage type; the tensor itself if it has that type already.
#[track_caller]
pub fn cast(tape: &mut Tape, x: Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype { Ok(x) } else { Ok(tape.push(Cast(dtype), &[x])?[0]) }
}

/// Passes `gradient`, the gradient of an output, on to `of`: by handing over its memory where that is possible, else by
/// a copy or an addition. Call it after every push that reads `gradient`.
pub fn pass_gradient(tape: &mut Tape, of: Tensor, gradient: Tensor) -> Result<()> {
    if tape.needs_gradient(of) && !tape.donate_gradient(of, gradient)? {
        tape.push_into(Copy, &[gradient], &[Target::Gradient(of)])?;
    }
    Ok(())
}

/// Sum of two tensors.
#[derive(Clone, Copy, Debug)]
pub struct Add;

/// The same values in new memory, or added to a gradient.
#[derive(Clone, Copy, Debug)]
pub struct Copy;

/// Between f32 and bf16, to nearest even.
#[derive(Clone, Copy, Debug)]
pub struct Cast(pub DType);

fn same_floats(inputs: &[Meta], count: usize) -> Result<Meta> {
    match inputs {
        [first, rest @ ..] if inputs.len() == count && first.dtype.is_float() && rest.iter().all(|m| m == first) => {
            Ok(*first)
        }
        _ => Err(Error::invalid(format!("expects {count} f32 or bf16 tensors of one shape and dtype"))),
    }
}

fn streaming(inputs: &[Meta], flops_per_element: f64) -> Cost {
    let bytes: usize = inputs.iter().map(Meta::bytes).sum();
    let output = inputs.first().map_or(0, Meta::bytes);
    let elements = inputs.first().map_or(0, Meta::elements) as f64;
    Cost { flops: elements * flops_per_element, bytes: (bytes + output) as f64 }
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        Ok(vec![same_floats(inputs, 2)?])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::sum(cpu, &inputs[0], Some(&inputs[1]), &mut outputs[0]),
            Queue::Cuda(queue) => cuda::run(queue, Operation::Add, &inputs[0], Some(&inputs[1]), &mut outputs[0]),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        pass_gradient(tape, node.inputs[0], gradient)?;
        pass_gradient(tape, node.inputs[1], gradient)
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs, 1.0)
    }

    fn in_place(&self) -> &[(usize, usize)] {
        &[(0, 0), (0, 1)]
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Op for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        Ok(vec![same_floats(inputs, 1)?])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::sum(cpu, &inputs[0], None, &mut outputs[0]),
            Queue::Cuda(queue) => cuda::run(queue, Operation::Copy, &inputs[0], None, &mut outputs[0]),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        match gradients[0] {
            Some(gradient) => pass_gradient(tape, node.inputs[0], gradient),
            None => Ok(()),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs, 0.0)
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let input = same_floats(inputs, 1)?;
        if !self.0.is_float() {
            return Err(Error::invalid(format!("cannot cast to {}", self.0)));
        }
        Ok(vec![Meta { shape: input.shape, dtype: self.0 }])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::sum(cpu, &inputs[0], None, &mut outputs[0]),
            Queue::Cuda(queue) => cuda::run(queue, Operation::Copy, &inputs[0], None, &mut outputs[0]),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let (Some(gradient), x) = (gradients[0], node.inputs[0]) else { return Ok(()) };
        tape.push_into(Cast(tape.gradient_dtype(x)), &[gradient], &[Target::Gradient(x)]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let elements = inputs.first().map_or(0, Meta::elements);
        Cost { flops: 0.0, bytes: (elements * (inputs[0].dtype.size() + self.0.size())) as f64 }
    }

    fn recompute(&self) -> Recompute {
        Recompute::Cheap
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Reference for Cast {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        vec![inputs[0].clone()]
    }

    fn gradients(&self, _inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        vec![Some(outputs[0].clone())]
    }
}

impl Reference for Add {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let sum = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect();
        vec![Array::new(inputs[0].shape, sum)]
    }

    fn gradients(&self, _inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        vec![Some(outputs[0].clone()), Some(outputs[0].clone())]
    }
}

impl Reference for Copy {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        vec![inputs[0].clone()]
    }

    fn gradients(&self, _inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        vec![Some(outputs[0].clone())]
    }
}

fn case(op: impl Op + Reference + Clone + 'static, inputs: usize, rows: usize, columns: usize, dtype: DType) -> Case {
    Case {
        name: format!("{} {dtype}[{rows}, {columns}]", op.name()),
        op: Arc::new(op.clone()),
        reference: Arc::new(op),
        inputs: vec![Input::variable([rows, columns], dtype); inputs],
        results: 1,
        forward: Tolerance::sum_of(2),
        // A cast rounds once on the way to the gradient and once in it.
        backward: Tolerance::sum_of(2).roundings(2.0),
        bench_only: false,
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        cases.push(case(Add, 2, 3, 67, dtype));
        cases.push(case(Copy, 1, 5, 33, dtype));
        cases.push(case(Cast(DType::F32), 1, 5, 33, dtype));
        cases.push(case(Cast(DType::BF16), 1, 4, 35, dtype));
        cases.push(Case { bench_only: true, ..case(Add, 2, 1600, 768, dtype) });
        let (rows, columns) = BEYOND_CACHES;
        cases.push(Case { bench_only: true, ..case(Add, 2, rows, columns, dtype) });
    }
    let (rows, columns) = BEYOND_CACHES;
    for (from, to) in [(DType::F32, DType::BF16), (DType::BF16, DType::F32)] {
        cases.push(Case { bench_only: true, ..case(Cast(to), 1, rows, columns, from) });
    }
    cases
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let (rows, columns, dtype) = (draw.integer(1, 9), draw.integer(1, 70), draw.float());
    match draw.integer(0, 2) {
        0 => case(Add, 2, rows, columns, dtype),
        1 => case(Copy, 1, rows, columns, dtype),
        _ => case(Cast(draw.float()), 1, rows, columns, dtype),
    }
}
