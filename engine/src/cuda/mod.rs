//! GPUs: a small seam to the driver, kernels compiled at run time, and nothing that the build needs.
//!
//! [`Driver`] is what the engine asks of a device: memory, streams, launches. A GPU implements it through NVIDIA's driver
//! library, opened at run time; an emulator implements it on the CPU, so that every kernel runs in tests on machines
//! without a GPU. [`Compiler`] turns kernel sources, which are embedded in the binary, into machine code for the device
//! at hand, or into PTX for the emulator.

mod arguments;
mod cache;
mod compile;
mod compiler;
mod detect;
mod driver;
mod gpu;
mod graphs;
mod inputs;
mod launch;
mod log;
mod nvrtc;
mod queue;
mod scalars;
mod search;
mod tensor_map;
mod testing;

pub use arguments::Arguments;
pub use compile::{Architecture, Compiled, Source, Toolchain, Usage};
pub use compiler::Compiler;
pub use detect::{Detected, DetectedDevice};
pub use driver::{Driver, Event, Function, Graph, Image, ImageKind, Module, Pinned, Properties, Stream};
pub use gpu::Gpu;
pub(crate) use graphs::{Graphs, Run};
pub(crate) use inputs::Inputs;
pub use launch::Launch;
pub use nvrtc::Nvrtc;
pub use queue::CudaQueue;
pub use scalars::StepScalars;
pub use tensor_map::{Fill, Swizzle, TensorMap, TensorMapSpec};
pub use testing::{compiler_or_skip, shard};
