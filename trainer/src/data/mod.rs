//! Training data: where pairs of image and text come from, and the stream of batches made of them.

mod augment;
pub mod benchmark;
pub mod clips;
mod colours;
mod drawing;
pub mod emoji;
mod fault;
pub mod fetch;
mod fingerprint;
mod order;
mod read;
pub mod scenes;
pub mod shard_writer;
pub mod source;
mod stats;
mod stream;
#[cfg(test)]
pub(crate) mod test_source;
pub mod tools;

pub use augment::Augmenter;
pub use clips::spread;
pub use fault::{Fault, FaultKind, LEDGER, Ledger};
pub use fingerprint::Fingerprint;
pub use order::Position;
pub use read::{Labelled, Sample, captions, listed, read_all, read_batches};
pub use source::{Class, Labels, Part, Raw, RawImage, Source, open};
pub use stats::{check, stats};
pub use stream::{Batch, Stream};
