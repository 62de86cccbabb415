//! Descriptions of tensors for the tensor memory accelerator, and the driver's rules for them, checked in one place.

use crate::{DType, Error, Result};

/// A tensor in global memory, and the box of it that one instruction copies. The fastest dimension comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapSpec {
    /// Address of the first element, a multiple of 16.
    pub address: u64,
    /// Storage type.
    pub element: DType,
    /// Elements along each of 1 to 5 dimensions.
    pub sizes: Vec<u64>,
    /// Bytes from one entry to the next along every dimension but the first; multiples of 16 below 2^40.
    pub strides_bytes: Vec<u64>,
    /// Elements of the box along each dimension, 1 to 256.
    pub box_sizes: Vec<u32>,
    /// How the 16-byte parts of a row are permuted in shared memory.
    pub swizzle: Swizzle,
    /// What a load writes for elements outside of the tensor.
    pub fill: Fill,
}

/// Permutation of 16-byte parts in shared memory, against bank conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Rows lie as they are.
    None,
    /// Within 32 bytes.
    B32,
    /// Within 64 bytes.
    B64,
    /// Within 128 bytes.
    B128,
}

impl Swizzle {
    /// Bytes within which parts are permuted: the widest row of a box. `None` has no such bound.
    pub fn span_bytes(self) -> Option<u64> {
        match self {
            Swizzle::None => None,
            Swizzle::B32 => Some(32),
            Swizzle::B64 => Some(64),
            Swizzle::B128 => Some(128),
        }
    }
}

/// What a load writes for elements outside of the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zeros.
    Zero,
    /// A NaN; for floating-point types alone.
    Nan,
}

/// An encoded description: 128 bytes that only its driver understands, passed to kernels by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct TensorMap([u8; 128]);

impl TensorMap {
    /// Alignment of a tensor map in bytes, in host memory and among a kernel's parameters.
    pub const ALIGNMENT: usize = align_of::<TensorMap>();

    /// Wraps what a driver encoded.
    pub fn from_bytes(bytes: [u8; 128]) -> TensorMap {
        TensorMap(bytes)
    }

    /// The encoded bytes.
    pub fn bytes(&self) -> &[u8; 128] {
        &self.0
    }
}

impl TensorMapSpec {
    /// Checks the rules of `cuTensorMapEncodeTiled` (CUDA driver API, tensor map management) without interleaving and
    /// with element strides of one; the error names the rule that is broken. That strides divide each other is written
    /// there too, but drivers do not ask for it, and a stride of 0 repeats a slice.
    pub fn validate(&self) -> Result<()> {
        let rank = self.sizes.len();
        let fail = |detail: String| Err(Error::invalid(format!("tensor map: {detail}")));
        if !(1..=5).contains(&rank) {
            return fail(format!("a tensor has 1 to 5 dimensions, this one has {rank}"));
        }
        if self.strides_bytes.len() != rank - 1 || self.box_sizes.len() != rank {
            return fail(format!(
                "{rank} dimensions need {} strides and {rank} box sizes, {} and {} were given",
                rank - 1,
                self.strides_bytes.len(),
                self.box_sizes.len()
            ));
        }
        if self.address == 0 || !self.address.is_multiple_of(16) {
            return fail(format!("the address {:#x} is not a multiple of 16 above 0", self.address));
        }
        if let Some(size) = self.sizes.iter().find(|&&size| size == 0 || size > 1 << 32) {
            return fail(format!("a dimension has 1 to 2^32 elements, not {size}"));
        }
        if let Some(stride) = self.strides_bytes.iter().find(|&&stride| !stride.is_multiple_of(16) || stride >= 1 << 40)
        {
            return fail(format!("a stride of {stride} bytes is not a multiple of 16 below 2^40"));
        }
        if let Some(size) = self.box_sizes.iter().find(|&&size| size == 0 || size > 256) {
            return fail(format!("a box has 1 to 256 elements along a dimension, not {size}"));
        }
        let row = u64::from(self.box_sizes[0]) * self.element.size() as u64;
        if !row.is_multiple_of(16) {
            return fail(format!("a row of the box is {row} bytes, not a multiple of 16"));
        }
        if let Some(span) = self.swizzle.span_bytes()
            && row > span
        {
            return fail(format!("a row of the box is {row} bytes, a swizzle of {span} bytes holds no more than that"));
        }
        if self.fill == Fill::Nan && !self.element.is_float() {
            return fail(format!("{} has no NaN to fill with", self.element));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> TensorMapSpec {
        TensorMapSpec {
            address: 0x1000,
            element: DType::BF16,
            sizes: vec![100, 7, 3],
            strides_bytes: vec![208, 0],
            box_sizes: vec![64, 256, 1],
            swizzle: Swizzle::B128,
            fill: Fill::Nan,
        }
    }

    #[test]
    fn sound_descriptions_pass() {
        sound().validate().unwrap();
        let row = TensorMapSpec { sizes: vec![1 << 32], strides_bytes: vec![], box_sizes: vec![8], ..sound() };
        row.validate().unwrap();
        TensorMapSpec {
            swizzle: Swizzle::B32,
            element: DType::U8,
            fill: Fill::Zero,
            box_sizes: vec![32, 1, 1],
            ..sound()
        }
        .validate()
        .unwrap();
    }

    #[test]
    fn every_broken_rule_is_named() {
        let broken: [(TensorMapSpec, &str); 14] = [
            (TensorMapSpec { sizes: vec![], ..sound() }, "1 to 5 dimensions, this one has 0"),
            (TensorMapSpec { sizes: vec![1; 6], ..sound() }, "this one has 6"),
            (TensorMapSpec { strides_bytes: vec![16], ..sound() }, "need 2 strides and 3 box sizes, 1 and 3"),
            (TensorMapSpec { box_sizes: vec![16], ..sound() }, "need 2 strides and 3 box sizes, 2 and 1"),
            (TensorMapSpec { address: 0x1008, ..sound() }, "the address 0x1008 is not a multiple of 16"),
            (TensorMapSpec { address: 0, ..sound() }, "the address 0x0 is not a multiple of 16 above 0"),
            (TensorMapSpec { sizes: vec![100, 0, 3], ..sound() }, "1 to 2^32 elements, not 0"),
            (TensorMapSpec { sizes: vec![(1 << 32) + 1, 1, 1], ..sound() }, "not 4294967297"),
            (TensorMapSpec { strides_bytes: vec![200, 0], ..sound() }, "a stride of 200 bytes"),
            (TensorMapSpec { strides_bytes: vec![208, 1 << 40], ..sound() }, "below 2^40"),
            (TensorMapSpec { box_sizes: vec![64, 257, 1], ..sound() }, "1 to 256 elements along a dimension, not 257"),
            (TensorMapSpec { box_sizes: vec![4, 1, 1], ..sound() }, "a row of the box is 8 bytes"),
            (TensorMapSpec { box_sizes: vec![72, 1, 1], ..sound() }, "a row of the box is 144 bytes, a swizzle of 128"),
            (TensorMapSpec { element: DType::I32, box_sizes: vec![8, 1, 1], ..sound() }, "i32 has no NaN"),
        ];
        for (spec, text) in broken {
            let error = spec.validate().expect_err(text).to_string();
            assert!(error.starts_with("tensor map: ") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_tensor_map_is_128_bytes_at_64() {
        assert_eq!((size_of::<TensorMap>(), TensorMap::ALIGNMENT), (128, 64));
    }
}
