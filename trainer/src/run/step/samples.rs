//! The gradient of a task's samples under the loss of their classes and, where question and answer are to be written too, the
//! caption loss. Several passes give the gradient of one over all their samples.

use super::{Gradient, Observers, checkpointing, counted, grown, guard_bytes, shares, weight};
use crate::Result;
use crate::config::{Config, TaskKind};
use crate::data::Batch;
use crate::run::device::prepare;
use crate::task::{Task, blank};
use engine::{Device, Program, Queue, Workspace};
use model::Coca;
use model::config::TextConfig;
use model::task::{Reads, TaskPlan, TaskStep, TaskTexts};

/// Plans and runs the passes of a step.
#[derive(Debug)]
pub struct SampleStepper {
    plan: TaskPlan,
    /// Of the caption loss; 0 without one.
    caption_weight: f32,
    /// Whether no image is to be seen.
    blank: bool,
    workspace: Workspace,
    pass: Option<TaskStep>,
}

impl SampleStepper {
    /// A stepper for the batch, losses and checks of a configuration.
    ///
    /// # Errors
    /// The weight of the caption loss is negative or no number.
    pub fn new(config: &Config, task: &Task) -> Result<SampleStepper> {
        let caption_weight = match task.kind {
            TaskKind::Vqa => weight("caption_weight", config.loss.caption_weight)?,
            _ => 0.0,
        };
        let plan = TaskPlan {
            samples: config.batch.size,
            images: task.images,
            reads: task.reads(),
            text_rows: 0,
            decoder_rows: 0,
            label_smoothing: config.task.label_smoothing as f32,
            caption: caption_weight > 0.0,
            checkpointing: checkpointing(config),
            guard_bytes: guard_bytes(config)?,
        };
        let blank = config.task.blank_images;
        Ok(SampleStepper { plan, caption_weight, blank, workspace: Workspace::new(), pass: None })
    }

    /// See [`Stepper::on`](super::Stepper::on).
    pub fn on(self, device: &Device) -> SampleStepper {
        SampleStepper { workspace: Workspace::on(device), pass: None, ..self }
    }

    /// Sizes and choices of the pass, for the texts met so far.
    pub fn plan(&self) -> TaskPlan {
        self.plan
    }

    /// See [`Stepper::workspace`](super::Stepper::workspace).
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// See [`Stepper::program`](super::Stepper::program).
    pub fn program(&self) -> Option<&Program> {
        self.pass.as_ref().map(TaskStep::program)
    }

    /// See [`Stepper::unreached`](super::Stepper::unreached).
    pub fn unreached(&self, model: &Coca) -> Result<Vec<String>> {
        Ok(self.longest(model)?.unreached().to_vec())
    }

    /// A pass that holds the longest texts there can be.
    pub(super) fn longest(&self, model: &Coca) -> Result<TaskStep> {
        TaskStep::new(model, self.plan.with_longest_texts(model), &Workspace::new())
    }

    /// See [`Stepper::run`](super::Stepper::run).
    pub fn run(&mut self, queue: &Queue, model: &Coca, batches: &[Batch], observers: Observers) -> Result<Gradient> {
        let text = &model.config().text;
        let texts = batches.iter().map(|batch| self.texts(batch, text)).collect::<Result<Vec<_>>>()?;
        self.fit(queue, model, &texts)?;
        let mut gradient = Gradient::default();
        let Some(pass) = &mut self.pass else { return Ok(gradient) };
        let labelled = |batch: &Batch| batch.classes.iter().filter(|&&class| class >= 0).count();
        let said = |texts: &Option<TaskTexts>| texts.as_ref().map_or(0, |texts| counted(&texts.packed, text));
        let class_shares = shares(batches.iter().map(labelled));
        let caption_shares = shares(texts.iter().map(said));
        for (index, (batch, texts)) in batches.iter().zip(&texts).enumerate() {
            let nothing = self.blank.then(|| blank(model.config(), batch.images.len()));
            pass.write(nothing.as_ref().unwrap_or(&batch.images), texts.as_ref(), &batch.classes)?;
            let (class, caption) = (class_shares[index], caption_shares[index]);
            let caption_weight = (f64::from(self.caption_weight) * caption) as f32;
            let losses = pass.run(queue, class as f32, caption_weight, index > 0, observers)?;
            gradient.losses.class += (f64::from(losses.class) * class) as f32;
            gradient.losses.caption += (f64::from(losses.caption) * caption) as f32;
            // A text has one decoder row fewer than tokens.
            let tokens = |texts: &TaskTexts| texts.packed.decoder_rows.len() + texts.packed.texts();
            gradient.tokens += texts.as_ref().map_or(0, tokens);
            gradient.flops += pass.cost()?.flops;
        }
        Ok(gradient)
    }

    /// The texts of a batch, one for each image: of a pair the statement twice.
    fn texts(&self, batch: &Batch, config: &TextConfig) -> Result<Option<TaskTexts>> {
        if self.plan.reads == Reads::Images {
            return Ok(None);
        }
        let each = |ids: &'_ Vec<i32>| std::iter::repeat_n(ids.clone(), self.plan.images);
        let questions: Vec<Vec<i32>> = batch.texts.iter().flat_map(each).collect();
        let answers = match self.plan.caption {
            true => batch.labels.iter().flat_map(each).map(Some).collect(),
            false => Vec::new(),
        };
        TaskTexts::new(&questions, &answers, config).map(Some)
    }

    /// Makes or remakes the plan so that these texts fit, with room for longer ones.
    fn fit(&mut self, queue: &Queue, model: &Coca, texts: &[Option<TaskTexts>]) -> Result<()> {
        if self.pass.is_some() && texts.iter().all(|texts| self.plan.fits(texts.as_ref())) {
            return Ok(());
        }
        let (count, planned) = (self.plan.samples * self.plan.images, (self.plan.text_rows, self.plan.decoder_rows));
        let packed = texts.iter().flatten().map(|texts| &texts.packed);
        (self.plan.text_rows, self.plan.decoder_rows) = grown(planned, packed, count, &model.config().text);
        self.pass = None; // free the old one first
        let pass = self.pass.insert(TaskStep::new(model, self.plan, &self.workspace)?);
        prepare(queue, pass.program())
    }
}
