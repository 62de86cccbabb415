//! CUDA arm of the largest elements: a block a row, which the selection reads several times from the L2 cache.

use super::MOST;
use crate::cuda::{PRELUDE, Part, are_aligned, are_packed, part, size};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Out, Result, View};

const PARTS: &[Part] = &[PRELUDE, part!("top_k", "top_k.cu")];

fn source() -> Source {
    Source { name: "top_k", parts: PARTS, constants: vec![("MOST".to_owned(), MOST as i64)] }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    vec![source()]
}

pub(super) fn run(queue: &CudaQueue, x: &View<'_>, outputs: &[Out<'_>]) -> Result<()> {
    let [values, columns] = outputs else { unreachable!("declared by infer") };
    let (rows, n, count) = (x.shape().rows(), x.shape().columns(), values.shape().columns());
    if rows == 0 {
        return Ok(());
    }
    let packed = are_packed(n, DType::F32) && are_aligned(&[x.address()]);
    let arguments = Arguments::new()
        .address(x.address())
        .address(values.address())
        .address(columns.address())
        .u32(size("columns", n)?)
        .u32(size("elements", count)?)
        .u32(packed.into());
    queue.launch(&source(), "top_k", &Launch::linear(size("rows", rows)?, MOST as u32), &arguments)
}
