//! The machine: shapes, buffers, tape, planner, executor, checks, profiler. Knows no concrete op.

pub mod cpu;
mod dtype;
mod error;
mod queue;
mod shape;

pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use queue::{CpuQueue, Queue};
pub use shape::{Meta, Shape};
