//! The activation arena that several programs share, one at a time.

use crate::{Buffer, Device, Error, Result};
use std::sync::{Arc, Mutex, MutexGuard};

/// The activation arena that several programs share, one at a time.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    device: Device,
    arena: Arc<Mutex<Arena>>,
}

#[derive(Debug, Default)]
pub(crate) struct Arena {
    buffer: Option<Arc<Buffer>>,
    /// The program whose results the arena holds.
    owner: u64,
}

impl Workspace {
    /// An empty arena of the host; it grows to the needs of the programs that use it.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// An empty arena on a device, where the programs compiled over it will run. Programs of one device that run on several
    /// threads must share it: what another thread submits while a run is captured would become a part of that graph.
    pub fn on(device: &Device) -> Workspace {
        Workspace { device: device.clone(), arena: Arc::default() }
    }

    /// Whose memory the arena is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Held for the whole of a run, so that programs on several threads take turns.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Arena {
    /// Memory for a run of `program`, whose results it will hold.
    pub fn claim(&mut self, device: &Device, bytes: usize, program: u64) -> Result<Arc<Buffer>> {
        let buffer = self.reserve(device, bytes)?;
        self.owner = program;
        Ok(buffer)
    }

    /// At least `bytes` bytes; if the arena has to grow, the results in it are lost.
    pub fn reserve(&mut self, device: &Device, bytes: usize) -> Result<Arc<Buffer>> {
        match &self.buffer {
            Some(buffer) if buffer.bytes() >= bytes => Ok(buffer.clone()),
            _ => {
                (self.buffer, self.owner) = (None, 0); // free the old one first
                let buffer = Buffer::on(device, bytes)?;
                self.buffer = Some(buffer.clone());
                Ok(buffer)
            }
        }
    }

    /// The arena, if it holds the results of `program`.
    pub fn results_of(&self, program: u64) -> Result<&Buffer> {
        match &self.buffer {
            Some(buffer) if self.owner == program => Ok(buffer),
            _ => Err(Error::invalid(
                "the results are not there: the program has not run yet, or another one has overwritten them",
            )),
        }
    }
}
