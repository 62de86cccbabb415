//! The multimodal half: text rows that attend to their own past and to the image tokens.

use super::{Layers, TextInputs};
use engine::{Result, Tensor};
use kernels::attention::{Mask, Rows};
use kernels::linear_cross_entropy::{CrossEntropy, linear_cross_entropy};
use kernels::rows::take_rows;

impl Layers<'_> {
    /// Hidden rows `[D, width]` before the output projection, after `ln_final`: from the text tower's rows `[R, width]`
    /// and the image tokens `[B N, width]`.
    pub fn decode(&mut self, text_rows: Tensor, image_tokens: Tensor, inputs: &TextInputs) -> Result<Tensor> {
        self.in_span("decoder", |layers| {
            let mut x = take_rows(layers.tape, text_rows, inputs.decoder_rows)?;
            let config = &layers.config.decoder;
            let (rows, keys) = (Rows::Ragged(inputs.decoder_offsets), layers.config.image_tokens());
            for layer in 0..config.layers {
                let own = format!("text_decoder.resblocks.{layer}");
                x = layers.in_block(&own, |layers| {
                    let x = layers.self_attention(x, &own, config.heads, rows, Mask::Causal)?;
                    if config.self_attention_mlp { layers.mlp(x, &own) } else { Ok(x) }
                })?;
                let cross = format!("text_decoder.cross_attn.{layer}");
                x = layers.in_block(&cross, |layers| {
                    let key_value = layers.cross_keys(image_tokens, &cross)?;
                    let x = layers.cross_attention(x, key_value, &cross, rows, keys)?;
                    layers.mlp(x, &cross)
                })?;
            }
            layers.layer_norm(x, "text_decoder.ln_final")
        })
    }

    /// The caption loss of hidden rows `[D, width]` that [`Layers::decode`] gave: the mean over the tokens that count.
    #[track_caller]
    pub fn caption_loss(&mut self, hidden: Tensor, inputs: &TextInputs) -> Result<CrossEntropy> {
        let projection = self.matrix("text_decoder.text_projection")?;
        let ignore = self.config.text.pad_id as i32;
        self.in_span("decoder.loss", |layers| {
            linear_cross_entropy(layers.tape, hidden, projection, inputs.labels, ignore)
        })
    }
}
