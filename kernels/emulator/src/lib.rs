//! A GPU for tests on machines that have none: it executes the PTX that NVRTC emits, inline assembly included, on the
//! CPU.
//!
//! [`Module::parse`] reads PTX and decodes it once; [`Gpu`] owns global memory; [`Gpu::launch`] runs a kernel to its
//! end and returns a [`Report`] of counters, or the first [`Fault`] with the PTX line, the `.cu` line, the block, the
//! warp and the lanes. Warps and asynchronous operations are interleaved by a seed, so a test that runs with several
//! seeds sees several schedules, and each of them can be run again. There is no model of time: counters say what a
//! kernel asks of the machine.

pub mod banks;
mod decode;
mod driver;
mod exec;
mod fault;
mod gpu;
mod kernel;
pub mod mbarrier;
mod memory;
mod module;
mod op;
mod parse;
pub mod race;
mod report;
pub mod tensor_core;
pub mod tensor_map;
pub mod tiles;

pub use driver::Emulator;
pub use fault::{Fault, FaultKind, Place};
pub use gpu::{Checks, Config, Gpu, Launch};
pub use module::Module;
pub use report::{Counters, Report};
