//! The CUDA machinery from outside: compiling with NVRTC, and programs on a device that is made of host memory.

mod compile;
mod fake;
mod observers;
mod ops;
mod program;
