//! CUDA arm of the reductions: a warp adds a chunk as the CPU does, its lanes being the CPU's, and the host adds the
//! chunks. So both give the same bits.

use super::CHUNK;
use crate::cuda::{PRELUDE, Part, constants, part, size};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{Buffer, Result};
use std::ops::Range;

const PARTS: &[Part] = &[PRELUDE, part!("reduce", "reduce.cu")];
/// Warps of a block.
const WARPS: usize = 4;

fn source() -> Source {
    Source { name: "reduce", parts: PARTS, constants: constants([("CHUNK", CHUNK as i64)]) }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    vec![source()]
}

/// The sum of each chunk of elements `elements`, which lie in the arena.
pub(super) fn partial(queue: &CudaQueue, kernel: &str, arena: &Buffer, elements: Range<usize>) -> Result<Vec<f64>> {
    let chunks = elements.len().div_ceil(CHUNK);
    if chunks == 0 {
        return Ok(Vec::new());
    }
    let partial = Buffer::on(queue.device(), chunks * 8)?;
    let arguments = Arguments::new()
        .address(arena.address(elements.start * 4))
        .u64(elements.len() as u64)
        .address(partial.address(0));
    let launch = Launch::linear(size("blocks", chunks.div_ceil(WARPS))?, WARPS as u32 * 32);
    queue.launch(&source(), kernel, &launch, &arguments)?;
    let mut sums = vec![0.0f64; chunks];
    bytemuck::cast_slice_mut(&mut sums).copy_from_slice(&partial.read::<u8>(0, chunks * 8)?);
    Ok(sums)
}
