//! CUDA arm of the patches: as many pixels a thread as a pack of their values holds.

use super::Patchify;
use crate::cuda::{PACK_BYTES, PRELUDE, Part, THREADS, are_aligned, part, size, source_of};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Out, Result, View};

const PARTS: &[Part] = &[PRELUDE, part!("patchify", "patchify.cu")];

fn source(dtype: DType) -> Source {
    source_of("patchify", PARTS, dtype)
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    [DType::F32, DType::BF16].map(source).into()
}

pub(super) fn run(op: &Patchify, queue: &CudaQueue, images: &View<'_>, rows: &Out<'_>) -> Result<()> {
    let (p, width) = (op.patch_size, images.shape().dims()[2]);
    let all = images.meta().elements() / 3;
    if all == 0 {
        return Ok(());
    }
    // Pixels of a thread stay in one line of a patch.
    let fits = |pixels: usize| p.is_multiple_of(pixels) && are_aligned(&[images.address(), rows.address()]);
    let pixels = [PACK_BYTES / op.dtype.size(), 2].into_iter().find(|&pixels| fits(pixels)).unwrap_or(1);
    let count = all / pixels;
    let arguments = Arguments::new()
        .address(images.address())
        .address(rows.address())
        .u32(size("pixels", all)? / pixels as u32)
        .u32(size("pixels", width)?)
        .u32(size("pixels", p)?)
        .u32(pixels as u32);
    // (byte / 255 - mean) / std as one multiplication and addition.
    let arguments = op.mean.iter().zip(op.std).fold(arguments, |arguments, (&mean, std)| {
        let (mean, std) = (f64::from(mean), f64::from(std));
        arguments.f32((1.0 / (255.0 * std)) as f32).f32((-mean / std) as f32)
    });
    let launch = Launch::linear(size("blocks", count.div_ceil(THREADS))?, THREADS as u32);
    queue.launch(&source(op.dtype), "patchify", &launch, &arguments)
}
