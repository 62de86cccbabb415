//! Values of JSON records, with errors that say where they stand.

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// A file of records.
///
/// # Errors
/// It cannot be read, or is not of this form; the text names the line.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
}

/// A list of a file; `meant` says in the error what the file should have been.
pub fn list<'a, T>(path: &Path, name: &str, list: &'a Option<Vec<T>>, meant: &str) -> Result<&'a [T]> {
    match list {
        Some(list) if !list.is_empty() => Ok(list),
        Some(_) => Err(Error::invalid(format!("{}: the list '{name}' is empty", path.display()))),
        None => Err(Error::invalid(format!("{}: no list '{name}'; {meant}", path.display()))),
    }
}

/// The records of a file that has one a line, with the numbers of the lines from 1; blank lines are left out.
///
/// # Errors
/// It cannot be read, has no record, or a line is not of this form; the text names the line.
pub fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let mut records = Vec::new();
    for (index, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(|error| Error::io(path, error))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |error| Error::invalid(format!("{}:{}: {error}", path.display(), index + 1));
        records.push((index + 1, serde_json::from_slice(&line).map_err(wrong)?));
    }
    match records.is_empty() {
        true => Err(Error::invalid(format!("{}: no lines", path.display()))),
        false => Ok(records),
    }
}

/// Where a record stands in its file.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// In the list of this name, at this place from 0.
    Item(&'a str, usize),
    /// On this line, from 1.
    Line(usize),
}

/// One record: `images[3]` of a file, or a line.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The file.
    pub path: &'a Path,
    /// Where in it.
    pub place: Place<'a>,
}

impl Record<'_> {
    /// An error about one of its fields.
    pub fn wrong(&self, field: &str, what: &str) -> Error {
        let path = self.path.display();
        Error::invalid(match self.place {
            Place::Item(list, index) => format!("{path}: {list}[{index}].{field} {what}"),
            Place::Line(line) => format!("{path}:{line}: {field} {what}"),
        })
    }

    /// A field that is a text.
    pub fn text<'v>(&self, field: &str, value: &'v Option<Value>) -> Result<&'v str> {
        match value {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.wrong(field, &format!("is no text but {other}"))),
            None => Err(self.wrong(field, "is missing")),
        }
    }

    /// A field that names a record: a whole number or a text.
    pub fn id(&self, field: &str, value: &Option<Value>) -> Result<String> {
        match value {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
            Some(other) => Err(self.wrong(field, &format!("is no id but {other}"))),
            None => Err(self.wrong(field, "is missing")),
        }
    }
}
