//! The inputs of a program on a device: one arena, filled through pinned memory beside the kernels of the run before.
//!
//! What is written goes to one of two pinned copies of the arena, so that the host may write for the next run while the
//! last is still being copied. With the run it goes on: to a landing place on the copy stream, beside the kernels that may
//! still read the arena, and from there into the arena, in the order of the kernels.

use super::{Driver, Event, Pinned, Stream};
use crate::buffer::align_up;
use crate::tape::{Home, Tape};
use crate::{Buffer, Device, Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// The inputs of a program on a device.
#[derive(Debug)]
pub(crate) struct Inputs {
    driver: Arc<dyn Driver>,
    arena: Arc<Buffer>,
    /// Offset of each input by the id of its tensor.
    offsets: HashMap<u32, usize>,
    /// Host copies of inputs by their offset: row offsets, which the host reads at every run.
    mirrors: HashMap<usize, Arc<Buffer>>,
    staging: Mutex<Staging>,
}

#[derive(Debug)]
struct Staging {
    /// Two pinned copies of the arena, the next to be written first.
    pinned: [Slot; 2],
    /// A copy of the arena on the device.
    landing: Arc<Buffer>,
    /// When the landing place may be overwritten.
    taken: Option<Event>,
    /// What was written since the last run.
    pending: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Slot {
    memory: Pinned,
    /// When it may be overwritten.
    sent: Option<Event>,
}

impl Inputs {
    /// Gives every input of a tape a place on the device, with its first values. An error if parameters lie elsewhere.
    pub fn new(tape: &Tape, driver: &Arc<dyn Driver>) -> Result<Inputs> {
        let device = Device::Cuda(driver.clone());
        let mut moved: Vec<(u32, &Arc<Buffer>)> = Vec::new();
        let mut offsets = HashMap::new();
        let mut bytes = 0;
        for (id, info) in (0..).zip(&tape.infos) {
            let Home::Owned(buffer, _) = &info.home else { continue };
            if buffer.device().is(&device) {
                continue;
            }
            let is_input = info.name.is_some() && !tape.leaves.values().any(|leaf| leaf.id == id);
            if !is_input || !buffer.device().is(&Device::Cpu) {
                return Err(Error::invalid(format!(
                    "the parameters lie in the memory of {}, the program is to run on {device}: move them with \
                     Parameters::move_to before the tape is recorded",
                    buffer.device()
                )));
            }
            offsets.insert(id, bytes);
            moved.push((id, buffer));
            bytes += align_up(info.meta.bytes());
        }
        let arena = Buffer::on(&device, bytes)?;
        let landing = Buffer::on(&device, bytes)?;
        for (id, buffer) in moved {
            arena.copy(offsets[&id], buffer, 0, buffer.bytes())?;
        }
        let mut mirrors = HashMap::new();
        for group in &tape.ragged {
            if let (Some(&offset), Home::Owned(buffer, _)) =
                (offsets.get(&tape.root(group.offsets.id)), tape.home(group.offsets.id))
            {
                mirrors.insert(offset, buffer.clone());
            }
        }
        let slot = || -> Result<Slot> { Ok(Slot { memory: driver.pinned(bytes.max(1))?, sent: None }) };
        // The landing place is zeroed on the compute stream before anything lands there.
        let taken = Some(driver.record(Stream::Compute)?);
        let staging = Staging { pinned: [slot()?, slot()?], landing, taken, pending: Vec::new() };
        Ok(Inputs { driver: driver.clone(), arena, offsets, mirrors, staging: Mutex::new(staging) })
    }

    /// Arena and offset of an input by the id of its tensor; `None` if the tensor is none.
    pub fn place(&self, id: u32) -> Option<(Arc<Buffer>, usize)> {
        self.offsets.get(&id).map(|&offset| (self.arena.clone(), offset))
    }

    /// Takes bytes for an input, to be there at the next run; false if the buffer is not the arena of the inputs.
    pub fn write(&self, buffer: &Arc<Buffer>, offset: usize, bytes: &[u8]) -> Result<bool> {
        if !Arc::ptr_eq(buffer, &self.arena) {
            return Ok(false);
        }
        if let Some(mirror) = self.mirrors.get(&offset) {
            mirror.write(0, bytes)?;
        }
        let mut staging = self.lock();
        if let Some(sent) = staging.pinned[0].sent.take() {
            self.driver.wait_on_host(&sent)?;
        }
        let range = offset..offset + bytes.len();
        staging.pinned[0].memory.as_mut_slice()[range.clone()].copy_from_slice(bytes);
        if !staging.pending.contains(&range) {
            staging.pending.push(range);
        }
        Ok(true)
    }

    /// Sends what was written on its way; all later work of the compute stream sees it.
    pub fn send(&self) -> Result<()> {
        let staging = &mut *self.lock();
        if staging.pending.is_empty() {
            return Ok(());
        }
        let (driver, [slot, _]) = (&self.driver, &mut staging.pinned);
        let (arena, landing) = (self.arena.address(0), staging.landing.address(0));
        if let Some(taken) = &staging.taken {
            driver.wait(Stream::Copy, taken)?;
        }
        for range in &staging.pending {
            // SAFETY: `write` waits for the event below before it writes to this memory again, `drop` before it frees it.
            unsafe { driver.upload_pinned(Stream::Copy, landing + range.start as u64, &slot.memory, range.clone())? };
        }
        let sent = driver.record(Stream::Copy)?;
        driver.wait(Stream::Compute, &sent)?;
        slot.sent = Some(sent);
        for range in staging.pending.drain(..) {
            driver.copy(Stream::Compute, arena + range.start as u64, landing + range.start as u64, range.len())?;
        }
        staging.taken = Some(driver.record(Stream::Compute)?);
        staging.pinned.reverse();
        Ok(())
    }

    /// After a copy into an input on the device: takes it over where the host reads the input, too.
    pub fn copied(&self, buffer: &Arc<Buffer>, offset: usize) -> Result<()> {
        let place = |start: usize, mirror: &Buffer| (start..start + mirror.bytes()).contains(&offset);
        let mirror = self.mirrors.iter().find(|&(&start, mirror)| place(start, mirror));
        match mirror {
            Some((&start, mirror)) if Arc::ptr_eq(buffer, &self.arena) => {
                mirror.copy(0, &self.arena, start, mirror.bytes())
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        for sent in self.lock().pinned.iter_mut().filter_map(|slot| slot.sent.take()) {
            // If the device has failed, nothing is being copied any more.
            let _ = self.driver.wait_on_host(&sent);
        }
    }
}
