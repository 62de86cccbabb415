//! The order of the samples: endless epochs, each a function of seed and epoch number alone. Shuffled, an epoch takes
//! the parts in random order, the samples of a part in random order, and mixes what lies within one window, so that
//! only the parts of a window are open at a time.

use super::{Fault, Part, Source};
use engine::rng::Philox;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Keeps these random numbers apart from those of other uses of the run's seed.
const PURPOSE: u64 = 0x6461_7461_6f72_6465;
/// Streams of an epoch's generator: slot numbers, and these.
const PARTS: u64 = 1 << 63;
const PART: u64 = 1 << 62;
const WINDOW: u64 = 1 << 61;

/// A place in the endless order: the next slot to read. Slots count the samples of an epoch, faulty ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Number of the pass over the source, from 0.
    pub epoch: u64,
    /// Slot in this pass, from 0; past the last one it stands for the start of the next pass.
    pub slot: u64,
}

/// Where the sample of a slot is found, or why there is none.
pub(super) type Place = Result<(Arc<dyn Part>, usize), Fault>;

/// What comes next.
pub(super) enum Next {
    /// A slot.
    Slot(Position, Place),
    /// An epoch is over; the next one begins.
    EpochEnd,
}

/// The generator of one slot's augmentation.
pub(super) fn slot_random(seed: u64, at: Position) -> Philox {
    Philox::new(epoch_key(seed, at.epoch), at.slot)
}

fn epoch_key(seed: u64, epoch: u64) -> u64 {
    Philox::new(seed ^ PURPOSE, epoch).next_u64()
}

/// Walks through the order.
pub(super) struct Order {
    source: Arc<dyn Source>,
    seed: u64,
    shuffle: bool,
    window: usize,
    at: Position,
    /// Parts of this epoch yet to come, the next one last.
    parts: Vec<usize>,
    /// Samples of the last part of `open` yet to come, the next one last; empty if it has been read.
    reading: Vec<usize>,
    /// Parts of the window.
    open: Vec<Result<Arc<dyn Part>, Fault>>,
    /// Slots of the window yet to come, the next one last: index into `open`, index into that part.
    slots: Vec<(usize, usize)>,
    windows: u64,
}

impl Order {
    /// The order from a place on; finding it opens the parts before it in its epoch. A window holds `window` samples.
    pub fn new(source: Arc<dyn Source>, seed: u64, shuffle: bool, window: usize, from: Position) -> Order {
        let mut order = Order {
            source,
            seed,
            shuffle,
            window: window.max(1),
            at: from,
            parts: Vec::new(),
            reading: Vec::new(),
            open: Vec::new(),
            slots: Vec::new(),
            windows: 0,
        };
        order.begin(from.epoch);
        while order.at.slot < from.slot && (!order.slots.is_empty() || order.fill()) {
            let skipped = order.slots.len().min(usize::try_from(from.slot - order.at.slot).unwrap_or(usize::MAX));
            order.slots.truncate(order.slots.len() - skipped);
            order.at.slot += skipped as u64;
        }
        order
    }

    /// The next slot, or the end of an epoch.
    pub fn next(&mut self) -> Next {
        loop {
            if let Some((open, index)) = self.slots.pop() {
                let at = self.at;
                self.at.slot += 1;
                return Next::Slot(at, self.open[open].clone().map(|part| (part, index)));
            }
            if !self.fill() {
                self.begin(self.at.epoch + 1);
                return Next::EpochEnd;
            }
        }
    }

    fn random(&self, stream: u64) -> Philox {
        Philox::new(epoch_key(self.seed, self.at.epoch), stream)
    }

    fn begin(&mut self, epoch: u64) {
        self.at = Position { epoch, slot: 0 };
        self.windows = 0;
        self.parts = (0..self.source.parts()).rev().collect();
        if self.shuffle {
            self.random(PARTS).shuffle(&mut self.parts);
        }
    }

    /// Opens the next window; false at the end of the epoch.
    fn fill(&mut self) -> bool {
        let going_on = if self.reading.is_empty() { None } else { self.open.pop() };
        self.open.clear();
        self.open.extend(going_on);
        while self.slots.len() < self.window && (!self.reading.is_empty() || self.open_part()) {
            let first = self.reading.len() - self.reading.len().min(self.window - self.slots.len());
            let open = self.open.len() - 1;
            self.slots.extend(self.reading.drain(first..).rev().map(|index| (open, index)));
        }
        if self.shuffle {
            self.random(WINDOW | self.windows).shuffle(&mut self.slots);
        } else {
            self.slots.reverse();
        }
        self.windows += 1;
        !self.slots.is_empty()
    }

    /// Opens the next part, if there is one. One that cannot be opened has one slot, which is faulty.
    fn open_part(&mut self) -> bool {
        let Some(part) = self.parts.pop() else { return false };
        let opened = self.source.part(part);
        self.reading = (0..opened.as_ref().map_or(1, |part| part.len())).rev().collect();
        if self.shuffle {
            self.random(PART | part as u64).shuffle(&mut self.reading);
        }
        self.open.push(opened);
        true
    }
}
