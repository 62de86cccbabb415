//! What the CUDA arms of the ops share: the texts that kernels begin with, their constants, and checks of arguments.
//!
//! A kernel is a `.cu` file beside its op, specialised by integer constants; a set of values is a *variant*. Sources are
//! embedded in the binary and compiled when a program first needs them. [`variants`] lists those that training CoCa and the
//! op cases use, for the test that compiles them for every architecture.

use engine::cuda::{Architecture, Launch, Source};
use engine::{DType, Error, Result};

/// A file of a source: the name that errors and faults show, and its text.
pub(crate) type Part = (&'static str, &'static str);

macro_rules! part {
    ($folder:literal, $file:literal) => {
        (
            concat!("kernels/src/", $folder, "/", $file),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/", $folder, "/", $file)),
        )
    };
}
pub(crate) use part;

pub(crate) const PRELUDE: Part = part!("cuda", "prelude.cuh");
pub(crate) const ROWS: Part = part!("cuda", "rows.cuh");
pub(crate) const ACTIVATION: Part = part!("cuda", "activation.cuh");
pub(crate) const SM80: Part = part!("cuda", "sm80.cuh");
pub(crate) const SM90: Part = part!("cuda", "sm90.cuh");
pub(crate) const EPILOGUE: Part = part!("cuda", "epilogue.cuh");
pub(crate) const ROW_BLOCK: Part = part!("cuda", "row_block.cuh");

/// Bytes of the widest access: packed kernels need addresses and rows that are multiples of it.
pub(crate) const PACK_BYTES: usize = 16;

/// Threads of a block of the kernels that stream or give a warp a row.
pub(crate) const THREADS: usize = 256;

/// The constants of a variant.
pub(crate) fn constants<const N: usize>(values: [(&str, i64); N]) -> Vec<(String, i64)> {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The constant that says that a type is bf16 (else f32).
pub(crate) fn is_bf16(dtype: DType) -> i64 {
    i64::from(dtype == DType::BF16)
}

/// The variant for a storage type of a source that has no other constant.
pub(crate) fn source_of(name: &'static str, parts: &'static [Part], dtype: DType) -> Source {
    Source { name, parts, constants: constants([("BF16", is_bf16(dtype))]) }
}

/// True if all addresses are multiples of a pack; 0 stands for what is absent.
pub(crate) fn are_aligned(addresses: &[u64]) -> bool {
    addresses.iter().all(|address| address.is_multiple_of(PACK_BYTES as u64))
}

/// True if rows of n elements are made of packs.
pub(crate) fn are_packed(n: usize, dtype: DType) -> bool {
    (n * dtype.size()).is_multiple_of(PACK_BYTES)
}

/// A warp for each of one or more rows, as `rows.cuh` numbers them.
pub(crate) fn launch_rows(rows: usize) -> Result<Launch> {
    Ok(Launch::linear(size("blocks", rows.div_ceil(THREADS / 32))?, THREADS as u32))
}

/// Threads of a block that has a row of `n` values: some 16 for each thread, in whole warps.
pub(crate) fn row_threads(n: usize) -> u32 {
    n.div_ceil(16).next_power_of_two().clamp(32, 512) as u32
}

/// A size as kernels take it; an error beyond 32 bits.
pub(crate) fn size(what: &str, value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::invalid(format!("{value} {what} are more than a kernel counts in 32 bits")))
}

/// Every variant for an architecture that plans of CoCa and the op cases use.
pub fn variants(architecture: Architecture) -> Vec<Source> {
    [
        crate::attention::cuda::variants(),
        crate::columns::cuda::variants(),
        crate::contrastive::cuda::variants(),
        crate::cross_entropy::cuda::variants(),
        crate::elementwise::cuda::variants(),
        crate::embed::cuda::variants(),
        crate::gauge::cuda::variants(architecture),
        crate::layer_norm::cuda::variants(),
        crate::log_sum_exp::cuda::variants(),
        crate::matmul::cuda::variants(architecture),
        crate::normalize::cuda::variants(),
        crate::optimizer::cuda::variants(),
        crate::patchify::cuda::variants(),
        crate::reduce::cuda::variants(),
        crate::rows::cuda::variants(),
        crate::top_k::cuda::variants(),
    ]
    .concat()
}
