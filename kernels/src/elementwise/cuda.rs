//! CUDA arm of the element-wise ops and of the activations: one streaming kernel.

use crate::cuda::{ACTIVATION, PACK_BYTES, PRELUDE, Part, are_aligned, constants, is_bf16, part, size};
use crate::matmul::Activation;
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{DType, Out, Result, View};

const PARTS: &[Part] = &[PRELUDE, ACTIVATION, part!("elementwise", "elementwise.cu")];
const THREADS: usize = 256;

/// What the kernel computes of a and b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `a`, also into another storage type.
    Copy,
    /// `a + b`.
    Add,
    /// `activation(a)`.
    Activate(Activation),
    /// `b · activation'(a)`.
    ActivateBackward(Activation),
}

fn source(operation: Operation, input: DType, output: DType) -> Source {
    let (number, activation) = match operation {
        Operation::Copy => (0, Activation::Gelu),
        Operation::Add => (1, Activation::Gelu),
        Operation::Activate(kind) => (2, kind),
        Operation::ActivateBackward(kind) => (3, kind),
    };
    let constants = constants([
        ("OPERATION", number),
        ("ACTIVATION", activation as i64),
        ("INPUT_BF16", is_bf16(input)),
        ("OUTPUT_BF16", is_bf16(output)),
    ]);
    Source { name: "elementwise", parts: PARTS, constants }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    let floats = [DType::F32, DType::BF16];
    let mut operations = vec![Operation::Add];
    for kind in [Activation::Gelu, Activation::QuickGelu] {
        operations.extend([Operation::Activate(kind), Operation::ActivateBackward(kind)]);
    }
    let alike = operations.iter().flat_map(|&operation| floats.map(|dtype| source(operation, dtype, dtype)));
    let copies = floats.iter().flat_map(|&input| floats.map(|output| source(Operation::Copy, input, output)));
    alike.chain(copies).collect()
}

/// `out (+)= operation(a, b)`. Works in place on either input.
pub(crate) fn run(
    queue: &CudaQueue,
    operation: Operation,
    a: &View<'_>,
    b: Option<&View<'_>>,
    out: &mut Out<'_>,
) -> Result<()> {
    let (input, output, count) = (a.meta().dtype, out.meta().dtype, out.meta().elements());
    if count == 0 {
        return Ok(());
    }
    let elements = THREADS * PACK_BYTES / input.size().max(output.size());
    let addresses = [a.address(), b.map_or(0, View::address), out.address()];
    let arguments = Arguments::new()
        .addresses(&addresses)
        .u64(count as u64)
        .u32(out.accumulates().into())
        .u32(are_aligned(&addresses).into());
    let launch = Launch::linear(size("blocks", count.div_ceil(elements))?, THREADS as u32);
    queue.launch(&source(operation, input, output), "elementwise", &launch, &arguments)
}
