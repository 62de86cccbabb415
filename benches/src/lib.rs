//! What the measurements share: training steps, and the peer that takes them in another process.
//!
//! | command | measures |
//! |---|---|
//! | `coca bench [FILTER]` | every op's model-sized cases beside the machine's ceilings, other libraries and earlier runs |
//! | `cargo bench -p benches [FILTER]` | the same cases, by criterion |
//! | `cargo run --release -p benches --bin optimizer` | passes over whole parameter arenas, beside PyTorch's AdamW |
//! | `cargo run --release -p benches --bin step -- …` | training steps, interleaved with open_clip's in PyTorch |
//! | `cargo run --release -p benches --bin inference -- …` | captions and features, interleaved with open_clip's in PyTorch |
//! | `cargo run --release -p benches --bin pipeline -- …` | pictures and captions on their way to a step, beside open_clip's |
//! | `benches/gpu.sh` | all of this on a machine with a GPU, after its tests |

pub mod outcome;
pub mod peer;
pub mod step;
