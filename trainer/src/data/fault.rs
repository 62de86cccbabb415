//! What can be wrong with a sample, and the ledger of what was: faults are skipped, counted by kind, written to a file
//! of JSON lines, and become an error once their share passes a limit.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;

/// Name of the ledger in a run folder.
pub const LEDGER: &str = "faults.jsonl";
/// The share of faulty samples is judged once this many would be allowed, so that two early ones stop no run.
const JUDGED_FROM: f64 = 10.0;

/// Kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A file that a table or pattern names cannot be opened.
    MissingFile,
    /// A sample of a shard without an image.
    MissingImage,
    /// A sample with fewer or more images than its source's samples have.
    WrongImageCount,
    /// A sample without a caption file or field.
    MissingCaption,
    /// The image cannot be decoded.
    CorruptImage,
    /// An image of more pixels, or a file of more bytes, than allowed; refused before memory is taken.
    Oversized,
    /// The caption has no letters.
    EmptyCaption,
    /// The caption is not UTF-8.
    BadUtf8,
    /// A shard ends in the middle or is no tar; what follows the place is lost and counts once.
    BrokenArchive,
    /// A line of a table lacks a column.
    BadRow,
    /// A sample that is to be classified has no class.
    MissingLabel,
}

impl FaultKind {
    /// The word that stands for it in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::MissingFile => "missing_file",
            FaultKind::MissingImage => "missing_image",
            FaultKind::WrongImageCount => "wrong_image_count",
            FaultKind::MissingCaption => "missing_caption",
            FaultKind::CorruptImage => "corrupt_image",
            FaultKind::Oversized => "oversized",
            FaultKind::EmptyCaption => "empty_caption",
            FaultKind::BadUtf8 => "bad_utf8",
            FaultKind::BrokenArchive => "broken_archive",
            FaultKind::BadRow => "bad_row",
            FaultKind::MissingLabel => "missing_label",
        }
    }
}

/// One faulty sample. A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// Key or file of the sample.
    pub key: String,
    /// What exactly.
    pub detail: String,
}

impl Fault {
    /// A fault of one sample.
    pub fn new(kind: FaultKind, key: impl Into<String>, detail: impl ToString) -> Fault {
        Fault { kind, key: key.into(), detail: detail.to_string() }
    }
}

/// What `make` makes of the sample `key`, whose image is corrupt if a decoder panics over it.
pub(super) fn guarded<T>(
    key: &str,
    make: impl FnOnce() -> std::result::Result<T, Fault>,
) -> std::result::Result<T, Fault> {
    std::panic::catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Fault::new(FaultKind::CorruptImage, key, format!("a decoder panicked: {text}")))
    })
}

/// Counts faults and writes each distinct one to a file once.
#[derive(Debug)]
pub struct Ledger {
    file: Option<(std::fs::File, String)>,
    written: HashSet<Fault>,
    counts: BTreeMap<FaultKind, u64>,
    good: u64,
    limit: f64,
}

impl Ledger {
    /// A ledger that errs once more than this share of the samples is faulty, without a file.
    pub fn new(limit: f64) -> Ledger {
        Ledger { file: None, written: HashSet::new(), counts: BTreeMap::new(), good: 0, limit }
    }

    /// As [`Ledger::new`], appending to [`LEDGER`] in a folder; what stands there already is not written again.
    ///
    /// # Errors
    /// The file cannot be read or opened.
    pub fn in_folder(folder: &Path, limit: f64) -> Result<Ledger> {
        let path = folder.join(LEDGER);
        let wrong = |error| Error::io(&path, error);
        let mut file = std::fs::File::options().create(true).append(true).read(true).open(&path).map_err(wrong)?;
        let old = std::fs::read(&path).map_err(wrong)?;
        if old.last().is_some_and(|&last| last != b'\n') {
            // A process that was killed in the middle of a line.
            file.write_all(b"\n").map_err(wrong)?;
        }
        let written = old.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Ok(Ledger { file: Some((file, path.display().to_string())), written, ..Ledger::new(limit) })
    }

    /// Counts a sample that is sound.
    pub fn good(&mut self) {
        self.good += 1;
    }

    /// Counts a fault and writes it down.
    ///
    /// # Errors
    /// The file cannot be written, or too large a share is faulty.
    pub fn bad(&mut self, fault: Fault) -> Result<()> {
        *self.counts.entry(fault.kind).or_default() += 1;
        let key = fault.key.clone();
        if let Some((file, path)) = &mut self.file
            && !self.written.contains(&fault)
        {
            let line = serde_json::to_string(&fault).map_err(|error| Error::invalid(error.to_string()))?;
            writeln!(file, "{line}").map_err(|error| Error::io(&*path, error))?;
            self.written.insert(fault);
        }
        let judged = self.limit == 0.0 || (self.seen() as f64) * self.limit >= JUDGED_FROM;
        if judged {
            self.judge().map_err(|error| Error::invalid(format!("{error}; the last one: {key}")))
        } else {
            Ok(())
        }
    }

    /// Judges the share whatever the count; for the end of an epoch.
    ///
    /// # Errors
    /// Too large a share is faulty, or nothing is sound.
    pub fn judge(&self) -> Result<()> {
        let (bad, seen) = (self.faults(), self.seen());
        if bad == 0 || (self.good > 0 && bad as f64 <= self.limit * seen as f64) {
            return Ok(());
        }
        let place = self.file.as_ref().map_or(String::new(), |(_, path)| format!(", listed in {path}"));
        Err(Error::invalid(format!(
            "{bad} of {seen} samples are faulty ({}){place}; data.max_bad_share allows {}",
            self.summary(),
            self.limit
        )))
    }

    /// Faults by kind in words: `2 corrupt_image, 1 oversized`.
    pub fn summary(&self) -> String {
        in_words(&self.counts)
    }

    /// As [`Ledger::summary`], of the distinct faults in the file, those of earlier processes included; empty without.
    pub fn file_summary(&self) -> String {
        let mut counts = BTreeMap::new();
        self.written.iter().for_each(|fault| *counts.entry(fault.kind).or_default() += 1);
        in_words(&counts)
    }

    /// Faults by kind.
    pub fn counts(&self) -> &BTreeMap<FaultKind, u64> {
        &self.counts
    }

    /// All faults.
    pub fn faults(&self) -> u64 {
        self.counts.values().sum()
    }

    /// All samples, sound or not.
    pub fn seen(&self) -> u64 {
        self.good + self.faults()
    }
}

fn in_words(counts: &BTreeMap<FaultKind, u64>) -> String {
    let kinds: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
    kinds.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_folder;

    fn fault(key: u32) -> Fault {
        Fault::new(FaultKind::BadUtf8, key.to_string(), "x")
    }

    #[test]
    fn a_share_past_the_limit_is_an_error_but_not_at_once() {
        let mut ledger = Ledger::new(0.1);
        (0..5).for_each(|key| ledger.bad(fault(key)).unwrap());
        assert!(ledger.judge().is_err(), "all of five");
        (0..90).for_each(|_| ledger.good());
        ledger.judge().unwrap();
        (0..5).for_each(|key| ledger.bad(fault(key)).unwrap());
        let text = ledger.bad(fault(77)).unwrap_err().to_string();
        assert!(text.contains("11 of 101") && text.contains("11 bad_utf8") && text.ends_with("77"), "{text}");
        assert!(Ledger::new(0.0).bad(fault(0)).is_err());
    }

    #[test]
    fn the_file_has_each_fault_once_also_after_a_restart() {
        let folder = test_folder("ledger");
        for _ in 0..2 {
            let mut ledger = Ledger::in_folder(&folder, 1.0).unwrap();
            [1, 2, 1].into_iter().for_each(|key| ledger.bad(fault(key)).unwrap());
            assert_eq!((ledger.summary(), ledger.file_summary()), ("3 bad_utf8".into(), "2 bad_utf8".into()));
        }
        assert_eq!(Ledger::in_folder(&folder, 1.0).unwrap().file_summary(), "2 bad_utf8");
        let text = std::fs::read_to_string(folder.join(LEDGER)).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(text.lines().next().unwrap(), r#"{"kind":"bad_utf8","key":"1","detail":"x"}"#);
    }
}
