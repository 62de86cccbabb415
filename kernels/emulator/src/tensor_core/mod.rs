//! The matrix instructions as pure functions: `mma.sync`, `ldmatrix`, `stmatrix` and `wgmma.mma_async`.
//!
//! A register of a warp is one 32-bit word for each lane ([`Register`]); a fragment is a few of them. Where an element of a
//! matrix lies among lanes and registers is written down in `fragment`, where it lies in shared memory in `descriptor`.
//! Products are exact, their sum is formed in f64 and rounded once to f32: the tensor cores add in another order and keep
//! fewer bits, so results agree with a GPU within the rounding of a sum, not bitwise.
mod descriptor;
mod fragment;
mod matrix;
mod mma;
#[cfg(test)]
mod tests;
mod wgmma;

pub use descriptor::{Major, MatrixDescriptor};
pub use matrix::{ROW_BYTES, load_matrices, store_matrices};
pub use mma::Mma;
pub use wgmma::{ChunkRead, OperandA, Wgmma};

use crate::{Fault, FaultKind};

/// A 32-bit register of the 32 lanes of a warp.
pub type Register = [u32; 32];

/// Type of the elements of matrices A and B; C and D are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// The upper 19 bits of an f32; the other 13 are ignored.
    Tf32,
}

impl Element {
    /// Bytes of an element in memory and in registers.
    pub fn bytes(self) -> u32 {
        match self {
            Element::Bf16 | Element::F16 => 2,
            Element::Tf32 => 4,
        }
    }

    /// The values in a 32-bit word, the lower half first; tf32 has one.
    fn decode(self, word: u32) -> [f64; 2] {
        let values = match self {
            Element::Bf16 => [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)],
            Element::F16 => [word as u16, (word >> 16) as u16].map(|bits| half::f16::from_bits(bits).to_f32()),
            Element::Tf32 => [f32::from_bits(word & 0xffff_e000), 0.0],
        };
        values.map(f64::from)
    }
}

/// The shared memory of a block: `bytes[0]` has the shared address `base`.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    /// Address of the first byte.
    pub base: u32,
    /// The contents.
    pub bytes: &'a [u8],
}

impl<'a> Shared<'a> {
    /// The 16-byte chunk at a multiple of 16.
    ///
    /// # Errors
    /// When it is outside of the shared memory of the block.
    pub fn chunk(&self, address: u32) -> Result<&'a [u8; 16], Fault> {
        address.checked_sub(self.base).and_then(|at| self.bytes.get(at as usize..)?.first_chunk()).ok_or_else(|| {
            let end = self.base as usize + self.bytes.len();
            let message =
                format!("a matrix descriptor leads to {address:#x}, shared memory is {:#x} to {end:#x}", self.base);
            Fault::new(FaultKind::OutOfBounds, message)
        })
    }
}
