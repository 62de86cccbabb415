//! What the suite measures: commands of this program, the set that each needs, and how its figures become rows.

use super::row::{self, Figures, Row};
use super::sets::Sets;
use crate::data::emoji::{Split, Vendor};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// The parts of the page, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Zero-shot classification
    ZeroShot,
    /// Cross-modal retrieval
    Retrieval,
    /// Captions
    Captions,
    /// Classifiers on the frozen image encoder
    Probe,
    /// Fine-tuning of the whole encoder
    Finetune,
    /// Clips
    Video,
    /// Questions, statements, pairs of images
    Understanding,
    /// The same towers trained with other losses, given by --beside
    Paradigms,
}

impl Section {
    /// Its heading, and what it is about.
    pub fn heading(self) -> (&'static str, &'static str) {
        match self {
            Section::ZeroShot => (
                "Zero-shot classification",
                "The class whose name is nearest to the picture among the names of all classes. No training.",
            ),
            Section::Retrieval => {
                ("Retrieval", "How often the first result is the right one, among the whole set. No training.")
            }
            Section::Captions => ("Captions", "Written by the decoder from the picture alone. No training."),
            Section::Probe => (
                "Frozen features",
                "The image encoder is frozen. On what it gives an attentional pooler with a softmax layer learns, or a linear \
                 layer alone; or the nearest training picture tells the class.",
            ),
            Section::Finetune => {
                ("Fine-tuning", "The same head, and the whole encoder with it, at twice the resolution.")
            }
            Section::Video => (
                "Clips",
                "Frames are encoded one by one. Without training their mean is compared with names; with training one query \
                 reads the rows of all frames, which the encoder, still frozen, gave.",
            ),
            Section::Understanding => (
                "Image and text together",
                "Fine-tuned on captions of scenes first, at twice the resolution. From there on a pooler over the decoder's rows \
                 learns to answer questions and to judge statements. Its control learns the same way and sees no image.",
            ),
            Section::Paradigms => (
                "The same towers, trained with other losses",
                "Same data, same steps: a classifier's loss alone, the contrastive loss alone, the captioning loss alone.",
            ),
        }
    }
}

/// A command that is run once, and keeps its figures in a file.
pub struct Measurement {
    /// Names its file, and its run folder if it trains the model.
    pub stem: String,
    /// Where its rows stand.
    pub section: Section,
    /// Folder of the model that it is of, or of the run that makes it.
    pub model: PathBuf,
    /// What follows `coca`, without where its figures go.
    pub words: Vec<String>,
    /// Whether it is a run with a report, or writes its figures with `--json`.
    pub trains: bool,
    /// The rows of its figures.
    pub rows: Rows,
}

/// What is planned, and the sets that are not there for more.
#[derive(Default)]
pub struct Plan {
    /// In the order of the page.
    pub measurements: Vec<Measurement>,
    /// Names of sets.
    pub missing: Vec<&'static str>,
}

/// The run that learns to describe scenes, before tasks on them.
const SCENES: &str = "scenes";

/// What the model is called among others.
pub const THIS: &str = "this model";

/// The folder of a model that is compared with, from its name.
pub fn folder_name(name: &str) -> String {
    name.replace([' ', '/'], "-")
}

/// The rows of figures.
pub type Rows = fn(&Figures<'_>) -> Vec<Row>;

/// Everything that can be measured of a model.
pub struct Planner<'a> {
    /// Its folder.
    pub model: &'a Path,
    /// Side of its pictures.
    pub image_size: usize,
    /// Where larger sets are.
    pub sets: &'a Sets,
    /// Where runs and figures go.
    pub out: &'a Path,
    /// Steps of each training.
    pub steps: u64,
    /// Names and folders of the models to compare with.
    pub beside: &'a [(String, PathBuf)],
    /// What is measured.
    pub sections: &'a [Section],
}

impl Planner<'_> {
    /// The plan.
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for &section in self.sections {
            self.section(section, &mut plan);
        }
        plan.missing.sort_unstable();
        plan.missing.dedup();
        plan
    }

    fn section(&self, section: Section, plan: &mut Plan) {
        let styles = [Vendor::NotoV1, Vendor::Fxemoji, Vendor::EmojioneMonotone].map(Split::Style);
        let emoji = |split: &Split| format!("emoji:{}", split.name());
        let styles: Vec<String> = styles.iter().map(emoji).collect();
        let mut all = styles.clone();
        all.push(emoji(&Split::Fresh));
        let mut add_of =
            |model: &Path, stem: &str, command: &str, lists: &[(&str, &[String])], trains: bool, rows: Rows| {
                let mut words: Vec<String> = command.split(' ').map(str::to_owned).collect();
                words.extend(["--model".to_owned(), model.display().to_string()]);
                for (flag, values) in lists {
                    values.iter().for_each(|value| words.extend([format!("--{flag}"), value.clone()]));
                }
                if trains {
                    words.extend(["--steps".to_owned(), self.steps.to_string()]);
                }
                let (stem, model) = (stem.to_owned(), model.to_owned());
                plan.measurements.push(Measurement { stem, section, model, words, trains, rows });
            };
        if section == Section::Paradigms {
            let set = [emoji(&Split::Style(Vendor::NotoV1))];
            let (learnt, labels) = (["emoji".to_owned()], ["group".to_owned()]);
            let this = (THIS.to_owned(), self.model.to_owned());
            for (name, folder) in std::iter::once(&this).filter(|_| !self.beside.is_empty()).chain(self.beside) {
                let stem = |what: &str| format!("beside/{}/{what}", folder_name(name));
                let data: [(&str, &[String]); 1] = [("data", &set)];
                add_of(folder, &stem("zero-shot"), "eval zero-shot", &data, false, row::beside_zero_shot);
                add_of(folder, &stem("captions"), "eval caption", &data, false, row::beside_captions);
                let lists: [(&str, &[String]); 3] = [("data", &learnt), ("test", &set), ("labels", &labels)];
                add_of(folder, &stem("probe"), "probe", &lists, false, row::beside_probe);
            }
            return;
        }
        let mut add = |stem: &str, command: &str, lists: &[(&str, &[String])], trains: bool, rows: Rows| {
            add_of(self.model, stem, command, lists, trains, rows);
        };
        // A set's split as a list of one name, if the set is there.
        let mut missing = Vec::new();
        let mut find = |set: &'static str, split: &str| -> Option<Vec<String>> {
            let found = self.sets.shards(set, split);
            if found.is_none() {
                missing.push(set);
            }
            found.map(|name| vec![name])
        };
        let twice = [(2 * self.image_size).to_string()];
        // A tower as small as those that two cores train needs more than the paper's rates, down to 2e-5.
        let (rate, half) = (["1e-3".to_owned()], ["5e-4".to_owned()]);
        match section {
            Section::ZeroShot | Section::Retrieval | Section::Captions => {
                let (name, command, rows, larger): (_, _, Rows, &[(&'static str, &str)]) = match section {
                    Section::ZeroShot => {
                        let larger = &[("tuxstamps", "all"), ("fashion-mnist", "test")];
                        ("zero-shot", "eval zero-shot", row::zero_shot, larger)
                    }
                    Section::Retrieval => {
                        let larger = &[("openclipart", "test"), ("icons", "test"), ("tuxstamps", "all")];
                        ("retrieval", "eval retrieval", row::retrieval, larger)
                    }
                    _ => ("captions", "eval caption", row::captions, &[("openclipart", "test"), ("tuxstamps", "all")]),
                };
                add(&format!("{name}-emoji"), command, &[("data", &all)], false, rows);
                for &(set, split) in larger {
                    if let Some(data) = find(set, split) {
                        add(&format!("{name}-{set}"), command, &[("data", &data)], false, rows);
                    }
                }
            }
            Section::Probe => {
                let learnt = ["emoji".to_owned()];
                for labels in ["group", "subgroup"] {
                    let lists: [(&str, &[String]); 3] =
                        [("data", &learnt), ("test", &styles), ("labels", &[labels.to_owned()])];
                    add(&format!("probe-{labels}"), "probe", &lists, false, row::probe);
                }
                if let (Some(data), Some(test)) = (find("fashion-mnist", "train"), find("fashion-mnist", "test")) {
                    add("probe-fashion-mnist", "probe", &[("data", &data), ("test", &test)], false, row::probe);
                }
            }
            Section::Finetune => {
                let learnt = [emoji(&Split::Train)];
                for labels in ["group", "subgroup"] {
                    let lists: [(&str, &[String]); 6] = [
                        ("data", &learnt),
                        ("test", &styles),
                        ("labels", &[labels.to_owned()]),
                        ("image-size", &twice),
                        ("learning-rate", &rate),
                        ("encoder-rate", &rate),
                    ];
                    add(&format!("finetune-{labels}"), "finetune --task classes", &lists, true, row::classes);
                }
                if let (Some(data), Some(test)) = (find("fashion-mnist", "train"), find("fashion-mnist", "test")) {
                    let lists: [(&str, &[String]); 5] = [
                        ("data", &data),
                        ("test", &test),
                        ("image-size", &twice),
                        ("learning-rate", &rate),
                        ("encoder-rate", &rate),
                    ];
                    add("finetune-fashion-mnist", "finetune --task classes", &lists, true, row::classes);
                }
            }
            Section::Video => {
                if let Some(data) = find("animated-emoji", "test") {
                    add("video-emoji", "eval zero-shot --video", &[("data", &data)], false, row::zero_shot);
                    add("video-retrieval-emoji", "eval retrieval --video", &[("data", &data)], false, row::retrieval);
                }
                if let (Some(data), Some(test)) = (find("scenes", "motion-train"), find("scenes", "motion-test")) {
                    let lists: [(&str, &[String]); 2] = [("data", &data), ("test", &test)];
                    add("video-motion", "probe --video --frames 8 --time-embedding", &lists, false, row::video);
                }
            }
            Section::Understanding => {
                if let (Some(learnt), Some(test)) = (find("scenes", "train"), find("scenes", "test")) {
                    let tuned = self.out.join(SCENES);
                    let lists: [(&str, &[String]); 3] =
                        [("data", &learnt), ("image-size", &twice), ("learning-rate", &rate)];
                    add(SCENES, "finetune --task caption", &lists, true, row::none);
                    let data: [(&str, &[String]); 1] = [("data", &test)];
                    add("captions-scenes-before", "eval caption", &data, false, row::none);
                    add_of(&tuned, "captions-scenes", "eval caption", &data, false, row::captions_after);
                    for (task, kind, split) in
                        [("vqa", "questions", ""), ("entailment", "statements", ""), ("pair", "pairs", "pairs-")]
                    {
                        let mut part = |name: &str| {
                            let shards = find("scenes", &format!("{split}{name}"))?;
                            Some(shards.iter().map(|shards| format!("scene-{kind}:{shards}")).collect::<Vec<_>>())
                        };
                        let (Some(data), Some(test)) = (part("train"), part("test")) else { continue };
                        let lists: [(&str, &[String]); 4] =
                            [("data", &data), ("test", &test), ("learning-rate", &rate), ("encoder-rate", &half)];
                        // The control first: the row of the other one refers to it.
                        let command = format!("finetune --task {task}");
                        let (stem, blank) = (format!("{task}-blank"), format!("{command} --blank-images"));
                        add_of(&tuned, &stem, &blank, &lists, true, row::none);
                        add_of(&tuned, task, &command, &lists, true, row::understanding);
                    }
                }
            }
            Section::Paradigms => unreachable!("returned above"),
        }
        plan.missing.extend(missing);
    }
}
