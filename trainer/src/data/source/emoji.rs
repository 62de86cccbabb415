//! The bundled emoji as a source: the name is the caption, CLDR's keywords are the keywords.

use super::{Class, Labels, Part, Raw, RawImage, Source};
use crate::Result;
use crate::data::Fault;
use crate::data::emoji::{EmojiSet, SIDE, Split};
use std::sync::Arc;

/// A drawing as the image of a sample.
pub(super) fn picture(set: &EmojiSet, drawing: usize) -> RawImage {
    RawImage::Drawing { side: SIDE, rgb: set.rgb(drawing, [255; 3]), transparent: set.transparent(drawing) }
}

/// One split of the bundled set.
#[derive(Clone, Debug)]
pub struct EmojiSource {
    set: Arc<EmojiSet>,
    drawings: Arc<[usize]>,
    split: Split,
}

impl EmojiSource {
    /// A split of the set in this program.
    ///
    /// # Errors
    /// As [`EmojiSet::bundled`].
    pub fn bundled(split: Split) -> Result<EmojiSource> {
        Ok(EmojiSource::new(Arc::new(EmojiSet::bundled()?), split))
    }

    /// A split of a set.
    pub fn new(set: Arc<EmojiSet>, split: Split) -> EmojiSource {
        let drawings = set.split(split).into();
        EmojiSource { set, drawings, split }
    }

    /// The set.
    pub fn set(&self) -> &Arc<EmojiSet> {
        &self.set
    }

    /// Index into the set's concepts of every sample.
    pub fn concepts(&self) -> Vec<usize> {
        self.drawings.iter().map(|&drawing| self.set.drawings()[drawing].concept).collect()
    }
}

impl Source for EmojiSource {
    fn name(&self) -> String {
        format!("emoji:{}", self.split.name())
    }

    fn parts(&self) -> usize {
        1
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }

    /// Every concept of the set, whatever the split.
    fn classes(&self) -> Option<Vec<Class>> {
        let names = self.set.concepts().iter().map(|concept| concept.name.clone());
        Some(names.map(|name| Class { label: name.clone(), name }).collect())
    }
}

impl Part for EmojiSource {
    fn len(&self) -> usize {
        self.drawings.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let drawing = self.drawings[index];
        let concept = &self.set.concepts()[self.set.drawings()[drawing].concept];
        Ok(Raw {
            key: self.set.key(drawing),
            images: vec![picture(&self.set, drawing)],
            captions: vec![concept.name.clone()],
            keywords: concept.keywords.clone(),
            labels: Labels::default(),
        })
    }
}
