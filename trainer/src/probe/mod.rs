//! `coca probe`: what the frozen image encoder knows, by classifiers that are fitted on its features.

mod cache;
mod lbfgs;
mod linear;
mod neighbours;
mod pooler;
mod rows;
#[cfg(test)]
mod tests;
mod thumbnail;

use crate::classes::{Classes, Labelling};
use crate::cli::{PoolerArgs, ProbeArgs, ProbeKind};
use crate::config::LabelKind;
use crate::data::emoji::Split;
use crate::evaluate::{EvalSet, Score, percent, table};
use crate::model_folder::ModelFolder;
use crate::{Error, Result};
use cache::Features;
use linear::Linear;
use model::heads::{Head, HeadConfig};
use model::weights::write_atomically;
use pooler::Recipe;
use rows::{Frames, Rows, Time};
use serde::Serialize;
use serde_json::json;
use std::io::Write;

/// What the probes reach on a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct SetFigures {
    set: String,
    /// Images that are measured.
    count: usize,
    /// Images of classes that training has not.
    left_out: usize,
    /// Faulty samples by kind.
    skipped: serde_json::Value,
    /// Each probe, then the controls.
    scores: Vec<Score>,
}

/// Fits the probes and returns the table; with `--json` the figures are written as well, with `--out` the heads.
///
/// # Errors
/// Model or data cannot be opened, labels or settings do not fit, or a file cannot be written.
pub fn probe(args: &ProbeArgs) -> Result<String> {
    args.check()?;
    let folder = ModelFolder::open(&args.model, args.dtype())?;
    run(args, &folder)
}

/// As [`probe`], of an open model. It is not changed.
fn run(args: &ProbeArgs, folder: &ModelFolder) -> Result<String> {
    let ModelFolder { model, queue, .. } = folder;
    let mut sets = open_sets(args)?;
    let mut text = String::new();
    let mut cached = Vec::with_capacity(sets.len());
    for set in &mut sets {
        let features = Features::open(set, model, queue, &args.cache)?;
        text += features.skipped().1;
        text += &features.note;
        cached.push(features);
    }
    let sets: Vec<(&EvalSet, &Features)> = sets.iter().zip(&cached).collect();
    let [(set, training), tests @ ..] = &sets[..] else {
        return Err(Error::invalid("a probe needs a set to learn from"));
    };
    let labelling = labelling(args.labels, set, training)?;
    let labels = labelling.labels(&set.name, training.samples())?;
    let classes = Classes::of(&set.name, &labels, usize::MAX)?;
    let targets: Vec<usize> = labels.iter().filter_map(|label| classes.place(label)).collect();
    let count = classes.count();
    // Labels are looked at before anything is fitted.
    let tests = (tests.iter())
        .map(|(set, features)| Ok((*set, *features, places(args.labels, &classes, set, features)?)))
        .collect::<Result<Vec<_>>>()?;

    let unit = training.features()?;
    let includes = |kind| args.kind.includes(kind);
    let recipe = recipe(&args.pooler, args.seed, targets.len());
    // Pixels alone vote as features do, and take as long.
    let thumbnails = includes(ProbeKind::Knn).then(|| training.thumbnails()).transpose()?;
    let time = if args.time_embedding { Some(Time::like(training)?) } else { None };
    let (mut trained, mut of_one_frame) = (None, None);
    if includes(ProbeKind::Pooler) {
        let config = HeadConfig::of_images(model.config(), count);
        let train = |rows: Rows<'_>| pooler::train(config, &recipe, &rows, &targets, queue);
        trained = Some(train(Rows { features: training, frames: Frames::All, time })?);
        if training.images() > 1 {
            of_one_frame = Some(train(Rows { features: training, frames: Frames::Middle, time: None })?);
        }
    }
    let mut linear = None;
    if includes(ProbeKind::Linear) {
        let config = HeadConfig::of_features(model.config(), count);
        linear = Some(Linear::fit(config, &unit, &targets, args.seed, queue)?);
    }

    let mut figures = Vec::with_capacity(tests.len());
    for (set, features, found) in tests {
        let right: Vec<Option<usize>> = found.iter().copied().filter(Option::is_some).collect();
        // Rows of the images that are of a known class.
        let known = |scores: Vec<f32>| -> Vec<f32> {
            let rows = scores.chunks_exact(count).zip(&found).filter(|(_, class)| class.is_some());
            rows.flat_map(|(row, _)| row).copied().collect()
        };
        let queries = features.features()?;
        let mut scores = Vec::new();
        let mut add = |probe, rows| scores.push(Score::of(probe, &known(rows), count, &right));
        if let Some(head) = &trained {
            let rows = Rows { features, frames: Frames::All, time };
            add("attentional pooler", pooler::logits(head, &rows, recipe.batch, queue)?);
            if let Some(of_one_frame) = &of_one_frame {
                let middle = Rows { features, frames: Frames::Middle, time: None };
                add("  single frame", pooler::logits(of_one_frame, &middle, recipe.batch, queue)?);
                let shuffled = Rows { frames: Frames::Shuffled(args.seed), ..rows };
                add("  shuffled frames", pooler::logits(head, &shuffled, recipe.batch, queue)?);
            }
        }
        if let Some(linear) = &linear {
            add("linear", linear.logits(&queries, queue)?);
        }
        if let Some((thumbnails, pixels)) = &thumbnails {
            let votes = |queries: &[f32], training: &[f32], width| {
                queue.enter(|| neighbours::votes(queries, training, width, &targets, count))
            };
            add("nearest neighbours", votes(&queries, &unit, model.config().embed_dim));
            add("pixels alone", votes(&features.thumbnails()?.0, thumbnails, *pixels));
        }
        scores.extend([Score::of_majority(&classes, &right), Score::of_chance(count)]);
        let (skipped, left_out) = (features.skipped().0.clone(), found.len() - right.len());
        figures.push(SetFigures { set: set.name.clone(), count: right.len(), left_out, skipped, scores });
    }
    let names = classes.names(&set.source.classes().unwrap_or_default());
    let fitted = linear.as_ref().map(|linear| json!({"penalty": linear.penalty, "held_out_top1": linear.held_out}));
    if let Some(linear) = &linear {
        let share = percent(linear.held_out);
        text += &format!("linear: penalty {:e}, {share} % of the held-out tenth right\n", linear.penalty);
    }
    if let Some(path) = &args.json {
        let figures = json!({
            "model": args.model, "data": set.name, "count": targets.len(), "classes": names,
            "labels": args.labels.name(), "dtype": args.dtype, "seed": args.seed,
            "pooler": trained.as_ref().map(|_| &recipe), "linear": fitted, "frames": args.video.video.then_some(training.images()),
            "time_amplitude": time.map(|time| time.amplitude),
            "neighbours": includes(ProbeKind::Knn).then_some(
                json!({"count": neighbours::NEIGHBOURS, "temperature": neighbours::TEMPERATURE})
            ),
            "sets": figures,
        });
        write_atomically(path, |file| write!(file, "{figures:#}"))?;
    }
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let heads = [("pooler", trained.as_ref()), ("linear", linear.as_ref().map(|linear| &linear.head))];
        for (name, head) in heads.into_iter().filter_map(|(name, head): (_, Option<&Head>)| Some((name, head?))) {
            let path = folder.join(format!("{name}.safetensors"));
            head.save(&path, &names)?;
            text += &format!("written to {}\n", path.display());
        }
    }
    Ok(rows(&figures, count) + &text)
}

/// The training set and the test sets. `emoji` alone is the training split where it is learnt from, as for `coca train`.
fn open_sets(args: &ProbeArgs) -> Result<Vec<EvalSet>> {
    let data = args.data_config()?;
    let learnt = if args.data == "emoji" { format!("emoji:{}", Split::Train.name()) } else { args.data.clone() };
    let sets: Vec<_> = std::iter::once(&learnt).chain(&args.test).map(|name| (name.clone(), data.clone())).collect();
    EvalSet::open(&sets)
}

fn recipe(args: &PoolerArgs, seed: u64, samples: usize) -> Recipe {
    let batch = args.batch_size.get().min(samples);
    let steps = args.steps.map_or_else(|| args.epochs.get() * samples.div_ceil(batch) as u64, |steps| steps.get());
    Recipe {
        steps,
        warmup_steps: args.warmup_steps,
        batch,
        learning_rate: args.learning_rate,
        label_smoothing: args.label_smoothing,
        weight_decay: args.weight_decay,
        average: args.ema,
        seed,
    }
}

/// How the samples of a set are labelled.
fn labelling(kind: LabelKind, set: &EvalSet, features: &Features) -> Result<Labelling> {
    Labelling::of(kind, &set.name, set.bundled.as_ref().map(|(bundle, _)| bundle.as_ref()), features.samples())
}

/// The class of each sample of a test set; none if training had no such class.
fn places(kind: LabelKind, classes: &Classes, set: &EvalSet, features: &Features) -> Result<Vec<Option<usize>>> {
    let labelling = labelling(kind, set, features)?;
    let labels = labelling.labels(&set.name, features.samples())?;
    let places: Vec<Option<usize>> = labels.iter().map(|label| classes.place(label)).collect();
    if places.iter().all(Option::is_none) {
        let (set, label) = (&set.name, labels.first().unwrap_or(&""));
        return Err(Error::invalid(format!(
            "{set}: no sample is of a class of the training set (its first is of '{label}'); see --labels"
        )));
    }
    Ok(places)
}

fn rows(figures: &[SetFigures], classes: usize) -> String {
    let mut rows = Vec::new();
    for SetFigures { set, count, scores, .. } in figures {
        rows.push(vec![
            set.clone(),
            count.to_string(),
            classes.to_string(),
            String::new(),
            String::new(),
            String::new(),
        ]);
        rows.extend(scores.iter().map(|Score { probe, top1, top5, mean_per_class }| {
            let shares = [top1, top5, mean_per_class].map(|&share| percent(share));
            [format!("  {probe}"), String::new(), String::new()].into_iter().chain(shares).collect()
        }));
    }
    let mut text = table(&["probe", "images", "classes", "top-1 %", "top-5 %", "mean per class %"], &rows);
    for SetFigures { set, left_out, .. } in figures.iter().filter(|row| row.left_out > 0) {
        text += &format!("{set}: {left_out} images of classes that training has not left out\n");
    }
    text
}
