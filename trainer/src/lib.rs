//! The program `coca`, as a library: configuration, data, the training loop, checkpoints, evaluation, reports.
//! `main.rs` only hands the command line over.

mod aside;
mod base64;
pub mod checkpoint;
mod checksum;
pub mod classes;
pub mod cli;
pub mod compare;
pub mod config;
pub mod data;
pub mod doctor;
mod dot;
pub mod embed;
pub mod evaluate;
pub mod inspect;
pub mod lab;
pub mod machine;
pub mod metrics;
pub mod model_folder;
pub mod plan;
pub mod png_file;
pub mod probe;
pub mod progress;
pub mod report;
pub mod run;
pub mod schedule;
pub mod serve;
pub mod signal;
pub mod suite;
pub mod task;
pub mod tensorboard;
#[cfg(test)]
mod test_support;

pub use engine::{Error, Result};
#[cfg(test)]
use test_support::{test_child, test_folder};
