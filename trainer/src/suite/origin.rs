//! What figures were made from, in a file beside them: they stand for a model only if the same command made them of the same
//! weights.

use super::figures_of;
use super::plan::Measurement;
use crate::model_folder::{TOKENIZER_FILE, find};
use crate::{Error, Result, aside, checksum};
use model::weights::{CONFIG_FILE, PYTORCH_FILE, SAFETENSORS_FILE, write_atomically};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What figures are made from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The command, with the folder of the model and the steps of a training, but without where its figures go.
    words: Vec<String>,
    /// The files of the model and their CRC-32.
    model: Vec<(String, u32)>,
}

/// The files of models and their CRC-32, read once each.
#[derive(Debug, Default)]
pub struct Models(RefCell<HashMap<PathBuf, Vec<(String, u32)>>>);

impl Models {
    /// Has all of them read again: a training has written some.
    pub fn forget(&self) {
        self.0.borrow_mut().clear();
    }

    fn of(&self, folder: &Path) -> Result<Vec<(String, u32)>> {
        if let Some(known) = self.0.borrow().get(folder) {
            return Ok(known.clone());
        }
        let files = [CONFIG_FILE, SAFETENSORS_FILE, PYTORCH_FILE, TOKENIZER_FILE];
        let there = files.into_iter().map(|name| (name, folder.join(name))).filter(|(_, path)| path.exists());
        let sum = |(name, path): (&str, PathBuf)| {
            let (_, sum) = checksum::of_file(&path).map_err(|error| Error::io(&path, error))?;
            Ok((name.to_owned(), sum))
        };
        let sums = there.map(sum).collect::<Result<Vec<_>>>()?;
        self.0.borrow_mut().insert(folder.to_owned(), sums.clone());
        Ok(sums)
    }
}

impl Origin {
    /// Of a measurement, as its model is now.
    ///
    /// # Errors
    /// The model is not there or cannot be read.
    pub fn of(measurement: &Measurement, models: &Models) -> Result<Origin> {
        Ok(Origin { words: measurement.words.clone(), model: models.of(&find(&measurement.model)?)? })
    }

    /// Whether what is there of a measurement is of this origin.
    pub fn is_kept(&self, measurement: &Measurement, out: &Path) -> bool {
        let kept = std::fs::read(place(measurement, out)).ok();
        kept.and_then(|kept| serde_json::from_slice(&kept).ok()).is_some_and(|kept: Origin| kept == *self)
    }

    /// Leaves only what is of this origin: figures of another one go, its run is moved away. A training that is stopped from
    /// here on goes on where it was, which is why this is written before it.
    ///
    /// # Errors
    /// A file or folder cannot be written.
    pub fn settle(&self, measurement: &Measurement, out: &Path) -> Result<()> {
        if self.is_kept(measurement, out) {
            return Ok(());
        }
        match measurement.trains {
            // Not by `--resume none`: ended before that has moved the checkpoints, the next call would take them for its own.
            true => set_aside(&out.join(&measurement.stem))?,
            false => remove(&figures_of(measurement, out))?,
        }
        let place = place(measurement, out);
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
        }
        write_atomically(&place, |file| serde_json::to_writer_pretty(file, self).map_err(std::io::Error::from))?;
        Ok(())
    }
}

/// Has a measurement made again.
///
/// # Errors
/// A file cannot be removed.
pub fn forget(measurement: &Measurement, out: &Path) -> Result<()> {
    remove(&place(measurement, out))
}

fn place(measurement: &Measurement, out: &Path) -> PathBuf {
    out.join(format!("{}.origin.json", measurement.stem))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

/// Gives the folder of a run another name, if it is there.
fn set_aside(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let name = |number: u64| {
        let mut name = folder.as_os_str().to_owned();
        name.push(format!("-previous-{number}"));
        PathBuf::from(name)
    };
    let place = aside::place(name);
    std::fs::rename(folder, &place).map_err(|error| Error::io(folder, error))?;
    eprintln!("the run that was in {} is now in {}", folder.display(), place.display());
    Ok(())
}
