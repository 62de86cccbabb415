//! From views to the blocked driver.

use super::epilogue::{Activation, Epilogue, Side, Target};
use super::gemm::{Gemm, gemm, gemm_here};
use super::pack::Source;
use super::{Layout, Matmul, Roles, Sizes};
use engine::cpu::Isa;
use engine::{CpuQueue, DType, Out, Result, View};
use std::marker::PhantomData;

/// A matrix operand in memory, for products inside other kernels.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub pointer: *const u8,
    /// Elements from one row in memory to the next.
    pub stride: usize,
    pub is_bf16: bool,
}

pub(super) fn run(op: &Matmul, queue: &CpuQueue, roles: Roles<View<'_>>, outputs: &mut [Out<'_>]) -> Result<()> {
    let sizes = op.sizes(roles.a.shape(), roles.b.shape())?;
    if sizes.m == 0 || sizes.n == 0 {
        return Ok(());
    }
    let operand = |view: &View<'_>| Operand {
        pointer: view.pointer(),
        stride: view.shape().columns(),
        is_bf16: view.meta().dtype == DType::BF16,
    };
    let (a, b) = sources(op.layout, operand(&roles.a), operand(&roles.b));
    let side = |pointer: *mut u8| Side { pointer, stride: sizes.n, lifetime: PhantomData };
    let (result, kept) = outputs.split_at_mut(1);
    let activate = op.activation.zip(kept.first_mut().map(|kept| side(kept.pointer())));
    let pre_activation = roles.pre_activation.map(|view| side(view.pointer().cast_mut()));
    let activation_backward: Option<(Activation, Side)> = op.activation_backward.zip(pre_activation);
    let epilogue = Epilogue {
        bias: roles.bias.map(|bias| bias.slice::<f32>()).transpose()?,
        activate,
        activation_backward,
        residual: roles.residual.map(|view| side(view.pointer().cast_mut())),
    };
    let target = Target {
        pointer: result[0].pointer(),
        stride: sizes.n,
        is_bf16: result[0].meta().dtype == DType::BF16,
        accumulate: result[0].accumulates(),
        alpha: 1.0,
        lifetime: PhantomData,
    };
    gemm(queue, &Gemm { m: sizes.m, n: sizes.n, k: sizes.k, a, b, target, epilogue });
    Ok(())
}

fn sources(layout: Layout, a: Operand, b: Operand) -> (Source, Source) {
    let source = |Operand { pointer, stride, is_bf16 }: Operand, k_contiguous: bool| Source {
        pointer,
        stride,
        is_bf16,
        k_contiguous,
    };
    (source(a, layout != Layout::Tn), source(b, layout == Layout::Nt))
}

/// `C = alpha A · B`, or `C += …`, on the calling thread, for use inside the tasks of other kernels.
///
/// # Safety
/// The operands cover the sizes in the layout's order; `c` covers `[m, n]` with rows `c_stride` apart, is f32 or bf16 as
/// `c_is_bf16` says, and belongs to the caller.
pub(crate) unsafe fn multiply_here(
    isa: Isa,
    layout: Layout,
    Sizes { m, n, k }: Sizes,
    a: Operand,
    b: Operand,
    (pointer, stride, is_bf16): (*mut u8, usize, bool),
    accumulate: bool,
    alpha: f32,
) {
    if m == 0 || n == 0 {
        return;
    }
    let (a, b) = sources(layout, a, b);
    let target = Target { pointer, stride, is_bf16, accumulate, alpha, lifetime: PhantomData };
    gemm_here(isa, &Gemm { m, n, k, a, b, target, epilogue: Epilogue::default() });
}

/// As [`multiply_here`], on all threads of the queue.
///
/// # Safety
/// As for [`multiply_here`].
pub(crate) unsafe fn multiply(
    queue: &CpuQueue,
    layout: Layout,
    Sizes { m, n, k }: Sizes,
    a: Operand,
    b: Operand,
    (pointer, stride, is_bf16): (*mut u8, usize, bool),
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let (a, b) = sources(layout, a, b);
    let target = Target { pointer, stride, is_bf16, accumulate, alpha: 1.0, lifetime: PhantomData };
    gemm(queue, &Gemm { m, n, k, a, b, target, epilogue: Epilogue::default() });
}
