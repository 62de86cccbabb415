//! `ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements between rows in shared memory and fragments.
//!
//! Lane `l` gives the address of row `l % 8` of matrix `l / 8`; lanes beyond 8 for each matrix give none. Register `i` holds
//! matrix `i`: lane `l` has the elements at row `l / 4`, columns `2 (l % 4)` and the next one, in its lower and upper half; with
//! `.trans` rows and columns change places (PTX ISA, warp-level matrix load and store, shape m8n8).
use super::Register;

/// Bytes of a row of a matrix; its address is a multiple of that.
pub const ROW_BYTES: u32 = 16;

/// `ldmatrix.m8n8.x1`, `.x2` and `.x4`: the registers of `rows.len() / 8` matrices, the others 0. `rows` holds what lanes 0,
/// 1, ... address, 8, 16 or 32 of them.
pub fn load_matrices(rows: &[[u8; 16]], transpose: bool) -> [Register; 4] {
    let mut registers = [[0; 32]; 4];
    for (matrix, register) in rows.chunks_exact(8).zip(&mut registers) {
        for (lane, word) in register.iter_mut().enumerate() {
            let [low, high] = elements(lane, transpose).map(|(row, column)| {
                u32::from(u16::from_le_bytes([matrix[row][2 * column], matrix[row][2 * column + 1]]))
            });
            *word = low | high << 16;
        }
    }
    registers
}

/// `stmatrix.m8n8.x1`, `.x2` and `.x4`: what is written to the rows that lanes 0, 1, ... address; of the 32 rows the first 8
/// for each register hold something.
pub fn store_matrices(registers: &[Register], transpose: bool) -> [[u8; 16]; 32] {
    let mut rows = [[0; 16]; 32];
    for (register, matrix) in registers.iter().zip(rows.chunks_exact_mut(8)) {
        for (lane, word) in register.iter().enumerate() {
            for ((row, column), half) in elements(lane, transpose).into_iter().zip([*word as u16, (word >> 16) as u16])
            {
                matrix[row][2 * column..][..2].copy_from_slice(&half.to_le_bytes());
            }
        }
    }
    rows
}

/// Row and column of the two elements that a lane holds of a matrix.
fn elements(lane: usize, transpose: bool) -> [(usize, usize); 2] {
    let (row, column) = (lane / 4, 2 * (lane % 4));
    [(row, column), (row, column + 1)].map(|(row, column)| if transpose { (column, row) } else { (row, column) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows whose element of matrix m, row r, column c is 64 m + 8 r + c.
    fn numbered(count: usize) -> Vec<[u8; 16]> {
        (0..count * 8)
            .map(|row| {
                let elements: [u16; 8] = std::array::from_fn(|column| (row * 8 + column) as u16);
                bytemuck::cast(elements)
            })
            .collect()
    }

    #[test]
    fn lanes_hold_the_elements_that_the_manual_names() {
        for count in [1, 2, 4] {
            let plain = load_matrices(&numbered(count), false);
            let transposed = load_matrices(&numbered(count), true);
            for matrix in 0..4 {
                for lane in 0..32 {
                    let first = (64 * matrix + lane / 4 * 8 + lane % 4 * 2) as u32;
                    let second = (64 * matrix + lane % 4 * 16 + lane / 4) as u32;
                    let live = u32::from(matrix < count);
                    assert_eq!(plain[matrix][lane], live * (first | (first + 1) << 16));
                    assert_eq!(transposed[matrix][lane], live * (second | (second + 8) << 16));
                }
            }
        }
    }

    #[test]
    fn a_store_undoes_a_load() {
        for count in [1, 2, 4] {
            for transpose in [false, true] {
                let registers = load_matrices(&numbered(count), transpose);
                assert_eq!(store_matrices(&registers[..count], transpose)[..count * 8], numbered(count));
            }
        }
    }
}
