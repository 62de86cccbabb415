//! burn's training step of a Vision Transformer, for the bench `step --classes`; arguments and protocol are those of
//! `benches/peers/torch_step.py`.

use peers::vit::{Sizes, Vit};
use serde_json::{Value, json};
use std::io::BufRead;
use std::time::{Duration, Instant};

fn main() -> peers::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, task, batch, classes, dtype, _, threads, device] = words.as_slice() else {
        return Err("give CONFIG.json classes BATCH CLASSES DTYPE MODE THREADS DEVICE".into());
    };
    if task != "classes" {
        return Err(format!("burn trains a classifier here: the task is classes, not {task}").into());
    }
    let here = rayon::current_num_threads();
    if dtype != "f32" || device != "cpu" || threads.parse() != Ok(here) {
        let wanted = format!("{dtype} with {threads} threads on {device}");
        return Err(format!("burn computes in f32 with {here} threads on cpu here, and is to in {wanted}").into());
    }
    let config: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let sizes = Sizes::read(&config["model_cfg"]["vision_cfg"], classes.parse()?)?;
    let mut vit = Vit::new(sizes, batch.parse()?);
    println!("{}", json!({"ready": true}));
    for line in std::io::stdin().lock().lines() {
        let answer = if line? == "step" {
            part_threads();
            let start = Instant::now();
            rayon::scope(|_| vit.step())?;
            json!({"seconds": start.elapsed().as_secs_f64()})
        } else {
            json!({"bytes": peak_bytes()?})
        };
        println!("{answer}");
    }
    Ok(())
}

/// 50 ms that are not timed, as ours has: threads that slept are woken on one core, and part after milliseconds.
fn part_threads() {
    let end = Instant::now() + Duration::from_millis(50);
    rayon::broadcast(|_| {
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    });
}

/// Most memory that this process has held.
fn peak_bytes() -> peers::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?)
}
