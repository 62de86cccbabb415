//! GB/s of the passes over whole parameter arenas (norm, AdamW, Adafactor, average), beside the read rate of the machine or its
//! GPU, and beside PyTorch's fused AdamW if `--python` names an interpreter that has it.

use clap::Parser;
use engine::{Buffer, CudaQueue, Parameters, Queue, cpu};
use kernels::optimizer::{
    Adafactor, AdafactorSettings, AdamW, AdamWSettings, Optimizer, Rule, Step, clip_factor, update_average,
};
use kernels::{gauge, reduce};
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// PyTorch's optimiser.
const TORCH: &str = include_str!("../../peers/adamw.py");

/// Where to measure.
#[derive(Debug, Parser)]
struct Arguments {
    /// cpu, or cuda for this machine's GPU.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// An interpreter with torch.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Best of `rounds` in seconds, of the device where there is one.
fn best(queue: &Queue, rounds: usize, mut work: impl FnMut() -> engine::Result<()>) -> engine::Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let seconds = match queue {
            Queue::Cuda(cuda) => cuda.seconds(&mut work)?,
            Queue::Cpu(_) => {
                let start = Instant::now();
                work()?;
                start.elapsed().as_secs_f64()
            }
        };
        best = best.min(seconds);
    }
    Ok(best)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let queue = match arguments.device.as_str() {
        "cpu" => Queue::cpu_from_env()?,
        "cuda" => Queue::Cuda(CudaQueue::open()?),
        other => return Err(format!("--device {other}: use cpu or cuda").into()),
    };
    let read = gauge::read_bytes_per_second(&queue)? / 1e9;
    println!("read {read:.1} GB/s");
    let step = |number| Step { number, learning_rate: 1e-3, gradient_factor: clip_factor(2.0, 1.0) };
    for bf16 in [false, true] {
        let specs = (0..50).map(|index| (format!("w{index}"), [2048, 1000].into()));
        let mut parameters = Parameters::new(specs, bf16, true)?;
        parameters.move_to(queue.device())?;
        let elements = parameters.elements();
        let values: Vec<f32> = (0..elements).map(|i| (i % 1021) as f32 * 1e-3 - 0.5).collect();
        parameters.master().write(0, &values)?;
        if let Some(gradient) = parameters.gradient() {
            gradient.write(0, &values)?;
        }
        let report = |name: &str, bytes: usize, seconds: f64| {
            let rate = (bytes * elements) as f64 / seconds / 1e9;
            println!("{name:24} {:7.1} ms {rate:6.1} GB/s ({:.2} of read)", seconds * 1e3, rate / read);
        };
        println!("{:.1} M elements, {}", elements as f64 / 1e6, if bf16 { "with bf16 copy" } else { "f32 only" });
        report("norm", 4, best(&queue, 5, || reduce::gradient_norm(&queue, &parameters).map(|_| ()))?);
        let rule = |_: &engine::Parameter| Rule { decay: true, learning_rate_scale: 1.0 };
        let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.1 };
        let mut adamw = AdamW::new(settings, &parameters, rule)?;
        let mut number = 0;
        let mut update = |optimizer: &mut dyn Optimizer| {
            number += 1;
            optimizer.step(&queue, &parameters, step(number))
        };
        report("adamw", if bf16 { 30 } else { 28 }, best(&queue, 8, || update(&mut adamw))?);
        drop(adamw);
        for clip_threshold in [0.0, 1.0] {
            let settings = AdafactorSettings { beta1: 0.9, beta2: 0.999, weight_decay: 0.01, clip_threshold };
            let mut adafactor = Adafactor::new(settings, &parameters, rule)?;
            let bytes = if bf16 { 26 } else { 24 } + if clip_threshold > 0.0 { 4 } else { 0 };
            let seconds = best(&queue, 8, || update(&mut adafactor))?;
            report(&format!("adafactor, clip {clip_threshold}"), bytes, seconds);
        }
        let average = Buffer::on(queue.device(), elements * 4)?;
        report("average", 12, best(&queue, 5, || update_average(&queue, &parameters, &average, 0.999))?);
    }
    if let Some(python) = &arguments.python {
        let threads = cpu::threads_from_env()?.to_string();
        let status = Command::new(python).args(["-c", TORCH, &arguments.device, &threads]).status()?;
        if !status.success() {
            return Err(format!("{}: torch's optimiser {status}", python.display()).into());
        }
    }
    Ok(())
}
