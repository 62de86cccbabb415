//! CUDA arm of LayerNorm: a warp a row; gradients of weight and bias by partial sums and a second kernel.

use super::{ROWS_AT_ONCE, parts};
use crate::cuda::{PRELUDE, Part, SM80, are_aligned, are_packed, constants, is_bf16, part, size};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Out, Result, View};

const PARTS: &[Part] = &[PRELUDE, SM80, part!("layer_norm", "layer_norm.cu")];
const THREADS: u32 = 256;
/// Threads of the kernel that adds the sums of blocks.
const REDUCE_THREADS: u32 = 1024;
/// Elements of the longest row that a warp holds in registers, and the step of lengths that kernels are made for.
const LONGEST: usize = 1024;
const STEP: usize = 256;

fn source(dtype: DType, held: usize) -> Source {
    let constants = constants([("BF16", is_bf16(dtype)), ("HELD", held as i64)]);
    Source { name: "layer_norm", parts: PARTS, constants }
}

/// Elements that each lane holds of a row of `n`: a multiple of 8, or 0 where rows are too long or not made of packs.
fn held(n: usize, dtype: DType, addresses: &[u64]) -> usize {
    if are_packed(n, dtype) && are_aligned(addresses) && n <= LONGEST { n.div_ceil(STEP) * (STEP / 32) } else { 0 }
}

/// Shared memory of a block of the backward kernel: two rows of x and dy for each warp.
fn stages_bytes(held: usize, dtype: DType) -> usize {
    ROWS_AT_ONCE * 2 * 2 * held * 32 * dtype.size()
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    let lengths = (0..=LONGEST).step_by(STEP).map(|length| length / 32);
    lengths.flat_map(|held| [DType::F32, DType::BF16].map(|dtype| source(dtype, held))).collect()
}

pub(super) fn forward(queue: &CudaQueue, epsilon: f32, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (x, weight, bias) = (&inputs[0], &inputs[1], &inputs[2]);
    let (rows, n) = (x.shape().rows(), x.shape().columns());
    if rows == 0 {
        return Ok(());
    }
    let (y, sum, statistics) = match outputs {
        [y, sum, mean, rstd] => (y.address(), sum.address(), [mean.address(), rstd.address()]),
        [y, mean, rstd] => (y.address(), 0, [mean.address(), rstd.address()]),
        _ => unreachable!("declared by infer"),
    };
    let residual = inputs.get(3).map_or(0, View::address);
    let addresses = [x.address(), weight.address(), bias.address(), residual, y, sum];
    let arguments = Arguments::new()
        .addresses(&addresses)
        .addresses(&statistics)
        .u32(size("rows", rows)?)
        .u32(size("columns", n)?)
        .f32(epsilon);
    let dtype = x.meta().dtype;
    let launch = Launch::linear(size("blocks", rows.div_ceil(ROWS_AT_ONCE))?, THREADS);
    queue.launch(&source(dtype, held(n, dtype, &addresses)), "layer_norm_forward", &launch, &arguments)
}

pub(super) fn backward(queue: &CudaQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [x, weight, mean, rstd, dy] = inputs else { unreachable!("declared by infer") };
    let [dx, dweight, dbias, scratch] = outputs else { unreachable!("declared by infer") };
    let (rows, n, dtype) = (x.shape().rows(), x.shape().columns(), x.meta().dtype);
    let aligned = [x.address(), weight.address(), dy.address(), dx.address(), scratch.address()];
    // The longest rows of f32 take 128 KB, which not every GPU has.
    let most = queue.driver().properties().shared_bytes_per_block as usize;
    let held = Some(held(n, dtype, &aligned)).filter(|&held| stages_bytes(held, dtype) <= most).unwrap_or(0);
    let source = source(dtype, held);
    let blocks = parts(rows).min(rows.div_ceil(ROWS_AT_ONCE));
    let columns = size("columns", n)?;
    if rows > 0 {
        let arguments = Arguments::new()
            .address(x.address())
            .address(weight.address())
            .address(mean.address())
            .address(rstd.address())
            .address(dy.address())
            .address(dx.address())
            .address(scratch.address())
            .u32(size("rows", rows)?)
            .u32(columns)
            .u32(dx.accumulates().into());
        let launch = Launch::linear(size("blocks", blocks)?, THREADS).with_shared(stages_bytes(held, dtype) as u32);
        queue.launch(&source, "layer_norm_backward", &launch, &arguments)?;
    }
    let arguments = Arguments::new()
        .address(scratch.address())
        .address(dweight.address())
        .address(dbias.address())
        .u32(size("blocks", blocks)?)
        .u32(columns)
        .u32(dweight.accumulates().into())
        .u32(dbias.accumulates().into());
    let launch = Launch::linear(size("blocks", (2 * n).div_ceil(32))?, REDUCE_THREADS);
    queue.launch(&source, "layer_norm_reduce", &launch, &arguments)
}
