//! The arguments of commands that can look at clips.

use crate::config::Data;
use clap::Args;
use std::num::NonZeroUsize;

/// How clips are looked at.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Video")]
pub struct VideoArgs {
    /// The data are clips: .tar shards with frames, a folder of clips or of class folders of them, kinetics:FILE.csv or
    /// msrvtt:FILE.json
    #[arg(long)]
    pub video: bool,
    /// Frames of a clip, taken evenly from the whole of it
    #[arg(long, value_name = "COUNT", default_value = "16", requires = "video")]
    pub frames: NonZeroUsize,
}

impl VideoArgs {
    /// Sets what they say of the data.
    pub fn apply(&self, data: &mut Data) {
        if self.video {
            data.frames = self.frames.get();
        }
    }
}
