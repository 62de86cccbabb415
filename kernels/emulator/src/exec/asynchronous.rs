//! Asynchronous copies are issued here: operands are read and checked, and the operation joins the queue. Groups are
//! committed and waited for.
use super::access::{fault_at, in_lane};
use super::lanes::{Longs, lanes};
use super::turn::Flow;
use super::warp::Warp;
use super::{Machine, Place};
use crate::op::{Address, Async, Reduction, Reg, Region, Space};
use crate::race::{Engine, Ticket};
use crate::tensor_map::Descriptor;
use crate::{Fault, FaultKind};

/// Bytes of a tensor map, which begins at a multiple of half of them.
const MAP_BYTES: usize = 128;
/// What bulk copies are aligned to, and their sizes multiples of.
const BULK_ALIGN: u64 = 16;
/// What a box in shared memory is aligned to.
const BOX_ALIGN: u32 = 128;

/// The groups that a wait concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Copies,
    Bulk,
}

/// The part of an operation in global memory.
#[derive(Clone, Debug)]
pub(super) enum Remote {
    Linear { address: u64, bytes: u32 },
    Tensor { map: Box<Descriptor>, coordinates: Vec<i32> },
}

/// What an operation in the queue will do.
#[derive(Clone, Debug)]
pub(super) enum Transfer {
    /// `cp.async` of some lanes, of which `sources` bytes come from global memory.
    Copy { mask: u32, shared: Box<[u32; 32]>, global: Box<Longs>, sources: Box<[u32; 32]>, bytes: u32 },
    /// `cp.async.mbarrier.arrive`: arrivals at these mbarriers once earlier copies of the warp are complete.
    Arrive { barriers: Vec<u32> },
    /// To the shared memory of some blocks, at the same address in each, and to the mbarriers beside it.
    Load { ranks: Vec<usize>, to: u32, barrier: u32, from: Remote },
    /// From shared memory to another block's.
    Exchange { from: u32, rank: usize, to: u32, bytes: u32, barrier: u32 },
    /// From shared memory.
    Store { from: u32, to: Remote, reduction: Option<Reduction> },
}

/// An operation that was issued and is not complete.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub place: Place,
    /// Issue number.
    pub order: u64,
    /// Line of the PTX that issued it.
    pub line: u32,
    /// Group numbers of the lanes that issued it.
    pub groups: Option<(Family, u32, Box<[u32; 32]>)>,
    pub ticket: Option<Ticket>,
    pub transfer: Transfer,
}

fn misaligned(lane: usize, what: &str, address: u64, align: u64) -> Fault {
    fault_at(FaultKind::Misaligned, lane, format!("the {what} {address:#x} is not a multiple of {align}"))
}

impl Machine<'_> {
    pub(super) fn asynchronous(
        &mut self,
        place: Place,
        warp: &mut Warp,
        copy: &Async,
        mask: u32,
    ) -> Result<Flow, Fault> {
        self.counters.memory_instructions += 1;
        self.events += 1;
        match copy {
            Async::Copy { .. } => self.issue_copy(place, warp, copy, mask)?,
            Async::Commit => {
                let sequence = self.commit(place, Engine::Copy);
                warp.copies.commit(mask, sequence);
            }
            Async::Wait { groups } => {
                if groups.is_none() {
                    let sequence = self.commit(place, Engine::Copy);
                    warp.copies.commit(mask, sequence);
                }
                let (limits, end) = warp.copies.waited(mask, groups.unwrap_or(0));
                self.finish_groups(place, Family::Copies, mask, &limits)?;
                self.learn(place, Engine::Copy, end, false);
            }
            Async::Arrive { barrier, expect } => {
                let addresses = self.addresses(warp, *barrier, mask)?;
                let mut barriers = Vec::new();
                for lane in lanes(mask) {
                    let (_, address) = self.shared_address(place, Space::Shared, addresses[lane])?;
                    let object = self.clusters[place.cluster].blocks[place.block].mbarriers.get(address)?;
                    if *expect {
                        object.expect_arrival()?;
                    }
                    barriers.push(address);
                }
                let ticket = warp.newest_copy.clone();
                self.queue(place, warp, ticket, None, Transfer::Arrive { barriers });
            }
            Async::Load { shared, from, barrier, multicast } => {
                self.issue_load(place, warp, *shared, from, *barrier, *multicast, mask)?;
            }
            Async::Exchange { to, from, bytes, barrier } => {
                self.issue_exchange(place, warp, [*to, *from, *barrier], *bytes, mask)?;
            }
            Async::Store { to, shared, reduction } => {
                let addresses = self.addresses(warp, *shared, mask)?;
                for lane in lanes(mask) {
                    let (_, from) = self.shared_address(place, Space::Shared, addresses[lane])?;
                    let to = self.remote(place, warp, to, from, lane)?;
                    let line = self.line(warp);
                    let races = self.clusters[place.cluster].races.as_mut();
                    let ticket = races.map(|races| races.issue(place.race(), Engine::Bulk, line));
                    let groups = Some((Family::Bulk, 1 << lane, Box::new(warp.bulk.open())));
                    self.queue(place, warp, ticket, groups, Transfer::Store { from, to, reduction: *reduction });
                }
            }
            Async::BulkCommit => {
                let sequence = self.commit(place, Engine::Bulk);
                warp.bulk.commit(mask, sequence);
            }
            Async::BulkWait { groups, read } => {
                let (limits, end) = warp.bulk.waited(mask, *groups);
                self.finish_groups(place, Family::Bulk, mask, &limits)?;
                self.learn(place, Engine::Bulk, end, *read);
            }
        }
        Ok(Flow::Next)
    }

    fn commit(&mut self, place: Place, engine: Engine) -> u32 {
        self.clusters[place.cluster].races.as_mut().map_or(0, |races| races.commit(place.race(), engine))
    }

    fn learn(&mut self, place: Place, engine: Engine, end: Option<u32>, reads_only: bool) {
        if let (Some(end), Some(races)) = (end, self.clusters[place.cluster].races.as_mut()) {
            races.wait(place.race(), engine, end, reads_only);
        }
    }

    fn queue(
        &mut self,
        place: Place,
        warp: &Warp,
        ticket: Option<Ticket>,
        groups: Option<(Family, u32, Box<[u32; 32]>)>,
        transfer: Transfer,
    ) {
        let (order, line) = (self.order, self.line(warp));
        self.order += 1;
        self.pending.push(Pending { place, order, line, groups, ticket, transfer });
    }

    /// Completes, in random order, what the groups below `limits` of some lanes still have in the queue.
    fn finish_groups(&mut self, place: Place, family: Family, mask: u32, limits: &[u32; 32]) -> Result<(), Fault> {
        loop {
            let wanted = |pending: &Pending| match &pending.groups {
                Some((its, issuers, numbers)) if pending.place == place && *its == family => {
                    lanes(issuers & mask).any(|lane| numbers[lane] < limits[lane])
                }
                _ => false,
            };
            let found: Vec<usize> = (0..self.pending.len()).filter(|&i| wanted(&self.pending[i])).collect();
            if found.is_empty() {
                return Ok(());
            }
            let chosen = found[self.random.below(found.len())];
            self.complete(chosen)?;
        }
    }

    fn issue_copy(&mut self, place: Place, warp: &mut Warp, copy: &Async, mask: u32) -> Result<(), Fault> {
        let Async::Copy { shared, global, bytes, source, skip } = copy else { unreachable!("the caller matched it") };
        let to = self.addresses(warp, *shared, mask)?;
        let from = self.addresses(warp, *global, mask)?;
        let mut targets = [0; 32];
        let mut sources = [*bytes; 32];
        if let Some(register) = source {
            warp.need_word(*register, mask)?;
            sources = warp.words[*register as usize];
        }
        if let Some(predicate) = skip {
            warp.need_predicate(*predicate, mask)?;
            let skipped = warp.holds(*predicate);
            lanes(skipped & mask).for_each(|lane| sources[lane] = 0);
        }
        let align = u64::from(*bytes);
        for lane in lanes(mask) {
            let (_, address) = self.shared_address(place, Space::Shared, to[lane])?;
            if u64::from(address) % align != 0 {
                return Err(misaligned(lane, "destination", address.into(), align));
            }
            if from[lane] % align != 0 {
                return Err(misaligned(lane, "source", from[lane], align));
            }
            if sources[lane] > *bytes {
                let message = format!("{} bytes of source for a copy of {bytes}", sources[lane]);
                return Err(fault_at(FaultKind::OutOfBounds, lane, message));
            }
            let locate = || {
                self.clusters[place.cluster].blocks[place.block].shared.locate(address, *bytes as usize)?;
                if sources[lane] > 0 {
                    self.memory.locate(from[lane], sources[lane] as usize)?;
                }
                Ok(())
            };
            locate().map_err(in_lane(lane))?;
            targets[lane] = address;
        }
        self.count_shared(&targets, mask, *bytes);
        self.counters.global_load_requests += 1;
        self.counters.global_load_sectors += u64::from(crate::banks::global_sectors(&from, mask, *bytes));
        let line = self.line(warp);
        let races = self.clusters[place.cluster].races.as_mut();
        let ticket = races.map(|races| races.issue(place.race(), Engine::Copy, line));
        warp.newest_copy.clone_from(&ticket);
        let groups = Some((Family::Copies, mask, Box::new(warp.copies.open())));
        let transfer = Transfer::Copy {
            mask,
            shared: Box::new(targets),
            global: Box::new(from),
            sources: Box::new(sources),
            bytes: *bytes,
        };
        self.queue(place, warp, ticket, groups, transfer);
        Ok(())
    }

    /// One lane's region of global memory, for a copy with `shared` at the other end.
    fn remote(&self, place: Place, warp: &Warp, region: &Region, shared: u32, lane: usize) -> Result<Remote, Fault> {
        let mask = 1 << lane;
        match region {
            Region::Linear { address, bytes } => {
                let address = self.addresses(warp, *address, mask)?[lane];
                let bytes = self.bulk_bytes(warp, *bytes, lane)?;
                for (what, address) in [("global address", address), ("shared address", shared.into())] {
                    if address % BULK_ALIGN != 0 {
                        return Err(misaligned(lane, what, address, BULK_ALIGN));
                    }
                }
                self.memory.locate(address, bytes as usize)?;
                self.clusters[place.cluster].blocks[place.block].shared.locate(shared, bytes as usize)?;
                Ok(Remote::Linear { address, bytes })
            }
            Region::Tensor { map, coordinates } => {
                let address = self.addresses(warp, *map, mask)?[lane];
                let map = self.tensor_map(address, lane)?;
                if !shared.is_multiple_of(BOX_ALIGN) {
                    return Err(misaligned(lane, "shared address", shared.into(), BOX_ALIGN.into()));
                }
                self.clusters[place.cluster].blocks[place.block].shared.locate(shared, map.box_bytes() as usize)?;
                let mut values = Vec::with_capacity(coordinates.len());
                for &register in coordinates {
                    warp.need_word(register, mask)?;
                    values.push(warp.words[register as usize][lane] as i32);
                }
                if values.len() != map.rank {
                    let message = format!("{} coordinates for a tensor map of {} dimensions", values.len(), map.rank);
                    return Err(fault_at(FaultKind::Descriptor, lane, message));
                }
                Ok(Remote::Tensor { map: Box::new(map), coordinates: values })
            }
        }
    }

    fn bulk_bytes(&self, warp: &Warp, register: Reg, lane: usize) -> Result<u32, Fault> {
        warp.need_word(register, 1 << lane)?;
        let bytes = warp.words[register as usize][lane];
        if u64::from(bytes) % BULK_ALIGN != 0 {
            return Err(misaligned(lane, "number of bytes", bytes.into(), BULK_ALIGN));
        }
        Ok(bytes)
    }

    /// The tensor map at a generic address: a parameter of the kernel, or in global memory.
    fn tensor_map(&self, address: u64, lane: usize) -> Result<Descriptor, Fault> {
        let (addresses, parts) = self.spaces(Space::Generic, &[address; 32], 1 << lane);
        let parameter = parts.contains(&(Space::Param, 1 << lane));
        if !address.is_multiple_of(MAP_BYTES as u64 / 2) {
            return Err(misaligned(lane, "address of a tensor map", address, MAP_BYTES as u64 / 2));
        }
        let at = addresses[lane];
        let bytes = if parameter {
            self.parameters.get(at as usize..at as usize + MAP_BYTES)
        } else {
            Some(self.memory.bytes(self.memory.locate(at, MAP_BYTES)?, MAP_BYTES))
        };
        let bytes = bytes.and_then(|bytes| bytes.first_chunk()).ok_or_else(|| {
            fault_at(FaultKind::OutOfBounds, lane, "a tensor map that is not among the parameters".into())
        })?;
        Descriptor::decode(bytes)
    }

    fn issue_load(
        &mut self,
        place: Place,
        warp: &mut Warp,
        shared: Address,
        from: &Region,
        barrier: Address,
        multicast: Option<Reg>,
        mask: u32,
    ) -> Result<(), Fault> {
        let to = self.addresses(warp, shared, mask)?;
        let barriers = self.addresses(warp, barrier, mask)?;
        if let Some(register) = multicast {
            warp.need_word(register, mask)?;
        }
        for lane in lanes(mask) {
            let (rank, to) = self.shared_address(place, Space::Cluster, to[lane])?;
            let (barrier_rank, barrier) = self.shared_address(place, Space::Cluster, barriers[lane])?;
            if rank != barrier_rank {
                let message =
                    format!("the copy goes to block {rank} of the cluster, its mbarrier is in block {barrier_rank}");
                return Err(fault_at(FaultKind::Barrier, lane, message));
            }
            let from = self.remote(place, warp, from, to, lane)?;
            let blocks = self.clusters[place.cluster].blocks.len();
            let ranks = match multicast {
                None => vec![rank],
                Some(register) => {
                    let targets = warp.words[register as usize][lane];
                    if targets == 0 || targets >> blocks != 0 {
                        let message = format!("multicast to the blocks {targets:#x} of a cluster of {blocks}");
                        return Err(fault_at(FaultKind::OutOfBounds, lane, message));
                    }
                    lanes(targets).collect()
                }
            };
            for &rank in &ranks {
                self.clusters[place.cluster].blocks[rank].mbarriers.get(barrier)?;
            }
            let line = self.line(warp);
            let races = self.clusters[place.cluster].races.as_mut();
            let ticket = races.map(|races| races.issue_load(place.race(), line));
            self.queue(place, warp, ticket, None, Transfer::Load { ranks, to, barrier, from });
        }
        Ok(())
    }

    fn issue_exchange(
        &mut self,
        place: Place,
        warp: &mut Warp,
        [to, from, barrier]: [Address; 3],
        bytes: Reg,
        mask: u32,
    ) -> Result<(), Fault> {
        let to = self.addresses(warp, to, mask)?;
        let from = self.addresses(warp, from, mask)?;
        let barriers = self.addresses(warp, barrier, mask)?;
        for lane in lanes(mask) {
            let (rank, to) = self.shared_address(place, Space::Cluster, to[lane])?;
            let (_, from) = self.shared_address(place, Space::Shared, from[lane])?;
            let (barrier_rank, barrier) = self.shared_address(place, Space::Cluster, barriers[lane])?;
            if rank != barrier_rank {
                let message =
                    format!("the copy goes to block {rank} of the cluster, its mbarrier is in block {barrier_rank}");
                return Err(fault_at(FaultKind::Barrier, lane, message));
            }
            let bytes = self.bulk_bytes(warp, bytes, lane)?;
            for (what, address) in [("destination", to), ("source", from)] {
                if u64::from(address) % BULK_ALIGN != 0 {
                    return Err(misaligned(lane, what, address.into(), BULK_ALIGN));
                }
            }
            let cluster = &mut self.clusters[place.cluster];
            cluster.blocks[rank].shared.locate(to, bytes as usize)?;
            cluster.blocks[place.block].shared.locate(from, bytes as usize)?;
            cluster.blocks[rank].mbarriers.get(barrier)?;
            let line = self.line(warp);
            let races = self.clusters[place.cluster].races.as_mut();
            let ticket = races.map(|races| races.issue_load(place.race(), line));
            self.queue(place, warp, ticket, None, Transfer::Exchange { from, rank, to, bytes, barrier });
        }
        Ok(())
    }
}
