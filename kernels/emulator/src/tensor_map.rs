//! Tensor maps: what a bulk tensor copy reads and where it puts it.
//!
//! A map describes a tensor of 1 to 5 dimensions in global memory, the fastest first, and the box of it that one
//! instruction copies. In shared memory the box lies densely, the fastest dimension first; a swizzle then permutes its
//! 16-byte chunks by address bits, so that the rule is the same for the copy, for `wgmma` and for code that reads the
//! box itself. Tiled mode without interleaving and with element strides of one. Rules: `cuTensorMapEncodeTiled` in the
//! CUDA driver API and the tensor section of the PTX ISA. The 128 bytes of an encoded map are our own: the real ones
//! are opaque.
use crate::{Fault, FaultKind};

/// A permutation of 16-byte chunks within 32, 64 or 128 bytes: an exclusive or of address bits 4 to 6 with bits 7 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Every chunk stays where it is.
    None,
    /// Two chunks change places, by address bit 7.
    B32,
    /// Four chunks, by address bits 7 and 8.
    B64,
    /// Eight chunks, by address bits 7 to 9.
    B128,
}

impl Swizzle {
    /// All of them.
    pub const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

    /// The address at which the byte of a linear layout lies.
    pub fn apply(self, address: u32) -> u32 {
        address ^ (address >> 3 & self.mask())
    }

    /// Bytes of a row within which chunks are permuted: 16 (nothing moves), 32, 64 or 128.
    pub fn span(self) -> u32 {
        self.mask() + 16
    }

    /// Bytes after which the pattern repeats; a tile that begins at a multiple of it looks like every other.
    pub fn period(self) -> u32 {
        if self == Swizzle::None { 16 } else { self.span() * 8 }
    }

    /// The address bits that change.
    fn mask(self) -> u32 {
        match self {
            Swizzle::None => 0,
            Swizzle::B32 => 0x10,
            Swizzle::B64 => 0x30,
            Swizzle::B128 => 0x70,
        }
    }
}

/// Type of a tensor's elements, as far as copies can tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ElementType {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl ElementType {
    const ALL: [ElementType; 10] = [
        ElementType::U8,
        ElementType::U16,
        ElementType::U32,
        ElementType::I32,
        ElementType::U64,
        ElementType::I64,
        ElementType::F16,
        ElementType::Bf16,
        ElementType::F32,
        ElementType::F64,
    ];

    /// Bytes of an element.
    pub fn bytes(self) -> u32 {
        match self {
            ElementType::U8 => 1,
            ElementType::U16 | ElementType::F16 | ElementType::Bf16 => 2,
            ElementType::U32 | ElementType::I32 | ElementType::F32 => 4,
            ElementType::U64 | ElementType::I64 | ElementType::F64 => 8,
        }
    }

    /// Whether there is a NaN to fill with.
    pub fn is_float(self) -> bool {
        matches!(self, ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64)
    }
}

/// What a load writes for elements outside of the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zeros.
    Zero,
    /// The NaN with all bits set.
    Nan,
}

impl Fill {
    /// The byte that is repeated.
    pub fn byte(self) -> u8 {
        match self {
            Fill::Zero => 0,
            Fill::Nan => 0xff,
        }
    }
}

/// A tensor in global memory and a box of it. Arrays hold `rank` entries, or one fewer for the strides; the rest is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of the first element.
    pub address: u64,
    /// Type of the elements.
    pub element: ElementType,
    /// Number of dimensions, 1 to 5.
    pub rank: usize,
    /// Elements along each dimension.
    pub sizes: [u64; 5],
    /// Bytes from one entry to the next along each dimension but the first.
    pub strides: [u64; 4],
    /// Elements of the box along each dimension.
    pub box_sizes: [u32; 5],
    /// Permutation in shared memory.
    pub swizzle: Swizzle,
    /// What stands for elements outside.
    pub fill: Fill,
}

/// A run of at most 16 bytes that stays together: what [`Descriptor::pieces`] yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Address in global memory, or nothing when these bytes are outside of the tensor: a load writes the fill byte, a
    /// store and a reduction write nothing.
    pub global: Option<u64>,
    /// Address in shared memory.
    pub shared: u32,
    /// Bytes, a multiple of the element size.
    pub bytes: u32,
    /// Row of the box, all dimensions but the fastest counted as one.
    pub row: u32,
}

/// The first bytes of an encoded map.
const MAGIC: [u8; 8] = *b"ptxemu\0\x01";

impl Descriptor {
    /// Checks the rules of the driver.
    ///
    /// # Errors
    /// A sentence that names the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        let fail = |message: String| Err(invalid(message));
        let rank = self.rank;
        if !(1..=5).contains(&rank) {
            return fail(format!("a tensor has 1 to 5 dimensions, this one has {rank}"));
        }
        if self.address == 0 || !self.address.is_multiple_of(16) {
            return fail(format!("the address {:#x} is not a multiple of 16 above 0", self.address));
        }
        if let Some(size) = self.sizes[..rank].iter().find(|&&size| size == 0 || size > 1 << 32) {
            return fail(format!("a dimension has 1 to 2^32 elements, not {size}"));
        }
        let strides = &self.strides[..rank - 1];
        if let Some(stride) = strides.iter().find(|&&stride| !stride.is_multiple_of(16) || stride >= 1 << 40) {
            return fail(format!("a stride of {stride} bytes is not a multiple of 16 below 2^40"));
        }
        if let Some(size) = self.box_sizes[..rank].iter().find(|&&size| size == 0 || size > 256) {
            return fail(format!("a box has 1 to 256 elements along a dimension, not {size}"));
        }
        let row = self.row_bytes();
        if !row.is_multiple_of(16) {
            return fail(format!("a row of the box is {row} bytes, not a multiple of 16"));
        }
        if self.swizzle != Swizzle::None && row > self.swizzle.span() {
            let span = self.swizzle.span();
            return fail(format!("a row of the box is {row} bytes, a swizzle of {span} bytes holds no more than that"));
        }
        if self.fill == Fill::Nan && !self.element.is_float() {
            return fail(format!("{:?} has no NaN to fill with", self.element));
        }
        Ok(())
    }

    /// The 128 bytes that a kernel gets as its parameter.
    ///
    /// # Errors
    /// As [`Descriptor::validate`].
    pub fn encode(&self) -> Result<[u8; 128], Fault> {
        self.validate()?;
        let mut bytes = [0; 128];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&MAGIC);
        put(&self.address.to_le_bytes());
        put(&[self.rank as u8, self.element as u8, self.swizzle as u8, self.fill as u8]);
        self.sizes.iter().for_each(|size| put(&size.to_le_bytes()));
        self.strides.iter().for_each(|stride| put(&stride.to_le_bytes()));
        self.box_sizes.iter().for_each(|size| put(&size.to_le_bytes()));
        Ok(bytes)
    }

    /// Reads an encoded map back.
    ///
    /// # Errors
    /// When the bytes are not such a map, or one that breaks a rule: the kernel passed a wrong address.
    pub fn decode(bytes: &[u8; 128]) -> Result<Descriptor, Fault> {
        let mut at = 0;
        let mut take = |count: usize| {
            at += count;
            &bytes[at - count..at]
        };
        if take(8) != MAGIC {
            return Err(invalid("these 128 bytes are not a tensor map that the device encoded".into()));
        }
        let mut word = |count: usize| take(count).iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let address = word(8);
        let [rank, element, swizzle, fill] = std::array::from_fn(|_| word(1) as usize);
        let (Some(&element), Some(&swizzle), Some(&fill)) =
            (ElementType::ALL.get(element), Swizzle::ALL.get(swizzle), [Fill::Zero, Fill::Nan].get(fill))
        else {
            return Err(invalid("a tensor map was changed after the device encoded it".into()));
        };
        let sizes = std::array::from_fn(|_| word(8));
        let strides = std::array::from_fn(|_| word(8));
        let box_sizes = std::array::from_fn(|_| word(4) as u32);
        let descriptor = Descriptor { address, element, rank, sizes, strides, box_sizes, swizzle, fill };
        descriptor.validate()?;
        Ok(descriptor)
    }

    /// Bytes of the box's fastest dimension.
    pub fn row_bytes(&self) -> u32 {
        self.box_sizes[0] * self.element.bytes()
    }

    /// Bytes of the whole box: what a load delivers to its mbarrier, parts outside of the tensor included.
    pub fn box_bytes(&self) -> u32 {
        self.box_sizes[1..self.rank].iter().product::<u32>() * self.row_bytes()
    }

    /// The runs of the box whose first element is at `coordinates` (`rank` of them, the fastest first, below zero and
    /// beyond the end allowed), with the box at `shared` in shared memory.
    ///
    /// # Errors
    /// When `shared` is not a multiple of 128, the number of coordinates is not the rank, or the first of them is not one of a
    /// multiple of 16 bytes: a GPU takes that for an illegal instruction, which PTX's description does not say.
    pub fn pieces(&self, coordinates: &[i32], shared: u32) -> Result<impl Iterator<Item = Piece> + use<>, Fault> {
        let map = *self;
        if coordinates.len() != map.rank {
            return Err(invalid(format!("{} coordinates for a tensor map of rank {}", coordinates.len(), map.rank)));
        }
        if !shared.is_multiple_of(128) {
            return Err(invalid(format!("the box at {shared:#x} in shared memory is not 128-byte aligned")));
        }
        let first_byte = i64::from(coordinates[0]) * i64::from(map.element.bytes());
        if first_byte % 16 != 0 {
            return Err(invalid(format!("a box that begins at byte {first_byte} of a row, not at a multiple of 16")));
        }
        let mut origin = [0i64; 5];
        origin.iter_mut().zip(coordinates).for_each(|(to, &from)| *to = from.into());
        let rows: u32 = map.box_sizes[1..map.rank].iter().product();
        Ok((0..rows).flat_map(move |row| map.row_pieces(&origin, row, shared)))
    }

    /// The runs of one row of the box.
    fn row_pieces(self, origin: &[i64; 5], row: u32, shared: u32) -> impl Iterator<Item = Piece> + use<> {
        let bytes = i64::from(self.element.bytes());
        let mut rest = row;
        let mut inside = true;
        let mut address = self.address;
        for dimension in 1..self.rank {
            let size = self.box_sizes[dimension];
            let index = origin[dimension] + i64::from(rest % size);
            rest /= size;
            inside &= (0..self.sizes[dimension] as i64).contains(&index);
            address = address.wrapping_add((index as u64).wrapping_mul(self.strides[dimension - 1]));
        }
        let row_bytes = self.row_bytes();
        let first_byte = origin[0] * bytes;
        // The bytes of the row that lie inside of the tensor.
        let low = (-first_byte).clamp(0, row_bytes.into()) as u32;
        let high = (self.sizes[0] as i64 * bytes - first_byte).clamp(0, row_bytes.into()) as u32;
        (0..row_bytes).step_by(16).flat_map(move |chunk| {
            let target = self.swizzle.apply(shared + row * row_bytes + chunk);
            let cuts = [0, low.clamp(chunk, chunk + 16) - chunk, high.clamp(chunk, chunk + 16) - chunk, 16];
            (0..3).filter(move |&part| cuts[part] < cuts[part + 1]).map(move |part| Piece {
                global: (inside && part == 1)
                    .then(|| address.wrapping_add((first_byte + i64::from(chunk + cuts[part])) as u64)),
                shared: target + cuts[part],
                bytes: cuts[part + 1] - cuts[part],
                row,
            })
        })
    }
}

fn invalid(message: String) -> Fault {
    Fault::new(FaultKind::Descriptor, format!("tensor map: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Descriptor {
        Descriptor {
            address: 0x10000,
            element: ElementType::Bf16,
            rank: 3,
            sizes: [100, 7, 3, 0, 0],
            strides: [208, 208 * 7, 0, 0],
            box_sizes: [32, 4, 2, 0, 0],
            swizzle: Swizzle::B64,
            fill: Fill::Nan,
        }
    }

    /// Where each byte of the box comes from, by walking over its elements: the definition.
    fn by_elements(map: &Descriptor, coordinates: &[i32], shared: u32) -> Vec<(u32, Option<u64>)> {
        let bytes = map.element.bytes();
        let count: u32 = map.box_sizes[..map.rank].iter().product();
        let mut found = Vec::new();
        for index in 0..count {
            let mut rest = index;
            let mut global = Some(map.address as i64);
            for dimension in 0..map.rank {
                let position = i64::from(coordinates[dimension]) + i64::from(rest % map.box_sizes[dimension]);
                rest /= map.box_sizes[dimension];
                let stride = if dimension == 0 { i64::from(bytes) } else { map.strides[dimension - 1] as i64 };
                global = global.filter(|_| position >= 0 && position < map.sizes[dimension] as i64);
                global = global.map(|address| address + position * stride);
            }
            for byte in 0..bytes {
                let address = shared + index * bytes + byte;
                // The swizzle, bit by bit.
                let bits = match map.swizzle {
                    Swizzle::None => 0,
                    Swizzle::B32 => 1,
                    Swizzle::B64 => 2,
                    Swizzle::B128 => 3,
                };
                let flips: u32 = (0..bits).map(|bit| (address >> (7 + bit) & 1) << (4 + bit)).sum();
                found.push((address ^ flips, global.map(|address| address as u64 + u64::from(byte))));
            }
        }
        found.sort_unstable();
        found
    }

    fn by_pieces(map: &Descriptor, coordinates: &[i32], shared: u32) -> Vec<(u32, Option<u64>)> {
        let mut found = Vec::new();
        for piece in map.pieces(coordinates, shared).unwrap() {
            assert!(piece.bytes > 0 && piece.bytes <= 16 && piece.bytes.is_multiple_of(map.element.bytes()));
            assert_eq!(piece.shared / 16, (piece.shared + piece.bytes - 1) / 16, "a piece stays within its chunk");
            found.extend(
                (0..piece.bytes).map(|byte| (piece.shared + byte, piece.global.map(|at| at + u64::from(byte)))),
            );
        }
        found.sort_unstable();
        found
    }

    #[test]
    fn pieces_are_the_elements_of_the_box() {
        let origins =
            [[0, 0, 0], [68, 3, 1], [69, 4, 2], [-5, -2, -1], [97, 6, 0], [-40, 0, 0], [100, 0, 0], [i32::MIN, 0, 9]];
        for swizzle in Swizzle::ALL {
            for (element, row) in
                [(ElementType::U8, 16), (ElementType::Bf16, 16), (ElementType::Bf16, 8), (ElementType::F32, 8)]
            {
                let map = Descriptor { swizzle, element, box_sizes: [row, 4, 2, 0, 0], fill: Fill::Zero, ..map() };
                map.validate().unwrap();
                for mut origin in origins {
                    let unit = 16 / element.bytes() as i32;
                    origin[0] = origin[0] / unit * unit;
                    for shared in [1024, 1024 + 128, 1024 + 640] {
                        let found = by_pieces(&map, &origin, shared);
                        assert_eq!(found.len() as u32, map.box_bytes());
                        assert_eq!(found, by_elements(&map, &origin, shared), "{map:?} {origin:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn boxes_begin_at_whole_chunks_of_a_row() {
        let map =
            Descriptor { swizzle: Swizzle::None, box_sizes: [8, 4, 2, 0, 0], element: ElementType::Bf16, ..map() };
        let begin = |first: i32| map.pieces(&[first, 3, -1], 1024).map(drop);
        for first in [-8, 0, 8, 4096] {
            begin(first).unwrap();
        }
        let fault = begin(-12).unwrap_err();
        assert!(fault.message.contains("byte -24 of a row, not at a multiple of 16"), "{}", fault.message);
    }

    #[test]
    fn every_rank_is_walked() {
        for rank in 1..=5 {
            let mut sizes = [0; 5];
            let mut box_sizes = [0; 5];
            let mut strides = [0; 4];
            for dimension in 0..rank {
                sizes[dimension] = [20, 3, 4, 2, 3][dimension];
                box_sizes[dimension] = [16, 2, 3, 2, 2][dimension];
                if dimension > 0 {
                    // The last repeats one slice.
                    strides[dimension - 1] = [80, 240, 960, 0][dimension - 1];
                }
            }
            let map = Descriptor {
                rank,
                sizes,
                box_sizes,
                strides,
                element: ElementType::F32,
                swizzle: Swizzle::None,
                ..map()
            };
            let origin = &[8, 2, 0, 1, -1][..rank];
            assert_eq!(by_pieces(&map, origin, 4096), by_elements(&map, origin, 4096), "rank {rank}");
        }
    }

    #[test]
    fn a_map_survives_encoding_and_others_are_refused() {
        for swizzle in Swizzle::ALL {
            for element in ElementType::ALL {
                let bytes = element.bytes();
                let map =
                    Descriptor { swizzle, element, box_sizes: [16 / bytes, 256, 1, 0, 0], fill: Fill::Zero, ..map() };
                let encoded = map.encode().unwrap();
                assert_eq!(Descriptor::decode(&encoded).unwrap(), map);
            }
        }
        assert!(Descriptor::decode(&[0; 128]).unwrap_err().message.contains("not a tensor map"));
        let mut changed = map().encode().unwrap();
        changed[17] = 99;
        assert!(Descriptor::decode(&changed).unwrap_err().message.contains("was changed"));
        let mut changed = map().encode().unwrap();
        changed[8] = 1;
        assert!(Descriptor::decode(&changed).unwrap_err().message.contains("not a multiple of 16"));
    }

    #[test]
    fn every_broken_rule_is_named() {
        let sound = map();
        let row = |elements| [elements, 4, 2, 0, 0];
        let broken = [
            (Descriptor { rank: 0, ..sound }, "has 0"),
            (Descriptor { rank: 6, ..sound }, "has 6"),
            (Descriptor { address: 8, ..sound }, "the address 0x8"),
            (Descriptor { address: 0, ..sound }, "the address 0x0"),
            (Descriptor { sizes: [100, 0, 3, 0, 0], ..sound }, "not 0"),
            (Descriptor { sizes: [(1 << 32) + 1, 1, 1, 0, 0], ..sound }, "not 4294967297"),
            (Descriptor { strides: [200, 0, 0, 0], ..sound }, "200 bytes"),
            (Descriptor { strides: [0, 1 << 40, 0, 0], ..sound }, "below 2^40"),
            (Descriptor { box_sizes: [32, 257, 1, 0, 0], ..sound }, "not 257"),
            (Descriptor { box_sizes: row(4), ..sound }, "is 8 bytes"),
            (Descriptor { box_sizes: row(40), ..sound }, "80 bytes, a swizzle of 64"),
            (Descriptor { element: ElementType::U16, ..sound }, "no NaN"),
        ];
        for (map, text) in broken {
            let fault = map.encode().unwrap_err();
            assert!(fault.kind == FaultKind::Descriptor && fault.message.contains(text), "{fault}");
        }
        assert!(sound.pieces(&[0, 0], 0).err().unwrap().message.contains("2 coordinates"));
        assert!(sound.pieces(&[0, 0, 0], 64).err().unwrap().message.contains("128-byte aligned"));
    }
}
