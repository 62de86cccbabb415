//! Output projection and cross-entropy in one op: logits exist for some rows at a time, never for all of them.
//!
//! In training the forward node is absorbed: its backward computes the loss on the way, so each logit is computed once.
//! The loss is the mean over rows whose label is not ignored (PyTorch's `cross_entropy` with `ignore_index`).

mod cpu;
mod cuda;

use crate::case::{Array, Case, Draw, Input, Reference, Tolerance};
use engine::{Cost, DType, Device, Error, Meta, Op, Out, Queue, Recorded, Result, Tape, Target, Tensor, View};
use std::ops::Range;
use std::sync::Arc;

/// How many rows are worked on at a time. Sums over rows are added up chunk by chunk, so the last bits of the weight's
/// gradient depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Rows whose f32 logits exist at the same time.
    pub logits: usize,
    /// Rows whose gradients of logits exist at the same time, at least as many. f32 gradients lie over their logits.
    pub gradients: usize,
}

impl Chunks {
    /// On a CPU up to 320 rows: CoCa's 49,408 f32 logits of each in 63 MB. A batch of eight captions of 76 ids is two chunks.
    ///
    /// On a GPU a chunk of gradients is what the products for the gradients of hidden and weight get at once, each of which
    /// reads or writes a matrix of the size of the weight: 4,096 rows of CoCa's 49,408 bf16 values in 400 MB. The logits of a
    /// chunk are made, and turned into gradients, fewer rows at a time in 256 MB: each time the weight is read again.
    pub fn new(device: &Device, dtype: DType, vocabulary: usize) -> Chunks {
        const ON_CPU: usize = 320;
        match device {
            Device::Cpu => Chunks { logits: ON_CPU, gradients: ON_CPU },
            Device::Cuda(_) => Chunks::on_gpu(dtype, vocabulary),
        }
    }

    fn on_gpu(dtype: DType, vocabulary: usize) -> Chunks {
        const LEAST: usize = 256;
        let rows = |bytes: usize, dtype: DType| bytes / (vocabulary.max(1) * dtype.size()) / LEAST * LEAST;
        let gradients = rows(400 << 20, dtype).max(LEAST);
        Chunks { logits: rows(256 << 20, DType::F32).clamp(LEAST, gradients), gradients }
    }

    fn check(self) -> Result<()> {
        if self.logits == 0 || self.gradients < self.logits {
            return Err(Error::invalid(format!("{self:?}: a chunk has at least one row, of gradients at least as many")));
        }
        Ok(())
    }
}

/// `rows` in ranges of `step`, of which the last may be shorter. Without rows there may be no step either.
fn chunks_of(rows: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    rows.clone().step_by(step.max(1)).map(move |start| start..rows.end.min(start + step))
}

/// Results of the loss.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// Mean over the rows that count, f32 `[1]`; 0 if there are none.
    pub loss: Tensor,
    /// Loss of every row, f32 `[rows]`; 0 where the label is ignored.
    pub row_loss: Tensor,
}

/// Cross-entropy of `hidden W` against labels: hidden `[rows, width]`, weight `[width, vocabulary]` (both f32 or both
/// bf16), labels i32 `[rows]`.
///
/// A label outside of the vocabulary is an error on the CPU. A GPU's labels are out of the host's sight: there it makes the
/// loss NaN.
#[track_caller]
pub fn linear_cross_entropy(
    tape: &mut Tape,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ignore: i32,
) -> Result<CrossEntropy> {
    let chunks = Chunks::new(tape.device(), hidden.dtype(), weight.shape().columns());
    let outputs = tape.push(LinearCrossEntropy { ignore, chunks }, &[hidden, weight, labels])?;
    Ok(CrossEntropy { loss: outputs[0], row_loss: outputs[1] })
}

/// Inputs hidden, weight, labels; outputs loss, row losses, scratch.
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropy {
    /// Rows with this label do not count.
    pub ignore: i32,
    /// Rows at a time.
    pub chunks: Chunks,
}

/// Inputs hidden, weight, labels and the gradient of the loss; outputs the gradients of hidden and weight, loss, row
/// losses; scratch: a row's share of the loss's gradient, logits, and for bf16 their gradients.
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropyBackward {
    /// Rows with this label do not count.
    pub ignore: i32,
    /// Rows at a time.
    pub chunks: Chunks,
    /// Storage type of the weight's gradient.
    pub weight_gradient: DType,
}

fn check(inputs: &[Meta]) -> Result<(usize, usize)> {
    let [hidden, weight, labels, ..] = inputs else { return Err(Error::invalid("expects hidden, weight and labels")) };
    let (rows, vocabulary) = (hidden.shape.rows(), weight.shape.columns());
    if hidden.shape.rank() != 2 || weight.shape.rank() != 2 || weight.shape.rows() != hidden.shape.columns() {
        return Err(Error::invalid("hidden must be [rows, width], the weight [width, vocabulary]"));
    }
    if hidden.dtype != weight.dtype || !hidden.dtype.is_float() || *labels != Meta::new([rows], DType::I32) {
        return Err(Error::invalid("hidden and weight must both be f32 or both bf16, the labels i32 [rows]"));
    }
    Ok((rows, vocabulary))
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let (rows, vocabulary) = check(inputs)?;
        self.chunks.check()?;
        let logits = Meta::new([rows.min(self.chunks.logits), vocabulary], DType::F32);
        Ok(vec![Meta::new([1], DType::F32), Meta::new([rows], DType::F32), logits])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::forward(cpu, self.ignore, self.chunks.logits, inputs, outputs),
            Queue::Cuda(queue) => cuda::forward(queue, self.ignore, inputs, outputs),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let [gradient, row_gradient, ..] = *gradients else { return Ok(()) };
        if row_gradient.is_some() {
            return Err(Error::invalid("only the mean loss has a gradient, not the row losses"));
        }
        let Some(gradient) = gradient else { return Ok(()) };
        let (hidden, weight, labels) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let op = LinearCrossEntropyBackward {
            ignore: self.ignore,
            chunks: self.chunks,
            weight_gradient: tape.gradient_dtype(weight),
        };
        let mut targets = vec![Target::Gradient(hidden), Target::Gradient(weight)];
        if tape.absorb(node) {
            targets.extend([Target::Replace(node.outputs[0]), Target::Replace(node.outputs[1])]);
        }
        tape.push_into(op, &[hidden, weight, labels, gradient], &targets).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let flops = 2.0 * inputs[0].elements() as f64 * inputs[1].shape.columns() as f64;
        Cost { flops, bytes: inputs.iter().map(Meta::bytes).sum::<usize>() as f64 }
    }

    fn rows_from(&self, output: usize) -> Option<usize> {
        (output == 1).then_some(0)
    }
}

impl Op for LinearCrossEntropyBackward {
    fn name(&self) -> &'static str {
        "linear_cross_entropy_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let (rows, vocabulary) = check(inputs)?;
        self.chunks.check()?;
        if !self.weight_gradient.is_float() {
            return Err(Error::invalid(format!("the weight's gradient is f32 or bf16, not {}", self.weight_gradient)));
        }
        let scratch = |rows_at_once: usize, dtype| Meta::new([rows.min(rows_at_once), vocabulary], dtype);
        let weight = Meta { shape: inputs[1].shape, dtype: self.weight_gradient };
        let [one, row_loss] = [Meta::new([1], DType::F32), Meta::new([rows], DType::F32)];
        let mut outputs = vec![inputs[0], weight, one, row_loss, one];
        match inputs[0].dtype {
            DType::BF16 => outputs.extend([
                scratch(self.chunks.logits, DType::F32),
                scratch(self.chunks.gradients, DType::BF16),
            ]),
            _ => outputs.push(scratch(self.chunks.gradients, DType::F32)),
        }
        Ok(outputs)
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::backward(cpu, self.ignore, self.chunks.logits, inputs, outputs),
            Queue::Cuda(queue) => cuda::backward(queue, self.ignore, inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let flops = 6.0 * inputs[0].elements() as f64 * inputs[1].shape.columns() as f64;
        let gradients = inputs[0].bytes() + inputs[1].elements() * 4;
        Cost { flops, bytes: (inputs.iter().map(Meta::bytes).sum::<usize>() + gradients) as f64 }
    }

    fn rows_from(&self, output: usize) -> Option<usize> {
        matches!(output, 0 | 3).then_some(0)
    }
}

impl LinearCrossEntropy {
    /// Probabilities of every row, losses of every row, and the number of rows that count.
    fn evaluate(&self, inputs: &[Array]) -> (Array, Vec<f64>, usize) {
        let (hidden, weight) = (&inputs[0], &inputs[1]);
        let (rows, vocabulary) = (hidden.shape.rows(), weight.shape.columns());
        let mut probabilities = Array::zeros([rows, vocabulary]);
        let mut losses = vec![0.0; rows];
        let mut count = 0;
        for row in 0..rows {
            let logits = probabilities.row_mut(row);
            for (k, x) in hidden.row(row).iter().enumerate() {
                logits.iter_mut().zip(weight.row(k)).for_each(|(logit, w)| *logit += x * w);
            }
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
            let label = inputs[2].data[row] as i32;
            if label != self.ignore {
                losses[row] = largest + sum.ln() - logits[label as usize];
                count += 1;
            }
            logits.iter_mut().for_each(|logit| *logit = (*logit - largest).exp() / sum);
        }
        (probabilities, losses, count)
    }
}

impl Reference for LinearCrossEntropy {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let (_, losses, count) = self.evaluate(inputs);
        let mean = losses.iter().sum::<f64>() / count.max(1) as f64;
        vec![Array::new([1], vec![mean]), Array::new([losses.len()], losses)]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let (probabilities, _, count) = self.evaluate(inputs);
        let (mut dhidden, mut dweight) = (Array::zeros(inputs[0].shape), Array::zeros(inputs[1].shape));
        let scale = outputs[0].data[0] / count.max(1) as f64;
        for row in 0..inputs[0].shape.rows() {
            let label = inputs[2].data[row] as i32;
            if label == self.ignore {
                continue;
            }
            for (column, probability) in probabilities.row(row).iter().enumerate() {
                let g = scale * (probability - f64::from(u8::from(column == label as usize)));
                for k in 0..inputs[1].shape.rows() {
                    dhidden.row_mut(row)[k] += g * inputs[1].row(k)[column];
                    dweight.row_mut(k)[column] += g * inputs[0].row(row)[k];
                }
            }
        }
        vec![Some(dhidden), Some(dweight), None]
    }

    fn element(&self, inputs: &[Array], output: usize, index: usize) -> Option<f64> {
        // The loss of a row needs no other row. The mean needs all; what follows is scratch.
        if output != 1 {
            return None;
        }
        let row = Array::new([1, inputs[0].shape.columns()], inputs[0].row(index).to_vec());
        let label = Array::new([1], vec![inputs[2].data[index]]);
        Some(self.evaluate(&[row, inputs[1].clone(), label]).1[0])
    }
}

fn case(rows: usize, width: usize, vocabulary: usize, labels: &[i32], dtype: DType, used: Option<usize>) -> Case {
    let chunks = Chunks::new(&Device::Cpu, dtype, vocabulary);
    case_in_chunks(rows, width, vocabulary, labels, dtype, used, chunks)
}

fn case_in_chunks(
    rows: usize,
    width: usize,
    vocabulary: usize,
    labels: &[i32],
    dtype: DType,
    used: Option<usize>,
    chunks: Chunks,
) -> Case {
    let op = LinearCrossEntropy { ignore: 0, chunks };
    let counting = labels[..used.unwrap_or(rows)].iter().filter(|&&label| label != op.ignore).count();
    let mut inputs = vec![
        Input::variable([rows, width], dtype),
        Input::parameter([width, vocabulary], dtype),
        Input::integers(labels),
    ];
    let mut shared: (Arc<dyn Op>, Arc<dyn Reference>) = (Arc::new(op), Arc::new(op));
    if let Some(used) = used {
        inputs[0] = inputs[0].clone().ragged(3);
        inputs[2] = inputs[2].clone().ragged(3);
        inputs.push(Input::integers(&[used as i32]));
        shared = (Arc::new(WithOffsets(op)), Arc::new(WithOffsets(op)));
    }
    Case {
        name: format!("linear_cross_entropy {dtype} {rows}x{width}x{vocabulary} {used:?} used"),
        op: shared.0,
        reference: shared.1,
        inputs,
        results: 1,
        // Logits have a deviation of sqrt(width); their f32 error enters the loss as it is.
        forward: Tolerance { roundings: 0.0, terms: 4.0 * (width + vocabulary) as f64, scale: (width as f64).sqrt() },
        // The gradients of a row's logits, which are rounded, sum up to no more than twice its share of the loss; the products
        // with weights of size 1 may cancel to much less.
        backward: Tolerance::sum_of(4 * (width + vocabulary + rows))
            .roundings(3.0)
            .scale((1.0 / counting.max(1) as f64).max(1e-2)),
        bench_only: false,
    }
}

/// The op with row offsets as a further input, which it does not read.
#[derive(Clone, Copy, Debug)]
struct WithOffsets(LinearCrossEntropy);

impl Op for WithOffsets {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        self.0.infer(&inputs[..3])
    }
    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        self.0.run(queue, &inputs[..3], outputs)
    }
    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        self.0.backward(tape, node, gradients)
    }
    fn cost(&self, inputs: &[Meta]) -> Cost {
        self.0.cost(&inputs[..3])
    }
    fn rows_from(&self, output: usize) -> Option<usize> {
        self.0.rows_from(output)
    }
}

impl Reference for WithOffsets {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        self.0.forward(&inputs[..3])
    }
    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        self.0.gradients(&inputs[..3], outputs)
    }
}

/// For benches of a GPU.
pub(crate) fn gpu_case(rows: usize, width: usize, vocabulary: usize) -> Case {
    let labels: Vec<i32> = (0..rows as i32).map(|row| row * 7 % vocabulary as i32).collect();
    let chunks = Chunks::on_gpu(DType::BF16, vocabulary);
    let case = case_in_chunks(rows, width, vocabulary, &labels, DType::BF16, None, chunks);
    Case { bench_only: true, ..case }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        cases.push(case(5, 19, 33, &[3, 0, 32, 1, 0], dtype, None));
        cases.push(case(3, 8, 9, &[0, 0, 0], dtype, None));
        cases.push(case(4, 8, 9, &[1, 2, 3, 4], dtype, Some(2)));
        cases.push(case(2, 8, 9, &[1, 2], dtype, Some(0)));
        // Several chunks, of which the last ones are shorter; of rows in use one and a half.
        let many: Vec<i32> = (0..75).map(|row| row % 11).collect();
        let chunks = Chunks { logits: 16, gradients: 40 };
        cases.push(case_in_chunks(many.len(), 6, 11, &many, dtype, None, chunks));
        cases.push(case_in_chunks(many.len(), 16, 24, &many, dtype, Some(60), chunks));
        // Rows that keep two warps busy.
        cases.push(case(2, 8, 520, &[519, 5], dtype, None));
        let labels: Vec<i32> = (0..600).map(|row| row * 7 % 49408).collect();
        cases.push(Case { bench_only: true, ..case(600, 512, 49408, &labels, dtype, None) });
    }
    cases
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let (rows, width, vocabulary) = (draw.integer(1, 20), draw.integer(1, 40), draw.integer(2, 70));
    let used = draw.flag().then(|| draw.integer(0, rows));
    let dtype = draw.float();
    let labels: Vec<i32> = (0..rows).map(|_| draw.integer(0, vocabulary - 1) as i32).collect();
    case(rows, width, vocabulary, &labels, dtype, used)
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_row_losses_are_computed_alone() {
        let case = &super::cases()[0];
        let values = case.values(1);
        assert!(case.reference.element(&values, 1, 0).is_some());
        // The mean, and scratch of any size.
        assert!([0, 2, 3].iter().all(|&output| case.reference.element(&values, output, 1 << 30).is_none()));
    }
}
