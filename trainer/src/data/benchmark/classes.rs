//! Lists in text files, one entry a line: names of classes, templates, choices of classes.

use crate::data::Class;
use crate::{Error, Result};
use std::collections::HashSet;
use std::path::Path;

/// The lines of a file that are not blank, without spaces at their ends, with their numbers from 1.
///
/// # Errors
/// It cannot be read, or every line is blank.
pub fn read_lines(path: &Path) -> Result<Vec<(usize, String)>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(|line| line.trim_matches(' ')).enumerate();
    let lines: Vec<_> =
        lines.filter(|(_, line)| !line.trim().is_empty()).map(|(n, line)| (n + 1, line.to_owned())).collect();
    match lines.is_empty() {
        true => Err(Error::invalid(format!("{}: no lines", path.display()))),
        false => Ok(lines),
    }
}

/// Classes, one a line: `LABEL<tab>NAME`, or a name that is its own label.
///
/// # Errors
/// As [`read_lines`]; a label or name is empty, or two lines have one label.
pub fn read_classes(path: &Path) -> Result<Vec<Class>> {
    let mut known = HashSet::new();
    let class = |(number, line): (usize, String)| {
        let wrong = |what: &str| Err(Error::invalid(format!("{}:{number}: {what}", path.display())));
        let (label, name) = line.split_once('\t').unwrap_or((&line, &line));
        let (label, name) = (label.trim().to_owned(), name.trim().to_owned());
        if label.is_empty() || name.is_empty() {
            return wrong("a label, a tab and a name are wanted, and one of them is empty");
        }
        if !known.insert(label.clone()) {
            return wrong(&format!("'{label}' is the label of a line before it"));
        }
        Ok(Class { label, name })
    };
    read_lines(path)?.into_iter().map(class).collect()
}
