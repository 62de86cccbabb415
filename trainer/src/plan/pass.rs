//! A pass of a run, recorded and never run: of pairs, or of a task's samples.

use crate::Result;
use crate::config::Config;
use crate::run::{PairStepper, SampleStepper};
use crate::task::Task;
use engine::{Program, Workspace};
use model::Coca;
use model::config::TextConfig;
use model::packing::PackedText;
use model::task::{Reads, TaskPlan, TaskStep, TaskTexts};
use model::train::{Contrast, StepPlan, TrainStep};

/// A recorded pass.
#[derive(Debug)]
pub(super) enum Pass {
    /// Of pretraining.
    Pairs(TrainStep),
    /// Of a task.
    Samples(TaskStep),
}

impl Pass {
    /// A pass over `batch` pairs or samples, with this many rows in text tower and decoder if it has texts.
    ///
    /// # Errors
    /// The batch is too large for an op.
    pub fn new(
        config: &Config,
        task: Option<&Task>,
        model: &Coca,
        batch: usize,
        (text_rows, decoder_rows): (usize, usize),
    ) -> Result<Pass> {
        let workspace = Workspace::new();
        let Some(task) = task else {
            let plan = StepPlan { batch, text_rows, decoder_rows, ..PairStepper::new(config)?.plan() };
            return Ok(Pass::Pairs(TrainStep::new(model, plan, &workspace)?));
        };
        let plan = TaskPlan { samples: batch, ..SampleStepper::new(config, task)?.plan() };
        let plan = match plan.reads {
            Reads::Images => plan,
            Reads::Texts => TaskPlan { text_rows, decoder_rows, ..plan },
        };
        Ok(Pass::Samples(TaskStep::new(model, plan, &workspace)?))
    }

    /// Its program.
    pub fn program(&self) -> &Program {
        match self {
            Pass::Pairs(step) => step.program(),
            Pass::Samples(step) => step.program(),
        }
    }

    /// Pairs or samples.
    pub fn batch(&self) -> usize {
        match self {
            Pass::Pairs(step) => step.plan().batch,
            Pass::Samples(step) => step.plan().samples,
        }
    }

    /// Images of all of them.
    pub fn images(&self) -> usize {
        match self {
            Pass::Pairs(step) => step.plan().batch,
            Pass::Samples(step) => step.plan().samples * step.plan().images,
        }
    }

    /// Rows in text tower and decoder.
    pub fn rows(&self) -> (usize, usize) {
        match self {
            Pass::Pairs(step) => (step.plan().text_rows, step.plan().decoder_rows),
            Pass::Samples(step) => (step.plan().text_rows, step.plan().decoder_rows),
        }
    }

    /// Whether features and their gradients come from elsewhere.
    pub fn is_given_features(&self) -> bool {
        matches!(self, Pass::Pairs(step) if step.plan().contrastive == Contrast::Given)
    }

    /// Floating-point operations, given images and texts: recorded ops know their work once a batch is there.
    ///
    /// # Errors
    /// The texts do not fit.
    pub fn flops(&self, images: &[u8], texts: &[&[i32]], config: &TextConfig) -> Result<f64> {
        let cost = match self {
            Pass::Pairs(step) => {
                step.write(images, &PackedText::new(texts, config)?)?;
                step.cost()?
            }
            Pass::Samples(step) => {
                let texts = match step.plan().reads {
                    Reads::Images => None,
                    Reads::Texts => Some(TaskTexts::new::<_, Vec<i32>>(texts, &[], config)?),
                };
                step.write(images, texts.as_ref(), &vec![0; step.plan().samples])?;
                step.cost()?
            }
        };
        Ok(cost.flops)
    }
}
