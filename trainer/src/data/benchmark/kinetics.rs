//! Kinetics: a table `label,youtube_id,time_start,time_end,split`, and a video `ID_START_END.mp4` for each row that could be had.

use crate::config::Data;
use crate::data::clips::{Clip, ClipSource, clips_below};
use crate::data::tools::Tools;
use crate::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// The columns that are read; others may stand beside them.
const COLUMNS: [&str; 5] = ["label", "youtube_id", "time_start", "time_end", "split"];

/// The clips of the rows, or of those whose split is one of `data.split`, joined by `+`. A video is found by its name, with any
/// ending, anywhere below `folder`; a row without one is a faulty sample. The caption of a clip is its label.
///
/// # Errors
/// The file cannot be read, lacks a column, a row has a time that is no number of seconds or too few fields (the text names the
/// line), no row is of one of the splits, or no video is there.
pub fn open(name: &str, path: &Path, folder: &Path, options: &Data, tools: &Tools) -> Result<ClipSource> {
    let wrong = |line: u64, what: &str| Error::invalid(format!("{}:{line}: {what}", path.display()));
    let of_csv = |error: csv::Error| Error::invalid(format!("{}: {error}", path.display()));
    let mut table = csv::ReaderBuilder::new().flexible(true).from_path(path).map_err(of_csv)?;
    let header = table.headers().map_err(of_csv)?.clone();
    let place = |column: &&str| {
        let found = header.iter().position(|name| name.trim_start_matches('\u{feff}').trim() == *column);
        let has = header.iter().collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| wrong(1, &format!("no column '{column}' in the header [{has}]")))
    };
    let places = COLUMNS.iter().map(place).collect::<Result<Vec<usize>>>()?;
    let videos: HashMap<String, PathBuf> = clips_below(folder)?.into_iter().map(|path| (stem(&path), path)).collect();
    let wanted: BTreeSet<&str> = options.split.split('+').filter(|split| !split.is_empty()).collect();
    let (mut clips, mut there) = (Vec::new(), BTreeSet::new());
    for row in table.records() {
        let row = row.map_err(of_csv)?;
        let line = row.position().map_or(0, csv::Position::line);
        let field = |column: usize| match row.get(places[column]).map(str::trim) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(wrong(line, &format!("the field '{}' is missing", COLUMNS[column]))),
        };
        let seconds = |column: usize| {
            let value = field(column)?;
            let number = value.parse::<f64>().ok().filter(|seconds| (0.0..1e6).contains(seconds));
            let name = COLUMNS[column];
            number.ok_or_else(|| wrong(line, &format!("the field '{name}' is no number of seconds but '{value}'")))
        };
        let (label, id, split) = (field(0)?, field(1)?, field(4)?);
        let key = format!("{id}_{:06}_{:06}", seconds(2)? as u64, seconds(3)? as u64);
        there.insert(split.to_owned());
        if wanted.is_empty() || wanted.contains(split) {
            let path = videos.get(&key).cloned().unwrap_or_else(|| folder.join(format!("{key}.mp4")));
            clips.push(Clip { key, path, captions: Some(vec![label.to_owned()]), class: Some(label.to_owned()) });
        }
    }
    if let Some(missing) = wanted.iter().find(|split| !there.contains(**split)) {
        let there: Vec<&str> = there.iter().map(String::as_str).collect();
        let (path, there) = (path.display(), there.join(", "));
        return Err(Error::invalid(format!("{path}: no row is of split '{missing}'; there are {there}")));
    }
    if clips.is_empty() {
        return Err(wrong(1, "no rows under the header"));
    }
    ClipSource::new(name, folder, clips, false, options, tools)
}

/// A file's name without its ending.
pub fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}
