//! Features of many images and texts, in passes of a fixed size; and both losses of given pairs.

use crate::coca::{Coca, LOGIT_SCALE};
use crate::network::TextInputs;
use crate::packing::PackedText;
use engine::{Compile, DType, Element, Error, Meta, Observer, Program, Queue, Result, Tape, Tensor, Workspace};
use kernels::contrastive::contrastive;
use kernels::linear_cross_entropy::linear_cross_entropy;
use kernels::matmul::project_f32;

/// Encodes images, `batch` in a pass.
#[derive(Debug)]
pub struct ImageEncoder {
    program: Program,
    images: Tensor,
    features: Tensor,
    tokens: Tensor,
    encoded: Tensor,
    batch: usize,
}

/// Encodes texts, `batch` in a pass.
#[derive(Debug)]
pub struct TextEncoder {
    program: Program,
    inputs: TextInputs,
    features: Tensor,
    batch: usize,
    config: crate::config::TextConfig,
}

fn read_f32(program: &Program, tensor: Tensor) -> Result<Vec<f32>> {
    match tensor.dtype() {
        DType::BF16 => Ok(program.read::<half::bf16>(tensor)?.into_iter().map(|value| value.to_f64() as f32).collect()),
        _ => program.read(tensor),
    }
}

impl ImageEncoder {
    /// Plans a pass over `batch` images.
    pub fn new(model: &Coca, batch: usize, workspace: &Workspace) -> Result<ImageEncoder> {
        ImageEncoder::compile(model, batch, workspace, Compile::default())
    }

    /// As [`ImageEncoder::new`], for the checks that need other settings.
    pub fn compile(model: &Coca, batch: usize, workspace: &Workspace, settings: Compile) -> Result<ImageEncoder> {
        let size = model.config().vision.image_size;
        let mut tape = Tape::record();
        let images = tape.input("images", Meta::new([batch, size, size, 3], DType::U8))?;
        let outputs = model.layers(&mut tape).encode_image(images)?;
        for tensor in [outputs.features, outputs.tokens, outputs.encoded] {
            tape.keep(tensor);
        }
        let program = Program::compile(tape, workspace, settings)?;
        Ok(ImageEncoder {
            program,
            images,
            features: outputs.features,
            tokens: outputs.tokens,
            encoded: outputs.encoded,
            batch,
        })
    }

    /// The compiled pass: its memory plan.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Unit features f32 `[count, embed_dim]` of u8 images `[count, size, size, 3]`, any count.
    pub fn features(&mut self, queue: &Queue, images: &[u8]) -> Result<Vec<f32>> {
        self.features_observed(queue, images, &mut [])
    }

    /// As [`ImageEncoder::features`], with observers called around every node.
    pub fn features_observed(
        &mut self,
        queue: &Queue,
        images: &[u8],
        observers: &mut [&mut (dyn Observer + Send)],
    ) -> Result<Vec<f32>> {
        let feature = self.features;
        self.passes(queue, images, observers, |program| program.read::<f32>(feature))
    }

    /// Image tokens f32 `[count, tokens, width]`, what the decoder reads.
    pub fn tokens(&mut self, queue: &Queue, images: &[u8]) -> Result<Vec<f32>> {
        let tokens = self.tokens;
        self.passes(queue, images, &mut [], |program| read_f32(program, tokens))
    }

    /// Encoder output f32 `[count, rows, vision width]`, before poolers.
    pub fn encoded(&mut self, queue: &Queue, images: &[u8]) -> Result<Vec<f32>> {
        let encoded = self.encoded;
        self.passes(queue, images, &mut [], |program| read_f32(program, encoded))
    }

    /// Encoder output f32 `[count, rows, vision width]` and unit features f32 `[count, embed_dim]` of the same passes.
    pub fn encoded_and_features(&mut self, queue: &Queue, images: &[u8]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (encoded, features, mut found) = (self.encoded, self.features, Vec::new());
        let rows = self.passes(queue, images, &mut [], |program| {
            found.extend(program.read::<f32>(features)?);
            read_f32(program, encoded)
        })?;
        // The last pass may have had room for more images.
        found.truncate(rows.len() / (encoded.meta().elements() / self.batch) * features.shape().columns());
        Ok((rows, found))
    }

    fn passes(
        &mut self,
        queue: &Queue,
        images: &[u8],
        observers: &mut [&mut (dyn Observer + Send)],
        mut read: impl FnMut(&Program) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let image_bytes = self.images.meta().elements() / self.batch;
        if !images.len().is_multiple_of(image_bytes) {
            let given = images.len();
            return Err(Error::invalid(format!(
                "images of {image_bytes} bytes each, {given} bytes are not whole images"
            )));
        }
        let mut values = Vec::new();
        for part in images.chunks(image_bytes * self.batch) {
            self.program.write(self.images, part)?;
            self.program.run_observed(queue, false, observers)?;
            let mut pass = read(&self.program)?;
            pass.truncate(pass.len() / self.batch * (part.len() / image_bytes));
            values.append(&mut pass);
        }
        Ok(values)
    }
}

impl TextEncoder {
    /// Plans a pass over `batch` texts.
    pub fn new(model: &Coca, batch: usize, workspace: &Workspace) -> Result<TextEncoder> {
        TextEncoder::compile(model, batch, workspace, Compile::default())
    }

    /// As [`TextEncoder::new`], for the checks that need other settings.
    pub fn compile(model: &Coca, batch: usize, workspace: &Workspace, settings: Compile) -> Result<TextEncoder> {
        let config = model.config().text.clone();
        let (rows, decoder_rows) = PackedText::capacity(batch, &config);
        let mut tape = Tape::record();
        let inputs = TextInputs::declare(&mut tape, batch, rows, decoder_rows)?;
        let mut layers = model.layers(&mut tape);
        let encoded = layers.encode_text(&inputs)?;
        let features = layers.text_features(encoded, &inputs)?;
        tape.keep(features);
        let program = Program::compile(tape, workspace, settings)?;
        Ok(TextEncoder { program, inputs, features, batch, config })
    }

    /// The compiled pass: its memory plan.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Unit features f32 `[count, embed_dim]` of token ids (start and end included), any count.
    pub fn features<T: AsRef<[i32]>>(&mut self, queue: &Queue, texts: &[T]) -> Result<Vec<f32>> {
        self.features_observed(queue, texts, &mut [])
    }

    /// As [`TextEncoder::features`], with observers called around every node.
    pub fn features_observed<T: AsRef<[i32]>>(
        &mut self,
        queue: &Queue,
        texts: &[T],
        observers: &mut [&mut (dyn Observer + Send)],
    ) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for part in texts.chunks(self.batch) {
            let mut packed = PackedText::new(part, &self.config)?;
            packed.pad_to(self.batch);
            self.inputs.write(&self.program, &packed)?;
            self.program.run_observed(queue, false, observers)?;
            let mut pass = self.program.read::<f32>(self.features)?;
            pass.truncate(pass.len() / self.batch * part.len());
            values.append(&mut pass);
        }
        Ok(values)
    }
}

/// What the model says of a batch of pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct PairOutputs {
    /// Unit rows `[pairs, embed_dim]`.
    pub image_features: Vec<f32>,
    /// Unit rows `[pairs, embed_dim]`.
    pub text_features: Vec<f32>,
    /// Caption logits `[decoder rows, vocabulary]`: row r predicts `labels[r]`.
    pub logits: Vec<f32>,
    /// First decoder row of each pair, and their number.
    pub offsets: Vec<i32>,
    /// The token that each row should predict.
    pub labels: Vec<i32>,
    /// Mean of both directions.
    pub contrastive_loss: f32,
    /// Mean over the tokens that count.
    pub caption_loss: f32,
}

/// Features, caption logits and losses of pairs: images u8 `[pairs, size, size, 3]`, as many texts.
pub fn evaluate_pairs<T: AsRef<[i32]>>(model: &Coca, queue: &Queue, images: &[u8], texts: &[T]) -> Result<PairOutputs> {
    let config = model.config();
    let (pairs, size) = (texts.len(), config.vision.image_size);
    if pairs == 0 || images.len() != pairs * size * size * 3 {
        let given = images.len();
        return Err(Error::invalid(format!(
            "{pairs} texts need {} bytes of images, got {given}",
            pairs * size * size * 3
        )));
    }
    let packed = PackedText::new(texts, &config.text)?;
    let mut tape = Tape::record();
    let image_input = tape.input("images", Meta::new([pairs, size, size, 3], DType::U8))?;
    let inputs = TextInputs::declare(&mut tape, pairs, packed.rows(), packed.decoder_rows.len().max(1))?;
    let mut layers = model.layers(&mut tape);
    let image = layers.encode_image(image_input)?;
    let rows = layers.encode_text(&inputs)?;
    let text_features = layers.text_features(rows, &inputs)?;
    let hidden = layers.decode(rows, image.tokens, &inputs)?;
    let head = layers.matrix("text_decoder.text_projection")?;
    let scale = layers.vector(LOGIT_SCALE)?;
    let logits = project_f32(&mut tape, hidden, head)?;
    let caption = linear_cross_entropy(&mut tape, hidden, head, inputs.labels, config.text.pad_id as i32)?;
    let contrast = contrastive(&mut tape, image.features, text_features, scale)?;
    for tensor in [image.features, text_features, logits, caption.loss, contrast] {
        tape.keep(tensor);
    }
    let mut program = Program::compile(tape, &Workspace::new(), Compile::default())?;
    program.write(image_input, images)?;
    inputs.write(&program, &packed)?;
    program.run(queue, false)?;
    let scalar = |tensor: Tensor| -> Result<f32> { Ok(program.read::<f32>(tensor)?[0]) };
    Ok(PairOutputs {
        image_features: program.read(image.features)?,
        text_features: program.read(text_features)?,
        logits: program.read(logits)?,
        offsets: packed.decoder_offsets,
        labels: packed.labels,
        contrastive_loss: scalar(contrast)?,
        caption_loss: scalar(caption.loss)?,
    })
}

/// The `count` largest similarities of each query (`[queries, width]`) among rows (`[rows, width]`), best first, exact,
/// in blocks: (row, similarity). Equal similarities are in order of rows.
pub fn nearest<T: Element>(queries: &[T], rows: &[T], width: usize, count: usize) -> Vec<Vec<(usize, f32)>> {
    use rayon::prelude::*;
    queries
        .par_chunks(width)
        .map(|query| {
            let mut best: Vec<(usize, f32)> = Vec::with_capacity(count + 1);
            for (row, values) in rows.chunks(width).enumerate() {
                let dot: f64 = query.iter().zip(values).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
                let dot = dot as f32;
                if best.len() == count && best.last().is_some_and(|&(_, least)| dot <= least) {
                    continue;
                }
                let at = best.partition_point(|&(_, other)| other >= dot);
                best.insert(at, (row, dot));
                best.truncate(count);
            }
            best
        })
        .collect()
}
