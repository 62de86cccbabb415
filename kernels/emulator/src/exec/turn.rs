//! A turn of a warp: instructions one after the other, until it is over or the warp has to wait.
use super::lanes::lanes;
use super::warp::{State, Warp};
use super::{Machine, Place, Turn, alu};
use crate::mbarrier::Mbarrier;
use crate::op::{Clock, Fence, Op};
use crate::{Fault, FaultKind};

/// What follows an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next instruction.
    Next,
    /// The program counter is set already.
    Jumped,
    /// The next instruction, in another turn: a wait was not successful.
    Spin,
    /// The next instruction, in another turn.
    Yield,
    /// The same instruction in another turn.
    Retry,
    /// The group was set aside until other lanes arrive.
    Blocked,
    /// The warp's state says what it waits for; the program counter is set already.
    Wait,
}

impl Machine<'_> {
    pub(super) fn execute(&mut self, place: Place, warp: &mut Warp, budget: usize) -> Result<Turn, Fault> {
        let kernel = self.kernel;
        for _ in 0..budget {
            let instruction = &kernel.code[warp.pc as usize];
            let mask = alu::guarded(warp, instruction.guard)?;
            if mask != 0 && !alu::execute(&self.isa, warp, &instruction.op, mask)? {
                let flow = self.step(place, warp, &instruction.op, mask)?;
                if !matches!(flow, Flow::Retry | Flow::Blocked) {
                    self.counters.warp_instructions += 1;
                    self.counters.lane_instructions += u64::from(mask.count_ones());
                }
                match flow {
                    Flow::Next => warp.advance(),
                    Flow::Jumped | Flow::Blocked => {}
                    Flow::Spin => {
                        warp.advance();
                        warp.defer();
                        return Ok(Turn::Spins);
                    }
                    Flow::Yield => {
                        warp.advance();
                        return Ok(Turn::Ran);
                    }
                    Flow::Retry => return Ok(Turn::Spins),
                    Flow::Wait => return Ok(Turn::Waits),
                }
            } else {
                self.counters.warp_instructions += 1;
                self.counters.lane_instructions += u64::from(mask.count_ones());
                self.counters.arithmetic_instructions += 1;
                warp.advance();
            }
        }
        Ok(Turn::Ran)
    }

    fn step(&mut self, place: Place, warp: &mut Warp, op: &Op, mask: u32) -> Result<Flow, Fault> {
        match op {
            Op::Branch { .. }
            | Op::BranchIndexed { .. }
            | Op::Exit
            | Op::Trap
            | Op::Breakpoint
            | Op::Nothing
            | Op::Sleep
            | Op::Fence(_)
            | Op::Registers { .. }
            | Op::Barrier { .. }
            | Op::ClusterArrive { .. }
            | Op::ClusterWait => {
                let flow = self.control(place, warp, op, mask)?;
                self.counters.control_instructions += u64::from(!matches!(flow, Flow::Retry | Flow::Blocked));
                Ok(flow)
            }
            Op::Load(access) => self.load(place, warp, access, mask).map(|()| Flow::Next),
            Op::Store(access) => self.store(place, warp, access, mask).map(|()| Flow::Next),
            Op::Atomic(atomic) => self.atomic(place, warp, atomic, mask).map(|()| Flow::Next),
            Op::MapShared { .. } | Op::RankOf { .. } | Op::IsSpace { .. } | Op::Convert { .. } => {
                self.counters.arithmetic_instructions += 1;
                self.map_address(place, warp, op, mask).map(|()| Flow::Next)
            }
            Op::Clock { d, clock } => {
                let now = self.counters.warp_instructions;
                match clock {
                    Clock::Low => warp.set_word(*d, &[now as u32; 32], mask),
                    Clock::Wide => warp.set_long(*d, &[now; 32], mask),
                }
                Ok(Flow::Next)
            }
            Op::PendingCount { d, state } => {
                warp.need_long(*state, mask)?;
                let value = warp.longs[*state as usize].map(Mbarrier::pending_count);
                warp.set_word(*d, &value, mask);
                Ok(Flow::Next)
            }
            Op::Matrix(matrix) => self.matrix(place, warp, matrix, mask),
            Op::Async(copy) => self.asynchronous(place, warp, copy, mask),
            Op::MBarrier { op, address, cluster } => self.mbarrier(place, warp, op, *address, *cluster, mask),
            op => self.collective(place, warp, op, mask),
        }
    }

    fn control(&mut self, place: Place, warp: &mut Warp, op: &Op, mask: u32) -> Result<Flow, Fault> {
        match *op {
            Op::Branch { target } => {
                warp.branch(mask, target);
                Ok(Flow::Jumped)
            }
            Op::BranchIndexed { index, ref targets } => {
                warp.need_word(index, mask)?;
                let mut places = [warp.pc + 1; 32];
                for lane in lanes(mask) {
                    let index = warp.words[index as usize][lane] as usize;
                    let target = targets.get(index).ok_or_else(|| {
                        let message = format!("index {index} of {} branch targets", targets.len());
                        Fault::new(FaultKind::OutOfBounds, message)
                    })?;
                    places[lane] = *target;
                }
                warp.scatter(&places);
                Ok(Flow::Jumped)
            }
            Op::Exit => {
                warp.exit(mask);
                self.events += 1;
                if warp.state == State::Done {
                    self.warp_ended(place)?;
                    return Ok(Flow::Wait);
                }
                Ok(Flow::Jumped)
            }
            Op::Trap => Err(Fault::new(FaultKind::Trap, "the kernel executed `trap`")),
            Op::Breakpoint => Err(Fault::new(FaultKind::Trap, "the kernel executed `brkpt`")),
            Op::Nothing => Ok(Flow::Next),
            Op::Sleep => Ok(Flow::Yield),
            Op::Fence(fence) => {
                self.fence(place, fence);
                Ok(Flow::Next)
            }
            Op::Registers { count, increase } => self.move_registers(place, warp, count, increase, mask),
            Op::Barrier { how, id, count, p, d } => self.barrier(place, warp, how, id, count, p, d, mask),
            Op::ClusterArrive { relaxed } => self.cluster_arrive(place, warp, relaxed, mask),
            Op::ClusterWait => self.cluster_wait(place, warp, mask),
            _ => unreachable!("`step` sends control instructions only"),
        }
    }

    fn fence(&mut self, place: Place, fence: Fence) {
        use crate::race::Scope;
        let warp = place.race();
        let Some(races) = self.clusters[place.cluster].races.as_mut() else { return };
        match fence {
            Fence::Memory { wide } => races.fence(warp, if wide { Scope::Device } else { Scope::Block }),
            Fence::Proxy { shared, global } => races.proxy_fence(warp, shared, global),
            Fence::MBarrierInit => races.fence(warp, Scope::Device),
        }
    }

    /// `setmaxnreg`: the registers of the warp come from and go to what the block has left.
    fn move_registers(
        &mut self,
        place: Place,
        warp: &mut Warp,
        count: u32,
        increase: bool,
        mask: u32,
    ) -> Result<Flow, Fault> {
        if !self.whole(warp, mask)? {
            return Ok(Flow::Blocked);
        }
        let block = &mut self.clusters[place.cluster].blocks[place.block];
        let (now, free) = (warp.registers, &mut block.free_registers);
        if !increase && count > now {
            let message = format!("setmaxnreg cannot decrease {now} registers of a thread to {count}");
            return Err(Fault::new(FaultKind::Launch, message));
        }
        if increase {
            // The registers at the start are an upper bound, so an increase may begin below it.
            let wanted = count.saturating_sub(now) * 32;
            if wanted > *free {
                return Ok(Flow::Retry);
            }
            *free -= wanted;
        } else {
            *free += (now - count) * 32;
        }
        warp.registers = count;
        self.events += 1;
        Ok(Flow::Next)
    }

    /// Whether the whole warp is here, as instructions demand that no lane may miss; sets the group aside when it is
    /// not.
    pub(super) fn whole(&self, warp: &mut Warp, mask: u32) -> Result<bool, Fault> {
        if mask != warp.active {
            let message = format!("a predicate lets {mask:#010x} of the lanes {:#010x} execute it", warp.active);
            return Err(Fault::new(FaultKind::Divergence, message));
        }
        if mask == warp.live {
            return Ok(true);
        }
        warp.block()?;
        Ok(false)
    }

    /// As [`Machine::whole`], for instructions that also need the lanes which have returned or never were.
    pub(super) fn complete_warp(&self, warp: &mut Warp, mask: u32) -> Result<bool, Fault> {
        if warp.live != u32::MAX {
            let message = format!("it needs all 32 lanes, of which {:#010x} are left", warp.live);
            return Err(Fault::new(FaultKind::Divergence, message));
        }
        self.whole(warp, mask)
    }
}

impl Place {
    /// The warp as the race detector names it.
    pub(super) fn race(self) -> crate::race::Warp {
        crate::race::Warp { block: self.block as u32, warp: self.warp as u32 }
    }
}
