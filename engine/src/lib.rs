//! The machine: shapes, buffers, tape, planner, executor, checks, profiler. Knows no concrete op.
//!
//! A model pushes coarse ops onto a [`Tape`]; [`Tape::backward`] appends their hand-written backward ops to the same
//! list; [`Tape::checkpoint`] may rewrite it to save memory; [`Program::compile`] gives every tensor a place in one
//! arena; [`Program::run`] runs the list, again and again. An eager tape runs the same ops as they are pushed.
//!
//! A [`Queue`] says where ops run. On a GPU the arenas lie in its memory ([`Device`]), kernels are compiled at run time
//! ([`cuda`]), and a run that comes again is replayed as one graph.
//!
//! Rules of an op (see [`Op`]): saved statistics are outputs; scratch is an output that nobody reads; the first writer
//! of a gradient sets it and later writers add; tensors are contiguous; results do not depend on the number of threads.
//! Text is ragged: a tensor declared with [`Tape::set_ragged`] has a fixed capacity of rows, and each run sees only the
//! rows in use.

mod backward;
pub mod buffer;
mod check;
pub mod cpu;
pub mod cuda;
mod device;
mod dtype;
mod eager;
mod error;
mod observer;
mod op;
mod parameters;
mod plan;
mod profile;
mod program;
mod queue;
mod ragged;
mod recompute;
pub mod rng;
mod shape;
mod tape;
mod workspace;

pub use buffer::Buffer;
pub use check::Check;
pub use cuda::CudaQueue;
pub use device::Device;
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use observer::{Observer, StepView};
pub use op::{Cost, Op, Out, Recompute, Recorded, Shared, View, Write};
pub use parameters::{Parameter, Parameters};
pub use plan::{LiveTensor, Plan};
pub use profile::{Event, Profiler, Roofline};
pub use program::{Compile, Kernels, Program};
pub use queue::{CpuQueue, Queue};
pub use recompute::Checkpointing;
pub use shape::{Meta, Shape};
pub use tape::{Phase, Tape, Target, Tensor};
pub use workspace::Workspace;
