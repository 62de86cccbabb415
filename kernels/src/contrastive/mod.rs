//! Symmetric InfoNCE between unit image and text features (Radford et al. 2021; CoCa's contrastive loss as open_clip
//! has it): with `S = exp(logit_scale) · I Tᵀ`, the mean of the cross-entropies of rows and of columns to the diagonal.
//!
//! The `[batch, batch]` matrix is computed in blocks, twice forward (once for rows, once for columns) and twice backward
//! (once for each side), and never stored. Log-sum-exps are kept.

mod cpu;

use crate::case::{Array, Case, Draw, Fill, Input, Reference, Tolerance};
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Tape, Target, Tensor, View};
use std::sync::Arc;

/// Rows of a block: the unit of parallel work, so that results do not depend on the number of threads.
pub(crate) const BLOCK: usize = 64;

/// The loss, f32 `[1]`: image and text features f32 `[batch, width]`, logit_scale f32 of one element (the logarithm of
/// the inverse temperature).
#[track_caller]
pub fn contrastive(tape: &mut Tape, image: Tensor, text: Tensor, logit_scale: Tensor) -> Result<Tensor> {
    Ok(tape.push(Contrastive, &[image, text, logit_scale])?[0])
}

/// Inputs image, text, logit_scale; outputs loss, log-sum-exp of rows and of columns (f32 `[batch]`).
#[derive(Clone, Copy, Debug)]
pub struct Contrastive;

/// Inputs image, text, logit_scale, both log-sum-exps, gradient of the loss; outputs the gradients of the first three,
/// scratch.
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveBackward;

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
        let batch = Meta::new([check(inputs)?.shape.rows()], DType::F32);
        Ok(vec![Meta::new([1], DType::F32), batch, batch])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let cpu = queue.cpu(self.name())?;
        cpu::forward(cpu, inputs, outputs)
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let targets: Vec<Target> = node.inputs.iter().map(|&input| Target::Gradient(input)).collect();
        let inputs: Vec<Tensor> =
            node.inputs.iter().copied().chain([node.outputs[1], node.outputs[2], gradient]).collect();
        tape.push_into(ContrastiveBackward, &inputs, &targets).map(|_| ())
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
        let blocks = features.shape.rows().div_ceil(BLOCK).max(1);
        Ok(vec![features, features, inputs[2], Meta::new([blocks], DType::F32)])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let cpu = queue.cpu(self.name())?;
        cpu::backward(cpu, inputs, outputs)
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

fn case(batch: usize, width: usize, scale: f64) -> Case {
    // Rows of about unit length.
    let features = || Input::variable([batch, width], DType::F32).fill(Fill::Normal((width as f64).powf(-0.5)));
    let logit = scale.exp();
    Case {
        name: format!("contrastive {batch}x{width} scale {logit:.1}"),
        op: Arc::new(Contrastive),
        reference: Arc::new(Contrastive),
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
        case(1, 5, 0.0),
        case(7, 33, 2.659),
        case(BLOCK + 9, 16, 1.0),
        case(cpu::COLUMNS + 9, 4, 1.0),
        Case { bench_only: true, ..case(1024, 512, 4.6) },
    ]
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    case(draw.integer(1, 90), draw.integer(1, 40), draw.pick(&[0.0, 1.0, 2.659]))
}
