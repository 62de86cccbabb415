//! Loads and stores of all spaces, and what addresses mean.
use super::lanes::{Longs, lanes};
use super::warp::Warp;
use super::{Machine, Place};
use crate::banks;
use crate::op::{Access, Address, Op, Order, Space};
use crate::race::{self, Strong};
use crate::{Fault, FaultKind};

/// Generic addresses of shared memory: the window, plus a shared address of 32 bits.
pub const SHARED_WINDOW: u64 = 0x7000_0000_0000;
/// Generic addresses of the lane's local memory.
pub const LOCAL_WINDOW: u64 = 0x6000_0000_0000;
/// Generic addresses of the kernel's parameters.
pub const PARAMETER_WINDOW: u64 = 0x5000_0000_0000;
/// Bytes of a window.
const WINDOW: u64 = 1 << 32;
/// Bits of a shared address below the number that tells blocks of a cluster apart: 0 for the own block, else rank plus 1.
const RANK_SHIFT: u32 = 24;

/// The window that a generic address lies in.
fn window(address: u64) -> Space {
    match address {
        SHARED_WINDOW..0x7001_0000_0000 => Space::Cluster,
        LOCAL_WINDOW..0x6001_0000_0000 => Space::Local,
        PARAMETER_WINDOW..0x5001_0000_0000 => Space::Param,
        _ => Space::Global,
    }
}

fn base(space: Space) -> u64 {
    match space {
        Space::Shared | Space::Cluster => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAMETER_WINDOW,
        Space::Generic | Space::Global => 0,
    }
}

pub(super) fn fault_at(kind: FaultKind, lane: usize, message: String) -> Fault {
    let mut fault = Fault::new(kind, message);
    fault.place.lanes = Some(1 << lane);
    fault
}

fn in_lane(lane: usize) -> impl Fn(Fault) -> Fault {
    move |mut fault| {
        fault.place.lanes.get_or_insert(1 << lane);
        fault
    }
}

/// What a request to one space is.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub mask: u32,
    /// Bytes of each lane.
    pub bytes: u32,
    pub write: bool,
    pub order: Order,
}

impl Machine<'_> {
    /// The address of each lane.
    pub(super) fn addresses(&self, warp: &Warp, address: Address, mask: u32) -> Result<Longs, Fault> {
        let mut result = [0; 32];
        if address.wide {
            warp.need_long(address.base, mask)?;
            let base = &warp.longs[address.base as usize];
            for lane in 0..32 {
                result[lane] = base[lane].wrapping_add_signed(address.offset);
            }
        } else {
            warp.need_word(address.base, mask)?;
            let base = &warp.words[address.base as usize];
            for lane in 0..32 {
                result[lane] = u64::from(base[lane].wrapping_add(address.offset as u32));
            }
        }
        Ok(result)
    }

    /// Splits generic addresses by the window they lie in: addresses within their space, and a mask for each space.
    pub(super) fn spaces(&self, space: Space, addresses: &Longs, mask: u32) -> (Longs, [(Space, u32); 4]) {
        let none = (Space::Global, 0);
        if space != Space::Generic {
            return (*addresses, [(space, mask), none, none, none]);
        }
        let mut local = *addresses;
        let mut parts = [(Space::Global, 0), (Space::Cluster, 0), (Space::Local, 0), (Space::Param, 0)];
        for lane in lanes(mask) {
            let space = window(addresses[lane]);
            local[lane] = addresses[lane] - base(space);
            for (part, lanes) in &mut parts {
                *lanes |= u32::from(*part == space) << lane;
            }
        }
        (local, parts)
    }

    /// The rank of the block that a shared address names, and the address there.
    pub(super) fn shared_address(&self, place: Place, space: Space, address: u64) -> Result<(usize, u32), Fault> {
        let outside = || {
            let message = format!("{address:#x} is not an address of shared memory");
            Fault::new(FaultKind::OutOfBounds, message)
        };
        // A generic address in a shared window names the same byte.
        let address = if address >= SHARED_WINDOW && address < SHARED_WINDOW + WINDOW { address - SHARED_WINDOW } else { address };
        let address = u32::try_from(address).map_err(|_| outside())?;
        let tag = address >> RANK_SHIFT;
        if tag == 0 {
            return Ok((place.block, address));
        }
        let rank = tag as usize - 1;
        let blocks = &self.clusters[place.cluster].blocks;
        if rank >= blocks.len() || (space == Space::Shared && rank != place.block) {
            return Err(outside());
        }
        if blocks[rank].live == 0 {
            let message = format!("{address:#x} is in the shared memory of block {rank} of the cluster, which has ended");
            return Err(Fault::new(FaultKind::OutOfBounds, message));
        }
        Ok((rank, address & ((1 << RANK_SHIFT) - 1)))
    }

    /// Shared addresses of a request, with masks of the ranks they belong to.
    fn ranks(
        &self,
        place: Place,
        space: Space,
        addresses: &Longs,
        mask: u32,
    ) -> Result<([u32; 32], Vec<(usize, u32)>), Fault> {
        let mut local = [0; 32];
        let mut ranks: Vec<(usize, u32)> = Vec::new();
        for lane in lanes(mask) {
            let (rank, address) = self.shared_address(place, space, addresses[lane]).map_err(in_lane(lane))?;
            local[lane] = address;
            match ranks.iter_mut().find(|(known, _)| *known == rank) {
                Some((_, lanes)) => *lanes |= 1 << lane,
                None => ranks.push((rank, 1 << lane)),
            }
        }
        Ok((local, ranks))
    }

    /// Line of the PTX that a warp is at.
    pub(super) fn line(&self, warp: &Warp) -> u32 {
        self.kernel.sites[warp.pc as usize].line
    }

    pub(super) fn race(&self, race: Box<race::Race>) -> Fault {
        let kernel = self.kernel;
        race.into_fault(|line| kernel.source(line))
    }

    fn check_race(
        &mut self,
        place: Place,
        line: u32,
        space: race::Space,
        addresses: &Longs,
        request: Request,
    ) -> Result<(), Fault> {
        let Some(races) = self.clusters[place.cluster].races.as_mut() else { return Ok(()) };
        let Request { mask, bytes, write, order } = request;
        let result = if order == Order::Weak {
            let access = if write { race::Access::Write } else { race::Access::Read };
            races.access(place.race(), line, space, mask, addresses, bytes, access)
        } else {
            let acquire = matches!(order, Order::Acquire | Order::AcquireRelease);
            let release = matches!(order, Order::Release | Order::AcquireRelease);
            let strong = Strong { writes: write, reads: !write, acquire, release };
            races.strong(place.race(), line, space, mask, addresses, bytes, strong)
        };
        result.map_err(|race| self.race(race))
    }

    fn aligned(address: u64, bytes: u32, lane: usize) -> Result<(), Fault> {
        if address.is_multiple_of(u64::from(bytes)) {
            return Ok(());
        }
        let message = format!("address {address:#x} is not a multiple of the {bytes} bytes of the access");
        Err(fault_at(FaultKind::Misaligned, lane, message))
    }

    /// Counts a request to shared memory.
    pub(super) fn count_shared(&mut self, addresses: &[u32; 32], mask: u32, bytes: u32) {
        let bytes = bytes.min(16);
        self.counters.shared_requests += 1;
        let first = addresses[mask.trailing_zeros() as usize & 31];
        let same = lanes(mask).all(|lane| addresses[lane] == first);
        let consecutive = mask == u32::MAX && (0..32).all(|lane| addresses[lane] == first + lane as u32 * bytes);
        let (needed, ideal) = if same || (consecutive && first.is_multiple_of(128)) {
            let passes = if same { u64::from(mask.count_ones().div_ceil(128 / bytes.max(4))) } else { u64::from((bytes * 32).div_ceil(128)) };
            (passes, passes)
        } else {
            let needed = banks::shared_wavefronts(addresses, mask, bytes);
            (u64::from(needed), u64::from(banks::ideal_wavefronts(addresses, mask, bytes)))
        };
        self.counters.shared_wavefronts += needed;
        self.counters.shared_ideal_wavefronts += ideal;
    }

    pub(super) fn load(&mut self, place: Place, warp: &mut Warp, access: &Access, mask: u32) -> Result<(), Fault> {
        self.counters.memory_instructions += 1;
        let addresses = self.addresses(warp, access.address, mask)?;
        let (addresses, parts) = self.spaces(access.space, &addresses, mask);
        let count = access.registers.len();
        let element = usize::from(access.bytes);
        let bytes = element * count;
        // The elements of each lane, as they go to registers.
        let mut values = [[0u64; 32]; 8];
        for (space, mask) in parts.into_iter().filter(|(_, mask)| *mask != 0) {
            let request = Request { mask, bytes: bytes as u32, write: false, order: access.order };
            match space {
                Space::Global | Space::Generic => self.load_global(place, warp, &addresses, request, element, &mut values)?,
                Space::Shared | Space::Cluster => {
                    self.load_shared(place, warp, space, &addresses, request, element, &mut values)?;
                }
                Space::Local => {
                    for lane in lanes(mask) {
                        let at = self.local(warp, lane, addresses[lane], bytes)?;
                        if self.config.checks.uninitialised && !warp.local_written.contains(at, bytes) {
                            return Err(unwritten(lane, "local", addresses[lane]));
                        }
                        take(&warp.local[at..at + bytes], element, lane, &mut values);
                    }
                }
                Space::Param => {
                    for lane in lanes(mask) {
                        Self::aligned(addresses[lane], bytes as u32, lane)?;
                        let range = usize::try_from(addresses[lane]).ok().and_then(|at| self.parameters.get(at..at + bytes));
                        let range = range.ok_or_else(|| {
                            let message = format!(
                                "{bytes} bytes at {} of the {} bytes of parameters",
                                addresses[lane],
                                self.parameters.len()
                            );
                            fault_at(FaultKind::OutOfBounds, lane, message)
                        })?;
                        take(range, element, lane, &mut values);
                    }
                }
            }
        }
        let shift = 64 - 8 * u32::from(access.bytes);
        for (&register, value) in access.registers.iter().zip(&mut values) {
            if access.signed {
                value.iter_mut().for_each(|v| *v = (((*v << shift) as i64) >> shift) as u64);
            }
            if access.wide {
                warp.set_long(register, value, mask);
            } else {
                let words = std::array::from_fn(|lane| value[lane] as u32);
                warp.set_word(register, &words, mask);
            }
        }
        Ok(())
    }

    fn load_global(
        &mut self,
        place: Place,
        warp: &Warp,
        addresses: &Longs,
        request: Request,
        element: usize,
        values: &mut [[u64; 32]; 8],
    ) -> Result<(), Fault> {
        let Request { mask, bytes, .. } = request;
        for lane in lanes(mask) {
            let address = addresses[lane];
            Self::aligned(address, bytes, lane)?;
            let range = self.memory.locate(address, bytes as usize).map_err(in_lane(lane))?;
            if self.config.checks.uninitialised && !self.memory.written(range, bytes as usize) {
                return Err(unwritten(lane, "global", address));
            }
            take(self.memory.bytes(range, bytes as usize), element, lane, values);
        }
        self.counters.global_load_requests += 1;
        self.counters.global_load_sectors += u64::from(banks::global_sectors(addresses, mask, bytes));
        self.counters.global_load_bytes += u64::from(bytes * mask.count_ones());
        self.check_race(place, self.line(warp), race::Space::Global, addresses, request)
    }

    fn load_shared(
        &mut self,
        place: Place,
        warp: &Warp,
        space: Space,
        addresses: &Longs,
        request: Request,
        element: usize,
        values: &mut [[u64; 32]; 8],
    ) -> Result<(), Fault> {
        let Request { mask, bytes, .. } = request;
        let (local, ranks) = self.ranks(place, space, addresses, mask)?;
        self.count_shared(&local, mask, bytes);
        for (rank, mask) in ranks {
            let block = &self.clusters[place.cluster].blocks[rank];
            for lane in lanes(mask) {
                Self::aligned(local[lane].into(), bytes, lane)?;
                let data = block.shared.read(local[lane], bytes as usize).map_err(in_lane(lane))?;
                if self.config.checks.uninitialised && !block.shared.is_written(local[lane], bytes as usize) {
                    return Err(unwritten(lane, "shared", local[lane].into()));
                }
                take(data, element, lane, values);
            }
            let wide = local.map(u64::from);
            let request = Request { mask, ..request };
            self.check_race(place, self.line(warp), race::Space::Shared(rank as u32), &wide, request)?;
        }
        Ok(())
    }

    /// The place of a lane's local address in the local memory of its warp.
    fn local(&self, warp: &Warp, lane: usize, address: u64, bytes: usize) -> Result<usize, Fault> {
        Self::aligned(address, bytes as u32, lane)?;
        let size = self.kernel.local_bytes as usize;
        if address as usize + bytes > size {
            let message = format!("{bytes} bytes at local address {address:#x}; a lane has {size} bytes");
            return Err(fault_at(FaultKind::OutOfBounds, lane, message));
        }
        debug_assert_eq!(warp.local.len(), size * 32);
        Ok(lane * size + address as usize)
    }

    pub(super) fn store(&mut self, place: Place, warp: &mut Warp, access: &Access, mask: u32) -> Result<(), Fault> {
        self.counters.memory_instructions += 1;
        self.events += 1;
        let addresses = self.addresses(warp, access.address, mask)?;
        let (addresses, parts) = self.spaces(access.space, &addresses, mask);
        let element = usize::from(access.bytes);
        let bytes = element * access.registers.len();
        for &register in &access.registers {
            if access.wide { warp.need_long(register, mask)? } else { warp.need_word(register, mask)? }
        }
        for (space, mask) in parts.into_iter().filter(|(_, mask)| *mask != 0) {
            let request = Request { mask, bytes: bytes as u32, write: true, order: access.order };
            match space {
                Space::Global | Space::Generic => {
                    for lane in lanes(mask) {
                        let address = addresses[lane];
                        Self::aligned(address, bytes as u32, lane)?;
                        let range = self.memory.locate(address, bytes).map_err(in_lane(lane))?;
                        put(warp, access, lane, self.memory.bytes_mut(range, bytes));
                    }
                    self.counters.global_store_requests += 1;
                    self.counters.global_store_sectors +=
                        u64::from(banks::global_sectors(&addresses, mask, bytes as u32));
                    self.counters.global_store_bytes += bytes as u64 * u64::from(mask.count_ones());
                    self.check_race(place, self.line(warp), race::Space::Global, &addresses, request)?;
                }
                Space::Shared | Space::Cluster => {
                    let (local, ranks) = self.ranks(place, space, &addresses, mask)?;
                    self.count_shared(&local, mask, bytes as u32);
                    for (rank, mask) in ranks {
                        let block = &mut self.clusters[place.cluster].blocks[rank];
                        for lane in lanes(mask) {
                            Self::aligned(local[lane].into(), bytes as u32, lane)?;
                            not_a_barrier(block, local[lane], bytes as u32).map_err(in_lane(lane))?;
                            let at = block.shared.locate(local[lane], bytes).map_err(in_lane(lane))?;
                            put(warp, access, lane, &mut block.shared.bytes[at..at + bytes]);
                            block.shared.written.insert(at, bytes);
                        }
                        let request = Request { mask, ..request };
                        let wide = local.map(u64::from);
                        self.check_race(place, self.line(warp), race::Space::Shared(rank as u32), &wide, request)?;
                    }
                }
                Space::Local => {
                    for lane in lanes(mask) {
                        let at = self.local(warp, lane, addresses[lane], bytes)?;
                        let mut data = [0; 64];
                        put(warp, access, lane, &mut data[..bytes]);
                        warp.local[at..at + bytes].copy_from_slice(&data[..bytes]);
                        warp.local_written.insert(at, bytes);
                    }
                }
                Space::Param => {
                    return Err(Fault::new(FaultKind::OutOfBounds, "the parameters of a kernel cannot be written"));
                }
            }
        }
        Ok(())
    }

    /// Instructions that compute with addresses of spaces.
    pub(super) fn map_address(&mut self, place: Place, warp: &mut Warp, op: &Op, mask: u32) -> Result<(), Fault> {
        match *op {
            Op::Convert { d, a, space, to_generic } => {
                warp.need_long(a, mask)?;
                let base = base(space);
                let value = warp.longs[a as usize].map(|address| {
                    if to_generic { address.wrapping_add(base) } else { address.wrapping_sub(base) }
                });
                warp.set_long(d, &value, mask);
            }
            Op::IsSpace { d, a, space } => {
                warp.need_long(a, mask)?;
                let is = |lane: usize| {
                    let address = warp.longs[a as usize][lane];
                    match (window(address), space) {
                        (Space::Cluster, Space::Shared) => {
                            let tag = (address - SHARED_WINDOW) >> RANK_SHIFT;
                            tag == 0 || tag as usize == place.block + 1
                        }
                        (found, wanted) => found == wanted,
                    }
                };
                let value = super::lanes::ballot(is);
                warp.set_predicate(d, value, mask);
            }
            Op::MapShared { d, a, rank, wide, generic } => {
                let addresses = self.cluster_operand(warp, a, wide, mask)?;
                warp.need_word(rank, mask)?;
                let base = if generic { SHARED_WINDOW } else { 0 };
                let mut value = [0; 32];
                for lane in lanes(mask) {
                    let (_, address) = self.shared_address(place, Space::Cluster, addresses[lane]).map_err(in_lane(lane))?;
                    let rank = warp.words[rank as usize][lane];
                    let ranks = self.clusters[place.cluster].blocks.len();
                    if rank as usize >= ranks {
                        let message = format!("block {rank} of a cluster of {ranks}");
                        return Err(fault_at(FaultKind::OutOfBounds, lane, message));
                    }
                    value[lane] = base + u64::from(address | ((rank + 1) << RANK_SHIFT));
                }
                if wide {
                    warp.set_long(d, &value, mask);
                } else {
                    warp.set_word(d, &value.map(|v| v as u32), mask);
                }
            }
            Op::RankOf { d, a, wide } => {
                let addresses = self.cluster_operand(warp, a, wide, mask)?;
                let mut value = [0; 32];
                for lane in lanes(mask) {
                    let (rank, _) = self.shared_address(place, Space::Cluster, addresses[lane]).map_err(in_lane(lane))?;
                    value[lane] = rank as u32;
                }
                warp.set_word(d, &value, mask);
            }
            _ => unreachable!("`step` sends address instructions only"),
        }
        Ok(())
    }

    fn cluster_operand(&self, warp: &Warp, a: u16, wide: bool, mask: u32) -> Result<Longs, Fault> {
        if wide {
            warp.need_long(a, mask)?;
            return Ok(warp.longs[a as usize]);
        }
        warp.need_word(a, mask)?;
        Ok(warp.words[a as usize].map(u64::from))
    }
}

/// Ordinary stores must leave mbarriers alone.
fn not_a_barrier(block: &super::cluster::Block, address: u32, bytes: u32) -> Result<(), Fault> {
    match block.mbarriers.touched(address, bytes) {
        Some(barrier) => {
            let message = format!("a store to {address:#x} overwrites the live mbarrier at {barrier:#x}");
            Err(Fault::new(FaultKind::Barrier, message))
        }
        None => Ok(()),
    }
}

#[cold]
fn unwritten(lane: usize, space: &str, address: u64) -> Fault {
    let message = format!("{space} memory at {address:#x} is read, and nothing was written there");
    fault_at(FaultKind::Uninitialised, lane, message)
}

/// The elements of a lane from its bytes.
#[inline]
fn take(bytes: &[u8], element: usize, lane: usize, values: &mut [[u64; 32]; 8]) {
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(element)) {
        value[lane] = match *bytes {
            [a] => a.into(),
            [a, b] => u16::from_le_bytes([a, b]).into(),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
            _ => u64::from_le_bytes(bytes.try_into().expect("an element has 1, 2, 4 or 8 bytes")),
        };
    }
}

/// The bytes of a lane from its registers.
#[inline]
fn put(warp: &Warp, access: &Access, lane: usize, bytes: &mut [u8]) {
    let element = usize::from(access.bytes);
    for (&register, bytes) in access.registers.iter().zip(bytes.chunks_exact_mut(element)) {
        let value = if access.wide {
            warp.longs[register as usize][lane]
        } else {
            warp.words[register as usize][lane].into()
        };
        bytes.copy_from_slice(&value.to_le_bytes()[..element]);
    }
}
