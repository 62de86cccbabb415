//! Asynchronous operations are completed here, some time after they were issued: memory is read and written, and
//! mbarriers hear of it.
use super::asynchronous::{Pending, Remote, Transfer};
use super::atomic::combine;
use super::lanes::lanes;
use super::{Machine, Place};
use crate::op::{AtomicKind, Reduction};
use crate::race::{self, Access, Object, Ticket};
use crate::tensor_map::{ElementType, Piece};
use crate::{Fault, FaultKind};

impl Machine<'_> {
    /// Completes an operation of the queue.
    pub(super) fn complete(&mut self, index: usize) -> Result<(), Fault> {
        let pending = self.pending.swap_remove(index);
        let (place, line) = (pending.place, pending.line);
        self.perform(pending).map_err(|fault| {
            let mut fault = self.located(fault.at_line(line), place);
            fault.place.warp.get_or_insert(place.warp as u32);
            fault
        })
    }

    fn perform(&mut self, pending: Pending) -> Result<(), Fault> {
        self.events += 1;
        let Pending { place, order, line, ticket, transfer, .. } = pending;
        match transfer {
            Transfer::Copy { mask, shared, global, sources, bytes } => {
                for lane in lanes(mask) {
                    let (to, from, used) = (shared[lane], global[lane], sources[lane]);
                    let mut data = [0; 16];
                    if used > 0 {
                        self.read_global(from, &mut data[..used as usize])?;
                        self.transfer(place, ticket.as_ref(), race::Space::Global, from, used, Access::Read)?;
                    }
                    let block = &mut self.clusters[place.cluster].blocks[place.block];
                    block.shared.write(to, &data[..bytes as usize])?;
                    let space = race::Space::Shared(place.block as u32);
                    self.transfer(place, ticket.as_ref(), space, to.into(), bytes, Access::Write)?;
                    self.counters.asynchronous_load_bytes += u64::from(used);
                }
            }
            Transfer::Arrive { barriers } => {
                let earlier =
                    |p: &Pending| p.place == place && p.order < order && matches!(p.transfer, Transfer::Copy { .. });
                while let Some(index) = self.pending.iter().position(earlier) {
                    self.complete(index)?;
                }
                for address in barriers {
                    let cluster = &mut self.clusters[place.cluster];
                    if let (Some(races), Some(ticket)) = (cluster.races.as_mut(), &ticket) {
                        races.report(ticket, place.block as u32, address);
                    }
                    let progress = cluster.blocks[place.block].mbarriers.get(address)?.arrive(1)?;
                    self.phase_over(place.cluster, Object::Mbarrier { block: place.block as u32, address }, progress);
                }
            }
            Transfer::Load { ranks, to, barrier, from } => {
                for rank in ranks {
                    let bound = self.bind(place, ticket.as_ref(), rank, barrier)?;
                    let bytes = match &from {
                        Remote::Linear { address, bytes } => {
                            let piece = Piece { global: Some(*address), shared: to, bytes: *bytes, row: 0 };
                            self.load_piece(place, bound.as_ref(), rank, piece, 0)?;
                            *bytes
                        }
                        Remote::Tensor { map, coordinates } => {
                            for piece in map.pieces(coordinates, to)? {
                                self.load_piece(place, bound.as_ref(), rank, piece, map.fill.byte())?;
                            }
                            if bound.is_some() {
                                let block = &mut self.clusters[place.cluster].blocks[rank];
                                block.tiles.deliver(line, map, to, block.shared.view())?;
                            }
                            map.box_bytes()
                        }
                    };
                    self.counters.asynchronous_load_bytes += u64::from(bytes);
                    self.deliver(place, bound.as_ref(), rank, barrier, bytes)?;
                }
            }
            Transfer::Exchange { from, rank, to, bytes, barrier } => {
                let bound = self.bind(place, ticket.as_ref(), rank, barrier)?;
                let data = self.read_shared(place, from, bytes)?;
                let space = race::Space::Shared(place.block as u32);
                self.transfer(place, bound.as_ref(), space, from.into(), bytes, Access::Read)?;
                self.clusters[place.cluster].blocks[rank].shared.write(to, &data)?;
                let space = race::Space::Shared(rank as u32);
                self.transfer(place, bound.as_ref(), space, to.into(), bytes, Access::Write)?;
                self.counters.asynchronous_load_bytes += u64::from(bytes);
                self.deliver(place, bound.as_ref(), rank, barrier, bytes)?;
            }
            Transfer::Store { from, to, reduction } => match &to {
                Remote::Linear { address, bytes } => {
                    let piece = Piece { global: Some(*address), shared: from, bytes: *bytes, row: 0 };
                    self.store_piece(place, ticket.as_ref(), piece, reduction)?;
                }
                Remote::Tensor { map, coordinates } => {
                    let reduction = reduction.map(|r| element_reduction(r, map.element)).transpose()?;
                    for piece in map.pieces(coordinates, from)? {
                        self.store_piece(place, ticket.as_ref(), piece, reduction)?;
                    }
                }
            },
        }
        Ok(())
    }

    fn transfer(
        &mut self,
        place: Place,
        ticket: Option<&Ticket>,
        space: race::Space,
        address: u64,
        bytes: u32,
        access: Access,
    ) -> Result<(), Fault> {
        let (Some(ticket), Some(races)) = (ticket, self.clusters[place.cluster].races.as_mut()) else { return Ok(()) };
        races.transfer(ticket, space, address, bytes, access).map_err(|race| self.race(*race))
    }

    fn bind(
        &mut self,
        place: Place,
        ticket: Option<&Ticket>,
        rank: usize,
        barrier: u32,
    ) -> Result<Option<Ticket>, Fault> {
        let (Some(ticket), Some(races)) = (ticket, self.clusters[place.cluster].races.as_mut()) else {
            return Ok(None);
        };
        races.bind(ticket, rank as u32, barrier).map(Some).map_err(|race| self.race(*race))
    }

    /// The mbarrier of a load hears of its bytes.
    fn deliver(
        &mut self,
        place: Place,
        ticket: Option<&Ticket>,
        rank: usize,
        barrier: u32,
        bytes: u32,
    ) -> Result<(), Fault> {
        let cluster = &mut self.clusters[place.cluster];
        if let (Some(races), Some(ticket)) = (cluster.races.as_mut(), ticket) {
            races.report(ticket, rank as u32, barrier);
        }
        let progress = cluster.blocks[rank].mbarriers.get(barrier)?.complete_bytes(bytes)?;
        self.phase_over(place.cluster, Object::Mbarrier { block: rank as u32, address: barrier }, progress);
        Ok(())
    }

    fn read_global(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let range = self.memory.locate(address, into.len())?;
        if self.config.checks.uninitialised && !self.memory.written(range, into.len()) {
            let message = format!("a copy reads global memory at {address:#x}, and nothing was written there");
            return Err(Fault::new(FaultKind::Uninitialised, message));
        }
        into.copy_from_slice(self.memory.bytes(range, into.len()));
        Ok(())
    }

    fn read_shared(&self, place: Place, address: u32, bytes: u32) -> Result<Vec<u8>, Fault> {
        let shared = &self.clusters[place.cluster].blocks[place.block].shared;
        let data = shared.read(address, bytes as usize)?;
        if self.config.checks.uninitialised && !shared.is_written(address, bytes as usize) {
            let message = format!("a copy reads shared memory at {address:#x}, and nothing was written there");
            return Err(Fault::new(FaultKind::Uninitialised, message));
        }
        Ok(data.to_vec())
    }

    fn load_piece(
        &mut self,
        place: Place,
        ticket: Option<&Ticket>,
        rank: usize,
        piece: Piece,
        fill: u8,
    ) -> Result<(), Fault> {
        let Piece { global, shared, bytes, .. } = piece;
        let mut data = vec![fill; bytes as usize];
        if let Some(address) = global {
            self.read_global(address, &mut data)?;
            self.transfer(place, ticket, race::Space::Global, address, bytes, Access::Read)?;
        }
        self.clusters[place.cluster].blocks[rank].shared.write(shared, &data)?;
        self.transfer(place, ticket, race::Space::Shared(rank as u32), shared.into(), bytes, Access::Write)
    }

    fn store_piece(
        &mut self,
        place: Place,
        ticket: Option<&Ticket>,
        piece: Piece,
        reduction: Option<Reduction>,
    ) -> Result<(), Fault> {
        let Piece { global: Some(address), shared, bytes, .. } = piece else { return Ok(()) };
        let data = self.read_shared(place, shared, bytes)?;
        self.transfer(place, ticket, race::Space::Shared(place.block as u32), shared.into(), bytes, Access::Read)?;
        let range = self.memory.locate(address, bytes as usize)?;
        self.counters.asynchronous_store_bytes += u64::from(bytes);
        let Some(Reduction { op, kind: Some((kind, element)) }) = reduction else {
            self.memory.bytes_mut(range, bytes as usize).copy_from_slice(&data);
            return self.transfer(place, ticket, race::Space::Global, address, bytes, Access::Write);
        };
        if self.config.checks.uninitialised && !self.memory.written(range, bytes as usize) {
            let message = format!("a reduction into global memory at {address:#x}, and nothing was written there");
            return Err(Fault::new(FaultKind::Uninitialised, message));
        }
        let size = usize::from(element);
        let target = self.memory.bytes_mut(range, bytes as usize);
        for (old, new) in target.chunks_exact_mut(size).zip(data.chunks_exact(size)) {
            let number = |bytes: &[u8]| {
                let mut value = [0; 8];
                value[..size].copy_from_slice(bytes);
                u64::from_le_bytes(value)
            };
            let result = combine(op, kind, element, number(old), number(new));
            old.copy_from_slice(&result.to_le_bytes()[..size]);
        }
        let (Some(ticket), Some(races)) = (ticket, self.clusters[place.cluster].races.as_mut()) else { return Ok(()) };
        races.reduce(ticket, race::Space::Global, address, bytes).map_err(|race| self.race(*race))
    }
}

/// The reduction of a tensor's elements.
fn element_reduction(reduction: Reduction, element: ElementType) -> Result<Reduction, Fault> {
    let kind = match element {
        ElementType::U32 | ElementType::U64 => AtomicKind::Unsigned,
        ElementType::I32 | ElementType::I64 => AtomicKind::Signed,
        ElementType::F16 => AtomicKind::F16,
        ElementType::Bf16 => AtomicKind::Bf16,
        ElementType::F32 => AtomicKind::F32,
        ElementType::F64 => AtomicKind::F64,
        ElementType::U8 | ElementType::U16 => {
            let message = format!("a tensor of {element:?} cannot be reduced into");
            return Err(Fault::new(FaultKind::Descriptor, message));
        }
    };
    Ok(Reduction { kind: Some((kind, element.bytes() as u8)), ..reduction })
}
