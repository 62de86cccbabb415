//! Matrix multiplication with fused epilogues, and the column sums that are a bias's gradient.
//!
//! Three storage orders: `Nn` A `[m, k]` · B `[k, n]`; `Nt` A `[m, k]` · B `[n, k]` (a linear layer with `[out, in]`
//! weights); `Tn` A `[k, m]` · B `[k, n]` (a weight's gradient). Leading dimensions of A (and of both in `Tn`) are rows.
//! Accumulation is f32 whatever the storage.

mod ahead;
mod cases;
mod column_sum;
mod cpu;
pub(crate) mod cuda;
mod epilogue;
mod first;
pub(crate) mod gemm;
mod micro;
mod pack;
mod skinny;

pub(crate) use cases::gpu_cases;
pub use cases::{bench_case, cases, draw};
pub use column_sum::ColumnSum;
pub(crate) use cpu::{Operand, multiply, multiply_here};
pub(crate) use cuda::Matrix;
pub use epilogue::Activation;
pub use gemm::panel_bytes;
pub(crate) use pack::{Source, pack_whole, words};

use crate::activation::{Activate, ActivationBackward};
use crate::elementwise::{cast, pass_gradient};
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Shape, Tape, Target, Tensor, View};
use std::sync::Arc;

/// Storage orders of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A `[m, k]`, B `[k, n]`.
    Nn,
    /// A `[m, k]`, B `[n, k]`.
    Nt,
    /// A `[k, m]`, B `[k, n]`.
    Tn,
}

/// `x W^T (+ bias)`: x `[rows…, in]`, weight `[out, in]`, bias f32 `[out]`.
#[track_caller]
pub fn linear(tape: &mut Tape, x: Tensor, weight: Tensor, bias: Option<Tensor>) -> Result<Tensor> {
    push(tape, Matmul { bias: bias.is_some(), ..Matmul::new(Layout::Nt, x.dtype()) }, x, weight, bias, None, None)
}

/// As [`linear`], with an f32 result whatever the dtype of x.
#[track_caller]
pub fn linear_f32(tape: &mut Tape, x: Tensor, weight: Tensor, bias: Tensor) -> Result<Tensor> {
    push(tape, Matmul { bias: true, ..Matmul::new(Layout::Nt, DType::F32) }, x, weight, Some(bias), None, None)
}

/// `x W`: x `[rows…, in]`, weight `[in, out]`.
#[track_caller]
pub fn project(tape: &mut Tape, x: Tensor, weight: Tensor) -> Result<Tensor> {
    push(tape, Matmul::new(Layout::Nn, x.dtype()), x, weight, None, None, None)
}

/// As [`project`], with an f32 result whatever the dtype of x.
#[track_caller]
pub fn project_f32(tape: &mut Tape, x: Tensor, weight: Tensor) -> Result<Tensor> {
    push(tape, Matmul::new(Layout::Nn, DType::F32), x, weight, None, None, None)
}

/// `x W^T + bias + residual`, all of the residual's shape.
#[track_caller]
pub fn linear_residual(tape: &mut Tape, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Result<Tensor> {
    let op = Matmul { bias: true, residual: true, ..Matmul::new(Layout::Nt, x.dtype()) };
    push(tape, op, x, weight, Some(bias), Some(residual), None)
}

/// `residual + fc2(activation(fc1(x)))`: weights `[hidden, width]` and `[width, hidden]`. The activation and its
/// backward are fused into the products beside them; only the pre-activation and the activation are stored.
#[track_caller]
pub fn mlp_residual(
    tape: &mut Tape,
    x: Tensor,
    (weight1, bias1): (Tensor, Tensor),
    (weight2, bias2): (Tensor, Tensor),
    residual: Tensor,
    activation: Activation,
) -> Result<Tensor> {
    let op = Matmul { bias: true, activation: Some(activation), ..Matmul::new(Layout::Nt, x.dtype()) };
    let hidden = tape.push(op, &[x, weight1, bias1])?;
    let op = Matmul {
        bias: true,
        residual: true,
        activated_input: Some(activation),
        ..Matmul::new(Layout::Nt, x.dtype())
    };
    push(tape, op, hidden[0], weight2, Some(bias2), Some(residual), Some(hidden[1]))
}

#[track_caller]
fn push(
    tape: &mut Tape,
    op: Matmul,
    a: Tensor,
    b: Tensor,
    bias: Option<Tensor>,
    residual: Option<Tensor>,
    pre_activation: Option<Tensor>,
) -> Result<Tensor> {
    let inputs: Vec<Tensor> = [Some(a), Some(b), bias, residual, pre_activation].into_iter().flatten().collect();
    Ok(tape.push(op, &inputs)?[0])
}

/// The op. Inputs: a, b, then those of bias, residual and pre-activation that its fields ask for.
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    /// Storage orders.
    pub layout: Layout,
    /// Storage type of the result.
    pub output: DType,
    /// Adds an f32 `[n]` to every row.
    pub bias: bool,
    /// Applies this after the bias; the value before it is a second output.
    pub activation: Option<Activation>,
    /// Adds a tensor of the result's shape and dtype, last.
    pub residual: bool,
    /// Multiplies by the activation's derivative at the pre-activation input.
    pub activation_backward: Option<Activation>,
    /// Input a is this activation of the pre-activation input; the gradient goes to the latter, fused.
    pub activated_input: Option<Activation>,
}

/// The inputs of a [`Matmul`] by role.
struct Roles<T> {
    a: T,
    b: T,
    bias: Option<T>,
    residual: Option<T>,
    pre_activation: Option<T>,
}

/// Sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

impl Matmul {
    /// A plain product.
    pub fn new(layout: Layout, output: DType) -> Matmul {
        Matmul {
            layout,
            output,
            bias: false,
            activation: None,
            residual: false,
            activation_backward: None,
            activated_input: None,
        }
    }

    fn roles<T: Copy>(&self, inputs: &[T]) -> Result<Roles<T>> {
        let needs_pre_activation = self.activation_backward.is_some() || self.activated_input.is_some();
        let wanted = 2 + usize::from(self.bias) + usize::from(self.residual) + usize::from(needs_pre_activation);
        if inputs.len() != wanted {
            return Err(Error::invalid(format!("expects {wanted} inputs for these fields, got {}", inputs.len())));
        }
        let mut rest = inputs[2..].iter().copied();
        let mut take = |wanted: bool| if wanted { rest.next() } else { None };
        Ok(Roles {
            a: inputs[0],
            b: inputs[1],
            bias: take(self.bias),
            residual: take(self.residual),
            pre_activation: take(needs_pre_activation),
        })
    }

    pub(crate) fn sizes(&self, a: Shape, b: Shape) -> Result<Sizes> {
        let (sizes, other) = match self.layout {
            Layout::Nn => (Sizes { m: a.rows(), n: b.columns(), k: a.columns() }, b.rows()),
            Layout::Nt => (Sizes { m: a.rows(), n: b.rows(), k: a.columns() }, b.columns()),
            Layout::Tn => (Sizes { m: a.columns(), n: b.columns(), k: a.rows() }, b.rows()),
        };
        if other != sizes.k {
            let layout = self.layout;
            return Err(Error::invalid(format!("the shared dimension is {} in a and {other} in b ({layout:?})", sizes.k)));
        }
        Ok(sizes)
    }

    fn output_shape(&self, a: Shape, sizes: Sizes) -> Result<Shape> {
        let mut dims = match self.layout {
            Layout::Tn => vec![sizes.m],
            _ => a.dims()[..a.rank().saturating_sub(1)].to_vec(),
        };
        dims.push(sizes.n);
        Shape::new(&dims)
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        match (self.layout, self.activation, self.activation_backward, self.residual) {
            (Layout::Nn, _, Some(_), _) => "matmul_nn_gelu_backward",
            (Layout::Nn, ..) => "matmul_nn",
            (Layout::Nt, Some(_), ..) => "matmul_nt_gelu",
            (Layout::Nt, _, _, true) => "matmul_nt_residual",
            (Layout::Nt, ..) => "matmul_nt",
            (Layout::Tn, ..) => "matmul_tn",
        }
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        if self.activation.is_some() && self.residual {
            return Err(Error::invalid("a product has an activation or a residual, not both"));
        }
        let roles = self.roles(inputs)?;
        let (a, b) = (roles.a, roles.b);
        if a.dtype != b.dtype || !a.dtype.is_float() || !self.output.is_float() {
            return Err(Error::invalid("a and b must both be f32 or both bf16, the result f32 or bf16"));
        }
        if a.shape.rank() < 2 || b.shape.rank() < 2 {
            return Err(Error::invalid("a and b need at least two dimensions"));
        }
        let sizes = self.sizes(a.shape, b.shape)?;
        let output = Meta { shape: self.output_shape(a.shape, sizes)?, dtype: self.output };
        if let Some(bias) = roles.bias
            && bias != Meta::new([sizes.n], DType::F32)
        {
            return Err(Error::invalid(format!("the bias is {bias}, should be f32[{}]", sizes.n)));
        }
        let side = if self.activated_input.is_some() { None } else { roles.pre_activation };
        for (name, side) in [("residual", roles.residual), ("pre-activation", side)] {
            if let Some(side) = side
                && (side.elements() != output.elements() || side.dtype != output.dtype)
            {
                return Err(Error::invalid(format!("the {name} is {side}, the result {output}: they must agree")));
            }
        }
        if let (Some(_), Some(pre_activation)) = (self.activated_input, roles.pre_activation)
            && pre_activation != a
        {
            return Err(Error::invalid(format!("the pre-activation is {pre_activation}, its activation {a}")));
        }
        Ok(if self.activation.is_some() { vec![output, output] } else { vec![output] })
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::run(self, cpu, self.roles(inputs)?, outputs),
            Queue::Cuda(queue) => cuda::run(self, queue, self.roles(inputs)?, outputs),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        if self.activation_backward.is_some() {
            return Err(Error::invalid("a product with a fused GELU backward cannot be differentiated again"));
        }
        let roles = self.roles(&node.inputs)?;
        let gradient = match (self.activation, gradients) {
            (None, &[gradient]) => gradient,
            (Some(kind), &[activated, direct]) => {
                let pre_activation = node.outputs[1];
                if let Some(activated) = activated {
                    let target = Target::Gradient(pre_activation);
                    tape.push_into(ActivationBackward(kind), &[pre_activation, activated], &[target])?;
                }
                // The activation may have just made the first contribution.
                if activated.is_some() { tape.gradient(pre_activation)? } else { direct }
            }
            _ => None,
        };
        let Some(gradient) = gradient else { return Ok(()) };
        if let Some(bias) = roles.bias {
            tape.push_into(ColumnSum, &[gradient], &[Target::Gradient(bias)])?;
        }
        let (a, b) = (roles.a, roles.b);
        // An f32 result of bf16 operands: the products below are in the operands' type.
        let wide = gradient;
        let gradient = cast(tape, gradient, a.dtype())?;
        if tape.needs_gradient(b) {
            let (layout, x, y) = match self.layout {
                Layout::Nn => (Layout::Tn, a, gradient),
                Layout::Nt => (Layout::Tn, gradient, a),
                Layout::Tn => (Layout::Nn, a, gradient),
            };
            let op = Matmul::new(layout, tape.gradient_dtype(b));
            tape.push_into(op, &[x, y], &[Target::Gradient(b)])?;
        }
        let towards_a = roles.pre_activation.unwrap_or(a);
        if tape.needs_gradient(towards_a) {
            let (layout, x, y) = match self.layout {
                Layout::Nn => (Layout::Nt, gradient, b),
                Layout::Nt => (Layout::Nn, gradient, b),
                Layout::Tn => (Layout::Nt, b, gradient),
            };
            let op = Matmul {
                activation_backward: self.activated_input,
                ..Matmul::new(layout, tape.gradient_dtype(towards_a))
            };
            let inputs: Vec<Tensor> = [Some(x), Some(y), roles.pre_activation].into_iter().flatten().collect();
            tape.push_into(op, &inputs, &[Target::Gradient(towards_a)])?;
        }
        match roles.residual {
            Some(residual) => pass_gradient(tape, residual, wide),
            None => Ok(()),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let (Some(a), Some(b)) = (inputs.first(), inputs.get(1)) else { return Cost::default() };
        let Ok(Sizes { m, n, k }) = self.sizes(a.shape, b.shape) else { return Cost::default() };
        let read: usize = inputs.iter().map(Meta::bytes).sum();
        let written = m * n * self.output.size() * if self.activation.is_some() { 2 } else { 1 };
        Cost { flops: 2.0 * m as f64 * n as f64 * k as f64, bytes: (read + written) as f64 }
    }

    fn remake(&self, output: usize) -> Option<(usize, Arc<dyn Op>)> {
        match self.activation {
            Some(kind) if output == 0 => Some((1, Arc::new(Activate(kind)))),
            _ => None,
        }
    }

    fn in_place(&self) -> &[(usize, usize)] {
        match (self.residual, self.bias) {
            (true, true) => &[(0, 3)],
            (true, false) => &[(0, 2)],
            _ => &[],
        }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        (self.layout != Layout::Tn).then_some(0)
    }
}
