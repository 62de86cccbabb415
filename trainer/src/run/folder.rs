//! The folder of a run: its files, what an earlier run left there, and the checkpoint from which it goes on.

use crate::checkpoint::{Checkpoint, Checkpoints, MANIFEST};
use crate::config::Config;
use crate::{Error, Result, aside, data};
use std::path::{Path, PathBuf};

/// Name of the folder with the trained model in a run folder.
pub const MODEL_FOLDER: &str = "model";
/// Name of the folder with the checkpoints in a run folder.
pub const CHECKPOINT_FOLDER: &str = "checkpoints";
/// Name of the metrics file in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Name of the resolved configuration in a run folder and in a checkpoint.
pub(super) const CONFIG_FILE: &str = "config.toml";
/// Name of the folder with TensorBoard's event files in a run folder.
pub(super) const EVENT_FOLDER: &str = "tensorboard";
/// The table, the lines and the trace of a profile in a run folder.
pub(super) const PROFILE_FILES: [&str; 3] = ["profile.txt", "profile.jsonl", "trace.json"];
/// All that a run writes, checkpoints first: without them nothing of it is resumed.
const RUN_FILES: [&str; 11] = [
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    EVENT_FOLDER,
    data::LEDGER,
    MODEL_FOLDER,
    "report.html",
    "report.json",
    PROFILE_FILES[0],
    PROFILE_FILES[1],
    PROFILE_FILES[2],
    CONFIG_FILE,
];

/// Moves what an earlier run left in a folder into a new subfolder, which is returned, so that a run that starts anew
/// neither loses nor resumes nor mixes with it.
pub(super) fn set_aside(folder: &Path) -> Result<Option<PathBuf>> {
    let left = |name: &&str| match *name {
        // Taking the lock makes the folder.
        CHECKPOINT_FOLDER => std::fs::read_dir(folder.join(name)).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| !entry.file_name().to_string_lossy().starts_with('.')))
        }),
        _ => folder.join(name).exists(),
    };
    let left: Vec<&str> = RUN_FILES.into_iter().filter(left).collect();
    if left.is_empty() {
        return Ok(None);
    }
    let place = aside::place(|number| folder.join(format!("previous-{number}")));
    std::fs::create_dir(&place).map_err(|error| Error::io(&place, error))?;
    for name in left {
        let path = folder.join(name);
        std::fs::rename(&path, place.join(name)).map_err(|error| Error::io(&path, error))?;
    }
    Ok(Some(place))
}

/// The checkpoint that a folder is, or the newest whole one of a run folder or of its folder of checkpoints.
pub(super) fn find_checkpoint(folder: &Path, mut passed_over: impl FnMut(&str)) -> Result<Checkpoint> {
    std::fs::metadata(folder).map_err(|error| Error::io(folder, error))?;
    if folder.join(MANIFEST).exists() {
        return Checkpoint::open(folder);
    }
    for root in [&folder.join(CHECKPOINT_FOLDER), folder] {
        if let Some(found) = Checkpoints::latest(root, &mut passed_over)? {
            return Ok(found);
        }
    }
    Err(Error::invalid(format!("{}: neither a checkpoint ({MANIFEST}) nor a run with a whole one", folder.display())))
}

/// The newest whole checkpoint in a run's folder of them; none if there are none at all.
///
/// # Errors
/// The folder cannot be read, or there are checkpoints and none is whole: to start anew would be to lose them.
pub(super) fn newest(root: &Path, mut passed_over: impl FnMut(&str)) -> Result<Option<Checkpoint>> {
    let mut damaged = 0;
    let found = Checkpoints::latest(root, |text| {
        damaged += 1;
        passed_over(text);
    })?;
    if found.is_none() && damaged > 0 {
        return Err(Error::invalid(format!(
            "{}: none of the {damaged} checkpoints is whole; --resume none sets them aside with their run and starts anew",
            root.display()
        )));
    }
    Ok(found)
}

/// Refuses to go on in a run's folder with the configuration of another run.
///
/// # Errors
/// A key differs that may not; the text names all of them.
pub(super) fn refuse_another(config: &Config, checkpoint: &Checkpoint) -> Result<()> {
    let folder = &config.run.out;
    let text = match checkpoint.files().any(|(name, _)| name == CONFIG_FILE) {
        true => checkpoint.read(CONFIG_FILE)?,
        // Written before checkpoints had the file.
        false => match std::fs::read(folder.join(CONFIG_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(folder.join(CONFIG_FILE), error)),
        },
    };
    let saved = toml::from_str(&String::from_utf8_lossy(&text)).map_err(|error| {
        Error::invalid(format!("{}: {CONFIG_FILE}: {}", checkpoint.folder().display(), error.message()))
    })?;
    let changes = config.changes_since(&saved);
    if changes.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{}: the run there has another configuration ({}): choose another folder with --out, where --resume {} goes on from \
         its checkpoint, or start anew with --resume none",
        folder.display(),
        changes.join(", "),
        checkpoint.folder().display()
    )))
}
