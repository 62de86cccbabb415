//! A Vision Transformer of burn's modules and its training step: forward, cross-entropy, backward, AdamW.

use crate::{Result, label, values};
use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use serde_json::Value;

/// Sizes of the encoder, and the classes that it tells apart.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    image: usize,
    patch: usize,
    width: usize,
    mlp_width: usize,
    layers: usize,
    heads: usize,
    classes: usize,
}

impl Sizes {
    /// Those of open_clip's `vision_cfg`.
    pub fn read(vision: &Value, classes: usize) -> Result<Sizes> {
        let size = |key: &str, other: Option<u64>| -> Result<usize> {
            let value = vision[key].as_u64().or(other);
            Ok(value.ok_or_else(|| format!("no whole number {key:?} in vision_cfg"))? as usize)
        };
        let width = size("width", None)?;
        Ok(Sizes {
            image: size("image_size", None)?,
            patch: size("patch_size", None)?,
            width,
            mlp_width: (vision["mlp_ratio"].as_f64().unwrap_or(4.0) * width as f64) as usize,
            layers: size("layers", None)?,
            heads: width / size("head_width", Some(64))?,
            classes,
        })
    }
}

/// The module: patches, a class row, positions, LayerNorm, blocks, LayerNorm, a linear layer on the class row.
#[derive(Module, Debug)]
struct Encoder {
    patches: Conv2d,
    class: Param<Tensor<3>>,
    positions: Param<Tensor<3>>,
    ln_pre: LayerNorm,
    blocks: TransformerEncoder,
    ln_post: LayerNorm,
    classifier: Linear,
}

impl Encoder {
    fn new(sizes: Sizes, device: &Device) -> Encoder {
        let Sizes { image, patch, width, mlp_width, layers, heads, classes } = sizes;
        let rows = (image / patch).pow(2) + 1;
        let start =
            |rows: usize| Param::from_tensor(Tensor::random([1, rows, width], Distribution::Normal(0.0, 0.02), device));
        let blocks = TransformerEncoderConfig::new(width, mlp_width, heads, layers);
        Encoder {
            patches: Conv2dConfig::new([3, width], [patch, patch])
                .with_stride([patch, patch])
                .with_bias(false)
                .init(device),
            class: start(1),
            positions: start(rows),
            ln_pre: LayerNormConfig::new(width).init(device),
            blocks: blocks.with_dropout(0.0).with_norm_first(true).init(device),
            ln_post: LayerNormConfig::new(width).init(device),
            classifier: LinearConfig::new(width, classes).init(device),
        }
    }

    /// Logits `[batch, classes]` of images `[batch, 3, size, size]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let patches: Tensor<3> = self.patches.forward(images).flatten(2, 3);
        let patches = patches.swap_dims(1, 2);
        let [batch, _, width] = patches.dims();
        let class = self.class.val().expand([batch, 1, width]);
        let x = Tensor::cat(vec![class, patches], 1) + self.positions.val();
        let x = self.blocks.forward(TransformerEncoderInput::new(self.ln_pre.forward(x)));
        let class: Tensor<2> = x.narrow(1, 0, 1).flatten(1, 2);
        self.classifier.forward(self.ln_post.forward(class))
    }
}

/// The module, its optimiser and one batch.
pub struct Vit {
    device: Device,
    model: Option<Encoder>,
    optimizer: ModuleOptimizer,
    loss: CrossEntropyLoss,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

impl Vit {
    /// Random weights and images.
    pub fn new(sizes: Sizes, batch: usize) -> Vit {
        let device = Device::flex().autodiff();
        let shape = [batch, 3, sizes.image, sizes.image];
        let labels: Vec<i64> = (0..batch).map(|row| label(row, sizes.classes) as i64).collect();
        Vit {
            model: Some(Encoder::new(sizes, &device)),
            optimizer: AdamWConfig::new().with_weight_decay(0.01).init(),
            loss: CrossEntropyLossConfig::new().init(&device),
            images: Tensor::from_data(TensorData::new(values(0, shape.iter().product()), shape), &device),
            labels: Tensor::from_data(labels.as_slice(), &device),
            device,
        }
    }

    /// One step; the loss before it.
    pub fn step(&mut self) -> Result<f32> {
        let model = self.model.take().ok_or("a step before failed")?;
        let loss = self.loss.forward(model.forward(self.images.clone()), self.labels.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimizer.step(1e-4, model, gradients));
        self.device.sync()?;
        Ok(loss.into_scalar())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_learns_its_batch() {
        let vision = serde_json::json!({"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2});
        let mut vit = Vit::new(Sizes::read(&vision, 10).unwrap(), 4);
        let first = vit.step().unwrap();
        // Chance of one in ten classes.
        assert!((first - 10f32.ln()).abs() < 1.5, "{first}");
        let last = (0..200).map(|_| vit.step().unwrap()).last().unwrap();
        assert!(last < 0.8 * first, "{first} became {last}");
    }

    #[test]
    fn a_missing_size_is_named() {
        let error = Sizes::read(&serde_json::json!({"width": 32}), 10).unwrap_err();
        assert!(error.to_string().contains("image_size") || error.to_string().contains("patch_size"), "{error}");
    }
}
