//! The parameters of a kernel, by value, laid out as the compiler lays them out.

use super::TensorMap;
use bytemuck::Pod;

/// Parameters in the kernel's order: each lies at the next multiple of its alignment, as members of a C struct do.
///
/// ```
/// use engine::cuda::Arguments;
/// let arguments = Arguments::new().u32(3).address(0x100);
/// assert_eq!(arguments.offsets().collect::<Vec<_>>(), [0, 8]);
/// assert_eq!(arguments.block().len(), 16);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    block: Vec<u8>,
    /// Offset and size of each parameter in `block`.
    places: Vec<(usize, usize)>,
}

impl Arguments {
    /// No parameters.
    pub fn new() -> Arguments {
        Arguments::default()
    }

    /// A pointer to device memory.
    pub fn address(self, value: u64) -> Arguments {
        self.u64(value)
    }

    /// Pointers to device memory, one after the other.
    pub fn addresses(self, values: &[u64]) -> Arguments {
        values.iter().fold(self, |arguments, &value| arguments.address(value))
    }

    /// `unsigned int`.
    pub fn u32(self, value: u32) -> Arguments {
        self.push(&value.to_ne_bytes(), 4)
    }

    /// `int`.
    pub fn i32(self, value: i32) -> Arguments {
        self.push(&value.to_ne_bytes(), 4)
    }

    /// `unsigned long long`.
    pub fn u64(self, value: u64) -> Arguments {
        self.push(&value.to_ne_bytes(), 8)
    }

    /// `float`.
    pub fn f32(self, value: f32) -> Arguments {
        self.push(&value.to_ne_bytes(), 4)
    }

    /// A tensor map, declared `const __grid_constant__` of a 128-byte struct aligned to 64 bytes.
    pub fn tensor_map(self, map: &TensorMap) -> Arguments {
        self.push(map.bytes(), TensorMap::ALIGNMENT)
    }

    /// A struct of the kernel's members in its order, `#[repr(C)]`.
    pub fn value<T: Pod>(self, value: &T) -> Arguments {
        self.push(bytemuck::bytes_of(value), align_of::<T>())
    }

    fn push(mut self, bytes: &[u8], alignment: usize) -> Arguments {
        let offset = self.block.len().next_multiple_of(alignment);
        self.block.resize(offset, 0);
        self.block.extend_from_slice(bytes);
        self.places.push((offset, bytes.len()));
        self
    }

    /// All parameters as one block, as PTX addresses them (machine code may have them elsewhere); gaps are zero.
    pub fn block(&self) -> &[u8] {
        &self.block
    }

    /// The number of parameters.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True if the kernel takes nothing.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Where each parameter begins in [`Arguments::block`].
    pub fn offsets(&self) -> impl Iterator<Item = usize> {
        self.places.iter().map(|&(offset, _)| offset)
    }

    /// The bytes of each parameter.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|&(offset, size)| &self.block[offset..offset + size])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_lie_where_a_c_struct_has_its_members() {
        #[repr(C)]
        struct Parameters {
            a: u32,
            b: u64,
            c: f32,
            d: TensorMap,
            e: i32,
            f: [u64; 2],
        }
        let map = TensorMap::from_bytes(std::array::from_fn(|index| index as u8));
        let arguments = Arguments::new().u32(1).u64(2).f32(3.5).tensor_map(&map).i32(-5).value(&[1u64, 2]);
        let offsets = [
            std::mem::offset_of!(Parameters, a),
            std::mem::offset_of!(Parameters, b),
            std::mem::offset_of!(Parameters, c),
            std::mem::offset_of!(Parameters, d),
            std::mem::offset_of!(Parameters, e),
            std::mem::offset_of!(Parameters, f),
        ];
        assert_eq!(arguments.offsets().collect::<Vec<_>>(), offsets);
        assert_eq!(arguments.len(), 6);
        let values: Vec<&[u8]> = arguments.values().collect();
        assert_eq!(values[0], 1u32.to_ne_bytes());
        assert_eq!(values[1], 2u64.to_ne_bytes());
        assert_eq!(values[2], 3.5f32.to_ne_bytes());
        assert_eq!(values[3], map.bytes());
        assert_eq!(values[4], (-5i32).to_ne_bytes());
        // The block ends with the last parameter, not with the struct's padding.
        assert_eq!(arguments.block().len(), offsets[5] + 16);
        assert!(arguments.block()[4..8].iter().all(|&byte| byte == 0), "gaps are zero");
    }

    #[test]
    fn a_kernel_without_parameters_has_an_empty_block() {
        assert!(Arguments::new().is_empty());
        assert_eq!(Arguments::new().block(), [0u8; 0]);
    }
}
