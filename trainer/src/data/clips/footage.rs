//! Frames that are decoded together when the first of them is looked at.

use super::{Player, spread};
use crate::checksum;
use crate::data::{Fault, FaultKind, RawImage};
use model::preprocess::{DecodeError, Image, decode_frames};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// What frames are decoded from.
#[derive(Clone, Debug)]
pub enum Footage {
    /// A WebP or GIF file.
    Animation(Vec<u8>),
    /// A file that a player decodes.
    Video(PathBuf, Arc<Player>),
}

impl PartialEq for Footage {
    fn eq(&self, other: &Footage) -> bool {
        match (self, other) {
            (Footage::Animation(a), Footage::Animation(b)) => a == b,
            (Footage::Video(a, _), Footage::Video(b, _)) => a == b,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Shared {
    key: String,
    footage: Footage,
    frames: usize,
    max_pixels: u64,
    decoded: OnceLock<Result<Vec<Image>, Fault>>,
}

/// One of the evenly spread frames of a clip.
#[derive(Clone, Debug)]
pub struct Frame {
    clip: Arc<Shared>,
    index: usize,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Frame) -> bool {
        let of = |frame: &Frame| (frame.index, frame.clip.frames);
        of(self) == of(other) && self.clip.footage == other.clip.footage
    }
}

impl Eq for Frame {}

impl Frame {
    /// All `frames` frames of a clip, of no more than `max_pixels` pixels each; faults are those of the sample `key`.
    pub fn all(key: String, footage: Footage, frames: usize, max_pixels: u64) -> Vec<RawImage> {
        let clip = Arc::new(Shared { key, footage, frames, max_pixels, decoded: OnceLock::new() });
        (0..frames).map(|index| RawImage::Frame(Frame { clip: clip.clone(), index })).collect()
    }

    /// The picture. The first of the frames that is asked decodes them all.
    ///
    /// # Errors
    /// The clip cannot be decoded.
    pub fn image(&self) -> Result<&Image, Fault> {
        let Shared { key, footage, frames, max_pixels, decoded } = &*self.clip;
        let decode = || match footage {
            Footage::Animation(bytes) => {
                decode_frames(bytes, *max_pixels, |count| spread(count, *frames)).map_err(|error| fault(key, error))
            }
            Footage::Video(path, player) => player.frames(path, *frames, *max_pixels),
        };
        decoded.get_or_init(decode).as_ref().map(|images| &images[self.index]).map_err(Fault::clone)
    }

    /// Its place among the frames.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of bytes of the file that it comes from, and their CRC-32.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn checksum(&self) -> Result<(usize, u32), Fault> {
        let path = match &self.clip.footage {
            Footage::Animation(bytes) => return Ok((bytes.len(), crc32fast::hash(bytes))),
            Footage::Video(path, _) => path,
        };
        let wrong = |error| Fault::new(FaultKind::MissingFile, &self.clip.key, error);
        checksum::of_file(path).map(|(bytes, sum)| (bytes as usize, sum)).map_err(wrong)
    }
}

/// The fault of a picture that could not be decoded.
pub fn fault(key: &str, error: DecodeError) -> Fault {
    let oversized = matches!(error, DecodeError::TooLarge { .. });
    Fault::new(if oversized { FaultKind::Oversized } else { FaultKind::CorruptImage }, key, error)
}
