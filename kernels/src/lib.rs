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
