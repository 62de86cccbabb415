//! CoCa's layers as ops on a tape. One code for every form: what differs between the paper's and open_clip's is data in
//! the configuration. Shapes: B images or texts, R packed text rows, D decoder rows, T patches, N image tokens.

mod decoder;
mod layers;
mod pooler;
mod step;
mod text;
mod vision;

pub use layers::Layers;
pub use step::{Cached, Step};
pub use text::TextInputs;
pub use vision::ImageOutputs;

/// LayerNorm's epsilon, everywhere.
pub const EPSILON: f32 = 1e-5;
