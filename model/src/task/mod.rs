//! Downstream tasks of a model with a head, trained together: classes of images (one, or the frames of a clip, whose encoder
//! rows the head's pooler reads as one sequence), and classes of images with texts (questions, hypotheses, statements on
//! pairs), where the pooler reads the decoder's rows (coca.md 1.4).

mod logits;
mod step;
#[cfg(test)]
mod tests;
mod texts;

pub use logits::TaskLogits;
pub use step::{TaskLosses, TaskStep};
pub use texts::TaskTexts;

use crate::Coca;
use crate::config::CocaConfig;
use crate::heads::HeadConfig;
use crate::network::TextInputs;
use crate::packing::PackedText;
use engine::{Checkpointing, DType, Error, Meta, Program, Result, Tape, Tensor};
use kernels::attention::Rows;
use kernels::rows::take_rows;

/// What the head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The encoder's rows of all images of a sample.
    Images,
    /// The decoder's rows of the text of each image, pooled one by one and joined.
    Texts,
}

/// Sizes and choices of a planned pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskPlan {
    /// Samples.
    pub samples: usize,
    /// Images of each.
    pub images: usize,
    /// What the head reads.
    pub reads: Reads,
    /// Most rows in the text tower; 0 without texts.
    pub text_rows: usize,
    /// Most rows in the decoder; 0 without texts.
    pub decoder_rows: usize,
    /// Share of the target that all classes have together.
    pub label_smoothing: f32,
    /// Whether there is a caption loss over questions and answers.
    pub caption: bool,
    /// What the backward pass computes again.
    pub checkpointing: Checkpointing,
    /// Guard bytes for poison checks.
    pub guard_bytes: usize,
}

impl Reads {
    /// The head of `classes` that reads this of a model, of samples of `images` images.
    pub fn head(self, model: &CocaConfig, images: usize, classes: usize) -> HeadConfig {
        match self {
            Reads::Images => HeadConfig::of_images(model, classes),
            Reads::Texts => HeadConfig::of_texts(model, images, classes),
        }
    }
}

impl TaskPlan {
    /// The plan of one pass without gradients, with room for the longest texts.
    pub fn of_logits(model: &Coca, reads: Reads, samples: usize, images: usize) -> TaskPlan {
        let plan = TaskPlan {
            samples,
            images,
            reads,
            text_rows: 0,
            decoder_rows: 0,
            label_smoothing: 0.0,
            caption: false,
            checkpointing: Checkpointing::None,
            guard_bytes: 0,
        };
        plan.with_longest_texts(model)
    }

    /// The same with room for the longest texts, if there are texts.
    pub fn with_longest_texts(self, model: &Coca) -> TaskPlan {
        let (text_rows, decoder_rows) = match self.reads {
            Reads::Images => (0, 0),
            Reads::Texts => PackedText::capacity(self.samples * self.images, &model.config().text),
        };
        TaskPlan { text_rows, decoder_rows, ..self }
    }

    /// True if a batch of texts fits.
    pub fn fits(&self, texts: Option<&TaskTexts>) -> bool {
        match (self.reads, texts) {
            (Reads::Images, None) => true,
            (Reads::Texts, Some(TaskTexts { packed, .. })) => {
                packed.texts() == self.samples * self.images
                    && packed.rows() <= self.text_rows
                    && packed.decoder_rows.len() <= self.decoder_rows
            }
            _ => false,
        }
    }
}

/// The inputs of a pass, and what it gives.
#[derive(Clone, Copy, Debug)]
struct Pass {
    images: Tensor,
    texts: Option<Texts>,
    /// f32 `[samples, classes]`.
    logits: Tensor,
}

/// The inputs of a pass with texts, and the decoder's rows.
#[derive(Clone, Copy, Debug)]
struct Texts {
    inputs: TextInputs,
    /// i32: the decoder rows that the head reads.
    pooled_rows: Tensor,
    /// i32 `[texts + 1]`.
    pooled_offsets: Tensor,
    /// `[D, width]`.
    hidden: Tensor,
}

impl Pass {
    fn record(tape: &mut Tape, model: &Coca, plan: &TaskPlan) -> Result<Pass> {
        let TaskPlan { samples, images: per_sample, reads, text_rows, decoder_rows, .. } = *plan;
        let (config, count) = (model.config(), samples * per_sample);
        let classes = model.head().map_or(0, |head| head.classes);
        if model.head() != Some(&reads.head(config, per_sample, classes)) {
            return Err(Error::invalid(format!(
                "{per_sample} images a sample and a head on {reads:?} do not fit the model's head: {:?}",
                model.head()
            )));
        }
        let size = config.vision.image_size;
        let images = tape.input("images", Meta::new([count, size, size, 3], DType::U8))?;
        let (rows, division, texts) = match reads {
            Reads::Images => {
                let rows = model.layers(tape).image_rows(images)?;
                (rows, Rows::Fixed(per_sample * config.vision.rows()), None)
            }
            Reads::Texts => {
                let inputs = TextInputs::declare(tape, count, text_rows, decoder_rows)?;
                let mut input = |name: &str, count: usize| tape.input(name, Meta::new([count], DType::I32));
                let (pooled_rows, pooled_offsets) =
                    (input("pooled rows", decoder_rows)?, input("pooled offsets", count + 1)?);
                tape.set_ragged(pooled_rows, pooled_offsets)?;
                let mut layers = model.layers(tape);
                let tokens = layers.image_tokens(images)?;
                let text = layers.encode_text(&inputs)?;
                let hidden = layers.decode(text, tokens, &inputs)?;
                let rows = take_rows(tape, hidden, pooled_rows)?;
                (rows, Rows::Ragged(pooled_offsets), Some(Texts { inputs, pooled_rows, pooled_offsets, hidden }))
            }
        };
        let logits = model.head_logits(tape, rows, division)?;
        Ok(Pass { images, texts, logits })
    }

    /// Copies a batch in: images u8 `[samples, images, size, size, 3]` and, where the head reads them, as many texts.
    fn write(&self, program: &Program, images: &[u8], texts: Option<&TaskTexts>) -> Result<()> {
        if images.len() != self.images.meta().elements() {
            let (wanted, given) = (self.images.meta().elements(), images.len());
            return Err(Error::invalid(format!("the pass reads {wanted} bytes of images, {given} were given")));
        }
        program.write(self.images, images)?;
        match (&self.texts, texts) {
            (None, None) => Ok(()),
            (Some(inputs), Some(texts)) => {
                inputs.inputs.write(program, &texts.packed)?;
                program.write(inputs.pooled_rows, &texts.pooled_rows)?;
                program.write(inputs.pooled_offsets, &texts.pooled_offsets)
            }
            (None, Some(_)) => Err(Error::invalid("texts were given for a head that reads images")),
            (Some(_), None) => Err(Error::invalid("the head reads texts, none were given")),
        }
    }
}
