//! Checkpoints as atomic units: a folder `step-00001234` is there whole or not at all, whenever the process dies.
//!
//! Files go to a hidden temporary folder, each with its size and crc32 in `manifest.json`; files and folder are forced to
//! the disk, the folder is renamed, the parent is forced to the disk; then all but the newest are removed.

#[cfg(test)]
mod tests;

use crate::{Error, Result, aside, checksum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Name of the list of files in each checkpoint.
pub const MANIFEST: &str = "manifest.json";

/// Starts the name of a folder that is being written or removed.
const TEMPORARY: &str = ".tmp-";
/// Starts the name of a checkpoint while another of the same step takes its place.
const REPLACED: &str = ".old-";
/// Starts the name of a checkpoint that was set aside. Nothing here looks at it again.
const ASIDE: &str = "aside-";

/// Size and checksum of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileEntry {
    /// Bytes.
    size: u64,
    /// CRC-32 of the content.
    crc32: u32,
}

/// What a whole checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    /// Steps done; the next step of a resumed run.
    step: u64,
    /// By name.
    files: BTreeMap<String, FileEntry>,
}

/// The checkpoints of one run, open for writing by this process alone.
#[derive(Debug)]
pub struct Checkpoints {
    root: PathBuf,
    keep: usize,
    /// Locked while this lives.
    _lock: File,
}

/// A checkpoint whose files were found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    folder: PathBuf,
    manifest: Manifest,
}

impl Checkpoints {
    /// Opens or creates the folder, takes it for this process, and removes what a killed process left half-written. A
    /// checkpoint that was to be replaced and was not has its name again.
    ///
    /// # Errors
    /// The folder cannot be written, or another process has it.
    pub fn open(root: &Path, keep: usize) -> Result<Checkpoints> {
        fs::create_dir_all(root).map_err(|source| Error::io(root, source))?;
        let path = root.join(".lock");
        let lock = File::create(&path).map_err(|source| Error::io(&path, source))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let root = root.display();
                Error::invalid(format!("{root}: another run writes here; choose another folder with --out"))
            }
            TryLockError::Error(source) => Error::io(&path, source),
        })?;
        for name in names(root)? {
            let path = root.join(&name);
            let done = match name.strip_prefix(REPLACED).map(|name| root.join(name)) {
                Some(target) if !target.exists() => fs::rename(&path, target),
                replaced if replaced.is_some() || name.starts_with(TEMPORARY) => fs::remove_dir_all(&path),
                _ => Ok(()),
            };
            done.map_err(|source| Error::io(&path, source))?;
        }
        Ok(Checkpoints { root: root.to_owned(), keep: keep.max(1), _lock: lock })
    }

    /// Writes the checkpoint after `step` steps: `write` adds its files. Returns its folder.
    ///
    /// # Errors
    /// A file cannot be written or the disk is full. The half-written checkpoint is removed; older ones stay.
    pub fn save(&self, step: u64, write: impl FnOnce(&mut Files) -> Result<()>) -> Result<PathBuf> {
        let target = self.root.join(folder_name(step));
        let temporary = self.root.join(format!("{TEMPORARY}{}", folder_name(step)));
        let written = self.write_and_rename(step, &temporary, &target, write);
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&temporary);
            let kept = match Checkpoints::latest(&self.root, |_| ()) {
                Ok(Some(checkpoint)) => format!("the newest is still {}", checkpoint.folder.display()),
                Ok(None) => "there is none before it".to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(Error::invalid(format!("the checkpoint of step {step} was not written ({kept}): {error}")));
        }
        self.prune(step)?;
        Ok(target)
    }

    fn write_and_rename(
        &self,
        step: u64,
        temporary: &Path,
        target: &Path,
        write: impl FnOnce(&mut Files) -> Result<()>,
    ) -> Result<()> {
        // Left by a save that failed and could not clean up.
        if temporary.exists() {
            fs::remove_dir_all(temporary).map_err(|source| Error::io(temporary, source))?;
        }
        fs::create_dir(temporary).map_err(|source| Error::io(temporary, source))?;
        let mut files = Files { folder: temporary.to_owned(), entries: BTreeMap::new() };
        write(&mut files)?;
        let manifest = Manifest { step, files: files.entries.clone() };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::io(temporary, error.into()))?;
        files.add_bytes(MANIFEST, &text)?;
        sync_folder(temporary)?;
        if !target.exists() {
            fs::rename(temporary, target).map_err(|source| Error::io(target, source))?;
            return sync_folder(&self.root);
        }
        // The step was saved before, as when a resumed run ends where it began. The old one goes once the new one has its name.
        let old = self.root.join(format!("{REPLACED}{}", folder_name(step)));
        fs::rename(target, &old).map_err(|source| Error::io(target, source))?;
        if let Err(source) = fs::rename(temporary, target) {
            let _ = fs::rename(&old, target);
            return Err(Error::io(target, source));
        }
        sync_folder(&self.root)?;
        fs::remove_dir_all(&old).map_err(|source| Error::io(&old, source))
    }

    /// Removes all but the newest up to `step`; those of later steps are set aside.
    fn prune(&self, step: u64) -> Result<()> {
        self.set_later_aside(step, |_| ())?;
        list(&self.root)?.iter().skip(self.keep).try_for_each(|(_, path)| remove(path))
    }

    /// Sets aside the checkpoints of steps after `step`, damaged ones too: the run goes on before them, and a later resume
    /// must not find them. `told` hears of each.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn set_later_aside(&self, step: u64, mut told: impl FnMut(&str)) -> Result<()> {
        for (found, path) in list(&self.root)?.into_iter().take_while(|(found, _)| *found > step) {
            let place = aside::place(|number| self.root.join(format!("{ASIDE}{number}-{}", folder_name(found))));
            fs::rename(&path, &place).map_err(|source| Error::io(&path, source))?;
            told(&format!("{} is of a later step and is now {}", path.display(), place.display()));
        }
        sync_folder(&self.root)
    }

    /// The newest whole checkpoint in a folder. `passed_over` hears of each newer one that is torn or corrupt.
    ///
    /// # Errors
    /// The folder or a file in it cannot be read, which says nothing of what it holds. A folder that does not exist holds no
    /// checkpoint.
    pub fn latest(root: &Path, mut passed_over: impl FnMut(&str)) -> Result<Option<Checkpoint>> {
        if !root.exists() {
            return Ok(None);
        }
        for (_, path) in list(root)? {
            match Checkpoint::open(&path) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(Error::Io { path, source }) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Io { path, source });
                }
                Err(error) => passed_over(&format!("passed over a damaged checkpoint: {error}")),
            }
        }
        Ok(None)
    }
}

impl Checkpoint {
    /// Opens one checkpoint folder after reading all its files against their checksums.
    ///
    /// # Errors
    /// The manifest is missing or damaged, or a file is missing, has another size or another content.
    pub fn open(folder: &Path) -> Result<Checkpoint> {
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).map_err(|source| Error::io(&path, source))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| Error::invalid(format!("{}: not a manifest: {error}", path.display())))?;
        for (name, entry) in &manifest.files {
            let path = folder.join(name);
            let (size, crc32) = checksum::of_file(&path).map_err(|source| Error::io(&path, source))?;
            let wrong = |what: String| Error::invalid(format!("{}: {what}", path.display()));
            if size != entry.size {
                return Err(wrong(format!("{size} bytes instead of {}", entry.size)));
            }
            if crc32 != entry.crc32 {
                return Err(wrong(format!("checksum {crc32:08x} instead of {:08x}", entry.crc32)));
            }
        }
        Ok(Checkpoint { folder: folder.to_owned(), manifest })
    }

    /// Steps done when it was written: the next step of a resumed run.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Name and bytes of its files.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.manifest.files.iter().map(|(name, entry)| (name.as_str(), entry.size))
    }

    /// Path of one of its files.
    ///
    /// # Errors
    /// It has no such file; the text lists those it has.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        if self.manifest.files.contains_key(name) {
            return Ok(self.folder.join(name));
        }
        let known: Vec<_> = self.manifest.files.keys().map(String::as_str).collect();
        Err(Error::invalid(format!("{}: no file '{name}', only {}", self.folder.display(), known.join(", "))))
    }

    /// Content of one of its files.
    ///
    /// # Errors
    /// It has no such file, or the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name)?;
        fs::read(&path).map_err(|source| Error::io(&path, source))
    }
}

/// The files of a checkpoint that is being written.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    entries: BTreeMap<String, FileEntry>,
}

impl Files {
    /// Adds a file whose content `write` writes; it is summed on the way and forced to the disk.
    ///
    /// # Errors
    /// The name is taken or not a plain file name, or writing fails.
    pub fn add(&mut self, name: &str, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let path = self.folder.join(name);
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(Error::invalid(format!("'{name}' is not a plain file name")));
        }
        let entry = write_file(&path, write).map_err(|source| Error::io(&path, source))?;
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    /// As [`add`](Files::add).
    pub fn add_bytes(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.add(name, |out| out.write_all(content))
    }
}

fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<FileEntry> {
    let mut out = Summing {
        inner: BufWriter::with_capacity(1 << 20, File::create_new(path)?),
        hasher: crc32fast::Hasher::new(),
        size: 0,
    };
    write(&mut out)?;
    out.flush()?;
    out.inner.get_ref().sync_all()?;
    Ok(FileEntry { size: out.size, crc32: out.hasher.finalize() })
}

/// Sums and counts what passes through.
struct Summing<T> {
    inner: T,
    hasher: crc32fast::Hasher,
    size: u64,
}

impl<T: Write> Write for Summing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The checkpoint folders, newest first.
fn list(root: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<_> = names(root)?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix("step-")?.parse().ok()?, root.join(&name))))
        .collect();
    found.sort_by_key(|(step, _): &(u64, PathBuf)| std::cmp::Reverse(*step));
    Ok(found)
}

/// Names in a folder that are valid UTF-8.
fn names(root: &Path) -> Result<Vec<String>> {
    fs::read_dir(root)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>())
        .map(|names| names.into_iter().filter_map(|name| name.into_string().ok()).collect())
        .map_err(|source| Error::io(root, source))
}

/// Removes a checkpoint; it is renamed first, so that no half of one is left under its name.
fn remove(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!("{TEMPORARY}old-{name}"));
    fs::rename(path, &aside).and_then(|()| fs::remove_dir_all(&aside)).map_err(|source| Error::io(path, source))
}

/// Forces a folder's list of names to the disk.
fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|source| Error::io(path, source))
}
