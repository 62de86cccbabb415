//! Which element of a matrix a lane's register holds.
//!
//! The fragments of `mma.sync` m16n8 and `wgmma` are built from one pattern (PTX ISA, figures of the matrix fragments of
//! m16n8k8, m16n8k16 and of wgmma D and A). With g = lane / 4, t = lane % 4, and P elements in a 32-bit register:
//! - A (16 x K): register i holds row g + 8 (i % 2), columns P t + 4 P (i / 2) and on.
//! - B (K x 8): register i holds rows P t + 4 P i and on, column g.
//! - C and D (16 x N): register i holds row g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2.
use super::{Element, Register};

/// Row and column of the accumulator in register `register` of lane `lane`.
pub(super) fn accumulator(register: usize, lane: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2 % 2), 8 * (register / 4) + 2 * (lane % 4) + register % 2)
}

/// Matrix A, 16 x `columns` row-major, of its registers.
pub(super) fn gather_a(element: Element, registers: &[Register], columns: usize) -> Vec<f32> {
    let packed = 4 / element.bytes() as usize;
    let mut matrix = vec![0.0; 16 * columns];
    for (i, register) in registers.iter().enumerate() {
        for (lane, &word) in register.iter().enumerate() {
            let row = lane / 4 + 8 * (i % 2);
            let column = packed * (lane % 4) + 4 * packed * (i / 2);
            matrix[row * columns + column..][..packed].copy_from_slice(&element.decode(word)[..packed]);
        }
    }
    matrix
}

/// Matrix B, `rows` x 8 row-major, of its registers.
pub(super) fn gather_b(element: Element, registers: &[Register], rows: usize) -> Vec<f32> {
    let packed = 4 / element.bytes() as usize;
    let mut matrix = vec![0.0; rows * 8];
    for (i, register) in registers.iter().enumerate() {
        for (lane, &word) in register.iter().enumerate() {
            let row = packed * (lane % 4) + 4 * packed * i;
            for (k, value) in element.decode(word).into_iter().take(packed).enumerate() {
                matrix[(row + k) * 8 + lane / 4] = value;
            }
        }
    }
    matrix
}

/// D = A B + C on accumulator registers of 16 x `n`. `a` is 16 x K and `b` K x `n`, both row-major; C is dropped without
/// `accumulate`. Each element is summed in f64 and rounded once.
pub(super) fn multiply_add(a: &[f32], b: &[f32], n: usize, accumulate: bool, d: &mut [Register]) {
    let k = b.len() / n;
    let b: Vec<f64> = b.iter().map(|&value| value.into()).collect();
    let mut rows = vec![0f64; 16 * n];
    if accumulate {
        for (i, register) in d.iter().enumerate() {
            for (lane, &word) in register.iter().enumerate() {
                let (row, column) = accumulator(i, lane);
                rows[row * n + column] = f32::from_bits(word).into();
            }
        }
    }
    for (row, a) in rows.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            let a = f64::from(a);
            row.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    for (i, register) in d.iter_mut().enumerate() {
        for (lane, word) in register.iter_mut().enumerate() {
            let (row, column) = accumulator(i, lane);
            *word = (rows[row * n + column] as f32).to_bits();
        }
    }
}
