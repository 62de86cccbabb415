//! Rows by index: the rows of a packed text that the decoder reads, the pooled row of every image.

mod cpu;
pub(crate) mod cuda;
pub(crate) use cpu::scatter_add;

use crate::case::{Array, Case, Draw, Input, Reference, Tolerance};
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Tape, Target, Tensor, View};
use std::sync::Arc;

/// `y[i] = x[index[i]]`: x `[rows, n]` f32 or bf16, index i32 `[count]`, y `[count, n]`. An index that x does not have
/// is an error on the CPU; a device, which cannot report it, makes its row NaN and gives it no gradient.
#[track_caller]
pub fn take_rows(tape: &mut Tape, x: Tensor, index: Tensor) -> Result<Tensor> {
    Ok(tape.push(TakeRows, &[x, index])?[0])
}

/// The op behind [`take_rows`]. Rows of y follow those of the index.
#[derive(Clone, Copy, Debug)]
pub struct TakeRows;

/// `dx[index[i]] += dy[i]`, zero elsewhere; inputs x (for its shape), index, dy; outputs dx, then scratch. Added in the
/// order of i.
#[derive(Clone, Copy, Debug)]
pub struct TakeRowsBackward;

fn check(x: Meta, index: Meta) -> Result<()> {
    if x.shape.rank() != 2 || !x.dtype.is_float() || index.shape.rank() != 1 || index.dtype != DType::I32 {
        return Err(Error::invalid("expects x [rows, n] in f32 or bf16 and an i32 index [count]"));
    }
    Ok(())
}

impl Op for TakeRows {
    fn name(&self) -> &'static str {
        "take_rows"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let &[x, index] = inputs else { return Err(Error::invalid("expects x and an index")) };
        check(x, index)?;
        Ok(vec![Meta::new([index.elements(), x.shape.columns()], x.dtype)])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::take(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::take(queue, inputs, &outputs[0]),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let (x, index) = (node.inputs[0], node.inputs[1]);
        tape.push_into(TakeRowsBackward, &[x, index, gradient], &[Target::Gradient(x)]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let bytes = inputs[1].elements() * inputs[0].shape.columns() * inputs[0].dtype.size() * 2;
        Cost { flops: 0.0, bytes: (bytes + inputs[1].bytes()) as f64 }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(1)
    }
}

impl Op for TakeRowsBackward {
    fn name(&self) -> &'static str {
        "take_rows_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let &[x, index, _] = inputs else { return Err(Error::invalid("expects x, an index and dy")) };
        check(x, index)?;
        // Scratch: where each row is taken first and last.
        Ok(vec![x, Meta::new([2, x.shape.rows()], DType::I32)])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::give(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::give(queue, inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: inputs[2].elements() as f64, bytes: (inputs[0].bytes() + inputs[2].bytes()) as f64 }
    }

    fn rows_from(&self, output: usize) -> Option<usize> {
        (output == 0).then_some(0)
    }
}

impl Reference for TakeRows {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let rows = inputs[1].data.iter().flat_map(|&row| inputs[0].row(row as usize).to_vec()).collect();
        vec![Array::new([inputs[1].data.len(), inputs[0].shape.columns()], rows)]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let mut dx = Array::zeros(inputs[0].shape);
        for (from, &row) in inputs[1].data.iter().enumerate() {
            let dy = outputs[0].row(from);
            dx.row_mut(row as usize).iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
        }
        vec![Some(dx), None]
    }
}

fn case(rows: usize, columns: usize, index: &[i32], used: Option<usize>, dtype: DType) -> Case {
    let mut inputs = vec![Input::variable([rows, columns], dtype), Input::integers(index)];
    let mut op: Arc<dyn Op> = Arc::new(TakeRows);
    let mut reference: Arc<dyn Reference> = Arc::new(TakeRows);
    if let Some(used) = used {
        inputs[1] = inputs[1].clone().ragged(2);
        inputs.push(Input::integers(&[used as i32]));
        (op, reference) = (Arc::new(WithOffsets), Arc::new(WithOffsets));
    }
    Case {
        name: format!("take_rows {dtype}[{rows}, {columns}] {} rows, {used:?} used", index.len()),
        op,
        reference,
        inputs,
        results: 1,
        forward: Tolerance::sum_of(1),
        // A row may be taken many times; each addition rounds.
        backward: Tolerance::sum_of(2).roundings(index.len() as f64),
        bench_only: false,
    }
}

/// The op with the offsets of its ragged index as a further input, which it does not read.
#[derive(Clone, Copy, Debug)]
struct WithOffsets;

impl Op for WithOffsets {
    fn name(&self) -> &'static str {
        TakeRows.name()
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        TakeRows.infer(&inputs[..2])
    }
    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        TakeRows.run(queue, &inputs[..2], outputs)
    }
    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        TakeRows.backward(tape, node, gradients)
    }
    fn cost(&self, inputs: &[Meta]) -> Cost {
        TakeRows.cost(&inputs[..2])
    }
    fn rows_from(&self, output: usize) -> Option<usize> {
        TakeRows.rows_from(output)
    }
}

impl Reference for WithOffsets {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        TakeRows.forward(&inputs[..2])
    }
    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        TakeRows.gradients(&inputs[..2], outputs)
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        cases.push(case(5, 67, &[4, 0, 0, 2], None, dtype));
        cases.push(case(5, 67, &[4, 0, 0, 2], Some(2), dtype));
        cases.push(case(3, 9, &[1], Some(0), dtype));
        // Rows that are taken many times, far apart, and rows that are not taken.
        cases.push(case(17, 264, &std::array::from_fn::<i32, 70, _>(|i| i as i32 * 7 % 13), None, dtype));
    }
    cases
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let (rows, columns, count) = (draw.integer(1, 20), draw.integer(1, 90), draw.integer(1, 20));
    let used = draw.flag().then(|| draw.integer(0, count));
    let dtype = draw.float();
    let index: Vec<i32> = (0..count).map(|_| draw.integer(0, rows - 1) as i32).collect();
    case(rows, columns, &index, used, dtype)
}
