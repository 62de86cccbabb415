//! What the measurements share: programs made of the ops' own cases, training steps, peers in other processes, and the
//! machine that a figure was taken on.
//!
//! | command | measures |
//! |---|---|
//! | `cargo bench -p benches [FILTER]` | every op's model-sized cases, by criterion |
//! | `cargo run --release -p benches --bin rates [FILTER]` | the same as a share of the machine's measured ceilings |
//! | `cargo run --release -p benches --bin optimizer` | passes over whole parameter arenas |
//! | `cargo run --release -p benches --bin step -- …` | training steps, interleaved with open_clip's in PyTorch |

pub mod machine;
pub mod op;
pub mod peer;
pub mod step;
