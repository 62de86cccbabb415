//! Softmax cross-entropy of logits, with label smoothing (Szegedy et al., "Rethinking the Inception architecture", 2016):
//! the label has the share `1 - smoothing` of the target and all classes, its own included, the rest in equal parts. As
//! PyTorch's `cross_entropy(label_smoothing)`.
//!
//! For heads of some thousand classes, whose logits are wanted too; a vocabulary's go through
//! [`linear_cross_entropy`](crate::linear_cross_entropy), which never holds them all.

mod cpu;
pub(crate) mod cuda;

pub(crate) use cpu::write_mean;

use crate::case::{Array, Case, Draw, Input, Reference, Tolerance};
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Tape, Target, Tensor, View};
use std::sync::Arc;

/// The mean loss, f32 `[1]`, over the rows that count; 0 if there are none. Logits f32 `[rows, classes]`, labels i32
/// `[rows]`; a row with a negative label does not count. `smoothing` is at least 0 and below 1.
///
/// A label that is no class is an error on the CPU. A GPU's labels are out of the host's sight: there it makes the loss NaN.
#[track_caller]
pub fn cross_entropy(tape: &mut Tape, logits: Tensor, labels: Tensor, smoothing: f32) -> Result<Tensor> {
    Ok(tape.push(CrossEntropy { smoothing }, &[logits, labels])?[0])
}

/// Inputs logits and labels; outputs the loss and, as scratch, the loss of every row.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// Share of the target that all classes have together.
    pub smoothing: f32,
}

/// Inputs logits, labels and the gradient of the loss; outputs the gradient of the logits and, as scratch, a row's share
/// of the loss's gradient.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyBackward {
    /// As in [`CrossEntropy`].
    pub smoothing: f32,
}

fn check(inputs: &[Meta], smoothing: f32) -> Result<()> {
    let [logits, labels, ..] = inputs else { return Err(Error::invalid("expects logits and labels")) };
    let rows = logits.shape.rows();
    if logits.shape.rank() != 2 || logits.dtype != DType::F32 || *labels != Meta::new([rows], DType::I32) {
        return Err(Error::invalid("logits must be f32 [rows, classes], labels i32 [rows]"));
    }
    if !(0.0..1.0).contains(&smoothing) {
        return Err(Error::invalid(format!("label smoothing must be at least 0 and below 1, not {smoothing}")));
    }
    Ok(())
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        check(inputs, self.smoothing)?;
        Ok(vec![Meta::new([1], DType::F32), Meta::new([inputs[0].shape.rows()], DType::F32)])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::forward(cpu, self.smoothing, inputs, outputs),
            Queue::Cuda(queue) => cuda::forward(queue, self.smoothing, inputs, outputs),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let (logits, labels) = (node.inputs[0], node.inputs[1]);
        let op = CrossEntropyBackward { smoothing: self.smoothing };
        tape.push_into(op, &[logits, labels, gradient], &[Target::Gradient(logits)]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: 4.0 * inputs[0].elements() as f64, bytes: inputs[0].bytes() as f64 }
    }

    fn rows_from(&self, output: usize) -> Option<usize> {
        (output == 1).then_some(0)
    }
}

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        check(inputs, self.smoothing)?;
        Ok(vec![inputs[0], Meta::new([1], DType::F32)])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::backward(cpu, self.smoothing, inputs, outputs),
            Queue::Cuda(queue) => cuda::backward(queue, self.smoothing, inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: 5.0 * inputs[0].elements() as f64, bytes: 2.0 * inputs[0].bytes() as f64 }
    }

    fn rows_from(&self, output: usize) -> Option<usize> {
        (output == 0).then_some(0)
    }
}

impl CrossEntropy {
    /// The share of the target that `class` has in a row with this label.
    fn target(&self, classes: usize, label: usize, class: usize) -> f64 {
        let smoothing = f64::from(self.smoothing);
        smoothing / classes as f64 + if class == label { 1.0 - smoothing } else { 0.0 }
    }
}

/// Logarithm of the sum of exponentials.
fn log_sum_exp(logits: &[f64]) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln()
}

/// The rows that count, with their labels.
fn counted(labels: &Array) -> Vec<(usize, usize)> {
    let label = |(row, &label): (usize, &f64)| (label >= 0.0).then_some((row, label as usize));
    labels.data.iter().enumerate().filter_map(label).collect()
}

impl Reference for CrossEntropy {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let (rows, classes) = (counted(&inputs[1]), inputs[0].shape.columns());
        let loss = |&(row, label): &(usize, usize)| -> f64 {
            let logits = inputs[0].row(row);
            let sum = log_sum_exp(logits);
            (0..classes).map(|class| self.target(classes, label, class) * (sum - logits[class])).sum()
        };
        vec![Array::new([1], vec![rows.iter().map(loss).sum::<f64>() / rows.len().max(1) as f64])]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let (rows, classes) = (counted(&inputs[1]), inputs[0].shape.columns());
        let mut gradient = Array::zeros(inputs[0].shape);
        for &(row, label) in &rows {
            let logits = inputs[0].row(row);
            let sum = log_sum_exp(logits);
            for class in 0..classes {
                let difference = (logits[class] - sum).exp() - self.target(classes, label, class);
                gradient.row_mut(row)[class] = outputs[0].data[0] / rows.len() as f64 * difference;
            }
        }
        vec![Some(gradient), None]
    }
}

fn case(classes: usize, labels: &[i32], smoothing: f32) -> Case {
    let op = CrossEntropy { smoothing };
    let (rows, counted) = (labels.len(), labels.iter().filter(|&&label| label >= 0).count());
    Case {
        name: format!("cross_entropy {rows}x{classes} smoothing {smoothing}"),
        op: Arc::new(op),
        reference: Arc::new(op),
        inputs: vec![Input::variable([rows, classes], DType::F32), Input::integers(labels)],
        results: 1,
        // The terms of a row's sums, and of the mean of the rows, of logits of a deviation of 1.
        forward: Tolerance { roundings: 0.0, terms: (classes + rows + 8) as f64, scale: 1.0 },
        // Probability and target cancel where they agree; both are shares of a row's part of the loss's gradient.
        backward: Tolerance::sum_of(classes).scale(1.0 / counted.max(1) as f64),
        bench_only: false,
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let many: Vec<i32> = (0..512).map(|row| row * 7 % 1000).collect();
    vec![
        case(9, &[3, 0, 8, 1, 0], 0.0),
        case(33, &[3, -1, 32, 1, -1, 7], 0.2),
        case(17, &[-1, -1], 0.1),
        case(1, &[0, 0], 0.5),
        // Rows that keep several warps busy, as packs and as single values; a row that fills the shared memory of a GPU's
        // multiprocessor, and one that it cannot hold.
        case(1544, &[1543, -1, 5], 0.1),
        case(1541, &[-1, 1540], 0.0),
        case(36_000, &[7], 0.1),
        case(60_000, &[59_999], 0.1),
        Case { bench_only: true, ..case(1000, &many, 0.2) },
    ]
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let (rows, classes) = (draw.integer(1, 40), draw.integer(1, 70));
    let smoothing = draw.pick(&[0.0, 0.1, 0.2, 0.5]);
    let labels: Vec<i32> = (0..rows).map(|_| draw.integer(0, classes) as i32 - 1).collect();
    case(classes, &labels, smoothing)
}
