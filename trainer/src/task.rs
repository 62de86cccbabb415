//! A downstream task: what it asks of its samples, and the classes that its training data has.

use crate::classes::{Classes, Labelling, Listed};
use crate::config::{Config, LabelKind, TaskKind};
use crate::data::emoji::EmojiSet;
use crate::data::{Fault, Ledger, Raw, Source, listed};
use crate::evaluate::QuestionFloor;
use crate::{Error, Result};
use model::config::CocaConfig;
use model::heads::HeadConfig;
use model::task::Reads;
use serde::{Deserialize, Serialize};

/// A task with its classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Which one.
    pub kind: TaskKind,
    /// What its samples are labelled with.
    pub labels: LabelKind,
    /// Images of a sample.
    pub images: usize,
    /// The classes.
    pub classes: Classes,
    /// Whether the first captions are the labels of the training data.
    captions: bool,
    /// How the training data is labelled; not kept, see [`Task::resume`].
    #[serde(skip)]
    labelling: Option<Labelling>,
}

impl Task {
    /// The task of a configuration; none if that is pretraining. Every sample is read once for its label; images are not
    /// decoded.
    ///
    /// # Errors
    /// The data has no such labels, fewer than two classes, another number of images than the task reads, or too large a share
    /// is faulty.
    pub fn of_training(config: &Config, source: &dyn Source) -> Result<Option<Task>> {
        let (kind, labels, images) = (config.task.kind, config.task.labels, source.images());
        kind.check_images(&source.name(), images)?;
        if kind == TaskKind::Pretrain {
            return Ok(None);
        }
        let name = source.name();
        let samples = listed(source, &mut Ledger::new(config.data.max_bad_share))?;
        let captions = kind == TaskKind::Classes && samples.iter().all(|listed| listed.class.is_none());
        let labelling = Labelling::new(labels, &name, bundled(labels, &name)?.as_ref(), captions)?;
        let found: Vec<&str> = samples.iter().filter_map(|listed| labelling.label(listed).ok()).collect();
        if found.is_empty() {
            let kind = kind.name();
            return Err(Error::invalid(format!("{name}: no sample has a class, which the task {kind} is about")));
        }
        let most = if kind == TaskKind::Vqa { config.task.answers } else { usize::MAX };
        let classes = Classes::of(&name, &found, most)?;
        Ok(Some(Task { kind, labels, images, classes, captions, labelling: Some(labelling) }))
    }

    /// A task that was kept, on its training data again.
    ///
    /// # Errors
    /// It is another one than the configuration's, or the data has no such labels.
    pub fn resume(self, config: &Config, source: &dyn Source) -> Result<Task> {
        let (wanted, name) = (&config.task, source.name());
        if (self.kind, self.labels) != (wanted.kind, wanted.labels) || self.images != source.images() {
            return Err(Error::invalid(format!(
                "the checkpoint is of the task {} on {} images a sample, labelled by {}; the configuration wants {} on {}, by {}",
                self.kind.name(),
                self.images,
                self.labels.name(),
                wanted.kind.name(),
                source.images(),
                wanted.labels.name()
            )));
        }
        let labelling = Labelling::new(self.labels, &name, bundled(self.labels, &name)?.as_ref(), self.captions)?;
        Ok(Task { labelling: Some(labelling), ..self })
    }

    /// What the head reads.
    pub fn reads(&self) -> Reads {
        match self.kind {
            TaskKind::Pretrain | TaskKind::Classes => Reads::Images,
            TaskKind::Vqa | TaskKind::Entailment | TaskKind::Pair => Reads::Texts,
        }
    }

    /// The head of a model for it.
    pub fn head(&self, model: &CocaConfig) -> HeadConfig {
        self.reads().head(model, self.images, self.classes.count())
    }

    /// The label of a sample of the training data, and its class: -1 if it is none of the classes.
    ///
    /// # Errors
    /// It has none.
    pub fn target(&self, raw: &Raw) -> std::result::Result<(String, i32), Fault> {
        let sample = Listed::new(&raw.key, &raw.captions, raw.labels.clone());
        let label = match &self.labelling {
            Some(labelling) => labelling.label(&sample)?.to_owned(),
            None => sample.caption,
        };
        let class = self.classes.place(&label).map_or(-1, |class| class as i32);
        Ok((label, class))
    }

    /// Whether a test set is one for the head.
    ///
    /// # Errors
    /// Its samples have another number of images, or other labels.
    pub fn check(&self, set: &dyn Source) -> Result<()> {
        let (name, found, wanted) = (set.name(), set.images(), self.images);
        if found != wanted {
            return Err(Error::invalid(format!(
                "{name}: a sample has {found} images, the head was trained on {wanted}"
            )));
        }
        Labelling::new(self.labels, &name, bundled(self.labels, &name)?.as_ref(), false).map(drop)
    }

    /// What the training data says of texts alone, of a task that has texts. It is read once more for it.
    ///
    /// # Errors
    /// Too large a share of it is faulty.
    pub fn floor(&self, source: &dyn Source, max_bad_share: f64) -> Result<Option<QuestionFloor>> {
        let (Reads::Texts, Some(labelling)) = (self.reads(), &self.labelling) else { return Ok(None) };
        let samples = listed(source, &mut Ledger::new(max_bad_share))?;
        let texts = samples.iter().filter_map(|sample| Some((sample.caption.as_str(), labelling.label(sample).ok()?)));
        Ok(Some(QuestionFloor::learn(texts)))
    }

    /// The class of every sample of a test set; none where training has no such class.
    ///
    /// # Errors
    /// The set has no such labels, or a sample has none.
    pub fn places(&self, set: &str, bundled: Option<&EmojiSet>, samples: &[Listed]) -> Result<Vec<Option<usize>>> {
        let captions = self.kind == TaskKind::Classes && samples.iter().all(|listed| listed.class.is_none());
        let labelling = Labelling::new(self.labels, set, bundled, captions)?;
        Ok(labelling.labels(set, samples)?.into_iter().map(|label| self.classes.place(label)).collect())
    }
}

impl TaskKind {
    /// Whether samples of so many images are what is trained on.
    ///
    /// # Errors
    /// They are not.
    pub fn check_images(self, set: &str, images: usize) -> Result<()> {
        let wanted = match self {
            TaskKind::Pretrain | TaskKind::Vqa | TaskKind::Entailment => 1,
            TaskKind::Pair => 2,
            TaskKind::Classes => images,
        };
        if images != wanted {
            let kind = self.name();
            return Err(Error::invalid(format!(
                "{set}: a sample has {images} images, and task.kind = \"{kind}\" reads {wanted}"
            )));
        }
        Ok(())
    }
}

/// The mean colour of a model's images, `count` values of u8 `[…, 3]`: after normalisation zero, so that nothing is seen.
pub fn blank(model: &CocaConfig, count: usize) -> Vec<u8> {
    let colour = model.image.mean.map(|mean| (255.0 * mean).round() as u8);
    colour.into_iter().cycle().take(count).collect()
}

/// The bundled set, where labels are looked up in it.
fn bundled(labels: LabelKind, name: &str) -> Result<Option<EmojiSet>> {
    let needed = labels != LabelKind::Name && name.starts_with("emoji:");
    needed.then(EmojiSet::bundled).transpose()
}
