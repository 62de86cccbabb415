//! The program `coca`, as a library: configuration, data, the training loop, checkpoints, evaluation, reports.
//! `main.rs` only hands the command line over.

pub mod config;
pub mod schedule;

pub use engine::{Error, Result};
