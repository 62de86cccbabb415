//! The usual benchmarks in their own files: COCO captions, Karpathy's splits of COCO and Flickr30K, NoCaps, ImageNet's folders,
//! and questions and statements about images (VQA v2, SNLI-VE, NLVR2). Annotations are read when a source is opened, images when they are asked for.

mod annotated;
mod answer;
mod classes;
mod coco;
mod imagenet;
mod karpathy;
mod nlvr2;
mod record;
mod snli_ve;
#[cfg(test)]
mod tests;
mod vqa;

pub use answer::{normalised_answer, trimmed_answer};
pub use classes::{read_classes, read_lines};
pub use imagenet::ImageNetSource;

use super::Source;
use crate::Result;
use crate::config::Data;
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

/// The source of a name such as `coco:FILE.json`; none if the name does not begin as one of [`KINDS`]. Images lie in
/// `data.images`, or beside the file. A Karpathy file gives the splits of `data.split` (`train` if that is empty), ImageNet's
/// folders take their names from `data.classes`. VQA's questions without annotations have no answers.
///
/// # Errors
/// The file cannot be read or is none of its kind (the text names the record and its field), or no image is there.
pub fn open(name: &str, options: &Data) -> Result<Option<Arc<dyn Source>>> {
    let Some((kind, path)) = name.split_once(':') else { return Ok(None) };
    // Of several files the first.
    let beside = Path::new(path.split("::").next().unwrap_or(path)).parent().unwrap_or(Path::new(""));
    let path = Path::new(path);
    let images = if options.images.as_os_str().is_empty() { beside } else { &options.images };
    let split = if options.split.is_empty() { "train" } else { &options.split };
    Ok(Some(match kind {
        "coco" => Arc::new(coco::open(name, path, images, coco::Domains::None)?),
        "nocaps" => Arc::new(coco::open(name, path, images, coco::Domains::Needed)?),
        "karpathy" => Arc::new(karpathy::open(name, path, images, split)?),
        "vqa" => Arc::new(vqa::open(name, path, images)?),
        "snli-ve" => Arc::new(snli_ve::open(name, path, images)?),
        "nlvr2" => Arc::new(nlvr2::open(name, path, images)?),
        "imagenet" => Arc::new(ImageNetSource::open(path, &options.classes)?),
        _ => return Ok(None),
    }))
}
