//! Writes what [`ShardSource`](super::source::ShardSource) reads: `SPLIT-00000.tar` and on, in WebDataset layout, and an
//! index beside them. Nothing has its name before everything is written: a set that was there before stays whole until
//! then, and what an interruption leaves is removed by the next one who writes there.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Name of the index in the folder of a set.
pub const INDEX: &str = "index.json";
/// Ending of what is not whole yet.
const UNFINISHED: &str = ".part";

/// A package or program that samples come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The checksum that was verified; none for a program that made the samples.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checksum: String,
}

/// What [`INDEX`] says of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Name of the set.
    pub name: String,
    /// Licence of the samples.
    pub licence: String,
    /// What the samples were made from.
    pub origins: Vec<Origin>,
    /// The splits by name.
    pub splits: BTreeMap<String, Split>,
}

/// A split of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Samples in all its shards.
    pub samples: u64,
    /// The shards, in order.
    pub shards: Vec<Shard>,
}

/// A shard of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Name of its file, in the folder of the index.
    pub file: String,
    /// Its samples.
    pub samples: u64,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

impl Index {
    /// The index in a folder; none if there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Index>> {
        let path = folder.join(INDEX);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| Error::io(&path, error))?,
        };
        let wrong = |error| {
            Error::invalid(format!("{}: {error}; remove the file, or name another folder to write", path.display()))
        };
        serde_json::from_slice(&text).map(Some).map_err(wrong)
    }

    /// The shards of a split as `data.train` and `--data` take them, in the folder of the index; none if there is no such split.
    pub fn pattern(&self, folder: &Path, split: &str) -> Option<String> {
        self.splits.get(split).map(|found| pattern(folder, split, found))
    }

    /// The splits in words, each with the pattern by which `data.train` and `--data` take it.
    pub fn summary(&self, folder: &Path) -> String {
        let mut text = String::new();
        for (name, split) in &self.splits {
            let pattern = pattern(folder, name, split);
            let bytes: u64 = split.shards.iter().map(|shard| shard.bytes).sum();
            let size = bytes as f64 / (1u64 << 20) as f64;
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<14} {:>8} samples {size:>8.1} MiB  '{}'", split.samples, pattern);
        }
        text
    }
}

fn pattern(folder: &Path, name: &str, split: &Split) -> String {
    let last = split.shards.len().saturating_sub(1);
    let numbers = if last == 0 { format!("{last:05}") } else { format!("{{00000..{last:05}}}") };
    folder.join(format!("{name}-{numbers}.tar")).display().to_string()
}

/// How large a shard may get. A sample is never divided, so that the last one may pass the limit of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most samples.
    pub samples: u64,
    /// Bytes after which a shard ends.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { samples: 10_000, bytes: 256 << 20 }
    }
}

/// A set that is being written.
pub struct ShardWriter {
    folder: PathBuf,
    limits: Limits,
    index: Index,
    open: BTreeMap<String, OpenShard>,
}

impl ShardWriter {
    /// Begins a set without samples in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made or written, or holds an index that cannot be read.
    pub fn create(
        folder: &Path,
        name: &str,
        licence: &str,
        origins: Vec<Origin>,
        limits: Limits,
    ) -> Result<ShardWriter> {
        let wrong = |error| Error::io(folder, error);
        fs::create_dir_all(folder).map_err(wrong)?;
        Index::read(folder)?;
        for entry in fs::read_dir(folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            if path.to_string_lossy().ends_with(UNFINISHED) {
                fs::remove_file(&path).map_err(|error| Error::io(&path, error))?;
            }
        }
        let index = Index { name: name.into(), licence: licence.into(), origins, splits: BTreeMap::new() };
        Ok(ShardWriter { folder: folder.to_owned(), limits, index, open: BTreeMap::new() })
    }

    /// Adds a sample to a split: its members by their extensions, such as `png`, `txt`, `json` or `000.png`.
    ///
    /// # Errors
    /// The key is empty, has a dot or is that of the sample before; the shard cannot be written.
    pub fn add(&mut self, split: &str, key: &str, members: &[(&str, &[u8])]) -> Result<()> {
        let key_is = |what: &str| Error::invalid(format!("{}: the key '{key}' {what}", self.index.name));
        // The reader takes a key to end at the first dot of the name.
        if key.is_empty() || key.contains('.') || key.ends_with('/') {
            return Err(key_is("is empty or has a dot, so that it cannot be read back"));
        }
        if self.open.get(split).is_some_and(|open| open.last == key) {
            return Err(key_is("is that of the sample before too"));
        }
        if !self.open.contains_key(split) {
            let shards = self.index.splits.entry(split.to_owned()).or_default().shards.len();
            let open = OpenShard::create(&self.folder, format!("{split}-{shards:05}.tar"))?;
            self.open.insert(split.to_owned(), open);
        }
        let Some(open) = self.open.get_mut(split) else { return Ok(()) };
        open.add(key, members)?;
        if open.samples >= self.limits.samples || open.tar.get_ref().bytes >= self.limits.bytes {
            self.close(split)?;
        }
        Ok(())
    }

    fn close(&mut self, split: &str) -> Result<()> {
        if let Some(open) = self.open.remove(split) {
            let shard = open.finish()?;
            let split = self.index.splits.entry(split.to_owned()).or_default();
            split.samples += shard.samples;
            split.shards.push(shard);
        }
        Ok(())
    }

    /// Gives the shards their names, removes those of the set that was there before, and writes the index.
    ///
    /// # Errors
    /// There is no sample, or a file cannot be written.
    pub fn finish(mut self) -> Result<Index> {
        for split in self.open.keys().cloned().collect::<Vec<_>>() {
            self.close(&split)?;
        }
        if self.index.splits.is_empty() {
            return Err(Error::invalid(format!("{}: there is no sample to write", self.index.name)));
        }
        let place = |name: &str| self.folder.join(name);
        let before = Index::read(&self.folder)?;
        let text = serde_json::to_vec_pretty(&self.index).map_err(|error| Error::invalid(error.to_string()))?;
        let unfinished = place(&format!("{INDEX}{UNFINISHED}"));
        fs::write(&unfinished, text).map_err(|error| Error::io(&unfinished, error))?;
        if let Some(before) = before {
            let path = place(INDEX);
            fs::remove_file(&path).map_err(|error| Error::io(&path, error))?;
            for shard in before.splits.values().flat_map(|split| &split.shards) {
                // Only names that are in this folder, whatever the index says; one that has gone is no loss.
                if !shard.file.contains('/') {
                    let _ = fs::remove_file(place(&shard.file));
                }
            }
        }
        let shards = self.index.splits.values().flat_map(|split| &split.shards).map(|shard| shard.file.as_str());
        for name in shards.chain([INDEX]) {
            let path = place(name);
            fs::rename(place(&format!("{name}{UNFINISHED}")), &path).map_err(|error| Error::io(&path, error))?;
        }
        Ok(self.index)
    }
}

/// A shard that is being written.
struct OpenShard {
    path: PathBuf,
    name: String,
    tar: tar::Builder<Hashing<BufWriter<File>>>,
    samples: u64,
    /// Key of the newest sample.
    last: String,
}

impl OpenShard {
    fn create(folder: &Path, name: String) -> Result<OpenShard> {
        let path = folder.join(format!("{name}{UNFINISHED}"));
        let file = File::create(&path).map_err(|error| Error::io(&path, error))?;
        let tar = tar::Builder::new(Hashing { inner: BufWriter::new(file), digest: Sha256::default(), bytes: 0 });
        Ok(OpenShard { path, name, tar, samples: 0, last: String::new() })
    }

    fn add(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<()> {
        for (extension, content) in members {
            // No time and no owner: the same samples make the same bytes.
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            let written = self.tar.append_data(&mut header, format!("{key}.{extension}"), *content);
            written.map_err(|error| Error::io(&self.path, error))?;
        }
        self.samples += 1;
        key.clone_into(&mut self.last);
        Ok(())
    }

    fn finish(self) -> Result<Shard> {
        let wrong = |error| Error::io(&self.path, error);
        let mut written = self.tar.into_inner().map_err(wrong)?;
        written.flush().map_err(wrong)?;
        written.inner.get_ref().sync_all().map_err(wrong)?;
        let sha256 = hexadecimal(&written.digest.finalize());
        Ok(Shard { file: self.name, samples: self.samples, bytes: written.bytes, sha256 })
    }
}

/// Counts and digests what is written.
struct Hashing<W> {
    inner: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Data;
    use crate::data::{RawImage, open};
    use crate::test_folder;

    fn writer(folder: &Path, limits: Limits) -> ShardWriter {
        let origin = Origin { name: "package".into(), version: "1.2".into(), checksum: String::new() };
        ShardWriter::create(folder, "set", "MIT", vec![origin], limits).unwrap()
    }

    /// Writes samples `0..count`, every third one to the test split.
    fn write(folder: &Path, count: u32, limits: Limits) -> Index {
        let mut shards = writer(folder, limits);
        for number in 0..count {
            let split = if number % 3 == 0 { "test" } else { "train" };
            let (image, text) = (number.to_le_bytes().repeat(100), format!("picture {number}\n"));
            let members = [("png", &image[..]), ("json", b"{}"), ("txt", text.as_bytes())];
            shards.add(split, &format!("folder/{number}"), &members).unwrap();
        }
        shards.finish().unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = test_folder("shard-writer");
        let index = write(&folder, 11, Limits { samples: 3, ..Limits::default() });
        assert_eq!(index, Index::read(&folder).unwrap().unwrap());
        let shards = ["test-00000.tar", "test-00001.tar", "train-00000.tar", "train-00001.tar", "train-00002.tar"];
        assert_eq!(names(&folder)[1..], shards);
        let counts = |split: &str| index.splits[split].shards.iter().map(|shard| shard.samples).collect::<Vec<_>>();
        assert_eq!((counts("train"), counts("test")), (vec![3, 3, 1], vec![3, 1]));
        for shard in index.splits.values().flat_map(|split| &split.shards) {
            let bytes = fs::read(folder.join(&shard.file)).unwrap();
            assert_eq!((bytes.len() as u64, hexadecimal(&Sha256::digest(&bytes))), (shard.bytes, shard.sha256.clone()));
        }

        let summary = index.summary(&folder);
        let pattern = summary.lines().nth(1).unwrap().split('\'').nth(1).unwrap();
        let source = open(pattern, &Data::default()).unwrap();
        let mut read = Vec::new();
        for part in (0..source.parts()).map(|part| source.part(part).unwrap()) {
            read.extend((0..part.len()).map(|index| part.sample(index).unwrap()));
        }
        let numbers = [1u32, 2, 4, 5, 7, 8, 10];
        assert_eq!(read.len(), numbers.len());
        for (raw, number) in read.iter().zip(numbers) {
            assert!(raw.key.ends_with(&format!(": folder/{number}")), "{}", raw.key);
            assert_eq!(raw.captions, [format!("picture {number}")]);
            assert_eq!(raw.images, [RawImage::Encoded(number.to_le_bytes().repeat(100))]);
        }
    }

    #[test]
    fn a_shard_ends_at_its_limit_of_bytes_and_equal_samples_make_equal_shards() {
        let folders = ["shard-bytes", "shard-bytes-again"].map(test_folder);
        // A sample takes three headers and three blocks of 512 bytes.
        let limits = Limits { bytes: 2 * 6 * 512, ..Limits::default() };
        let [first, second] = folders.each_ref().map(|folder| write(folder, 9, limits));
        assert_eq!(first, second);
        assert!(first.splits["train"].shards.iter().all(|shard| shard.samples == 2 && shard.bytes >= limits.bytes));
    }

    #[test]
    fn a_set_stays_whole_until_the_next_one_is() {
        let folder = test_folder("shard-replace");
        fs::write(folder.join("mine.tar"), "not of the set").unwrap();
        let small = Limits { samples: 2, ..Limits::default() };
        let before = write(&folder, 12, small);
        let there = names(&folder);
        let mut interrupted = writer(&folder, small);
        interrupted.add("train", "a", &[("txt", b"a")]).unwrap();
        drop(interrupted);
        assert_eq!(Index::read(&folder).unwrap().unwrap(), before);
        assert_eq!(names(&folder).iter().filter(|name| !there.contains(name)).count(), 1);
        write(&folder, 3, small);
        assert_eq!(names(&folder), [INDEX, "mine.tar", "test-00000.tar", "train-00000.tar"]);
    }

    #[test]
    fn what_could_not_be_read_back_is_refused() {
        let folder = test_folder("shard-refused");
        let mut shards = writer(&folder, Limits::default());
        shards.add("train", "a", &[("txt", b"a")]).unwrap();
        for key in ["", "a.b", "a/", "a"] {
            let error = shards.add("train", key, &[("txt", b"a")]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("set: the key '{key}' is")), "{error}");
        }
        assert!(writer(&folder, Limits::default()).finish().unwrap_err().to_string().contains("no sample"));
        fs::write(folder.join(INDEX), "{").unwrap();
        let error = ShardWriter::create(&folder, "set", "MIT", Vec::new(), Limits::default()).err().unwrap();
        assert!(error.to_string().contains("remove the file, or name another folder"), "{error}");
    }
}
