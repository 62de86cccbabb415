//! LayerNorm over the innermost dimension, optionally of a sum of two tensors. Ba, Kiros, Hinton, "Layer
//! normalization", 2016; biased variance, statistics in f32.

mod cpu;
pub(crate) mod cuda;
mod rows;

use crate::case::{BEYOND_CACHES, Array, Case, Draw, Input, Reference, Tolerance};
use crate::elementwise::pass_gradient;
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recompute, Recorded, Result, Tape, Target, Tensor, View};
use std::sync::Arc;

/// Partial sums of the weight and bias gradients on the CPU; fixed, so that results do not depend on the number of
/// threads.
const PARTS: usize = 16;

/// Most partial sums on a GPU, one a block: two blocks for each of the 132 multiprocessors of an H100, less a few. Fixed,
/// so that results do not depend on the GPU.
const MOST_PARTS: usize = 256;

/// Rows that a block of a GPU works on at once, one a warp.
const ROWS_AT_ONCE: usize = 8;

/// Partial sums that there is scratch for with this many rows.
fn parts(rows: usize) -> usize {
    rows.div_ceil(ROWS_AT_ONCE).clamp(PARTS, MOST_PARTS)
}

/// `(x - mean) / sqrt(variance + epsilon) · weight + bias`: x `[rows…, n]` f32 or bf16, weight and bias f32 `[n]`.
#[track_caller]
pub fn layer_norm(tape: &mut Tape, x: Tensor, weight: Tensor, bias: Tensor, epsilon: f32) -> Result<Tensor> {
    Ok(tape.push(LayerNorm { epsilon, residual: false }, &[x, weight, bias])?[0])
}

/// `sum = x + residual` and its LayerNorm: returns (norm, sum).
#[track_caller]
pub fn add_layer_norm(
    tape: &mut Tape,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
) -> Result<(Tensor, Tensor)> {
    let outputs = tape.push(LayerNorm { epsilon, residual: true }, &[x, weight, bias, residual])?;
    Ok((outputs[0], outputs[1]))
}

/// The op: inputs x, weight, bias and, if asked for, a residual. Outputs y, with a residual the sum, then mean and
/// reciprocal standard deviation (f32 `[rows]`).
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// Normalise x + residual.
    pub residual: bool,
}

/// Inputs x (or the sum), weight, mean, rstd, dy; outputs dx, dweight, dbias and scratch.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormBackward;

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        if self.residual { "add_layer_norm" } else { "layer_norm" }
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let count = if self.residual { 4 } else { 3 };
        let &[x, weight, bias, ref rest @ ..] = inputs else {
            return Err(Error::invalid("expects x, weight, bias and, if asked for, a residual"));
        };
        let affine = Meta::new([x.shape.columns()], DType::F32);
        if inputs.len() != count || !x.dtype.is_float() || weight != affine || bias != affine {
            return Err(Error::invalid(format!("expects {count} inputs, x f32 or bf16, weight and bias {affine}")));
        }
        if rest.iter().any(|residual| *residual != x) {
            return Err(Error::invalid("the residual must have the shape and dtype of x"));
        }
        let statistic = Meta::new([x.shape.rows()], DType::F32);
        Ok(if self.residual { vec![x, x, statistic, statistic] } else { vec![x, statistic, statistic] })
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::forward(cpu, self.epsilon, inputs, outputs),
            Queue::Cuda(queue) => cuda::forward(queue, self.epsilon, inputs, outputs),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let (x, weight, bias) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let (normalised, statistics) =
            if self.residual { (node.outputs[1], &node.outputs[2..]) } else { (x, &node.outputs[1..]) };
        if let Some(dy) = gradients[0] {
            let inputs = [normalised, weight, statistics[0], statistics[1], dy];
            let targets = [Target::Gradient(normalised), Target::Gradient(weight), Target::Gradient(bias)];
            tape.push_into(LayerNormBackward, &inputs, &targets)?;
        }
        if let (true, Some(gradient)) = (self.residual, tape.gradient(normalised)?) {
            pass_gradient(tape, x, gradient)?;
            pass_gradient(tape, node.inputs[3], gradient)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let x = inputs.first().copied().unwrap_or(Meta::new([0], DType::F32));
        let passes = if self.residual { 4 } else { 2 };
        Cost { flops: 8.0 * x.elements() as f64, bytes: (passes * x.bytes()) as f64 }
    }

    fn recompute(&self) -> Recompute {
        if self.residual { Recompute::Keep } else { Recompute::Cheap }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Op for LayerNormBackward {
    fn name(&self) -> &'static str {
        "layer_norm_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let &[x, weight, mean, rstd, dy] = inputs else {
            return Err(Error::invalid("expects x, weight, mean, rstd and dy"));
        };
        let [affine, statistic] = [x.shape.columns(), x.shape.rows()].map(|count| Meta::new([count], DType::F32));
        if !x.dtype.is_float() || x != dy || weight != affine || mean != statistic || rstd != statistic {
            return Err(Error::invalid(format!(
                "expects x and dy of one shape and dtype, the weight {affine}, mean and rstd {statistic}"
            )));
        }
        let scratch = Meta::new([parts(x.shape.rows()), 2, x.shape.columns()], DType::F32);
        Ok(vec![x, weight, weight, scratch])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::backward(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::backward(queue, inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let x = inputs.first().copied().unwrap_or(Meta::new([0], DType::F32));
        Cost { flops: 16.0 * x.elements() as f64, bytes: (3 * x.bytes()) as f64 }
    }

    fn rows_from(&self, output: usize) -> Option<usize> {
        (output == 0).then_some(0)
    }
}

impl LayerNorm {
    fn normalised(&self, inputs: &[Array]) -> Array {
        let mut x = inputs[0].clone();
        if self.residual {
            x.data.iter_mut().zip(&inputs[3].data).for_each(|(x, residual)| *x += residual);
        }
        x
    }
}

/// Mean and reciprocal standard deviation of a row.
fn statistics(row: &[f64], epsilon: f64) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

impl Reference for LayerNorm {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let x = self.normalised(inputs);
        let (mut y, rows) = (x.clone(), x.shape.rows());
        let (mut means, mut rstds) = (Array::zeros([rows]), Array::zeros([rows]));
        for row in 0..rows {
            let (mean, rstd) = statistics(x.row(row), f64::from(self.epsilon));
            (means.data[row], rstds.data[row]) = (mean, rstd);
            for (column, value) in y.row_mut(row).iter_mut().enumerate() {
                *value = (*value - mean) * rstd * inputs[1].data[column] + inputs[2].data[column];
            }
        }
        // With a residual the statistics are those of the rounded sum: results are compared, statistics are not.
        if self.residual { vec![y, x] } else { vec![y, means, rstds] }
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let (x, dy) = (self.normalised(inputs), &outputs[0]);
        let (mut dx, columns) = (x.clone(), x.shape.columns());
        let (mut dweight, mut dbias) = (Array::zeros([columns]), Array::zeros([columns]));
        for row in 0..x.shape.rows() {
            let (mean, rstd) = statistics(x.row(row), f64::from(self.epsilon));
            let hat = |column: usize| (x.row(row)[column] - mean) * rstd;
            let g = |column: usize| dy.row(row)[column] * inputs[1].data[column];
            let n = columns as f64;
            let mean_g = (0..columns).map(g).sum::<f64>() / n;
            let mean_gx = (0..columns).map(|c| g(c) * hat(c)).sum::<f64>() / n;
            for column in 0..columns {
                dweight.data[column] += dy.row(row)[column] * hat(column);
                dbias.data[column] += dy.row(row)[column];
                dx.data[row * columns + column] = rstd * (g(column) - mean_g - hat(column) * mean_gx);
            }
        }
        let mut gradients = vec![Some(dx.clone()), Some(dweight), Some(dbias)];
        if self.residual {
            gradients.push(Some(dx));
        }
        gradients
    }
}

fn case(rows: usize, columns: usize, dtype: DType, residual: bool) -> Case {
    let op = LayerNorm { epsilon: 1e-5, residual };
    let mut inputs = vec![
        Input::variable([rows, columns], dtype),
        Input::parameter([columns], DType::F32),
        Input::parameter([columns], DType::F32),
    ];
    if residual {
        inputs.push(Input::variable([rows, columns], dtype));
    }
    Case {
        name: format!("{} {dtype}[{rows}, {columns}]", op.name()),
        op: Arc::new(op),
        reference: Arc::new(op),
        inputs,
        results: 1,
        // A row of few columns may have a tiny variance: errors of x - mean are then divided by it (up to sqrt(1/ε)).
        forward: Tolerance::sum_of(columns + if columns < 4 { 4000 } else { 40 }).roundings(2.0).scale(1.0),
        backward: Tolerance::sum_of(columns + rows + if columns < 4 { 40_000 } else { 100 })
            .roundings(if columns < 4 { 400.0 } else { 6.0 })
            .scale(2.0),
        bench_only: false,
    }
}

/// For benches of a GPU.
pub(crate) fn gpu_case(rows: usize, columns: usize) -> Case {
    Case { bench_only: true, ..case(rows, columns, DType::BF16, false) }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        cases.push(case(5, 67, dtype, false));
        cases.push(case(33, 192, dtype, false));
        cases.push(case(3, 64, dtype, true));
        for (rows, columns) in [(1600, 768), BEYOND_CACHES] {
            cases.push(Case { bench_only: true, ..case(rows, columns, dtype, false) });
        }
    }
    cases.push(case(2, 1, DType::F32, false));
    // Several rows for each warp of a GPU, and rows of several packs a lane, the last of few lanes.
    cases.push(case(4200, 72, DType::BF16, true));
    cases.push(case(20, 264, DType::F32, false));
    cases.push(case(20, 776, DType::BF16, false));
    cases
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    case(draw.integer(1, 40), draw.integer(4, 90), draw.float(), draw.flag())
}
