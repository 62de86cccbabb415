//! candle's ops, in f32. Attention has two ways: products and softmax, and the fused kernel, which has no gradient.

use crate::{Case, Framework, Op, Run, label, values};
use candle_core::backprop::GradStore;
use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::attention::{AttnMask, flash_attn};

pub const CANDLE: Framework = Framework { name: "candle", version: env!("CANDLE"), ways: &["", FLASH], has, prepare };

const FLASH: &str = "flash";

type Forward = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Send>;

struct Prepared {
    inputs: Vec<Tensor>,
    backward: bool,
    forward: Forward,
}

impl Prepared {
    fn once(&self) -> Result<(Tensor, Option<GradStore>)> {
        let result = (self.forward)(&self.inputs)?;
        let gradients = self.backward.then(|| result.backward()).transpose()?;
        Ok((result, gradients))
    }
}

impl Run for Prepared {
    fn run(&mut self) -> crate::Result<()> {
        Ok(self.once().map(drop)?)
    }

    fn results(&self) -> crate::Result<Vec<Vec<f32>>> {
        let (result, gradients) = self.once()?;
        let mut tensors = vec![result];
        if let Some(gradients) = gradients {
            for input in &self.inputs {
                tensors.push(gradients.get(input).ok_or("an input has no gradient")?.clone());
            }
        }
        Ok(tensors.iter().map(|tensor| tensor.flatten_all()?.to_vec1()).collect::<Result<_>>()?)
    }
}

fn has(case: &Case, way: &str) -> bool {
    match case.op {
        // The fused kernel lines up the last rows, not the first, where there are more keys than queries.
        Op::Attention { causal, queries, keys, .. } if way == FLASH => !case.backward && (!causal || queries == keys),
        Op::CrossEntropy { smoothing, .. } => way.is_empty() && smoothing == 0.0,
        _ => way.is_empty(),
    }
}

fn prepare(case: &Case, way: &str) -> crate::Result<Box<dyn Run>> {
    let backward = case.backward;
    let (shapes, forward): (Vec<Vec<usize>>, Forward) = match case.op {
        Op::Product { m, n, k, a_transposed, b_transposed } => {
            let a = if a_transposed { vec![k, m] } else { vec![m, k] };
            let b = if b_transposed { vec![n, k] } else { vec![k, n] };
            let turned = |x: &Tensor, is: bool| if is { x.t() } else { Ok(x.clone()) };
            let forward = move |x: &[Tensor]| turned(&x[0], a_transposed)?.matmul(&turned(&x[1], b_transposed)?);
            (vec![a, b], Box::new(forward))
        }
        Op::LayerNorm { rows, columns } => {
            // The fused kernel has no gradient.
            let norm = if backward { candle_nn::ops::layer_norm_slow } else { candle_nn::ops::layer_norm };
            let forward = move |x: &[Tensor]| norm(&x[0], &x[1], &x[2], 1e-5);
            (vec![vec![rows, columns], vec![columns], vec![columns]], Box::new(forward))
        }
        Op::Gelu { elements } => (vec![vec![elements]], Box::new(|x: &[Tensor]| x[0].gelu_erf())),
        Op::Attention { .. } => attention(case, way)?,
        Op::CrossEntropy { rows, classes, .. } => {
            let labels = labels(rows, classes)?;
            let forward = move |x: &[Tensor]| candle_nn::loss::cross_entropy(&x[0], &labels);
            (vec![vec![rows, classes]], Box::new(forward))
        }
        Op::LinearCrossEntropy { rows, width, vocabulary } => {
            let labels = labels(rows, vocabulary)?;
            let forward = move |x: &[Tensor]| candle_nn::loss::cross_entropy(&x[0].matmul(&x[1])?, &labels);
            (vec![vec![rows, width], vec![width, vocabulary]], Box::new(forward))
        }
    };
    let new = |(number, shape): (usize, &Vec<usize>)| -> Result<Tensor> {
        let tensor = Tensor::from_vec(values(number as u64, shape.iter().product()), &shape[..], &Device::Cpu)?;
        if backward { Ok(Var::from_tensor(&tensor)?.into_inner()) } else { Ok(tensor) }
    };
    let mut inputs = shapes.iter().enumerate().map(new).collect::<Result<Vec<_>>>()?;
    if way == FLASH {
        // Heads inside of sequences, as the kernel reads them.
        inputs = inputs.iter().map(|input| input.transpose(1, 2)?.contiguous()).collect::<Result<_>>()?;
    }
    Ok(Box::new(Prepared { inputs, backward, forward }))
}

fn attention(case: &Case, way: &str) -> Result<(Vec<Vec<usize>>, Forward)> {
    let Op::Attention { sequences, heads, queries, keys, head_dim, causal, shared_query } = case.op else {
        candle_core::bail!("no attention")
    };
    let scale = 1.0 / (head_dim as f64).sqrt();
    let of_keys = vec![sequences, heads, keys, head_dim];
    let shapes =
        vec![vec![if shared_query { 1 } else { sequences }, heads, queries, head_dim], of_keys.clone(), of_keys];
    if way == FLASH {
        let forward = move |x: &[Tensor]| {
            let q = x[0].broadcast_as((sequences, queries, heads, head_dim))?;
            let mask = if causal { AttnMask::causal() } else { AttnMask::None };
            flash_attn::<f32>(&q, &x[1], &x[2], scale as f32, mask, None, None)
        };
        return Ok((shapes, Box::new(forward)));
    }
    let hidden = |at: usize| if at % keys > at / keys { f32::NEG_INFINITY } else { 0.0 };
    let mask = match causal {
        true => Some(Tensor::from_vec((0..queries * keys).map(hidden).collect(), (queries, keys), &Device::Cpu)?),
        false => None,
    };
    let backward = case.backward;
    let forward = move |x: &[Tensor]| {
        // Products take no batch that is broadcast in one of two dimensions.
        let q = (&x[0] * scale)?.broadcast_as((sequences, heads, queries, head_dim))?.contiguous()?;
        let mut scores = q.matmul(&x[1].t()?)?;
        if let Some(mask) = &mask {
            scores = scores.broadcast_add(mask)?;
        }
        // The fused kernel has no gradient.
        let shares = match backward {
            true => candle_nn::ops::softmax(&scores, D::Minus1)?,
            false => candle_nn::ops::softmax_last_dim(&scores)?,
        };
        shares.matmul(&x[2])
    };
    Ok((shapes, Box::new(forward)))
}

fn labels(rows: usize, classes: usize) -> Result<Tensor> {
    Tensor::from_vec((0..rows).map(|row| label(row, classes) as u32).collect(), rows, &Device::Cpu)
}
