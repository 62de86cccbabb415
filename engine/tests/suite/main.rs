//! The engine as a model sees it, driven by tiny ops with honest backwards.

mod backward;
mod checkpointing;
mod checks;
mod errors;
mod misuse;
mod ops;
mod planner;
mod profiler;
mod ragged;
mod workspace;
