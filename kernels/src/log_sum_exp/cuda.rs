//! CUDA arm: a block a row.

use crate::cuda::{PRELUDE, Part, ROW_BLOCK, are_aligned, are_packed, part, row_threads, size};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Out, Result, View};

const PARTS: &[Part] = &[PRELUDE, ROW_BLOCK, part!("log_sum_exp", "log_sum_exp.cu")];

fn source() -> Source {
    Source { name: "log_sum_exp", parts: PARTS, constants: Vec::new() }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    vec![source()]
}

pub(super) fn run(queue: &CudaQueue, x: &View<'_>, y: &Out<'_>) -> Result<()> {
    let (rows, n) = (x.shape().rows(), x.shape().columns());
    if rows == 0 {
        return Ok(());
    }
    let packed = are_packed(n, DType::F32) && are_aligned(&[x.address()]);
    let arguments = Arguments::new()
        .address(x.address())
        .address(y.address())
        .u32(size("columns", n)?)
        .u32(packed.into());
    queue.launch(&source(), "log_sum_exp", &Launch::linear(size("rows", rows)?, row_threads(n)), &arguments)
}
