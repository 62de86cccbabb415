//! Shadow memory: for every 4-byte word, who wrote it last and who read it since.
//!
//! A record covers some bytes of its word, so neighbours that share a word do not seem to race. The last write and two reads
//! stand in the cell itself. More of them, as when many warps read one word of shared memory, go to a list; for global
//! memory only writes do, and older reads are forgotten, because read-only tensors are read by every block of a grid:
//! a write that races with all of them is still seen to race with one.
use super::clock::{Knowledge, Known};

/// The lane of an access that all lanes of a warp share, such as a row of ldmatrix.
pub(super) const ALL_LANES: u8 = 32;
/// Several lanes, each with its own bytes of the word: who has which is not kept.
const SOME_LANES: u8 = 33;
/// Writes that a word of global memory remembers besides the last.
const GLOBAL_RECORDS: usize = 8;

/// One access to some bytes of one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Number of the agent in the grid.
    pub agent: u32,
    /// Event of that agent; 0 in an empty record.
    pub clock: u32,
    /// PTX line.
    pub line: u32,
    /// Lane of a warp, or [`ALL_LANES`].
    pub lane: u8,
    /// Bytes of the word, one bit each.
    pub mask: u8,
    /// What kind of access: a sum of [`WRITE`], [`STRONG`], [`IN_FLIGHT`] and
    /// [`ASYNC_PROXY`].
    pub kind: u8,
}

pub(super) const WRITE: u8 = 1;
/// Part of an atomic operation, or a volatile, relaxed, acquire or release access.
pub(super) const STRONG: u8 = 2;
/// Made by an asynchronous operation: not in program order with anything, not even with its own kind.
pub(super) const IN_FLIGHT: u8 = 4;
/// Made by the asynchronous proxy.
pub(super) const ASYNC_PROXY: u8 = 8;

/// Why two accesses do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// No order between different agents.
    Race,
    /// No bar.warp.sync between lanes of one warp.
    Lanes,
    /// Ordered, but without the proxy fence.
    Proxy,
}

/// The records of one word.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    write: Record,
    reads: [Record; 2],
    /// 1 + index of a list of further records, or 0.
    more: u32,
}

/// Lists of further records.
pub(super) type Lists = Vec<Vec<Record>>;

impl Record {
    pub fn is(&self, kind: u8) -> bool {
        self.kind & kind != 0
    }

    /// Whether `self`, which came before, forbids `access` by an agent with that knowledge. `proxy` is the way of knowing
    /// that an asynchronous access needs.
    fn conflict(&self, access: &Record, knowledge: &Knowledge, proxy: Known) -> Option<Conflict> {
        let harmless = (self.kind | access.kind) & WRITE == 0 || self.kind & access.kind & STRONG != 0;
        if self.mask & access.mask == 0 || harmless {
            return None;
        }
        if self.agent == access.agent && !access.is(IN_FLIGHT) {
            let lanes_differ = self.lane != SOME_LANES && (self.lane != access.lane || access.lane == ALL_LANES);
            let same_store = self.kind & access.kind & WRITE != 0 && self.line == access.line;
            let unordered = self.clock == access.clock && lanes_differ && !same_store;
            return unordered.then_some(Conflict::Lanes);
        }
        if !knowledge.includes(Known::Happened, self.agent, self.clock) {
            return Some(Conflict::Race);
        }
        let crosses = access.is(ASYNC_PROXY) && !self.is(ASYNC_PROXY) && self.is(WRITE);
        (crosses && !knowledge.includes(proxy, self.agent, self.clock)).then_some(Conflict::Proxy)
    }

    /// Whether a record may be dropped because `access` stands for it in every later check: the bytes are covered, and whoever
    /// comes after `access` also comes after it. An asynchronous access passes no knowledge on but its own.
    fn covered(&self, access: &Record, knowledge: &Knowledge) -> bool {
        let kinds = if access.is(WRITE) {
            !access.is(STRONG) || self.is(STRONG)
        } else {
            !self.is(WRITE) && self.is(STRONG) == access.is(STRONG)
        };
        let known = || {
            self.agent == access.agent
                || (!access.is(IN_FLIGHT) && knowledge.includes(Known::Happened, self.agent, self.clock))
        };
        self.mask & !access.mask == 0 && kinds && known()
    }

    /// Whether one record can stand for both: the same agent, event and kind.
    fn mergeable(&self, access: &Record) -> bool {
        (self.agent, self.clock, self.kind) == (access.agent, access.clock, access.kind)
    }

    /// `access` and this record in one.
    fn merged(&self, access: Record) -> Record {
        let lane = if self.lane == access.lane {
            access.lane
        } else if self.lane == SOME_LANES || self.mask & access.mask == 0 {
            SOME_LANES
        } else {
            ALL_LANES
        };
        Record { mask: self.mask | access.mask, lane, ..access }
    }
}

impl Cell {
    /// Checks an access against the records and adds it.
    ///
    /// # Errors
    /// The record that it is in conflict with.
    pub fn access(
        &mut self,
        access: Record,
        knowledge: &Knowledge,
        proxy: Known,
        lists: &mut Lists,
        global: bool,
    ) -> Result<(), (Conflict, Record)> {
        let earlier = [self.write, self.reads[0], self.reads[1]];
        for record in earlier.iter().chain(self.list(lists)).filter(|record| record.clock > 0) {
            if let Some(conflict) = record.conflict(&access, knowledge, proxy) {
                return Err((conflict, *record));
            }
        }
        if self.more > 0 {
            lists[self.more as usize - 1].retain(|record| !record.covered(&access, knowledge));
        }
        let slots = if access.is(WRITE) { std::slice::from_mut(&mut self.write) } else { &mut self.reads[..] };
        if let Some(slot) = slots.iter_mut().find(|slot| slot.mergeable(&access)) {
            *slot = slot.merged(access);
        } else if let Some(slot) = slots.iter_mut().find(|slot| slot.clock == 0 || slot.covered(&access, knowledge)) {
            *slot = access;
        } else {
            let displaced = std::mem::replace(&mut slots[0], access);
            if !access.is(WRITE) {
                slots.swap(0, 1);
            }
            if !global || access.is(WRITE) {
                self.remember(displaced, lists, global);
            }
        }
        if access.is(WRITE) {
            for read in &mut self.reads {
                if read.covered(&access, knowledge) {
                    *read = Record::default();
                }
            }
        }
        Ok(())
    }

    fn list<'a>(&self, lists: &'a Lists) -> &'a [Record] {
        match self.more {
            0 => &[],
            more => &lists[more as usize - 1],
        }
    }

    fn remember(&mut self, record: Record, lists: &mut Lists, global: bool) {
        if self.more == 0 {
            lists.push(Vec::new());
            self.more = lists.len() as u32;
        }
        let list = &mut lists[self.more as usize - 1];
        if global && list.len() == GLOBAL_RECORDS {
            list.remove(0);
        }
        list.push(record);
    }
}
