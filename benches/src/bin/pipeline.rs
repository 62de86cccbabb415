//! What happens before a step, on one thread: a JPEG decoded, resized and cropped to the bytes that a model reads, and captions
//! turned to ids; open_clip's transform and tokenizer taking turns in one run. Pixels are normalised within the model's step.

use benches::outcome::{self, median};
use benches::peer::{self, Peer};
use clap::Parser;
use engine::Queue;
use engine::rng::Philox;
use model::config::{CocaConfig, ResizeMode};
use model::preprocess::{decode, evaluate};
use model::tokenizer::Tokenizer;
use serde::Serialize;
use std::error::Error;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;
use trainer::lab::Environment;

/// What to measure.
#[derive(Debug, Parser)]
struct Arguments {
    /// A picture file; without one a JPEG of 640 x 480 pixels and about 110 KB is drawn.
    #[arg(long)]
    image: Option<PathBuf>,
    /// A file with a caption on each line; without one they are put together from the names of the bundled emoji.
    #[arg(long)]
    captions: Option<PathBuf>,
    /// Rounds; in each, every contestant works on everything once. The first is warm-up.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// An interpreter with open_clip_torch; without one only ours is measured.
    #[arg(long)]
    python: Option<PathBuf>,
    /// A file that gets one more line of JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Pixels of a side.
const SIZE: usize = 224;
/// Times that the picture is worked on in a round.
const IMAGES: usize = 200;
/// Captions of a round, of open_clip's a tenth.
const CAPTIONS: usize = 100_000;
/// Pixels of a picture at most.
const LIMIT: u64 = 1 << 30;

/// A second's work, in every round.
#[derive(Debug, Serialize)]
struct Row {
    work: &'static str,
    per_second: Vec<f64>,
    open_clip_per_second: Vec<f64>,
}

/// A line of the results file.
#[derive(Debug, Serialize)]
struct Outcome {
    machine: Environment,
    image_bytes: usize,
    captions: usize,
    mean_ids: f64,
    rows: Vec<Row>,
}

/// A JPEG of quality 90: waves of colour under noise, as strong as makes its size that of a photograph.
fn drawn() -> Result<Vec<u8>, Box<dyn Error>> {
    let (width, height) = (640u32, 480u32);
    let mut random = Philox::new(1, 0);
    let pixels: Vec<u8> = (0..width * height * 3)
        .map(|index| {
            let (x, y, channel) = (index / 3 % width, index / 3 / width, index % 3);
            let wave = (f64::from(x + 40 * channel) / 23.0).sin() + (f64::from(y + x / 3) / 31.0).cos();
            (128.0 + 50.0 * wave + 6.0 * random.normal()) as u8
        })
        .collect();
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
    image::ImageEncoder::write_image(encoder, &pixels, width, height, image::ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

/// Captions, one a line.
fn sentences() -> String {
    let concepts = include_str!("../../../trainer/data/emoji/concepts.tsv");
    let names: Vec<&str> = concepts.lines().skip(1).filter_map(|line| line.split('\t').nth(1)).collect();
    let mut random = Philox::new(2, 0);
    let mut name = || names[random.below(names.len())];
    (0..20_000).map(|_| format!("A photo of a {} beside a {} on the table.\n", name(), name())).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { image, captions, rounds, python, json } = Arguments::parse();
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let bytes = image.as_ref().map_or_else(drawn, |path| Ok(read(path)?))?;
    let picture = decode(&bytes, LIMIT)?;
    let text = captions
        .as_ref()
        .map_or_else(|| Ok(sentences()), |path| Ok::<_, Box<dyn Error>>(String::from_utf8(read(path)?)?))?;
    let lines: Vec<&str> = text.lines().cycle().take(CAPTIONS).collect();
    if lines.is_empty() {
        return Err("--captions: the file has no line".into());
    }
    let tokenizer = Tokenizer::clip();
    let config = CocaConfig::preset("coca_ViT-B-32")?;
    let context = config.text.context_length;
    let mut machine = Environment::now(&Queue::cpu_from_env()?);
    let mut peer = None;
    if let Some(python) = &python {
        let folder = std::env::temp_dir().join(format!("coca-pipeline-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let files = [(folder.join("image"), bytes.as_slice()), (folder.join("captions"), text.as_bytes())];
        files.iter().try_for_each(|(path, content)| std::fs::write(path, content))?;
        let words = files.map(|(path, _)| path.display().to_string());
        let started = Peer::start(python, peer::PIPELINE, &config, &words, false);
        std::fs::remove_dir_all(&folder)?;
        peer = Some(started?);
    }
    type Work<'a> = Box<dyn FnMut() -> Result<(), Box<dyn Error>> + 'a>;
    let decoding: Work = Box::new(|| {
        for _ in 0..IMAGES {
            black_box(decode(&bytes, LIMIT)?);
        }
        Ok(())
    });
    let resizing: Work = Box::new(|| {
        for _ in 0..IMAGES {
            black_box(evaluate(&picture, SIZE, ResizeMode::Shortest, 0));
        }
        Ok(())
    });
    let tokenizing: Work = Box::new(|| {
        black_box(tokenizer.encode_packed(&lines, context));
        Ok(())
    });
    let mut works = [("decode", IMAGES, decoding), ("resize", IMAGES, resizing), ("tokenize", CAPTIONS, tokenizing)];
    let mut rows =
        works.each_ref().map(|(work, ..)| Row { work, per_second: Vec::new(), open_clip_per_second: Vec::new() });
    for round in 0..rounds.max(2) {
        for ((work, count, run), row) in works.iter_mut().zip(&mut rows) {
            let start = Instant::now();
            run()?;
            let own = *count as f64 / start.elapsed().as_secs_f64();
            let theirs = peer.as_mut().map(|peer| peer.seconds(work)).transpose()?;
            if round > 0 {
                row.per_second.push(own);
                row.open_clip_per_second.extend(theirs.map(|seconds| 1.0 / seconds));
            }
        }
    }
    drop(works);
    machine.look_again();
    let ids = tokenizer.encode_packed(&lines, context).0.len();
    let outcome = Outcome {
        machine,
        image_bytes: bytes.len(),
        captions: text.lines().count(),
        mean_ids: ids as f64 / CAPTIONS as f64,
        rows: rows.into(),
    };
    println!(
        "a picture of {} bytes, captions of {:.1} ids; {}",
        outcome.image_bytes,
        outcome.mean_ids,
        outcome.machine.machine()
    );
    for Row { work, per_second, open_clip_per_second } in &outcome.rows {
        let (own, theirs) = (median(per_second), median(open_clip_per_second));
        match peer.is_some() {
            true => {
                println!("{work:9} {own:9.0} a second   open_clip {theirs:9.0}   {:6.1} times as many", own / theirs)
            }
            false => println!("{work:9} {own:9.0} a second"),
        }
    }
    if let Some(file) = &json {
        outcome::append(file, &outcome)?;
    }
    Ok(())
}
