//! Training steps, ours and open_clip's in PyTorch, taking turns in one run on the same shapes; with `--classes` those of the
//! image encoder alone, beside timm's Vision Transformer and burn's.
//!
//! Peers run if `--python` names an interpreter with open_clip_torch, or `--peer` a program; without them only ours is measured.

use benches::outcome::{self, median};
use benches::peer::{self, Peer, REST};
use benches::step::OurStep;
use clap::Parser;
use engine::{CudaQueue, Profiler, Queue, Roofline};
use kernels::gauge;
use serde::Serialize;
use std::error::Error;
use std::path::PathBuf;
use trainer::lab::Environment;
use trainer::machine::peak_memory;

/// What to measure.
#[derive(Debug, Parser)]
struct Arguments {
    /// A preset (emoji, coca_ViT-B-32, …), or an open_clip_config.json such as benches/models/small.json.
    #[arg(long, default_value = "emoji")]
    preset: String,
    /// Pairs in a batch.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Ids of every caption; 0: as many as the model reads.
    #[arg(long, default_value_t = 0)]
    tokens: usize,
    /// Only the image encoder, as a classifier of so many classes.
    #[arg(long)]
    classes: Option<usize>,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// cpu, or cuda for this machine's GPU.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Rounds; in each, every contestant takes one step. The first is warm-up, on a device also the second, which captures.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// An interpreter with open_clip_torch.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Peers: eager, compile, max-autotune (compile with its search), tuned (eager, with an allocator that keeps its pages).
    #[arg(long, value_delimiter = ',', default_value = "eager,tuned")]
    peers: Vec<String>,
    /// With --classes, a program that speaks as benches/peers/torch_step.py does, such as benches/peers/crates/target/release/vit.
    #[arg(long, requires = "classes")]
    peer: Vec<PathBuf>,
    /// A file that gets one more line of JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A file for a line of JSON a node of one more step of ours; prints times by op.
    #[arg(long)]
    profile: Option<PathBuf>,
}

/// One contestant's figures.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Every measured step.
    seconds: Vec<f64>,
    median_seconds: f64,
    images_per_second: f64,
    /// What our step computes, in these seconds, as a share of the multiply-add rate.
    flops_share: f64,
    /// Most memory of the process; on a device what was allocated there.
    peak_bytes: u64,
}

/// A line of the results file.
#[derive(Debug, Serialize)]
struct Outcome {
    machine: Environment,
    preset: String,
    batch: usize,
    /// 0 for an image encoder alone.
    tokens: usize,
    /// Of an image encoder alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<usize>,
    dtype: String,
    /// Multiply-add rate before, between and after the rounds.
    peak_gflops: Vec<f64>,
    /// What our step executes.
    gflop: f64,
    rows: Vec<Row>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let dtype = outcome::dtype(&arguments.dtype)?;
    let queue = match arguments.device.as_str() {
        "cpu" => Queue::cpu_from_env()?,
        "cuda" => Queue::Cuda(CudaQueue::open()?),
        other => return Err(format!("--device {other}: use cpu or cuda").into()),
    };
    let mut machine = Environment::now(&queue);
    let config = outcome::model(&arguments.preset)?;
    let tokens = match (arguments.classes, arguments.tokens) {
        (Some(_), _) => 0,
        (None, 0) => config.text.context_length,
        (None, tokens) => tokens,
    };

    let words = |mode: &str| {
        let (task, size) = arguments.classes.map_or(("coca", tokens), |classes| ("classes", classes));
        let [batch, size, threads] = [arguments.batch, size, machine.threads].map(|count| count.to_string());
        let [task, mode] = [task, mode].map(str::to_owned);
        [task, batch, size, arguments.dtype.clone(), mode, threads, arguments.device.clone()]
    };
    let mut peers = Vec::new();
    if let Some(python) = &arguments.python {
        let library = if arguments.classes.is_some() { "timm" } else { "open_clip" };
        for name in &arguments.peers {
            let (mode, tuned) = if name == "tuned" { ("eager", true) } else { (name.as_str(), false) };
            let started = Peer::start(python, peer::STEP, &config, &words(mode), tuned)?;
            peers.push((format!("{library} {name}"), started, Vec::new()));
        }
    }
    for program in &arguments.peer {
        // With the allocator tuned as PyTorch's is, which helps any program that gives large buffers back.
        for (tuned, name) in [(false, "default"), (true, "tuned")] {
            let started = Peer::program(program, &config, &words("eager"), tuned)
                .map_err(|error| format!("{}: {error}", program.display()))?;
            let file = program.file_stem().unwrap_or_default().display();
            peers.push((format!("{file} {name}"), started, Vec::new()));
        }
    }

    let mut ours = match arguments.classes {
        Some(classes) => OurStep::classifier(&queue, config, dtype, arguments.batch, classes)?,
        None => OurStep::new(&queue, config, dtype, arguments.batch, tokens)?,
    };
    let (mut seconds, mut peaks) = (Vec::new(), Vec::new());
    let warm_up = if arguments.device == "cuda" { 2 } else { 1 };
    for round in 0..arguments.rounds.max(warm_up + 1) {
        if !peers.is_empty() {
            std::thread::sleep(REST);
        }
        peaks.push(gauge::flops_per_second(&queue, dtype)? / 1e9);
        let own = ours.run()?;
        for (_, peer, times) in &mut peers {
            let time = peer.seconds("step")?;
            if round >= warm_up {
                times.push(time);
            }
        }
        if round >= warm_up {
            seconds.push(own);
        }
    }
    machine.look_again();
    let (gflop, peak) = (ours.flops()? / 1e9, median(&peaks));
    let row = |name: String, seconds: Vec<f64>, peak_bytes: u64| {
        let median_seconds = median(&seconds);
        let (images_per_second, flops_share) = (arguments.batch as f64 / median_seconds, gflop / median_seconds / peak);
        Row { name, median_seconds, images_per_second, flops_share, seconds, peak_bytes }
    };
    let held = if arguments.device == "cuda" { ours.bytes() } else { peak_memory() };
    let mut rows = vec![row("coca".into(), seconds, held)];
    for (name, mut peer, times) in peers {
        let bytes = peer.peak_bytes()?;
        rows.push(row(name, times, bytes));
    }

    let task = arguments.classes.map_or(format!("{tokens} tokens"), |classes| format!("images in {classes} classes"));
    println!(
        "{} batch {} of {task}, {}; {}; {gflop:.0} GFLOP a step, peak {peak:.0} GFLOP/s",
        arguments.preset,
        arguments.batch,
        arguments.dtype,
        machine.machine()
    );
    for row in &rows {
        println!(
            "{:22} {:8.4} s {:8.2} images/s  {:5.2} of ours  {:5.1} % of the peak  {:6.2} GiB",
            row.name,
            row.median_seconds,
            row.images_per_second,
            rows[0].median_seconds / row.median_seconds,
            100.0 * row.flops_share,
            row.peak_bytes as f64 / f64::from(1 << 30)
        );
    }
    if let Some(file) = &arguments.profile {
        let roofline =
            Roofline { flops_per_second: peak * 1e9, bytes_per_second: gauge::read_bytes_per_second(&queue)? };
        let mut profiler = Profiler::new(roofline);
        ours.profile(&mut profiler)?;
        std::fs::write(file, profiler.json_lines())?;
        print!("{}", profiler.table(1));
    }
    if let Some(file) = &arguments.json {
        let Arguments { preset, batch, classes, dtype, .. } = arguments;
        let outcome = Outcome { machine, preset, batch, tokens, classes, dtype, peak_gflops: peaks, gflop, rows };
        outcome::append(file, &outcome)?;
    }
    Ok(())
}
