//! The model in use, ours and open_clip's in PyTorch taking turns in one run: a caption of one image, greedy and by beams, and
//! features of a batch of images and of texts. Weights are random; captions do not end before their last id.

use benches::outcome::{self, median};
use benches::peer::{self, Peer, REST};
use clap::Parser;
use engine::rng::Philox;
use engine::{DType, Queue, Workspace};
use kernels::gauge;
use model::Coca;
use model::config::CocaConfig;
use model::encoder::{ImageEncoder, TextEncoder};
use model::generate::{BeamScore, Generator, Method, Settings};
use serde::Serialize;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;
use trainer::lab::Environment;

/// What to measure.
#[derive(Debug, Parser)]
struct Arguments {
    /// A preset of a model, or an open_clip_config.json.
    #[arg(long, default_value = "coca_ViT-B-32")]
    preset: String,
    /// Images and texts of a pass for features.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Ids of a caption.
    #[arg(long, default_value_t = 30)]
    length: usize,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Rounds; in each, every contestant does everything once. The first is warm-up.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// An interpreter with open_clip_torch; without one only ours is measured.
    #[arg(long)]
    python: Option<PathBuf>,
    /// A file that gets one more line of JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is done, as the peer calls it.
const WORK: [&str; 4] = ["greedy", "beams", "images", "texts"];

/// Figures of one piece of work.
#[derive(Debug, Serialize)]
struct Row {
    work: &'static str,
    /// Every measured pass.
    seconds: Vec<f64>,
    open_clip_seconds: Vec<f64>,
}

/// A line of the results file.
#[derive(Debug, Serialize)]
struct Outcome {
    machine: Environment,
    preset: String,
    batch: usize,
    length: usize,
    dtype: String,
    /// Multiply-add rate before each turn of ours.
    peak_gflops: Vec<f64>,
    rows: Vec<Row>,
}

/// Our model and what is asked of it.
struct Ours {
    queue: Queue,
    generators: [Generator; 2],
    images: ImageEncoder,
    texts: TextEncoder,
    pixels: Vec<u8>,
    ids: Vec<Vec<i32>>,
    image_bytes: usize,
}

impl Ours {
    fn new(config: CocaConfig, dtype: DType, batch: usize, length: usize) -> engine::Result<Ours> {
        let (side, text) = (config.vision.image_size, config.text.clone());
        let model = Coca::new(config, dtype, false)?;
        model.initialize(1)?;
        let workspace = Workspace::new();
        let beams = Method::Beams { count: 6, groups: 3, score: BeamScore::RawLogit, length_penalty: 1.0 };
        let generator = |method| {
            let end = text.vocabulary_size as i32 - 1;
            let settings =
                Settings { method, max_length: length, min_length: length - 1, repetition_penalty: 1.0, end };
            Generator::new(&model, 1, &settings, &workspace)
        };
        let mut random = Philox::new(1, 0);
        let pixels = (0..batch * side * side * 3).map(|_| random.below(256) as u8).collect();
        let mut id = || 1 + random.below(text.vocabulary_size - 1) as i32;
        let ids = (0..batch).map(|_| (0..text.context_length).map(|_| id()).collect()).collect();
        Ok(Ours {
            queue: Queue::cpu_from_env()?,
            generators: [generator(Method::Greedy)?, generator(beams)?],
            images: ImageEncoder::new(&model, batch, &workspace)?,
            texts: TextEncoder::new(&model, batch, &workspace)?,
            pixels,
            ids,
            image_bytes: side * side * 3,
        })
    }

    /// Seconds of one of [`WORK`].
    fn seconds(&mut self, work: usize) -> engine::Result<f64> {
        let start = Instant::now();
        match work {
            0 | 1 => drop(self.generators[work].generate(&self.queue, &self.pixels[..self.image_bytes], &[1], 0)?),
            2 => drop(self.images.features(&self.queue, &self.pixels)?),
            _ => drop(self.texts.features(&self.queue, &self.ids)?),
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let dtype = outcome::dtype(&arguments.dtype)?;
    if arguments.batch == 0 || arguments.length < 3 {
        return Err("--batch needs at least 1, --length at least 3".into());
    }
    let config = outcome::model(&arguments.preset)?;
    let mut machine = Environment::now(&Queue::cpu_from_env()?);
    let mut peer = None;
    if let Some(python) = &arguments.python {
        let [batch, length, threads] =
            [arguments.batch, arguments.length, machine.threads].map(|count| count.to_string());
        let words = [batch, length, arguments.dtype.clone(), threads];
        peer = Some(Peer::start(python, peer::INFERENCE, &config, &words, true)?);
    }
    let mut ours = Ours::new(config, dtype, arguments.batch, arguments.length)?;
    let mut peaks = Vec::new();
    let mut rows = WORK.map(|work| Row { work, seconds: Vec::new(), open_clip_seconds: Vec::new() });
    for round in 0..arguments.rounds.max(2) {
        for (index, row) in rows.iter_mut().enumerate() {
            if peer.is_some() {
                std::thread::sleep(REST);
            }
            // Which also parts the threads, woken on one core, before ours are timed.
            peaks.push(gauge::flops_per_second(&ours.queue, dtype)? / 1e9);
            let own = ours.seconds(index)?;
            let theirs = peer.as_mut().map(|peer| peer.seconds(row.work)).transpose()?;
            if round > 0 {
                row.seconds.push(own);
                row.open_clip_seconds.extend(theirs);
            }
        }
    }
    machine.look_again();
    println!(
        "{}, {}, captions of {} ids, batches of {}; {}",
        arguments.preset,
        arguments.dtype,
        arguments.length,
        arguments.batch,
        machine.machine()
    );
    for row in &rows {
        let (own, theirs) = (median(&row.seconds), median(&row.open_clip_seconds));
        match peer.is_some() {
            true => println!("{:8} {own:8.4} s   open_clip {theirs:8.4} s   {:6.2} of ours", row.work, theirs / own),
            false => println!("{:8} {own:8.4} s", row.work),
        }
    }
    if let Some(file) = &arguments.json {
        let Arguments { preset, batch, length, dtype, .. } = arguments;
        let outcome = Outcome { machine, preset, batch, length, dtype, peak_gflops: peaks, rows: rows.into() };
        outcome::append(file, &outcome)?;
    }
    Ok(())
}
