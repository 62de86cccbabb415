//! The CUDA kernels on the emulator, as compute capability 8.0 and 9.0: every case of the ops that have kernels and random
//! ones, forward and backward, against the f64 reference, under several schedules, with the checks for races and for reads
//! of undefined memory; and bounds of their bank conflicts and sectors. `COCA_SWEEP=N` runs N times as many random cases
//! and schedules.

mod cases;
mod gauge;
mod machines;
mod memory;
mod optimizer;
#[path = "../running/mod.rs"]
mod running;
