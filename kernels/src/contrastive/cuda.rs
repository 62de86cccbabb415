//! CUDA arm: chunks of similarities by the matrix kernels, one pass over a chunk for its rows and one for its columns; in the
//! backward one that turns it into gradients, which the matrix kernels multiply with the features of the other side.

use crate::cuda::{ROW_BLOCK, PRELUDE, Part, are_aligned, part, row_threads, size};
use crate::matmul::cuda::multiply;
use crate::matmul::{Layout, Matrix};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{Out, Result, View};

/// The one variant.
static SOURCE: Source = Source { name: "contrastive", parts: PARTS, constants: Vec::new() };
const PARTS: &[Part] = &[PRELUDE, ROW_BLOCK, part!("contrastive", "contrastive.cu")];
/// Threads of the kernels that have one block, or one for 32 columns.
const THREADS: u32 = 1024;
const COLUMNS: usize = 32;

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    vec![SOURCE.clone()]
}

/// Chunks of rows of the similarities: calls `body` with each chunk, computed, and its first row.
fn for_chunks(
    queue: &CudaQueue,
    image: Matrix,
    text: Matrix,
    similarities: &Out<'_>,
    mut body: impl FnMut(Matrix, usize) -> Result<()>,
) -> Result<()> {
    let all = Matrix::new(similarities.address(), similarities.meta());
    for first in (0..image.rows).step_by(all.rows) {
        let rows = first..image.rows.min(first + all.rows);
        let chunk = all.part(0..rows.len());
        multiply(queue, Layout::Nt, image.part(rows), text, chunk, false)?;
        body(chunk, first)?;
    }
    Ok(())
}

pub(super) fn forward(queue: &CudaQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [image, text, logit_scale] = inputs else { unreachable!("checked by infer") };
    let [loss, rows, columns, similarities, statistics] = outputs else { unreachable!("declared by infer") };
    let (image, text) = (Matrix::new(image.address(), image.meta()), Matrix::new(text.address(), text.meta()));
    let (scale, batch) = (logit_scale.address(), image.rows);
    let n = size("pairs", batch)?;
    let [diagonals, largest, sums] = [0, 1, 2].map(|row| statistics.address() + 4 * row * batch as u64);
    for_chunks(queue, image, text, similarities, |chunk, first| {
        let (first, count) = (size("pairs", first)?, size("pairs", chunk.rows)?);
        let aligned = batch.is_multiple_of(4) && are_aligned(&[chunk.address]);
        let arguments = Arguments::new().addresses(&[chunk.address, scale, rows.address(), diagonals]);
        let launch = Launch::linear(count, row_threads(batch));
        let arguments = arguments.u32(first).u32(n).u32(aligned.into());
        queue.launch(&SOURCE, "contrastive_rows", &launch, &arguments)?;
        let arguments = Arguments::new().addresses(&[chunk.address, scale, columns.address(), largest, sums]);
        let launch = Launch::linear(size("blocks", batch.div_ceil(COLUMNS))?, THREADS);
        queue.launch(&SOURCE, "contrastive_columns", &launch, &arguments.u32(first).u32(count).u32(n))
    })?;
    let arguments = Arguments::new().addresses(&[rows.address(), columns.address(), diagonals, loss.address()]).u32(n);
    queue.launch(&SOURCE, "contrastive_loss", &Launch::linear(1, THREADS), &arguments)
}

pub(super) fn backward(queue: &CudaQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [image, text, logit_scale, rows, columns, gradient] = inputs else { unreachable!("declared by infer") };
    let [dimage, dtext, dscale, parts, similarities] = outputs else { unreachable!("declared by infer") };
    let (image, text) = (Matrix::new(image.address(), image.meta()), Matrix::new(text.address(), text.meta()));
    let target = |out: &Out<'_>| Matrix::new(out.address(), out.meta());
    let batch = image.rows;
    let n = size("pairs", batch)?;
    for_chunks(queue, image, text, similarities, |chunk, first| {
        let side = [logit_scale, rows, columns, gradient].map(View::address);
        let aligned = batch.is_multiple_of(4) && are_aligned(&[chunk.address, columns.address()]);
        let arguments = Arguments::new().addresses(&[chunk.address, side[0], side[1], side[2], side[3], parts.address()])
            .u32(size("pairs", first)?)
            .u32(n)
            .u32(aligned.into());
        let launch = Launch::linear(size("pairs", chunk.rows)?, row_threads(batch));
        queue.launch(&SOURCE, "contrastive_gradient", &launch, &arguments)?;
        let range = first..first + chunk.rows;
        let out = target(dimage).part(range.clone());
        multiply(queue, Layout::Nn, chunk, text, out, dimage.accumulates())?;
        multiply(queue, Layout::Tn, chunk, image.part(range), target(dtext), dtext.accumulates() || first > 0)
    })?;
    let arguments = Arguments::new().addresses(&[parts.address(), dscale.address()]).u32(n).u32(dscale.accumulates().into());
    queue.launch(&SOURCE, "contrastive_scale_gradient", &Launch::linear(1, THREADS), &arguments)
}
