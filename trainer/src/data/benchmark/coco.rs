//! COCO's captions (`captions_val2017.json`), and NoCaps (`nocaps_val_4500_captions.json`): the same, with a domain for each
//! image.

use super::captioned::{CaptionedImage, CaptionedSource};
use super::record::{Record, list, read_json};
use crate::Result;
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
pub fn open(name: &str, path: &Path, folder: &Path, domains: Domains) -> Result<CaptionedSource> {
    let file: File = read_json(path)?;
    let (mut images, mut places) = (Vec::new(), HashMap::new());
    for (index, image) in list(path, "images", &file.images, MEANT)?.iter().enumerate() {
        let record = Record { path, list: "images", index };
        let domain = match domains {
            Domains::None => None,
            Domains::Needed => Some(record.text("domain", &image.domain)?.to_owned()),
        };
        if places.insert(record.id("id", &image.id)?, index).is_some() {
            return Err(record.wrong("id", "is the id of an image before it"));
        }
        let path = folder.join(record.text("file_name", &image.file_name)?);
        images.push(CaptionedImage { path, captions: Vec::new(), domain });
    }
    for (index, annotation) in list(path, "annotations", &file.annotations, MEANT)?.iter().enumerate() {
        let record = Record { path, list: "annotations", index };
        let id = record.id("image_id", &annotation.image_id)?;
        let caption = record.text("caption", &annotation.caption)?;
        let place = places.get(&id).ok_or_else(|| record.wrong("image_id", &format!("is {id}, the id of no image")))?;
        images[*place].captions.push(caption.to_owned());
    }
    CaptionedSource::new(name, folder, images)
}
