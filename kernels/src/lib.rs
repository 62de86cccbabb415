//! The instruction set: one folder per op with its declaration, CPU code, reference and cases.
//!
//! To add an op, make a folder with `mod.rs` (struct, [`engine::Op`], public function, [`case::Reference`], `cases()`,
//! `draw()`) and `cpu.rs`, and put its name into the `ops!` list below. An op that runs on GPUs has a `.cu` file and an arm
//! `cuda.rs` as well; see [`cuda`].

pub mod case;
pub mod cuda;
pub mod gauge;
pub mod simd;

/// Declares the op folders, and collects their cases for tests and benches.
macro_rules! ops {
    ($($op:ident),* $(,)?) => {
        $(pub mod $op;)*

        /// The fixed cases of every op.
        pub fn cases() -> Vec<case::Case> {
            [$($op::cases()),*].concat()
        }

        /// Every op folder with the function that draws a random case.
        pub const DRAWS: &[(&str, fn(&mut case::Draw) -> case::Case)] = &[$((stringify!($op), $op::draw)),*];
    };
}

pub mod optimizer;
pub mod reduce;
ops! { activation, attention, columns, contrastive, cross_entropy, elementwise, embed, layer_norm, linear_cross_entropy, log_sum_exp, matmul, normalize, patchify, rows, top_k }

/// Cases that fill a GPU: ops of a training step of coca_ViT-B-32 with 256 pairs, in bf16.
pub fn gpu_cases() -> Vec<case::Case> {
    let norms = [(12800, 768), (19200, 512), (65280, 512)].map(|(rows, columns)| layer_norm::gpu_case(rows, columns));
    let loss = linear_cross_entropy::gpu_case(19200, 512, 49408);
    [matmul::gpu_cases(), attention::gpu_cases(), norms.into(), vec![loss]].concat()
}
