//! Whether `wgmma` reads a tile as it was laid out.
//!
//! A wrong stride or swizzle in a matrix descriptor is no fault of the hardware: the product is merely wrong. But the
//! emulator knows how a tensor map laid the tile out. For every 16-byte chunk that a tensor copy delivers it keeps the copy,
//! the swizzle and the row of the box, until something else writes there. An operand must then be read with that swizzle,
//! and along one column of chunks the rows of a box must follow each other as the rows (K-major) or the steps along K
//! (MN-major) of the operand do. Chunks that nobody knows of, and those of different copies, are not compared.
use crate::tensor_core::{ChunkRead, Major};
use crate::tensor_map::Swizzle;
use crate::{Fault, FaultKind};

const CHUNK_BYTES: u32 = 16;

/// What is known of a chunk of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    /// PTX line of the copy.
    line: u32,
    /// Number of the copy.
    copy: u32,
    /// Row of the box.
    row: u32,
    swizzle: Swizzle,
}

/// The tiles in the shared memory of a block.
#[derive(Clone, Debug)]
pub struct Tiles {
    base: u32,
    chunks: Vec<Option<Tag>>,
    copies: u32,
}

impl Tiles {
    /// Nothing known of `bytes` bytes of shared memory from `base` on.
    pub fn new(base: u32, bytes: u32) -> Tiles {
        Tiles { base, chunks: vec![None; bytes.div_ceil(CHUNK_BYTES) as usize], copies: 0 }
    }

    /// A number for the next copy, to be given to [`Tiles::deliver`].
    pub fn copy(&mut self) -> u32 {
        self.copies += 1;
        self.copies
    }

    /// A tensor copy, written at `line` of the PTX, brought the chunk at `address`: part of row `row` of its box.
    pub fn deliver(&mut self, copy: u32, line: u32, address: u32, row: u32, swizzle: Swizzle) {
        if let Some(chunk) = self.slot(address) {
            *chunk = Some(Tag { line, copy, row, swizzle });
        }
    }

    /// Something else wrote `bytes` bytes.
    pub fn overwrite(&mut self, address: u32, bytes: u32) {
        if self.copies == 0 {
            return;
        }
        for chunk in address / CHUNK_BYTES..(address + bytes).div_ceil(CHUNK_BYTES) {
            if let Some(chunk) = self.slot(chunk * CHUNK_BYTES) {
                *chunk = None;
            }
        }
    }

    /// Checks how one operand is read: its chunks in the order of [`crate::tensor_core::Wgmma::chunks`].
    ///
    /// # Errors
    /// A fault that names the copy's line.
    pub fn check(&mut self, operand: &str, major: Major, swizzle: Swizzle, chunks: &[ChunkRead]) -> Result<(), Fault> {
        let mut columns: Vec<Option<(Tag, u32)>> = Vec::new();
        for read in chunks {
            let Some(tag) = self.slot(read.address).and_then(|chunk| *chunk) else { continue };
            if tag.swizzle != swizzle {
                return Err(Fault::new(
                    FaultKind::Descriptor,
                    format!(
                        "operand {operand} is read with swizzle {swizzle:?}, the tensor copy (PTX line {}) wrote {:#x} with {:?}",
                        tag.line, read.address, tag.swizzle
                    ),
                ));
            }
            let column = read.chunk as usize;
            if columns.len() <= column {
                columns.resize(column + 1, None);
            }
            match columns[column] {
                Some((first, line)) if first.copy == tag.copy => {
                    let (along, expected) = (read.line - line, tag.row.wrapping_sub(first.row));
                    if along != expected {
                        let name = if major == Major::K { "row" } else { "step along K" };
                        return Err(Fault::new(
                            FaultKind::Descriptor,
                            format!(
                                "operand {operand}: {name} {} is read at {:#x}, which is row {} of the tile that the tensor copy \
                                 (PTX line {}) wrote, {name} {line} at row {}: a stride of the descriptor is wrong",
                                read.line, read.address, tag.row, tag.line, first.row
                            ),
                        ));
                    }
                }
                Some(_) => {}
                None => columns[column] = Some((tag, read.line)),
            }
        }
        Ok(())
    }

    fn slot(&mut self, address: u32) -> Option<&mut Option<Tag>> {
        self.chunks.get_mut(address.checked_sub(self.base)? as usize / CHUNK_BYTES as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_core::{Element, MatrixDescriptor, OperandA, Wgmma};
    use crate::tensor_map::{Descriptor, ElementType, Fill};

    const BASE: u32 = 0x400;

    /// Two boxes of 64 x 64 bf16, one above the other, from 0x400 on.
    fn tiles(swizzle: Swizzle) -> Tiles {
        let map = Descriptor {
            address: 0x10000,
            element: ElementType::Bf16,
            rank: 2,
            sizes: [1024, 1024, 0, 0, 0],
            strides: [2048, 0, 0, 0],
            box_sizes: [swizzle.span() / 2, 64, 0, 0, 0],
            swizzle,
            fill: Fill::Zero,
        };
        let mut tiles = Tiles::new(BASE, 0x8000);
        for tile in 0..2 {
            let (copy, at) = (tiles.copy(), BASE + tile * map.box_bytes());
            for piece in map.pieces(&[0, 0], at).unwrap() {
                tiles.deliver(copy, 10 + tile, piece.shared, piece.row, map.swizzle);
            }
        }
        tiles
    }

    /// Checks operand B of 128 columns with a descriptor.
    fn check(tiles: &mut Tiles, major: Major, descriptor: MatrixDescriptor) -> Result<(), String> {
        let wgmma = Wgmma {
            n: 128,
            element: Element::Bf16,
            a_major: Major::K,
            b_major: major,
            negate_a: false,
            negate_b: false,
        };
        let none = OperandA::Registers(&[[0; 32]; 4]);
        let chunks = wgmma.chunks(0, none, descriptor);
        assert!(chunks[0].is_empty());
        tiles.check("B", major, descriptor.swizzle, &chunks[1]).map_err(|fault| fault.message)
    }

    #[test]
    fn the_strides_of_the_layout_pass_and_others_do_not() {
        for swizzle in [Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            let span = swizzle.span();
            let right = MatrixDescriptor { start: BASE, leading: 64 * span, stride: 8 * span, swizzle };
            for major in [Major::K, Major::Mn] {
                // MN-major the second half is another copy, as far as the columns reach.
                check(&mut tiles(swizzle), major, right).unwrap();
                for stride in [4 * span, 16 * span] {
                    let message = check(&mut tiles(swizzle), major, MatrixDescriptor { stride, ..right }).unwrap_err();
                    assert!(message.contains("PTX line 10") && message.contains("stride"), "{message}");
                    assert!(
                        message.contains(if major == Major::K { "row 8 is" } else { "step along K 8" }),
                        "{message}"
                    );
                }
                for other in Swizzle::ALL.into_iter().filter(|&other| other != swizzle) {
                    let wrong = MatrixDescriptor { swizzle: other, ..right };
                    let message = check(&mut tiles(swizzle), major, wrong).unwrap_err();
                    assert!(message.contains(&format!("wrote 0x400 with {swizzle:?}")), "{message}");
                }
            }
        }
    }

    #[test]
    fn what_was_written_over_is_not_judged() {
        let wrong = MatrixDescriptor { start: BASE, leading: 16, stride: 512, swizzle: Swizzle::B128 };
        let mut tiles = tiles(Swizzle::B128);
        assert!(check(&mut tiles, Major::K, wrong).is_err());
        tiles.overwrite(BASE + 1, 0x2000);
        check(&mut tiles, Major::K, wrong).unwrap();
        assert!(check(&mut Tiles::new(BASE, 0x100), Major::K, wrong).is_ok());
    }
}
