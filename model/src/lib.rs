//! CoCa in terms of kernels: towers, losses, generation, tokenizer, preprocessing, weights.

pub mod attention_map;
mod coca;
pub mod config;
pub mod encoder;
pub mod flops;
pub mod generate;
pub mod heads;
pub mod interpolate;
pub mod network;
pub mod packing;
pub mod params;
pub mod preprocess;
pub mod task;
pub mod tokenizer;
pub mod train;
pub mod weights;

pub use coca::{Coca, LOGIT_SCALE};
