//! What the frozen image encoder makes of a set, on disk: computed once, read a batch at a time.
//!
//! A file holds a record for each sample (the encoder's output rows of all its images in the storage type of the activations,
//! then the unit feature in f32, the mean of theirs, then thumbnails of the images), a trailer in JSON, the trailer's length in eight bytes and [`MAGIC`]. It is written whole or not at all,
//! and used again only if it was made by the same program from the same weights and samples and its records have their
//! checksum. Images are preprocessed as for evaluation: cached features know no augmentation.

use super::thumbnail::{self, thumbnail};
use crate::classes::Listed;
use crate::data::{Fingerprint, Labelled};
use crate::evaluate::{EvalSet, pixels, unit_means};
use crate::{Error, Result, checksum};
use engine::{DType, Queue, Workspace};
use model::Coca;
use model::encoder::ImageEncoder;
use model::weights::write_atomically;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Ends a file.
const MAGIC: &[u8; 8] = b"cocafeat";
/// Images in a pass of the encoder.
const PASS: usize = 32;
/// Bytes read at a time to check a file.
const BLOCK: usize = 1 << 20;
/// Longest name of a set in the name of its file.
const LONGEST_NAME: usize = 60;

/// What the records were made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    /// CRC-32 of this program's file.
    program: u32,
    /// Instruction set: rounding differs between them.
    isa: String,
    dtype: DType,
    /// CRC-32 of architecture and weights.
    weights: u32,
    set: String,
    samples: Fingerprint,
    /// Images of a sample.
    images: usize,
    max_pixels: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    identity: Identity,
    /// Encoder rows of a sample, those of all its images, and their width.
    rows: usize,
    width: usize,
    /// Width of the features.
    features: usize,
    /// Bytes of the thumbnails of all images of a sample.
    thumbnails: usize,
    /// CRC-32 of the records.
    crc32: u32,
    samples: Vec<Listed>,
    /// Faulty samples by kind, and in words.
    skipped: serde_json::Value,
    skipped_text: String,
}

impl Trailer {
    fn token_bytes(&self) -> usize {
        self.rows * self.width * self.identity.dtype.size()
    }

    fn record_bytes(&self) -> usize {
        self.token_bytes() + 4 * self.features + self.thumbnails
    }
}

/// The features of a set.
#[derive(Debug)]
pub struct Features {
    file: File,
    path: PathBuf,
    trailer: Trailer,
    /// Where they come from, in words.
    pub note: String,
}

impl Features {
    /// The features that `model` gives of a set: those in `folder`, or new ones that are written there.
    ///
    /// # Errors
    /// The set cannot be read, an op refuses, or the folder cannot be written.
    pub fn open(set: &mut EvalSet, model: &Coca, queue: &Queue, folder: &Path) -> Result<Features> {
        let cpu = queue.cpu("the cache of features")?;
        let identity = Identity {
            program: program()?,
            isa: cpu.isa().to_string(),
            dtype: model.dtype(),
            weights: checksum_of(model)?,
            set: set.name.clone(),
            samples: Fingerprint::of(set.source.as_ref())?,
            images: set.source.images(),
            max_pixels: set.data.max_pixels,
        };
        let path = folder.join(file_name(&identity)?);
        let again = match path.exists() {
            true => match read(&path, &identity) {
                Ok((file, trailer)) => {
                    let note = format!("{}: features read from {}\n", set.name, path.display());
                    return Ok(Features { file, path, trailer, note });
                }
                Err(reason) => format!(" again: {reason}"),
            },
            false => String::new(),
        };
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        write(&path, identity.clone(), set, model, queue)?;
        let (file, trailer) = read(&path, &identity)
            .map_err(|reason| Error::invalid(format!("{}: written and read back: {reason}", path.display())))?;
        let note = format!("{}: features written to {}{again}\n", set.name, path.display());
        Ok(Features { file, path, trailer, note })
    }

    /// The samples, in the source's order; faulty ones are not there.
    pub fn samples(&self) -> &[Listed] {
        &self.trailer.samples
    }

    /// Encoder output rows of a sample, those of all its images.
    pub fn rows(&self) -> usize {
        self.trailer.rows
    }

    /// Images of a sample.
    pub fn images(&self) -> usize {
        self.trailer.identity.images
    }

    /// Faulty samples by kind, and in words (empty if there is none).
    pub fn skipped(&self) -> (&serde_json::Value, &str) {
        (&self.trailer.skipped, &self.trailer.skipped_text)
    }

    /// Encoder output f32 `[samples, rows, width]` of some samples.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn tokens(&self, samples: &[usize]) -> Result<Vec<f32>> {
        let trailer = &self.trailer;
        let (dtype, mut bytes) = (trailer.identity.dtype, vec![0; trailer.token_bytes()]);
        let mut values = Vec::with_capacity(samples.len() * trailer.rows * trailer.width);
        for &sample in samples {
            self.read(&mut bytes, sample * trailer.record_bytes())?;
            widen(dtype, &bytes, &mut values);
        }
        Ok(values)
    }

    /// Unit features f32 `[samples, embed_dim]` of all samples.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn features(&self) -> Result<Vec<f32>> {
        let (trailer, mut values) = (&self.trailer, Vec::new());
        self.each(trailer.token_bytes(), 4 * trailer.features, |bytes| widen(DType::F32, bytes, &mut values))?;
        Ok(values)
    }

    /// Pixels alone: the thumbnails of all samples as unit vectors around their mean, and the width of one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn thumbnails(&self) -> Result<(Vec<f32>, usize)> {
        let (trailer, mut values) = (&self.trailer, Vec::new());
        let starts_at = trailer.token_bytes() + 4 * trailer.features;
        self.each(starts_at, trailer.thumbnails, |bytes| values.extend(thumbnail::unit(bytes)))?;
        Ok((values, trailer.thumbnails))
    }

    /// Gives `length` bytes of every record, from `starts_at` on, in order.
    fn each(&self, starts_at: usize, length: usize, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut bytes = vec![0; length];
        for sample in 0..self.trailer.samples.len() {
            self.read(&mut bytes, sample * self.trailer.record_bytes() + starts_at)?;
            take(&bytes);
        }
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], offset: usize) -> Result<()> {
        self.file.read_exact_at(bytes, offset as u64).map_err(|error| Error::io(&self.path, error))
    }
}

/// The values as they are stored. A bf16 is the upper half of an f32, so both ways are exact for values of its type.
fn narrow(dtype: DType, values: &[f32], bytes: &mut Vec<u8>) {
    match dtype {
        DType::BF16 => bytes.extend(values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes())),
        _ => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

/// The inverse of [`narrow`].
fn widen(dtype: DType, bytes: &[u8], values: &mut Vec<f32>) {
    match dtype {
        DType::BF16 => values.extend(bytes.chunks_exact(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]]))),
        _ => values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
    }
}

/// CRC-32 of a model's architecture and weights.
fn checksum_of(model: &Coca) -> Result<u32> {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(model.config().to_open_clip().as_bytes());
    let weights = model.parameters().master();
    for start in (0..weights.bytes()).step_by(BLOCK) {
        checksum.update(&weights.read::<u8>(start, BLOCK.min(weights.bytes() - start))?);
    }
    Ok(checksum.finalize())
}

/// CRC-32 of the running program's file.
fn program() -> Result<u32> {
    static SUM: OnceLock<u32> = OnceLock::new();
    if let Some(sum) = SUM.get() {
        return Ok(*sum);
    }
    // The link leads to the running program also after another build took its place.
    let link = PathBuf::from("/proc/self/exe");
    let path = match link.exists() {
        true => link,
        false => std::env::current_exe().map_err(|error| Error::io("the program's own file", error))?,
    };
    let (_, sum) = checksum::of_file(&path).map_err(|error| Error::io(&path, error))?;
    Ok(*SUM.get_or_init(|| sum))
}

/// Tells sets and models apart: `emoji_train-1234abcd.features`. The program is left out: another one writes its file in the
/// place of this one's.
fn file_name(identity: &Identity) -> Result<String> {
    let sum = crc32fast::hash(json(&Identity { program: 0, ..identity.clone() })?.as_bytes());
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || ".-".contains(letter) { letter } else { '_' };
    let letters: Vec<char> = identity.set.chars().map(plain).collect();
    let name: String = letters[letters.len().saturating_sub(LONGEST_NAME)..].iter().collect();
    Ok(format!("{}-{sum:08x}.features", name.trim_start_matches(['.', '_'])))
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::invalid(error.to_string()))
}

/// Encodes a set into a file.
fn write(path: &Path, identity: Identity, set: &mut EvalSet, model: &Coca, queue: &Queue) -> Result<()> {
    let config = model.config();
    let mut encoder = ImageEncoder::new(model, PASS, &Workspace::new())?;
    let (mut samples, mut checksum, dtype) = (Vec::new(), crc32fast::Hasher::new(), identity.dtype);
    let images = identity.images;
    let mut failure = None;
    let written = write_atomically(path, |file| {
        let each = |batch: Vec<Labelled>| {
            let (listed, batch): (Vec<_>, Vec<_>) = batch.into_iter().map(listed).unzip();
            let pixels = pixels(&batch);
            let (tokens, features) = encoder.encoded_and_features(queue, &pixels)?;
            let features = unit_means(features, images, config.embed_dim);
            let (tokens_each, features_each) = (tokens.len() / batch.len(), features.len() / batch.len());
            let side = config.vision.image_size;
            let mut bytes = Vec::new();
            for ((tokens, features), pixels) in (tokens.chunks(tokens_each).zip(features.chunks(features_each)))
                .zip(pixels.chunks(pixels.len() / batch.len()))
            {
                narrow(dtype, tokens, &mut bytes);
                narrow(DType::F32, features, &mut bytes);
                pixels.chunks(side * side * 3).for_each(|image| bytes.extend(thumbnail(image, side)));
            }
            checksum.update(&bytes);
            samples.extend(listed);
            file.write_all(&bytes).map_err(|error| Error::io(path, error))
        };
        let trailer = set.read(config, PASS.div_ceil(images), each).and_then(|()| {
            json(&Trailer {
                identity,
                rows: images * config.vision.rows(),
                width: config.vision.width,
                features: config.embed_dim,
                thumbnails: images * thumbnail::bytes(config.vision.image_size),
                crc32: checksum.finalize(),
                samples,
                skipped: set.skipped(),
                skipped_text: set.skipped_text(),
            })
        });
        match trailer {
            Ok(trailer) => {
                file.write_all(trailer.as_bytes())?;
                file.write_all(&(trailer.len() as u64).to_le_bytes())?;
                file.write_all(MAGIC)
            }
            Err(error) => {
                failure = Some(error);
                Err(std::io::Error::other("the set was not encoded"))
            }
        }
    });
    failure.map_or(written, Err)
}

fn listed(Labelled { sample, labels }: Labelled) -> (Listed, crate::data::Sample) {
    (Listed::new(&sample.key, &sample.captions, labels), sample)
}

/// Opens a file that was made from what `identity` says; else the reason why it is not used.
fn read(path: &Path, identity: &Identity) -> std::result::Result<(File, Trailer), String> {
    let io = |error: std::io::Error| error.to_string();
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let cut = "the file was cut short or is of another kind";
    let ends_at = length.checked_sub(16).ok_or(cut)?;
    let mut end = [0; 16];
    file.read_exact_at(&mut end, ends_at).map_err(io)?;
    let (trailer_length, magic) = end.split_at(8);
    let trailer_length = u64::from_le_bytes(trailer_length.try_into().map_err(|_| cut)?);
    let starts_at = ends_at.checked_sub(trailer_length).filter(|_| magic == MAGIC).ok_or(cut)?;
    let mut text = vec![0; trailer_length as usize];
    file.read_exact_at(&mut text, starts_at).map_err(io)?;
    let trailer: Trailer = serde_json::from_slice(&text).map_err(|error| format!("its trailer: {error}"))?;
    if trailer.identity != *identity {
        return Err("it was made by another build of this program, or from other weights or samples".to_owned());
    }
    if (trailer.samples.len() * trailer.record_bytes()) as u64 != starts_at {
        return Err(cut.to_owned());
    }
    // Reads at places have left the file at its start.
    let (_, sum) = checksum::of((&file).take(starts_at)).map_err(io)?;
    match sum == trailer.crc32 {
        true => Ok((file, trailer)),
        false => Err("its records do not have their checksum".to_owned()),
    }
}
