//! Instructions on mbarriers.
use super::access::in_lane;
use super::lanes::lanes;
use super::turn::Flow;
use super::warp::Warp;
use super::{Machine, Place};
use crate::Fault;
use crate::mbarrier::{Mbarriers, Phase as Progress};
use crate::op::{Address, MBarrier, Phase, Reg, Space};
use crate::race::{self, Object};

impl Machine<'_> {
    pub(super) fn mbarrier(
        &mut self,
        place: Place,
        warp: &mut Warp,
        op: &MBarrier,
        address: Address,
        cluster: Space,
        mask: u32,
    ) -> Result<Flow, Fault> {
        self.counters.control_instructions += 1;
        let addresses = self.addresses(warp, address, mask)?;
        // A generic address leads to shared memory, or it is out of bounds.
        let space = if cluster == Space::Generic { Space::Cluster } else { cluster };
        let mut failed = false;
        for lane in lanes(mask) {
            let operate = |machine: &mut Self, warp: &mut Warp| {
                let (rank, address) = machine.shared_address(place, space, addresses[lane])?;
                machine.mbarrier_lane(place, warp, op, rank, address, lane)
            };
            let result = operate(self, warp).map_err(in_lane(lane))?;
            failed |= !result;
        }
        if matches!(op, MBarrier::Wait { .. }) {
            if failed {
                self.counters.barrier_retries += 1;
                return Ok(Flow::Spin);
            }
        } else {
            self.events += 1;
        }
        Ok(Flow::Next)
    }

    /// One lane's operation; false for a wait that was not successful.
    fn mbarrier_lane(
        &mut self,
        place: Place,
        warp: &mut Warp,
        op: &MBarrier,
        rank: usize,
        address: u32,
        lane: usize,
    ) -> Result<bool, Fault> {
        let bit = 1 << lane;
        let word = |warp: &Warp, register: Reg| {
            warp.need_word(register, bit)?;
            Ok::<u32, Fault>(warp.words[register as usize][lane])
        };
        let object = Object::Mbarrier { block: rank as u32, address };
        match *op {
            MBarrier::Init { count } => {
                let count = word(warp, count)?;
                let block = &mut self.clusters[place.cluster].blocks[rank];
                block.shared.locate(address, Mbarriers::BYTES as usize)?;
                block.mbarriers.init(address, count)?;
                self.barrier_object_access(place, warp, rank, address, lane)?;
            }
            MBarrier::Invalidate => {
                self.clusters[place.cluster].blocks[rank].mbarriers.invalidate(address)?;
                self.barrier_object_access(place, warp, rank, address, lane)?;
            }
            MBarrier::ExpectBytes { bytes } => {
                let bytes = word(warp, bytes)?;
                let barrier = self.clusters[place.cluster].blocks[rank].mbarriers.get(address)?;
                let completed = barrier.expect_bytes(bytes)?;
                self.phase_over(place.cluster, object, completed);
            }
            MBarrier::CompleteBytes { bytes } => {
                let bytes = word(warp, bytes)?;
                let barrier = self.clusters[place.cluster].blocks[rank].mbarriers.get(address)?;
                let completed = barrier.complete_bytes(bytes)?;
                self.phase_over(place.cluster, object, completed);
            }
            MBarrier::Arrive { state, count, expect, drop, relaxed } => {
                let count = count.map_or(Ok(1), |count| word(warp, count))?;
                let expect = expect.map(|bytes| word(warp, bytes)).transpose()?;
                let cluster = &mut self.clusters[place.cluster];
                let barrier = cluster.blocks[rank].mbarriers.get(address)?;
                let before = barrier.state();
                if let (Some(races), false) = (cluster.races.as_mut(), relaxed) {
                    races.arrive(place.race(), object);
                }
                if let Some(bytes) = expect {
                    barrier.expect_bytes(bytes)?;
                }
                let completed = if drop { barrier.arrive_drop(count)? } else { barrier.arrive(count)? };
                self.phase_over(place.cluster, object, completed);
                warp.set_long(state, &[before; 32], bit);
            }
            MBarrier::Wait { p, phase, relaxed } => {
                let done = match phase {
                    Phase::Parity(register) => {
                        let parity = word(warp, register)?;
                        let barrier = self.clusters[place.cluster].blocks[rank].mbarriers.get(address)?;
                        barrier.parity_complete(parity & 1)
                    }
                    Phase::State(register) => {
                        warp.need_long(register, bit)?;
                        let state = warp.longs[register as usize][lane];
                        self.clusters[place.cluster].blocks[rank].mbarriers.get(address)?.state_complete(state)?
                    }
                };
                warp.set_predicate(p, if done { bit } else { 0 }, bit);
                if let (true, false, Some(races)) = (done, relaxed, self.clusters[place.cluster].races.as_mut()) {
                    races.leave(place.race(), object);
                }
                return Ok(done);
            }
        }
        Ok(true)
    }

    /// Initialising and invalidating write the object like ordinary stores.
    fn barrier_object_access(
        &mut self,
        place: Place,
        warp: &Warp,
        rank: usize,
        address: u32,
        lane: usize,
    ) -> Result<(), Fault> {
        let line = self.line(warp);
        let Some(races) = self.clusters[place.cluster].races.as_mut() else { return Ok(()) };
        let addresses = [u64::from(address); 32];
        let space = race::Space::Shared(rank as u32);
        let access = race::Access::Write;
        let bytes = Mbarriers::BYTES;
        let result = races.access(place.race(), line, space, 1 << lane, &addresses, bytes, access);
        result.map_err(|race| self.race(*race))
    }

    /// Passes on what the arrivals of a completed phase brought.
    pub(super) fn phase_over(&mut self, cluster: usize, object: Object, progress: Progress) {
        self.events += 1;
        if progress == Progress::Completed
            && let Some(races) = self.clusters[cluster].races.as_mut()
        {
            races.complete(object);
        }
    }
}
