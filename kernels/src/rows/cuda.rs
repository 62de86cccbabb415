//! CUDA arm of rows by index: a warp a row, of y forward and of dx backward.

use crate::cuda::{PRELUDE, Part, ROWS, THREADS, are_aligned, are_packed, launch_rows, part, size, source_of};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Out, Result, View};

const PARTS: &[Part] = &[PRELUDE, ROWS, part!("rows", "rows.cu")];

fn source(dtype: DType) -> Source {
    source_of("rows", PARTS, dtype)
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    [DType::F32, DType::BF16].map(source).into()
}

/// `y[i] (+)= x[index[i]]`; an index that x does not have gives a row of NaN.
pub(super) fn take(queue: &CudaQueue, inputs: &[View<'_>], y: &Out<'_>) -> Result<()> {
    let [x, index] = inputs else { unreachable!("declared by infer") };
    let (count, n, dtype) = (index.meta().elements(), x.shape().columns(), x.meta().dtype);
    if count == 0 {
        return Ok(());
    }
    let packed = are_packed(n, dtype) && are_aligned(&[x.address(), y.address()]);
    let arguments = Arguments::new()
        .address(x.address())
        .address(index.address())
        .address(y.address())
        .u32(size("rows", count)?)
        .u32(size("rows", x.shape().rows())?)
        .u32(size("columns", n)?)
        .u32(y.accumulates().into())
        .u32(packed.into());
    queue.launch(&source(dtype), "take_rows", &launch_rows(count)?, &arguments)
}

/// `dx[index[i]] (+)= dy[i]`; an index that x does not have is passed over.
pub(super) fn give(queue: &CudaQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [_, index, dy] = inputs else { unreachable!("declared by infer") };
    let [dx, ends] = outputs else { unreachable!("declared by infer") };
    let count = index.meta().elements();
    let (rows, n, dtype) = (dx.shape().rows(), dx.shape().columns(), dx.meta().dtype);
    if rows == 0 {
        return Ok(());
    }
    let source = source(dtype);
    queue.fill(ends.address(), 0xff, 2 * rows * DType::I32.size())?;
    if count > 0 {
        let arguments = Arguments::new()
            .address(index.address())
            .address(ends.address())
            .u32(size("rows", count)?)
            .u32(size("rows", rows)?);
        let launch = Launch::linear(size("blocks", count.div_ceil(THREADS))?, THREADS as u32);
        queue.launch(&source, "take_rows_ends", &launch, &arguments)?;
    }
    let packed = are_packed(n, dtype) && are_aligned(&[dy.address(), dx.address()]);
    let arguments = Arguments::new()
        .address(index.address())
        .address(ends.address())
        .address(dy.address())
        .address(dx.address())
        .u32(size("rows", rows)?)
        .u32(size("columns", n)?)
        .u32(dx.accumulates().into())
        .u32(packed.into());
    queue.launch(&source, "take_rows_backward", &launch_rows(rows)?, &arguments)
}
