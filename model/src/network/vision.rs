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
            let batch = images.shape().dims()[0];
            let (pooled, tokens) = layers.in_block("pooler", |layers| {
                let (rows, tokens) = layers.pool_tokens(encoded, batch)?;
                Ok::<_, Error>((layers.pool_feature(encoded, rows, batch)?, tokens))
            })?;
            let features = layers.in_span("features", |layers| {
                let projection = layers.matrix("visual.proj")?;
                let features = project_f32(layers.tape, pooled, projection)?;
                normalize(layers.tape, features)
            })?;
            Ok(ImageOutputs { encoded, features, tokens })
        })
    }

    /// [`ImageOutputs::encoded`] alone.
    #[track_caller]
    pub fn image_rows(&mut self, images: Tensor) -> Result<Tensor> {
        self.in_span("visual", |layers| layers.vision_transformer(images))
    }

    /// [`ImageOutputs::tokens`] alone.
    #[track_caller]
    pub fn image_tokens(&mut self, images: Tensor) -> Result<Tensor> {
        self.in_span("visual", |layers| {
            let encoded = layers.vision_transformer(images)?;
            layers.in_block("pooler", |layers| Ok(layers.pool_tokens(encoded, images.shape().dims()[0])?.1))
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

    /// The generative pooler's rows after LayerNorm, and those of them that are the image tokens `[B N, width]`.
    fn pool_tokens(&mut self, encoded: Tensor, batch: usize) -> Result<(Tensor, Tensor)> {
        let rows = self.config.vision.rows();
        let (pooled, count) = match self.config.pooler.generative() {
            None => (encoded, rows),
            Some((queries, heads)) => {
                (self.attention_pooler("visual.attn_pool", encoded, Rows::Fixed(rows), heads)?, queries)
            }
        };
        let pooled = self.layer_norm(pooled, "visual.ln_post")?;
        let tokens = match self.config.pooler {
            Pooler::None | Pooler::OpenClip { .. } => {
                let others = (0..batch * count).filter(|row| row % count != 0);
                self.take_fixed("token rows", pooled, others)?
            }
            Pooler::Cascade { .. } | Pooler::Parallel { .. } => pooled,
        };
        Ok((pooled, tokens))
    }

    /// The pooled row of each image `[B, width]` after LayerNorm, given what [`Layers::pool_tokens`] gave first.
    fn pool_feature(&mut self, encoded: Tensor, pooled: Tensor, batch: usize) -> Result<Tensor> {
        let (source, rows, heads) = match self.config.pooler {
            Pooler::None | Pooler::OpenClip { .. } => {
                let rows = pooled.shape().rows() / batch;
                return self.take_fixed("pooled rows", pooled, (0..batch).map(|image| image * rows));
            }
            Pooler::Cascade { queries, heads } => (pooled, queries, heads),
            Pooler::Parallel { heads, .. } => (encoded, self.config.vision.rows(), heads),
        };
        let pooled = self.attention_pooler("visual.attn_pool_contrastive", source, Rows::Fixed(rows), heads)?;
        self.layer_norm(pooled, "visual.ln_post_contrastive")
    }

    /// Rows of `x` that are known when the tape is recorded.
    fn take_fixed(&mut self, name: &str, x: Tensor, rows: impl Iterator<Item = usize>) -> Result<Tensor> {
        let rows: Vec<i32> = rows.map(|row| row as i32).collect();
        let index = self.tape.input(name, Meta::new(Shape::from([rows.len()]), DType::I32))?;
        self.tape.write(index, &rows)?;
        take_rows(self.tape, x, index)
    }
}
