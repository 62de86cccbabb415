//! Raw memory: zeroed, aligned, shared, of the host or of a device. Buffers know bytes; types appear only at a kernel's edge.

use crate::cuda::Stream;
use crate::{Device, Element, Error, Result};
use std::ptr::NonNull;
use std::sync::Arc;

/// Offsets of tensors inside a buffer are multiples of this many bytes.
pub const ALIGNMENT: usize = 256;

/// Rounds a byte count up to the next multiple of [`ALIGNMENT`].
pub const fn align_up(bytes: usize) -> usize {
    bytes.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// A block of zeroed memory. Pages of the host come from the system on first touch, in huge pages where it grants them.
///
/// Contents are shared: whoever holds the `Arc` may copy in and out between runs. Nothing here locks; the engine runs
/// one program at a time over a buffer (see `Workspace`). Copies to and from a device keep the order of its work.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    /// Of device memory the address, which the host cannot follow.
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a buffer is plain memory without thread affinity, or a device's address; data races are excluded by the rule that only one program
// (or one copying caller) works on it at a time, which the unsafe accessors state as their contract.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Memory of `bytes` zero bytes on a device; an error if it has no more.
    pub fn on(device: &Device, bytes: usize) -> Result<Arc<Buffer>> {
        let Device::Cuda(driver) = device else { return Buffer::zeroed(bytes) };
        let size = bytes.max(1);
        let address = driver.allocate(size)?;
        let pointer = NonNull::new(std::ptr::without_provenance_mut(address as usize))
            .ok_or_else(|| Error::invalid(format!("{device} gave memory at address 0")))?;
        let buffer = Buffer { device: device.clone(), pointer, bytes };
        driver.fill(Stream::Compute, address, 0, size)?;
        Ok(Arc::new(buffer))
    }

    /// Memory of `bytes` zero bytes of the host; an error if the system refuses.
    pub fn zeroed(bytes: usize) -> Result<Arc<Buffer>> {
        let size = bytes.max(1);
        // SAFETY: an anonymous private mapping at an address of the system's choice; the result is checked.
        let pointer = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if pointer == libc::MAP_FAILED {
            return Err(Error::invalid(format!("cannot reserve {bytes} bytes: {}", std::io::Error::last_os_error())));
        }
        #[cfg(target_os = "linux")]
        if size >= 4 << 20 {
            // SAFETY: advice on the mapping just made; a refusal changes nothing.
            unsafe { libc::madvise(pointer, size, libc::MADV_HUGEPAGE) };
        }
        let pointer = NonNull::new(pointer.cast()).ok_or_else(|| Error::invalid("the system mapped address 0"))?;
        Ok(Arc::new(Buffer { device: Device::Cpu, pointer, bytes }))
    }

    /// A copy in the memory of a device.
    pub fn copy_on(&self, device: &Device) -> Result<Arc<Buffer>> {
        let copy = Buffer::on(device, self.bytes)?;
        copy.copy(0, self, 0, self.bytes)?;
        Ok(copy)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whose memory it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Address of the first byte; one of a device is not to be followed on the host.
    pub fn pointer(&self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    /// Copies `values` to byte offset `offset`; an error if they do not fit.
    pub fn write<T: Element>(&self, offset: usize, values: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        self.check::<T>(offset, bytes.len())?;
        self.write_bytes(offset, bytes)
    }

    /// Copies `count` elements from byte offset `offset`; an error if they lie outside.
    pub fn read<T: Element>(&self, offset: usize, count: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); count];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        self.check::<T>(offset, bytes.len())?;
        self.read_bytes(offset, bytes)?;
        Ok(values)
    }

    /// Copies `bytes` bytes from offset `from` of `source` to offset `offset`; an error if they lie outside of either.
    pub fn copy(&self, offset: usize, source: &Buffer, from: usize, bytes: usize) -> Result<()> {
        for (buffer, first) in [(self, offset), (source, from)] {
            if first.checked_add(bytes).is_none_or(|end| end > buffer.bytes) {
                let size = buffer.bytes;
                return Err(Error::invalid(format!(
                    "{bytes} bytes from {first} on are not in a buffer of {size} bytes"
                )));
            }
        }
        let overlaps = std::ptr::eq(self, source) && offset < from + bytes && from < offset + bytes;
        match &self.device {
            Device::Cpu if self.device.is(&source.device) => {
                // SAFETY: both ranges were checked; `copy` allows them to overlap.
                unsafe { std::ptr::copy(source.pointer().add(from), self.pointer().add(offset), bytes) };
                Ok(())
            }
            Device::Cuda(driver) if self.device.is(&source.device) && !overlaps => {
                driver.copy(Stream::Compute, self.address(offset), source.address(from), bytes)
            }
            _ => {
                let mut through = vec![0u8; bytes];
                source.read_bytes(from, &mut through)?;
                self.write_bytes(offset, &through)
            }
        }
    }

    fn write_bytes(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        match &self.device {
            // SAFETY: the range was checked; source and target are distinct since `bytes` is a Rust borrow.
            Device::Cpu => unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer().add(offset), bytes.len());
            },
            Device::Cuda(driver) => driver.upload(Stream::Compute, self.address(offset), bytes)?,
        }
        Ok(())
    }

    fn read_bytes(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        match &self.device {
            // SAFETY: the range was checked; the target is a borrow of its own.
            Device::Cpu => unsafe {
                std::ptr::copy_nonoverlapping(self.pointer().add(offset), into.as_mut_ptr(), into.len());
            },
            Device::Cuda(driver) => driver.download(Stream::Compute, into, self.address(offset))?,
        }
        Ok(())
    }

    /// Address of byte `offset` as kernels take it.
    pub fn address(&self, offset: usize) -> u64 {
        (self.pointer().addr() + offset) as u64
    }

    /// The elements in place; an error for memory of a device.
    ///
    /// # Safety
    /// Nothing writes to the range while the slice lives.
    pub unsafe fn slice<T: Element>(&self, offset: usize, count: usize) -> Result<&[T]> {
        self.check_host()?;
        self.check::<T>(offset, count * size_of::<T>())?;
        // SAFETY: inside the mapping, aligned by `check`, any bit pattern is a value of T; no writer by contract.
        Ok(unsafe { std::slice::from_raw_parts(self.pointer().add(offset).cast(), count) })
    }

    /// The elements in place, to be changed; an error for memory of a device.
    ///
    /// # Safety
    /// Nothing else reads or writes the range while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that nothing else touches the range")]
    pub unsafe fn slice_mut<T: Element>(&self, offset: usize, count: usize) -> Result<&mut [T]> {
        self.check_host()?;
        self.check::<T>(offset, count * size_of::<T>())?;
        // SAFETY: as in `slice`, and exclusive by contract.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pointer().add(offset).cast(), count) })
    }

    fn check_host(&self) -> Result<()> {
        match &self.device {
            Device::Cpu => Ok(()),
            device => Err(Error::invalid(format!(
                "a buffer of {} bytes lies in the memory of {device}: it is read and written by copies",
                self.bytes
            ))),
        }
    }

    fn check<T>(&self, offset: usize, bytes: usize) -> Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes && offset.is_multiple_of(align_of::<T>()) => Ok(()),
            _ => Err(Error::invalid(format!(
                "bytes {offset}..{} are not an aligned range of a buffer of {} bytes",
                offset.saturating_add(bytes),
                self.bytes
            ))),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match &self.device {
            // SAFETY: the mapping made in `zeroed`, with the same size, unmapped once.
            Device::Cpu => unsafe {
                libc::munmap(self.pointer.as_ptr().cast(), self.bytes.max(1));
            },
            // A failure here is that of earlier work, which the next call of the driver reports again.
            Device::Cuda(driver) => drop(driver.free(self.address(0))),
        }
    }
}
