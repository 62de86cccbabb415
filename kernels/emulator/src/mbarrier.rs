//! The state machine of an mbarrier (PTX ISA, parallel synchronisation, mbarrier).
//!
//! An mbarrier counts arrivals and bytes. A phase is complete when no arrival and no byte is outstanding; the next phase then
//! begins at once with the count of arrivals that the barrier was initialised with. Bytes may be delivered before they are
//! announced, so the count of outstanding bytes can pass below zero on the way. Order between threads is the business of
//! [`crate::race`]: this module counts.
use crate::{Fault, FaultKind};

use std::collections::BTreeMap;

/// The largest count of arrivals and of outstanding bytes.
pub const MAXIMUM: u32 = (1 << 20) - 1;

/// One mbarrier object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mbarrier {
    expected: u32,
    pending: u32,
    bytes: i64,
    phase: u32,
}

/// What an operation did to the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The current phase goes on.
    Open,
    /// The operation completed the current phase; waiters on it may go on.
    Completed,
}

impl Mbarrier {
    /// `mbarrier.init`: phase 0 with `count` arrivals expected.
    ///
    /// # Errors
    /// When `count` is not in 1 to 2^20 - 1.
    pub fn new(count: u32) -> Result<Mbarrier, Fault> {
        if !(1..=MAXIMUM).contains(&count) {
            return Err(barrier(format!("an mbarrier counts 1 to {MAXIMUM} arrivals, not {count}")));
        }
        Ok(Mbarrier { expected: count, pending: count, bytes: 0, phase: 0 })
    }

    /// `mbarrier.arrive` with a count.
    ///
    /// # Errors
    /// When more arrivals come than the phase expects.
    pub fn arrive(&mut self, count: u32) -> Result<Phase, Fault> {
        if count == 0 || count > self.pending {
            return Err(barrier(format!(
                "{count} arrivals at an mbarrier that has {} of {} outstanding in phase {}: a phase was not waited for, or \
                 the barrier was initialised with too small a count",
                self.pending, self.expected, self.phase
            )));
        }
        self.pending -= count;
        self.settle()
    }

    /// `mbarrier.arrive_drop`: as [`Mbarrier::arrive`], and later phases expect so many fewer.
    ///
    /// # Errors
    /// When more arrivals come than the phase expects.
    pub fn arrive_drop(&mut self, count: u32) -> Result<Phase, Fault> {
        if count > self.expected {
            return Err(barrier(format!("{count} arrivals dropped of an mbarrier that expects {}", self.expected)));
        }
        self.expected -= count;
        self.arrive(count)
    }

    /// `mbarrier.expect_tx`, and the first half of `mbarrier.arrive.expect_tx`: announces bytes.
    ///
    /// # Errors
    /// When the count of outstanding bytes leaves its range.
    pub fn expect_bytes(&mut self, bytes: u32) -> Result<Phase, Fault> {
        self.add_bytes(i64::from(bytes))
    }

    /// `complete_tx`: a bulk copy delivered bytes.
    ///
    /// # Errors
    /// When the count of outstanding bytes leaves its range, or more bytes came than were announced in a phase whose
    /// arrivals are all in.
    pub fn complete_bytes(&mut self, bytes: u32) -> Result<Phase, Fault> {
        self.add_bytes(-i64::from(bytes))
    }

    /// The other half of `cp.async.mbarrier.arrive` without `.noinc`: one more arrival in this phase, which the copies make.
    ///
    /// # Errors
    /// When the count would pass 2^20 - 1.
    pub fn expect_arrival(&mut self) -> Result<(), Fault> {
        if self.pending == MAXIMUM {
            return Err(barrier(format!("more than {MAXIMUM} arrivals outstanding at an mbarrier")));
        }
        self.pending += 1;
        Ok(())
    }

    /// Whether the phase of `parity` (0 or 1) is complete: `mbarrier.test_wait.parity` and `try_wait.parity`. True for the
    /// parity of the phase before the current one; a fresh barrier answers true for parity 1.
    pub fn parity_complete(&self, parity: u32) -> bool {
        self.phase & 1 != parity & 1
    }

    /// The state that `mbarrier.arrive` returns: the phase, and the arrivals still outstanding. Take it before arriving.
    pub fn state(&self) -> u64 {
        u64::from(self.phase) << 32 | u64::from(self.pending)
    }

    /// Whether the phase of `state` is complete: `mbarrier.test_wait` and `try_wait`.
    ///
    /// # Errors
    /// When the state is neither of the current phase nor of the one before.
    pub fn state_complete(&self, state: u64) -> Result<bool, Fault> {
        let phase = (state >> 32) as u32;
        match self.phase.wrapping_sub(phase) {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(barrier(format!("a wait for phase {phase} of an mbarrier that is in phase {}", self.phase))),
        }
    }

    /// `mbarrier.pending_count`: the arrivals that were outstanding in a state.
    pub fn pending_count(state: u64) -> u32 {
        state as u32
    }

    /// The number of phases that are complete.
    pub fn phase(&self) -> u32 {
        self.phase
    }

    /// Arrivals and bytes still outstanding in this phase, for reports of deadlocks.
    pub fn outstanding(&self) -> (u32, i64) {
        (self.pending, self.bytes)
    }

    fn add_bytes(&mut self, bytes: i64) -> Result<Phase, Fault> {
        self.bytes += bytes;
        if self.bytes.unsigned_abs() > u64::from(MAXIMUM) {
            return Err(barrier(format!(
                "{} bytes outstanding at an mbarrier, which counts to {MAXIMUM} either way",
                self.bytes
            )));
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<Phase, Fault> {
        if self.pending > 0 || self.bytes > 0 {
            return Ok(Phase::Open);
        }
        if self.bytes < 0 {
            return Err(barrier(format!(
                "{} more bytes than announced in phase {} of an mbarrier: the byte count of expect_tx is too small",
                -self.bytes, self.phase
            )));
        }
        self.phase = self.phase.wrapping_add(1);
        self.pending = self.expected;
        Ok(Phase::Completed)
    }
}

/// The mbarriers of one block's shared memory, by address.
#[derive(Clone, Debug, Default)]
pub struct Mbarriers {
    live: BTreeMap<u32, Mbarrier>,
}

impl Mbarriers {
    /// Bytes of an mbarrier object, and its alignment.
    pub const BYTES: u32 = 8;

    /// `mbarrier.init` at an address; a live barrier there begins anew.
    ///
    /// # Errors
    /// When the address is not a multiple of 8 or the count is out of range.
    pub fn init(&mut self, address: u32, count: u32) -> Result<(), Fault> {
        if !address.is_multiple_of(Self::BYTES) {
            return Err(Fault::new(
                FaultKind::Misaligned,
                format!("the mbarrier at {address:#x} is not 8-byte aligned"),
            ));
        }
        self.live.insert(address, Mbarrier::new(count)?);
        Ok(())
    }

    /// The barrier at an address.
    ///
    /// # Errors
    /// When none was initialised there.
    pub fn get(&mut self, address: u32) -> Result<&mut Mbarrier, Fault> {
        self.live.get_mut(&address).ok_or_else(|| {
            barrier(format!("no mbarrier was initialised at {address:#x}: mbarrier.init must come first"))
        })
    }

    /// `mbarrier.inval`: the address is ordinary memory again.
    ///
    /// # Errors
    /// When no barrier was initialised there.
    pub fn invalidate(&mut self, address: u32) -> Result<(), Fault> {
        self.get(address)?;
        self.live.remove(&address);
        Ok(())
    }

    /// The live barrier that an ordinary access to `bytes` bytes at `address` would touch; only mbarrier instructions may.
    pub fn touched(&self, address: u32, bytes: u32) -> Option<u32> {
        let (barrier, _) = self.live.range(..address + bytes).next_back()?;
        (barrier + Self::BYTES > address).then_some(*barrier)
    }

    /// The live barriers with their addresses, for reports of deadlocks.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Mbarrier)> {
        self.live.iter().map(|(&address, barrier)| (address, barrier))
    }
}

fn barrier(message: String) -> Fault {
    Fault::new(FaultKind::Barrier, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_ends_with_its_last_arrival_and_its_last_byte() {
        let mut barrier = Mbarrier::new(2).unwrap();
        assert_eq!((barrier.parity_complete(0), barrier.parity_complete(1)), (false, true));
        let state = barrier.state();
        assert_eq!(Mbarrier::pending_count(state), 2);
        assert_eq!(barrier.expect_bytes(48).unwrap(), Phase::Open);
        assert_eq!(barrier.arrive(1).unwrap(), Phase::Open);
        assert_eq!(barrier.complete_bytes(32).unwrap(), Phase::Open);
        assert_eq!(barrier.arrive(1).unwrap(), Phase::Open);
        assert_eq!(barrier.outstanding(), (0, 16));
        assert!(!barrier.state_complete(state).unwrap());
        assert_eq!(barrier.complete_bytes(16).unwrap(), Phase::Completed);
        assert!(barrier.state_complete(state).unwrap());
        assert_eq!((barrier.parity_complete(0), barrier.parity_complete(1), barrier.phase()), (true, false, 1));
        assert_eq!(barrier.arrive(2).unwrap(), Phase::Completed);
        assert_eq!((barrier.parity_complete(0), barrier.parity_complete(1)), (false, true));
        assert!(barrier.state_complete(state).unwrap_err().message.contains("wait for phase 0"));
    }

    #[test]
    fn bytes_may_come_before_they_are_announced_but_not_for_good() {
        let mut early = Mbarrier::new(1).unwrap();
        assert_eq!(early.complete_bytes(64).unwrap(), Phase::Open);
        assert_eq!(early.expect_bytes(64).unwrap(), Phase::Open);
        assert_eq!(early.arrive(1).unwrap(), Phase::Completed);
        assert_eq!(early.complete_bytes(64).unwrap(), Phase::Open);
        assert_eq!(early.expect_bytes(32).unwrap(), Phase::Open);
        let fault = early.arrive(1).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Barrier);
        assert!(fault.message.contains("32 more bytes than announced in phase 1"), "{fault}");
    }

    #[test]
    fn misuse_is_a_fault_that_says_what() {
        assert!(Mbarrier::new(0).is_err() && Mbarrier::new(MAXIMUM + 1).is_err() && Mbarrier::new(MAXIMUM).is_ok());
        let mut small = Mbarrier::new(3).unwrap();
        assert!(small.arrive(4).unwrap_err().message.contains("4 arrivals at an mbarrier that has 3 of 3"));
        assert!(small.arrive(0).is_err());
        assert!(small.arrive_drop(4).is_err());
        assert!(small.expect_bytes(MAXIMUM).is_ok() && small.expect_bytes(1).is_err());
    }

    #[test]
    fn dropped_arrivals_and_those_of_copies_change_the_count() {
        let mut barrier = Mbarrier::new(2).unwrap();
        assert_eq!(barrier.arrive_drop(1).unwrap(), Phase::Open);
        barrier.expect_arrival().unwrap();
        assert_eq!(barrier.arrive(1).unwrap(), Phase::Open);
        assert_eq!(barrier.arrive(1).unwrap(), Phase::Completed);
        assert_eq!(barrier.arrive(1).unwrap(), Phase::Completed);
        assert_eq!(barrier.phase(), 2);
    }

    #[test]
    fn barriers_are_found_by_address() {
        let mut barriers = Mbarriers::default();
        assert!(barriers.get(64).unwrap_err().message.contains("no mbarrier was initialised at 0x40"));
        assert_eq!(barriers.init(68, 1).unwrap_err().kind, FaultKind::Misaligned);
        barriers.init(64, 1).unwrap();
        barriers.get(64).unwrap().arrive(1).unwrap();
        let touched = [(60, 4), (60, 8), (64, 1), (71, 1), (72, 4), (0, 1024)];
        assert_eq!(
            touched.map(|(at, bytes)| barriers.touched(at, bytes).is_some()),
            [false, true, true, true, false, true]
        );
        assert_eq!(barriers.iter().map(|(at, barrier)| (at, barrier.phase())).collect::<Vec<_>>(), [(64, 1)]);
        barriers.invalidate(64).unwrap();
        assert!(barriers.invalidate(64).is_err() && barriers.touched(64, 8).is_none());
    }
}
