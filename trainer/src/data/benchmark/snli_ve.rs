//! SNLI-VE (`snli_ve_dev.jsonl`): hypotheses about the photographs of Flickr30K.

use super::annotated::{Annotated, AnnotatedSource};
use super::record::{Place, Record, read_json_lines};
use crate::data::Labels;
use crate::data::source::TextKind;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

#[derive(Deserialize)]
struct Line {
    /// The number of the photograph, or its file's name.
    #[serde(rename = "Flickr30K_ID", alias = "Flikr30kID")]
    image: Option<Value>,
    sentence2: Option<Value>,
    gold_label: Option<Value>,
    #[serde(rename = "pairID")]
    pair: Option<Value>,
}

/// What stands for a label where the annotators did not agree; the benchmark leaves such lines out.
const NO_LABEL: &str = "-";

/// The hypotheses of a file, whose photographs lie in `folder`.
///
/// # Errors
/// The file cannot be read, a line lacks a field or has an unknown label, or none has a label.
pub fn open(name: &str, path: &Path, folder: &Path) -> Result<AnnotatedSource> {
    let kind = TextKind::Hypothesis;
    let classes = kind.classes().unwrap_or_default();
    let mut samples = Vec::new();
    for (number, line) in read_json_lines::<Line>(path)? {
        let record = Record { path, place: Place::Line(number) };
        let label = record.text("gold_label", &line.gold_label)?;
        if label == NO_LABEL {
            continue;
        }
        if classes.iter().all(|class| class.label != label) {
            let labels: Vec<&str> = classes.iter().map(|class| class.label.as_str()).collect();
            return Err(record.wrong("gold_label", &format!("is '{label}', none of {}, -", labels.join(", "))));
        }
        let image = record.id("Flickr30K_ID", &line.image)?;
        let image = image.strip_suffix(".jpg").unwrap_or(&image);
        let key = match &line.pair {
            None => format!("{image}#{number}"),
            pair => record.text("pairID", pair)?.to_owned(),
        };
        samples.push(Annotated {
            key,
            images: vec![folder.join(format!("{image}.jpg"))],
            captions: vec![record.text("sentence2", &line.sentence2)?.to_owned()],
            labels: Labels { class: Some(label.to_owned()), ..Labels::default() },
        });
    }
    if samples.is_empty() {
        return Err(Error::invalid(format!("{}: no line has a label", path.display())));
    }
    AnnotatedSource::new(name, folder, kind, samples)
}
