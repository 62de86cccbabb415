//! Zero-shot classification: the names of classes in templates, the texts' features averaged, the most similar class.

use super::eval_set::EvalSet;
use super::table::{percent, table};
use super::{Evaluator, Figures, PixelFloor, ranks, share_within, unit_means};
use crate::data::benchmark::{read_classes, read_lines};
use crate::data::{Class, Labelled};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Where the name stands in a template.
const NAME: &str = "{}";

/// Zero-shot classification of one set.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ZeroShotFigures {
    set: String,
    /// Images.
    count: usize,
    /// Classes to choose from.
    classes: usize,
    /// Templates of each class's texts.
    templates: usize,
    /// Share of images whose class comes first.
    top1: f64,
    /// Share of images whose class is among the first five.
    top5: f64,
    /// Mean over the classes with images of the share whose class comes first.
    mean_per_class: f64,
    /// Top-1 and top-5 of the nearest training picture by pixels, for styles of the bundled set.
    floor: Option<(f64, f64)>,
    /// Samples of classes that are not among those to choose from.
    left_out: usize,
    per_class: Vec<ClassFigures>,
    /// Faulty samples by kind.
    skipped: serde_json::Value,
}

/// The images of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ClassFigures {
    label: String,
    name: String,
    count: usize,
    top1: f64,
    top5: f64,
}

/// Templates, one a line, such as `a photo of a {}.`.
///
/// # Errors
/// The file cannot be read, is empty, or a line has no place for the name.
pub fn read_templates(path: &Path) -> Result<Vec<String>> {
    let template = |(number, line): (usize, String)| match line.contains(NAME) {
        true => Ok(line),
        false => {
            let path = path.display();
            Err(Error::invalid(format!("{path}:{number}: no {NAME} where the name of the class goes in '{line}'")))
        }
    };
    read_lines(path)?.into_iter().map(template).collect()
}

/// Classifies every image of the sets; `templates` are of [`read_templates`], `subsets[i]` lists the labels that set i is
/// restricted to. Classes are those of `data.classes`, those that the source knows, or its first captions.
///
/// # Errors
/// A set or file cannot be read, a sample's label is none of the classes, or no sample is left.
pub fn measure_zero_shot(
    templates: &[String],
    subsets: &[Option<&Path>],
    evaluator: &mut Evaluator<'_>,
    sets: &mut [EvalSet],
) -> Result<Figures> {
    let mut figures = Vec::with_capacity(sets.len());
    for (set, subset) in sets.iter_mut().zip(subsets) {
        figures.push(measure(templates, *subset, evaluator, set)?);
    }
    let cells = |name: &str, counts: [usize; 2], shares: &[f64]| {
        let [images, classes] = counts.map(|count| if count == 0 { String::new() } else { count.to_string() });
        let shares = (0..3).map(|column| shares.get(column).copied().map_or(String::new(), percent));
        [name.to_owned(), images, classes].into_iter().chain(shares).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    for row in &figures {
        rows.push(cells(&row.set, [row.count, row.classes], &[row.top1, row.top5, row.mean_per_class]));
        rows.extend(row.floor.map(|(top1, top5)| cells("  pixels alone", [0; 2], &[top1, top5])));
    }
    if figures.len() > 1 {
        let mean = |share: fn(&ZeroShotFigures) -> f64| figures.iter().map(share).sum::<f64>() / figures.len() as f64;
        let shares = [mean(|row| row.top1), mean(|row| row.top5), mean(|row| row.mean_per_class)];
        rows.push(cells("mean", [0; 2], &shares));
    }
    let mut text = table(&["zero-shot", "images", "classes", "top-1 %", "top-5 %", "mean per class %"], &rows);
    for ZeroShotFigures { set, left_out, .. } in figures.iter().filter(|row| row.left_out > 0) {
        text += &format!("{set}: {left_out} samples of other classes left out\n");
    }
    Figures::new(text, &figures)
}

fn measure(
    templates: &[String],
    subset: Option<&Path>,
    evaluator: &mut Evaluator<'_>,
    set: &mut EvalSet,
) -> Result<ZeroShotFigures> {
    let listed = !set.data.classes.as_os_str().is_empty();
    let classes = if listed { Some(read_classes(&set.data.classes)?) } else { set.source.classes() };
    // Without a list, labels have no names to be asked for: the captions are the classes.
    let labelled = classes.is_some();
    let mut candidates = Candidates::new(classes, subset)?;
    let (mut images, mut right, mut left_out) = (Vec::new(), Vec::new(), 0);
    set.read(evaluator.model.config(), evaluator.samples_in_pass(set.source.images()), |batch| {
        let mut kept = Vec::with_capacity(batch.len());
        for Labelled { sample, labels } in batch {
            let label =
                labels.class.as_ref().filter(|_| labelled).or(sample.captions.first()).map_or("", String::as_str);
            match candidates.place(label, &sample.key)? {
                Some(place) => {
                    right.push(place);
                    kept.push(sample);
                }
                None => left_out += 1,
            }
        }
        images.extend(evaluator.image_features(&kept)?);
        Ok(())
    })?;
    if right.is_empty() {
        return Err(Error::invalid(format!("{}: no sample is of one of the classes to choose from", set.name)));
    }
    let names: Vec<&str> = candidates.classes.iter().map(|class| class.name.as_str()).collect();
    let features = class_features(evaluator, &names, templates)?;
    let ranks = ranks(&images, &features, evaluator.width(), |image| std::slice::from_ref(&right[image]));
    let per_class = per_class(&candidates.classes, &right, &ranks);
    // Pixels are compared among all the names of the bundle.
    let whole = !listed && subset.is_none();
    let floor = PixelFloor::of(set.bundled.as_ref().filter(|_| whole)).map(|floor| floor.zero_shot);
    Ok(ZeroShotFigures {
        set: set.name.clone(),
        count: right.len(),
        classes: names.len(),
        templates: templates.len(),
        top1: share_within(&ranks, 1),
        top5: share_within(&ranks, 5),
        mean_per_class: per_class.iter().map(|class| class.top1).sum::<f64>() / per_class.len() as f64,
        floor,
        left_out,
        per_class,
        skipped: set.skipped(),
    })
}

/// The classes with images.
fn per_class(classes: &[Class], right: &[usize], ranks: &[usize]) -> Vec<ClassFigures> {
    let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); classes.len()];
    right.iter().zip(ranks).for_each(|(&class, &rank)| of_class[class].push(rank));
    let figures = |(Class { label, name }, ranks): (&Class, Vec<usize>)| ClassFigures {
        label: label.clone(),
        name: name.clone(),
        count: ranks.len(),
        top1: share_within(&ranks, 1),
        top5: share_within(&ranks, 5),
    };
    classes.iter().zip(of_class).filter(|(_, ranks)| !ranks.is_empty()).map(figures).collect()
}

/// Unit features f32 `[names, embed_dim]`: of each name the mean of the unit features of its texts, scaled to 1.
fn class_features(evaluator: &mut Evaluator<'_>, names: &[&str], templates: &[String]) -> Result<Vec<f32>> {
    let (width, mut features) = (evaluator.width(), Vec::new());
    // Some names at a time: with 80 templates the texts of all are many.
    for part in names.chunks(evaluator.batch) {
        let texts = |name: &&str| templates.iter().map(|template| template.replace(NAME, name)).collect::<Vec<_>>();
        let texts: Vec<String> = part.iter().flat_map(texts).collect();
        features.extend(unit_means(evaluator.text_features(&texts)?, templates.len(), width));
    }
    Ok(features)
}

/// The classes that are chosen from.
#[derive(Debug)]
struct Candidates {
    classes: Vec<Class>,
    /// Places in `classes` by label; of the classes that are left out, none.
    places: HashMap<String, Option<usize>>,
    /// What becomes of a label that is not known.
    unknown: Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// It is a class of its own.
    New,
    /// Its samples are left out.
    LeftOut,
    /// It is an error.
    Refused,
}

impl Candidates {
    /// `classes` of a list, or of the labels that samples turn out to have; of those only the ones in the file `subset`.
    ///
    /// # Errors
    /// The file cannot be read, or has a label that is not in the list.
    fn new(classes: Option<Vec<Class>>, subset: Option<&Path>) -> Result<Candidates> {
        let lines = subset.map(read_lines).transpose()?;
        let chosen: Option<HashSet<&str>> =
            lines.as_ref().map(|lines| lines.iter().map(|(_, line)| line.as_str()).collect());
        let unknown = match (&classes, &lines) {
            (Some(_), _) => Unknown::Refused,
            (None, Some(_)) => Unknown::LeftOut,
            (None, None) => Unknown::New,
        };
        let named = |(_, label): &(usize, String)| Class { label: label.clone(), name: label.clone() };
        let classes = classes.unwrap_or_else(|| lines.iter().flatten().map(named).collect());
        let mut found = Candidates { classes: Vec::new(), places: HashMap::new(), unknown };
        for class in classes {
            let taken = chosen.as_ref().is_none_or(|chosen| chosen.contains(class.label.as_str()));
            if let Entry::Vacant(entry) = found.places.entry(class.label.clone()) {
                entry.insert(taken.then_some(found.classes.len()));
                found.classes.extend(Some(class).filter(|_| taken));
            }
        }
        let strange = lines.iter().flatten().find(|(_, line)| !found.places.contains_key(line));
        if let (Some((number, line)), Some(path)) = (strange, subset) {
            let path = path.display();
            return Err(Error::invalid(format!("{path}:{number}: '{line}' is the label of no class")));
        }
        Ok(found)
    }

    /// The class of a label; none if it is left out.
    ///
    /// # Errors
    /// There is a list of classes, and the label of the sample `key` is not in it.
    fn place(&mut self, label: &str, key: &str) -> Result<Option<usize>> {
        match (self.places.get(label), self.unknown) {
            (Some(place), _) => Ok(*place),
            (None, Unknown::LeftOut) => Ok(None),
            (None, Unknown::Refused) => {
                Err(Error::invalid(format!("{key}: its class '{label}' is not in the list of classes")))
            }
            (None, Unknown::New) => {
                let place = self.classes.len();
                self.classes.push(Class { label: label.to_owned(), name: label.to_owned() });
                self.places.insert(label.to_owned(), Some(place));
                Ok(Some(place))
            }
        }
    }
}

#[cfg(test)]
mod tests;
