//! Values of JSON records, with errors that say where they stand.

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
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

/// One record of a list: `images[3]` of a file.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The file.
    pub path: &'a Path,
    /// Name of the list.
    pub list: &'a str,
    /// Place in it, from 0.
    pub index: usize,
}

impl Record<'_> {
    /// An error about one of its fields.
    pub fn wrong(&self, field: &str, what: &str) -> Error {
        let Record { path, list, index } = self;
        Error::invalid(format!("{}: {list}[{index}].{field} {what}", path.display()))
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
