//! What samples are labelled with, and the classes that the labels of a training set make.

use crate::config::LabelKind;
use crate::data::emoji::EmojiSet;
use crate::data::{Class, Fault, FaultKind, Labels};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// What is known of a sample without its images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// What it is called.
    pub key: String,
    /// Its first caption.
    pub caption: String,
    /// Label of its class, if the source says one.
    pub class: Option<String>,
}

impl Listed {
    /// Of a sample with these captions and labels.
    pub fn new(key: &str, captions: &[String], labels: Labels) -> Listed {
        Listed { key: key.to_owned(), caption: captions.first().cloned().unwrap_or_default(), class: labels.class }
    }
}

/// How the samples of a set are labelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelling {
    /// Label of each concept of the bundled emoji by its code points; none where samples have labels of their own.
    concepts: Option<BTreeMap<String, String>>,
    /// Whether the first caption is the label.
    captions: bool,
}

impl Labelling {
    /// Labels of this kind, of a set that may be the bundled one; `captions` stand for classes where there are none.
    ///
    /// # Errors
    /// The set has no such labels.
    pub fn new(kind: LabelKind, set: &str, bundled: Option<&EmojiSet>, captions: bool) -> Result<Labelling> {
        let concepts = match (kind, bundled) {
            (LabelKind::Name, _) => None,
            (_, None) => {
                return Err(Error::invalid(format!(
                    "{set}: labels by {} are asked for, by --labels or by a head that was trained on them, and only the \
                     bundled emoji have groups and subgroups",
                    kind.name()
                )));
            }
            (kind, Some(bundle)) => Some(
                (bundle.concepts().iter())
                    .map(|concept| {
                        let label = if kind == LabelKind::Group { &concept.group } else { &concept.subgroup };
                        (concept.hexcode.clone(), label.clone())
                    })
                    .collect(),
            ),
        };
        Ok(Labelling { concepts, captions })
    }

    /// As [`Labelling::new`], of these samples of the set: captions are the labels if no sample has a class.
    ///
    /// # Errors
    /// As [`Labelling::new`].
    pub fn of(kind: LabelKind, set: &str, bundled: Option<&EmojiSet>, samples: &[Listed]) -> Result<Labelling> {
        Labelling::new(kind, set, bundled, samples.iter().all(|listed| listed.class.is_none()))
    }

    /// The label of a sample.
    ///
    /// # Errors
    /// It has none.
    pub fn label<'a>(&'a self, sample: &'a Listed) -> std::result::Result<&'a str, Fault> {
        let missing = |detail: String| Fault::new(FaultKind::MissingLabel, &sample.key, detail);
        if let Some(concepts) = &self.concepts {
            let code = sample.key.rsplit('/').next().unwrap_or_default();
            let label =
                concepts.get(code).ok_or_else(|| missing(format!("the bundled set has no concept '{code}'")))?;
            return Ok(label);
        }
        match &sample.class {
            Some(class) => Ok(class),
            None if self.captions => Ok(&sample.caption),
            None => Err(missing("no label".to_owned())),
        }
    }

    /// The label of every sample of a set.
    ///
    /// # Errors
    /// One has none.
    pub fn labels<'a>(&'a self, set: &str, samples: &'a [Listed]) -> Result<Vec<&'a str>> {
        let others = match samples.iter().any(|listed| listed.class.is_some()) {
            true if self.concepts.is_none() => ", while others of the set have one",
            _ => "",
        };
        let label = |listed| {
            self.label(listed)
                .map_err(|Fault { key, detail, .. }| Error::invalid(format!("{set}: {key}: {detail}{others}")))
        };
        samples.iter().map(label).collect()
    }
}

/// The classes of a training set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classes {
    /// What their samples are labelled with, in alphabetical order.
    pub labels: Vec<String>,
    /// Training samples of each.
    pub counts: Vec<usize>,
}

impl Classes {
    /// The classes that labels make: at most `most`, the most frequent ones, of equals the first in alphabetical order.
    ///
    /// # Errors
    /// There are fewer than two.
    pub fn of(set: &str, labels: &[&str], most: usize) -> Result<Classes> {
        let mut counts = BTreeMap::<&str, usize>::new();
        labels.iter().for_each(|label| *counts.entry(label).or_default() += 1);
        if let (Some(label), true) = (counts.keys().next(), counts.len() < 2) {
            return Err(Error::invalid(format!(
                "{set}: every sample is of the class '{label}': a classifier tells at least two classes apart"
            )));
        }
        let mut kept: Vec<(&str, usize)> = counts.into_iter().collect();
        kept.sort_by_key(|&(_, count)| Reverse(count));
        kept.truncate(most);
        kept.sort();
        let (labels, counts) = kept.into_iter().map(|(label, count)| (label.to_owned(), count)).unzip();
        Ok(Classes { labels, counts })
    }

    /// Their number.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// The class of a label, if it is one of these.
    pub fn place(&self, label: &str) -> Option<usize> {
        self.labels.binary_search_by(|known| known.as_str().cmp(label)).ok()
    }

    /// What they are called, given the classes that the source lists.
    pub fn names(&self, listed: &[Class]) -> Vec<String> {
        let called: HashMap<&str, &str> =
            listed.iter().map(|class| (class.label.as_str(), class.name.as_str())).collect();
        self.labels.iter().map(|label| (*called.get(label.as_str()).unwrap_or(&label.as_str())).to_owned()).collect()
    }

    /// Scores that put the classes in the order of their frequency in training; of equals the first comes first.
    pub fn by_frequency(&self) -> Vec<f32> {
        let mut order: Vec<usize> = (0..self.count()).collect();
        order.sort_by_key(|&class| Reverse(self.counts[class]));
        let mut scores = vec![0.0; self.count()];
        order.iter().enumerate().for_each(|(place, &class)| scores[class] = -(place as f32));
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_labels_are_classes_in_alphabetical_order() {
        let labels = ["yes", "no", "2", "no", "yes", "red", "no", "blue", "2"];
        let classes = Classes::of("s", &labels, 4).unwrap();
        assert_eq!(classes.labels, ["2", "blue", "no", "yes"]);
        assert_eq!(classes.counts, [2, 1, 3, 2]);
        assert_eq!([classes.place("no"), classes.place("red")], [Some(2), None]);
        assert_eq!(classes.by_frequency(), [-1.0, -3.0, 0.0, -2.0]);
        let named = [("no", "No."), ("2", "two")].map(|(label, name)| Class { label: label.into(), name: name.into() });
        assert_eq!(classes.names(&named), ["two", "blue", "No.", "yes"]);
        let error = Classes::of("s", &["a", "a"], 9).unwrap_err().to_string();
        assert_eq!(error, "s: every sample is of the class 'a': a classifier tells at least two classes apart");
    }

    #[test]
    fn captions_are_labels_where_no_sample_has_a_class() {
        let listed =
            |class: Option<&str>| Listed { key: "k".into(), caption: "c".into(), class: class.map(str::to_owned) };
        let of = |samples: &[Listed]| Labelling::of(LabelKind::Name, "s", None, samples).unwrap();
        assert_eq!(of(&[listed(None)]).label(&listed(None)), Ok("c"));
        let some = [listed(None), listed(Some("x"))];
        assert_eq!(of(&some).label(&some[1]), Ok("x"));
        assert_eq!(of(&some).label(&some[0]).unwrap_err().kind, FaultKind::MissingLabel);
        let error = Labelling::of(LabelKind::Group, "s", None, &some).unwrap_err().to_string();
        assert!(error.starts_with("s: labels by group are asked for, by --labels or by a head"), "{error}");

        let labelling = Labelling::new(LabelKind::Name, "s", None, false).unwrap();
        let error = |samples: &[Listed]| labelling.labels("s", samples).unwrap_err().to_string();
        assert_eq!(error(&some), "s: k: no label, while others of the set have one");
        assert_eq!(error(&some[..1]), "s: k: no label");
    }
}
