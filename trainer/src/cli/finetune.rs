//! The arguments of `coca finetune`, and the configuration that they stand for.

use super::{Resume, VideoArgs};
use crate::config::{Config, LabelKind};
use crate::data::{self, source::samples};
use crate::model_folder;
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

/// Passes over the data, if neither they nor the steps are given.
const EPOCHS: u64 = 10;
/// Samples in a step by default.
const BATCH: usize = 64;
/// Most steps of warm-up, where there is one; of a short run a tenth.
const WARMUP: u64 = 1000;
/// What the names of the model's own parameters start with.
const OWN: [&str; 4] = ["visual", "text", "text_decoder", "logit_scale"];

/// Arguments of `coca finetune`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca finetune --model runs/emoji/model --data emoji:train --test emoji:noto-v1 --labels group \\
      --image-size 32 --epochs 1 --batch-size 256 --out runs/groups
  coca finetune --model runs/emoji/model --task vqa --data emoji-questions:train \\
      --test emoji-questions:noto-v1 --epochs 1 --batch-size 256 --out runs/questions
  coca finetune --model runs/b32 --data imagenet:imagenet/train --test imagenet:imagenet/val \\
      --layer-decay 0.75 --encoder-rate 1e-4 --out runs/classes
  coca finetune --model runs/b32 --task caption --data 'shards/{000..099}.tar' --epochs 1 \\
      --out runs/captions

  classes     the class of an image, or with --video of a clip: a new pooler over the encoder's
              output of all its frames, and a softmax layer
  vqa         the answer to a question, of the most frequent ones: the pooler reads the decoder's
              output for the question; the captioning loss goes on with question and answer
  entailment  the same for a hypothesis and its class
  pair        the same for a statement about two images, whose pooled vectors are joined
  caption     no head: the captioning loss alone
The whole model is trained, and the defaults are the paper's but for steps, batch and warm-up:
Adafactor, gradients clipped to norm 1, half a cosine to zero, an average of the weights.
It is a run as of `coca train`, in the same kind of folder; OUT/model gets head.safetensors, and
`coca eval classify` measures it again.
Data is as for `coca eval`; the class of an image is as for `coca probe`. A question, hypothesis or
statement is the first caption, its answer, class or truth the label.")]
pub struct FinetuneArgs {
    /// Folder with the model, or with the run that made it
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Samples to learn from
    #[arg(long, value_name = "SOURCE")]
    pub data: String,
    /// Samples to measure on at the end; can be repeated
    #[arg(long, value_name = "SOURCE")]
    pub test: Vec<String>,
    /// What is learnt
    #[arg(long, default_value = "classes")]
    pub task: FinetuneTask,
    /// What the samples of classes are labelled with; groups and subgroups are of the bundled emoji
    #[arg(long)]
    pub labels: Option<LabelKind>,
    /// Side of the images in pixels, in place of the model's; position embeddings are interpolated
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<usize>,
    /// Passes over the data [default: 10]
    #[arg(long, value_name = "COUNT")]
    pub epochs: Option<NonZeroU64>,
    /// Steps, in place of --epochs
    #[arg(long, value_name = "COUNT", conflicts_with = "epochs")]
    pub steps: Option<NonZeroU64>,
    /// Samples in a step [default: 64]
    #[arg(long, value_name = "COUNT")]
    pub batch_size: Option<NonZeroUsize>,
    /// Peak learning rate of the head, or of the whole model where there is none
    /// [default: by task, 5e-4, 5e-4, 1e-3, 5e-4, 1e-5]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Peak learning rate of the rest of the model [default: by task, 5e-4, 2e-5, 5e-5, 2e-5]
    #[arg(long, value_name = "RATE")]
    pub encoder_rate: Option<f64>,
    /// Factor on the rate of each layer to that of the one above it [default: 1]
    #[arg(long, value_name = "FACTOR")]
    pub layer_decay: Option<f64>,
    /// Share of the target that all classes have together [default: 0.5 for classes, else 0]
    #[arg(long, value_name = "SHARE")]
    pub label_smoothing: Option<f64>,
    /// Share of the average of the weights that a step keeps, less at first; 0: no average [default: 0.9999]
    #[arg(long, value_name = "SHARE")]
    pub ema: Option<f64>,
    /// Show every image in the mean colour alone, in training and in tests: the control that knows only the texts
    #[arg(long)]
    pub blank_images: bool,
    /// Folder of the run
    #[arg(long, value_name = "DIR", default_value = "runs/finetune")]
    pub out: PathBuf,
    /// Go on from the newest checkpoint of the run folder (auto), from a checkpoint folder, or start anew (none)
    #[arg(long, value_name = "auto|DIR|none", default_value = "auto")]
    pub resume: Resume,
    /// Change one key of the configuration; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Whether the data are clips.
    #[command(flatten)]
    pub video: VideoArgs,
}

/// What is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FinetuneTask {
    /// The class of an image
    Classes,
    /// The answer to a question
    Vqa,
    /// Whether an image entails a text
    Entailment,
    /// Whether a text is true of two images
    Pair,
    /// Captions, without a head
    Caption,
}

/// What the paper chose for a task (coca.md 1.4, tables 9 and 10).
struct Recipe {
    kind: &'static str,
    learning_rate: f64,
    encoder_rate: Option<f64>,
    label_smoothing: f64,
    weight_decay: f64,
    warmup: u64,
    more: &'static [&'static str],
}

impl Recipe {
    /// The rest of the model's rate as a share; nothing where it is the head's.
    fn scales(&self) -> Vec<String> {
        let rate = self.learning_rate;
        self.encoder_rate.filter(|&encoder| encoder != rate).map_or_else(Vec::new, |encoder| scales(encoder / rate))
    }
}

/// Keys that give the model's own parameters this share of the learning rate.
fn scales(share: f64) -> Vec<String> {
    OWN.map(|start| format!("optimizer.scales.{start}={share:?}")).to_vec()
}

impl FinetuneTask {
    fn recipe(self) -> Recipe {
        let texts = |kind, learning_rate, encoder_rate| Recipe {
            kind,
            learning_rate,
            encoder_rate: Some(encoder_rate),
            label_smoothing: 0.0,
            weight_decay: 0.1,
            warmup: WARMUP,
            more: &[],
        };
        match self {
            FinetuneTask::Classes => {
                Recipe { label_smoothing: 0.5, weight_decay: 0.01, warmup: 0, ..texts("classes", 5e-4, 5e-4) }
            }
            FinetuneTask::Vqa => texts("vqa", 5e-4, 2e-5),
            FinetuneTask::Entailment => texts("entailment", 1e-3, 5e-5),
            FinetuneTask::Pair => Recipe { more: &["augmentation.kind=none"], ..texts("pair", 5e-4, 2e-5) },
            FinetuneTask::Caption => Recipe {
                encoder_rate: None,
                more: &["loss.contrastive_weight=0", "augmentation.keywords=0"],
                ..texts("pretrain", 1e-5, 0.0)
            },
        }
    }
}

impl FinetuneArgs {
    /// The configuration: the paper's recipe, then `--set`, then the other flags. The data is opened for the number of its
    /// samples.
    ///
    /// # Errors
    /// As [`Config::load`]; the model or the data is not there, or a flag is of another task.
    pub fn load(&self) -> Result<Config> {
        let recipe = self.task.recipe();
        if recipe.encoder_rate.is_none() && self.encoder_rate.is_some() {
            return Err(Error::invalid("--task caption has no head: give --learning-rate in place of --encoder-rate"));
        }
        let (before, after) = (self.recipe(&recipe)?, self.flags());
        let load = |steps: &[String], last: &[String]| {
            Config::load(None, &[&before, steps, &self.sets, &after, last].concat())
        };
        let plain = load(&["schedule.warmup_steps=0".into()], &[])?;
        let is_set = self.sets.iter().any(|set| set.trim_start().starts_with("schedule.steps"));
        let steps = match (self.steps, self.epochs) {
            (Some(steps), _) => steps.get(),
            (None, None) if is_set => plain.schedule.steps,
            (None, epochs) => {
                let source = data::open(&plain.data.train, &plain.data)?;
                let count = samples(source.as_ref(), usize::MAX).div_ceil(plain.pairs_per_step());
                epochs.map_or(EPOCHS, NonZeroU64::get) * count.max(1) as u64
            }
        };
        let (warmup, steps) = (recipe.warmup.min(steps / 10), format!("schedule.steps={steps}"));
        let scales = match self.learning_rate.is_some() || self.encoder_rate.is_some() {
            true => self.scales(&recipe, plain.optimizer.learning_rate)?,
            false => Vec::new(),
        };
        load(&[steps.clone(), format!("schedule.warmup_steps={warmup}")], &[&[steps][..], &scales].concat())
    }

    /// What comes before `--set`.
    fn recipe(&self, recipe: &Recipe) -> Result<Vec<String>> {
        let text = |value: String| toml::Value::String(value);
        let folder = model_folder::find(&self.model)?.display().to_string();
        let tests = toml::Value::Array(self.test.iter().cloned().map(text).collect());
        let mut sets = vec![
            format!("model.init={}", text(folder)),
            format!("data.train={}", text(self.data.clone())),
            format!("evaluation.data={tests}"),
            format!("run.out={}", text(self.out.display().to_string())),
            format!("task.kind={}", recipe.kind),
            format!("task.label_smoothing={:?}", recipe.label_smoothing),
            format!("batch.size={BATCH}"),
            "optimizer.kind=adafactor".into(),
            "optimizer.beta2=0.999".into(),
            "optimizer.clip_norm=1".into(),
            format!("optimizer.weight_decay={:?}", recipe.weight_decay),
            "ema.decay=0.9999".into(),
        ];
        sets.extend(recipe.more.iter().map(|&set| set.to_owned()));
        sets.push(format!("optimizer.learning_rate={:?}", recipe.learning_rate));
        sets.extend(recipe.scales());
        Ok(sets)
    }

    /// The rest of the model's rate, as a share of the head's, which is the run's.
    fn scales(&self, recipe: &Recipe, rate: f64) -> Result<Vec<String>> {
        let Some(encoder) = self.encoder_rate.or(recipe.encoder_rate) else { return Ok(Vec::new()) };
        if rate == 0.0 && encoder != 0.0 {
            return Err(Error::invalid(format!(
                "an --encoder-rate of {encoder:?} is no share of a learning rate of 0: raise --learning-rate or give 0 for both"
            )));
        }
        let plain = encoder == rate && recipe.scales().is_empty();
        Ok(if plain { Vec::new() } else { scales(if encoder == rate { 1.0 } else { encoder / rate }) })
    }

    /// What comes after `--set`: flags that were given.
    fn flags(&self) -> Vec<String> {
        let mut sets = Vec::new();
        let mut set = |key: &str, value: Option<String>| sets.extend(value.map(|value| format!("{key}={value}")));
        set("task.labels", self.labels.map(|labels| labels.name().to_owned()));
        set("model.overrides.vision.image_size", self.image_size.map(|size| size.to_string()));
        set("data.frames", self.video.video.then(|| self.video.frames.to_string()));
        set("batch.size", self.batch_size.map(|size| size.to_string()));
        set("optimizer.layer_decay", self.layer_decay.map(|decay| format!("{decay:?}")));
        set("task.label_smoothing", self.label_smoothing.map(|share| format!("{share:?}")));
        set("ema.decay", self.ema.map(|share| format!("{share:?}")));
        set("task.blank_images", self.blank_images.then(|| "true".to_owned()));
        set("optimizer.learning_rate", self.learning_rate.map(|rate| format!("{rate:?}")));
        sets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::{OptimizerKind, TaskKind};
    use crate::model_folder::test_model;
    use crate::test_folder;
    use clap::Parser;

    fn parse(line: &str) -> FinetuneArgs {
        match Cli::try_parse_from(std::iter::once("coca").chain(line.split_whitespace())).unwrap().command {
            Some(Command::Finetune(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_a_configuration() {
        let folder = test_folder("finetune-flags");
        test_model(&folder.join("model"), 1);
        let run = folder.display();
        let load = |more: &str| parse(&format!("finetune --model {run} --data emoji:fxemoji {more}")).load();
        let config = load("").unwrap();
        assert_eq!(config.model.init, folder.join("model"));
        assert_eq!((config.task.kind, config.task.label_smoothing, config.ema.decay), (TaskKind::Classes, 0.5, 0.9999));
        assert_eq!((config.optimizer.kind, config.optimizer.weight_decay), (OptimizerKind::Adafactor, 0.01));
        // 467 drawings in batches of 64, ten times; one rate for all.
        assert_eq!((config.schedule.steps, config.schedule.warmup_steps, config.optimizer.scales.len()), (80, 0, 0));
        assert!(config.evaluation.data.0.is_empty());

        let line = "--task vqa --test a --test b --batch-size 100 --epochs 20 --set optimizer.weight_decay=0.3 \
            --set schedule.steps=7 --image-size 32 --layer-decay 0.8 --learning-rate 1e-3 --blank-images --out o";
        let config = load(line).unwrap();
        assert_eq!((config.task.kind, config.task.blank_images), (TaskKind::Vqa, true));
        assert_eq!(config.evaluation.data.0, ["a", "b"]);
        assert_eq!((config.schedule.steps, config.schedule.warmup_steps), (100, 10));
        assert_eq!((config.optimizer.learning_rate, config.optimizer.weight_decay), (1e-3, 0.3));
        assert_eq!(config.optimizer.scales.len(), 4);
        assert!(OWN.iter().all(|start| config.optimizer.scales[*start].as_float() == Some(0.02)));
        assert_eq!((config.optimizer.layer_decay, &config.run.out), (0.8, &PathBuf::from("o")));
        assert_eq!(config.architecture().unwrap().vision.image_size, 32);

        let rates = |more: &str| {
            let optimizer = load(more).unwrap().optimizer;
            (optimizer.learning_rate, optimizer.scales.get("visual").and_then(toml::Value::as_float))
        };
        assert_eq!(rates("--encoder-rate 1e-4 --set optimizer.learning_rate=1e-3"), (1e-3, Some(0.1)));
        assert_eq!(rates("--encoder-rate 1e-3 --set optimizer.learning_rate=1e-3"), (1e-3, None));
        assert_eq!(rates("--task vqa --encoder-rate 1e-3 --set optimizer.learning_rate=1e-3"), (1e-3, Some(1.0)));
        assert_eq!(rates("--learning-rate 1e-3 --set optimizer.learning_rate=1"), (1e-3, Some(0.5)));
        assert_eq!(rates("--task caption --learning-rate 1e-3"), (1e-3, None));

        let schedule = load("--task vqa --set schedule.steps=7").unwrap().schedule;
        assert_eq!((schedule.steps, schedule.warmup_steps), (7, 0));
        assert_eq!(load("--steps 3 --set schedule.steps=700").unwrap().schedule.steps, 3);
        // The samples are counted, so the data is opened as clips too.
        assert!(load("--video --frames 4").unwrap_err().to_string().contains("emoji:fxemoji"));
        assert_eq!(load("--task pair").unwrap().augmentation.kind, crate::config::AugmentKind::None);
        let config = load("--task caption").unwrap();
        assert_eq!((config.task.kind, config.loss.contrastive_weight), (TaskKind::Pretrain, 0.0));
        assert_eq!((config.optimizer.learning_rate, config.optimizer.scales.len()), (1e-5, 0));
        let fails = |more: &str| load(more).unwrap_err().to_string();
        assert!(fails("--task caption --encoder-rate 1").contains("--task caption has no head"));
        assert!(fails("--encoder-rate 1e-4 --set optimizer.learning_rate=0").contains("a learning rate of 0"));
        assert!(fails("--set task.knd=x").contains("did you mean task.kind?"));
        assert!(fails("--task caption --blank-images").contains("task.blank_images is a control of tasks"));
    }
}
