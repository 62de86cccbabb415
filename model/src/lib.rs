//! CoCa in terms of kernels: towers, losses, generation, tokenizer, preprocessing, weights.

pub mod config;
pub mod flops;
pub mod params;
pub mod weights;
