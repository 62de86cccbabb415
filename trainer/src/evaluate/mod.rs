//! What a trained model can do: zero-shot classification, retrieval in both directions, captions.

mod captions;
mod classify;
mod command;
mod eval_set;
mod examples;
mod mean;
pub mod metrics;
mod question_floor;
mod ranking;
mod retrieval;
mod score;
mod sets;
mod table;
mod zero_shot;

use captions::measure_captions;
pub use captions::{Captioned, caption_row, captions, captions_by};
use classify::measure_classes;
pub use classify::{Classifier, class_table};
use command::Figures;
pub use command::{caption, evaluate};
pub use eval_set::{EvalSet, pixels};
pub use examples::evenly;
pub use mean::unit_means;
pub use question_floor::QuestionFloor;
pub use ranking::{ranks, recall, share_within};
use retrieval::measure_retrieval;
pub use score::Score;
pub use sets::{EMOJI_SETS, PixelFloor, TestSet, seen};

pub use table::{percent, table};
use zero_shot::{measure_zero_shot, read_templates};

use crate::Result;
use crate::data::Sample;
use engine::{Queue, Workspace};
use model::Coca;
use model::encoder::{ImageEncoder, TextEncoder};
use model::tokenizer::Tokenizer;

/// A model with its tokenizer, encoding in passes of a fixed size.
#[derive(Debug)]
pub struct Evaluator<'a> {
    /// The model.
    pub model: &'a Coca,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Where it runs.
    pub queue: &'a Queue,
    workspace: Workspace,
    batch: usize,
    images: ImageEncoder,
    texts: TextEncoder,
}

impl<'a> Evaluator<'a> {
    /// An evaluator with `batch` images or texts in a pass.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn new(
        model: &'a Coca,
        tokenizer: &'a Tokenizer,
        queue: &'a Queue,
        workspace: &Workspace,
        batch: usize,
    ) -> Result<Evaluator<'a>> {
        let batch = batch.max(1);
        let images = ImageEncoder::new(model, batch, workspace)?;
        let texts = TextEncoder::new(model, batch, workspace)?;
        Ok(Evaluator { model, tokenizer, queue, workspace: workspace.clone(), batch, images, texts })
    }

    /// Unit features f32 `[samples, embed_dim]` of the images; of a sample with several of them the mean, scaled to 1.
    ///
    /// # Errors
    /// An op refuses.
    pub fn image_features(&mut self, samples: &[Sample]) -> Result<Vec<f32>> {
        let size = self.model.config().vision.image_size;
        let images = samples.first().map_or(1, |sample| sample.image.len() / (size * size * 3));
        let mut features = Vec::new();
        for part in samples.chunks(self.samples_in_pass(images)) {
            let rows = self.images.features(self.queue, &pixels(part))?;
            features.extend(unit_means(rows, images, self.width()));
        }
        Ok(features)
    }

    /// Samples of `images` images each that are encoded at a time.
    fn samples_in_pass(&self, images: usize) -> usize {
        self.batch.div_ceil(images.max(1))
    }

    /// Unit features f32 `[texts, embed_dim]`.
    ///
    /// # Errors
    /// An op refuses.
    pub fn text_features<T: AsRef<str>>(&mut self, texts: &[T]) -> Result<Vec<f32>> {
        let context = self.model.config().text.context_length;
        let ids: Vec<Vec<i32>> =
            texts.iter().map(|text| self.tokenizer.encode_within(text.as_ref(), context)).collect();
        self.texts.features(self.queue, &ids)
    }

    /// Width of the features.
    pub fn width(&self) -> usize {
        self.model.config().embed_dim
    }
}
