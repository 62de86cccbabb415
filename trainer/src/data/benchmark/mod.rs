//! The usual benchmarks in their own files: COCO captions, Karpathy's splits of COCO and Flickr30K, NoCaps, and ImageNet's
//! folders; questions and statements about images (VQA v2, SNLI-VE, NLVR2); of videos Kinetics and MSR-VTT. Annotations are read
//! when a source is opened, images when they are asked for.

mod annotated;
mod answer;
mod classes;
mod coco;
mod imagenet;
mod karpathy;
mod kinetics;
mod msr_vtt;
mod nlvr2;
mod record;
mod snli_ve;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod video_tests;
mod vqa;

pub use answer::{normalised_answer, trimmed_answer};
pub use classes::{read_classes, read_lines};
pub use imagenet::ImageNetSource;

use super::Source;
use super::source::no_clips;
use super::tools::Tools;
use crate::config::Data;
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// How the sources are named.
pub const KINDS: [&str; 7] = [
    "coco:FILE.json",
    "karpathy:FILE.json",
    "nocaps:FILE.json",
    "imagenet:FOLDER",
    "vqa:QUESTIONS.json::ANNOTATIONS.json",
    "snli-ve:FILE.jsonl",
    "nlvr2:FILE.json",
];

/// How those of videos are named; they need `data.frames`.
pub const VIDEOS: [&str; 2] = ["kinetics:FILE.csv", "msrvtt:FILE.json"];

/// The source of a name such as `coco:FILE.json`; none if the name does not begin as one of [`KINDS`] or [`VIDEOS`].
/// Images lie in `data.images`, or beside the file. A Karpathy or MSR-VTT file gives the splits of `data.split` (`train` if
/// that is empty), Kinetics' too (all if it is empty); ImageNet's folders take their names from `data.classes`. VQA's questions
/// without annotations have no answers.
///
/// # Errors
/// The file cannot be read or is none of its kind (the text names the record and its field), or no image is there;
/// clips are asked for and the benchmark is one of pictures, or the other way round.
pub fn open(name: &str, options: &Data, tools: &Tools) -> Result<Option<Arc<dyn Source>>> {
    let Some((kind, path)) = name.split_once(':') else { return Ok(None) };
    // Of several files the first.
    let beside = Path::new(path.split("::").next().unwrap_or(path)).parent().unwrap_or(Path::new(""));
    let path = Path::new(path);
    let images = if options.images.as_os_str().is_empty() { beside } else { &options.images };
    let is_one_of =
        |kinds: &[&str]| kinds.iter().any(|known| known.split_once(':').is_some_and(|(known, _)| known == kind));
    if options.frames > 0 && is_one_of(&KINDS) {
        return Err(no_clips(name));
    }
    if options.frames == 0 && is_one_of(&VIDEOS) {
        return Err(Error::invalid(format!(
            "{name}: these are videos: say with --video or data.frames how they are seen"
        )));
    }
    let split = if options.split.is_empty() { "train" } else { &options.split };
    Ok(Some(match kind {
        "coco" => Arc::new(coco::open(name, path, images, coco::Domains::None)?),
        "nocaps" => Arc::new(coco::open(name, path, images, coco::Domains::Needed)?),
        "karpathy" => Arc::new(karpathy::open(name, path, images, split)?),
        "vqa" => Arc::new(vqa::open(name, path, images)?),
        "snli-ve" => Arc::new(snli_ve::open(name, path, images)?),
        "nlvr2" => Arc::new(nlvr2::open(name, path, images)?),
        "imagenet" => Arc::new(ImageNetSource::open(path, &options.classes)?),
        "kinetics" => Arc::new(kinetics::open(name, path, images, options, tools)?),
        "msrvtt" => Arc::new(msr_vtt::open(name, path, images, split, options, tools)?),
        _ => return Ok(None),
    }))
}
