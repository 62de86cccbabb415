//! Images in a folder, each with its captions, as annotations name them.

use crate::data::source::{MAX_IMAGE_BYTES, captions, read_file};
use crate::data::{Fault, FaultKind, Labels, Part, Raw, RawImage, Source};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Images that are looked for when a source is opened: if none of them is there, the folder is the wrong one.
const LOOKED_FOR: usize = 16;

/// An image that annotations name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionedImage {
    /// Where it lies.
    pub path: PathBuf,
    /// Its captions, in the order of the file.
    pub captions: Vec<String>,
    /// See [`Labels::domain`].
    pub domain: Option<String>,
}

/// The images of a file of annotations, in its order.
#[derive(Clone, Debug)]
pub struct CaptionedSource {
    name: String,
    images: Arc<[CaptionedImage]>,
}

impl CaptionedSource {
    /// A source of these images, of which there is at least one.
    ///
    /// # Errors
    /// None of the first images is there; `folder` is where they were looked for.
    pub fn new(name: &str, folder: &Path, images: Vec<CaptionedImage>) -> Result<CaptionedSource> {
        if !images.iter().take(LOOKED_FOR).any(|image| image.path.exists()) {
            let first = images.first().map_or(Path::new(""), |image| &image.path);
            let (folder, first) = (folder.display(), first.display());
            return Err(Error::invalid(format!(
                "{name}: its images are not in '{folder}' ({first}); name their folder with --images or data.images"
            )));
        }
        Ok(CaptionedSource { name: name.to_owned(), images: images.into() })
    }
}

impl Source for CaptionedSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn parts(&self) -> usize {
        1
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }

    fn captions_are_exclusive(&self) -> bool {
        true
    }
}

impl Part for CaptionedSource {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let CaptionedImage { path, captions: texts, domain } = &self.images[index];
        let key = path.display().to_string();
        if texts.is_empty() {
            return Err(Fault::new(FaultKind::MissingCaption, key, "no annotation is of this image"));
        }
        let captions = captions(&key, texts.iter().map(String::as_bytes))?;
        let images = vec![RawImage::Encoded(read_file(path, MAX_IMAGE_BYTES)?)];
        let labels = Labels { class: None, domain: domain.clone() };
        Ok(Raw { key, images, captions, keywords: Vec::new(), labels })
    }
}
