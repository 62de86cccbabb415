//! What happens around each node of a run: the seam of profilers and checks.

use crate::cuda::Stream;
use crate::{Buffer, Cost, Device, Meta, Op, Phase, Result, View, Write};
use std::sync::Arc;

/// What happens around each node of a run: profilers and checks.
pub trait Observer {
    /// Before the node runs.
    fn before(&mut self, step: &StepView<'_>) -> Result<()> {
        let _ = step;
        Ok(())
    }
    /// After the node ran; on a device, when it is done.
    fn after(&mut self, step: &StepView<'_>) -> Result<()> {
        let _ = step;
        Ok(())
    }
}

/// A node about to run or just run, as observers see it.
#[derive(Debug)]
pub struct StepView<'a> {
    /// Position in the program.
    pub index: usize,
    /// The op.
    pub op: &'a Arc<dyn Op>,
    /// Forward, backward or recomputation.
    pub phase: Phase,
    /// Span path of the model code.
    pub span: &'a str,
    /// Span and source line.
    pub place: &'a str,
    /// Where the tensors lie.
    pub device: &'a Device,
    /// Inputs with clipped shapes.
    pub inputs: &'a [View<'a>],
    /// Outputs: address, clipped shape, write mode.
    pub outputs: &'a [(*mut u8, Meta, Write)],
    /// Full size in bytes of each output.
    pub output_bytes: &'a [usize],
    /// Work for the clipped shapes.
    pub cost: Cost,
    /// Guard bytes after each planned output.
    pub guard_bytes: usize,
    /// Which outputs lie in the planned arena (and so have guards).
    pub planned: &'a [bool],
    /// Which outputs are scratch: nobody reads them.
    pub scratch: &'a [bool],
}

/// Bytes that the host can read: the tensor's own, or a copy of what lies on a device.
pub(crate) struct Local {
    pointer: *const u8,
    _copy: Option<Arc<Buffer>>,
}

impl Local {
    /// Address of the first byte, at the alignment of a tensor.
    pub fn pointer(&self) -> *const u8 {
        self.pointer
    }
}

impl StepView<'_> {
    /// The `bytes` bytes at an address of this node's tensors or guards.
    pub(crate) fn local(&self, pointer: *const u8, bytes: usize) -> Result<Local> {
        let Device::Cuda(driver) = self.device else { return Ok(Local { pointer, _copy: None }) };
        let copy = Buffer::zeroed(bytes)?;
        // SAFETY: a buffer of this function's own.
        let target = unsafe { copy.slice_mut::<u8>(0, bytes)? };
        driver.download(Stream::Compute, target, pointer.addr() as u64)?;
        Ok(Local { pointer: copy.pointer(), _copy: Some(copy) })
    }

    /// Sets `bytes` bytes at an address of this node's outputs or guards.
    ///
    /// # Safety
    /// They are the node's own, and nobody else uses them now.
    pub(crate) unsafe fn fill(&self, pointer: *mut u8, value: u8, bytes: usize) -> Result<()> {
        match self.device {
            // SAFETY: by contract.
            Device::Cpu => unsafe { std::ptr::write_bytes(pointer, value, bytes) },
            Device::Cuda(driver) => driver.fill(Stream::Compute, pointer.addr() as u64, value, bytes)?,
        }
        Ok(())
    }
}
