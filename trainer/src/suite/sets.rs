//! The larger sets that are there, as `coca data fetch` and `coca data make` left them.

use crate::Result;
use crate::data::shard_writer::Index;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The sets that the suite uses, and the command that makes each.
const KNOWN: [(&str, &str); 6] = [
    ("fashion-mnist", "data fetch fashion-mnist"),
    ("tuxstamps", "data fetch tuxstamps"),
    ("openclipart", "data fetch openclipart"),
    ("icons", "data fetch icons"),
    ("animated-emoji", "data fetch animated-emoji"),
    ("scenes", "data make scenes"),
];

/// A folder with a folder for each set.
#[derive(Debug)]
pub struct Sets {
    folder: PathBuf,
    found: BTreeMap<&'static str, Index>,
}

impl Sets {
    /// Looks into a folder, which need not be there.
    ///
    /// # Errors
    /// The index of a set cannot be read.
    pub fn open(folder: &Path) -> Result<Sets> {
        let mut found = BTreeMap::new();
        for (name, _) in KNOWN {
            if let Some(index) = Index::read(&folder.join(name))? {
                found.insert(name, index);
            }
        }
        Ok(Sets { folder: folder.to_owned(), found })
    }

    /// The shards of a split, as `--data` takes them; none if set or split is not there.
    pub fn shards(&self, set: &str, split: &str) -> Option<String> {
        self.found.get(set)?.pattern(&self.folder.join(set), split)
    }

    /// The command that makes a set here.
    pub fn command(&self, set: &str) -> String {
        let command = KNOWN.iter().find(|(name, _)| *name == set).map_or("data fetch", |(_, command)| command);
        format!("coca {command} --out {}", self.folder.join(set).display())
    }
}
