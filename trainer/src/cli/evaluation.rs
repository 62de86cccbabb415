//! The arguments of `coca eval`, and those of `coca caption` that it shares.

use super::VideoArgs;
use crate::config::{Config, Data};
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use model::generate::PRESETS;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Split of a Karpathy or MSR-VTT file that is measured on, if none is named.
const SPLIT: &str = "test";
/// Stands for no file, where some sets have one.
const NONE: &str = "none";

/// Arguments of `coca eval`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca eval zero-shot --model runs/emoji/model --data emoji:fxemoji --data emoji:fresh
  coca eval zero-shot --model runs/b32 --templates templates.txt --classes classes.txt \\
      --data imagenet:imagenet/val --class-subset none \\
      --data imagenet:imagenet-r --class-subset imagenet-r.txt
  coca eval retrieval --model runs/b32 --data pairs.csv --set data.image_column=url \\
      --set data.caption_column=text
  coca eval retrieval --model runs/b32 --data karpathy:dataset_coco.json --images coco \\
      --captions-per-image 5
  coca eval zero-shot --model runs/b32 --video --data clips --frames 8
  coca eval retrieval --model runs/b32 --video --data msrvtt:videodatainfo.json --images videos
  coca eval caption --model runs/b32 --data nocaps:nocaps_val.json --images nocaps \\
      --json captions.json
  coca eval caption --model runs/b32 --data coco:captions_val2017.json --images val2017 --beams 3
  coca eval classify --model runs/groups --data emoji:noto-v1

Data is `emoji` or `emoji:SPLIT`, a pattern of .tar shards, a .csv or .tsv table, a folder with
.txt captions, or
  coco:FILE.json      COCO's captions
  karpathy:FILE.json  Karpathy's dataset_coco.json and dataset_flickr30k.json
  nocaps:FILE.json    NoCaps with its domains
  imagenet:FOLDER     a folder for each class
With --video it is clips: shards with frames, a folder of clips or of class folders of them, or
  kinetics:FILE.csv   Kinetics' table, with its videos ID_START_END.mp4 below --images
  msrvtt:FILE.json    MSR-VTT's videodatainfo.json, with its videos below --images
A clip is a folder of frames, an animated .webp or .gif, or a video, which `ffmpeg` decodes. Its
feature is the mean of the unit features of its frames, scaled to 1.
An option about one set, given once, is for every --data; given as often as --data, each in
its turn.")]
pub struct EvalArgs {
    /// What to measure
    pub task: EvalTask,
    /// Folder with the model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Data to measure it on, as data.train takes it; repeated, a row for each
    #[arg(long, value_name = "SOURCE", required = true)]
    pub data: Vec<String>,
    /// Folder of the images or videos that annotations name; as --set data.images=DIR
    #[arg(long, value_name = "DIR")]
    pub images: Vec<PathBuf>,
    /// Split of a Karpathy, MSR-VTT or Kinetics file [default: test, and all of Kinetics]; as --set data.split=NAME
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Names of the classes, one a line: `LABEL<tab>NAME`, or a name that is its own label; as --set data.classes=FILE
    #[arg(long, value_name = "FILE|none")]
    pub classes: Vec<PathBuf>,
    /// Choose only from the classes whose labels are in this file, one a line, and leave samples of others out (zero-shot)
    #[arg(long, value_name = "FILE|none")]
    pub class_subset: Vec<PathBuf>,
    /// Texts of a class, one template a line with {} for the name, of which the features are averaged (zero-shot)
    /// [default: the name]
    #[arg(long, value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Take no more than this many captions of an image, as COCO's protocol takes 5 (retrieval)
    #[arg(long, value_name = "COUNT")]
    pub captions_per_image: Option<NonZeroUsize>,
    /// Change one key of the section data, such as data.caption_column=text; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Pairs in one pass
    #[arg(long, value_name = "PAIRS", default_value_t = 128)]
    pub batch_size: usize,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How clips are looked at.
    #[command(flatten)]
    pub video: VideoArgs,
    /// How captions are made.
    #[command(flatten)]
    pub generation: GenerationArgs,
}

impl EvalArgs {
    /// Whether the arguments fit the task.
    ///
    /// # Errors
    /// One belongs to another task; the text names it.
    pub fn check(&self) -> Result<()> {
        let task = self.task;
        let (other, what) = if task != EvalTask::ZeroShot && self.templates.is_some() {
            ("--templates", "zero-shot")
        } else if task != EvalTask::ZeroShot && !self.class_subset.is_empty() {
            ("--class-subset", "zero-shot")
        } else if task != EvalTask::Retrieval && self.captions_per_image.is_some() {
            ("--captions-per-image", "retrieval")
        } else if task == EvalTask::Caption && self.video.video {
            return Err(Error::invalid("captions are of pictures, not of clips: leave out --video"));
        } else if task != EvalTask::Caption && self.generation != GenerationArgs::default() {
            return Err(Error::invalid("no captions are generated for this task: leave out how they are made"));
        } else {
            return Ok(());
        };
        Err(Error::invalid(format!("{other} is of the task {what}: leave it out for {}", task.name())))
    }

    /// How set `index` of `data` is read.
    ///
    /// # Errors
    /// As [`Config::load`]; an option is given neither once nor for every set.
    pub fn data_config(&self, index: usize) -> Result<Data> {
        let mut data = Config::load(None, &self.sets)?.data;
        if let Some(images) = self.of_set("--images", &self.images, index)? {
            data.images = images.to_owned();
        }
        if let Some(classes) = self.of_set("--classes", &self.classes, index)? {
            data.classes = classes.to_owned();
        }
        match &self.split {
            Some(split) => data.split = split.clone(),
            // Kinetics has a file for each split.
            None if data.split.is_empty() && !self.data[index].starts_with("kinetics:") => {
                data.split = SPLIT.to_owned()
            }
            None => {}
        }
        self.video.apply(&mut data);
        Ok(data)
    }

    /// The file of labels to which each set of `data` is restricted, if it is.
    ///
    /// # Errors
    /// The option is given neither once nor for every set.
    pub fn class_subsets(&self) -> Result<Vec<Option<&Path>>> {
        (0..self.data.len()).map(|index| self.of_set("--class-subset", &self.class_subset, index)).collect()
    }

    fn of_set<'a>(&self, option: &str, values: &'a [PathBuf], index: usize) -> Result<Option<&'a Path>> {
        let value = match values.len() {
            0 => return Ok(None),
            1 => &values[0],
            count if count == self.data.len() => &values[index],
            count => {
                let sets = self.data.len();
                return Err(Error::invalid(format!(
                    "{option} is given {count} times for {sets} sets: give it once, or once for each --data ({NONE}: not for it)"
                )));
            }
        };
        Ok(Some(value.as_path()).filter(|value| *value != Path::new(NONE)))
    }
}

/// How captions are made. A method that is named goes before the preset's; the rest stays as the preset has it.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Generation of captions")]
pub struct GenerationArgs {
    /// Settings by name [default: ours]; captions of different presets do not compare
    #[arg(long, value_parser = PRESETS)]
    pub preset: Option<String>,
    /// Text with which every caption begins
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub prompt: String,
    /// Search with this many captions side by side; 1: always the likeliest token
    #[arg(long, value_name = "COUNT", group = "method")]
    pub beams: Option<usize>,
    /// Draw each token from the COUNT likeliest
    #[arg(long, value_name = "COUNT", groups = ["method", "random"])]
    pub top_k: Option<usize>,
    /// Draw each token from the fewest that together have this probability
    #[arg(long, value_name = "SHARE", groups = ["method", "random"])]
    pub top_p: Option<f32>,
    /// Above 1 evens the odds of a draw out, below 1 sharpens them [default: 1]
    #[arg(long, requires = "random")]
    pub temperature: Option<f32>,
    /// Seed of the draws [default: 0]
    #[arg(long, requires = "random")]
    pub seed: Option<u64>,
}

/// What `coca eval` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvalTask {
    /// Classification by the names of the classes
    ZeroShot,
    /// Image to text and text to image
    Retrieval,
    /// Generated captions against the true ones
    Caption,
    /// What the head of a fine-tuned model says
    Classify,
}

impl EvalTask {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            EvalTask::ZeroShot => "zero-shot",
            EvalTask::Retrieval => "retrieval",
            EvalTask::Caption => "caption",
            EvalTask::Classify => "classify",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn try_parse(line: &str) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("coca").chain(line.split_whitespace()))
    }

    fn parse(line: &str) -> EvalArgs {
        match try_parse(line).unwrap().command {
            Some(Command::Eval(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn captions_are_made_by_one_method() {
        let fails = |flags: &str| try_parse(&format!("caption --model m a.png {flags}")).is_err();
        for flags in ["", "--preset openclip-4 --beams 3", "--top-k 5 --temperature 0.7", "--top-p 0.9 --seed 1"] {
            assert!(!fails(flags), "{flags}");
        }
        for flags in
            ["--preset theirs", "--beams 3 --top-k 5", "--top-k 5 --top-p 0.9", "--seed 1", "--beams 2 --seed 1"]
        {
            assert!(fails(flags), "{flags}");
        }
    }

    #[test]
    fn options_of_sets_are_for_all_or_each_in_its_turn() {
        let args = parse("eval zero-shot --model m --data a --data b --images i --classes c --classes none");
        let [first, second] = [0, 1].map(|index| args.data_config(index).unwrap());
        assert_eq!((first.images, first.classes, first.split.as_str()), ("i".into(), "c".into(), "test"));
        assert_eq!((second.images, second.classes), ("i".into(), PathBuf::new()));
        let args = parse("eval zero-shot --model m --data a --set data.split=val --set data.images=x");
        let data = args.data_config(0).unwrap();
        assert_eq!((data.split.as_str(), data.images), ("val", "x".into()));
        assert_eq!(args.class_subsets().unwrap(), [None]);
        assert_eq!(data.frames, 0);
        let args = parse("eval retrieval --model m --video --data kinetics:a --data msrvtt:b");
        let described = [0, 1].map(|index| args.data_config(index).map(|data| (data.split, data.frames)).unwrap());
        assert_eq!(described, [(String::new(), 16), ("test".into(), 16)]);
        assert!(try_parse("eval retrieval --model m --data a --frames 4").is_err());
        assert!(try_parse("eval retrieval --model m --data a --video --frames 0").is_err());
        let args = parse("eval zero-shot --model m --data a --data b --data c --class-subset x --class-subset y");
        let error = args.class_subsets().unwrap_err().to_string();
        assert!(error.contains("--class-subset is given 2 times for 3 sets"), "{error}");
    }

    #[test]
    fn options_of_another_task_are_refused() {
        for (line, message) in [
            ("retrieval --templates t", "--templates is of the task zero-shot: leave it out for retrieval"),
            ("caption --class-subset s", "--class-subset is of the task zero-shot"),
            ("caption --captions-per-image 5", "--captions-per-image is of the task retrieval"),
            ("zero-shot --beams 2", "no captions are generated for this task"),
            ("caption --video", "captions are of pictures, not of clips"),
        ] {
            let error = parse(&format!("eval --model m --data a {line}")).check().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(parse("eval retrieval --model m --data a --captions-per-image 5 --classes c").check().is_ok());
        assert!(try_parse("eval retrieval --model m --data a --captions-per-image 0").is_err());
    }
}
