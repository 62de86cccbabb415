//! The classes of a probe: those that the samples of its training set have.

use super::cache::{Features, Listed};
use crate::cli::LabelKind;
use crate::evaluate::EvalSet;
use crate::{Error, Result};
use std::collections::{BTreeSet, HashMap};

/// Classes with their names, in alphabetical order of their labels.
#[derive(Debug)]
pub struct Classes {
    kind: LabelKind,
    /// What they are called.
    pub names: Vec<String>,
    places: HashMap<String, usize>,
}

impl Classes {
    /// The classes of a training set, and that of each of its samples.
    ///
    /// # Errors
    /// A sample has no such label, or all have the same.
    pub fn of_training(kind: LabelKind, set: &EvalSet, features: &Features) -> Result<(Classes, Vec<usize>)> {
        let labels = labels(kind, set, features.samples())?;
        let known: BTreeSet<&String> = labels.iter().collect();
        if let (Some(label), true) = (known.first(), known.len() < 2) {
            return Err(Error::invalid(format!(
                "{}: every sample is of the class '{label}': a probe tells at least two classes apart",
                set.name
            )));
        }
        let listed = set.source.classes().unwrap_or_default();
        let called: HashMap<&str, &str> =
            listed.iter().map(|class| (class.label.as_str(), class.name.as_str())).collect();
        let name =
            |label: &&String| called.get(label.as_str()).map_or_else(|| (*label).clone(), |&name| name.to_owned());
        let names = known.iter().map(name).collect();
        let places: HashMap<String, usize> =
            known.into_iter().enumerate().map(|(place, label)| (label.clone(), place)).collect();
        let targets = labels.iter().map(|label| places[label]).collect();
        Ok((Classes { kind, names, places }, targets))
    }

    /// The class of each sample of a test set; none if training had no such class.
    ///
    /// # Errors
    /// A sample has no such label, or none of them is of a class of the training set.
    pub fn of_test(&self, set: &EvalSet, features: &Features) -> Result<Vec<Option<usize>>> {
        let labels = labels(self.kind, set, features.samples())?;
        let classes: Vec<Option<usize>> = labels.iter().map(|label| self.places.get(label).copied()).collect();
        if classes.iter().all(Option::is_none) {
            let (set, label) = (&set.name, labels.first().map_or("", String::as_str));
            return Err(Error::invalid(format!(
                "{set}: no sample is of a class of the training set (its first is of '{label}'); see --labels"
            )));
        }
        Ok(classes)
    }
}

/// The label of every sample.
fn labels(kind: LabelKind, set: &EvalSet, samples: &[Listed]) -> Result<Vec<String>> {
    if kind == LabelKind::Name {
        let labelled = samples.iter().any(|listed| listed.class.is_some());
        let label = |listed: &Listed| match (&listed.class, labelled) {
            (Some(class), _) => Ok(class.clone()),
            (None, false) => Ok(listed.caption.clone()),
            (None, true) => Err(Error::invalid(format!(
                "{}: {} has no label, while others of the set have one",
                set.name, listed.key
            ))),
        };
        return samples.iter().map(label).collect();
    }
    let Some((bundle, _)) = &set.bundled else {
        return Err(Error::invalid(format!(
            "{}: only the bundled emoji have groups and subgroups: leave --labels out",
            set.name
        )));
    };
    let concepts: HashMap<&str, _> =
        bundle.concepts().iter().map(|concept| (concept.hexcode.as_str(), concept)).collect();
    let label = |listed: &Listed| {
        let code = listed.key.rsplit('/').next().unwrap_or_default();
        let concept = concepts
            .get(code)
            .ok_or_else(|| Error::invalid(format!("{}: the bundled set has no concept '{code}'", listed.key)))?;
        Ok(if kind == LabelKind::Group { concept.group.clone() } else { concept.subgroup.clone() })
    };
    samples.iter().map(label).collect()
}
