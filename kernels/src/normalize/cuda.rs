//! CUDA arm of the L2 normalisation: a warp a row.

use super::LEAST_NORM;
use crate::cuda::{PRELUDE, Part, ROWS, are_aligned, are_packed, launch_rows, part, size, source_of};
use engine::cuda::{Arguments, CudaQueue, Source};
use engine::{DType, Out, Result, View};

const PARTS: &[Part] = &[PRELUDE, ROWS, part!("normalize", "normalize.cu")];

fn source(dtype: DType) -> Source {
    source_of("normalize", PARTS, dtype)
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    [DType::F32, DType::BF16].map(source).into()
}

pub(super) fn forward(queue: &CudaQueue, x: &View<'_>, outputs: &[Out<'_>]) -> Result<()> {
    let [y, inverse] = outputs else { unreachable!("declared by infer") };
    let (rows, n, dtype) = (x.shape().rows(), x.shape().columns(), x.meta().dtype);
    if rows == 0 {
        return Ok(());
    }
    let packed = are_packed(n, dtype) && are_aligned(&[x.address(), y.address()]);
    let arguments = Arguments::new()
        .address(x.address())
        .address(y.address())
        .address(inverse.address())
        .u32(size("rows", rows)?)
        .u32(size("columns", n)?)
        .f32(1.0 / LEAST_NORM)
        .u32(packed.into());
    queue.launch(&source(dtype), "normalize_forward", &launch_rows(rows)?, &arguments)
}

pub(super) fn backward(queue: &CudaQueue, inputs: &[View<'_>], dx: &Out<'_>) -> Result<()> {
    let [y, inverse, dy] = inputs else { unreachable!("declared by infer") };
    let (rows, n, dtype) = (y.shape().rows(), y.shape().columns(), y.meta().dtype);
    if rows == 0 {
        return Ok(());
    }
    let packed = are_packed(n, dtype) && are_aligned(&[y.address(), dy.address(), dx.address()]);
    let arguments = Arguments::new()
        .address(y.address())
        .address(inverse.address())
        .address(dy.address())
        .address(dx.address())
        .u32(size("rows", rows)?)
        .u32(size("columns", n)?)
        .f32(1.0 / LEAST_NORM)
        .u32(dx.accumulates().into())
        .u32(packed.into());
    queue.launch(&source(dtype), "normalize_backward", &launch_rows(rows)?, &arguments)
}
