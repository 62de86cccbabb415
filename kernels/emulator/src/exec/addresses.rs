//! What addresses mean: generic windows, shared memory of the blocks of a cluster, and the instructions that convert.
use super::access::{fault_at, in_lane};
use super::lanes::{Longs, lanes};
use super::warp::Warp;
use super::{Machine, Place};
use crate::op::{Address, Op, Reg, Space};
use crate::{Fault, FaultKind};

/// Generic addresses of shared memory: the window, plus a shared address of 32 bits.
pub const SHARED_WINDOW: u64 = 0x7000_0000_0000;
/// Generic addresses of the lane's local memory.
pub const LOCAL_WINDOW: u64 = 0x6000_0000_0000;
/// Generic addresses of the kernel's parameters.
pub const PARAMETER_WINDOW: u64 = 0x5000_0000_0000;
/// Bytes of a window.
const WINDOW: u64 = 1 << 32;
/// Bits of a shared address below the number that tells blocks of a cluster apart: 0 for the own block, else rank plus
/// 1.
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
        let windows = SHARED_WINDOW..SHARED_WINDOW + WINDOW;
        let address = if windows.contains(&address) { address - SHARED_WINDOW } else { address };
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
            let message =
                format!("{address:#x} is in the shared memory of block {rank} of the cluster, which has ended");
            return Err(Fault::new(FaultKind::OutOfBounds, message));
        }
        Ok((rank, address & ((1 << RANK_SHIFT) - 1)))
    }

    /// Instructions that compute with addresses of spaces.
    pub(super) fn map_address(&mut self, place: Place, warp: &mut Warp, op: &Op, mask: u32) -> Result<(), Fault> {
        match *op {
            Op::Convert { d, a, space, to_generic } => {
                warp.need_long(a, mask)?;
                let base = base(space);
                let value = warp.longs[a as usize]
                    .map(|address| if to_generic { address.wrapping_add(base) } else { address.wrapping_sub(base) });
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
                    let (_, address) =
                        self.shared_address(place, Space::Cluster, addresses[lane]).map_err(in_lane(lane))?;
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
                    let (rank, _) =
                        self.shared_address(place, Space::Cluster, addresses[lane]).map_err(in_lane(lane))?;
                    value[lane] = rank as u32;
                }
                warp.set_word(d, &value, mask);
            }
            _ => unreachable!("`step` sends address instructions only"),
        }
        Ok(())
    }

    fn cluster_operand(&self, warp: &Warp, a: Reg, wide: bool, mask: u32) -> Result<Longs, Fault> {
        if wide {
            warp.need_long(a, mask)?;
            return Ok(warp.longs[a as usize]);
        }
        warp.need_word(a, mask)?;
        Ok(warp.words[a as usize].map(u64::from))
    }
}
