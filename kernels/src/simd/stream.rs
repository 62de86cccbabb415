//! Stores that pass the caches by: what is larger than they are has left them before it is read again, and an ordinary store first
//! reads the line that it overwrites.

use super::{Float, LANES};

/// Bytes of an output from which on it is written past the caches: the level-3 caches of most processors.
const STREAMED_BYTES: usize = 32 << 20;

/// How results reach an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// They replace what is there.
    Set,
    /// They are added to it.
    Add,
    /// As [`Write::Set`], past the caches. Each task ends with [`Write::finish`].
    Stream,
}

impl Write {
    /// The way for an output of `elements`, of which all tasks write whole lanes from its start on.
    pub fn of<T>(accumulate: bool, elements: usize) -> Write {
        match accumulate {
            true => Write::Add,
            false if elements * size_of::<T>() >= STREAMED_BYTES => Write::Stream,
            false => Write::Set,
        }
    }

    /// Makes what this thread has streamed visible before what it writes from now on.
    #[inline(always)]
    pub fn finish(self) {
        #[cfg(target_arch = "x86_64")]
        if self == Write::Stream {
            // SAFETY: the baseline's.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

/// Writes lanes past the caches where the processor can and they are aligned, else as any others.
#[inline(always)]
pub(crate) fn stream<T: Float>(to: &mut [T; LANES], values: [T; LANES]) {
    #[cfg(target_arch = "x86_64")]
    if to.as_ptr().addr().is_multiple_of(16) {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        let (from, to) = (values.as_ptr().cast::<__m128i>(), to.as_mut_ptr().cast::<__m128i>());
        for part in 0..size_of::<[T; LANES]>() / 16 {
            // SAFETY: whole parts of both arrays, aligned; the instructions are the baseline's.
            unsafe { _mm_stream_si128(to.add(part), _mm_loadu_si128(from.add(part))) };
        }
        return;
    }
    *to = values;
}
