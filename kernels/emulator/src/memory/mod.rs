//! The memories: global with its allocations, and the shared memory of a block, each with a bit for every byte that
//! says whether something was written there.
mod bits;
mod global;
mod shared;

pub use bits::Bits;
pub(crate) use global::Global;
pub(crate) use shared::Shared;

/// What memory holds before anything is written: as f32 and bf16 a huge negative number, easy to see in results.
pub const POISON: u8 = 0xfd;
