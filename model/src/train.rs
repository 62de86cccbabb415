//! The training step of CoCa as one program: forward and backward of both losses in one pass.

use crate::coca::{Coca, LOGIT_SCALE};
use crate::network::TextInputs;
use crate::packing::PackedText;
use engine::{
    Checkpointing, Compile, Cost, DType, Error, Meta, Observer, Program, Queue, Result, Tape, Tensor, Workspace,
};
use kernels::contrastive::contrastive;
use kernels::linear_cross_entropy::CrossEntropy;

/// Sizes and choices of a planned step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPlan {
    /// Image-text pairs.
    pub batch: usize,
    /// Most rows in the text tower.
    pub text_rows: usize,
    /// Most rows in the decoder.
    pub decoder_rows: usize,
    /// What the backward pass computes again.
    pub checkpointing: Checkpointing,
    /// Whether the step has the contrastive loss itself, or is given the gradients of the features (a part of a batch
    /// whose contrastive loss is computed over the whole).
    pub contrastive: Contrast,
    /// Whether there is a caption loss.
    pub caption: bool,
    /// Guard bytes for poison checks.
    pub guard_bytes: usize,
}

/// Where the gradients of the features come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contrast {
    /// The contrastive loss of this batch.
    Within,
    /// The caller: the batch is a part of a larger one.
    Given,
    /// Nowhere: captioning alone.
    Off,
}

/// Losses of a step, unweighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Mean of both directions of the contrastive loss.
    pub contrastive: f32,
    /// Mean over the tokens that count.
    pub caption: f32,
}

/// A planned training step. Gradients go to the model's gradient arena.
#[derive(Debug)]
pub struct TrainStep {
    plan: StepPlan,
    program: Program,
    images: Tensor,
    texts: TextInputs,
    image_features: Tensor,
    text_features: Tensor,
    contrastive_loss: Option<Tensor>,
    contrastive_weight: Option<Tensor>,
    feature_gradients: Option<(Tensor, Tensor)>,
    caption: Option<(CrossEntropy, Tensor)>,
    unreached: Vec<String>,
}

impl TrainStep {
    /// Records, plans and compiles the step.
    pub fn new(model: &Coca, plan: StepPlan, workspace: &Workspace) -> Result<TrainStep> {
        let size = model.config().vision.image_size;
        let mut tape = Tape::record();
        let images = tape.input("images", Meta::new([plan.batch, size, size, 3], DType::U8))?;
        let texts = TextInputs::declare(&mut tape, plan.batch, plan.text_rows, plan.decoder_rows)?;
        let mut layers = model.layers(&mut tape);
        let image = layers.encode_image(images)?;
        let rows = layers.encode_text(&texts)?;
        let text_features = layers.text_features(rows, &texts)?;
        let caption = match plan.caption {
            false => None,
            true => {
                let hidden = layers.decode(rows, image.tokens, &texts)?;
                Some(layers.caption_loss(hidden, &texts)?)
            }
        };
        let mut seeds = Vec::new();
        let scalar = Meta::new([1], DType::F32);
        let (mut contrastive_loss, mut contrastive_weight, mut feature_gradients) = (None, None, None);
        match plan.contrastive {
            Contrast::Within => {
                let scale = layers.vector(LOGIT_SCALE)?;
                let loss = layers
                    .in_span("contrastive", |layers| contrastive(layers.tape, image.features, text_features, scale))?;
                let weight = tape.input("contrastive weight", scalar)?;
                seeds.push((loss, weight));
                (contrastive_loss, contrastive_weight) = (Some(loss), Some(weight));
            }
            Contrast::Given => {
                let meta = image.features.meta();
                let given =
                    (tape.input("gradient of image features", meta)?, tape.input("gradient of text features", meta)?);
                seeds.extend([(image.features, given.0), (text_features, given.1)]);
                feature_gradients = Some(given);
            }
            Contrast::Off => {}
        }
        let caption = match caption {
            None => None,
            Some(loss) => {
                let weight = tape.input("caption weight", scalar)?;
                seeds.push((loss.loss, weight));
                Some((loss, weight))
            }
        };
        for tensor in [image.features, text_features].into_iter().chain(contrastive_loss) {
            tape.keep(tensor);
        }
        if let Some((loss, _)) = caption {
            tape.keep(loss.loss);
        }
        tape.backward(&seeds)?;
        let unreached = model.unreached(&tape);
        tape.checkpoint(plan.checkpointing)?;
        let program = Program::compile(tape, workspace, Compile { guard_bytes: plan.guard_bytes })?;
        Ok(TrainStep {
            plan,
            program,
            images,
            texts,
            image_features: image.features,
            text_features,
            contrastive_loss,
            contrastive_weight,
            feature_gradients,
            caption,
            unreached,
        })
    }

    /// The sizes that the step was planned for.
    pub fn plan(&self) -> StepPlan {
        self.plan
    }

    /// The compiled program: its memory plan and work.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Work of a run with the batch that was written last.
    pub fn cost(&self) -> Result<Cost> {
        self.program.cost()
    }

    /// Trainable parameters that get no gradient in this step, in arena order; those that it does not use are among them.
    pub fn unreached(&self) -> &[String] {
        &self.unreached
    }

    /// True if a batch fits.
    pub fn fits(&self, texts: &PackedText) -> bool {
        texts.texts() == self.plan.batch
            && texts.rows() <= self.plan.text_rows
            && texts.decoder_rows.len() <= self.plan.decoder_rows
    }

    /// Copies a batch in: images u8 `[batch, size, size, 3]` and as many texts.
    pub fn write(&self, images: &[u8], texts: &PackedText) -> Result<()> {
        if images.len() != self.images.meta().elements() {
            let (wanted, given) = (self.images.meta().elements(), images.len());
            return Err(Error::invalid(format!("the step reads {wanted} bytes of images, {given} were given")));
        }
        self.program.write(self.images, images)?;
        self.texts.write(&self.program, texts)
    }

    /// Gives the gradients of both features, f32 `[batch, embed_dim]` (only for `Contrast::Given`).
    pub fn write_feature_gradients(&self, image: &[f32], text: &[f32]) -> Result<()> {
        let Some((image_gradient, text_gradient)) = self.feature_gradients else {
            return Err(Error::invalid("this step computes its own contrastive loss"));
        };
        self.program.write(image_gradient, image)?;
        self.program.write(text_gradient, text)
    }

    /// Runs forward and backward with these weights of the two losses. With `accumulate`, gradients are added.
    pub fn run(
        &mut self,
        queue: &Queue,
        contrastive_weight: f32,
        caption_weight: f32,
        accumulate: bool,
        observers: &mut [&mut (dyn Observer + Send)],
    ) -> Result<Losses> {
        if let Some(weight) = self.contrastive_weight {
            self.program.write(weight, &[contrastive_weight])?;
        }
        if let Some((_, weight)) = self.caption {
            self.program.write(weight, &[caption_weight])?;
        }
        self.program.run_observed(queue, accumulate, observers)?;
        let read = |tensor: Option<Tensor>| -> Result<f32> {
            tensor.map_or(Ok(0.0), |tensor| Ok(self.program.read::<f32>(tensor)?[0]))
        };
        Ok(Losses {
            contrastive: read(self.contrastive_loss)?,
            caption: read(self.caption.map(|(loss, _)| loss.loss))?,
        })
    }

    /// Features of the last run: images and texts, unit rows.
    pub fn features(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((self.program.read(self.image_features)?, self.program.read(self.text_features)?))
    }
}
