//! Where samples come from. A source has parts (shards; other sources have one), a part has samples by index; both
//! are read from several threads at once, in any order.

mod emoji;
mod emoji_questions;
mod folder;
mod pattern;
mod scenes;
mod shards;
mod table;

pub use emoji::EmojiSource;
pub use emoji_questions::EmojiQuestions;
pub use folder::FolderSource;
pub(crate) use folder::images_below;
pub use pattern::expand;
pub use scenes::SceneSource;
pub use shards::ShardSource;
#[cfg(test)]
pub(crate) use shards::tests::tar as tar_of;
pub use table::{TableColumns, TableSource};

use super::clips::{self, Frame};
use super::emoji::Split;
use super::tools::Tools;
use super::{Fault, FaultKind, benchmark};
use crate::config::{Data, DataFormat};
use crate::{Error, Result};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Largest image file that is read, in bytes.
pub(crate) const MAX_IMAGE_BYTES: u64 = 1 << 28;
/// Largest caption file that is read, in bytes.
pub(crate) const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Extensions of the images that can be decoded, in lower case.
pub(crate) const IMAGE_EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

/// Images that belong together, and their text, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// What the sample is called in messages and predictions.
    pub key: String,
    /// The images, as many as [`Source::images`] says: one, or a pair's two, or the frames of a clip.
    pub images: Vec<RawImage>,
    /// Captions, trimmed; at least one, none empty. Evaluation uses the first.
    pub captions: Vec<String>,
    /// Words about the image that are no caption of their own.
    pub keywords: Vec<String>,
    /// What the source says of it besides.
    pub labels: Labels,
}

/// What a source says of a sample besides its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Label of its class, where samples have classes whose names are not their captions; of a question the answer.
    pub class: Option<String>,
    /// Part of the set that is scored by itself too, such as a domain of NoCaps or a type of question.
    pub domain: Option<String>,
    /// What each annotator answered, as they wrote it, where several did.
    pub answers: Vec<String>,
}

/// What the text of a sample is to its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextKind {
    /// It says what the image shows.
    Caption,
    /// It asks about the image; the class is the answer.
    Question,
    /// The image makes it true, false, or leaves it open; the class says which.
    Hypothesis,
    /// It is true or false of two images together; the class says which.
    Statement,
}

impl TextKind {
    /// Images of a sample.
    pub fn images(self) -> usize {
        if self == TextKind::Statement { 2 } else { 1 }
    }

    /// The classes, where they are the same in every set.
    pub fn classes(self) -> Option<Vec<Class>> {
        let labels: &[&str] = match self {
            TextKind::Caption | TextKind::Question => return None,
            TextKind::Hypothesis => &["entailment", "neutral", "contradiction"],
            TextKind::Statement => &["true", "false"],
        };
        Some(labels.iter().map(|&label| Class { label: label.into(), name: label.into() }).collect())
    }
}

/// A class of a classification set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// What its samples are labelled with.
    pub label: String,
    /// What it is called.
    pub name: String,
}

/// An image of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawImage {
    /// A JPEG, PNG, WebP or GIF file.
    Encoded(Vec<u8>),
    /// One of the frames of an animation or video, which are decoded together.
    Frame(Frame),
    /// A square drawing on a transparent ground.
    Drawing {
        /// Width and height.
        side: usize,
        /// Pixels on white, `[side, side, 3]`.
        rgb: Vec<u8>,
        /// Which pixels are ground, `[side, side]`.
        transparent: Vec<bool>,
    },
}

/// A collection of samples.
pub trait Source: std::fmt::Debug + Send + Sync {
    /// What messages call it.
    fn name(&self) -> String;

    /// Number of parts; a constant of the source.
    fn parts(&self) -> usize;

    /// Images of every sample; a constant of the source. A sample with another number of them is faulty.
    fn images(&self) -> usize {
        1
    }

    /// Opens a part.
    ///
    /// # Errors
    /// It is missing or unreadable as a whole: counted as one faulty sample.
    fn part(&self, part: usize) -> std::result::Result<Arc<dyn Part>, Fault>;

    /// The classes that samples can be of, if that is known without reading them.
    fn classes(&self) -> Option<Vec<Class>> {
        None
    }

    /// Whether a caption is right for its own image alone, even if another image has the same one: the rule of the
    /// benchmarks of retrieval.
    fn captions_are_exclusive(&self) -> bool {
        false
    }
}

/// Number of samples of a source, faulty ones included, or `most` if there are more; parts that cannot be opened count
/// nothing.
pub fn samples(source: &dyn Source, most: usize) -> usize {
    let mut count = 0;
    for part in 0..source.parts() {
        count += source.part(part).map_or(0, |part| part.len());
        if count >= most {
            return most;
        }
    }
    count
}

/// Samples that are found by index.
pub trait Part: Send + Sync {
    /// Number of samples, faulty ones included.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads sample `index`, which is below [`Part::len`]. The images are not decoded.
    ///
    /// # Errors
    /// The sample is faulty.
    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault>;
}

/// Opens a source as `data.train` and `--data` name it: `emoji` or `emoji:SPLIT`, questions about it (`emoji-questions:SPLIT`), a
/// pattern of `.tar` shards, what is asked in those of procedural scenes (`scene-questions:SHARDS.tar` and others), a `.csv` or
/// `.tsv` table, a folder, or a benchmark's files ([`benchmark::open`]). With `data.frames` the samples are clips: of shards, of
/// a folder ([`clips::open_folder`]), or of a benchmark of videos.
///
/// # Errors
/// Nothing is there, it holds no sample, or its kind cannot be told.
pub fn open(name: &str, options: &Data) -> Result<Arc<dyn Source>> {
    open_with(name, options, &Tools::of_user())
}

/// As [`open`], with these tools for videos.
pub(super) fn open_with(name: &str, options: &Data, tools: &Tools) -> Result<Arc<dyn Source>> {
    // Such names say what they are, whatever data.format says of others.
    if let Some(source) = benchmark::open(name, options, tools)? {
        return Ok(source);
    }
    if let Some(source) = scenes::open(name, options)? {
        return Ok(source);
    }
    if let Some(split) = split_of(name, "emoji-questions")? {
        if options.frames > 0 {
            return Err(no_clips(name));
        }
        return Ok(Arc::new(EmojiQuestions::bundled(split)?));
    }
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
    let format = match options.format {
        // `emoji` names the bundled set whatever data.format says of the training data.
        _ if name == "emoji" || name.starts_with("emoji:") => DataFormat::Emoji,
        DataFormat::Auto if ends(&[".tar"]) => DataFormat::Shards,
        DataFormat::Auto if ends(&[".csv", ".tsv"]) => DataFormat::Csv,
        DataFormat::Auto if Path::new(name).is_dir() => DataFormat::Folder,
        DataFormat::Auto if options.frames > 0 => {
            return Err(Error::invalid(format!(
                "{name}: no folder of this name; clips can be .tar shards, a folder, {}",
                benchmark::VIDEOS.join(", ")
            )));
        }
        DataFormat::Auto => {
            return Err(Error::invalid(format!(
                "{name}: no folder of this name; data can be emoji, emoji-questions, .tar shards, a .csv or .tsv table, a \
                 folder, {} or {}",
                scenes::KINDS.join(", "),
                benchmark::KINDS.join(", ")
            )));
        }
        format => format,
    };
    Ok(match format {
        DataFormat::Shards => Arc::new(ShardSource::open(name, options)?),
        DataFormat::Folder if options.frames > 0 => Arc::new(clips::open_folder(Path::new(name), options, tools)?),
        DataFormat::Csv | DataFormat::Emoji if options.frames > 0 => return Err(no_clips(name)),
        DataFormat::Folder => Arc::new(FolderSource::open(Path::new(name))?),
        DataFormat::Csv => {
            let separator = match options.separator.as_bytes() {
                [] => None,
                [byte] => Some(*byte),
                _ => return Err(Error::invalid("data.separator must be one ASCII character, such as \"\\t\"")),
            };
            let columns = TableColumns {
                image: &options.image_column,
                caption: &options.caption_column,
                label: &options.label_column,
            };
            Arc::new(TableSource::open(Path::new(name), columns, separator)?)
        }
        DataFormat::Auto | DataFormat::Emoji => {
            Arc::new(EmojiSource::bundled(split_of(name, "emoji")?.unwrap_or(Split::Train))?)
        }
    })
}

/// The split of the bundled set in the name `SET:SPLIT`; the name `SET` is the training split, and others are none.
fn split_of(name: &str, set: &str) -> Result<Option<Split>> {
    match name.strip_prefix(set) {
        Some("") => Ok(Some(Split::Train)),
        Some(rest) => rest.strip_prefix(':').map(Split::parse).transpose(),
        None => Ok(None),
    }
}

/// The error of data that holds pictures where clips are asked for.
pub fn no_clips(name: &str) -> Error {
    Error::invalid(format!(
        "{name}: these are pictures, and clips are asked for (--video or data.frames): clips are in .tar shards, a folder, {}",
        benchmark::VIDEOS.join(", ")
    ))
}

/// The bytes of a small file.
pub(crate) fn read_file(path: &Path, limit: u64) -> std::result::Result<Vec<u8>, Fault> {
    let fault = |kind, detail: &dyn ToString| Fault::new(kind, path.display().to_string(), detail.to_string());
    let file = std::fs::File::open(path).map_err(|error| fault(FaultKind::MissingFile, &error))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| fault(FaultKind::MissingFile, &error))?;
    if bytes.len() as u64 > limit {
        return Err(fault(FaultKind::Oversized, &format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Captions of a sample: UTF-8, trimmed, not empty.
pub(super) fn captions<'a>(
    key: &str,
    texts: impl IntoIterator<Item = &'a [u8]>,
) -> std::result::Result<Vec<String>, Fault> {
    let mut captions = Vec::new();
    for text in texts {
        let text = std::str::from_utf8(text).map_err(|error| Fault::new(FaultKind::BadUtf8, key, error))?;
        captions.extend(Some(text.trim()).filter(|text| text.chars().any(char::is_alphanumeric)).map(str::to_string));
    }
    if captions.is_empty() {
        return Err(Fault::new(FaultKind::EmptyCaption, key, "no caption has a letter or digit"));
    }
    Ok(captions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_source_is_told_by_its_name() {
        let error = |name: &str| open(name, &Data::default()).err().unwrap().to_string();
        assert!(error("nowhere/{0..2}.tar").contains("nowhere/0.tar"));
        assert!(error("nowhere.csv").starts_with("nowhere.csv"));
        assert!(error("emoji:nowhere").contains("fresh-noto-v1"));
        assert!(error("nowhere").contains("no folder of this name"));
        assert_eq!(open("emoji", &Data::default()).unwrap().part(0).ok().unwrap().len(), 5945);
        assert_eq!(open("emoji:fxemoji", &Data::default()).unwrap().part(0).ok().unwrap().len(), 467);
        let wrong = error("emoji-questionsx");
        assert!(wrong.contains("no folder of this name") && wrong.contains("emoji-questions, "), "{wrong}");
        assert!(error("emoji-questions:nowhere").contains("fresh-noto-v1"));
        assert_eq!(open("emoji-questions", &Data::default()).unwrap().name(), "emoji-questions:train");
        let clips = open("emoji-questions", &Data { frames: 2, ..Data::default() });
        assert!(clips.err().unwrap().to_string().contains("these are pictures"));
    }

    #[test]
    fn captions_are_trimmed_and_judged() {
        assert_eq!(captions("k", [&b" a cat\n"[..], b" "]).unwrap(), ["a cat"]);
        assert_eq!(captions("k", [&b" ...\n"[..]]).unwrap_err().kind, FaultKind::EmptyCaption);
        assert_eq!(captions("k", [&b"caf\xe9"[..]]).unwrap_err().kind, FaultKind::BadUtf8);
        assert_eq!(captions("k", []).unwrap_err().kind, FaultKind::EmptyCaption);
    }
}
