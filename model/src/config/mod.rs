//! The architecture of a CoCa as data: one set of types spans the paper's form and open_clip's, so that no code forks.
//! `validate` is the only door: a configuration that passes it can be built, and every size in it is bounded.

mod open_clip;
mod presets;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

pub use presets::PRESETS;

/// The whole architecture. Units: pixels for image and patch sizes, elements for widths, rows for lengths and queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CocaConfig {
    /// Width of the contrastive space, and of the attention poolers' outputs.
    pub embed_dim: usize,
    /// Image encoder.
    pub vision: VisionConfig,
    /// What stands between the image encoder and its two readers (the contrastive loss and the decoder).
    pub pooler: Pooler,
    /// Unimodal text tower.
    pub text: TextConfig,
    /// Multimodal text decoder.
    pub decoder: DecoderConfig,
    /// QuickGELU, `x * sigmoid(1.702 x)`, in every MLP instead of the exact GELU.
    #[serde(default)]
    pub quick_gelu: bool,
    /// Initial value of `logit_scale`, the logarithm of the inverse temperature.
    #[serde(default = "default_logit_scale")]
    pub init_logit_scale: f64,
    /// How a picture becomes the encoder's input.
    #[serde(default)]
    pub image: ImageConfig,
    /// What open_clip is told about the tokenizer.
    #[serde(default, skip_serializing_if = "TokenizerKeys::is_empty")]
    pub tokenizer: TokenizerKeys,
}

/// open_clip's keys of a tokenizer of the transformers library, kept as they were read, so that open_clip finds the tokenizer
/// of a model that is written again. Here only whether there is one counts: then it is the folder's `tokenizer.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerKeys {
    /// Its name; empty: CLIP's. In a folder open_clip takes the folder's own files, whatever the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hf_tokenizer_name: Option<String>,
    /// Its mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer_mode: Option<String>,
    /// Further arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
}

impl TokenizerKeys {
    /// Whether open_clip takes a tokenizer of the transformers library, not CLIP's.
    pub fn names_tokenizer(&self) -> bool {
        self.hf_tokenizer_name.as_ref().is_some_and(|name| !name.is_empty())
    }

    fn is_empty(&self) -> bool {
        *self == TokenizerKeys::default()
    }
}

/// Vision Transformer over square patches of a square image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Side of the image.
    pub image_size: usize,
    /// Side of a patch; divides `image_size`.
    pub patch_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Attention heads; divides `width`.
    pub heads: usize,
    /// Hidden width of the MLPs.
    pub mlp_width: usize,
    /// Whether a learned class token stands before the patches (open_clip: yes).
    pub class_token: bool,
    /// Whether a LayerNorm stands before the first block (open_clip: yes).
    pub ln_pre: bool,
}

/// From encoder rows to image tokens (read by the decoder) and one pooled row (read by the contrastive loss).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "layout", rename_all = "snake_case", deny_unknown_fields)]
pub enum Pooler {
    /// No pooler: the class token is pooled, the patches are the image tokens (open_clip's `coca_base`).
    None,
    /// One pooler: query 0 is pooled, the other `queries - 1` are the image tokens (open_clip).
    OpenClip {
        /// Number of learned queries, the contrastive one included.
        queries: usize,
        /// Attention heads; divides `embed_dim`.
        heads: usize,
    },
    /// A generative pooler of `queries`, then a contrastive pooler of one query that reads the generative one's output
    /// (the paper's default).
    Cascade {
        /// Number of learned queries of the generative pooler.
        queries: usize,
        /// Attention heads of both poolers; divides `embed_dim`.
        heads: usize,
    },
    /// As `Cascade`, but both poolers read the encoder's output.
    Parallel {
        /// Number of learned queries of the generative pooler.
        queries: usize,
        /// Attention heads of both poolers; divides `embed_dim`.
        heads: usize,
    },
}

/// Causal text transformer with a CLS row appended to every text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Most token ids in a text; the tower has one row more, for CLS.
    pub context_length: usize,
    /// Number of token ids.
    pub vocabulary_size: usize,
    /// Width of the residual stream; equal to the decoder's.
    pub width: usize,
    /// Attention heads; divides `width`.
    pub heads: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Hidden width of the MLPs.
    pub mlp_width: usize,
    /// Token id that fills a text up to `context_length`.
    #[serde(default)]
    pub pad_id: usize,
    /// Which keys the CLS row may see.
    #[serde(default)]
    pub cls_mask: ClsMask,
}

/// Which keys are valid in the text tower, besides the causal rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClsMask {
    /// open_clip's, shifted by one: CLS sees the first pad row and not itself. Needed for its published weights.
    #[default]
    Legacy,
    /// Rows whose id is not `pad_id`, and CLS itself.
    Correct,
    /// The text's own rows by its length, whatever their ids, and CLS itself.
    Length,
}

impl ClsMask {
    /// Whether the row of a text's `id`, which follows the id `before`, may be seen by itself and by later rows.
    pub fn shows(self, before: Option<i32>, id: i32, pad: i32) -> bool {
        match self {
            // Shifted by one, as in open_clip: a row is hidden by a pad id before it.
            ClsMask::Legacy => before != Some(pad),
            ClsMask::Correct => id != pad,
            ClsMask::Length => true,
        }
    }
}

/// Multimodal decoder: each layer attends to its own past, then to the image tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of the residual stream; equal to the text tower's and to the image tokens'.
    pub width: usize,
    /// Attention heads; divides `width`.
    pub heads: usize,
    /// Number of layers, each one self-attention and one cross-attention.
    pub layers: usize,
    /// Hidden width of the MLPs.
    pub mlp_width: usize,
    /// Whether an MLP also follows the self-attention. open_clip: self-attention, MLP, cross-attention, MLP.
    /// Paper (`false`): self-attention, cross-attention, MLP.
    pub self_attention_mlp: bool,
}

/// Resize rule and normalisation of pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// Mean of each channel (red, green, blue), of values in 0 to 1.
    pub mean: [f64; 3],
    /// Standard deviation of each channel, of values in 0 to 1.
    pub std: [f64; 3],
    /// How the picture is brought to the square.
    pub resize_mode: ResizeMode,
    /// Value of padding pixels, in `ResizeMode::Longest`.
    pub fill_color: u8,
}

/// How a picture of any size becomes a square one; always bicubic with antialiasing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The short side is resized to the target, the middle is cut out.
    #[default]
    Shortest,
    /// The long side is resized to the target, the rest is padded.
    Longest,
    /// Both sides are resized to the target.
    Squash,
}

/// `ln(1 / 0.07)`.
fn default_logit_scale() -> f64 {
    (1.0 / 0.07f64).ln()
}

impl Default for ImageConfig {
    /// CLIP's constants.
    fn default() -> ImageConfig {
        ImageConfig {
            mean: [0.48145466, 0.4578275, 0.40821073],
            std: [0.26862954, 0.26130258, 0.27577711],
            resize_mode: ResizeMode::Shortest,
            fill_color: 0,
        }
    }
}

impl VisionConfig {
    /// Number of patches of an image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Rows in the encoder: the patches and, if there is one, the class token (row 0).
    pub fn rows(&self) -> usize {
        self.patches() + self.class_token as usize
    }

    /// Values in a patch: three channels of `patch_size` squared.
    pub fn patch_values(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }
}

impl TextConfig {
    /// Rows in the tower for a text of full length: the ids and CLS.
    pub fn rows(&self) -> usize {
        self.context_length + 1
    }
}

impl Pooler {
    /// Queries and heads of the pooler that makes the image tokens, if there is one.
    pub fn generative(&self) -> Option<(usize, usize)> {
        match *self {
            Pooler::None => None,
            Pooler::OpenClip { queries, heads }
            | Pooler::Cascade { queries, heads }
            | Pooler::Parallel { queries, heads } => Some((queries, heads)),
        }
    }

    /// Whether a second pooler with one query makes the pooled row.
    pub fn has_contrastive(&self) -> bool {
        matches!(self, Pooler::Cascade { .. } | Pooler::Parallel { .. })
    }
}

impl CocaConfig {
    /// Number of image tokens that the decoder reads.
    pub fn image_tokens(&self) -> usize {
        match self.pooler {
            Pooler::None => self.vision.patches(),
            Pooler::OpenClip { queries, .. } => queries - 1,
            Pooler::Cascade { queries, .. } | Pooler::Parallel { queries, .. } => queries,
        }
    }

    /// Width of the image tokens and of the pooled row.
    pub fn image_token_width(&self) -> usize {
        if self.pooler == Pooler::None { self.vision.width } else { self.embed_dim }
    }

    /// Checks every rule between the sizes; the error names the field and what would be right.
    pub fn validate(&self) -> Result<()> {
        let CocaConfig { vision, text, decoder, .. } = self;
        for (name, value, most) in [
            ("embed_dim", self.embed_dim, MOST_WIDTH),
            ("vision.image_size", vision.image_size, 1 << 14),
            ("vision.patch_size", vision.patch_size, 1 << 12),
            ("vision.layers", vision.layers, MOST_LAYERS),
            ("vision.width", vision.width, MOST_WIDTH),
            ("vision.heads", vision.heads, MOST_WIDTH),
            ("vision.mlp_width", vision.mlp_width, MOST_WIDTH),
            ("text.context_length", text.context_length, MOST_WIDTH),
            ("text.vocabulary_size", text.vocabulary_size, 1 << 24),
            ("text.width", text.width, MOST_WIDTH),
            ("text.heads", text.heads, MOST_WIDTH),
            ("text.layers", text.layers, MOST_LAYERS),
            ("text.mlp_width", text.mlp_width, MOST_WIDTH),
            ("decoder.width", decoder.width, MOST_WIDTH),
            ("decoder.heads", decoder.heads, MOST_WIDTH),
            ("decoder.layers", decoder.layers, MOST_LAYERS),
            ("decoder.mlp_width", decoder.mlp_width, MOST_WIDTH),
        ] {
            check(value >= 1 && value <= most, || format!("{name} is {value}; it must be from 1 to {most}"))?;
        }
        divides("vision.patch_size", vision.patch_size, "vision.image_size", vision.image_size)?;
        divides("vision.heads", vision.heads, "vision.width", vision.width)?;
        divides("text.heads", text.heads, "text.width", text.width)?;
        divides("decoder.heads", decoder.heads, "decoder.width", decoder.width)?;
        if let Some((queries, heads)) = self.pooler.generative() {
            let least = if self.pooler.has_contrastive() { 1 } else { 2 };
            check((least..=MOST_WIDTH).contains(&queries), || {
                format!("pooler.queries is {queries}; it must be from {least} to {MOST_WIDTH}")
            })?;
            check(heads >= 1, || "pooler.heads is 0; it must be at least 1".into())?;
            divides("pooler.heads", heads, "embed_dim", self.embed_dim)?;
        } else {
            check(vision.class_token, || {
                "without a pooler the class token is the image's embedding: set vision.class_token = true".into()
            })?;
        }
        check(text.width == decoder.width, || {
            format!("text.width is {}, decoder.width is {}; they must be equal", text.width, decoder.width)
        })?;
        check(self.image_token_width() == decoder.width, || {
            let (source, width) = match self.pooler {
                Pooler::None => ("vision.width (no pooler)", vision.width),
                _ => ("embed_dim", self.embed_dim),
            };
            format!("image tokens have {source} = {width}; it must equal decoder.width = {}", decoder.width)
        })?;
        check(text.pad_id < text.vocabulary_size, || {
            format!("text.pad_id is {}, outside text.vocabulary_size = {}", text.pad_id, text.vocabulary_size)
        })?;
        check(self.init_logit_scale.is_finite(), || {
            format!("init_logit_scale is {}; it must be finite", self.init_logit_scale)
        })?;
        check(self.image.mean.iter().all(|mean| mean.is_finite()), || {
            format!("image.mean is {:?}; every value must be finite", self.image.mean)
        })?;
        check(self.image.std.iter().all(|std| std.is_finite() && *std > 0.0), || {
            format!("image.std is {:?}; every value must be finite and above 0", self.image.std)
        })
    }
}

/// Bounds that no real model comes near; they keep products of sizes from a hostile file inside 64 bits.
const MOST_WIDTH: usize = 1 << 17;
const MOST_LAYERS: usize = 1 << 10;

fn check(holds: bool, detail: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid(format!("model configuration: {}", detail()))) }
}

fn divides(part_name: &str, part: usize, whole_name: &str, whole: usize) -> Result<()> {
    check(whole.is_multiple_of(part), || format!("{part_name} = {part} does not divide {whole_name} = {whole}"))
}

#[cfg(test)]
mod tests;
