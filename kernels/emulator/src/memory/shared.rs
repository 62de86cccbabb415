//! The shared memory of a block, as a window that starts at [`SHARED_BASE`].
use super::{Bits, POISON};
use crate::decode::SHARED_BASE;
use crate::{Fault, FaultKind, tensor_core};

/// Shared memory.
#[derive(Debug)]
pub struct Shared {
    pub bytes: Vec<u8>,
    pub written: Bits,
}

impl Shared {
    /// Shared memory of `bytes` bytes, with undefined contents.
    pub fn new(bytes: usize) -> Shared {
        Shared { bytes: vec![POISON; bytes], written: Bits::new(bytes) }
    }

    /// The offset of `bytes` bytes at an address.
    #[inline]
    pub fn locate(&self, address: u32, bytes: usize) -> Result<usize, Fault> {
        let at = (address as usize).wrapping_sub(SHARED_BASE as usize);
        if at.checked_add(bytes).is_some_and(|end| end <= self.bytes.len()) {
            return Ok(at);
        }
        Err(self.outside(address, bytes))
    }

    #[cold]
    fn outside(&self, address: u32, bytes: usize) -> Fault {
        let end = SHARED_BASE as usize + self.bytes.len();
        let message = format!(
            "{bytes} bytes at shared address {address:#x} are outside of the block's shared memory, {SHARED_BASE:#x} to \
             {end:#x}"
        );
        Fault::new(FaultKind::OutOfBounds, message)
    }

    /// The contents, as matrix instructions read them.
    pub fn view(&self) -> tensor_core::Shared<'_> {
        tensor_core::Shared { base: SHARED_BASE, bytes: &self.bytes }
    }

    /// Reads at an address.
    pub fn read(&self, address: u32, bytes: usize) -> Result<&[u8], Fault> {
        let at = self.locate(address, bytes)?;
        Ok(&self.bytes[at..at + bytes])
    }

    /// Writes at an address.
    pub fn write(&mut self, address: u32, bytes: &[u8]) -> Result<(), Fault> {
        let at = self.locate(address, bytes.len())?;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.written.insert(at, bytes.len());
        Ok(())
    }

    /// Whether everything at an address was written.
    pub fn is_written(&self, address: u32, bytes: usize) -> bool {
        self.written.contains((address - SHARED_BASE) as usize, bytes)
    }
}
