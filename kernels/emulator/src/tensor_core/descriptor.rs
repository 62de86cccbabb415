//! The 64-bit matrix descriptor of `wgmma`, and where it puts the 16-byte chunks of a matrix.
//!
//! Field layout and strides: PTX ISA, asynchronous warpgroup-level matrix instructions, "Strides" and "Matrix descriptor
//! format"; the same layouts as CuTe layout algebra stand in CUTLASS, `include/cute/atom/mma_traits_sm90_gmma.hpp` above
//! `make_gmma_desc`. With T elements in 16 bytes, W = swizzle span / 16 chunks, and offsets in bytes:
//!
//! | major | swizzle | element (mn, k) of the operand lies at |
//! |---|---|---|
//! | K | none | `16 (mn % 8) + SBO (mn / 8) + LBO (k / T)` + byte of `k % T` |
//! | K | W chunks | `16 W (mn % 8) + SBO (mn / 8) + 16 (k / T)` + byte of `k % T`; LBO is not used |
//! | MN | none | `16 (k % 8) + LBO (k / 8) + SBO (mn / T)` + byte of `mn % T` |
//! | MN | W chunks | `16 W (k % 8) + SBO (k / 8) + 16 (mn / T % W) + LBO (mn / T / W)` + byte of `mn % T` |
//!
//! So the two strides change their meaning between MN-major without and with a swizzle. The start address is added, then the
//! swizzle exchanges chunks by the bits of the resulting address. This is why advancing along K within a swizzled row is
//! plain addition to the start address. The base offset, for patterns that do not begin at a multiple of their period, is
//! refused unless it is 0: no kernel of ours needs one, and what it does was never seen on a chip.
use crate::tensor_map::Swizzle;
use crate::{Fault, FaultKind};

/// Which dimension of an operand is contiguous in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// K: a row of A, a column of B (transpose bit 0).
    K,
    /// M of A, N of B (transpose bit 1).
    Mn,
}

/// A decoded matrix descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixDescriptor {
    /// Shared address of the first chunk before the swizzle, a multiple of 16 below 2^18.
    pub start: u32,
    /// Leading dimension byte offset (LBO).
    pub leading: u32,
    /// Stride dimension byte offset (SBO).
    pub stride: u32,
    /// Permutation of chunks.
    pub swizzle: Swizzle,
}

impl MatrixDescriptor {
    /// Reads the fields of a descriptor.
    ///
    /// # Errors
    /// When the base offset is not 0, or a bit is set that has no meaning.
    pub fn decode(bits: u64) -> Result<MatrixDescriptor, Fault> {
        let field = |shift: u32| ((bits >> shift & 0x3fff) as u32) << 4;
        let fail =
            |what: String| Err(Fault::new(FaultKind::Descriptor, format!("matrix descriptor {bits:#018x}: {what}")));
        let base_offset = bits >> 49 & 7;
        if base_offset != 0 {
            return fail(format!(
                "base offset {base_offset}; begin the tile at a multiple of the swizzle's period instead"
            ));
        }
        let unused = bits & !(0x3fff | 0x3fff << 16 | 0x3fff << 32 | 3 << 62);
        if unused != 0 {
            return fail(format!("the bits {unused:#x} belong to no field"));
        }
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize];
        Ok(MatrixDescriptor { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// The bits of a descriptor: what a kernel computes.
    pub fn encode(&self) -> u64 {
        let field = |value: u32, shift: u32| u64::from((value & 0x3ffff) >> 4) << shift;
        let swizzle: u64 = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        };
        field(self.start, 0) | field(self.leading, 16) | field(self.stride, 32) | swizzle << 62
    }

    /// Address of a 16-byte chunk. K-major: elements `chunk * T ..` along K of row (or column) `line` along M or N. MN-major:
    /// elements `chunk * T ..` along M or N at position `line` along K.
    pub fn chunk_address(&self, major: Major, line: u32, chunk: u32) -> u32 {
        let width = self.swizzle.span() / 16;
        let (inner, outer) = (line % 8, line / 8);
        let offset = match (major, self.swizzle) {
            (Major::K, Swizzle::None) => 16 * inner + self.stride * outer + self.leading * chunk,
            (Major::K, _) => 16 * width * inner + self.stride * outer + 16 * chunk,
            (Major::Mn, Swizzle::None) => 16 * inner + self.leading * outer + self.stride * chunk,
            (Major::Mn, _) => {
                16 * width * inner + self.stride * outer + 16 * (chunk % width) + self.leading * (chunk / width)
            }
        };
        self.swizzle.apply(self.start + offset)
    }
}
