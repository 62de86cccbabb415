//! The unimodal half of the text decoder: packed rows through causal blocks; CLS becomes the text's feature.

use super::Layers;
use crate::packing::PackedText;
use engine::{DType, Meta, Program, Result, Tape, Tensor};
use kernels::attention::{Mask, Rows};
use kernels::embed::{TextTables, embed_text};
use kernels::matmul::project_f32;
use kernels::normalize::normalize;
use kernels::rows::take_rows;

/// The inputs of a network that reads packed texts; see [`PackedText`] for their meaning.
#[derive(Clone, Copy, Debug)]
pub struct TextInputs {
    /// i32 `[R]`.
    pub ids: Tensor,
    /// i32 `[R]`.
    pub positions: Tensor,
    /// u8 `[R]`.
    pub key_bits: Tensor,
    /// i32 `[B + 1]`.
    pub offsets: Tensor,
    /// i32 `[B]`.
    pub class_rows: Tensor,
    /// i32 `[D]`.
    pub decoder_rows: Tensor,
    /// i32 `[B + 1]`.
    pub decoder_offsets: Tensor,
    /// i32 `[D]`.
    pub labels: Tensor,
}

impl TextInputs {
    /// Declares the inputs for `texts` texts of together at most `rows` tower rows and `decoder_rows` decoder rows.
    pub fn declare(tape: &mut Tape, texts: usize, rows: usize, decoder_rows: usize) -> Result<TextInputs> {
        let mut input = |name: &str, count: usize, dtype: DType| tape.input(name, Meta::new([count], dtype));
        let inputs = TextInputs {
            ids: input("ids", rows, DType::I32)?,
            positions: input("positions", rows, DType::I32)?,
            key_bits: input("key bits", rows, DType::U8)?,
            offsets: input("text offsets", texts + 1, DType::I32)?,
            class_rows: input("class rows", texts, DType::I32)?,
            decoder_rows: input("decoder rows", decoder_rows, DType::I32)?,
            decoder_offsets: input("decoder offsets", texts + 1, DType::I32)?,
            labels: input("labels", decoder_rows, DType::I32)?,
        };
        for tensor in [inputs.ids, inputs.positions, inputs.key_bits] {
            tape.set_ragged(tensor, inputs.offsets)?;
        }
        for tensor in [inputs.decoder_rows, inputs.labels] {
            tape.set_ragged(tensor, inputs.decoder_offsets)?;
        }
        Ok(inputs)
    }

    /// Copies a batch in. It must have the number of texts that was declared (see `PackedText::pad_to`).
    pub fn write(&self, program: &Program, texts: &PackedText) -> Result<()> {
        if texts.offsets.len() != self.offsets.meta().elements() {
            let (planned, given) = (self.offsets.meta().elements() - 1, texts.texts());
            return Err(engine::Error::invalid(format!("the plan is for {planned} texts, the batch has {given}")));
        }
        program.write(self.ids, &texts.ids)?;
        program.write(self.positions, &texts.positions)?;
        program.write(self.key_bits, &texts.key_bits)?;
        program.write(self.offsets, &texts.offsets)?;
        program.write(self.class_rows, &texts.class_rows)?;
        program.write(self.decoder_rows, &texts.decoder_rows)?;
        program.write(self.decoder_offsets, &texts.decoder_offsets)?;
        program.write(self.labels, &texts.labels)
    }
}

impl Layers<'_> {
    /// The rows of all texts after the last unimodal block, `[R, width]`.
    #[track_caller]
    pub fn encode_text(&mut self, inputs: &TextInputs) -> Result<Tensor> {
        self.in_span("text", |layers| {
            let mut x = layers.in_span("embed", |layers| {
                let tables = TextTables {
                    tokens: layers.vector("text.token_embedding.weight")?,
                    positions: layers.vector("text.positional_embedding")?,
                    class: layers.vector("text.cls_emb")?,
                };
                embed_text(layers.tape, inputs.ids, inputs.positions, tables, layers.dtype)
            })?;
            let (rows, mask) = (Rows::Ragged(inputs.offsets), Mask::KeyBits(inputs.key_bits));
            for layer in 0..layers.config.text.layers {
                let prefix = format!("text.transformer.resblocks.{layer}");
                x = layers.block(x, &prefix, layers.config.text.heads, rows, mask)?;
            }
            Ok(x)
        })
    }

    /// Unit text features f32 `[B, embed_dim]` from the CLS rows of [`Layers::encode_text`].
    #[track_caller]
    pub fn text_features(&mut self, rows: Tensor, inputs: &TextInputs) -> Result<Tensor> {
        self.in_span("text.features", |layers| {
            let class = take_rows(layers.tape, rows, inputs.class_rows)?;
            let class = layers.layer_norm(class, "text.ln_final")?;
            let projection = layers.matrix("text.text_projection")?;
            let features = project_f32(layers.tape, class, projection)?;
            normalize(layers.tape, features)
        })
    }
}
