//! The image tower: patches, transformer, poolers, projection.

use super::Layers;
use crate::config::Pooler;
use engine::{DType, Error, Meta, Result, Shape, Tensor};
use kernels::attention::{Mask, Rows};
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
                let pooled = layers.attention_pooler("visual.attn_pool", encoded, Rows::Fixed(rows), heads)?;
                let normed = layers.layer_norm(pooled, "visual.ln_post")?;
                layers.split_first(normed, batch, queries)
            }
            Pooler::Cascade { queries, heads } | Pooler::Parallel { queries, heads } => {
                let tokens = layers.attention_pooler("visual.attn_pool", encoded, Rows::Fixed(rows), heads)?;
                let tokens = layers.layer_norm(tokens, "visual.ln_post")?;
                let (source, source_rows) =
                    if matches!(pooler, Pooler::Cascade { .. }) { (tokens, queries) } else { (encoded, rows) };
                let pooled =
                    layers.attention_pooler("visual.attn_pool_contrastive", source, Rows::Fixed(source_rows), heads)?;
                Ok((layers.layer_norm(pooled, "visual.ln_post_contrastive")?, tokens))
            }
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
