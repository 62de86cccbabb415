//! burn's ops on Flex, its backend for processors, in f32.

use crate::{Case, Framework, Op, Result, Run, label, values};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::activation::gelu;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData, module};

pub const BURN: Framework = Framework { name: "burn", version: env!("BURN"), ways: &[""], has, prepare };

/// The inputs of a case as they are made: with gradients where those are wanted.
struct Inputs {
    device: Device,
    backward: bool,
    made: u64,
}

impl Inputs {
    fn new<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(values(self.made, shape.iter().product()), shape);
        self.made += 1;
        let tensor = Tensor::from_data(data, &self.device);
        if self.backward { tensor.require_grad() } else { tensor }
    }

    fn labels(&self, rows: usize, classes: usize) -> Tensor<1, Int> {
        let labels: Vec<i64> = (0..rows).map(|row| label(row, classes) as i64).collect();
        Tensor::from_data(labels.as_slice(), &self.device)
    }

    /// What runs the case; `gradients` takes those of the inputs.
    fn run<const D: usize>(
        self,
        forward: impl Fn() -> Tensor<D> + Send + 'static,
        gradients: impl Fn(&Gradients) -> Vec<Option<Vec<f32>>> + Send + 'static,
    ) -> Box<dyn Run> {
        Box::new(Prepared { device: self.device, backward: self.backward, forward, gradients })
    }
}

struct Prepared<F, G> {
    device: Device,
    backward: bool,
    forward: F,
    gradients: G,
}

impl<const D: usize, F, G> Run for Prepared<F, G>
where
    F: Fn() -> Tensor<D> + Send,
    G: Fn(&Gradients) -> Vec<Option<Vec<f32>>> + Send,
{
    fn run(&mut self) -> Result<()> {
        let result = (self.forward)();
        if self.backward {
            result.backward();
        }
        Ok(self.device.sync()?)
    }

    fn results(&self) -> Result<Vec<Vec<f32>>> {
        let result = (self.forward)();
        let mut results = Vec::new();
        if self.backward {
            let gradients: Option<Vec<_>> = (self.gradients)(&result.backward()).into_iter().collect();
            results = gradients.ok_or("an input has no gradient")?;
        }
        results.insert(0, numbers(result));
        Ok(results)
    }
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn gradient<const D: usize>(gradients: &Gradients, input: &Tensor<D>) -> Option<Vec<f32>> {
    input.grad(gradients).map(numbers)
}

fn has(case: &Case, _: &str) -> bool {
    match case.op {
        // Flex lines up the last rows, not the first, where there are more keys than queries.
        Op::Attention { causal, queries, keys, .. } => !causal || queries == keys,
        _ => true,
    }
}

fn prepare(case: &Case, _: &str) -> Result<Box<dyn Run>> {
    let flex = Device::flex();
    let device = if case.backward { flex.autodiff() } else { flex };
    let mut inputs = Inputs { device, backward: case.backward, made: 0 };
    Ok(match case.op {
        Op::Product { m, n, k, a_transposed, b_transposed } => {
            let a = inputs.new(if a_transposed { [k, m] } else { [m, k] });
            let b = inputs.new(if b_transposed { [n, k] } else { [k, n] });
            let leaves = (a.clone(), b.clone());
            let turned = |x: &Tensor<2>, is: bool| if is { x.clone().transpose() } else { x.clone() };
            inputs.run(
                move || turned(&a, a_transposed).matmul(turned(&b, b_transposed)),
                move |gradients| vec![gradient(gradients, &leaves.0), gradient(gradients, &leaves.1)],
            )
        }
        Op::LayerNorm { rows, columns } => {
            let (x, weight, bias) = (inputs.new([rows, columns]), inputs.new([columns]), inputs.new([columns]));
            let leaves = (x.clone(), weight.clone(), bias.clone());
            inputs.run(
                move || module::layer_norm(x.clone(), weight.clone(), Some(bias.clone()), 1e-5),
                move |gradients| {
                    let [weight, bias] = [&leaves.1, &leaves.2].map(|input| gradient(gradients, input));
                    vec![gradient(gradients, &leaves.0), weight, bias]
                },
            )
        }
        Op::Gelu { elements } => {
            let x: Tensor<1> = inputs.new([elements]);
            let leaf = x.clone();
            inputs.run(move || gelu(x.clone()), move |gradients| vec![gradient(gradients, &leaf)])
        }
        Op::Attention { sequences, heads, queries, keys, head_dim, causal, shared_query } => {
            let q = inputs.new([if shared_query { 1 } else { sequences }, heads, queries, head_dim]);
            let [k, v] = [(); 2].map(|()| inputs.new([sequences, heads, keys, head_dim]));
            let leaves = [q.clone(), k.clone(), v.clone()];
            let options = AttentionModuleOptions { is_causal: causal, ..Default::default() };
            inputs.run(
                move || {
                    let q = q.clone().expand([sequences, heads, queries, head_dim]);
                    module::attention(q, k.clone(), v.clone(), None, None, options)
                },
                move |gradients| leaves.iter().map(|input| gradient(gradients, input)).collect(),
            )
        }
        Op::CrossEntropy { rows, classes, smoothing } => {
            let (logits, labels) = (inputs.new([rows, classes]), inputs.labels(rows, classes));
            let smoothing = Some(smoothing).filter(|&smoothing| smoothing > 0.0);
            let loss = CrossEntropyLossConfig::new().with_smoothing(smoothing).init(&inputs.device);
            let leaf = logits.clone();
            inputs.run(
                move || loss.forward(logits.clone(), labels.clone()),
                move |gradients| vec![gradient(gradients, &leaf)],
            )
        }
        Op::LinearCrossEntropy { rows, width, vocabulary } => {
            let (hidden, weight) = (inputs.new([rows, width]), inputs.new([width, vocabulary]));
            let labels = inputs.labels(rows, vocabulary);
            let loss = CrossEntropyLossConfig::new().init(&inputs.device);
            let leaves = [hidden.clone(), weight.clone()];
            inputs.run(
                move || loss.forward(hidden.clone().matmul(weight.clone()), labels.clone()),
                move |gradients| leaves.iter().map(|input| gradient(gradients, input)).collect(),
            )
        }
    })
}
