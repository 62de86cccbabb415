//! The arguments of `coca probe`.

use super::VideoArgs;
use crate::config::{Config, Data, LabelKind};
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use engine::DType;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

/// Arguments of `coca probe`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca probe --model runs/emoji/model --data emoji:train --test emoji:noto-v1 --test emoji:fxemoji \\
      --labels group
  coca probe --model runs/b32 --data imagenet:imagenet/train --test imagenet:imagenet/val \\
      --classes classes.txt --epochs 10 --out heads
  coca probe --model runs/b32 --data labelled.csv --test labelled.csv --kind linear --json probe.json
  coca probe --model runs/b32 --video --frames 8 --time-embedding --data 'motion-train-{00000..00001}.tar' \\
      --test motion-test-00000.tar --epochs 2 --batch-size 8

The image encoder stays as it is. What it makes of the images is computed once, without
augmentation, and kept in the folder of --cache.
  pooler  attentional pooler and softmax layer over the encoder's output, trained as in the paper
  linear  softmax regression on the contrastive feature; its penalty is chosen on a tenth of --data
  knn     vote of the 20 nearest contrastive features, and as a control of the 20 nearest pictures
Data is as for `coca eval zero-shot`. The class of an image is its folder in imagenet:FOLDER, the
column data.label_column (`label`) of a table that has it, else its caption.

With --video the data is clips, as for `coca eval --video`, and the class of a clip is the folder that
it is in, the field `class` of its .json member, or its caption. The pooler's one query sees the rows
of all frames; the other probes see the mean of the frames' features. Two more rows are controls: a
pooler that is trained and measured on the middle frame alone, and the pooler where the frames of
each clip are shuffled when it is measured. In the paper's pooler nothing tells frames apart, so that
shuffling changes nothing; --time-embedding adds a sinusoid of its time to the rows of each frame.")]
pub struct ProbeArgs {
    /// Folder with the model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Labelled images to learn from
    #[arg(long, value_name = "SOURCE")]
    pub data: String,
    /// Labelled images to measure on; can be repeated
    #[arg(long, value_name = "SOURCE", required = true)]
    pub test: Vec<String>,
    /// What is told apart; groups and subgroups are of the bundled emoji
    #[arg(long, default_value = "name")]
    pub labels: LabelKind,
    /// Which probe
    #[arg(long, default_value = "all")]
    pub kind: ProbeKind,
    /// Names of the classes, one a line: `LABEL<tab>NAME`, or a name that is its own label; as --set data.classes=FILE
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Change one key of the section data, such as data.label_column=class; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Storage type of the encoder's activations, and of its output in the cache
    #[arg(long, value_parser = ["f32", "bf16"], default_value = "f32")]
    pub dtype: String,
    /// Folder of the features
    #[arg(long, value_name = "DIR", default_value = "runs/probe-cache")]
    pub cache: PathBuf,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write what was trained to this folder: pooler.safetensors and linear.safetensors
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Seed of the pooler's start, of the order of images, and of what is held out for the linear probe
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How clips are looked at.
    #[command(flatten)]
    pub video: VideoArgs,
    /// Let the pooler know the time of each frame, which the paper's does not
    #[arg(long, requires = "video", help_heading = "Video")]
    pub time_embedding: bool,
    /// How the pooler is trained.
    #[command(flatten)]
    pub pooler: PoolerArgs,
}

/// How the pooler is trained. The defaults are the paper's for ImageNet but for the number of steps.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Training of the pooler")]
pub struct PoolerArgs {
    /// Passes over the data
    #[arg(long, value_name = "COUNT", default_value = "30")]
    pub epochs: NonZeroU64,
    /// Updates, in place of --epochs
    #[arg(long, value_name = "COUNT", conflicts_with = "epochs")]
    pub steps: Option<NonZeroU64>,
    /// Updates of linear warm-up; then half a cosine to zero
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub warmup_steps: u64,
    /// Images in an update
    #[arg(long, value_name = "COUNT", default_value = "512")]
    pub batch_size: NonZeroUsize,
    /// Peak learning rate (Adafactor)
    #[arg(long, value_name = "RATE", default_value_t = 5e-4)]
    pub learning_rate: f64,
    /// Share of the target that all classes have together
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    pub label_smoothing: f64,
    /// Decoupled decay of matrices
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    pub weight_decay: f64,
    /// Share of the average of the weights that an update keeps, less at first; 0: no average
    #[arg(long, value_name = "SHARE", default_value_t = 0.9999)]
    pub ema: f64,
}

impl ProbeArgs {
    /// How the sets are read.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn data_config(&self) -> Result<Data> {
        let mut data = Config::load(None, &self.sets)?.data;
        if let Some(classes) = &self.classes {
            data.classes = classes.clone();
        }
        self.video.apply(&mut data);
        Ok(data)
    }

    /// Storage type of the encoder's activations.
    pub fn dtype(&self) -> DType {
        if self.dtype == "bf16" { DType::BF16 } else { DType::F32 }
    }

    /// Whether the arguments fit each other.
    ///
    /// # Errors
    /// There is nothing that `--out` could write, or no pooler for `--time-embedding`.
    pub fn check(&self) -> Result<()> {
        match (&self.out, self.kind) {
            (Some(_), ProbeKind::Knn) => Err(Error::invalid("--kind knn trains nothing: leave --out out")),
            (_, ProbeKind::Linear | ProbeKind::Knn) if self.time_embedding => {
                Err(Error::invalid("--time-embedding is of the pooler, which this --kind leaves out"))
            }
            _ => Ok(()),
        }
    }
}

/// Which probes are fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeKind {
    /// An attentional pooler over the encoder's output
    Pooler,
    /// Softmax regression on the contrastive feature
    Linear,
    /// Nearest neighbours of the contrastive feature
    Knn,
    /// All three
    All,
}

impl ProbeKind {
    /// Whether `kind`, which is not `All`, is fitted.
    pub fn includes(self, kind: ProbeKind) -> bool {
        self == ProbeKind::All || self == kind
    }
}
