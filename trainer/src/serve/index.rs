//! The pictures and texts that an upload is compared with.

use crate::config::Data;
use crate::data::source::{MAX_IMAGE_BYTES, images_below, read_file};
use crate::data::{self, Part, RawImage};
use crate::model_folder::{MOST_PIXELS, ModelFolder};
use crate::report::Picture;
use crate::{Error, Result};
use engine::Workspace;
use model::config::ResizeMode;
use model::encoder::{ImageEncoder, TextEncoder};
use model::preprocess::{Image, Mode, decode, evaluate};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pictures of a pass.
const PASS: usize = 32;
/// Side of the pictures that the page shows, in pixels.
const SHOWN: usize = 96;
/// Pictures between two words on how far it is.
const REPORTED: usize = 1000;

/// Features of pictures and of their texts.
#[derive(Debug)]
pub struct Index {
    items: Vec<Item>,
    image_features: Vec<f32>,
    /// Each once.
    texts: Vec<String>,
    text_features: Vec<f32>,
}

/// A picture in the index, read again when it is shown.
#[derive(Debug)]
struct Item {
    text: String,
    place: Place,
}

#[derive(Clone)]
enum Place {
    File(PathBuf),
    Sample(Arc<dyn Part>, usize),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Sample(_, index) => write!(f, "sample {index}"),
        }
    }
}

impl Place {
    /// The first image and its texts; none if it cannot be read.
    fn read(&self) -> Option<(RawImage, Vec<String>)> {
        match self {
            Place::File(path) => {
                let text = std::fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned);
                Some((RawImage::Encoded(read_file(path, MAX_IMAGE_BYTES).ok()?), lines.collect()))
            }
            Place::Sample(part, index) => {
                part.sample(*index).ok().and_then(|raw| Some((raw.images.into_iter().next()?, raw.captions)))
            }
        }
    }

    fn picture(&self) -> Option<(Image, Vec<String>)> {
        let (image, texts) = self.read()?;
        Some((picture_of(image)?, texts))
    }
}

impl Index {
    /// Encodes the pictures of a folder, with or without texts beside them, or of anything else that data can be. What is no
    /// picture is passed over; `say` hears how many.
    ///
    /// # Errors
    /// There is no such data, or not one sound picture in it.
    pub fn open(
        name: &str,
        folder: &ModelFolder,
        encoder: &mut TextEncoder,
        workspace: &Workspace,
        say: &mut dyn FnMut(&str),
    ) -> Result<Index> {
        let found = places(name)?;
        let mut images = ImageEncoder::new(&folder.model, PASS, workspace)?;
        let (mut items, mut texts) = (Vec::new(), BTreeSet::new());
        let (mut image_features, mut passed_over) = (Vec::new(), 0);
        for (number, part) in found.chunks(PASS).enumerate() {
            let mut pixels = Vec::new();
            for place in part {
                let Some((picture, captions)) = place.picture() else {
                    passed_over += 1;
                    continue;
                };
                pixels.extend(folder.preprocess(&picture));
                let text = captions.first().cloned().unwrap_or_else(|| format!("{place:?}"));
                texts.extend(captions);
                items.push(Item { text, place: place.clone() });
            }
            image_features.extend(images.features(&folder.queue, &pixels)?);
            if (number * PASS) % REPORTED < PASS && number > 0 {
                say(&format!("{} of {} pictures are encoded", number * PASS, found.len()));
            }
        }
        if items.is_empty() {
            return Err(Error::invalid(format!("{name}: not one picture that can be read")));
        }
        let texts: Vec<String> = texts.into_iter().collect();
        let text_features = encoder.features(&folder.queue, &folder.texts(&texts))?;
        say(&format!(
            "{} pictures and {} texts of {name} are indexed, {passed_over} passed over",
            items.len(),
            texts.len()
        ));
        Ok(Index { items, image_features, texts, text_features })
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Unit rows `[pictures, width]`.
    pub fn image_features(&self) -> &[f32] {
        &self.image_features
    }

    /// Unit rows `[texts, width]`.
    pub fn text_features(&self) -> &[f32] {
        &self.text_features
    }

    /// What a picture is called: its first text, or its place.
    pub fn name(&self, picture: usize) -> String {
        self.items[picture].text.clone()
    }

    /// A text.
    pub fn text(&self, text: usize) -> &str {
        &self.texts[text]
    }

    /// A picture, small, as an address that holds it; none if it cannot be read any more.
    pub fn picture(&self, picture: usize) -> Option<String> {
        let (picture, _) = self.items[picture].place.picture()?;
        let rgb = evaluate(&picture, SHOWN, ResizeMode::Longest, 255);
        Some(Picture::from_rgb(SHOWN as u32, SHOWN as u32, &rgb).ok()?.data_uri())
    }
}

/// None: it is no picture.
fn picture_of(image: RawImage) -> Option<Image> {
    match image {
        RawImage::Encoded(file) => decode(&file, MOST_PIXELS).ok(),
        RawImage::Frame(frame) => frame.image().ok().cloned(),
        RawImage::Drawing { side, rgb, .. } => Some(Image { width: side, height: side, mode: Mode::Rgb, pixels: rgb }),
    }
}

/// The pictures of a folder, or the samples of any other data.
fn places(name: &str) -> Result<Vec<Place>> {
    if Path::new(name).is_dir() {
        return Ok(images_below(Path::new(name))?.into_iter().map(Place::File).collect());
    }
    let source = data::open(name, &Data::default())?;
    let parts = (0..source.parts()).filter_map(|part| source.part(part).ok());
    Ok(parts.flat_map(|part| (0..part.len()).map(move |index| Place::Sample(part.clone(), index))).collect())
}
