//! Clips in a folder: folders of frames, animations and videos, at any depth; those below a folder of their own are of the
//! class that it is named for, as in Kinetics' `CLASS/CLIP`.

use super::{Clip, ClipSource, STILLS, VIDEOS, is_animation, is_still, is_video};
use crate::config::Data;
use crate::data::tools::Tools;
use crate::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// Paths of the clips below a folder, at any depth, in order. A folder below it that holds a `.png` or `.jpg` is a clip, with
/// everything in it.
///
/// # Errors
/// A folder cannot be read.
pub fn clips_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut clips = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let (mut below, mut files) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&folder).map_err(|error| Error::io(&folder, error))? {
            let entry = entry.map_err(|error| Error::io(&folder, error))?;
            // A link to a folder is not followed: it may lead in a circle.
            let kind = entry.file_type().map_err(|error| Error::io(entry.path(), error))?;
            if kind.is_dir() { below.push(entry.path()) } else { files.push(entry.path()) }
        }
        if folder != root && files.iter().any(|file| is_still(file)) {
            clips.push(folder);
            continue;
        }
        folders.extend(below);
        clips.extend(files.into_iter().filter(|file| is_animation(file) || is_video(file)));
    }
    clips.sort();
    Ok(clips)
}

/// The clips of a folder.
///
/// # Errors
/// It cannot be read, there is no clip, or as [`ClipSource::new`].
pub fn open_folder(root: &Path, options: &Data, tools: &Tools) -> Result<ClipSource> {
    let name = root.display().to_string();
    let clip = |path: PathBuf| {
        let below = path.strip_prefix(root).unwrap_or(&path);
        let class = match below.components().collect::<Vec<_>>()[..] {
            [Component::Normal(first), _, ..] => Some(first.to_string_lossy().into_owned()),
            _ => None,
        };
        Clip { key: below.display().to_string(), class, captions: None, path }
    };
    let clips: Vec<Clip> = clips_below(root)?.into_iter().map(clip).collect();
    if clips.is_empty() {
        let (stills, videos) = (STILLS.join(", ."), VIDEOS.join(", ."));
        return Err(Error::invalid(format!(
            "{name}: no clip: a folder of frames (.{stills}) for each, or files .webp, .gif, .{videos}"
        )));
    }
    ClipSource::new(&name, root, clips, false, options, tools)
}
