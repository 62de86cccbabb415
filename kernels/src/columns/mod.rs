//! Columns of two matrices side by side: keys and values that come from separate projections.

pub(crate) mod cuda;

use crate::case::{Array, Case, Draw, Input, Reference, Tolerance};
use crate::simd::Float;
use engine::{Cost, CpuQueue, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Shared, Tape, Target, Tensor, View};
use half::bf16;
use std::sync::Arc;

/// Rows of a task.
const GRAIN: usize = 64;

/// `[a | b]`: a `[rows, n]` and b `[rows, m]` of one dtype (f32 or bf16) to `[rows, n + m]`.
#[track_caller]
pub fn join_columns(tape: &mut Tape, a: Tensor, b: Tensor) -> Result<Tensor> {
    Ok(tape.push(JoinColumns, &[a, b])?[0])
}

/// The op behind [`join_columns`].
#[derive(Clone, Copy, Debug)]
pub struct JoinColumns;

/// `[rows, n + m]` back into `[rows, n]` and `[rows, m]`: the gradient of [`JoinColumns`].
#[derive(Clone, Copy, Debug)]
pub struct SplitColumns {
    /// n.
    pub first: usize,
}

impl Op for JoinColumns {
    fn name(&self) -> &'static str {
        "join_columns"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [a, b] if a.dtype == b.dtype && a.dtype.is_float() && a.shape.rows() == b.shape.rows() => {
                Ok(vec![Meta::new([a.shape.rows(), a.shape.columns() + b.shape.columns()], a.dtype)])
            }
            _ => Err(Error::invalid("expects two f32 or two bf16 matrices with as many rows")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let [a, b] = inputs else { unreachable!("checked by infer") };
        let first = a.shape().columns();
        match (queue, a.meta().dtype) {
            (Queue::Cpu(cpu), DType::BF16) => join(cpu, a.slice::<bf16>()?, b.slice()?, first, &mut outputs[0]),
            (Queue::Cpu(cpu), _) => join(cpu, a.slice::<f32>()?, b.slice()?, first, &mut outputs[0]),
            (Queue::Cuda(queue), _) => cuda::join(queue, a, b, &outputs[0]),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let targets = [Target::Gradient(node.inputs[0]), Target::Gradient(node.inputs[1])];
        let op = SplitColumns { first: node.inputs[0].shape().columns() };
        tape.push_into(op, &[gradient], &targets).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: 0.0, bytes: 2.0 * inputs.iter().map(Meta::bytes).sum::<usize>() as f64 }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Op for SplitColumns {
    fn name(&self) -> &'static str {
        "split_columns"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [x] if x.dtype.is_float() && self.first < x.shape.columns() => {
                let (rows, columns) = (x.shape.rows(), x.shape.columns());
                Ok(vec![Meta::new([rows, self.first], x.dtype), Meta::new([rows, columns - self.first], x.dtype)])
            }
            _ => Err(Error::invalid(format!("expects one matrix of more than {} columns", self.first))),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match (queue, inputs[0].meta().dtype) {
            (Queue::Cpu(cpu), DType::BF16) => split::<bf16>(cpu, &inputs[0], self.first, outputs),
            (Queue::Cpu(cpu), _) => split::<f32>(cpu, &inputs[0], self.first, outputs),
            (Queue::Cuda(queue), _) => cuda::split(queue, &inputs[0], &outputs[0], &outputs[1]),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: 0.0, bytes: 2.0 * inputs[0].bytes() as f64 }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

fn copy<T: Float>(from: &[T], to: &mut [T], accumulate: bool) {
    if accumulate {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = T::narrow(to.widen() + from.widen()));
    } else {
        to.copy_from_slice(from);
    }
}

fn join<T: Float>(cpu: &CpuQueue, a: &[T], b: &[T], first: usize, out: &mut Out<'_>) -> Result<()> {
    let (columns, rows, accumulate) = (out.shape().columns(), out.shape().rows(), out.accumulates());
    let second = columns - first;
    let out = Shared::new(out.slice_mut::<T>()?);
    cpu.parallel_ranges(rows, GRAIN, |range| {
        for row in range {
            // SAFETY: tasks have rows of their own.
            let (left, right) = unsafe { out.part(row * columns..(row + 1) * columns) }.split_at_mut(first);
            copy(&a[row * first..(row + 1) * first], left, accumulate);
            copy(&b[row * second..(row + 1) * second], right, accumulate);
        }
    });
    Ok(())
}

fn split<T: Float>(cpu: &CpuQueue, x: &View<'_>, first: usize, outputs: &mut [Out<'_>]) -> Result<()> {
    let (columns, rows) = (x.shape().columns(), x.shape().rows());
    let x = x.slice::<T>()?;
    let second = columns - first;
    let [left, right] = outputs else { unreachable!("declared by infer") };
    let (add_left, add_right) = (left.accumulates(), right.accumulates());
    let (left, right) = (Shared::new(left.slice_mut::<T>()?), Shared::new(right.slice_mut::<T>()?));
    cpu.parallel_ranges(rows, GRAIN, |range| {
        for row in range {
            let (a, b) = x[row * columns..(row + 1) * columns].split_at(first);
            // SAFETY: tasks have rows of their own.
            unsafe {
                copy(a, left.part(row * first..(row + 1) * first), add_left);
                copy(b, right.part(row * second..(row + 1) * second), add_right);
            }
        }
    });
    Ok(())
}

impl Reference for JoinColumns {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let rows = inputs[0].shape.rows();
        let data = (0..rows).flat_map(|row| [inputs[0].row(row), inputs[1].row(row)].concat()).collect();
        vec![Array::new([rows, inputs[0].shape.columns() + inputs[1].shape.columns()], data)]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let first = inputs[0].shape.columns();
        let rows = 0..inputs[0].shape.rows();
        let left = rows.clone().flat_map(|row| outputs[0].row(row)[..first].to_vec()).collect();
        let right = rows.flat_map(|row| outputs[0].row(row)[first..].to_vec()).collect();
        vec![Some(Array::new(inputs[0].shape, left)), Some(Array::new(inputs[1].shape, right))]
    }
}

fn case(rows: usize, first: usize, second: usize, dtype: DType) -> Case {
    Case {
        name: format!("join_columns {dtype} {rows} rows of {first} and {second}"),
        op: Arc::new(JoinColumns),
        reference: Arc::new(JoinColumns),
        inputs: vec![Input::variable([rows, first], dtype), Input::variable([rows, second], dtype)],
        results: 1,
        forward: Tolerance::sum_of(1),
        backward: Tolerance::sum_of(2),
        bench_only: false,
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let of = |dtype| [case(3, 5, 7, dtype), case(130, 16, 16, dtype), case(2, 264, 8, dtype)];
    [DType::F32, DType::BF16].into_iter().flat_map(of).collect()
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    case(draw.integer(1, 70), draw.integer(1, 30), draw.integer(1, 30), draw.float())
}
