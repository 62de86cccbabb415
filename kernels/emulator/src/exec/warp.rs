//! A warp: its registers, and which of its lanes run next.
//!
//! Each lane has a program counter. The lanes with the lowest one run together as the active group, so that lanes which
//! a branch parted meet again where their paths join. A group that comes to an instruction which needs more lanes than
//! it has is set aside until the others arrive; when all groups are set aside, the lanes of the warp disagree for good.
use super::lanes::{Longs, Words, lanes};
use crate::memory::{Bits, POISON};
use crate::op::{Predicate, Reg};
use crate::race::Ticket;
use crate::{Fault, FaultKind};

/// What a warp is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    /// At barrier `id` of its block.
    Barrier(u32),
    /// At the barrier of its cluster.
    Cluster,
    Done,
}

/// A warp.
#[derive(Debug)]
pub struct Warp {
    pub words: Vec<Words>,
    pub longs: Vec<Longs>,
    pub predicates: Vec<u32>,
    /// Lanes of each register that hold a value.
    pub word_ready: Vec<u32>,
    pub long_ready: Vec<u32>,
    pub predicate_ready: Vec<u32>,
    /// The carry flag of each lane.
    pub carry: u32,
    /// Lanes that have not returned.
    pub live: u32,
    /// The group that runs.
    pub active: u32,
    /// Its program counter.
    pub pc: u32,
    /// Program counters of the lanes outside the active group.
    pcs: [u32; 32],
    /// Where the active group meets another one if it runs straight on.
    meeting: u32,
    /// Lanes set aside at an instruction that needs more lanes.
    pub blocked: u32,
    /// Lanes whose wait failed: others go first.
    deferred: u32,
    pub state: State,
    /// Where it waits, for reports.
    pub waiting_at: u32,
    /// Local memory of the lanes, one after the other.
    pub local: Vec<u8>,
    pub local_written: Bits,
    /// Groups of `cp.async`.
    pub copies: Groups,
    /// Groups of bulk copies.
    pub bulk: Groups,
    /// The newest `cp.async`, for the race detector.
    pub newest_copy: Option<Ticket>,
    /// What the race detector calls the end of each committed group of `wgmma`.
    pub matrices: Vec<u32>,
    /// Accumulators that an unfinished `wgmma` writes, with its group.
    pub accumulators: Vec<(Reg, u32)>,
    /// Registers of a thread, as `setmaxnreg` left them.
    pub registers: u32,
    /// The phase of the cluster barrier that it arrived in and has not waited for.
    pub cluster_phase: Option<u32>,
}

/// Groups of asynchronous operations. Each lane has groups of its own, numbered from 0; the operations themselves are
/// in the machine's queue, with the numbers of their groups.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// For each lane, what the race detector calls the end of each committed group.
    committed: [Vec<u32>; 32],
}

impl Groups {
    /// Numbers of the open groups.
    pub fn open(&self) -> [u32; 32] {
        std::array::from_fn(|lane| self.committed[lane].len() as u32)
    }

    /// Closes the open groups of some lanes.
    pub fn commit(&mut self, mask: u32, sequence: u32) {
        lanes(mask).for_each(|lane| self.committed[lane].push(sequence));
    }

    /// For a wait that leaves `pending` groups of each lane: the groups below these numbers are waited for, and what
    /// the race detector calls the end of the newest of them.
    pub fn waited(&self, mask: u32, pending: u32) -> ([u32; 32], Option<u32>) {
        let limits = self.open().map(|open| open.saturating_sub(pending));
        let ends =
            lanes(mask).filter(|&lane| limits[lane] > 0).map(|lane| self.committed[lane][limits[lane] as usize - 1]);
        (limits, ends.max())
    }
}

/// The registers of a warp. They are large, so they outlive it: what an earlier warp left there counts as unwritten.
#[derive(Debug)]
pub struct Files {
    words: Vec<Words>,
    longs: Vec<Longs>,
    predicates: Vec<u32>,
}

impl Files {
    /// So many registers of each class.
    pub fn new(words: usize, longs: usize, predicates: usize) -> Files {
        Files {
            words: vec![[u32::from_ne_bytes([POISON; 4]); 32]; words],
            longs: vec![[u64::from_ne_bytes([POISON; 8]); 32]; longs],
            predicates: vec![0; predicates],
        }
    }
}

impl Warp {
    /// A warp with `existing` lanes, at the start of a kernel.
    pub fn new(files: Files, existing: u32, local_bytes: u32, check: bool) -> Warp {
        let ready = if check { 0 } else { u32::MAX };
        let local = local_bytes as usize * 32;
        let Files { words, longs, predicates } = files;
        let mut warp = Warp {
            word_ready: vec![ready; words.len()],
            long_ready: vec![ready; longs.len()],
            predicate_ready: vec![ready; predicates.len()],
            words,
            longs,
            predicates,
            carry: 0,
            live: existing,
            active: existing,
            pc: 0,
            pcs: [0; 32],
            meeting: u32::MAX,
            blocked: 0,
            deferred: 0,
            state: State::Running,
            waiting_at: 0,
            local: vec![POISON; local],
            local_written: Bits::new(local),
            copies: Groups::default(),
            bulk: Groups::default(),
            newest_copy: None,
            matrices: Vec::new(),
            accumulators: Vec::new(),
            registers: 0,
            cluster_phase: None,
        };
        warp.words[0] = [0; 32];
        warp.word_ready[0] = u32::MAX;
        warp.longs[0] = [0; 32];
        warp.long_ready[0] = u32::MAX;
        warp.predicates[0] = u32::MAX;
        warp.predicate_ready[0] = u32::MAX;
        warp
    }

    /// The registers of a warp that has ended, to be used again.
    pub fn into_files(self) -> Files {
        Files { words: self.words, longs: self.longs, predicates: self.predicates }
    }

    /// Lanes for which a predicate holds, without a look at who wrote it.
    #[inline]
    pub fn holds(&self, p: Predicate) -> u32 {
        self.predicates[p.register as usize] ^ p.flip
    }

    #[inline]
    pub fn need_predicate(&self, p: Predicate, mask: u32) -> Result<(), Fault> {
        if self.predicate_ready[p.register as usize] & mask == mask {
            Ok(())
        } else {
            Err(self.unready("predicate", p.register))
        }
    }

    #[inline]
    pub fn need_word(&self, r: Reg, mask: u32) -> Result<(), Fault> {
        if self.word_ready[r as usize] & mask == mask { Ok(()) } else { Err(self.unready("32-bit", r)) }
    }

    #[inline]
    pub fn need_long(&self, r: Reg, mask: u32) -> Result<(), Fault> {
        if self.long_ready[r as usize] & mask == mask { Ok(()) } else { Err(self.unready("64-bit", r)) }
    }

    #[cold]
    fn unready(&self, class: &str, register: Reg) -> Fault {
        if class == "32-bit" && self.accumulators.iter().any(|&(r, _)| r == register) {
            let message = "an accumulator of wgmma is read before wgmma.wait_group has waited for its group";
            return Fault::new(FaultKind::Uninitialised, message);
        }
        Fault::new(
            FaultKind::Uninitialised,
            format!("a {class} register is read in lanes where nothing was written to it"),
        )
    }

    /// Moves an accumulator of an unfinished `wgmma`, which stays unfinished. The compiler makes such moves at the ends of
    /// loops, and the assembler drops them by using one register. False for any other register.
    pub fn move_accumulator(&mut self, d: Reg, a: Reg) -> bool {
        let Some(&(_, group)) = self.accumulators.iter().find(|&&(register, _)| register == a) else { return false };
        if self.active != u32::MAX || self.word_ready[a as usize] != 0 {
            return false;
        }
        self.words[d as usize] = self.words[a as usize];
        self.word_ready[d as usize] = 0;
        self.accumulators.retain(|&(register, _)| register != d);
        self.accumulators.push((d, group));
        true
    }

    #[inline]
    pub fn set_word(&mut self, r: Reg, value: &Words, mask: u32) {
        super::lanes::blend_words(&mut self.words[r as usize], value, mask);
        self.word_ready[r as usize] |= mask;
    }

    #[inline]
    pub fn set_long(&mut self, r: Reg, value: &Longs, mask: u32) {
        super::lanes::blend_longs(&mut self.longs[r as usize], value, mask);
        self.long_ready[r as usize] |= mask;
    }

    #[inline]
    pub fn set_predicate(&mut self, r: Reg, value: u32, mask: u32) {
        let register = &mut self.predicates[r as usize];
        *register = (*register & !mask) | (value & mask);
        self.predicate_ready[r as usize] |= mask;
    }

    /// The active group goes on to the next instruction.
    #[inline]
    pub fn advance(&mut self) {
        self.pc += 1;
        if self.pc == self.meeting {
            self.park();
            self.select();
        }
    }

    /// The lanes of `taken`, a part of the active group, go to `target`; the others to the next instruction.
    pub fn branch(&mut self, taken: u32, target: u32) {
        if taken == self.active && self.active == self.live {
            self.pc = target;
            return;
        }
        let next = self.pc + 1;
        for lane in lanes(self.active) {
            self.pcs[lane] = if taken >> lane & 1 == 1 { target } else { next };
        }
        self.active = 0;
        self.select();
    }

    /// Each lane of the active group goes to its own target.
    pub fn scatter(&mut self, targets: &[u32; 32]) {
        for lane in lanes(self.active) {
            self.pcs[lane] = targets[lane];
        }
        self.active = 0;
        self.select();
    }

    /// Lanes of the active group return; the others go on.
    pub fn exit(&mut self, leaving: u32) {
        self.park();
        for lane in lanes(self.active & !leaving) {
            self.pcs[lane] = self.pc + 1;
        }
        self.live &= !leaving;
        self.deferred &= self.live;
        // Those who waited for the leavers look again.
        self.blocked = 0;
        self.active = 0;
        if self.live == 0 {
            self.state = State::Done;
        } else {
            self.select();
        }
    }

    /// Sets the active group aside, at its instruction, until more lanes arrive.
    pub fn block(&mut self) -> Result<(), Fault> {
        self.blocked |= self.active;
        self.park();
        if self.live & !self.blocked == 0 {
            return Err(self.disagreement());
        }
        self.select();
        Ok(())
    }

    #[cold]
    fn disagreement(&self) -> Fault {
        let message = format!(
            "the lanes of the warp wait at different instructions; {:#010x} of {:#010x} are here",
            self.active, self.live
        );
        Fault::new(FaultKind::Divergence, message)
    }

    /// The active group has gone on from a failed wait: others go first.
    pub fn defer(&mut self) {
        if self.active != self.live {
            self.deferred |= self.active;
            self.park();
            self.select();
        }
    }

    /// All groups may be chosen again.
    pub fn forget_deferred(&mut self) {
        if self.deferred != 0 {
            self.deferred = 0;
            self.park();
            self.select();
        }
    }

    fn park(&mut self) {
        for lane in lanes(self.active) {
            self.pcs[lane] = self.pc;
        }
    }

    /// Chooses the group with the lowest program counter among those that can run.
    fn select(&mut self) {
        let mut candidates = self.live & !self.blocked & !self.deferred;
        if candidates == 0 {
            self.deferred = 0;
            candidates = self.live & !self.blocked;
        }
        let lowest = lanes(candidates).map(|lane| self.pcs[lane]).min().unwrap_or(u32::MAX);
        let mut group = 0;
        let mut meeting = u32::MAX;
        for lane in lanes(self.live) {
            let pc = self.pcs[lane];
            if pc == lowest {
                group |= 1 << lane;
            } else if pc > lowest {
                meeting = meeting.min(pc);
            }
        }
        self.active = group;
        self.pc = lowest;
        self.meeting = meeting;
        self.blocked &= !group;
        self.deferred &= !group;
    }

    /// The program counters of the groups of live lanes, for reports.
    pub fn groups(&self) -> Vec<(u32, u32)> {
        let mut groups: Vec<(u32, u32)> = Vec::new();
        for lane in lanes(self.live) {
            let pc = if self.active >> lane & 1 == 1 { self.pc } else { self.pcs[lane] };
            match groups.iter_mut().find(|(at, _)| *at == pc) {
                Some((_, mask)) => *mask |= 1 << lane,
                None => groups.push((pc, 1 << lane)),
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parted_lanes_meet_again() {
        let mut warp = Warp::new(Files::new(2, 2, 2), u32::MAX, 0, true);
        warp.pc = 10;
        warp.branch(0xff, 20);
        assert_eq!((warp.active, warp.pc), (0xffff_ff00, 11));
        for _ in 11..20 {
            warp.advance();
        }
        assert_eq!((warp.active, warp.pc), (u32::MAX, 20));
        // A loop that some lanes leave.
        warp.branch(1, 30);
        assert_eq!((warp.active, warp.pc), (!1, 21));
        warp.branch(!1, 20);
        assert_eq!((warp.active, warp.pc), (!1, 20));
        warp.branch(!1, 30);
        assert_eq!((warp.active, warp.pc), (u32::MAX, 30));
    }

    #[test]
    fn blocked_lanes_wait_for_the_others() {
        let mut warp = Warp::new(Files::new(2, 2, 2), 0xf, 0, true);
        warp.pc = 5;
        // Two lanes go far ahead and come back to where the others are blocked.
        warp.branch(0x3, 40);
        assert_eq!((warp.active, warp.pc), (0xc, 6));
        warp.block().unwrap();
        assert_eq!((warp.active, warp.pc), (0x3, 40));
        warp.branch(0x3, 6);
        assert_eq!((warp.active, warp.pc), (0xf, 6));
        warp.branch(0x3, 40);
        warp.advance();
        warp.block().unwrap();
        assert_eq!(warp.block().unwrap_err().kind, FaultKind::Divergence);
        warp.exit(0x3);
        assert_eq!((warp.live, warp.active, warp.pc), (0xc, 0xc, 8));
        warp.exit(0xc);
        assert_eq!(warp.state, State::Done);
    }
}
