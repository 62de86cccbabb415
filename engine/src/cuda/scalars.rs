//! What changes from one step to the next, in device memory: a captured graph holds the arguments of its launches fixed.

use bytemuck::{Pod, Zeroable};

/// The scalars of a step; kernels see them as `const StepScalars*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct StepScalars {
    /// Number of the step, from 1.
    pub number: u64,
    /// Key of the random numbers.
    pub seed: u64,
    /// Learning rate.
    pub learning_rate: f32,
    /// Multiplies every gradient.
    pub gradient_factor: f32,
}

impl StepScalars {
    /// The same struct in CUDA C++: a part of a [`Source`](super::Source).
    pub const PART: (&'static str, &'static str) = (
        "step_scalars.cuh",
        "struct StepScalars {\n    unsigned long long number;\n    unsigned long long seed;\n    float learning_rate;\n    \
         float gradient_factor;\n};\n",
    );
}
