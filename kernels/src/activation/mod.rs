//! GELU (exact) and QuickGELU as ops of their own. In an MLP they are fused into the products beside them.

mod cpu;

use crate::elementwise::{self, cuda::Operation};
use crate::case::{BEYOND_CACHES, Array, Case, Draw, Fill, Input, Reference, Tolerance};
pub use crate::matmul::Activation;
use crate::simd::math::erf_f64;
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recompute, Recorded, Result, Tape, Target, Tensor, View};
use std::sync::Arc;

/// The activation of every element of an f32 or bf16 tensor.
#[track_caller]
pub fn activate(tape: &mut Tape, x: Tensor, kind: Activation) -> Result<Tensor> {
    Ok(tape.push(Activate(kind), &[x])?[0])
}

/// `y = activation(x)`.
#[derive(Clone, Copy, Debug)]
pub struct Activate(pub Activation);

/// `dx = dy · activation'(x)`; inputs x, dy.
#[derive(Clone, Copy, Debug)]
pub struct ActivationBackward(pub Activation);

impl Op for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [x] if x.dtype.is_float() => Ok(vec![*x]),
            _ => Err(Error::invalid("expects one f32 or bf16 tensor")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::run(cpu, self.0, &inputs[0], None, &mut outputs[0]),
            Queue::Cuda(cuda) => {
                elementwise::cuda::run(cuda, Operation::Activate(self.0), &inputs[0], None, &mut outputs[0])
            }
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let x = node.inputs[0];
        tape.push_into(ActivationBackward(self.0), &[x, gradient], &[Target::Gradient(x)]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let bytes = 2 * inputs.iter().map(Meta::bytes).sum::<usize>();
        Cost { flops: 20.0 * inputs.iter().map(Meta::elements).sum::<usize>() as f64, bytes: bytes as f64 }
    }

    fn recompute(&self) -> Recompute {
        Recompute::Cheap
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Op for ActivationBackward {
    fn name(&self) -> &'static str {
        "activation_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [x, dy] if x.dtype.is_float() && x == dy => Ok(vec![*x]),
            _ => Err(Error::invalid("expects x and dy, f32 or bf16, of one shape and dtype")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let (x, dy, dx) = (&inputs[0], Some(&inputs[1]), &mut outputs[0]);
        match queue {
            Queue::Cpu(cpu) => cpu::run(cpu, self.0, x, dy, dx),
            Queue::Cuda(cuda) => elementwise::cuda::run(cuda, Operation::ActivateBackward(self.0), x, dy, dx),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let bytes = inputs.iter().map(Meta::bytes).sum::<usize>() as f64;
        Cost { flops: 30.0 * inputs.first().map_or(0, Meta::elements) as f64, bytes: 1.5 * bytes }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

/// The activation in f64.
pub(crate) fn activate_f64(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Gelu => 0.5 * x * (1.0 + erf_f64(x / std::f64::consts::SQRT_2)),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// Its derivative in f64.
pub(crate) fn derivative_f64(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Gelu => {
            let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            0.5 * (1.0 + erf_f64(x / std::f64::consts::SQRT_2)) + x * density
        }
        Activation::QuickGelu => {
            let s = 1.0 / (1.0 + (-1.702 * x).exp());
            s + 1.702 * x * s * (1.0 - s)
        }
    }
}

impl Reference for Activate {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let x = &inputs[0];
        vec![Array::new(x.shape, x.data.iter().map(|&x| activate_f64(self.0, x)).collect())]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let slopes = inputs[0].data.iter().zip(&outputs[0].data).map(|(&x, dy)| dy * derivative_f64(self.0, x));
        vec![Some(Array::new(inputs[0].shape, slopes.collect()))]
    }
}

fn case(kind: Activation, rows: usize, columns: usize, dtype: DType) -> Case {
    Case {
        name: format!("{kind:?} {dtype}[{rows}, {columns}]"),
        op: Arc::new(Activate(kind)),
        reference: Arc::new(Activate(kind)),
        inputs: vec![Input::variable([rows, columns], dtype).fill(Fill::Normal(3.0))],
        results: 1,
        forward: Tolerance::sum_of(4),
        backward: Tolerance::sum_of(8),
        bench_only: false,
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for kind in [Activation::Gelu, Activation::QuickGelu] {
            cases.push(case(kind, 7, 45, dtype));
            cases.push(Case { bench_only: true, ..case(kind, 1600, 3072, dtype) });
        }
        let (rows, columns) = BEYOND_CACHES;
        cases.push(Case { bench_only: true, ..case(Activation::Gelu, rows, columns, dtype) });
    }
    cases
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let kind = draw.pick(&[Activation::Gelu, Activation::QuickGelu]);
    case(kind, draw.integer(1, 9), draw.integer(1, 70), draw.float())
}
