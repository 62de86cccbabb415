//! Loads and stores of all spaces.
use super::contiguous;
use super::lanes::{Longs, lanes};
use super::warp::Warp;
use super::{Machine, Place};
use crate::banks;
use crate::op::{Access, Order, Space};
use crate::race::{self, Strong};
use crate::{Fault, FaultKind};

/// A fault of one lane.
pub(super) fn fault_at(kind: FaultKind, lane: usize, message: String) -> Fault {
    in_lane(lane)(Fault::new(kind, message))
}

/// Adds the lane to a fault that does not name lanes.
pub(super) fn in_lane(lane: usize) -> impl Fn(Fault) -> Fault {
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
    /// Shared addresses of a request, with masks of the ranks they belong to.
    fn ranks(
        &self,
        place: Place,
        space: Space,
        addresses: &Longs,
        mask: u32,
    ) -> Result<([u32; 32], impl Iterator<Item = (usize, u32)> + use<>), Fault> {
        let mut local = [0; 32];
        let mut own = 0;
        let mut others: Vec<(usize, u32)> = Vec::new();
        for lane in lanes(mask) {
            let (rank, address) = self.shared_address(place, space, addresses[lane]).map_err(in_lane(lane))?;
            local[lane] = address;
            if rank == place.block {
                own |= 1 << lane;
                continue;
            }
            match others.iter_mut().find(|(known, _)| *known == rank) {
                Some((_, lanes)) => *lanes |= 1 << lane,
                None => others.push((rank, 1 << lane)),
            }
        }
        Ok((local, std::iter::once((place.block, own)).chain(others).filter(|&(_, mask)| mask != 0)))
    }

    /// Line of the PTX that a warp is at.
    pub(super) fn line(&self, warp: &Warp) -> u32 {
        self.kernel.sites[warp.pc as usize].line
    }

    pub(super) fn race(&self, race: race::Race) -> Fault {
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
        result.map_err(|race| self.race(*race))
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
            let passes = if same {
                u64::from(mask.count_ones().div_ceil(128 / bytes.max(4)))
            } else {
                u64::from((bytes * 32).div_ceil(128))
            };
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
                Space::Global | Space::Generic => {
                    self.load_global(place, warp, &addresses, request, element, &mut values)?
                }
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
                        let range =
                            usize::try_from(addresses[lane]).ok().and_then(|at| self.parameters.get(at..at + bytes));
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
        let checked = self.config.checks.uninitialised;
        self.counters.global_load_requests += 1;
        let all = 32 * bytes as usize;
        if let Some(first) = contiguous::run_of(addresses, mask, bytes)
            && let Ok(range) = self.memory.locate(first, all)
            && (!checked || self.memory.written(range, all))
        {
            contiguous::gather(self.memory.bytes(range, all), element, values);
            self.counters.global_load_sectors += contiguous::sectors(first, bytes);
        } else {
            for lane in lanes(mask) {
                let address = addresses[lane];
                Self::aligned(address, bytes, lane)?;
                let range = self.memory.locate(address, bytes as usize).map_err(in_lane(lane))?;
                if checked && !self.memory.written(range, bytes as usize) {
                    return Err(unwritten(lane, "global", address));
                }
                take(self.memory.bytes(range, bytes as usize), element, lane, values);
            }
            self.counters.global_load_sectors += u64::from(banks::global_sectors(addresses, mask, bytes));
        }
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
        let checked = self.config.checks.uninitialised;
        let (local, ranks) = self.ranks(place, space, addresses, mask)?;
        self.count_shared(&local, mask, bytes);
        for (rank, mask) in ranks {
            let shared = &self.clusters[place.cluster].blocks[rank].shared;
            let wide = local.map(u64::from);
            let all = 32 * bytes as usize;
            if let Some(first) = contiguous::run_of(&wide, mask, bytes)
                && let Ok(data) = shared.read(first as u32, all)
                && (!checked || shared.is_written(first as u32, all))
            {
                contiguous::gather(data, element, values);
            } else {
                for lane in lanes(mask) {
                    Self::aligned(wide[lane], bytes, lane)?;
                    let data = shared.read(local[lane], bytes as usize).map_err(in_lane(lane))?;
                    if checked && !shared.is_written(local[lane], bytes as usize) {
                        return Err(unwritten(lane, "shared", wide[lane]));
                    }
                    take(data, element, lane, values);
                }
            }
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
                    self.counters.global_store_sectors += match contiguous::run_of(&addresses, mask, bytes as u32) {
                        Some(first) => contiguous::sectors(first, bytes as u32),
                        None => banks::global_sectors(&addresses, mask, bytes as u32).into(),
                    };
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
        let value =
            if access.wide { warp.longs[register as usize][lane] } else { warp.words[register as usize][lane].into() };
        bytes.copy_from_slice(&value.to_le_bytes()[..element]);
    }
}
