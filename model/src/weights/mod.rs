//! Weights in files: found by name, read as f32 straight from the mapped file, matched strictly against a configuration.
//! Formats: safetensors, and PyTorch's zip archives through a reader that executes nothing.

mod atomic;
mod dtype;
mod entry;
mod folder;
mod pickle;
mod pytorch;
mod safetensors;
mod zip;

pub use atomic::write_atomically;
pub use dtype::FileDtype;
pub use folder::{CONFIG_FILE, PYTORCH_FILE, SAFETENSORS_FILE, load_folder, save_folder};
pub use safetensors::{TensorRef, save};

use crate::params::ParamSpec;
use engine::{Error, Result};
use entry::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

/// Named tensors of one file. Their bytes stay in the file until they are read.
pub struct Weights {
    source: Source,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

/// Where the bytes are.
enum Source {
    Mapped(memmap2::Mmap),
    Memory(Vec<u8>),
}

impl std::ops::Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Source::Mapped(map) => map,
            Source::Memory(bytes) => bytes,
        }
    }
}

impl Weights {
    /// Opens a file of either format, told apart by its first bytes. Only the header is read; the rest is mapped, so the
    /// file must not be changed in place while this lives (replacing it by a rename is fine).
    pub fn open(path: &Path) -> Result<Weights> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        // SAFETY: the map is read-only and private. Another process that truncates the file under us would fault; writers
        // that replace files by a rename, as this crate's do, never change a mapped file.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|error| Error::io(path, error))?;
        Weights::new(Source::Mapped(map)).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
    }

    /// The same from a file's content in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Weights> {
        Weights::new(Source::Memory(bytes))
    }

    fn new(source: Source) -> Result<Weights> {
        // A pickle of protocol 2 or later without an archive around it; a safetensors file whose header has that length has
        // a zero in byte 7.
        const BARE_PICKLE: u8 = 0x80;
        let (tensors, metadata) = match source.first_chunk::<4>() {
            Some(zip::MAGIC) => (pytorch::parse(&source)?, BTreeMap::new()),
            Some([BARE_PICKLE, 2..=5, ..]) if source.get(7) != Some(&0) => {
                return Err(Error::invalid(
                    "PyTorch's format before 1.6 is not read; load and torch.save it again with a newer PyTorch",
                ));
            }
            _ => safetensors::parse(&source)?,
        };
        Ok(Weights { source, tensors, metadata })
    }

    /// The tensors' names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, outermost size first, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| &entry.shape[..])
    }

    /// The stored type of a tensor, if there is one of that name.
    pub fn dtype(&self, name: &str) -> Option<FileDtype> {
        self.tensors.get(name).map(|entry| entry.dtype)
    }

    /// The free text of a safetensors header (empty for PyTorch's format).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Reads a tensor in row-major order, widened to f32, into `out`, which must have as many elements.
    /// Errors: no tensor of that name, another number of elements, a type that is not F32, F16 or BF16.
    pub fn read(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let entry = self.entry(name)?;
        if entry.elements() != out.len() {
            return Err(Error::invalid(format!(
                "tensor \"{name}\" has shape {:?}, {} elements; {} are wanted",
                entry.shape,
                entry.elements(),
                out.len()
            )));
        }
        entry.read(&self.source, out).map_err(|error| Error::invalid(format!("tensor \"{name}\": {error}")))
    }

    /// A tensor in row-major order as f32; errors as [`Weights::read`].
    pub fn to_vec(&self, name: &str) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.entry(name)?.elements()];
        self.read(name, &mut out)?;
        Ok(out)
    }

    /// Checks that the names and shapes are exactly those of `parameters` and the types are weight types. The error lists
    /// what is missing, unexpected and mis-shaped. `logit_scale` may be `[]` or `[1]`: open_clip writes both.
    pub fn check(&self, parameters: &[ParamSpec]) -> Result<()> {
        let known: BTreeSet<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        let (mut missing, mut wrong) = (Vec::new(), Vec::new());
        for ParamSpec { name, shape, .. } in parameters {
            match self.tensors.get(name) {
                None => missing.push(name.clone()),
                Some(entry) if entry.shape != shape.dims() && !(name == "logit_scale" && entry.shape == [1]) => {
                    wrong.push(format!("{name} {:?} instead of {shape}", entry.shape));
                }
                Some(entry) if matches!(entry.dtype, FileDtype::Other { .. }) => {
                    wrong.push(format!("{name} of type {}", entry.dtype.name()));
                }
                Some(_) => {}
            }
        }
        let unexpected: Vec<String> = self.names().filter(|name| !known.contains(name)).map(String::from).collect();
        let lists = [("missing", missing), ("unexpected", unexpected), ("of another shape or type", wrong)];
        let lines: Vec<String> = lists.iter().filter_map(|(what, names)| summary(what, names)).collect();
        if lines.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("the weights do not fit the model configuration\n  {}", lines.join("\n  "))))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| Error::invalid(format!("there is no tensor \"{name}\"")))
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights of {} tensors in {} bytes", self.tensors.len(), self.source.len())
    }
}

/// One line about a list of names, at most eight of them in full.
fn summary(what: &str, names: &[String]) -> Option<String> {
    const MOST: usize = 8;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| zip::shorten(name)).collect();
    let more = names.len().saturating_sub(MOST);
    match names.len() {
        0 => None,
        count if more == 0 => Some(format!("{count} {what}: {}", shown.join(", "))),
        count => Some(format!("{count} {what}: {} and {more} more", shown.join(", "))),
    }
}
