//! The arguments of `coca bench`.

use crate::lab::Shapes;
use clap::{Args, ValueEnum};
use engine::DType;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Arguments of `coca bench`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca bench layer_norm --html roofline.html
  coca bench attention_decode --dtype bf16 --isa scalar --threads 1
  coca bench matmul_nt --shapes M=64,N=96,K=128 --json base.json
  coca bench matmul_nt --shapes M=64,N=96,K=128 --baseline base.json --peers
  coca bench --shapes from=trainer/configs/coca_vit_b32.toml --set batch.accumulation=1
  coca bench model
  coca bench --device cuda --peers --json gpu.json --html gpu.html

Each row has the median of its time with a 95 % confidence interval, its rates, its time as a share of the
least that the machine's ceilings allow, which are measured in the same run, and what its results were
compared with. Ratios are others' time over ours. On a GPU ops run as graphs over buffers that take turns, by
the device's own clock; those without a kernel are named and left out. Of a baseline a row is SLOWER or FASTER if the intervals
exclude equal times, both as they are and as shares of the ceilings then and now.")]
pub struct BenchArgs {
    /// Ops whose name has this in it; `model` times a whole training step by groups of ops
    #[arg(value_name = "FILTER|model")]
    pub filter: Option<String>,
    /// Measure the ops of a configuration's training step, or products of these sizes in all storage orders; can be repeated
    #[arg(long, value_name = "from=CONFIG.toml|M=..,N=..,K=..")]
    pub shapes: Vec<Shapes>,
    /// Change one key of the configuration; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Storage type; without it, both, or that of the configuration
    #[arg(long, value_name = "f32|bf16", value_parser = parse_dtype)]
    pub dtype: Option<DType>,
    /// Measure on the processor, or on this machine's GPU
    #[arg(long, value_name = "cpu|cuda", value_enum, default_value_t = BenchDevice::Cpu)]
    pub device: BenchDevice,
    /// Instruction-set path of the processor; without it, COCA_ISA or the best of this machine
    #[arg(long, value_name = "scalar|avx2|avx512|avx512bf16")]
    pub isa: Option<String>,
    /// Number of threads of the processor; without it, COCA_THREADS or all cores
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,
    /// Time for each contestant of a case; a training step gets twenty times as much
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Measure other libraries beside ours, taking turns
    #[arg(long)]
    pub peers: bool,
    /// Measure a program beside ours that answers as benches/peers/torch_ops.py does, with the peers of --peers or
    /// alone; benches/peers/crates has those of candle and burn; can be repeated
    #[arg(long, value_name = "PROGRAM")]
    pub peer: Vec<PathBuf>,
    /// Interpreter of the peers that are scripts
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    pub python: PathBuf,
    /// Compare with an earlier run, which --json wrote
    #[arg(long, value_name = "FILE.json")]
    pub baseline: Option<PathBuf>,
    /// Fail if a row is SLOWER than in the baseline
    #[arg(long, requires = "baseline")]
    pub fail_on_slower: bool,
    /// File for all figures
    #[arg(long, value_name = "FILE.json")]
    pub json: Option<PathBuf>,
    /// File for a page with the roofline
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
}

/// What `coca bench` measures on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchDevice {
    /// The processor.
    Cpu,
    /// This machine's GPU.
    Cuda,
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        _ => Err("use f32 or bf16".into()),
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (1e-3..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number from 0.001 to 3600 is wanted".into()),
    }
}
