//! CUDA arm of the embeddings. The gradients of a text's tables are summed by the order of the rows that they belong
//! to: a radix sort of what each row of the text reads, then sums over chunks of that order.

use crate::cuda::{PACK_BYTES, PRELUDE, Part, ROWS, THREADS};
use crate::cuda::{are_aligned, are_packed, launch_rows, part, size, source_of};
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Meta, Out, Result, View};

const EMBED_PARTS: &[Part] = &[PRELUDE, ROWS, part!("embed", "embed.cu")];
const ORDER_PARTS: &[Part] = &[PRELUDE, part!("embed", "entries.cuh"), part!("embed", "order.cu")];
const SCATTER_PARTS: &[Part] = &[PRELUDE, ROWS, part!("embed", "entries.cuh"), part!("embed", "scatter.cu")];

/// Entries of a block of the sort, and the bits of a digit.
const TILE: usize = 1024;
const DIGIT_BITS: u32 = 8;
/// Entries of a warp's sum.
const CHUNK: usize = 32;

fn embed_source(dtype: DType) -> Source {
    source_of("embed", EMBED_PARTS, dtype)
}

fn order_source() -> Source {
    Source { name: "embed_order", parts: ORDER_PARTS, constants: Vec::new() }
}

fn scatter_source(dtype: DType) -> Source {
    source_of("embed_scatter", SCATTER_PARTS, dtype)
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    let floats = [DType::F32, DType::BF16];
    [&floats.map(embed_source)[..], &[order_source()], &floats.map(scatter_source)].concat()
}

/// True if rows of n elements can be taken four at a time: as many f32 as a pack has.
fn are_quads(n: usize, addresses: &[u64]) -> bool {
    are_packed(n, DType::F32) && are_aligned(addresses)
}

/// Rows of a text; an id or a position that no table has gives a row of NaN.
pub(super) fn text(queue: &CudaQueue, inputs: &[View<'_>], out: &Out<'_>) -> Result<()> {
    let [ids, at, tokens, positions, class] = inputs else { unreachable!("declared by infer") };
    let (rows, n) = (ids.meta().elements(), out.shape().columns());
    if rows == 0 {
        return Ok(());
    }
    let addresses = [tokens.address(), positions.address(), class.address(), out.address()];
    let arguments = Arguments::new()
        .addresses(&[ids.address(), at.address()])
        .addresses(&addresses)
        .u32(size("rows", rows)?)
        .u32(size("tokens", tokens.shape().rows())?)
        .u32(size("positions", positions.shape().rows())?)
        .u32(size("columns", n)?)
        .u32(are_quads(n, &addresses).into());
    queue.launch(&embed_source(out.meta().dtype), "embed_text", &launch_rows(rows)?, &arguments)
}

/// Scratch of [`text_backward`] for `rows` rows of `width`: two orders of the entries, a token and a position of each
/// row; the digits of each tile; two parts of sums of each chunk.
pub(super) fn scratch(rows: usize, width: usize) -> [Meta; 3] {
    let entries = 2 * rows;
    [
        Meta::new([2, entries], DType::I32),
        Meta::new([entries.div_ceil(TILE), 1 << DIGIT_BITS], DType::I32),
        Meta::new([entries.div_ceil(CHUNK), 2, width], DType::F32),
    ]
}

/// Gradients of the tables; what no table has is passed over.
pub(super) fn text_backward(queue: &CudaQueue, inputs: &[View<'_>], outputs: &[Out<'_>]) -> Result<()> {
    let [ids, at, dy, ..] = inputs else { unreachable!("declared by infer") };
    let [tokens, positions, class, order, counts, parts] = outputs else { unreachable!("declared by infer") };
    // Most rows of a vocabulary are in no text: all become zero, sums are added.
    for table in [tokens, positions, class].into_iter().filter(|table| !table.accumulates()) {
        queue.fill(table.address(), 0, table.meta().bytes())?;
    }
    let (rows, n) = (ids.meta().elements(), dy.shape().columns());
    if rows == 0 {
        return Ok(());
    }
    let entries = 2 * rows;
    let sizes = |arguments: Arguments| -> Result<Arguments> {
        Ok(arguments
            .u32(size("rows", rows)?)
            .u32(size("tokens", tokens.shape().rows())?)
            .u32(size("positions", positions.shape().rows())?))
    };
    let indices = Arguments::new().address(ids.address()).address(at.address());

    let keys = size("rows of tables", 1 + tokens.shape().rows() + positions.shape().rows())?;
    let tiles = Launch::linear(size("tiles", entries.div_ceil(TILE))?, THREADS as u32);
    let orders = [0, 1].map(|half| order.address() + (half * entries * DType::I32.size()) as u64);
    let (mut from, mut to) = (0, orders[0]);
    // One key more stands for what no table has.
    for shift in (0..u32::BITS - keys.leading_zeros()).step_by(DIGIT_BITS as usize) {
        let arguments = sizes(indices.clone().address(from).address(counts.address()))?.u32(shift);
        queue.launch(&order_source(), "embed_count", &tiles, &arguments)?;
        let arguments = sizes(indices.clone().address(from).address(counts.address()).address(to))?.u32(shift);
        queue.launch(&order_source(), "embed_place", &tiles, &arguments)?;
        (from, to) = (to, if to == orders[0] { orders[1] } else { orders[0] });
    }

    let gradients = [tokens, positions, class, parts].map(Out::address);
    let addresses = [&[dy.address()][..], &gradients].concat();
    let packed = are_quads(n, &addresses);
    let strips = n.div_ceil(if packed { 4 * 32 } else { 32 });
    let warps = launch_rows(entries.div_ceil(CHUNK) * strips)?;
    for combine in [0, 1] {
        let tables = indices.clone().address(from).addresses(&addresses);
        let arguments = sizes(tables)?.u32(size("columns", n)?).u32(combine).u32(packed.into());
        queue.launch(&scatter_source(dy.meta().dtype), "embed_scatter", &warps, &arguments)?;
    }
    Ok(())
}

pub(super) fn patches(queue: &CudaQueue, inputs: &[View<'_>], out: &Out<'_>) -> Result<()> {
    let (patches, positions) = (&inputs[0], &inputs[1]);
    let class = inputs.get(2).map_or(0, View::address);
    let (count, n) = (out.shape().rows(), out.shape().columns());
    if count == 0 {
        return Ok(());
    }
    let addresses = [patches.address(), positions.address(), class, out.address()];
    let arguments = Arguments::new()
        .addresses(&addresses)
        .u32(size("rows", count)?)
        .u32(size("rows", positions.shape().rows())?)
        .u32(size("columns", n)?)
        .u32(are_quads(n, &addresses).into());
    queue.launch(&embed_source(out.meta().dtype), "embed_patches", &launch_rows(count)?, &arguments)
}

pub(super) fn patches_backward(queue: &CudaQueue, inputs: &[View<'_>], outputs: &[Out<'_>]) -> Result<()> {
    let (dy, rows) = (&inputs[0], inputs[1].shape().rows());
    let [patches, positions, class @ ..] = outputs else { unreachable!("declared by infer") };
    let (n, dtype, class) = (dy.shape().columns(), dy.meta().dtype, class.first());
    // The rows of an image side by side.
    let (images, columns) = (dy.shape().rows() / rows, rows * n);
    let packed = are_packed(n, dtype) && are_aligned(&[dy.address(), patches.address()]);
    let arguments = Arguments::new()
        .address(dy.address())
        .address(patches.address())
        .address(positions.address())
        .address(class.map_or(0, Out::address))
        .u32(size("images", images)?)
        .u32(size("columns", columns)?)
        .u32(if class.is_some() { size("columns", n)? } else { 0 })
        .u32(patches.accumulates().into())
        .u32(positions.accumulates().into())
        .u32(class.is_some_and(Out::accumulates).into())
        .u32(packed.into());
    let strip = 32 * if packed { PACK_BYTES / dtype.size() } else { 1 };
    let launch = Launch::linear(size("blocks", columns.div_ceil(strip))?, THREADS as u32);
    queue.launch(&embed_source(dtype), "embed_patches_backward", &launch, &arguments)
}
