//! CUDA arm of attention: padding of heads, division into blocks, and the arguments of the kernels.

use super::geometry::Geometry;
use super::{Attention, Length, Source as Inputs, Visibility};
use crate::cuda::{PACK_BYTES, PRELUDE, Part, SM80, are_aligned, constants, is_bf16, part, size, source_of};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Error, Out, Result, View};

const COMMON: Part = part!("attention", "attention.cuh");
const FORWARD: &[Part] = &[PRELUDE, SM80, COMMON, part!("attention", "attention_forward.cu")];
const GRADIENTS: Part = part!("attention", "attention_backward.cuh");
const BACKWARD: &[Part] = &[PRELUDE, SM80, COMMON, GRADIENTS, part!("attention", "attention_backward.cu")];
const WHOLE: &[Part] = &[PRELUDE, SM80, COMMON, GRADIENTS, part!("attention", "attention_backward_whole.cu")];
const SUM: &[Part] = &[PRELUDE, part!("attention", "attention_sum.cu")];
const DECODE: &[Part] = &[PRELUDE, part!("attention", "attention_decode.cu")];

/// Columns of a head that kernels are made for; others are padded in shared memory.
const DIMS: [usize; 4] = [32, 64, 96, 128];
/// Rows of a warp, and warps of a block, as `attention.cuh` has them.
const GROUP: usize = 16;
const MOST_WARPS: usize = 4;
/// Shared memory that a block of every GPU may have, less a margin: 99 KB on compute capability 8.6, 8.9 and 12.0.
const MOST_SHARED_BYTES: usize = 97 * 1024;
/// Threads of a block of the other two kernels.
const SUM_THREADS: usize = 256;
const DECODE_THREADS: u32 = 128;

fn source(parts: &'static [Part], dtype: DType, dim: usize) -> Source {
    let constants = constants([("BF16", is_bf16(dtype)), ("DIM", dim as i64)]);
    Source { name: "attention", parts, constants }
}

/// Of the kernel that has all keys of a sequence, which is there for heads of up to 64 columns in bf16.
fn whole_source(dim: usize, groups: usize) -> Source {
    let constants = constants([("BF16", 1), ("DIM", dim as i64), ("GROUPS", groups as i64)]);
    Source { name: "attention", parts: WHOLE, constants }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    let mut sources = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        sources.extend(DIMS.iter().flat_map(|&dim| [FORWARD, BACKWARD].map(|parts| source(parts, dtype, dim))));
        sources.extend([SUM, DECODE].map(|parts| source_of("attention", parts, dtype)));
    }
    sources.extend([32, 64].iter().flat_map(|&dim| [1, 2].map(|groups| whole_source(dim, groups))));
    sources
}

/// The head dimension with padding.
fn padded(dim: usize) -> Result<usize> {
    DIMS.into_iter().find(|&padded| dim <= padded).ok_or_else(|| {
        Error::invalid(format!("on a GPU heads have at most {} columns, not {dim}: use more heads", DIMS[DIMS.len() - 1]))
    })
}

/// What a call of the three kernels with tiles has in common.
struct Call<'a> {
    op: &'a Attention,
    geometry: Geometry,
    dtype: DType,
    dim: usize,
    /// Addresses of the first head's queries, keys and values.
    operands: [u64; 3],
    /// Addresses of the offsets of queries and of keys, and of the bits of keys; 0 for those that there are not.
    offsets: [u64; 2],
    bits: u64,
}

/// Warps of a block, and the blocks that share a head of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Division {
    warps: usize,
    blocks: usize,
}

/// Divides sequences of `rows` rows, of which a warp takes 16 at a time.
fn divide(rows: usize, most_warps: usize) -> Division {
    let groups = rows.div_ceil(GROUP).max(1);
    let blocks = groups.div_ceil(most_warps);
    Division { warps: groups.div_ceil(blocks), blocks }
}

/// Of the kernel that has all keys of a sequence: groups of 16 keys of each warp, warps of a block, and queries whose sums it
/// keeps from one round of keys to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whole {
    groups: usize,
    warps: usize,
    kept: usize,
}

impl Whole {
    /// Shared memory of a block: keys, values and dS^T, two stages of 32 queries and gradients, the statistics of 128
    /// queries, and sums for the queries of heads of `dim` columns.
    fn shared_bytes(self, dim: usize) -> usize {
        let row_bytes = 2 * dim;
        self.warps * self.groups * GROUP * (2 * row_bytes + 64) + 2 * 2 * 32 * row_bytes + 128 * 8 + self.kept * dim * 4
    }

    /// The division for sequences of `keys` keys, if a block can have so many.
    fn new(queries: usize, keys: usize, dim: usize) -> Option<Whole> {
        // As in the kernel: up to 6 warps of 16 keys, and more keys are for up to 8 warps of 32.
        let groups = if keys <= 6 * GROUP { 1 } else { 2 };
        let warps = keys.div_ceil(groups * GROUP).max(1);
        if warps > 8 {
            return None;
        }
        // Two blocks of a multiprocessor with half of the keys at a time: one copies while the other multiplies.
        let halves = Whole { groups, warps: warps.div_ceil(2), kept: queries.next_multiple_of(32) };
        let fits = groups == 2 && warps > 4 && halves.shared_bytes(dim) <= MOST_SHARED_BYTES;
        Some(if fits { halves } else { Whole { groups, warps, kept: 0 } })
    }
}

impl<'a> Call<'a> {
    /// `inputs` are those of the forward op.
    fn new(op: &'a Attention, inputs: &[View<'_>]) -> Result<Call<'a>> {
        let metas: Vec<_> = inputs.iter().map(View::meta).collect();
        let geometry = Geometry::check(op, &metas)?;
        let dtype = inputs[0].meta().dtype;
        let keys = &inputs[op.tensors() - 1];
        let [q, k, v] = geometry.columns(op.source);
        let place = |view: &View<'_>, column: usize| view.address() + (column * dtype.size()) as u64;
        let mut rest = inputs[op.tensors()..].iter().map(View::address);
        let mut offsets = |length: Length| if length == Length::Ragged { rest.next().unwrap_or(0) } else { 0 };
        let of_queries = offsets(op.queries);
        let of_keys = if op.source == Inputs::Packed { of_queries } else { offsets(op.keys) };
        Ok(Call {
            op,
            dtype,
            dim: padded(geometry.head_dim)?,
            operands: [place(&inputs[0], q.start), place(keys, k.start), place(keys, v.start)],
            offsets: [of_queries, of_keys],
            bits: if op.visibility == Visibility::KeyBits { rest.next().unwrap_or(0) } else { 0 },
            geometry,
        })
    }

    /// Bytes of a row of a tile.
    fn row_bytes(&self) -> usize {
        self.dim * self.dtype.size()
    }

    /// Bytes of the stages that tiles pass in, two tiles in each. A kernel whose warps keep their rows of one matrix is the
    /// forward one, which has three stages if rows are short; with two matrices it is a backward one, which has two, and two
    /// statistics beside each row.
    fn stage_bytes(&self, matrices: usize) -> usize {
        let rows = 2 * if self.dtype == DType::BF16 { 64 } else { 32 };
        match matrices {
            1 => rows * self.row_bytes() * if self.row_bytes() <= 128 { 3 } else { 2 },
            _ => 2 * rows * (self.row_bytes() + 4),
        }
    }

    /// Warps of a block, as far as they fit into shared memory.
    fn most_warps(&self, matrices: usize) -> usize {
        let most = if matrices == 1 && self.dim <= 64 { 2 * MOST_WARPS } else { MOST_WARPS };
        most.min((MOST_SHARED_BYTES - self.stage_bytes(matrices)) / (matrices * GROUP * self.row_bytes()))
    }

    /// The division of one side, whose tensor has `rows` rows.
    fn division(&self, length: Length, rows: usize, matrices: usize) -> Division {
        divide(self.usual(length, rows), self.most_warps(matrices))
    }

    /// A length of which few sequences of a side with `rows` rows have more. Those of ragged ones lie in device memory: often
    /// their tensor has so many rows because the longest could need them; else, if they are short, few have twice the mean.
    fn usual(&self, length: Length, rows: usize) -> usize {
        let mean = rows.div_ceil(self.geometry.sequences);
        match length {
            Length::Fixed(rows) => rows,
            Length::Ragged => (2 * mean).min(mean.max(64)),
        }
    }

    /// The division of the kernel that has all keys of a sequence, if it is one for this call.
    fn whole(&self, key_rows: usize) -> Option<Whole> {
        if self.dtype != DType::BF16 || self.dim > 64 || self.op.source == Inputs::SharedQuery {
            return None;
        }
        let queries = self.usual(self.op.queries, self.geometry.output_rows);
        let keys = self.usual(self.op.keys, key_rows);
        Whole::new(queries, keys, self.dim)
    }

    /// The grid for `items` heads of sequences, whose warps keep their rows of `matrices` matrices.
    fn launch(&self, division: Division, items: usize, matrices: usize) -> Result<Launch> {
        let Division { warps, blocks } = division;
        let bytes = warps * matrices * GROUP * self.row_bytes() + self.stage_bytes(matrices);
        let launch = Launch::linear(size("blocks", items * self.op.heads * blocks)?, 32 * warps as u32);
        Ok(launch.with_shared(bytes as u32))
    }

    /// The arguments that the kernels begin with. `others` are further addresses that they access.
    fn arguments(&self, others: &[u64]) -> Result<Arguments> {
        let head_dim = self.geometry.head_dim;
        let [q, k, _] = self.geometry.columns(self.op.source);
        let rows = |length: Length| match length {
            Length::Fixed(rows) => size("rows", rows),
            Length::Ragged => Ok(0),
        };
        let packed = (head_dim * self.dtype.size()).is_multiple_of(PACK_BYTES);
        let packed = packed && are_aligned(&self.operands) && are_aligned(others);
        let flags = u32::from(self.op.source == Inputs::SharedQuery)
            | u32::from(self.op.visibility != Visibility::All) << 1
            | u32::from(packed) << 2;
        Ok(Arguments::new()
            .addresses(&self.operands)
            .addresses(&self.offsets)
            .address(self.bits)
            .u32(size("heads", self.op.heads)?)
            .u32(size("columns of a head", head_dim)?)
            .u32(rows(self.op.queries)?)
            .u32(rows(self.op.keys)?)
            .u32(size("columns", q.stride)?)
            .u32(size("columns", k.stride)?)
            .f32(1.0 / (head_dim as f32).sqrt())
            .u32(flags))
    }
}

pub(super) fn forward(op: &Attention, queue: &CudaQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let call = Call::new(op, inputs)?;
    let Geometry { sequences, output_rows, .. } = call.geometry;
    if output_rows == 0 {
        return Ok(());
    }
    let division = call.division(op.queries, output_rows, 1);
    let result = outputs[0].address();
    let blocks = size("blocks", division.blocks)?;
    let arguments = call.arguments(&[result])?.u32(blocks).address(result).address(outputs[1].address());
    let launch = call.launch(division, sequences, 1)?;
    queue.launch(&source(FORWARD, call.dtype, call.dim), "attention_forward", &launch, &arguments)
}

pub(super) fn backward(op: &Attention, queue: &CudaQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (own, tensors) = (op.input_count(), op.tensors());
    let call = Call::new(op, &inputs[..own])?;
    let Geometry { sequences, key_rows, output_rows, .. } = call.geometry;
    let saved = [inputs[own].address(), inputs[own + 1].address(), inputs[own + 2].address()];
    let [q, k, v] = call.geometry.columns(op.source);
    let place = |out: &Out<'_>, column: usize| out.address() + (column * call.dtype.size()) as u64;
    let of_keys = &outputs[tensors - 1];
    let (dquery, dkey, dvalue) = (place(&outputs[0], q.start), place(of_keys, k.start), place(of_keys, v.start));
    let shared = op.source == Inputs::SharedQuery;
    let (partial, groups) = match shared {
        true => (outputs[2].address(), outputs[2].shape().dims()[0]),
        false => (0, sequences),
    };
    let accumulate = [&outputs[0], of_keys].map(|out| u32::from(out.accumulates()));
    if let Some(whole) = call.whole(key_rows) {
        let targets = [dquery, dkey, dvalue];
        let arguments = call.arguments(&[&[saved[0], saved[2]][..], &targets].concat())?;
        let arguments = arguments.addresses(&saved).addresses(&targets).u32(size("queries", whole.kept)?);
        let arguments = arguments.u32(accumulate[0]).u32(accumulate[1]);
        let launch = Launch::linear(size("blocks", sequences * op.heads)?, 32 * whole.warps as u32);
        let launch = launch.with_shared(whole.shared_bytes(call.dim) as u32);
        return queue.launch(&whole_source(call.dim, whole.groups), "attention_backward_whole", &launch, &arguments);
    }
    let source = source(BACKWARD, call.dtype, call.dim);
    let begin = |division: Division, targets: &[u64]| -> Result<Arguments> {
        let arguments = call.arguments(&[&[saved[0], saved[2]][..], targets].concat())?;
        Ok(arguments.u32(size("blocks", division.blocks)?).addresses(&saved).addresses(targets))
    };
    if output_rows > 0 {
        let division = call.division(op.queries, output_rows, 2);
        let arguments = begin(division, &[dquery, partial])?
            .u32(size("sequences", sequences)?)
            .u32(size("groups", groups)?)
            .u32(accumulate[0]);
        queue.launch(&source, "attention_backward_query", &call.launch(division, groups, 2)?, &arguments)?;
    }
    if key_rows > 0 {
        let division = call.division(op.keys, key_rows, 2);
        let arguments = begin(division, &[dkey, dvalue])?.u32(accumulate[1]);
        queue.launch(&source, "attention_backward_key", &call.launch(division, sequences, 2)?, &arguments)?;
    }
    if shared { sum(queue, partial, groups, &outputs[0]) } else { Ok(()) }
}

/// Sums the partial gradients of a shared query.
fn sum(queue: &CudaQueue, partial: u64, groups: usize, out: &Out<'_>) -> Result<()> {
    let (count, dtype) = (out.meta().elements(), out.meta().dtype);
    let packed = count.is_multiple_of(4) && are_aligned(&[partial, out.address()]);
    let arguments = Arguments::new()
        .address(partial)
        .address(out.address())
        .u64(count as u64)
        .u32(size("groups", groups)?)
        .u32(packed.into())
        .u32(out.accumulates().into());
    let threads = if packed { count / 4 } else { count };
    let launch = Launch::linear(size("blocks", threads.div_ceil(SUM_THREADS))?, SUM_THREADS as u32);
    queue.launch(&source_of("attention", SUM, dtype), "attention_sum", &launch, &arguments)
}

/// One step of generation with `heads` heads and a cache of `capacity` rows a sequence.
pub(super) fn decode(
    heads: usize,
    capacity: usize,
    queue: &CudaQueue,
    inputs: &[View<'_>],
    outputs: &mut [Out<'_>],
) -> Result<()> {
    let (qkv, cache, result) = (&inputs[0], &inputs[1], &outputs[0]);
    let (sequences, dtype) = (qkv.shape().rows(), qkv.meta().dtype);
    if sequences == 0 {
        return Ok(());
    }
    let dim = qkv.shape().columns() / 3 / heads;
    // Checked here, for a row of a head lies in the lanes of a warp.
    padded(dim)?;
    let row_bytes = dim * dtype.size();
    let packed = row_bytes.is_multiple_of(PACK_BYTES) && are_aligned(&[qkv.address(), cache.address()]);
    let arguments = Arguments::new()
        .address(qkv.address())
        .address(cache.address())
        .address(inputs[2].address())
        .address(inputs.get(3).map_or(0, View::address))
        .address(result.address())
        .u32(size("heads", heads)?)
        .u32(size("columns of a head", dim)?)
        .u32(size("rows of the cache", capacity)?)
        .u32(size("lanes", row_bytes.div_ceil(PACK_BYTES).next_power_of_two())?)
        .f32(1.0 / (dim as f32).sqrt())
        .u32(packed.into())
        .u32(result.accumulates().into());
    let launch = Launch::linear(size("blocks", sequences * heads)?, DECODE_THREADS);
    queue.launch(&source_of("attention", DECODE, dtype), "attention_decode", &launch, &arguments)
}
