//! Training data: where pairs of image and text come from, and the stream of batches made of them.

pub mod emoji;
mod fault;
pub mod source;

pub use fault::{Fault, FaultKind, LEDGER, Ledger};
pub use source::{Part, Raw, RawImage, Source, open};
