//! Which element of a matrix a lane's register holds, and the product of two matrices.
//!
//! The fragments of `mma.sync` m16n8 and `wgmma` are built from one pattern (PTX ISA, figures of the matrix fragments of
//! m16n8k8, m16n8k16 and of wgmma D and A). With g = lane / 4, t = lane % 4, and P elements in a 32-bit register:
//! - A (16 x K): register i holds row g + 8 (i % 2), columns P t + 4 P (i / 2) and on.
//! - B (K x 8): register i holds rows P t + 4 P i and on, column g.
//! - C and D (16 x N): register i holds row g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2.
//!
//! Eight columns of B with their four registers of D are worked on at a time: a block.
use super::{Element, Register};

/// Columns of a block.
pub(super) const BLOCK: usize = 8;
/// Largest depth of an instruction.
const MAXIMUM_K: usize = 16;

/// The 16 rows of A that a warp owns, `[16][k]`.
#[derive(Debug)]
pub(super) struct Rows {
    pub k: usize,
    pub values: [f64; 16 * MAXIMUM_K],
}

/// Eight columns of B, `[k][8]`.
pub(super) type Columns = [[f64; BLOCK]; MAXIMUM_K];

impl Rows {
    /// Zeros.
    pub fn new(k: usize) -> Rows {
        Rows { k, values: [0.0; 16 * MAXIMUM_K] }
    }

    /// Matrix A of its registers.
    pub fn gather(element: Element, registers: &[Register], k: usize) -> Rows {
        let packed = 4 / element.bytes() as usize;
        let mut rows = Rows::new(k);
        for (i, register) in registers.iter().enumerate() {
            for (lane, &word) in register.iter().enumerate() {
                let row = lane / 4 + 8 * (i % 2);
                let column = packed * (lane % 4) + 4 * packed * (i / 2);
                rows.values[row * k + column..][..packed].copy_from_slice(&element.decode(word)[..packed]);
            }
        }
        rows
    }
}

/// Matrix B of its registers.
pub(super) fn gather_columns(element: Element, registers: &[Register]) -> Columns {
    let packed = 4 / element.bytes() as usize;
    let mut columns = Columns::default();
    for (i, register) in registers.iter().enumerate() {
        for (lane, &word) in register.iter().enumerate() {
            let row = packed * (lane % 4) + 4 * packed * i;
            for (k, value) in element.decode(word).into_iter().take(packed).enumerate() {
                columns[row + k][lane / 4] = value;
            }
        }
    }
    columns
}

/// D = A B + D on the four registers of a block; D's old values are dropped without `accumulate`. Each element is summed in
/// f64 and rounded once.
pub(super) fn multiply_add(a: &Rows, b: &Columns, accumulate: bool, d: &mut [Register]) {
    let mut sums = [[0f64; BLOCK]; 16];
    if accumulate {
        for (i, register) in d.iter().enumerate() {
            for (lane, &word) in register.iter().enumerate() {
                sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = f32::from_bits(word).into();
            }
        }
    }
    for (sum, a) in sums.iter_mut().zip(a.values.chunks_exact(a.k)) {
        for (&a, b) in a.iter().zip(b) {
            for column in 0..BLOCK {
                sum[column] += a * b[column];
            }
        }
    }
    for (i, register) in d.iter_mut().enumerate() {
        for (lane, word) in register.iter_mut().enumerate() {
            *word = (sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] as f32).to_bits();
        }
    }
}
