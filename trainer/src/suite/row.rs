//! Rows of the suite's table, from the figures that its commands write.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A value beside what knowing less would reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured on.
    pub set: String,
    /// Samples.
    pub count: u64,
    /// What the value is.
    pub measure: String,
    /// The value: a share of 1, but for scores of captions.
    pub value: f64,
    /// What it is held against, and what that reaches.
    pub control: Option<(String, f64)>,
    /// Values of other ways to the same answer.
    pub beside: Vec<(String, f64)>,
}

impl Row {
    /// Whether it stands above its control; none without one.
    pub fn is_above(&self) -> Option<bool> {
        self.control.as_ref().map(|(_, control)| self.value > *control)
    }
}

/// The figures of a measurement, and those around it.
pub struct Figures<'a> {
    /// What its command wrote.
    pub own: &'a Value,
    /// The measurement's stem.
    pub stem: &'a str,
    /// Looks up the figures of another by its stem.
    pub others: &'a dyn Fn(&str) -> Option<Value>,
}

fn list<'a>(figures: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    figures[key].as_array().into_iter().flatten()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a set is called: of shards their folder and split, whatever the folder of sets and their number.
fn called(set: &str) -> String {
    let Some(path) = set.strip_suffix(".tar") else { return set.to_owned() };
    let (kind, path) = path.rsplit_once(':').map_or(("", path), |(kind, path)| (kind, path));
    let mut parts = path.rsplit('/');
    let (shard, folder) = (parts.next().unwrap_or(path), parts.next().unwrap_or_default());
    let split = shard.rsplit_once('-').map_or(shard, |(split, _)| split);
    format!("{kind}{}{folder}/{split}", if kind.is_empty() { "" } else { " of " })
}

/// A row without anything beside.
fn row(set: &Value, samples: &Value, measure: &str, value: &Value, control: Option<(String, f64)>) -> Row {
    let (set, measure) = (called(&text(set)), measure.to_owned());
    Row { set, count: count(samples), measure, value: number(value), control, beside: Vec::new() }
}

fn chance(of: u64) -> Option<(String, f64)> {
    (of > 0).then(|| ("chance".to_owned(), 1.0 / of as f64))
}

fn pixels(value: &Value) -> Option<(String, f64)> {
    value.as_f64().map(|value| ("pixels alone".to_owned(), value))
}

/// `coca eval zero-shot`.
pub fn zero_shot(figures: &Figures<'_>) -> Vec<Row> {
    let row = |set: &Value| {
        let control = pixels(&set["floor"][0]).or_else(|| chance(count(&set["classes"])));
        Row {
            beside: vec![("top-5".into(), number(&set["top5"]))],
            ..row(&set["set"], &set["count"], "top-1", &set["top1"], control)
        }
    };
    list(figures.own, "sets").map(row).collect()
}

/// `coca eval retrieval`: both directions.
pub fn retrieval(figures: &Figures<'_>) -> Vec<Row> {
    let rows = |set: &Value| {
        let directions = [("image_to_text", 0, "image to text"), ("text_to_image", 1, "text to image")];
        directions.map(|(key, place, name)| {
            let chance = || Some(("chance".to_owned(), set["chance"].as_f64()?));
            let control = pixels(&set["floor"][place]["at_1"]).or_else(chance);
            let measure = format!("R@1, {name}");
            let beside =
                [("R@5", "at_5"), ("R@10", "at_10")].map(|(name, at)| (name.to_owned(), number(&set[key][at])));
            Row { beside: beside.to_vec(), ..row(&set["set"], &set["images"], &measure, &set[key]["at_1"], control) }
        })
    };
    list(figures.own, "sets").flat_map(rows).collect()
}

/// `coca eval caption`. The name of the nearest training drawing is a caption by pixels alone.
pub fn captions(figures: &Figures<'_>) -> Vec<Row> {
    let floors = (figures.others)("zero-shot-emoji").unwrap_or_default();
    let row = |set: &Value| {
        let same = list(&floors, "sets").find(|other| other["set"] == set["set"]);
        let control = same.and_then(|other| pixels(&other["floor"][0]));
        let beside = ["BLEU-4", "ROUGE-L", "CIDEr-D"].map(|name| (name.to_owned(), number(&set[name])));
        Row { beside: beside.to_vec(), ..row(&set["set"], &set["count"], "exactly right", &set["exact"], control) }
    };
    list(figures.own, "sets").filter(|set| set["domain"].is_null()).map(row).collect()
}

/// `coca eval caption` of a model that was fine-tuned on such captions: against the same of the model before.
pub fn captions_after(figures: &Figures<'_>) -> Vec<Row> {
    let before = (figures.others)(&format!("{}-before", figures.stem)).unwrap_or_default();
    let row = |set: &Value| {
        let same = list(&before, "sets").find(|other| other["set"] == set["set"]);
        let control = same.and_then(|other| Some(("before fine-tuning".to_owned(), other["ROUGE-L"].as_f64()?)));
        let beside = [("exactly right", "exact"), ("BLEU-4", "BLEU-4"), ("CIDEr-D", "CIDEr-D")];
        let beside = beside.map(|(name, key)| (name.to_owned(), number(&set[key])));
        Row { beside: beside.to_vec(), ..row(&set["set"], &set["count"], "ROUGE-L", &set["ROUGE-L"], control) }
    };
    list(figures.own, "sets").filter(|set| set["domain"].is_null()).map(row).collect()
}

/// The scores of a probe's set by name.
fn scores(set: &Value) -> impl Fn(&str) -> Option<f64> {
    move |name| list(set, "scores").find(|score| text(&score["probe"]).trim() == name)?["top1"].as_f64()
}

/// The better of the controls that know no model.
fn no_model(score: &dyn Fn(&str) -> Option<f64>) -> Option<(String, f64)> {
    let controls = ["majority class", "pixels alone"].into_iter();
    let controls = controls.filter_map(|name| Some((name.to_owned(), score(name)?)));
    controls.max_by(|a, b| a.1.total_cmp(&b.1))
}

/// The ways of a probe to read frozen features.
const PROBES: [&str; 3] = ["attentional pooler", "linear", "nearest neighbours"];

/// `coca probe`: a row for each way.
pub fn probe(figures: &Figures<'_>) -> Vec<Row> {
    probes(figures, &PROBES)
}

/// Some ways of a probe, where a set has them.
fn probes(figures: &Figures<'_>, ways: &[&str]) -> Vec<Row> {
    let rows = |set| ways.iter().filter_map(move |way| probed(figures, set, way));
    list(figures.own, "sets").flat_map(rows).collect()
}

/// A way of a probe on one set; none if it was not measured.
fn probed(figures: &Figures<'_>, set: &Value, way: &str) -> Option<Row> {
    let score = scores(set);
    let measure = format!("top-1 of {}, {way}", list(figures.own, "classes").count());
    let row = row(&set["set"], &set["count"], &measure, &Value::Null, no_model(&score));
    Some(Row { value: score(way)?, ..row })
}

/// `coca probe --video`: against the best of its controls.
pub fn video(figures: &Figures<'_>) -> Vec<Row> {
    let row = |set: &Value| {
        let score = scores(set);
        let controls = ["single frame", "shuffled frames", "pixels alone"];
        let best = controls.into_iter().filter_map(|name| Some((name.to_owned(), score(name)?)));
        let control = best.max_by(|a, b| a.1.total_cmp(&b.1));
        let beside = controls.into_iter().chain(["majority class"]);
        let beside = beside.filter_map(|name| Some((name.to_owned(), score(name)?))).collect();
        Some(Row { control, beside, ..probed(figures, set, PROBES[0])? })
    };
    list(figures.own, "sets").filter_map(row).collect()
}

/// The report of a run that ends with classes of its test sets. The probe of the same classes says what pixels alone reach.
pub fn classes(figures: &Figures<'_>) -> Vec<Row> {
    let probed = figures.stem.strip_prefix("finetune-").map(|classes| format!("probe-{classes}"));
    let probed = probed.and_then(|stem| (figures.others)(&stem)).unwrap_or_default();
    let row = |set: &Value| {
        let probe = list(&probed, "sets").find(|other| other["set"] == set["set"]);
        let control = match probe {
            Some(probe) => no_model(&scores(probe)),
            None => set["majority"].as_f64().map(|value| ("majority class".to_owned(), value)),
        };
        let measure = format!("top-1 of {}", count(&set["classes"]));
        Row {
            beside: vec![("top-5".into(), number(&set["top5"]))],
            ..row(&set["set"], &set["count"], &measure, &set["top1"], control)
        }
    };
    list(figures.own, "classes").map(row).collect()
}

/// The same of a task with texts: against the run that saw no image.
pub fn understanding(figures: &Figures<'_>) -> Vec<Row> {
    let blank = (figures.others)(&format!("{}-blank", figures.stem)).unwrap_or_default();
    let row = |(set, row): (&Value, Row)| {
        let same = list(&blank, "classes").find(|other| other["set"] == set["set"]);
        let control = same.and_then(|other| Some(("without image".to_owned(), other["top1"].as_f64()?)));
        let beside = [("best guess from the text", "floor"), ("majority class", "majority")];
        let beside = beside.into_iter().filter_map(|(name, key)| Some((name.to_owned(), set[key].as_f64()?)));
        Row { control, beside: beside.collect(), ..row }
    };
    list(figures.own, "classes").zip(classes(figures)).map(row).collect()
}

/// No rows: figures that others are held against.
pub fn none(_: &Figures<'_>) -> Vec<Row> {
    Vec::new()
}

/// Rows of a model among others, called by its name in the stem `beside/NAME/…`, against what knowing nothing reaches.
fn beside(rows: Vec<Row>, stem: &str, measure: &str) -> Vec<Row> {
    let name = stem.split('/').nth(1).unwrap_or(stem);
    let renamed = |row: Row| Row { set: name.to_owned(), measure: format!("{measure}, {}", row.measure), ..row };
    rows.into_iter().map(renamed).collect()
}

/// Zero-shot classification by one of several models.
pub fn beside_zero_shot(figures: &Figures<'_>) -> Vec<Row> {
    beside(zero_shot(figures), figures.stem, "zero-shot")
}

/// Captions by one of several models.
pub fn beside_captions(figures: &Figures<'_>) -> Vec<Row> {
    beside(captions(figures), figures.stem, "captions")
}

/// The probe of one of several models.
pub fn beside_probe(figures: &Figures<'_>) -> Vec<Row> {
    beside(probes(figures, &PROBES[..1]), figures.stem, "frozen features")
}
