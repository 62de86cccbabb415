//! Compiled kernels on disk. An entry holds everything it was made from, so that a lookup never gives something else, and
//! a checksum, so that a damaged entry is made again.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// First bytes of an entry; the number is the version of its layout.
const MAGIC: &[u8; 8] = b"cocakrn1";

/// A folder of entries.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

/// One entry: the key in full, then what was made from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub ptx: Vec<u8>,
    pub cubin: Vec<u8>,
    pub log: Vec<u8>,
}

impl Cache {
    /// A cache in `folder`, which is made when the first entry is stored.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: folder.into() }
    }

    /// The user's cache: `COCA_CACHE`, else `coca` in `XDG_CACHE_HOME` or in `~/.cache`; `None` without a home.
    pub fn of_user() -> Option<Cache> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("COCA_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("coca")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".cache/coca")))?;
        Some(Cache::new(folder.join("kernels")))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was stored under a key; `None` if nothing was, or if it is damaged.
    pub fn get(&self, key: &str) -> Option<Entry> {
        let bytes = fs::read(self.file(key)).ok()?;
        let (body, checksum) = bytes.split_last_chunk::<8>()?;
        if hash(body) != u64::from_le_bytes(*checksum) {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC)?;
        let mut part = || -> Option<Vec<u8>> {
            let (length, after) = rest.split_first_chunk::<8>()?;
            let (part, after) = after.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
            rest = after;
            Some(part.to_vec())
        };
        if part()? != key.as_bytes() {
            return None;
        }
        Some(Entry { ptx: part()?, cubin: part()?, log: part()? })
    }

    /// Stores an entry: written beside its place and renamed, so that readers see all of it or nothing.
    pub fn put(&self, key: &str, entry: &Entry) -> std::io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        for part in [key.as_bytes(), &entry.ptx, &entry.cubin, &entry.log] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        bytes.extend(hash(&bytes).to_le_bytes());
        fs::create_dir_all(&self.folder)?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let temporary = self.folder.join(unique);
        let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, self.file(key)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn file(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{:016x}.kernels", hash(key.as_bytes())))
    }
}

/// FNV-1a over 64 bits (Fowler, Noll, Vo).
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf29ce484222325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(name: &str) -> Cache {
        let folder = env::temp_dir().join(format!("coca-cache-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        Cache::new(folder)
    }

    fn entry(byte: u8) -> Entry {
        Entry { ptx: vec![byte; 100], cubin: vec![byte; 33], log: b"log".to_vec() }
    }

    #[test]
    fn entries_are_found_by_their_whole_key() {
        let cache = cache("found");
        assert_eq!(cache.get("a"), None);
        cache.put("a", &entry(1)).unwrap();
        cache.put("b", &entry(2)).unwrap();
        assert_eq!((cache.get("a"), cache.get("b")), (Some(entry(1)), Some(entry(2))));
        // Another key that comes to the same file, as two keys of one hash would.
        fs::rename(cache.file("b"), cache.file("a")).unwrap();
        assert_eq!(cache.get("a"), None);
        fs::remove_dir_all(cache.folder()).unwrap();
    }

    #[test]
    fn damaged_entries_are_not_there_and_can_be_stored_again() {
        let cache = cache("damaged");
        cache.put("a", &entry(1)).unwrap();
        let whole = fs::read(cache.file("a")).unwrap();
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x10;
            fs::write(cache.file("a"), &damaged).unwrap();
            assert_eq!(cache.get("a"), None, "byte {position}");
            fs::write(cache.file("a"), &whole[..position]).unwrap();
            assert_eq!(cache.get("a"), None, "cut at {position}");
        }
        cache.put("a", &entry(3)).unwrap();
        assert_eq!(cache.get("a"), Some(entry(3)));
        let files = fs::read_dir(cache.folder()).unwrap().count();
        assert_eq!(files, 1, "no temporary file is left");
        fs::remove_dir_all(cache.folder()).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let file = env::temp_dir().join(format!("coca-cache-file-{}", std::process::id()));
        fs::write(&file, "").unwrap();
        assert!(Cache::new(&file).put("a", &entry(1)).is_err());
        fs::remove_file(&file).unwrap();
    }
}
