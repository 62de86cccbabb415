//! Symmetric InfoNCE between unit image and text features (Radford et al. 2021; CoCa's contrastive loss as open_clip
//! has it): with `S = exp(logit_scale) · I Tᵀ`, the mean of the cross-entropies of rows and of columns to the diagonal.
//!
//! The `[batch, batch]` matrix is never stored, log-sum-exps are kept. The CPU computes it in blocks that stay in its caches,
//! twice forward (once for rows, once for columns) and twice backward (once for each side); a GPU once each, some rows at a
//! time.

mod cpu;
pub(crate) mod cuda;

use crate::case::{Array, Case, Draw, Fill, Input, Reference, Tolerance};
use engine::{Cost, DType, Device, Error, Meta, Op, Out, Queue, Recorded, Result, Tape, Target, Tensor, View};
use std::sync::Arc;

/// Rows of a block: the unit of parallel work, so that results do not depend on the number of threads.
pub(crate) const BLOCK: usize = 64;

/// Rows of similarities that exist at the same time: on a GPU 64 MB, and as many as keep its multiprocessors busy while
/// they are multiplied with features; on the CPU, which needs none, one. Sums over rows are added up chunk by chunk, so the
/// last bits depend on it.
fn chunk(device: &Device, batch: usize) -> usize {
    const LEAST: usize = 128;
    match device {
        Device::Cpu => 1,
        Device::Cuda(_) => ((64 << 20) / (4 * batch.max(1)) / LEAST * LEAST).max(LEAST),
    }
}

/// The loss, f32 `[1]`: image and text features f32 `[batch, width]`, logit_scale f32 of one element (the logarithm of
/// the inverse temperature).
#[track_caller]
pub fn contrastive(tape: &mut Tape, image: Tensor, text: Tensor, logit_scale: Tensor) -> Result<Tensor> {
    let op = Contrastive { chunk: chunk(tape.device(), image.shape().rows()) };
    Ok(tape.push(op, &[image, text, logit_scale])?[0])
}

/// Inputs image, text, logit_scale; outputs loss, log-sum-exp of rows and of columns (f32 `[batch]`); scratch of a GPU:
/// similarities of a chunk, and the diagonal and the running log-sum-exps of columns.
#[derive(Clone, Copy, Debug)]
pub struct Contrastive {
    /// Rows of similarities that a GPU has at the same time; the CPU needs none.
    pub chunk: usize,
}

/// Inputs image, text, logit_scale, both log-sum-exps, gradient of the loss; outputs the gradients of the first three;
/// scratch: sums for the last, and similarities of a chunk on a GPU.
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveBackward {
    /// As in [`Contrastive`].
    pub chunk: usize,
}

/// Similarities of a chunk.
fn similarities(features: Meta, chunk: usize) -> Result<Meta> {
    let batch = features.shape.rows();
    if chunk == 0 {
        return Err(Error::invalid("a chunk has at least one row"));
    }
    Ok(Meta::new([batch.min(chunk).max(1), batch], DType::F32))
}

fn check(inputs: &[Meta]) -> Result<Meta> {
    match inputs {
        [image, text, scale, ..]
            if image == text
                && image.dtype == DType::F32
                && image.shape.rank() == 2
                && scale.dtype == DType::F32
                && scale.elements() == 1 =>
        {
            Ok(*image)
        }
        _ => Err(Error::invalid("expects f32 image and text features [batch, width] and one f32 logit_scale")),
    }
}

impl Op for Contrastive {
    fn name(&self) -> &'static str {
        "contrastive"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let features = check(inputs)?;
        let batch = features.shape.rows();
        let [statistic, statistics] = [Meta::new([batch], DType::F32), Meta::new([3, batch], DType::F32)];
        let similarities = similarities(features, self.chunk)?;
        Ok(vec![Meta::new([1], DType::F32), statistic, statistic, similarities, statistics])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::forward(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::forward(queue, inputs, outputs),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let targets: Vec<Target> = node.inputs.iter().map(|&input| Target::Gradient(input)).collect();
        let inputs: Vec<Tensor> =
            node.inputs.iter().copied().chain([node.outputs[1], node.outputs[2], gradient]).collect();
        tape.push_into(ContrastiveBackward { chunk: self.chunk }, &inputs, &targets).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let batch = inputs[0].shape.rows() as f64;
        Cost { flops: 4.0 * batch * inputs[0].elements() as f64, bytes: 2.0 * inputs[0].bytes() as f64 }
    }
}

impl Op for ContrastiveBackward {
    fn name(&self) -> &'static str {
        "contrastive_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let features = check(inputs)?;
        // A sum for each block of rows on the CPU, for each row on a GPU.
        let sums = Meta::new([features.shape.rows().max(1)], DType::F32);
        Ok(vec![features, features, inputs[2], sums, similarities(features, self.chunk)?])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::backward(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::backward(queue, inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let batch = inputs[0].shape.rows() as f64;
        Cost { flops: 8.0 * batch * inputs[0].elements() as f64, bytes: 4.0 * inputs[0].bytes() as f64 }
    }
}

/// Similarities times the scale, and their log-sum-exps by row and by column.
fn evaluate(inputs: &[Array]) -> (Array, Vec<f64>, Vec<f64>) {
    let batch = inputs[0].shape.rows();
    let scale = inputs[2].data[0].exp();
    let mut s = Array::zeros([batch, batch]);
    for (i, j) in (0..batch).flat_map(|i| (0..batch).map(move |j| (i, j))) {
        let dot: f64 = inputs[0].row(i).iter().zip(inputs[1].row(j)).map(|(a, b)| a * b).sum();
        s.row_mut(i)[j] = scale * dot;
    }
    let log_sum_exp = |values: Vec<f64>| {
        let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + values.iter().map(|value| (value - largest).exp()).sum::<f64>().ln()
    };
    let rows = (0..batch).map(|i| log_sum_exp(s.row(i).to_vec())).collect();
    let columns = (0..batch).map(|j| log_sum_exp((0..batch).map(|i| s.row(i)[j]).collect())).collect();
    (s, rows, columns)
}

impl Reference for Contrastive {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let (s, rows, columns) = evaluate(inputs);
        let batch = rows.len();
        let loss: f64 = (0..batch).map(|i| rows[i] + columns[i] - 2.0 * s.row(i)[i]).sum();
        let loss = Array::new([1], vec![0.5 * loss / batch as f64]);
        vec![loss, Array::new([batch], rows), Array::new([batch], columns)]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let (s, rows, columns) = evaluate(inputs);
        let batch = rows.len();
        let (mut dimage, mut dtext) = (Array::zeros(inputs[0].shape), Array::zeros(inputs[1].shape));
        let mut dscale = 0.0;
        let scale = inputs[2].data[0].exp();
        for (i, j) in (0..batch).flat_map(|i| (0..batch).map(move |j| (i, j))) {
            let value = s.row(i)[j];
            let target = if i == j { 2.0 } else { 0.0 };
            let g = (value - rows[i]).exp() + (value - columns[j]).exp() - target;
            let g = g * outputs[0].data[0] * 0.5 / batch as f64;
            dscale += g * value;
            for k in 0..inputs[0].shape.columns() {
                dimage.row_mut(i)[k] += g * scale * inputs[1].row(j)[k];
                dtext.row_mut(j)[k] += g * scale * inputs[0].row(i)[k];
            }
        }
        vec![Some(dimage), Some(dtext), Some(Array::new(inputs[2].shape, vec![dscale]))]
    }
}

fn case(batch: usize, width: usize, scale: f64, chunk: usize) -> Case {
    let op = Contrastive { chunk };
    // Rows of about unit length.
    let features = || Input::variable([batch, width], DType::F32).fill(Fill::Normal((width as f64).powf(-0.5)));
    let logit = scale.exp();
    Case {
        name: format!("contrastive {batch}x{width} scale {logit:.1}"),
        op: Arc::new(op),
        reference: Arc::new(op),
        inputs: vec![
            features(),
            features(),
            Input::parameter([1], DType::F32).fill(Fill::Values(vec![scale])),
        ],
        results: 1,
        // A logit of size `scale` carries an error of width roundings of that size, and the exponent keeps it.
        forward: Tolerance { roundings: 0.0, terms: (width + batch) as f64 + 16.0, scale: 4.0 * logit },
        backward: Tolerance { roundings: 0.0, terms: 4.0 * (width + batch) as f64 + 32.0, scale: 2.0 * logit * logit },
        bench_only: false,
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    vec![
        case(1, 5, 0.0, 4),
        case(7, 33, 2.659, 8),
        case(BLOCK + 9, 16, 1.0, 32),
        case(64, 8, 2.0, 40),
        case(cpu::COLUMNS + 9, 4, 1.0, 600),
        Case { bench_only: true, ..case(1024, 512, 4.6, 1024) },
    ]
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    case(draw.integer(1, 90), draw.integer(1, 40), draw.pick(&[0.0, 1.0, 2.659]), draw.integer(20, 100))
}
