//! The protocol of a peer, as `../torch_ops.py` tells it, and the cases of candle and burn.

pub mod burn;
pub mod candle;
#[cfg(test)]
mod tests;
pub mod vit;

use serde::Deserialize;
use serde_json::{Value, json};
use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::io::BufRead;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A case; what cannot be read as one is not there.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    #[serde(flatten)]
    pub op: Op,
    pub dtype: String,
    /// Whether the gradients of its inputs, from gradients of 1, are part of a run.
    pub backward: bool,
}

/// An op and its shapes, as `coca bench` tells them.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    Product {
        m: usize,
        n: usize,
        k: usize,
        a_transposed: bool,
        b_transposed: bool,
    },
    LayerNorm {
        rows: usize,
        columns: usize,
    },
    Gelu {
        elements: usize,
    },
    Attention {
        sequences: usize,
        heads: usize,
        queries: usize,
        keys: usize,
        head_dim: usize,
        causal: bool,
        shared_query: bool,
    },
    CrossEntropy {
        rows: usize,
        classes: usize,
        smoothing: f32,
    },
    LinearCrossEntropy {
        rows: usize,
        width: usize,
        vocabulary: usize,
    },
}

/// A case on its inputs.
pub trait Run: Send {
    /// Runs it once and drops what it gives.
    fn run(&mut self) -> Result<()>;

    /// What a run gives: the result, and the gradients of the inputs where they are wanted.
    fn results(&self) -> Result<Vec<Vec<f32>>>;
}

/// A framework.
pub struct Framework {
    pub name: &'static str,
    pub version: &'static str,
    pub ways: &'static [&'static str],
    /// Whether it has a case in a way.
    pub has: fn(&Case, &str) -> bool,
    /// Makes the inputs of a case that it has.
    pub prepare: fn(&Case, &str) -> Result<Box<dyn Run>>,
}

#[derive(Deserialize)]
struct Request {
    threads: usize,
    device: String,
    cases: Vec<Value>,
}

#[derive(Deserialize)]
struct Asked {
    case: usize,
    way: usize,
    count: u64,
}

/// Answers requests until stdin ends.
pub fn serve(framework: &Framework) -> Result<()> {
    // What a framework refuses by a panic is told as its answer.
    std::panic::set_hook(Box::new(|_| ()));
    let mut lines = std::io::stdin().lock().lines();
    let Some(line) = lines.next() else { return Ok(()) };
    let request: Request = serde_json::from_str(&line?)?;
    let Framework { name, version, ways, .. } = framework;
    let threads = rayon::current_num_threads();
    if request.device != "cpu" || request.threads != threads {
        let (device, wanted) = (request.device, request.threads);
        let error = format!("{name} computes with {threads} threads on cpu here, and is to with {wanted} on {device}");
        println!("{}", json!({"error": error}));
        return Ok(());
    }
    let cases: Vec<Option<Case>> = request.cases.into_iter().map(|case| serde_json::from_value(case).ok()).collect();
    let has = |case: &Option<Case>| -> Vec<bool> {
        let in_way = |way: &&str| case.as_ref().is_some_and(|case| case.dtype == "f32" && (framework.has)(case, way));
        ways.iter().map(in_way).collect()
    };
    let has: Vec<_> = cases.iter().map(has).collect();
    println!("{}", json!({"name": format!("{name} {version}"), "ways": ways, "has": has}));
    let (mut current, mut prepared) = (None, HashMap::new());
    for line in lines {
        let Asked { case, way, count } = serde_json::from_str(&line?)?;
        if current != Some(case) {
            prepared.clear(); // frees the tensors of the case before
            current = Some(case);
        }
        let answer = match (cases.get(case).and_then(Option::as_ref), ways.get(way)) {
            (Some(case), Some(name)) => caught(|| {
                let run = match prepared.entry(way) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert((framework.prepare)(case, name)?),
                };
                timed(&mut **run, count)
            }),
            _ => Err("no such case".into()),
        };
        match answer {
            Ok(seconds) => println!("{}", json!({"seconds": seconds})),
            Err(error) => println!("{}", json!({"absent": error.to_string()})),
        }
    }
    Ok(())
}

/// The seconds of so many runs; of none, after one that tells whether there can be more. They are on a worker of the
/// pool, as ours are: handing each over to the pool would take longer than a small op.
fn timed(run: &mut dyn Run, count: u64) -> Result<f64> {
    rayon::scope(|_| {
        if count == 0 {
            return run.run().map(|()| 0.0);
        }
        let start = Instant::now();
        for _ in 0..count {
            run.run()?;
        }
        Ok(start.elapsed().as_secs_f64())
    })
}

/// What a closure gives; a panic of it as an error.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let told = |payload: Box<dyn Any + Send>| match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast::<&str>().map_or("it panicked".to_owned(), |text| text.to_string()),
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(told(payload).into()))
}

/// Values of the input of this number: spread evenly with variance 1, the same in every framework.
pub fn values(input: u64, count: usize) -> Vec<f32> {
    let mut state = input;
    let mut next = || {
        // Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1 << 24) as f32;
        12f32.sqrt() * (unit - 0.5)
    };
    (0..count).map(|_| next()).collect()
}

/// The label of a row.
pub fn label(row: usize, classes: usize) -> usize {
    row * 7919 % classes
}
