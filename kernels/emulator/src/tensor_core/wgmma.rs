//! `wgmma.mma_async.sync.aligned.m64nNk*.f32.*.*`, the part that one warp of a warpgroup does.
use std::ops::Range;

use super::fragment::{self, BLOCK, Columns, Rows};
use super::{Element, Major, MatrixDescriptor, Register, Shared};
use crate::{Fault, FaultKind};

/// One form of the instruction: D (64 x N) = A (64 x K) B (K x N) + D, where K is 32 bytes of elements. Warp `w` of the
/// warpgroup owns rows 16 w to 16 w + 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wgmma {
    /// Columns of B and D: a multiple of 8 up to 256.
    pub n: u32,
    /// Type of A and B.
    pub element: Element,
    /// Which dimension of A is contiguous in shared memory.
    pub a_major: Major,
    /// Which dimension of B is contiguous in shared memory.
    pub b_major: Major,
    /// Whether A is negated (imm-scale-a of -1).
    pub negate_a: bool,
    /// Whether B is negated (imm-scale-b of -1).
    pub negate_b: bool,
}

/// A 16-byte chunk of an operand in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRead {
    /// Where it lies, after the swizzle.
    pub address: u32,
    /// K-major: row of A or column of B. MN-major: position along K.
    pub line: u32,
    /// Chunk of the line.
    pub chunk: u32,
}

/// Where A comes from.
#[derive(Clone, Copy, Debug)]
pub enum OperandA<'a> {
    /// From shared memory.
    Shared(MatrixDescriptor),
    /// From this warp's registers: 16 rows in the fragment of `mma.sync` m16n8k16 (or k8 for tf32).
    Registers(&'a [Register; 4]),
}

impl Wgmma {
    /// Checks what the assembler would check.
    ///
    /// # Errors
    /// When `n` is not a multiple of 8 from 8 to 256, or a tf32 operand is not K-major.
    pub fn validate(&self) -> Result<(), Fault> {
        let fail = |message: String| Err(Fault::new(FaultKind::Unsupported, message));
        if self.n == 0 || self.n > 256 || !self.n.is_multiple_of(8) {
            return fail(format!("wgmma has 8 to 256 columns in steps of 8, not {}", self.n));
        }
        if self.element == Element::Tf32 && (self.a_major, self.b_major) != (Major::K, Major::K) {
            return fail("wgmma reads tf32 operands K-major only".into());
        }
        Ok(())
    }

    /// Depth of one instruction: 16 for 2-byte elements, 8 for tf32.
    pub fn k(&self) -> u32 {
        32 / self.element.bytes()
    }

    /// Accumulator registers of a lane: N / 2.
    pub fn d_registers(&self) -> usize {
        self.n as usize / 2
    }

    /// Floating-point operations of a warp's part, two for each multiply-add.
    pub fn flops(&self) -> u64 {
        2 * 16 * u64::from(self.n * self.k())
    }

    /// Executes the part of warp `warp` (0 to 3 within the warpgroup) on its accumulators `d`. Without `accumulate` (the
    /// predicate scale-d) the old values of `d` are not used. Adds the addresses of the 16-byte chunks that were read from
    /// shared memory to `reads`: the warp's rows of A, and all of B.
    ///
    /// # Errors
    /// When a descriptor leads outside of shared memory.
    pub fn run(
        &self,
        warp: u32,
        a: OperandA,
        b: MatrixDescriptor,
        accumulate: bool,
        shared: Shared,
        d: &mut [Register],
        reads: &mut Vec<u32>,
    ) -> Result<(), Fault> {
        let k = self.k() as usize;
        let mut a = match a {
            OperandA::Registers(registers) => Rows::gather(self.element, registers, k),
            OperandA::Shared(descriptor) => {
                let (mut rows, first) = (Rows::new(k), 16 * warp);
                self.load(descriptor, self.a_major, first..first + 16, shared, reads, |m, depth, value| {
                    rows.values[(m - first) as usize * k + depth as usize] = value;
                })?;
                rows
            }
        };
        let mut b_blocks = vec![Columns::default(); self.n as usize / BLOCK];
        self.load(b, self.b_major, 0..self.n, shared, reads, |column, depth, value| {
            b_blocks[column as usize / BLOCK][depth as usize][column as usize % BLOCK] = value;
        })?;
        if self.negate_a != self.negate_b {
            a.values.iter_mut().for_each(|value| *value = -*value);
        }
        for (b, d) in b_blocks.iter().zip(d.chunks_exact_mut(4)) {
            fragment::multiply_add(&a, b, accumulate, d);
        }
        Ok(())
    }

    /// The chunks of operands A (none from registers) and B that the part of warp `warp` reads, in the order of reading.
    pub fn chunks(&self, warp: u32, a: OperandA, b: MatrixDescriptor) -> [Vec<ChunkRead>; 2] {
        let a = match a {
            OperandA::Registers(_) => Vec::new(),
            OperandA::Shared(descriptor) => {
                self.operand_chunks(descriptor, self.a_major, 16 * warp..16 * warp + 16).collect()
            }
        };
        [a, self.operand_chunks(b, self.b_major, 0..self.n).collect()]
    }

    fn operand_chunks(
        &self,
        descriptor: MatrixDescriptor,
        major: Major,
        range: Range<u32>,
    ) -> impl Iterator<Item = ChunkRead> + use<> {
        let width = 16 / self.element.bytes();
        let (lines, chunks) = match major {
            Major::K => (range, 0..self.k() / width),
            Major::Mn => (0..self.k(), range.start / width..range.end / width),
        };
        lines.flat_map(move |line| {
            let chunks = chunks.clone();
            chunks.map(move |chunk| ChunkRead { address: descriptor.chunk_address(major, line, chunk), line, chunk })
        })
    }

    /// Reads elements (mn, k) for mn in `range` and every k, and gives each to `put`.
    fn load(
        &self,
        descriptor: MatrixDescriptor,
        major: Major,
        range: Range<u32>,
        shared: Shared,
        reads: &mut Vec<u32>,
        mut put: impl FnMut(u32, u32, f64),
    ) -> Result<(), Fault> {
        let packed = 4 / self.element.bytes();
        for ChunkRead { address, line, chunk } in self.operand_chunks(descriptor, major, range) {
            reads.push(address);
            for (word, bytes) in (0..).zip(shared.chunk(address)?.as_chunks::<4>().0) {
                let values = self.element.decode(u32::from_le_bytes(*bytes));
                for (half, value) in (0..packed).zip(values) {
                    let along = (chunk * 4 + word) * packed + half;
                    let (mn, depth) = if major == Major::K { (line, along) } else { (along, line) };
                    put(mn, depth, value);
                }
            }
        }
        Ok(())
    }
}
