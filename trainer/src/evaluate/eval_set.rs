//! The sets that `coca eval` or `coca probe` was asked for, read a batch at a time: of what is read, features are kept, never pixels.

use crate::Result;
use crate::cli::EvalArgs;
use crate::config::Data;
use crate::data::emoji::{EmojiSet, Split};
use crate::data::source::{EmojiSource, no_clips};
use crate::data::{self, Labelled, Ledger, Sample, Source, read_batches};
use model::config::CocaConfig;
use std::sync::Arc;

/// A set to measure a model on.
#[derive(Debug)]
pub struct EvalSet {
    /// What the tables call it.
    pub name: String,
    /// Where it is read from.
    pub source: Arc<dyn Source>,
    /// How.
    pub data: Data,
    /// The bundled set and the split of it that this is, if it is one.
    pub bundled: Option<(Arc<EmojiSet>, Split)>,
    ledger: Ledger,
}

impl EvalSet {
    /// All the sets of `coca eval`.
    ///
    /// # Errors
    /// As [`EvalSet::open`], or the arguments say how to read more sets than there are.
    pub fn open_all(args: &EvalArgs) -> Result<Vec<EvalSet>> {
        let set = |(index, name): (usize, &String)| Ok((name.clone(), args.data_config(index)?));
        EvalSet::open(&args.data.iter().enumerate().map(set).collect::<Result<Vec<_>>>()?)
    }

    /// Sets of these names, read so. `emoji` alone is everything in the bundle.
    ///
    /// # Errors
    /// Data cannot be opened, or holds pictures where clips are asked for.
    pub fn open(sets: &[(String, Data)]) -> Result<Vec<EvalSet>> {
        let bundled = |name: &str| name == "emoji" || name.starts_with("emoji:");
        let bundle =
            if sets.iter().any(|(name, _)| bundled(name)) { Some(Arc::new(EmojiSet::bundled()?)) } else { None };
        let open = |(name, data): &(String, Data)| {
            let data = data.clone();
            if bundled(name) && data.frames > 0 {
                return Err(no_clips(name));
            }
            if let Some(set) = bundle.as_ref().filter(|_| bundled(name)) {
                let split = name.strip_prefix("emoji:").map_or(Ok(Split::All), Split::parse)?;
                let source = Arc::new(EmojiSource::new(set.clone(), split));
                let bundled = Some((set.clone(), split));
                return Ok(EvalSet { name: name.clone(), bundled, ..EvalSet::of(source, data) });
            }
            Ok(EvalSet { name: name.clone(), ..EvalSet::of(data::open(name, &data)?, data) })
        };
        sets.iter().map(open).collect()
    }

    /// A source that is open.
    pub fn of(source: Arc<dyn Source>, data: Data) -> EvalSet {
        let ledger = Ledger::new(data.max_bad_share);
        EvalSet { name: source.name(), source, data, bundled: None, ledger }
    }

    /// Hands the sound samples to `each`, `size` at a time, preprocessed for a model.
    ///
    /// # Errors
    /// As [`read_batches`].
    pub fn read(
        &mut self,
        model: &CocaConfig,
        size: usize,
        each: impl FnMut(Vec<Labelled>) -> Result<()>,
    ) -> Result<()> {
        read_batches(self.source.as_ref(), model, &self.data, &mut self.ledger, size, each)
    }

    /// How many samples were skipped, by kind of fault.
    pub fn skipped(&self) -> serde_json::Value {
        serde_json::json!(self.ledger.counts())
    }

    /// The same in words; empty if there is none.
    pub fn skipped_text(&self) -> String {
        let (bad, seen) = (self.ledger.faults(), self.ledger.seen());
        match bad {
            0 => String::new(),
            _ => format!("{}: skipped {bad} of {seen} samples: {}\n", self.name, self.ledger.summary()),
        }
    }
}

/// The images of samples, u8 `[samples, images, size, size, 3]`.
pub fn pixels(samples: &[Sample]) -> Vec<u8> {
    samples.iter().flat_map(|sample| &sample.image).copied().collect()
}
