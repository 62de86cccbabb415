//! Clips: samples whose images are frames, evenly spread over the whole of each. A clip is a folder of pictures, an animated
//! WebP or GIF, or a video that the user's own `ffmpeg` decodes. Frames are decoded when they are looked at.

mod folder;
mod footage;
#[cfg(test)]
mod tests;
mod video;

pub use folder::{clips_below, open_folder};
pub use footage::{Footage, Frame, fault};
pub use video::Player;

use super::source::{Class, IMAGE_EXTENSIONS, Labels, MAX_IMAGE_BYTES, MAX_TEXT_BYTES, captions, read_file};
use super::tools::Tools;
use super::{Fault, FaultKind, Part, Raw, RawImage, Source};
use crate::config::Data;
use crate::{Error, Result};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Extensions of pictures that are frames where they lie in one folder, in lower case.
const STILLS: [&str; 3] = ["png", "jpg", "jpeg"];
/// Extensions of videos, in lower case.
const VIDEOS: [&str; 12] = ["mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "flv", "wmv", "ogv", "3gp"];

/// Indices of `frames` frames of a clip that has `count`: the middle of each of `frames` equal parts of it. Where the clip has
/// fewer, the nearest stand more than once.
pub fn spread(count: usize, frames: usize) -> Vec<usize> {
    (0..frames).map(|part| (2 * part + 1) * count / (2 * frames)).collect()
}

/// What a path is by its extension.
fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    extensions.contains(&extension.to_ascii_lowercase().as_str())
}

fn is_still(path: &Path) -> bool {
    has_extension(path, &STILLS)
}

fn is_animation(path: &Path) -> bool {
    has_extension(path, &IMAGE_EXTENSIONS) && !is_still(path)
}

fn is_video(path: &Path) -> bool {
    has_extension(path, &VIDEOS)
}

/// How clips are read.
#[derive(Clone, Debug)]
pub struct ClipReader {
    frames: usize,
    max_pixels: u64,
    /// None: none of them is a video.
    player: Option<Arc<Player>>,
}

impl ClipReader {
    /// A reader of these clips, as the options say.
    ///
    /// # Errors
    /// One is a video, and there is no `ffmpeg` among the tools.
    pub fn new<'a>(mut paths: impl Iterator<Item = &'a Path>, options: &Data, tools: &Tools) -> Result<ClipReader> {
        let player = match paths.find(|path| is_video(path) && path.is_file()) {
            None => None,
            Some(video) => {
                let missing = |error| Error::invalid(format!("{} is a video: {error}", video.display()));
                Some(Arc::new(Player::find(tools).map_err(missing)?))
            }
        };
        Ok(ClipReader { frames: options.frames, max_pixels: options.max_pixels, player })
    }

    /// The frames of a clip: those of a folder in the order of the numbers in their names. Animations and videos are decoded
    /// later.
    ///
    /// # Errors
    /// There is no such clip, or no frame in it.
    pub fn read(&self, path: &Path) -> std::result::Result<Vec<RawImage>, Fault> {
        let key = || path.display().to_string();
        let missing = |error: std::io::Error| Fault::new(FaultKind::MissingFile, key(), error);
        if path.is_dir() {
            let entries = std::fs::read_dir(path).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
            let paths = entries.map_err(missing)?.into_iter().map(|entry| entry.path());
            let mut stills: Vec<PathBuf> = paths.filter(|path| is_still(path)).collect();
            if stills.is_empty() {
                return Err(Fault::new(FaultKind::MissingImage, key(), format!("no frame (.{})", STILLS.join(", ."))));
            }
            stills.sort_by(|a, b| by_numbers(&a.to_string_lossy(), &b.to_string_lossy()));
            let frames = spread(stills.len(), self.frames).into_iter();
            return frames.map(|index| Ok(RawImage::Encoded(read_file(&stills[index], MAX_IMAGE_BYTES)?))).collect();
        }
        let footage = match &self.player {
            Some(player) if is_video(path) => {
                std::fs::metadata(path).map_err(missing)?;
                Footage::Video(path.to_owned(), player.clone())
            }
            _ => Footage::Animation(read_file(path, MAX_IMAGE_BYTES)?),
        };
        Ok(Frame::all(key(), footage, self.frames, self.max_pixels))
    }
}

/// Orders names by their letters, and by the values of the numbers in them: `frame9` before `frame10`.
fn by_numbers(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    let number = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    loop {
        let (digits_a, digits_b) = (number(a), number(b));
        if digits_a > 0 && digits_b > 0 {
            let value = |digits: &[u8]| digits.iter().skip_while(|&&digit| digit == b'0').copied().collect::<Vec<u8>>();
            let (value_a, value_b) = (value(&a[..digits_a]), value(&b[..digits_b]));
            let order = value_a.len().cmp(&value_b.len()).then(value_a.cmp(&value_b)).then(digits_a.cmp(&digits_b));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[digits_a..], &b[digits_b..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((first_a, rest_a)), Some((first_b, rest_b))) if first_a == first_b => (a, b) = (rest_a, rest_b),
            _ => return a.cmp(b),
        }
    }
}

/// A clip that is known by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// What it is called.
    pub key: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its texts; none: those of the `.txt` file beside it, one a line, or its class.
    pub captions: Option<Vec<String>>,
    /// Label of its class.
    pub class: Option<String>,
}

/// Clips in files.
#[derive(Clone, Debug)]
pub struct ClipSource {
    name: String,
    clips: Arc<[Clip]>,
    classes: Option<Vec<Class>>,
    captions_are_exclusive: bool,
    reader: ClipReader,
}

impl ClipSource {
    /// A source of these clips, of which there is at least one. If all have classes, those are its classes.
    ///
    /// # Errors
    /// None of the clips is there (`folder` is where they were looked for), or as [`ClipReader::new`].
    pub fn new(
        name: &str,
        folder: &Path,
        clips: Vec<Clip>,
        captions_are_exclusive: bool,
        options: &Data,
        tools: &Tools,
    ) -> Result<ClipSource> {
        if !clips.iter().any(|clip| clip.path.exists()) {
            let first = clips.first().map_or(Path::new(""), |clip| &clip.path);
            let (folder, first) = (folder.display(), first.display());
            return Err(Error::invalid(format!(
                "{name}: its clips are not in '{folder}' ({first}); name their folder with --images or data.images"
            )));
        }
        let reader = ClipReader::new(clips.iter().map(|clip| clip.path.as_path()), options, tools)?;
        let labels: Option<std::collections::BTreeSet<String>> = clips.iter().map(|clip| clip.class.clone()).collect();
        let class = |label: String| Class { name: label.clone(), label };
        let classes = labels.map(|labels| labels.into_iter().map(class).collect());
        Ok(ClipSource { name: name.to_owned(), clips: clips.into(), classes, captions_are_exclusive, reader })
    }
}

impl Source for ClipSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn parts(&self) -> usize {
        1
    }

    fn images(&self) -> usize {
        self.reader.frames
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }

    fn classes(&self) -> Option<Vec<Class>> {
        self.classes.clone()
    }

    fn captions_are_exclusive(&self) -> bool {
        self.captions_are_exclusive
    }
}

impl Part for ClipSource {
    fn len(&self) -> usize {
        self.clips.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let Clip { key, path, captions: texts, class } = &self.clips[index];
        let captions = match texts {
            Some(texts) if texts.is_empty() => {
                return Err(Fault::new(FaultKind::MissingCaption, key, "no sentence is of this clip"));
            }
            Some(texts) => captions(key, texts.iter().map(String::as_bytes))?,
            None => match (read_file(&beside(path), MAX_TEXT_BYTES), class) {
                (Ok(text), _) => captions(key, text.split(|&byte| byte == b'\n'))?,
                (Err(fault), Some(class)) if fault.kind == FaultKind::MissingFile => vec![class.clone()],
                (Err(fault), _) if fault.kind == FaultKind::MissingFile => {
                    return Err(Fault::new(FaultKind::MissingCaption, key, fault.detail));
                }
                (Err(fault), _) => return Err(fault),
            },
        };
        let images = self.reader.read(path)?;
        let labels = Labels { class: class.clone(), ..Labels::default() };
        Ok(Raw { key: key.clone(), images, captions, keywords: Vec::new(), labels })
    }
}

/// The text file of a clip: `CLIP.txt` beside `CLIP.webp`, or beside the folder `CLIP`, whose name may have a dot.
fn beside(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => PathBuf::from(format!("{}.txt", path.display())),
        false => path.with_extension("txt"),
    }
}
