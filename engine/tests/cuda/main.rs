//! The CUDA machinery from outside: compiling with NVRTC.

mod compile;
