//! Karpathy's splits: `dataset_coco.json` and `dataset_flickr30k.json`.

use super::annotated::{Annotated, AnnotatedSource};
use super::record::{Place, Record, list, read_json};
use crate::data::Labels;
use crate::data::source::TextKind;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    images: Option<Vec<Image>>,
}

#[derive(Deserialize)]
struct Image {
    filename: Option<Value>,
    filepath: Option<Value>,
    split: Option<Value>,
    sentences: Option<Vec<Sentence>>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: Option<Value>,
}

/// The images of the splits, which are joined by `+`, with their sentences. An image lies in the folder that its `filepath`
/// names below `folder`, as in COCO, or in `folder` itself.
///
/// # Errors
/// The file cannot be read, a record lacks a field, or no image is in one of the splits.
pub fn open(name: &str, path: &Path, folder: &Path, splits: &str) -> Result<AnnotatedSource> {
    let file: File = read_json(path)?;
    let wanted: BTreeSet<&str> = splits.split('+').collect();
    let (mut images, mut there) = (Vec::new(), BTreeSet::new());
    let meant = "a file of Karpathy's has 'images' with 'sentences' and a 'split'";
    for (index, image) in list(path, "images", &file.images, meant)?.iter().enumerate() {
        let record = Record { path, place: Place::Item("images", index) };
        let split = record.text("split", &image.split)?;
        there.insert(split);
        if !wanted.contains(split) {
            continue;
        }
        let file_name = record.text("filename", &image.filename)?;
        let below = match &image.filepath {
            None => None,
            below => Some(folder.join(record.text("filepath", below)?).join(file_name)),
        };
        let sentences = image.sentences.as_ref().ok_or_else(|| record.wrong("sentences", "is missing"))?;
        let caption = |(place, sentence): (usize, &Sentence)| {
            Ok(record.text(&format!("sentences[{place}].raw"), &sentence.raw)?.to_owned())
        };
        let path = below.filter(|below| below.exists()).unwrap_or_else(|| folder.join(file_name));
        images.push(Annotated {
            key: path.display().to_string(),
            images: vec![path],
            captions: sentences.iter().enumerate().map(caption).collect::<Result<_>>()?,
            labels: Labels::default(),
        });
    }
    if let Some(missing) = wanted.difference(&there).next() {
        let there: Vec<&str> = there.iter().copied().collect();
        let path = path.display();
        return Err(Error::invalid(format!(
            "{path}: no image is in split '{missing}'; there are {}",
            there.join(", ")
        )));
    }
    AnnotatedSource::new(name, folder, TextKind::Caption, images)
}
