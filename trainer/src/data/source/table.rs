//! open_clip's table: a CSV or TSV file with a header, a column of image paths and one of captions.

use super::{Labels, MAX_IMAGE_BYTES, Part, Raw, RawImage, Source, captions, read_file};
use crate::data::{Fault, FaultKind};
use crate::{Error, Result};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of the columns that are read.
#[derive(Clone, Copy, Debug)]
pub struct TableColumns<'a> {
    /// Column of the image paths.
    pub image: &'a str,
    /// Column of the captions.
    pub caption: &'a str,
    /// Column of the labels of classes, in a table that has it.
    pub label: &'a str,
}

impl Default for TableColumns<'_> {
    fn default() -> Self {
        TableColumns { image: "filepath", caption: "title", label: "label" }
    }
}

/// The lines of a table, in its order.
#[derive(Clone, Debug)]
pub struct TableSource {
    path: PathBuf,
    rows: Arc<[Option<Row>]>,
}

/// What is kept of a line; none of a line that lacks a column.
#[derive(Debug)]
struct Row {
    image: PathBuf,
    caption: Box<[u8]>,
    label: Option<Box<[u8]>>,
}

impl TableSource {
    /// Reads a table; without a separator, a tab if the header has one, as open_clip writes `.csv` too, else a comma.
    ///
    /// # Errors
    /// The file cannot be read, lacks one of the columns or has no lines.
    pub fn open(path: &Path, columns: TableColumns<'_>, separator: Option<u8>) -> Result<TableSource> {
        let file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
        let mut file = BufReader::new(file);
        let start = file.fill_buf().map_err(|error| Error::io(path, error))?;
        let tabs = start.split(|&byte| byte == b'\n').next().is_some_and(|header| header.contains(&b'\t'));
        let separator = separator.unwrap_or(if tabs { b'\t' } else { b',' });
        let wrong = |what: String| Error::invalid(format!("{}: {what}", path.display()));
        let mut reader = csv::ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(file);
        let header = reader.byte_headers().map_err(|error| wrong(error.to_string()))?.clone();
        // Spreadsheets put a byte order mark before the first name.
        let names: Vec<&[u8]> = header.iter().map(|name| name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name)).collect();
        let column = |name: &str, key: &str| {
            names.iter().position(|column| *column == name.as_bytes()).ok_or_else(|| {
                let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
                let separator = char::from(separator);
                wrong(format!(
                    "no column '{name}' in the header [{}] (separator {separator:?}); set {key} or data.separator",
                    names.join(", ")
                ))
            })
        };
        let (image, caption) =
            (column(columns.image, "data.image_column")?, column(columns.caption, "data.caption_column")?);
        let label = names.iter().position(|name| *name == columns.label.as_bytes());
        let mut rows = Vec::new();
        for record in reader.byte_records() {
            let record = record.map_err(|error| wrong(error.to_string()))?;
            let row = record.get(image).zip(record.get(caption));
            let label = label.and_then(|label| record.get(label)).map(<[u8]>::trim_ascii);
            rows.push(row.map(|(image, caption)| Row {
                image: bytes_to_path(image),
                caption: caption.into(),
                label: label.filter(|label| !label.is_empty()).map(Box::from),
            }));
        }
        if rows.is_empty() {
            return Err(wrong("no lines under the header".into()));
        }
        Ok(TableSource { path: path.to_path_buf(), rows: rows.into() })
    }

    /// A relative path is looked up beside the table, then from the working folder as open_clip does.
    fn resolve(&self, image: &Path) -> PathBuf {
        let beside = self.path.parent().unwrap_or(Path::new("")).join(image);
        if beside.exists() { beside } else { image.to_path_buf() }
    }
}

/// A path as its bytes stand in the table.
fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

impl Source for TableSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn parts(&self) -> usize {
        1
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }
}

impl Part for TableSource {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let line = || format!("{}: row {}", self.path.display(), index + 1);
        let Some(row) = &self.rows[index] else {
            return Err(Fault::new(FaultKind::BadRow, line(), "fewer columns than the header"));
        };
        let key = row.image.display().to_string();
        let captions = captions(&key, [&*row.caption])?;
        let class = row.label.as_deref().map(std::str::from_utf8).transpose();
        let class = class.map_err(|error| Fault::new(FaultKind::BadUtf8, &key, error))?.map(str::to_owned);
        let images = vec![RawImage::Encoded(read_file(&self.resolve(&row.image), MAX_IMAGE_BYTES)?)];
        Ok(Raw { key, images, captions, keywords: Vec::new(), labels: Labels { class, ..Labels::default() } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_folder;

    fn open(name: &str, text: &[u8], columns: TableColumns<'_>, separator: Option<u8>) -> Result<TableSource> {
        let folder = test_folder(name);
        std::fs::write(folder.join("a.png"), b"png").unwrap();
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        let source = TableSource::open(&path, columns, separator)?;
        // Read while the folder is there.
        assert_eq!(source.sample(0).unwrap().images, [RawImage::Encoded(b"png".to_vec())]);
        Ok(source)
    }

    #[test]
    fn quotes_faults_and_relative_paths() {
        let text = b"\xef\xbb\xbffilepath,title,more\na.png,\"one, \"\"two\"\"\",x\nb.png,gone,x\na.png\na.png,\xff,x\na.png, ,x\n";
        let folder = test_folder("table");
        std::fs::write(folder.join("a.png"), b"png").unwrap();
        std::fs::write(folder.join("t.csv"), text).unwrap();
        let source = TableSource::open(&folder.join("t.csv"), TableColumns::default(), None).unwrap();
        assert_eq!(source.sample(0).unwrap().captions, ["one, \"two\""]);
        let kind = |index| source.sample(index).unwrap_err().kind;
        assert_eq!(kind(1), FaultKind::MissingFile);
        assert_eq!(kind(2), FaultKind::BadRow);
        assert_eq!(kind(3), FaultKind::BadUtf8);
        assert_eq!(kind(4), FaultKind::EmptyCaption);
        assert_eq!(Part::len(&source), 5);
    }

    #[test]
    fn separators_and_columns_can_be_named() {
        for (name, text) in [
            ("t.tsv", "title\tfilepath\nx, y\ta.png\n"),
            ("tabs.csv", "title\tfilepath\nx, y\ta.png\n"),
            ("commas.tsv", "title,filepath\nx\ty,a.png\n"),
        ] {
            open(name, text.as_bytes(), TableColumns::default(), None).unwrap();
        }
        let columns = TableColumns { image: "url", caption: "text", label: "class" };
        let labelled =
            open("u.csv", b"text;url;class\nx;a.png; n1 \nx;a.png;\nx;a.png\n", columns, Some(b';')).unwrap();
        let class = |row: usize| labelled.rows[row].as_ref().unwrap().label.as_deref();
        assert_eq!([class(0), class(1), class(2)], [Some(&b"n1"[..]), None, None]);
        let error = open("v.csv", b"text;url\nx;a.png\n", columns, None).unwrap_err().to_string();
        assert!(error.contains("no column 'url' in the header [text;url]"), "{error}");
        assert!(open("w.csv", b"filepath,title\n", TableColumns::default(), None).is_err());
    }
}
