//! One step of generation: the newest row of every caption through the text tower and the decoder, with the keys and
//! values of its earlier rows and of its image from outside. Shapes: R rows, C cached rows of each, N image tokens.

use super::Layers;
use engine::{DType, Meta, Result, Tensor};
use kernels::attention::{Rows, attention_decode};
use kernels::embed::{TextTables, embed_text};
use kernels::log_sum_exp::log_sum_exp;
use kernels::matmul::project_f32;
use kernels::top_k::top_k;

/// A self-attention with a cache.
#[derive(Clone, Copy, Debug)]
pub struct Cached {
    /// Input `[R C, 2 width]`: keys and values side by side of each caption's earlier rows.
    pub cache: Tensor,
    /// Kept `[R, 3 width]`: queries, keys and values of the newest rows, for the caller to append.
    pub newest: Tensor,
}

/// The inputs and outputs of a step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Input i32 `[R]`: the newest ids.
    pub ids: Tensor,
    /// Input i32 `[R]`: their places in the captions.
    pub positions: Tensor,
    /// Input i32 `[R]`: rows in the text tower's caches; rows that its mask hides are not there.
    pub text_lengths: Tensor,
    /// Input i32 `[R]`: 0 where the text tower's mask hides the newest row.
    pub sees_itself: Tensor,
    /// Input i32 `[R]`: rows in the decoder's caches.
    pub decoder_lengths: Tensor,
    /// The text tower's blocks.
    pub text: Vec<Cached>,
    /// The decoder's self-attentions.
    pub decoder: Vec<Cached>,
    /// Inputs `[images N, 2 width]`: keys and values of each cross-attention, see [`Layers::image_keys`].
    pub image_keys: Vec<Tensor>,
    /// Kept f32 `[R, vocabulary]`: logits of the ids after the newest.
    pub logits: Tensor,
    /// Kept f32 `[R]`: the logarithm of the sum of their exponentials.
    pub totals: Tensor,
    /// Kept f32 and i32 `[R, best]`: the largest logits and their ids, if some are wanted.
    pub best: Option<(Tensor, Tensor)>,
}

impl Layers<'_> {
    /// Keys and values `[images N, 2 width]` that the decoder's layers make of the image tokens.
    pub fn image_keys(&mut self, image_tokens: Tensor) -> Result<Vec<Tensor>> {
        (0..self.config.decoder.layers)
            .map(|layer| self.cross_keys(image_tokens, &format!("text_decoder.cross_attn.{layer}")))
            .collect()
    }

    /// Records a step for `images` times `beams` captions, rows of one image side by side, of at most `capacity` cached
    /// rows each. `best` of the logits are chosen from each row, none if it is 0.
    pub fn step(&mut self, images: usize, beams: usize, capacity: usize, best: usize) -> Result<Step> {
        let (rows, config, dtype) = (images * beams, self.config, self.dtype);
        let (width, heads) = (config.decoder.width, config.decoder.heads);
        let mut input = |name: &str| self.tape.input(name, Meta::new([rows], DType::I32));
        let (ids, positions) = (input("ids")?, input("positions")?);
        let (text_lengths, decoder_lengths) = (input("text lengths")?, input("decoder lengths")?);
        let sees_itself = input("sees itself")?;

        let tables = TextTables {
            tokens: self.vector("text.token_embedding.weight")?,
            positions: self.vector("text.positional_embedding")?,
            class: self.vector("text.cls_emb")?,
        };
        let mut x = embed_text(self.tape, ids, positions, tables, dtype)?;
        let mut text = Vec::new();
        for layer in 0..config.text.layers {
            let name = format!("text.transformer.resblocks.{layer}");
            let cache = self.tape.input("text cache", Meta::new([rows * capacity, 2 * width], dtype))?;
            let (mixed, newest) =
                self.cached_attention(x, &name, config.text.heads, cache, text_lengths, Some(sees_itself))?;
            x = self.mlp(mixed, &name)?;
            text.push(Cached { cache, newest });
        }

        let (mut decoder, mut image_keys) = (Vec::new(), Vec::new());
        let tokens = config.image_tokens();
        for layer in 0..config.decoder.layers {
            let own = format!("text_decoder.resblocks.{layer}");
            let cache = self.tape.input("decoder cache", Meta::new([rows * capacity, 2 * width], dtype))?;
            let (mixed, newest) = self.cached_attention(x, &own, heads, cache, decoder_lengths, None)?;
            x = if config.decoder.self_attention_mlp { self.mlp(mixed, &own)? } else { mixed };
            decoder.push(Cached { cache, newest });
            let cross = format!("text_decoder.cross_attn.{layer}");
            let keys = self.tape.input("image keys", Meta::new([images * tokens, 2 * width], dtype))?;
            x = self.cross_attention(x, keys, &cross, Rows::Fixed(beams), tokens)?;
            x = self.mlp(x, &cross)?;
            image_keys.push(keys);
        }
        let hidden = self.layer_norm(x, "text_decoder.ln_final")?;
        let head = self.matrix("text_decoder.text_projection")?;
        let logits = project_f32(self.tape, hidden, head)?;
        self.tape.keep(logits);
        let totals = log_sum_exp(self.tape, logits)?;
        self.tape.keep(totals);
        let best = if best > 0 { Some(top_k(self.tape, logits, best)?) } else { None };
        if let Some((values, columns)) = best {
            self.tape.keep(values);
            self.tape.keep(columns);
        }
        Ok(Step {
            ids,
            positions,
            text_lengths,
            sees_itself,
            decoder_lengths,
            text,
            decoder,
            image_keys,
            logits,
            totals,
            best,
        })
    }

    /// `x + attention(LN(x))` of block `prefix` over a cache; also the newest queries, keys and values, kept.
    fn cached_attention(
        &mut self,
        x: Tensor,
        prefix: &str,
        heads: usize,
        cache: Tensor,
        lengths: Tensor,
        sees_itself: Option<Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let normed = self.layer_norm(x, &format!("{prefix}.ln_1"))?;
        let newest = self.packed_projection(normed, &format!("{prefix}.attn"))?;
        self.tape.keep(newest);
        let mixed = attention_decode(self.tape, newest, cache, lengths, sees_itself, heads)?;
        Ok((self.linear_residual(mixed, &format!("{prefix}.attn.out_proj"), x)?, newest))
    }
}
