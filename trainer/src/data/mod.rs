//! Training data: where pairs of image and text come from, and the stream of batches made of them.

pub mod emoji;
