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

const SM80_PARTS: &[Part] = &[PRELUDE, SM80, ACTIVATION, EPILOGUE, part!("matmul", "matmul_sm80.cu")];
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
    /// `matmul_sm90`: both warpgroups on one tile of 128 x 256, steps of k divided among blocks where tiles do not fill them.
    Cooperative,
    /// `matmul_sm90`: a tile of 128 x 128 for each warpgroup in turn.
    PingPong,
}

/// What is fused at compile time; bias, residual and accumulation are arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fused {
    Nothing,
    Activation(Activation),
    ActivationBackward(Activation),
}

/// Tiles of the kernels for compute capability 9.0, and the steps in which they take k.
const TILE: usize = 128;
const WIDE_TILE: usize = 256;
const TILE_K: usize = 64;
/// Least steps of a block that shares a tile, and most blocks of one.
const LEAST_STEPS: usize = 4;
const MOST_SHARES: usize = 8;

/// Microseconds on an H100: a step of a wide tile and of a small one, an epilogue that nothing hides, and what blocks that
/// share tiles wait for each other's sums.
const WIDE_STEP: f64 = 0.62;
const SMALL_STEP: f64 = 0.36;
const WIDE_EPILOGUE: f64 = 2.0;
const SMALL_EPILOGUE: f64 = 2.0;
const EXCHANGE: f64 = 5.0;

/// The blocks of `Cooperative`, the tiles that they compute whole, and the microseconds that it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Division {
    blocks: usize,
    whole: usize,
    microseconds: f64,
}

/// Divides `tiles` tiles of `steps` steps among multiprocessors: whole, or with the steps of what is left over from whole waves
/// divided evenly.
fn divide(multiprocessors: usize, tiles: usize, steps: usize) -> Division {
    let waves = tiles.div_ceil(multiprocessors);
    let of_tiles = |count: f64| count * (steps as f64 * WIDE_STEP + WIDE_EPILOGUE);
    let all = Division { blocks: tiles.min(multiprocessors), whole: tiles, microseconds: of_tiles(waves as f64) };
    // The last whole wave is divided with what is left over: shares of less than a tile would all wait for each other.
    let whole_waves = (tiles / multiprocessors).saturating_sub(1);
    let rest = tiles - whole_waves * multiprocessors;
    let units = rest * steps;
    let most = if whole_waves > 0 { multiprocessors } else { (units / LEAST_STEPS).min(rest * MOST_SHARES) };
    let blocks = multiprocessors.min(most);
    if blocks == 0 || rest.is_multiple_of(blocks) {
        return all;
    }
    let share = units as f64 / blocks as f64 * WIDE_STEP + WIDE_EPILOGUE + EXCHANGE;
    let divided =
        Division { blocks, whole: whole_waves * multiprocessors, microseconds: of_tiles(whole_waves as f64) + share };
    if divided.microseconds < all.microseconds { divided } else { all }
}

/// Chooses the kernel for a product. `hopper` says that `matmul_sm90` can compute it.
fn choose(properties: &Properties, hopper: bool, aligned: bool, sizes: Sizes) -> Kernel {
    let Sizes { m, n, k } = sizes;
    let (tiles, multiprocessors) = (m.div_ceil(TILE) * n.div_ceil(TILE), properties.multiprocessors as usize);
    if hopper {
        let steps = k.div_ceil(TILE_K);
        let small = (tiles.div_ceil(multiprocessors) * steps) as f64 * SMALL_STEP + SMALL_EPILOGUE;
        let wide = divide(multiprocessors, m.div_ceil(TILE) * n.div_ceil(WIDE_TILE), steps).microseconds;
        return if n <= TILE || small <= wide { Kernel::PingPong } else { Kernel::Cooperative };
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
    let hopper = |schedule, tile_n| constants([("SCHEDULE", schedule), ("TILE_N", tile_n), ("ALIGNED", 1)]);
    all.extend(match kernel {
        Kernel::Sm80 { tile, aligned } => constants([
            ("INPUT_BF16", is_bf16(input)),
            ("TILE_M", tile as i64),
            ("TILE_N", tile as i64),
            ("WARPS_M", 2),
            ("WARPS_N", warps_n(tile) as i64),
            ("ALIGNED", aligned.into()),
        ]),
        Kernel::Cooperative => hopper(0, 256),
        Kernel::PingPong => hopper(1, 128),
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
                kernels.extend([Kernel::Cooperative, Kernel::PingPong]);
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
            let tile_n = if kernel == Kernel::Cooperative { WIDE_TILE } else { TILE };
            let a = tensor_map(queue, a, layout != Layout::Tn, TILE)?;
            let b = tensor_map(queue, b, layout == Layout::Nt, tile_n)?;
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
    let tiles = |tile_m: usize, tile_n: usize| sizes.m.div_ceil(tile_m) * sizes.n.div_ceil(tile_n);
    let multiprocessors = properties.multiprocessors as usize;
    let (blocks, whole) = match kernel {
        Kernel::Sm80 { tile, .. } => {
            let launch = Launch::linear(size("tiles", tiles(tile, tile))?, 2 * warps_n(tile) as u32 * 32);
            return queue.launch(&source, source.name, &launch, &arguments);
        }
        Kernel::PingPong => (tiles(TILE, TILE).min(multiprocessors), tiles(TILE, TILE)),
        Kernel::Cooperative => {
            let Division { blocks, whole, .. } =
                divide(multiprocessors, tiles(TILE, WIDE_TILE), sizes.k.div_ceil(TILE_K));
            (blocks, whole)
        }
    };
    // Sums of a tile for each block, and a flag for each of its two consumers.
    let sums = multiprocessors * TILE * WIDE_TILE * size_of::<f32>();
    let exchange = queue.exchange(sums + multiprocessors * 2 * size_of::<u32>())?;
    let arguments = arguments.u32(size("tiles", whole)?).address(exchange).address(exchange + sums as u64);
    // Stages, a strip for each consuming warp, barriers: as `matmul_sm90.cu` lays them out.
    let launch = Launch { shared_bytes: (192 + 32) * 1024 + 256, ..Launch::linear(size("blocks", blocks)?, 384) };
    queue.launch(&source, source.name, &launch, &arguments)
}

/// An operand for the tensor memory accelerator, in boxes of `TILE_K` of k by `extent` of m or n; along a contiguous m or n
/// a box has 64 elements, the width of a swizzled row.
fn tensor_map(queue: &CudaQueue, operand: Matrix, k_major: bool, extent: usize) -> Result<TensorMap> {
    queue.tensor_map(&TensorMapSpec {
        address: operand.address,
        element: operand.dtype,
        // With no rows in use none are copied, but a description has one.
        sizes: vec![operand.columns as u64, operand.rows.max(1) as u64],
        strides_bytes: vec![operand.row_bytes() as u64],
        box_sizes: vec![TILE_K as u32, if k_major { extent } else { TILE_K } as u32],
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
