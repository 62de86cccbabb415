//! MSR-VTT: `videos` with their splits and `sentences` about them, as in `videodatainfo.json`.

use super::kinetics::stem;
use super::record::{Place, Record, list, read_json};
use crate::config::Data;
use crate::data::clips::{Clip, ClipSource, clips_below};
use crate::data::tools::Tools;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct File {
    videos: Option<Vec<Video>>,
    sentences: Option<Vec<Sentence>>,
}

#[derive(Deserialize)]
struct Video {
    video_id: Option<Value>,
    split: Option<Value>,
}

#[derive(Deserialize)]
struct Sentence {
    video_id: Option<Value>,
    caption: Option<Value>,
}

/// The videos of the splits, which are joined by `+`, with their sentences. A video is found by its id, with any ending,
/// anywhere below `folder`.
///
/// # Errors
/// The file cannot be read, a record lacks a field or names no video, no video is in one of the splits, or none is there.
pub fn open(name: &str, path: &Path, folder: &Path, splits: &str, options: &Data, tools: &Tools) -> Result<ClipSource> {
    let file: File = read_json(path)?;
    let wanted: BTreeSet<&str> = splits.split('+').collect();
    let found: HashMap<String, PathBuf> = clips_below(folder)?.into_iter().map(|path| (stem(&path), path)).collect();
    let (mut clips, mut there) = (Vec::new(), BTreeSet::new());
    // Of every video its place in `clips`; none if its split is not wanted.
    let mut places: HashMap<&str, Option<usize>> = HashMap::new();
    let meant = "a file of MSR-VTT has 'videos' with a 'split' and 'sentences'";
    for (index, video) in list(path, "videos", &file.videos, meant)?.iter().enumerate() {
        let record = Record { path, place: Place::Item("videos", index) };
        let (id, split) = (record.text("video_id", &video.video_id)?, record.text("split", &video.split)?);
        there.insert(split);
        let place = wanted.contains(split).then_some(clips.len());
        if places.insert(id, place).is_some() {
            return Err(record.wrong("video_id", "is the id of a video before it"));
        }
        if place.is_some() {
            let path = found.get(id).cloned().unwrap_or_else(|| folder.join(format!("{id}.mp4")));
            clips.push(Clip { key: id.to_owned(), path, captions: Some(Vec::new()), class: None });
        }
    }
    for (index, sentence) in list(path, "sentences", &file.sentences, meant)?.iter().enumerate() {
        let record = Record { path, place: Place::Item("sentences", index) };
        let (id, caption) = (record.text("video_id", &sentence.video_id)?, record.text("caption", &sentence.caption)?);
        let place = places.get(id).ok_or_else(|| record.wrong("video_id", &format!("is {id}, the id of no video")))?;
        if let Some(clip) = place.and_then(|place| clips.get_mut(place)) {
            clip.captions.get_or_insert_default().push(caption.to_owned());
        }
    }
    if let Some(missing) = wanted.difference(&there).next() {
        let there: Vec<&str> = there.iter().copied().collect();
        let (path, there) = (path.display(), there.join(", "));
        return Err(Error::invalid(format!("{path}: no video is in split '{missing}'; there are {there}")));
    }
    ClipSource::new(name, folder, clips, true, options, tools)
}
