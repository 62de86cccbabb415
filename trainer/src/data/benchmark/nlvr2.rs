//! NLVR2 (`dev.json`, a record a line): statements that are true or false of two photographs together.

use super::annotated::{Annotated, AnnotatedSource, Folders, layout};
use super::record::{Place, Record, read_json_lines};
use crate::Result;
use crate::data::Labels;
use crate::data::source::TextKind;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

#[derive(Deserialize)]
struct Line {
    identifier: Option<Value>,
    sentence: Option<Value>,
    label: Option<Value>,
    /// The folder of a training pair.
    directory: Option<Value>,
}

/// A statement about two images.
struct Stated {
    /// `SPLIT-SET-PAIR-SENTENCE`.
    id: String,
    /// The folder of its images below that of its split; empty: none.
    directory: String,
    text: String,
    truth: bool,
}

impl Stated {
    /// Name of the left (0) or the right (1) image.
    fn file(&self, side: usize) -> String {
        let pair = self.id.rsplit_once('-').map_or("", |(pair, _)| pair);
        format!("{pair}-img{side}.png")
    }

    /// The part of the set.
    fn split(&self) -> &str {
        self.id.split_once('-').map_or("", |(split, _)| split)
    }
}

/// The statements of a file. Their images lie in `folder` itself, or as in the official archive in folders below it:
/// `SPLIT/DIRECTORY`, with or without either.
///
/// # Errors
/// The file cannot be read, or a line lacks a field or has an unknown label.
pub fn open(name: &str, path: &Path, folder: &Path) -> Result<AnnotatedSource> {
    let stated = read_json_lines(path)?.into_iter().map(|(number, line)| statement(path, number, &line));
    let stated = stated.collect::<Result<Vec<Stated>>>()?;
    let ways: [Folders<'_, Stated>; 4] = [
        &|_| folder.to_path_buf(),
        &|stated| folder.join(&stated.directory),
        &|stated| folder.join(stated.split()),
        &|stated| folder.join(stated.split()).join(&stated.directory),
    ];
    let way = layout(&stated, &ways, |stated| stated.file(0));
    let sample = |stated: Stated| {
        let below = way(&stated);
        let label = if stated.truth { "true" } else { "false" };
        Annotated {
            images: [0, 1].map(|side| below.join(stated.file(side))).into(),
            key: stated.id,
            captions: vec![stated.text],
            labels: Labels { class: Some(label.into()), ..Labels::default() },
        }
    };
    AnnotatedSource::new(name, folder, TextKind::Statement, stated.into_iter().map(sample).collect())
}

fn statement(path: &Path, number: usize, line: &Line) -> Result<Stated> {
    let record = Record { path, place: Place::Line(number) };
    let id = record.text("identifier", &line.identifier)?.to_owned();
    if id.split('-').count() != 4 {
        return Err(record.wrong("identifier", &format!("is '{id}', not SPLIT-SET-PAIR-SENTENCE such as dev-850-0-0")));
    }
    let truth = match &line.label {
        Some(Value::Bool(truth)) => *truth,
        label => match record.text("label", label)?.to_ascii_lowercase().as_str() {
            "true" => true,
            "false" => false,
            other => return Err(record.wrong("label", &format!("is '{other}', neither True nor False"))),
        },
    };
    let directory = match &line.directory {
        None => String::new(),
        directory => record.id("directory", directory)?,
    };
    Ok(Stated { id, directory, text: record.text("sentence", &line.sentence)?.to_owned(), truth })
}
