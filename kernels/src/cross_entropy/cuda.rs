//! CUDA arm: a block a row for losses and gradients, one block for the mean. [`linear_cross_entropy`](crate::linear_cross_entropy)
//! is made of the same kernels.

use crate::cuda::{ROW_BLOCK, PRELUDE, Part, are_aligned, constants, is_bf16, part, row_threads, size};
use crate::matmul::Matrix;
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Out, Result, View};
use std::ops::Range;

const PARTS: &[Part] = &[PRELUDE, ROW_BLOCK, part!("cross_entropy", "cross_entropy.cu")];
/// Threads of the kernels that have one block, and of blocks of which a multiprocessor holds only one.
const THREADS: u32 = 1024;
/// Shared memory that a block needs besides a row.
const SCRATCH_BYTES: usize = 1024;

fn source(gradient: DType) -> Source {
    let constants = constants([("OUTPUT_BF16", is_bf16(gradient))]);
    Source { name: "cross_entropy", parts: PARTS, constants }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    [DType::F32, DType::BF16].map(source).into()
}

/// Labels of rows, i32, and the first and last of those whose rows do not count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels {
    pub address: u64,
    pub rows: usize,
    pub ignored: [i32; 2],
}

impl Labels {
    pub fn new(labels: &View<'_>, ignored: [i32; 2]) -> Labels {
        Labels { address: labels.address(), rows: labels.meta().elements(), ignored }
    }

    /// Those of some rows.
    pub fn part(self, rows: Range<usize>) -> Labels {
        Labels { address: self.address + 4 * rows.start as u64, rows: rows.len(), ..self }
    }

    fn range(self, arguments: Arguments) -> Arguments {
        arguments.i32(self.ignored[0]).i32(self.ignored[1])
    }
}

/// Where the gradient of logits goes, `share (softmax - target)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gradient {
    /// Of f32 `[1]`, from [`launch_share`].
    pub share: u64,
    /// Of the shape of the logits; may be them.
    pub out: Matrix,
    pub accumulate: bool,
}

/// Losses of rows of logits, into f32 `[rows]` if its address is not 0, and their gradients.
pub(crate) fn launch_rows(
    queue: &CudaQueue,
    logits: Matrix,
    labels: Labels,
    smoothing: f32,
    row_loss: u64,
    gradient: Option<Gradient>,
) -> Result<()> {
    if labels.rows == 0 {
        return Ok(());
    }
    let n = logits.columns;
    let (share, out, dtype, accumulate) =
        gradient.map_or((0, 0, DType::F32, false), |g| (g.share, g.out.address, g.out.dtype, g.accumulate));
    let aligned = n.is_multiple_of(4) && are_aligned(&[logits.address, out]);
    let most = queue.driver().properties().shared_bytes_per_block as usize;
    let held = gradient.is_some() && 4 * n + SCRATCH_BYTES <= most;
    let arguments = Arguments::new()
        .address(logits.address)
        .address(labels.address)
        .address(share)
        .address(row_loss)
        .address(out)
        .u32(size("classes", n)?);
    let arguments = labels.range(arguments).f32(smoothing).u32(accumulate.into()).u32(aligned.into()).u32(held.into());
    let threads = if held && 8 * n > most { THREADS } else { row_threads(n) };
    let launch = Launch::linear(size("rows", labels.rows)?, threads);
    let launch = launch.with_shared(if held { 4 * n as u32 } else { 0 });
    queue.launch(&source(dtype), "cross_entropy_rows", &launch, &arguments)
}

/// `share = gradient / rows that count`, both f32 `[1]`.
pub(crate) fn launch_share(queue: &CudaQueue, labels: Labels, gradient: u64, share: u64) -> Result<()> {
    let arguments =
        Arguments::new().address(labels.address).address(gradient).address(share).u32(size("rows", labels.rows)?);
    let launch = Launch::linear(1, THREADS);
    queue.launch(&source(DType::F32), "cross_entropy_share", &launch, &labels.range(arguments))
}

/// The mean of the losses of the rows that count.
pub(crate) fn launch_mean(queue: &CudaQueue, labels: Labels, row_loss: &Out<'_>, loss: &Out<'_>) -> Result<()> {
    let arguments = Arguments::new()
        .address(row_loss.address())
        .address(labels.address)
        .address(loss.address())
        .u32(size("rows", labels.rows)?);
    let arguments = labels.range(arguments).u32(loss.accumulates().into());
    queue.launch(&source(DType::F32), "cross_entropy_mean", &Launch::linear(1, THREADS), &arguments)
}

/// Rows with negative labels do not count.
const IGNORED: [i32; 2] = [i32::MIN, -1];

pub(super) fn forward(queue: &CudaQueue, smoothing: f32, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [logits, labels] = inputs else { unreachable!("checked by infer") };
    let [loss, row_loss] = outputs else { unreachable!("declared by infer") };
    let labels = Labels::new(labels, IGNORED);
    let logits = Matrix::new(logits.address(), logits.meta());
    launch_rows(queue, logits, labels, smoothing, row_loss.address(), None)?;
    launch_mean(queue, labels, row_loss, loss)
}

pub(super) fn backward(queue: &CudaQueue, smoothing: f32, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [logits, labels, gradient] = inputs else { unreachable!("checked by infer") };
    let [out, share] = outputs else { unreachable!("declared by infer") };
    let labels = Labels::new(labels, IGNORED);
    launch_share(queue, labels, gradient.address(), share.address())?;
    let gradient = Gradient {
        share: share.address(),
        out: Matrix::new(out.address(), out.meta()),
        accumulate: out.accumulates(),
    };
    launch_rows(queue, Matrix::new(logits.address(), logits.meta()), labels, smoothing, 0, Some(gradient))
}
