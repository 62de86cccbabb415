//! Floating-point operations of a forward pass, one multiply-add counted as two, by the formulas of coca.md section 5.
//! They equal open_clip's own profile of its models, so that utilisation figures are comparable.

use crate::config::{CocaConfig, Pooler};

/// Floating-point operations per sample. LayerNorm, softmax, GELU and the optimizer are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flops {
    /// The patch projection; part of `image`. It has no input gradient.
    pub patch: u64,
    /// Image tower: encoder, poolers (their query projection too, though it is the same for all samples), projection.
    pub image: u64,
    /// Text tower with its projection.
    pub text: u64,
    /// Decoder with its output projection.
    pub decoder: u64,
    /// The decoder's output projection; part of `decoder`.
    pub output_projection: u64,
}

impl Flops {
    /// Cost of one sample whose text has `ids` token ids (the tower adds CLS) and `positions` decoder positions, both
    /// counted with full attention matrices: a causal kernel may do less.
    pub fn forward(config: &CocaConfig, ids: usize, positions: usize) -> Flops {
        let CocaConfig { vision, text, decoder, .. } = config;
        let [ids, positions] = [ids, positions].map(|size| size as u64);
        let [patches, rows] = [vision.patches(), vision.rows()].map(|size| size as u64);
        let [embed, width, text_width] = [config.embed_dim, vision.width, text.width].map(|size| size as u64);
        let [tokens, pooled_width] = [config.image_tokens(), config.image_token_width()].map(|size| size as u64);

        let patch = 2 * patches * vision.patch_values() as u64 * width;
        let encoder = vision.layers as u64 * (attention(rows, width) + mlp(rows, width, vision.mlp_width));
        let poolers = match (config.pooler, config.pooler.generative()) {
            (Pooler::Cascade { .. }, _) => pooler(tokens, embed, rows, width) + pooler(1, embed, tokens, embed),
            (Pooler::Parallel { .. }, _) => pooler(tokens, embed, rows, width) + pooler(1, embed, rows, width),
            (_, Some((queries, _))) => pooler(queries as u64, embed, rows, width),
            (_, None) => 0,
        };
        let image = patch + encoder + poolers + 2 * pooled_width * embed;

        let text_block = attention(ids + 1, text_width) + mlp(ids + 1, text_width, text.mlp_width);
        let text_tower = text.layers as u64 * text_block + 2 * text_width * embed;

        let one_mlp = mlp(positions, text_width, decoder.mlp_width);
        let mlps = if decoder.self_attention_mlp { 2 * one_mlp } else { one_mlp };
        let layer = attention(positions, text_width) + cross_attention(positions, tokens, text_width) + mlps;
        let output_projection = 2 * positions * text_width * text.vocabulary_size as u64;
        Flops {
            patch,
            image,
            text: text_tower,
            decoder: decoder.layers as u64 * layer + output_projection,
            output_projection,
        }
    }

    /// Both towers and the decoder.
    pub fn total(&self) -> u64 {
        self.image + self.text + self.decoder
    }

    /// Forward and backward, without recomputation: three times the forward pass less the patches' input gradient.
    pub fn training(&self) -> u64 {
        3 * self.total() - self.patch
    }

    /// The contrastive loss's two products with the features of `global_batch` samples, per sample, forward.
    pub fn contrastive(config: &CocaConfig, global_batch: usize) -> u64 {
        4 * global_batch as u64 * config.embed_dim as u64
    }
}

/// Self-attention over `rows` rows: query, key, value and output projections and the two products of the scores.
fn attention(rows: u64, width: u64) -> u64 {
    8 * rows * width * width + 4 * rows * rows * width
}

/// Two linear layers.
fn mlp(rows: u64, width: u64, hidden: usize) -> u64 {
    4 * rows * width * hidden as u64
}

/// `queries` rows attend to `keys` rows of the same width.
fn cross_attention(queries: u64, keys: u64, width: u64) -> u64 {
    4 * queries * width * width + 4 * keys * width * width + 4 * queries * keys * width
}

/// `queries` rows of `width` attend to `keys` rows of `key_width`.
fn pooler(queries: u64, width: u64, keys: u64, key_width: u64) -> u64 {
    4 * queries * width * width + 4 * keys * key_width * width + 4 * queries * keys * width
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of coca.md section 5, in GFLOP with three decimals.
    #[test]
    fn open_clip_presets_have_open_clips_profile() {
        for (preset, positions, image, text, decoder, head, total) in [
            ("coca_ViT-B-32", 76, 9.191, 5.960, 18.191, 3.845, 33.342),
            ("coca_ViT-B-32", 75, 9.191, 5.960, 17.992, 3.795, 33.143),
            ("coca_ViT-L-14", 76, 163.640, 13.300, 37.583, 5.768, 214.522),
            ("coca_ViT-L-14", 75, 163.640, 13.300, 37.181, 5.692, 214.121),
            ("coca_base", 76, 46.474, 13.299, 39.317, 7.471, 99.091),
        ] {
            let flops = Flops::forward(&CocaConfig::preset(preset).unwrap(), 76, positions);
            let half_digit = 0.000_500_1;
            for (found, wanted, tolerance) in [
                (flops.image, image, half_digit),
                (flops.text, text, half_digit),
                (flops.decoder, decoder, half_digit),
                (flops.output_projection, head, half_digit),
                // The table's total is the sum of its three rounded parts.
                (flops.total(), total, 3.0 * half_digit),
            ] {
                assert!((found as f64 / 1e9 - wanted).abs() <= tolerance, "{preset} {positions}: {found} {wanted}");
            }
        }
    }

    /// coca.md section 5: 86.5, 229.7 and 708.9 GFLOP with 64 ids, cascade poolers and one MLP in each decoder layer.
    #[test]
    fn paper_presets_have_the_derived_cost() {
        for (preset, wanted) in [("paper-base", 86.5), ("paper-large", 229.7), ("paper-2.1b", 708.9)] {
            let total = Flops::forward(&CocaConfig::preset(preset).unwrap(), 64, 64).total() as f64 / 1e9;
            assert!((total - wanted).abs() <= 0.05, "{preset}: {total}");
        }
    }

    #[test]
    fn training_is_three_passes_less_the_patches() {
        let config = CocaConfig::preset("emoji").unwrap();
        let flops = Flops::forward(&config, 8, 7);
        assert_eq!(flops.patch, 2 * 4 * 192 * 192);
        assert_eq!(flops.training(), 3 * (flops.image + flops.text + flops.decoder) - flops.patch);
        assert_eq!(Flops::contrastive(&config, 64), 2 * 2 * 64 * 128);
    }
}
