//! Named architectures: the three sizes of the paper's Table 1, open_clip's three, and the default for the bundled data.
//! Sources: coca.md 1.1 and 2.1 (Yu et al. 2022, Table 1; open_clip's `model_configs/coca_*.json`).

use super::{
    ClsMask, CocaConfig, DecoderConfig, ImageConfig, Pooler, TextConfig, TokenizerKeys, VisionConfig,
    default_logit_scale,
};
use engine::{Error, Result};

/// Names that [`CocaConfig::preset`] knows.
pub const PRESETS: [&str; 7] =
    ["emoji", "paper-base", "paper-large", "paper-2.1b", "coca_base", "coca_ViT-B-32", "coca_ViT-L-14"];

impl CocaConfig {
    /// The architecture called `name`, or an error that lists the names there are.
    pub fn preset(name: &str) -> Result<CocaConfig> {
        Ok(match name {
            "emoji" => emoji(),
            "paper-base" => paper(768, 12, 12, 3072, 12, 3072),
            "paper-large" => paper(1024, 16, 24, 4096, 12, 4096),
            "paper-2.1b" => paper(1408, 16, 40, 6144, 18, 5632),
            "coca_base" => coca_base(),
            "coca_ViT-B-32" => open_clip_pooled(512, 8, vit(224, 32, 12, 768)),
            "coca_ViT-L-14" => open_clip_pooled(768, 12, vit(224, 14, 24, 1024)),
            _ => {
                return Err(Error::invalid(format!(
                    "no model preset is called \"{name}\"; there are {}",
                    PRESETS.join(", ")
                )));
            }
        })
    }
}

/// Trains in minutes on two cores: 16-pixel pictures in 4 patches, open_clip's form, a vocabulary of its own that has most
/// words of short names whole. Few pixels, few layers and many steps carry over to new drawing styles best.
fn emoji() -> CocaConfig {
    let vision = VisionConfig { heads: 4, ..vit(16, 8, 2, 192) };
    let config = open_clip(128, vision, Pooler::OpenClip { queries: 16, heads: 4 }, text(32, 4096, 128, 4, 2));
    CocaConfig { decoder: DecoderConfig { layers: 1, ..config.decoder }, ..config }
}

/// The paper's form. Not in the paper, chosen here: 64 ids of text, LayerNorm before each sublayer, learned positions, no
/// class token, poolers with as many heads as the blocks, contrastive space as wide as the model.
fn paper(
    width: usize,
    heads: usize,
    image_layers: usize,
    image_mlp: usize,
    layers: usize,
    mlp_width: usize,
) -> CocaConfig {
    let vision = VisionConfig {
        heads,
        mlp_width: image_mlp,
        class_token: false,
        ln_pre: false,
        ..vit(288, 18, image_layers, width)
    };
    let text = TextConfig { mlp_width, cls_mask: ClsMask::Correct, ..text(64, 64_000, width, heads, layers) };
    CocaConfig {
        embed_dim: width,
        vision,
        pooler: Pooler::Cascade { queries: 256, heads },
        decoder: DecoderConfig { width, heads, layers, mlp_width, self_attention_mlp: false },
        text,
        quick_gelu: false,
        init_logit_scale: default_logit_scale(),
        image: ImageConfig::default(),
        tokenizer: TokenizerKeys::default(),
    }
}

/// open_clip's `coca_base`: no pooler, so the decoder reads the encoder's own patch rows.
fn coca_base() -> CocaConfig {
    open_clip(512, vit(288, 18, 12, 768), Pooler::None, text(76, 64_000, 768, 12, 12))
}

/// open_clip's pooled models. The pooler has 8 heads whatever its width (96 per head in L-14).
fn open_clip_pooled(width: usize, heads: usize, vision: VisionConfig) -> CocaConfig {
    open_clip(width, vision, Pooler::OpenClip { queries: 256, heads: 8 }, text(76, 49_408, width, heads, 12))
}

/// open_clip's form: a decoder with the text tower's sizes and two MLPs a layer.
fn open_clip(embed_dim: usize, vision: VisionConfig, pooler: Pooler, text: TextConfig) -> CocaConfig {
    let TextConfig { width, heads, layers, mlp_width, .. } = text;
    CocaConfig {
        embed_dim,
        vision,
        pooler,
        text,
        decoder: DecoderConfig { width, heads, layers, mlp_width, self_attention_mlp: true },
        quick_gelu: false,
        init_logit_scale: default_logit_scale(),
        image: ImageConfig::default(),
        tokenizer: TokenizerKeys::default(),
    }
}

/// open_clip's image encoder: heads of 64, MLP of four times the width, class token, LayerNorm before the blocks.
fn vit(image_size: usize, patch_size: usize, layers: usize, width: usize) -> VisionConfig {
    let (heads, mlp_width) = (width / 64, 4 * width);
    VisionConfig { image_size, patch_size, layers, width, heads, mlp_width, class_token: true, ln_pre: true }
}

/// open_clip's text tower: MLP of four times the width, pad id 0, the mask of the published weights.
fn text(context_length: usize, vocabulary_size: usize, width: usize, heads: usize, layers: usize) -> TextConfig {
    let (mlp_width, pad_id, cls_mask) = (4 * width, 0, ClsMask::Legacy);
    TextConfig { context_length, vocabulary_size, width, heads, layers, mlp_width, pad_id, cls_mask }
}
