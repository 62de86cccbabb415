//! CUDA arm of the products: which kernel, tile and grid, and their arguments.
//!
//! Two kernels: `matmul_sm80` (cp.async and mma.sync; f32 in f32) for every GPU, dtype and size, and `matmul_sm90` (tensor
//! memory accelerator and wgmma) for bf16 on compute capability 9.0 where rows are multiples of 16 bytes. The choice
//! depends on sizes and on the device alone.

use super::{Activation, Layout, Matmul, Roles, Sizes};
use crate::cuda::{ACTIVATION, EPILOGUE, PACK_BYTES, PRELUDE, Part, SM80, SM90};
use crate::cuda::{are_aligned, are_packed, constants, is_bf16, part, size};
use engine::cuda::{Architecture, Arguments, CudaQueue, Fill, Launch, Properties, Source, Swizzle, TensorMap, TensorMapSpec};
use engine::{DType, Error, Meta, Out, Result, View};
use std::ops::Range;

const EPILOGUE_SM80: Part = part!("matmul", "epilogue_sm80.cuh");
const SM80_PARTS: &[Part] = &[PRELUDE, SM80, ACTIVATION, EPILOGUE, EPILOGUE_SM80, part!("matmul", "matmul_sm80.cu")];
const EPILOGUE_SM90: Part = part!("matmul", "epilogue_sm90.cuh");
const SM90_PARTS: &[Part] =
    &[PRELUDE, SM80, SM90, ACTIVATION, EPILOGUE, EPILOGUE_SM90, part!("matmul", "matmul_sm90.cu")];
const COLUMN_SUM_PARTS: &[Part] = &[PRELUDE, SM90, part!("matmul", "column_sum.cu")];

/// The capability whose instructions `matmul_sm90` is made of.
const HOPPER: (u32, u32) = (9, 0);

/// How the work is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// `matmul_sm80` with square tiles of this many elements; packed accesses or single ones.
    Sm80 { tile: usize, aligned: bool },
    /// `matmul_sm90`: a tile for each warpgroup in turn.
    PingPong,
    /// `matmul_sm90`: tiles in so many parts of k, each the work of both warpgroups.
    Split(usize),
}

/// What is fused at compile time; bias, residual and accumulation are arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fused {
    Nothing,
    Activation(Activation),
    ActivationBackward(Activation),
}

/// Tile of `matmul_sm90`, and the steps in which it takes k.
const TILE: usize = 128;
const TILE_K: usize = 64;

/// Microseconds on an H100 or H200: a step, as measured; and, estimated by the bytes that they move, beside its steps a part that
/// is left for another block, a tile, and each part that its last one waits for.
const STEP: f64 = 0.35;
const LEFT_PART: f64 = 1.5;
const LAST_PART: f64 = 3.0;
const OTHER_PART: f64 = 0.5;
/// Parts that are left for each multiprocessor at most: their sums take 64 KB.
const MOST_LEFT: usize = 4;

/// Chooses the kernel for a product. `hopper` says that `matmul_sm90` can compute it.
fn choose(properties: &Properties, hopper: bool, aligned: bool, sizes: Sizes) -> Kernel {
    let Sizes { m, n, k } = sizes;
    let (tiles, multiprocessors) = (m.div_ceil(TILE) * n.div_ceil(TILE), properties.multiprocessors as usize);
    if hopper {
        let steps = k.div_ceil(TILE_K);
        let microseconds = |splits: usize| {
            let rounds = (tiles * splits).div_ceil(multiprocessors) as f64;
            let of_parts = rounds * (steps.div_ceil(splits) as f64 * STEP) + LAST_PART;
            if splits == 1 { of_parts } else { of_parts + (rounds - 1.0) * LEFT_PART + splits as f64 * OTHER_PART }
        };
        let most = (1 + MOST_LEFT * multiprocessors / tiles).min(steps);
        let best = (1..=most.max(1)).min_by(|&one, &other| microseconds(one).total_cmp(&microseconds(other)));
        return match best {
            Some(splits) if splits > 1 => Kernel::Split(splits),
            _ => Kernel::PingPong,
        };
    }
    // Small tiles where large ones would leave multiprocessors idle, and for sizes that cannot be packed.
    Kernel::Sm80 { tile: if aligned && tiles >= multiprocessors { 128 } else { 64 }, aligned }
}

fn source(layout: Layout, input: DType, output: DType, fused: Fused, kernel: Kernel) -> Source {
    let (epilogue, activation) = match fused {
        Fused::Nothing => (0, Activation::Gelu),
        Fused::Activation(kind) => (1, kind),
        Fused::ActivationBackward(kind) => (2, kind),
    };
    let mut all = constants([
        ("A_K_MAJOR", (layout != Layout::Tn).into()),
        ("B_K_MAJOR", (layout == Layout::Nt).into()),
        ("OUTPUT_BF16", is_bf16(output)),
        ("EPILOGUE", epilogue),
        ("ACTIVATION", activation as i64),
    ]);
    let hopper = |schedule| constants([("SCHEDULE", schedule), ("ALIGNED", 1)]);
    all.extend(match kernel {
        Kernel::Sm80 { tile, aligned } => constants([
            ("INPUT_BF16", is_bf16(input)),
            ("TILE_M", tile as i64),
            ("TILE_N", tile as i64),
            ("WARPS_M", 2),
            ("WARPS_N", warps_n(tile) as i64),
            ("ALIGNED", aligned.into()),
        ]),
        Kernel::PingPong => hopper(0),
        Kernel::Split(_) => hopper(1),
    });
    match kernel {
        Kernel::Sm80 { .. } => Source { name: "matmul_sm80", parts: SM80_PARTS, constants: all },
        _ => Source { name: "matmul_sm90", parts: SM90_PARTS, constants: all },
    }
}

/// Warps along n of `matmul_sm80`, of 2 along m: each has 64 x 32 elements of a large tile, 32 x 32 of a small one.
fn warps_n(tile: usize) -> usize {
    tile / 32
}

fn column_sum_source(dtype: DType, packed: bool) -> Source {
    let constants = constants([("INPUT_BF16", is_bf16(dtype)), ("PACKED", packed.into())]);
    Source { name: "column_sum", parts: COLUMN_SUM_PARTS, constants }
}

/// The variants that plans of CoCa and the op cases use: not those of an activation between two dtypes, nor of bf16
/// results of f32. QuickGELU, which differs from GELU in two functions, stands for itself with large tiles alone.
pub(crate) fn variants(architecture: Architecture) -> Vec<Source> {
    use Activation::{Gelu, QuickGelu};
    let mut fused: Vec<(Layout, Fused)> =
        [Layout::Nn, Layout::Nt, Layout::Tn].map(|layout| (layout, Fused::Nothing)).into();
    for kind in [Gelu, QuickGelu] {
        fused.extend([(Layout::Nt, Fused::Activation(kind)), (Layout::Nn, Fused::ActivationBackward(kind))]);
    }
    let mut sources = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        sources.extend([false, true].map(|packed| column_sum_source(dtype, packed)));
    }
    let types = [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)];
    for (input, output) in types {
        for &(layout, fused) in fused.iter().filter(|(_, fused)| input == output || *fused == Fused::Nothing) {
            let mut kernels = vec![Kernel::Sm80 { tile: 128, aligned: true }];
            if !matches!(fused, Fused::Activation(QuickGelu) | Fused::ActivationBackward(QuickGelu)) {
                kernels.extend([true, false].map(|aligned| Kernel::Sm80 { tile: 64, aligned }));
            }
            if architecture.compute_capability() == HOPPER && input == DType::BF16 {
                kernels.extend([Kernel::PingPong, Kernel::Split(2)]);
            }
            sources.extend(kernels.into_iter().map(|kernel| source(layout, input, output, fused, kernel)));
        }
    }
    sources
}

/// A matrix in device memory, its rows one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub address: u64,
    pub rows: usize,
    pub columns: usize,
    pub dtype: DType,
}

impl Matrix {
    /// A tensor as a matrix of its innermost dimension.
    pub fn new(address: u64, meta: Meta) -> Matrix {
        Matrix { address, rows: meta.shape.rows(), columns: meta.shape.columns(), dtype: meta.dtype }
    }

    /// Some of its rows.
    pub fn part(self, rows: Range<usize>) -> Matrix {
        let address = self.address + (rows.start * self.row_bytes()) as u64;
        Matrix { address, rows: rows.len(), ..self }
    }

    fn row_bytes(self) -> usize {
        self.columns * self.dtype.size()
    }
}

/// A product as the kernels take it; the address of what is absent is 0.
struct Product {
    layout: Layout,
    fused: Fused,
    a: Matrix,
    b: Matrix,
    out: Matrix,
    bias: u64,
    side: u64,
    residual: u64,
    accumulate: bool,
}

pub(super) fn run(op: &Matmul, queue: &CudaQueue, roles: Roles<View<'_>>, outputs: &mut [Out<'_>]) -> Result<()> {
    let Sizes { m, n, .. } = op.sizes(roles.a.shape(), roles.b.shape())?;
    let fused = match (op.activation, op.activation_backward) {
        (None, None) => Fused::Nothing,
        (Some(kind), None) => Fused::Activation(kind),
        (None, Some(kind)) => Fused::ActivationBackward(kind),
        (Some(_), Some(_)) => return Err(Error::invalid("an activation and its backward cannot be fused into one product")),
    };
    let address = |view: Option<View<'_>>| view.map_or(0, |view| view.address());
    let side = match fused {
        Fused::Nothing => 0,
        Fused::Activation(_) => outputs[1].address(),
        Fused::ActivationBackward(_) => address(roles.pre_activation),
    };
    let product = Product {
        layout: op.layout,
        fused,
        a: Matrix::new(roles.a.address(), roles.a.meta()),
        b: Matrix::new(roles.b.address(), roles.b.meta()),
        out: Matrix { address: outputs[0].address(), rows: m, columns: n, dtype: outputs[0].meta().dtype },
        bias: address(roles.bias),
        side,
        residual: address(roles.residual),
        accumulate: outputs[0].accumulates(),
    };
    launch_product(queue, &product)
}

/// `out (+)= a b`, for the ops that are made of products. The sizes agree, and a and b have one dtype.
pub(crate) fn multiply(
    queue: &CudaQueue,
    layout: Layout,
    a: Matrix,
    b: Matrix,
    out: Matrix,
    accumulate: bool,
) -> Result<()> {
    let fused = Fused::Nothing;
    launch_product(queue, &Product { layout, fused, a, b, out, bias: 0, side: 0, residual: 0, accumulate })
}

fn launch_product(queue: &CudaQueue, product: &Product) -> Result<()> {
    let Product { layout, fused, a, b, out, .. } = *product;
    let k = if layout == Layout::Tn { a.rows } else { a.columns };
    let sizes = Sizes { m: out.rows, n: out.columns, k };
    if sizes.m == 0 || sizes.n == 0 {
        return Ok(());
    }
    let sides = [out.address, product.bias, product.side, product.residual];
    let rows_packed = [a, b, out].iter().all(|matrix| matrix.row_bytes().is_multiple_of(PACK_BYTES));
    let aligned = rows_packed && are_aligned(&[a.address, b.address]) && are_aligned(&sides);
    let properties = queue.driver().properties();
    // To an activation nothing is added there.
    let is_added_to = product.residual != 0 || product.accumulate;
    let hopper = properties.compute_capability == HOPPER
        && a.dtype == DType::BF16
        && aligned
        && !(is_added_to && matches!(fused, Fused::Activation(_)));
    let kernel = choose(properties, hopper, aligned, sizes);
    let operands = match kernel {
        Kernel::Sm80 { .. } => Arguments::new().address(a.address).address(b.address),
        _ => {
            let a = tensor_map(queue, a, layout != Layout::Tn)?;
            let b = tensor_map(queue, b, layout == Layout::Nt)?;
            Arguments::new().tensor_map(&a).tensor_map(&b)
        }
    };
    let arguments = operands
        .addresses(&sides)
        .u32(size("rows", sizes.m)?)
        .u32(size("columns", sizes.n)?)
        .u32(size("terms", sizes.k)?)
        .u32(product.accumulate.into());
    let source = source(layout, a.dtype, out.dtype, fused, kernel);
    let tiles = |tile: usize| sizes.m.div_ceil(tile) * sizes.n.div_ceil(tile);
    let splits = match kernel {
        Kernel::Sm80 { tile, .. } => {
            let launch = Launch::linear(size("tiles", tiles(tile))?, 2 * warps_n(tile) as u32 * 32);
            return queue.launch(&source, source.name, &launch, &arguments);
        }
        Kernel::PingPong => 1,
        Kernel::Split(splits) => splits,
    };
    // Sums of every part that may be left, and a flag for each of two consumers.
    let left = MOST_LEFT * properties.multiprocessors as usize;
    let sums = left * TILE * TILE * size_of::<f32>();
    let exchange = if splits > 1 { queue.exchange(sums + left * 2 * size_of::<u32>())? } else { 0 };
    let arguments = arguments.u32(size("parts", splits)?).address(exchange).address(exchange + sums as u64);
    let blocks = (tiles(TILE) * splits).min(properties.multiprocessors as usize);
    // Stages, a strip for each consuming warp, barriers: as `matmul_sm90.cu` lays them out.
    let launch = Launch { shared_bytes: (192 + 32) * 1024 + 256, ..Launch::linear(size("blocks", blocks)?, 384) };
    queue.launch(&source, source.name, &launch, &arguments)
}

/// An operand for the tensor memory accelerator, in boxes of `TILE_K` of k by a tile of m or n; along a contiguous m or n
/// a box has 64 elements, the width of a swizzled row.
fn tensor_map(queue: &CudaQueue, operand: Matrix, k_major: bool) -> Result<TensorMap> {
    queue.tensor_map(&TensorMapSpec {
        address: operand.address,
        element: operand.dtype,
        // With no rows in use none are copied, but a description has one.
        sizes: vec![operand.columns as u64, operand.rows.max(1) as u64],
        strides_bytes: vec![operand.row_bytes() as u64],
        box_sizes: vec![TILE_K as u32, if k_major { TILE } else { TILE_K } as u32],
        swizzle: Swizzle::B128,
        fill: Fill::Zero,
    })
}

/// Blocks that share the rows of a strip of columns: as many as two for each multiprocessor, none with fewer rows than
/// keep all its threads at reading.
fn column_sum_blocks(properties: &Properties, rows: usize, strips: usize) -> usize {
    const LEAST_ROWS: usize = 512;
    const MOST: usize = 8; // blocks of a cluster
    if properties.compute_capability < HOPPER {
        return 1;
    }
    let most = 2 * properties.multiprocessors as usize / strips.max(1);
    most.min(rows / LEAST_ROWS).clamp(1, MOST)
}

/// Column sums of x.
pub(super) fn column_sum(queue: &CudaQueue, x: &View<'_>, out: &mut Out<'_>) -> Result<()> {
    let (rows, n, dtype) = (x.shape().rows(), x.shape().columns(), x.meta().dtype);
    let packed = are_packed(n, dtype) && are_aligned(&[x.address()]);
    let arguments = Arguments::new()
        .address(x.address())
        .address(out.address())
        .u32(size("rows", rows)?)
        .u32(size("columns", n)?)
        .u32(out.accumulates().into());
    let strips = n.div_ceil(64 / dtype.size());
    let blocks = column_sum_blocks(queue.driver().properties(), rows, strips) as u32;
    let launch = Launch {
        grid: [size("strips", strips)?, blocks, 1],
        cluster: [1, blocks, 1],
        ..Launch::linear(1, 512)
    };
    queue.launch(&column_sum_source(dtype, packed), "column_sum", &launch, &arguments)
}
