//! Matrix instructions: fragments in registers, matrices in shared memory.
use super::turn::Flow;
use super::warp::Warp;
use super::{Machine, Place};
use crate::banks;
use crate::op::{Address, Matrix, Predicate, Reg, SourceA, Space};
use crate::race::{self, Engine};
use crate::tensor_core::{self, MatrixDescriptor, OperandA, Register, Wgmma};
use crate::{Fault, FaultKind};

/// Warps of a warpgroup.
const GROUP: usize = 4;

fn gather(warp: &Warp, registers: &[Reg]) -> Result<Vec<Register>, Fault> {
    registers.iter().map(|&r| warp.need_word(r, u32::MAX).map(|()| warp.words[r as usize])).collect()
}

impl Machine<'_> {
    pub(super) fn matrix(&mut self, place: Place, warp: &mut Warp, matrix: &Matrix, mask: u32) -> Result<Flow, Fault> {
        if !self.complete_warp(warp, mask)? {
            return Ok(Flow::Blocked);
        }
        self.counters.matrix_instructions += 1;
        match matrix {
            Matrix::Multiply { shape, d, a, b, c } => {
                let (a, b) = (gather(warp, a)?, gather(warp, b)?);
                let mut accumulator = [[0; 32]; 4];
                for (value, &register) in accumulator.iter_mut().zip(c) {
                    warp.need_word(register, mask)?;
                    *value = warp.words[register as usize];
                }
                let result = shape.run(&a, &b, &accumulator);
                for (&register, value) in d.iter().zip(&result) {
                    warp.set_word(register, value, mask);
                }
                self.counters.matrix_flops += shape.flops();
            }
            Matrix::Load { d, address, transpose } => {
                let rows = self.rows(place, warp, *address, d.len())?;
                let line = self.line(warp);
                let mut data = Vec::with_capacity(rows.len());
                for &row in &rows {
                    let shared = &self.clusters[place.cluster].blocks[place.block].shared;
                    let bytes = shared.read(row, 16)?;
                    data.push(bytes.try_into().expect("16 bytes were asked for"));
                    if self.config.checks.uninitialised && !shared.is_written(row, 16) {
                        let message =
                            format!("ldmatrix reads shared memory at {row:#x}, and nothing was written there");
                        return Err(Fault::new(FaultKind::Uninitialised, message));
                    }
                    self.row_race(place, line, row, race::Access::Read)?;
                }
                let registers = tensor_core::load_matrices(&data, *transpose);
                for (&register, value) in d.iter().zip(&registers) {
                    warp.set_word(register, value, mask);
                }
            }
            Matrix::Store { values, address, transpose } => {
                let rows = self.rows(place, warp, *address, values.len())?;
                let line = self.line(warp);
                let data = tensor_core::store_matrices(&gather(warp, values)?, *transpose);
                for (&row, bytes) in rows.iter().zip(&data) {
                    self.clusters[place.cluster].blocks[place.block].shared.write(row, bytes)?;
                    self.row_race(place, line, row, race::Access::Write)?;
                }
                self.events += 1;
            }
            Matrix::Transpose { d, a } => {
                warp.need_word(*a, mask)?;
                let rows = tensor_core::store_matrices(&[warp.words[*a as usize]], true);
                let [result, ..] = tensor_core::load_matrices(&rows[..8], false);
                warp.set_word(*d, &result, mask);
            }
            Matrix::Group { shape, d, a, b, accumulate } => self.group(place, warp, shape, d, *a, *b, *accumulate)?,
            Matrix::Fence => {}
            Matrix::Commit => {
                let sequence = match self.clusters[place.cluster].races.as_mut() {
                    Some(races) => races.commit(place.race(), Engine::Matrix),
                    None => 0,
                };
                warp.matrices.push(sequence);
                self.clusters[place.cluster].blocks[place.block].matrix_commits[place.warp] += 1;
                self.events += 1;
            }
            Matrix::Wait { groups } => return self.group_wait(place, warp, *groups),
        }
        Ok(Flow::Next)
    }

    /// Addresses of the rows of `count` matrices, from the lanes that give them.
    fn rows(&mut self, place: Place, warp: &Warp, address: Address, count: usize) -> Result<Vec<u32>, Fault> {
        let lanes = count * 8;
        let used = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
        let addresses = self.addresses(warp, address, used)?;
        let mut rows = Vec::with_capacity(lanes);
        for (lane, &address) in addresses.iter().enumerate().take(lanes) {
            let (_, row) = self.shared_address(place, Space::Shared, address)?;
            if !row.is_multiple_of(tensor_core::ROW_BYTES) {
                let message =
                    format!("row address {row:#x} of a matrix is not a multiple of {}", tensor_core::ROW_BYTES);
                return Err(super::access::fault_at(FaultKind::Misaligned, lane, message));
            }
            rows.push(row);
        }
        self.counters.shared_requests += 1;
        for matrix in rows.chunks_exact(8) {
            self.counters.shared_wavefronts += u64::from(banks::matrix_wavefronts(matrix));
            self.counters.shared_ideal_wavefronts += 1;
        }
        Ok(rows)
    }

    fn row_race(&mut self, place: Place, line: u32, row: u32, access: race::Access) -> Result<(), Fault> {
        let Some(races) = self.clusters[place.cluster].races.as_mut() else { return Ok(()) };
        let space = race::Space::Shared(place.block as u32);
        let result = races.collective(place.race(), line, space, row.into(), tensor_core::ROW_BYTES, access);
        result.map_err(|race| self.race(*race))
    }

    /// `wgmma.mma_async`: computed at once; the accumulators are not to be read before the wait for the group, and the
    /// shared memory that was read is not to be written before.
    fn group(
        &mut self,
        place: Place,
        warp: &mut Warp,
        shape: &Wgmma,
        d: &[Reg],
        a: SourceA,
        b: Reg,
        accumulate: Predicate,
    ) -> Result<(), Fault> {
        let uniform = |warp: &Warp, register: Reg| {
            warp.need_long(register, u32::MAX)?;
            let values = &warp.longs[register as usize];
            if values.iter().any(|&value| value != values[0]) {
                return Err(Fault::new(FaultKind::Divergence, "a matrix descriptor differs between lanes"));
            }
            MatrixDescriptor::decode(values[0])
        };
        let b = uniform(warp, b)?;
        warp.need_predicate(accumulate, u32::MAX)?;
        let scale = warp.holds(accumulate);
        if scale != 0 && scale != u32::MAX {
            return Err(Fault::new(FaultKind::Divergence, "scale-d differs between lanes"));
        }
        let group = warp.matrices.len() as u32;
        let mut accumulators: Vec<Register> = Vec::with_capacity(d.len());
        for &register in d {
            // An unfinished wgmma of the same shape may go on with its accumulators.
            let own = warp.word_ready[register as usize] == 0
                && warp.accumulators.iter().any(|&(other, _)| other == register);
            if scale != 0 && !own {
                warp.need_word(register, u32::MAX)?;
            }
            accumulators.push(warp.words[register as usize]);
        }
        let fragment;
        let operand = match a {
            SourceA::Descriptor(register) => OperandA::Shared(uniform(warp, register)?),
            SourceA::Registers(registers) => {
                fragment = gather(warp, &registers)?.try_into().expect("a fragment of A has four registers");
                OperandA::Registers(&fragment)
            }
        };
        let mut reads = Vec::new();
        let index = (place.warp % GROUP) as u32;
        let block = &self.clusters[place.cluster].blocks[place.block];
        let shared = block.shared.view();
        shape.run(index, operand, b, scale != 0, shared, &mut accumulators, &mut reads)?;
        if self.config.checks.uninitialised
            && let Some(chunk) = reads.iter().find(|&&chunk| !block.shared.is_written(chunk, 16))
        {
            let message = format!("wgmma reads shared memory at {chunk:#x}, and nothing was written there");
            return Err(Fault::new(FaultKind::Uninitialised, message));
        }
        if self.config.checks.races {
            let [a_chunks, b_chunks] = shape.chunks(index, operand, b);
            if let OperandA::Shared(a) = operand {
                block.tiles.check("A", shape.a_major, a.swizzle, &a_chunks, shared)?;
            }
            block.tiles.check("B", shape.b_major, b.swizzle, &b_chunks, shared)?;
        }
        let line = self.line(warp);
        if let Some(races) = self.clusters[place.cluster].races.as_mut() {
            let ticket = races.issue(place.race(), Engine::Matrix, line);
            let space = race::Space::Shared(place.block as u32);
            for chunk in reads {
                let result = races.transfer(&ticket, space, chunk.into(), 16, race::Access::Read);
                if let Err(race) = result {
                    return Err(self.race(*race));
                }
            }
        }
        for (&register, value) in d.iter().zip(&accumulators) {
            warp.words[register as usize] = *value;
            if self.config.checks.uninitialised {
                warp.word_ready[register as usize] = 0;
                warp.accumulators.retain(|&(other, _)| other != register);
                warp.accumulators.push((register, group));
            }
        }
        self.counters.matrix_flops += shape.flops();
        Ok(())
    }

    /// `wgmma.wait_group`, which the four warps of a warpgroup do together: nobody passes before all have committed.
    fn group_wait(&mut self, place: Place, warp: &mut Warp, groups: u32) -> Result<Flow, Fault> {
        let wanted = (warp.matrices.len() as u32).saturating_sub(groups);
        let block = &self.clusters[place.cluster].blocks[place.block];
        let first = place.warp / GROUP * GROUP;
        let members = first..(first + GROUP).min(block.warps.len());
        if members.clone().any(|member| block.matrix_commits[member] < wanted) {
            // A member that has returned will never commit: nobody can wait for it.
            self.counters.matrix_instructions -= 1;
            return Ok(Flow::Retry);
        }
        if wanted > 0
            && let Some(races) = self.clusters[place.cluster].races.as_mut()
        {
            races.wait(place.race(), Engine::Matrix, warp.matrices[wanted as usize - 1], false);
        }
        let done: Vec<Reg> =
            warp.accumulators.iter().filter(|&&(_, group)| group < wanted).map(|&(register, _)| register).collect();
        for register in done {
            warp.word_ready[register as usize] = u32::MAX;
        }
        warp.accumulators.retain(|&(_, group)| group >= wanted);
        Ok(Flow::Next)
    }
}
