//! The image tower: patches, transformer, poolers, projection.

use super::Layers;
use crate::config::Pooler;
use engine::{DType, Error, Meta, Result, Shape, Tensor};
use kernels::attention::{Mask, Rows, attention_pool};
use kernels::columns::join_columns;
use kernels::embed::embed_patches;
use kernels::matmul::{linear, project_f32};
use kernels::normalize::normalize;
use kernels::patchify::patchify;
use kernels::rows::take_rows;

/// What the image tower gives.
#[derive(Clone, Copy, Debug)]
pub struct ImageOutputs {
    /// Encoder output `[B rows, vision width]`, before poolers and `ln_post`: frozen-feature probes read it.
    pub encoded: Tensor,
    /// Unit rows f32 `[B, embed_dim]`.
    pub features: Tensor,
    /// What the decoder attends to: `[B N, width]`.
    pub tokens: Tensor,
}

impl Layers<'_> {
    /// Encodes `images` (u8 `[B, size, size, 3]`).
    #[track_caller]
    pub fn encode_image(&mut self, images: Tensor) -> Result<ImageOutputs> {
        self.in_span("visual", |layers| {
            let encoded = layers.vision_transformer(images)?;
            let (pooled, tokens) = layers.pool(encoded, images.shape().dims()[0])?;
            let features = layers.in_span("features", |layers| {
                let projection = layers.matrix("visual.proj")?;
                let features = project_f32(layers.tape, pooled, projection)?;
                normalize(layers.tape, features)
            })?;
            Ok(ImageOutputs { encoded, features, tokens })
        })
    }

    fn vision_transformer(&mut self, images: Tensor) -> Result<Tensor> {
        let config = &self.config.vision;
        let size = config.image_size;
        match *images.shape().dims() {
            [_, height, width, 3] if height == size && width == size && images.dtype() == DType::U8 => {}
            _ => {
                let meta = images.meta();
                return Err(Error::invalid(format!(
                    "the model reads u8 images [batch, {size}, {size}, 3], got {meta}"
                )));
            }
        }
        let mut x = self.in_span("embed", |layers| {
            let image = &layers.config.image;
            let [mean, std] = [image.mean, image.std].map(|values| values.map(|value| value as f32));
            let patches = patchify(layers.tape, images, config.patch_size, mean, std, layers.dtype)?;
            let weight = layers.matrix("visual.conv1.weight")?;
            let weight = layers.tape.reshape(weight, [config.width, config.patch_values()])?;
            let embedded = linear(layers.tape, patches, weight, None)?;
            let positions = layers.vector("visual.positional_embedding")?;
            let class = if config.class_token { Some(layers.vector("visual.class_embedding")?) } else { None };
            let x = embed_patches(layers.tape, embedded, positions, class)?;
            if config.ln_pre { layers.layer_norm(x, "visual.ln_pre") } else { Ok(x) }
        })?;
        for layer in 0..config.layers {
            let prefix = format!("visual.transformer.resblocks.{layer}");
            x = self.block(x, &prefix, config.heads, Rows::Fixed(config.rows()), Mask::None)?;
        }
        Ok(x)
    }

    /// The pooled row of each image `[B, width]` and the image tokens `[B N, width]`, both after LayerNorm.
    fn pool(&mut self, encoded: Tensor, batch: usize) -> Result<(Tensor, Tensor)> {
        let (pooler, rows) = (self.config.pooler, self.config.vision.rows());
        self.in_block("pooler", |layers| match pooler {
            Pooler::None => {
                let normed = layers.layer_norm(encoded, "visual.ln_post")?;
                layers.split_first(normed, batch, rows)
            }
            Pooler::OpenClip { queries, heads } => {
                let pooled = layers.attention_pooler("visual.attn_pool", encoded, rows, heads)?;
                let normed = layers.layer_norm(pooled, "visual.ln_post")?;
                layers.split_first(normed, batch, queries)
            }
            Pooler::Cascade { queries, heads } | Pooler::Parallel { queries, heads } => {
                let tokens = layers.attention_pooler("visual.attn_pool", encoded, rows, heads)?;
                let tokens = layers.layer_norm(tokens, "visual.ln_post")?;
                let (source, source_rows) =
                    if matches!(pooler, Pooler::Cascade { .. }) { (tokens, queries) } else { (encoded, rows) };
                let pooled = layers.attention_pooler("visual.attn_pool_contrastive", source, source_rows, heads)?;
                Ok((layers.layer_norm(pooled, "visual.ln_post_contrastive")?, tokens))
            }
        })
    }

    /// Attention of learned queries over the rows of each image: LN, projections, attention, output projection.
    fn attention_pooler(&mut self, name: &str, x: Tensor, rows: usize, heads: usize) -> Result<Tensor> {
        self.in_span(name, |layers| {
            let query = layers.vector(&format!("{name}.query"))?;
            let query = layers.layer_norm(query, &format!("{name}.ln_q"))?;
            let query = kernels::elementwise::cast(layers.tape, query, layers.dtype)?;
            let x = layers.layer_norm(x, &format!("{name}.ln_k"))?;
            let attention = format!("{name}.attn");
            let width = layers.config.embed_dim;
            let (query, key_value) = if x.shape().columns() == width {
                let (weight, bias) = layers.packed_part(&attention, 0, 1, width)?;
                let query = linear(layers.tape, query, weight, Some(bias))?;
                let (weight, bias) = layers.packed_part(&attention, 1, 2, width)?;
                (query, linear(layers.tape, x, weight, Some(bias))?)
            } else {
                let mut part = |index: usize, letter: char, x: Tensor| -> Result<Tensor> {
                    let weight = layers.matrix(&format!("{attention}.{letter}_proj_weight"))?;
                    let bias = format!("{attention}.in_proj_bias");
                    let span = index * width..(index + 1) * width;
                    let bias = layers.tape.parameter_rows(layers.parameters, &bias, span, DType::F32)?;
                    linear(layers.tape, x, weight, Some(bias))
                };
                let (query, key, value) = (part(0, 'q', query)?, part(1, 'k', x)?, part(2, 'v', x)?);
                (query, join_columns(layers.tape, key, value)?)
            };
            let mixed = attention_pool(layers.tape, query, key_value, heads, Rows::Fixed(rows))?;
            layers.linear(mixed, &format!("{attention}.out_proj"))
        })
    }

    /// Row 0 of each image and the others.
    fn split_first(&mut self, x: Tensor, batch: usize, rows: usize) -> Result<(Tensor, Tensor)> {
        let first: Vec<i32> = (0..batch).map(|image| (image * rows) as i32).collect();
        let rest: Vec<i32> = (0..batch * rows).filter(|row| row % rows != 0).map(|row| row as i32).collect();
        let mut take = |name: &str, rows: &[i32]| -> Result<Tensor> {
            let index = self.tape.input(name, Meta::new(Shape::from([rows.len()]), DType::I32))?;
            self.tape.write(index, rows)?;
            take_rows(self.tape, x, index)
        };
        Ok((take("pooled rows", &first)?, take("token rows", &rest)?))
    }
}
