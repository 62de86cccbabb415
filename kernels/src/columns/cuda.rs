//! CUDA arm of columns: a warp moves a row.

use crate::cuda::{PRELUDE, Part, ROWS, are_aligned, are_packed, launch_rows, part, size, source_of};
use engine::cuda::{Arguments, CudaQueue, Source};
use engine::{DType, Out, Result, View};

const PARTS: &[Part] = &[PRELUDE, ROWS, part!("columns", "columns.cu")];

fn source(dtype: DType) -> Source {
    source_of("columns", PARTS, dtype)
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    [DType::F32, DType::BF16].map(source).into()
}

/// `x (+)= [a | b]`.
pub(super) fn join(queue: &CudaQueue, a: &View<'_>, b: &View<'_>, x: &Out<'_>) -> Result<()> {
    let widths = [a.shape().columns(), b.shape().columns()];
    let addresses = [a.address(), b.address(), x.address()];
    launch(queue, "join_columns", x.meta().dtype, x.shape().rows(), widths, addresses, &[x.accumulates()])
}

/// `[a | b]`, set or added to, from x.
pub(super) fn split(queue: &CudaQueue, x: &View<'_>, a: &Out<'_>, b: &Out<'_>) -> Result<()> {
    let widths = [a.shape().columns(), b.shape().columns()];
    let (addresses, accumulate) = ([x.address(), a.address(), b.address()], [a.accumulates(), b.accumulates()]);
    launch(queue, "split_columns", x.meta().dtype, x.shape().rows(), widths, addresses, &accumulate)
}

fn launch(
    queue: &CudaQueue,
    kernel: &str,
    dtype: DType,
    rows: usize,
    [n, m]: [usize; 2],
    addresses: [u64; 3],
    accumulate: &[bool],
) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    let packed = are_packed(n, dtype) && are_packed(m, dtype) && are_aligned(&addresses);
    let arguments = Arguments::new()
        .addresses(&addresses)
        .u32(size("rows", rows)?)
        .u32(size("columns", n)?)
        .u32(size("columns", m)?);
    let flags = accumulate.iter().chain([&packed]);
    let arguments = flags.fold(arguments, |arguments, &flag| arguments.u32(flag.into()));
    queue.launch(&source(dtype), kernel, &launch_rows(rows)?, &arguments)
}
