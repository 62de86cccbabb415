//! COCO's captions (`captions_val2017.json`), and NoCaps (`nocaps_val_4500_captions.json`): the same, with a domain for each
//! image.

use super::annotated::{Annotated, AnnotatedSource};
use super::record::{Place, Record, list, read_json};
use crate::Result;
use crate::data::Labels;
use crate::data::source::TextKind;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    images: Option<Vec<Image>>,
    annotations: Option<Vec<Annotation>>,
}

#[derive(Deserialize)]
struct Image {
    id: Option<Value>,
    file_name: Option<Value>,
    domain: Option<Value>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Option<Value>,
    caption: Option<Value>,
}

/// Whether images have domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domains {
    /// No, and fields of that name mean nothing.
    None,
    /// Yes, each has one.
    Needed,
}

/// What such a file should be, for errors.
const MEANT: &str = "a file of captions has 'images' and 'annotations'";

/// The images of a file with their captions.
///
/// # Errors
/// The file cannot be read, a record lacks a field, two images have one id, or an annotation is of no image.
pub fn open(name: &str, path: &Path, folder: &Path, domains: Domains) -> Result<AnnotatedSource> {
    let file: File = read_json(path)?;
    let (mut images, mut places) = (Vec::new(), HashMap::new());
    for (index, image) in list(path, "images", &file.images, MEANT)?.iter().enumerate() {
        let record = Record { path, place: Place::Item("images", index) };
        let domain = match domains {
            Domains::None => None,
            Domains::Needed => Some(record.text("domain", &image.domain)?.to_owned()),
        };
        if places.insert(record.id("id", &image.id)?, index).is_some() {
            return Err(record.wrong("id", "is the id of an image before it"));
        }
        let path = folder.join(record.text("file_name", &image.file_name)?);
        let (key, labels) = (path.display().to_string(), Labels { domain, ..Labels::default() });
        images.push(Annotated { key, images: vec![path], captions: Vec::new(), labels });
    }
    for (index, annotation) in list(path, "annotations", &file.annotations, MEANT)?.iter().enumerate() {
        let record = Record { path, place: Place::Item("annotations", index) };
        let id = record.id("image_id", &annotation.image_id)?;
        let caption = record.text("caption", &annotation.caption)?;
        let place = places.get(&id).ok_or_else(|| record.wrong("image_id", &format!("is {id}, the id of no image")))?;
        images[*place].captions.push(caption.to_owned());
    }
    AnnotatedSource::new(name, folder, TextKind::Caption, images)
}
