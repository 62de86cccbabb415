//! The gradient of pairs under the two losses: one pass over a batch, or several passes whose contrastive loss is still taken
//! over all pairs (features first, then their gradients, then every pass again with those given).

use super::{Gradient, Observers, checkpointing, counted, grown, guard_bytes, shares, weight};
use crate::config::Config;
use crate::data::Batch;
use crate::run::device::prepare;
use crate::{Error, Result};
use engine::{Compile, DType, Device, Meta, Program, Queue, Tape, Tensor, Workspace};
use kernels::contrastive::contrastive;
use model::config::CocaConfig;
use model::encoder::{ImageEncoder, TextEncoder};
use model::flops::Flops;
use model::packing::PackedText;
use model::train::{Contrast, StepPlan, TrainStep};
use model::{Coca, LOGIT_SCALE};

/// Plans and runs the passes of a step. Plans are made when a batch first needs them and grow with the texts.
#[derive(Debug)]
pub struct PairStepper {
    plan: StepPlan,
    weights: (f32, f32),
    workspace: Workspace,
    pass: Option<TrainStep>,
    features: Option<Features>,
}

/// The programs that accumulation needs besides the pass itself.
#[derive(Debug)]
struct Features {
    images: ImageEncoder,
    texts: TextEncoder,
    contrastive: WholeContrastive,
}

impl Features {
    /// Plans for `passes` passes in a step.
    fn new(model: &Coca, plan: StepPlan, passes: usize, workspace: &Workspace) -> Result<Features> {
        let settings = Compile { guard_bytes: plan.guard_bytes };
        Ok(Features {
            images: ImageEncoder::compile(model, plan.batch, workspace, settings)?,
            texts: TextEncoder::compile(model, plan.batch, workspace, settings)?,
            contrastive: WholeContrastive::new(model, plan.batch * passes, workspace, settings)?,
        })
    }

    fn programs(&self) -> impl Iterator<Item = &Program> {
        [self.images.program(), self.texts.program(), &self.contrastive.program].into_iter()
    }
}

impl PairStepper {
    /// A stepper for the batch, losses and checks of a configuration.
    ///
    /// # Errors
    /// Both losses have weight 0, or a weight is negative or no number.
    pub fn new(config: &Config) -> Result<PairStepper> {
        let weights = (
            weight("contrastive_weight", config.loss.contrastive_weight)?,
            weight("caption_weight", config.loss.caption_weight)?,
        );
        let contrastive = match (weights.0 > 0.0, config.batch.accumulation) {
            (false, _) => Contrast::Off,
            (true, 0 | 1) => Contrast::Within,
            (true, _) => Contrast::Given,
        };
        if weights == (0.0, 0.0) {
            return Err(Error::invalid("loss.contrastive_weight and loss.caption_weight are both 0: nothing to train"));
        }
        let plan = StepPlan {
            batch: config.batch.size,
            text_rows: 0,
            decoder_rows: 0,
            checkpointing: checkpointing(config),
            contrastive,
            caption: weights.1 > 0.0,
            guard_bytes: guard_bytes(config)?,
        };
        Ok(PairStepper { plan, weights, workspace: Workspace::new(), pass: None, features: None })
    }

    /// See [`Stepper::on`](super::Stepper::on).
    pub fn on(self, device: &Device) -> PairStepper {
        PairStepper { workspace: Workspace::on(device), pass: None, features: None, ..self }
    }

    /// Sizes and choices of the pass, for the texts met so far.
    pub fn plan(&self) -> StepPlan {
        self.plan
    }

    /// The activation arena, for other programs that run between steps.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The program of a pass, once there is one.
    pub fn pass(&self) -> Option<&TrainStep> {
        self.pass.as_ref()
    }

    /// Parameters that get no gradient in a step, by name.
    ///
    /// # Errors
    /// The batch is too large for an op.
    pub fn unreached(&self, model: &Coca) -> Result<Vec<String>> {
        let pass = self.longest(model)?;
        // Where the contrastive loss is taken over several passes, the temperature is not in the pass itself.
        let elsewhere = |name: &str| self.plan.contrastive == Contrast::Given && name == LOGIT_SCALE;
        Ok(pass.unreached().iter().filter(|name| !elsewhere(name)).cloned().collect())
    }

    /// See [`Stepper::longest`](super::Stepper::longest).
    pub(super) fn longest_programs(&self, model: &Coca, each: &mut dyn FnMut(&Program) -> Result<()>) -> Result<()> {
        each(self.longest(model)?.program())?;
        match self.plan.contrastive {
            Contrast::Given => Features::new(model, self.plan, 1, &Workspace::new())?.programs().try_for_each(each),
            _ => Ok(()),
        }
    }

    /// A pass that holds the longest texts there can be.
    fn longest(&self, model: &Coca) -> Result<TrainStep> {
        let (text_rows, decoder_rows) = PackedText::capacity(self.plan.batch, &model.config().text);
        let plan = StepPlan { text_rows, decoder_rows, ..self.plan };
        TrainStep::new(model, plan, &Workspace::new())
    }

    /// Forward and backward over the batches of one step.
    ///
    /// # Errors
    /// An op refuses, a check fails, or memory runs out.
    pub fn run(&mut self, queue: &Queue, model: &Coca, batches: &[Batch], observers: Observers) -> Result<Gradient> {
        let text = &model.config().text;
        let packed = batches.iter().map(|batch| PackedText::new(&batch.texts, text)).collect::<Result<Vec<_>>>()?;
        self.fit(queue, model, &packed)?;
        let mut gradient = Gradient {
            tokens: batches.iter().flat_map(|batch| &batch.texts).map(Vec::len).sum(),
            ..Gradient::default()
        };
        let given = match self.plan.contrastive {
            Contrast::Given => Some(self.contrast(queue, model, batches, &mut gradient, observers)?),
            _ => None,
        };
        let Some(pass) = &mut self.pass else { return Ok(gradient) };
        // The caption loss is the mean over the tokens of all passes.
        let shares = shares(packed.iter().map(|texts| counted(texts, text)));
        let width = model.config().embed_dim * self.plan.batch;
        for (index, ((batch, texts), share)) in batches.iter().zip(&packed).zip(shares).enumerate() {
            pass.write(&batch.images, texts)?;
            if let Some((images, texts)) = &given {
                let part = index * width..(index + 1) * width;
                pass.write_feature_gradients(&images[part.clone()], &texts[part])?;
            }
            let (contrastive, caption) = (self.weights.0, (f64::from(self.weights.1) * share) as f32);
            let losses = pass.run(queue, contrastive, caption, index > 0, observers)?;
            if self.plan.contrastive == Contrast::Within {
                gradient.losses.contrastive = losses.contrastive;
            }
            gradient.losses.caption += (f64::from(losses.caption) * share) as f32;
            gradient.flops += pass.cost()?.flops;
        }
        Ok(gradient)
    }

    /// Makes or remakes the plan so that these texts fit, with room for longer ones.
    fn fit(&mut self, queue: &Queue, model: &Coca, packed: &[PackedText]) -> Result<()> {
        if self.pass.as_ref().is_some_and(|pass| packed.iter().all(|texts| pass.fits(texts))) {
            return Ok(());
        }
        let (batch, planned) = (self.plan.batch, (self.plan.text_rows, self.plan.decoder_rows));
        (self.plan.text_rows, self.plan.decoder_rows) = grown(planned, packed.iter(), batch, &model.config().text);
        self.pass = None; // free the old one first
        let pass = self.pass.insert(TrainStep::new(model, self.plan, &self.workspace)?);
        prepare(queue, pass.program())
    }

    /// The contrastive loss over all batches and the gradients of all features, times the loss's weight.
    fn contrast(
        &mut self,
        queue: &Queue,
        model: &Coca,
        batches: &[Batch],
        gradient: &mut Gradient,
        observers: Observers,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let features = match &mut self.features {
            Some(features) => features,
            none => {
                let features = Features::new(model, self.plan, batches.len(), &self.workspace)?;
                features.programs().try_for_each(|program| prepare(queue, program))?;
                none.insert(features)
            }
        };
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        for batch in batches {
            images.extend(features.images.features_observed(queue, &batch.images, observers)?);
            texts.extend(features.texts.features_observed(queue, &batch.texts, observers)?);
        }
        let lengths: Vec<usize> = batches.iter().flat_map(|batch| &batch.texts).map(Vec::len).collect();
        gradient.flops += feature_flops(model.config(), &lengths);
        let (loss, gradients) = features.contrastive.run(queue, &images, &texts, self.weights.0, observers)?;
        gradient.losses.contrastive = loss;
        Ok(gradients)
    }
}

/// Work of the passes that accumulation puts before those with gradients: features of all pairs of a step, given the
/// number of ids of each text, and their comparison forward and backward.
pub fn feature_flops(config: &CocaConfig, lengths: &[usize]) -> f64 {
    let pairs = lengths.len();
    let comparison = 3 * pairs as u64 * Flops::contrastive(config, pairs);
    let features =
        lengths.iter().map(|&length| Flops::forward(config, length, 0)).map(|flops| flops.image + flops.text);
    (features.sum::<u64>() + comparison) as f64
}

/// The contrastive loss of features that were computed before.
#[derive(Debug)]
struct WholeContrastive {
    program: Program,
    features: (Tensor, Tensor),
    gradients: (Tensor, Tensor),
    weight: Tensor,
    loss: Tensor,
}

impl WholeContrastive {
    fn new(model: &Coca, pairs: usize, workspace: &Workspace, settings: Compile) -> Result<WholeContrastive> {
        let mut tape = Tape::record();
        let rows = Meta::new([pairs, model.config().embed_dim], DType::F32);
        let features = (tape.variable("image features", rows)?, tape.variable("text features", rows)?);
        let scale = tape.parameter(model.parameters(), LOGIT_SCALE, DType::F32)?;
        let loss = tape.span("contrastive", |tape| contrastive(tape, features.0, features.1, scale))?;
        tape.keep(loss);
        let weight = tape.input("contrastive weight", Meta::new([1], DType::F32))?;
        tape.backward(&[(loss, weight)])?;
        let mut gradient = |tensor| {
            tape.gradient(tensor)?.ok_or_else(|| Error::invalid("the contrastive loss gives its features no gradient"))
        };
        let gradients = (gradient(features.0)?, gradient(features.1)?);
        let program = Program::compile(tape, workspace, settings)?;
        Ok(WholeContrastive { program, features, gradients, weight, loss })
    }

    /// The loss and both gradients, times `weight`; the gradient of the temperature goes to the arena.
    fn run(
        &mut self,
        queue: &Queue,
        images: &[f32],
        texts: &[f32],
        weight: f32,
        observers: Observers,
    ) -> Result<(f32, (Vec<f32>, Vec<f32>))> {
        self.program.write(self.features.0, images)?;
        self.program.write(self.features.1, texts)?;
        self.program.write(self.weight, &[weight])?;
        self.program.run_observed(queue, false, observers)?;
        let gradients = (self.program.read(self.gradients.0)?, self.program.read(self.gradients.1)?);
        Ok((self.program.read::<f32>(self.loss)?[0], gradients))
    }
}
