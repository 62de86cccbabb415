//! Images in a folder, with the texts that annotations give them.

use crate::data::source::{MAX_IMAGE_BYTES, TextKind, captions, read_file};
use crate::data::{Class, Fault, FaultKind, Labels, Part, Raw, RawImage, Source};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Images that are looked for when a source is opened: if none of them is there, the folder is the wrong one.
const LOOKED_FOR: usize = 16;

/// A sample that annotations describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotated {
    /// What it is called.
    pub key: String,
    /// Where its images lie.
    pub images: Vec<PathBuf>,
    /// Its texts, in the order of the file.
    pub captions: Vec<String>,
    /// What the file says besides.
    pub labels: Labels,
}

/// The samples of a file of annotations, in its order.
#[derive(Clone, Debug)]
pub struct AnnotatedSource {
    name: String,
    kind: TextKind,
    samples: Arc<[Annotated]>,
}

impl AnnotatedSource {
    /// A source of these samples, of which there is at least one.
    ///
    /// # Errors
    /// None of the first images is there; `folder` is where they were looked for.
    pub fn new(name: &str, folder: &Path, kind: TextKind, samples: Vec<Annotated>) -> Result<AnnotatedSource> {
        if !samples.iter().take(LOOKED_FOR).flat_map(|sample| &sample.images).any(|image| image.exists()) {
            let first = samples.first().and_then(|sample| sample.images.first());
            let (folder, first) = (folder.display(), first.map_or(Path::new(""), PathBuf::as_path).display());
            return Err(Error::invalid(format!(
                "{name}: its images are not in '{folder}' ({first}); name their folder with --images or data.images"
            )));
        }
        Ok(AnnotatedSource { name: name.to_owned(), kind, samples: samples.into() })
    }
}

/// A folder for each record.
pub type Folders<'a, T> = &'a dyn Fn(&T) -> PathBuf;

/// Of several ways to sort images into folders, the first by which one of the first records' images is there; the first of all
/// if there is none.
pub fn layout<'a, T>(records: &[T], ways: &[Folders<'a, T>], file: impl Fn(&T) -> String) -> Folders<'a, T> {
    let there =
        |way: &Folders<'a, T>| records.iter().take(LOOKED_FOR).any(|record| way(record).join(file(record)).exists());
    ways[ways.iter().position(there).unwrap_or(0)]
}

impl Source for AnnotatedSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn parts(&self) -> usize {
        1
    }

    fn images(&self) -> usize {
        self.kind.images()
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }

    fn classes(&self) -> Option<Vec<Class>> {
        self.kind.classes()
    }

    fn captions_are_exclusive(&self) -> bool {
        self.kind == TextKind::Caption
    }
}

impl Part for AnnotatedSource {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let Annotated { key, images, captions: texts, labels } = &self.samples[index];
        if texts.is_empty() {
            return Err(Fault::new(FaultKind::MissingCaption, key, "no annotation is of this image"));
        }
        let captions = captions(key, texts.iter().map(String::as_bytes))?;
        let image = |path: &PathBuf| Ok(RawImage::Encoded(read_file(path, MAX_IMAGE_BYTES)?));
        let images = images.iter().map(image).collect::<std::result::Result<_, Fault>>()?;
        Ok(Raw { key: key.clone(), images, captions, keywords: Vec::new(), labels: labels.clone() })
    }
}
