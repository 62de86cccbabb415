//! Raw memory: zeroed, page-aligned, shared. Buffers know bytes; types appear only at a kernel's edge.

use crate::{Element, Error, Result};
use std::ptr::NonNull;
use std::sync::Arc;

/// Offsets of tensors inside a buffer are multiples of this many bytes.
pub const ALIGNMENT: usize = 256;

/// Rounds a byte count up to the next multiple of [`ALIGNMENT`].
pub const fn align_up(bytes: usize) -> usize {
    bytes.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// A block of zeroed memory. Pages come from the system on first touch, in huge pages where it grants them.
///
/// Contents are shared: whoever holds the `Arc` may copy in and out between runs. Nothing here locks; the engine runs
/// one program at a time over a buffer (see `Workspace`).
#[derive(Debug)]
pub struct Buffer {
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a buffer is plain memory without thread affinity; data races are excluded by the rule that only one program
// (or one copying caller) works on it at a time, which the unsafe accessors state as their contract.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Memory of `bytes` zero bytes; an error if the system refuses.
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
        Ok(Arc::new(Buffer { pointer, bytes }))
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Address of the first byte.
    pub fn pointer(&self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    /// Copies `values` to byte offset `offset`; an error if they do not fit.
    pub fn write<T: Element>(&self, offset: usize, values: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        self.check(offset, bytes.len())?;
        // SAFETY: the range was checked; source and target are distinct since `values` is a Rust borrow.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer().add(offset), bytes.len()) };
        Ok(())
    }

    /// Copies `count` elements from byte offset `offset`; an error if they lie outside.
    pub fn read<T: Element>(&self, offset: usize, count: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); count];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        self.check(offset, bytes.len())?;
        // SAFETY: the range was checked; the target is a fresh vector.
        unsafe { std::ptr::copy_nonoverlapping(self.pointer().add(offset), bytes.as_mut_ptr(), bytes.len()) };
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
        // SAFETY: both ranges were checked; `copy` allows them to overlap.
        unsafe { std::ptr::copy(source.pointer().add(from), self.pointer().add(offset), bytes) };
        Ok(())
    }

    /// The elements in place.
    ///
    /// # Safety
    /// Nothing writes to the range while the slice lives.
    pub unsafe fn slice<T: Element>(&self, offset: usize, count: usize) -> Result<&[T]> {
        self.check(offset, count * size_of::<T>())?;
        // SAFETY: inside the mapping, aligned by `check`, any bit pattern is a value of T; no writer by contract.
        Ok(unsafe { std::slice::from_raw_parts(self.pointer().add(offset).cast(), count) })
    }

    /// The elements in place, to be changed.
    ///
    /// # Safety
    /// Nothing else reads or writes the range while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that nothing else touches the range")]
    pub unsafe fn slice_mut<T: Element>(&self, offset: usize, count: usize) -> Result<&mut [T]> {
        self.check(offset, count * size_of::<T>())?;
        // SAFETY: as in `slice`, and exclusive by contract.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pointer().add(offset).cast(), count) })
    }

    fn check(&self, offset: usize, bytes: usize) -> Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes && offset.is_multiple_of(8) => Ok(()),
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
        // SAFETY: the mapping made in `zeroed`, with the same size, unmapped once.
        unsafe { libc::munmap(self.pointer.as_ptr().cast(), self.bytes.max(1)) };
    }
}
