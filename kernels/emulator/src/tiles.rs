//! Whether `wgmma` reads a tile as it was laid out.
//!
//! A wrong stride or swizzle in a matrix descriptor is no fault of the hardware: the product is merely wrong. But the
//! emulator knows how a tensor map laid the tile out. For every 16-byte chunk that a tensor copy delivers it keeps the copy,
//! the swizzle, the row of the box and the contents; once these have changed, something else was written there and nothing is
//! known any more. An operand must then be read with that swizzle, and along one column of chunks the rows of a box must
//! follow each other as the rows (K-major) or the steps along K (MN-major) of the operand do. Chunks of different copies are
//! not compared.
use std::collections::HashMap;

use crate::tensor_core::{ChunkRead, Major, Shared};
use crate::tensor_map::{Descriptor, Swizzle};
use crate::{Fault, FaultKind};

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
    contents: [u8; 16],
}

/// The tiles in the shared memory of a block.
#[derive(Clone, Debug, Default)]
pub struct Tiles {
    chunks: HashMap<u32, Tag>,
    copies: u32,
}

impl Tiles {
    /// The tensor copy at `line` of the PTX has delivered its box to `at`.
    ///
    /// # Errors
    /// When the box is not inside of shared memory.
    pub fn deliver(&mut self, line: u32, map: &Descriptor, at: u32, shared: Shared) -> Result<(), Fault> {
        self.copies += 1;
        for chunk in (0..map.box_bytes()).step_by(16) {
            let address = map.swizzle.apply(at + chunk);
            let contents = *shared.chunk(address)?;
            let row = chunk / map.row_bytes();
            self.chunks.insert(address, Tag { line, copy: self.copies, row, swizzle: map.swizzle, contents });
        }
        Ok(())
    }

    /// Checks how one operand is read: its chunks in the order of [`crate::tensor_core::Wgmma::chunks`].
    ///
    /// # Errors
    /// A fault that names the copy's line.
    pub fn check(
        &self,
        operand: &str,
        major: Major,
        swizzle: Swizzle,
        chunks: &[ChunkRead],
        shared: Shared,
    ) -> Result<(), Fault> {
        let mut columns: Vec<Option<(Tag, u32)>> = Vec::new();
        for read in chunks {
            let Some(&tag) = self.chunks.get(&read.address) else { continue };
            if *shared.chunk(read.address)? != tag.contents {
                continue;
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_core::{Element, MatrixDescriptor, OperandA, Wgmma};
    use crate::tensor_map::{Descriptor, ElementType, Fill};

    const BASE: u32 = 0x400;

    /// A block in which every chunk is different.
    fn memory() -> Vec<u8> {
        (0..0x2000u32).flat_map(u32::to_le_bytes).collect()
    }

    /// Two boxes of 64 rows, one above the other, from 0x400 on.
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
        let mut tiles = Tiles::default();
        let shared = Shared { base: BASE, bytes: &memory() };
        for tile in 0..2 {
            tiles.deliver(10 + tile, &map, BASE + tile * map.box_bytes(), shared).unwrap();
        }
        let end = BASE + 0x8000;
        assert!(tiles.deliver(12, &map, end - 128, shared).is_err());
        tiles
    }

    /// Checks operand B of 128 columns with a descriptor.
    fn check(tiles: &Tiles, major: Major, descriptor: MatrixDescriptor, memory: &[u8]) -> Result<(), String> {
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
        let shared = Shared { base: BASE, bytes: memory };
        tiles.check("B", major, descriptor.swizzle, &chunks[1], shared).map_err(|fault| fault.message)
    }

    #[test]
    fn the_strides_of_the_layout_pass_and_others_do_not() {
        for swizzle in [Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            let span = swizzle.span();
            let right = MatrixDescriptor { start: BASE, leading: 64 * span, stride: 8 * span, swizzle };
            for major in [Major::K, Major::Mn] {
                // MN-major the second half is another copy, as far as the columns reach.
                check(&tiles(swizzle), major, right, &memory()).unwrap();
                for stride in [4 * span, 16 * span] {
                    let message =
                        check(&tiles(swizzle), major, MatrixDescriptor { stride, ..right }, &memory()).unwrap_err();
                    assert!(message.contains("PTX line 10") && message.contains("stride"), "{message}");
                    assert!(
                        message.contains(if major == Major::K { "row 8 is" } else { "step along K 8" }),
                        "{message}"
                    );
                }
                for other in Swizzle::ALL.into_iter().filter(|&other| other != swizzle) {
                    let wrong = MatrixDescriptor { swizzle: other, ..right };
                    let message = check(&tiles(swizzle), major, wrong, &memory()).unwrap_err();
                    assert!(message.contains(&format!("wrote 0x400 with {swizzle:?}")), "{message}");
                }
            }
        }
    }

    #[test]
    fn what_was_written_over_is_not_judged() {
        let wrong = MatrixDescriptor { start: BASE, leading: 16, stride: 512, swizzle: Swizzle::B128 };
        let (tiles, mut memory) = (tiles(Swizzle::B128), memory());
        assert!(check(&tiles, Major::K, wrong, &memory).is_err());
        memory.fill(0);
        check(&tiles, Major::K, wrong, &memory).unwrap();
        check(&Tiles::default(), Major::K, wrong, &memory).unwrap();
    }
}
