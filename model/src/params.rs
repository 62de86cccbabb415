//! Every parameter of a configuration: open_clip's exact name and shape, how it starts, whether weight decay applies.
//! The paper's form keeps the style: a second pooler `visual.attn_pool_contrastive` with `visual.ln_post_contrastive`, and
//! decoder blocks `text_decoder.resblocks.i` without MLP. Sources: coca.md 2.2 (names), 2.4 (start), 2.5 (decay).

use crate::config::{CocaConfig, Pooler};
use engine::rng::Philox;
use engine::{Parameters, Result, Shape};
use rayon::prelude::*;

/// One parameter tensor, stored in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// open_clip's name.
    pub name: String,
    /// Linear weights are `[out, in]`; `proj` and `text_projection` are `[in, out]`.
    pub shape: Shape,
    /// Distribution of the starting values.
    pub init: Init,
    /// Whether weight decay applies.
    pub decay: bool,
}

/// Distribution of a parameter's starting values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element has this value.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform from minus this bound to this bound.
    Uniform(f32),
}

/// All parameters of a valid configuration, in the order in which the forward pass meets them.
pub fn parameters(config: &CocaConfig) -> Vec<ParamSpec> {
    let mut list = List(Vec::new());
    list.push("logit_scale", [], Init::Constant(config.init_logit_scale as f32));
    visual(&mut list, config);
    text(&mut list, config);
    decoder(&mut list, config);
    list.0
}

/// Draws every parameter of `list`, which `parameters` hold in this order, from its starting distribution. Stream i of the
/// generator makes parameter i, so that threads draw them side by side.
pub(crate) fn initialize(list: &[ParamSpec], parameters: &Parameters, seed: u64) -> Result<()> {
    list.par_iter().enumerate().try_for_each(|(index, spec)| {
        let mut random = Philox::new(seed, index as u64);
        let count = spec.shape.elements();
        let values: Vec<f32> = match spec.init {
            Init::Constant(value) => vec![value; count],
            Init::Normal(deviation) => (0..count).map(|_| random.normal() as f32 * deviation).collect(),
            Init::Uniform(bound) => (0..count).map(|_| (2.0 * random.uniform() - 1.0) as f32 * bound).collect(),
        };
        parameters.write(&spec.name, &values)
    })
}

/// Whether weight decay applies: open_clip's rule, by number of dimensions and by name.
pub fn decays(name: &str, shape: &Shape) -> bool {
    shape.rank() >= 2 && !["bn", "ln", "bias", "logit_scale"].iter().any(|part| name.contains(part))
}

/// How the weights of a block start.
#[derive(Clone, Copy)]
enum BlockInit {
    /// PyTorch's defaults (image encoder).
    Torch,
    /// CLIP's text rule: normal, with the weights that write to the residual stream scaled down by depth.
    Clip { layers: usize },
}

/// Parts of a block besides its attention.
#[derive(Clone, Copy)]
struct Block {
    width: usize,
    /// Hidden width of the MLP, if the block has one.
    mlp_width: Option<usize>,
    /// Whether keys and values come from elsewhere and have their own LayerNorm.
    cross: bool,
    init: BlockInit,
}

fn visual(list: &mut List, config: &CocaConfig) {
    let vision = &config.vision;
    let (width, embed_dim) = (vision.width, config.embed_dim);
    let scale = Init::Normal(inverse_sqrt(width));
    if vision.class_token {
        list.push("visual.class_embedding", [width], scale);
    }
    list.push("visual.positional_embedding", [vision.rows(), width], scale);
    let patch = [width, 3, vision.patch_size, vision.patch_size];
    list.push("visual.conv1.weight", patch, Init::Uniform(inverse_sqrt(vision.patch_values())));
    if vision.ln_pre {
        list.layer_norm("visual.ln_pre", width);
    }
    let block = Block { width, mlp_width: Some(vision.mlp_width), cross: false, init: BlockInit::Torch };
    for layer in 0..vision.layers {
        list.block(&format!("visual.transformer.resblocks.{layer}"), block);
    }
    if let Some((queries, _)) = config.pooler.generative() {
        list.pooler("visual.attn_pool", queries, embed_dim, width);
    }
    list.layer_norm("visual.ln_post", config.image_token_width());
    if config.pooler.has_contrastive() {
        let keys = if matches!(config.pooler, Pooler::Cascade { .. }) { embed_dim } else { width };
        list.pooler("visual.attn_pool_contrastive", 1, embed_dim, keys);
        list.layer_norm("visual.ln_post_contrastive", embed_dim);
    }
    // The deviation follows the encoder's width even where the rows are the pooler's: open_clip does so.
    list.push("visual.proj", [config.image_token_width(), embed_dim], scale);
}

fn text(list: &mut List, config: &CocaConfig) {
    let text = &config.text;
    let width = text.width;
    list.push("text.cls_emb", [width], Init::Normal(0.01));
    list.push("text.positional_embedding", [text.rows(), width], Init::Normal(0.01));
    list.push("text.token_embedding.weight", [text.vocabulary_size, width], Init::Normal(0.02));
    let init = BlockInit::Clip { layers: text.layers };
    for layer in 0..text.layers {
        let block = Block { width, mlp_width: Some(text.mlp_width), cross: false, init };
        list.block(&format!("text.transformer.resblocks.{layer}"), block);
    }
    list.layer_norm("text.ln_final", width);
    list.push("text.text_projection", [width, config.embed_dim], Init::Normal(inverse_sqrt(width)));
}

/// open_clip leaves the decoder at PyTorch's defaults and its output projection uninitialised (its own function for it is
/// never called); what that function intends is done here.
fn decoder(list: &mut List, config: &CocaConfig) {
    let decoder = &config.decoder;
    let width = decoder.width;
    let init = BlockInit::Clip { layers: decoder.layers };
    for layer in 0..decoder.layers {
        let mlp_width = decoder.self_attention_mlp.then_some(decoder.mlp_width);
        list.block(&format!("text_decoder.resblocks.{layer}"), Block { width, mlp_width, cross: false, init });
        let block = Block { width, mlp_width: Some(decoder.mlp_width), cross: true, init };
        list.block(&format!("text_decoder.cross_attn.{layer}"), block);
    }
    list.layer_norm("text_decoder.ln_final", width);
    let head = [width, config.text.vocabulary_size];
    list.push("text_decoder.text_projection", head, Init::Normal(inverse_sqrt(width)));
}

/// `1 / sqrt(size)`.
pub(crate) fn inverse_sqrt(size: usize) -> f32 {
    (size as f64).powf(-0.5) as f32
}

/// Bound of Xavier's uniform distribution, `sqrt(6 / (fan_in + fan_out))`.
fn xavier(fan_in: usize, fan_out: usize) -> Init {
    Init::Uniform((6.0 / (fan_in + fan_out) as f64).sqrt() as f32)
}

/// Parameters while they are listed.
pub(crate) struct List(pub(crate) Vec<ParamSpec>);

impl List {
    pub(crate) fn push<const RANK: usize>(&mut self, name: &str, shape: [usize; RANK], init: Init) {
        let shape = Shape::from(shape);
        self.0.push(ParamSpec { name: name.to_string(), shape, init, decay: decays(name, &shape) });
    }

    pub(crate) fn layer_norm(&mut self, name: &str, width: usize) {
        self.push(&format!("{name}.weight"), [width], Init::Constant(1.0));
        self.push(&format!("{name}.bias"), [width], Init::Constant(0.0));
    }

    pub(crate) fn linear(&mut self, name: &str, outputs: usize, inputs: usize, weight: Init, bias: Init) {
        self.push(&format!("{name}.weight"), [outputs, inputs], weight);
        self.push(&format!("{name}.bias"), [outputs], bias);
    }

    fn block(&mut self, name: &str, Block { width, mlp_width, cross, init }: Block) {
        let fan_in = |size| Init::Uniform(inverse_sqrt(size));
        let (in_proj, out_proj) = match init {
            BlockInit::Torch => (xavier(width, 3 * width), fan_in(width)),
            BlockInit::Clip { layers } => (Init::Normal(inverse_sqrt(width)), residual(width, layers)),
        };
        self.layer_norm(&format!("{name}.ln_1"), width);
        if cross {
            self.layer_norm(&format!("{name}.ln_1_kv"), width);
        }
        self.push(&format!("{name}.attn.in_proj_weight"), [3 * width, width], in_proj);
        self.push(&format!("{name}.attn.in_proj_bias"), [3 * width], Init::Constant(0.0));
        self.linear(&format!("{name}.attn.out_proj"), width, width, out_proj, Init::Constant(0.0));
        let Some(mlp_width) = mlp_width else { return };
        let (c_fc, c_proj) = match init {
            BlockInit::Torch => (fan_in(width), fan_in(mlp_width)),
            BlockInit::Clip { layers } => (Init::Normal(inverse_sqrt(2 * width)), residual(width, layers)),
        };
        self.layer_norm(&format!("{name}.ln_2"), width);
        self.linear(&format!("{name}.mlp.c_fc"), mlp_width, width, c_fc, fan_in(width));
        self.linear(&format!("{name}.mlp.c_proj"), width, mlp_width, c_proj, fan_in(mlp_width));
    }

    /// Learned queries that attend to rows of width `keys`. PyTorch packs the three projections when all widths agree.
    pub(crate) fn pooler(&mut self, name: &str, queries: usize, width: usize, keys: usize) {
        self.push(&format!("{name}.query"), [queries, width], Init::Normal(1.0));
        if keys == width {
            self.push(&format!("{name}.attn.in_proj_weight"), [3 * width, width], xavier(width, 3 * width));
        } else {
            self.push(&format!("{name}.attn.q_proj_weight"), [width, width], xavier(width, width));
            self.push(&format!("{name}.attn.k_proj_weight"), [width, keys], xavier(keys, width));
            self.push(&format!("{name}.attn.v_proj_weight"), [width, keys], xavier(keys, width));
        }
        self.push(&format!("{name}.attn.in_proj_bias"), [3 * width], Init::Constant(0.0));
        let out_proj = Init::Uniform(inverse_sqrt(width));
        self.linear(&format!("{name}.attn.out_proj"), width, width, out_proj, Init::Constant(0.0));
        self.layer_norm(&format!("{name}.ln_q"), width);
        self.layer_norm(&format!("{name}.ln_k"), keys);
    }
}

/// CLIP's deviation for weights that write to the residual stream: `width^-1/2 (2 layers)^-1/2`.
fn residual(width: usize, layers: usize) -> Init {
    Init::Normal(inverse_sqrt(2 * layers * width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(preset: &str) -> Vec<ParamSpec> {
        parameters(&CocaConfig::preset(preset).unwrap())
    }

    fn elements(list: &[ParamSpec], chosen: impl Fn(&ParamSpec) -> bool) -> usize {
        list.iter().filter(|spec| chosen(spec)).map(|spec| spec.shape.elements()).sum()
    }

    /// Counts read from open_clip's own models (coca.md 2.2).
    #[test]
    fn open_clip_presets_have_open_clips_counts() {
        for (preset, tensors, total, visual, text, decoder) in [
            ("coca_ViT-B-32", 629, 253_560_065, 89_164_032, 63_428_608, 100_967_424),
            ("coca_ViT-L-14", 773, 638_450_177, 306_724_864, 123_651_072, 208_074_240),
            ("coca_base", 618, 440_337_409, 86_395_392, 134_661_120, 219_280_896),
        ] {
            let list = list(preset);
            assert_eq!(list.len(), tensors, "{preset}");
            assert_eq!(elements(&list, |_| true), total, "{preset}");
            for (prefix, count) in [("visual.", visual), ("text.", text), ("text_decoder.", decoder)] {
                assert_eq!(elements(&list, |spec| spec.name.starts_with(prefix)), count, "{preset} {prefix}");
            }
        }
    }

    /// The paper's Table 1 counts matrices without poolers: 12 (uni + multi) blocks and two vocabularies for the text,
    /// blocks, patches and positions for the image; derived in coca.md 1.1, in tenths of a million.
    #[test]
    fn paper_presets_agree_with_table_1() {
        for (preset, image, text, table_image, table_text) in [
            ("paper-base", 859, 2965, 860.0, 2970.0),
            ("paper-large", 3032, 4834, 3030.0, 4840.0),
            ("paper-2.1b", 10110, 11790, 10000.0, 11000.0),
        ] {
            let list = list(preset);
            let tenths = |chosen: &dyn Fn(&ParamSpec) -> bool| elements(&list, chosen) as f64 / 1e5;
            let matrix = |spec: &ParamSpec| spec.shape.rank() >= 2;
            let found_image = tenths(&|spec| {
                let pooler = spec.name.contains("attn_pool") || spec.name == "visual.proj";
                spec.name.starts_with("visual.") && matrix(spec) && !pooler
            });
            let found_text = tenths(&|spec| {
                let small = ["text.positional_embedding", "text.text_projection"].contains(&spec.name.as_str());
                spec.name.starts_with("text") && matrix(spec) && !small
            });
            // The derivation is quoted to four digits.
            assert!((found_image - image as f64).abs() <= 5.0, "{preset}: image {found_image}");
            assert!((found_text - text as f64).abs() <= 5.0, "{preset}: text {found_text}");
            // The table has two or three digits; "1.1B" is 7 % below the 1.18B that its own sizes give.
            assert!((found_image / table_image - 1.0).abs() < 0.015, "{preset}: image {found_image}");
            assert!((found_text / table_text - 1.0).abs() < 0.075, "{preset}: text {found_text}");
        }
    }

    #[test]
    fn names_are_unique() {
        for preset in crate::config::PRESETS {
            let mut names: Vec<String> = list(preset).into_iter().map(|spec| spec.name).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count, "{preset}");
        }
    }

    #[test]
    fn poolers_pack_their_projections_when_the_widths_agree() {
        let shape = |preset: &str, name: &str| list(preset).iter().find(|s| s.name == name).map(|s| s.shape);
        assert_eq!(shape("coca_ViT-L-14", "visual.attn_pool.attn.k_proj_weight"), Some([768, 1024].into()));
        assert_eq!(shape("coca_ViT-L-14", "visual.attn_pool.attn.in_proj_weight"), None);
        assert_eq!(shape("paper-base", "visual.attn_pool.attn.in_proj_weight"), Some([2304, 768].into()));
        assert_eq!(shape("paper-base", "visual.attn_pool_contrastive.query"), Some([1, 768].into()));
        let mut wide = CocaConfig::preset("coca_ViT-L-14").unwrap();
        for (pooler, packed) in
            [(Pooler::Cascade { queries: 256, heads: 8 }, true), (Pooler::Parallel { queries: 256, heads: 8 }, false)]
        {
            wide.pooler = pooler;
            let found = parameters(&wide).iter().any(|s| s.name == "visual.attn_pool_contrastive.attn.in_proj_weight");
            assert_eq!(found, packed, "{pooler:?}");
        }
    }

    #[test]
    fn decay_follows_open_clips_rule() {
        let list = list("coca_ViT-B-32");
        let decay = |name: &str| list.iter().find(|spec| spec.name == name).unwrap().decay;
        for name in [
            "visual.positional_embedding",
            "visual.conv1.weight",
            "visual.attn_pool.query",
            "text.token_embedding.weight",
            "text_decoder.text_projection",
            "text_decoder.cross_attn.3.mlp.c_proj.weight",
        ] {
            assert!(decay(name), "{name}");
        }
        for name in ["logit_scale", "visual.class_embedding", "text.cls_emb", "text.ln_final.weight"] {
            assert!(!decay(name), "{name}");
        }
        assert!(!decay("text_decoder.resblocks.0.attn.in_proj_bias"));
    }

    #[test]
    fn starting_values_follow_the_rules() {
        let list = list("coca_ViT-B-32");
        let init = |name: &str| list.iter().find(|spec| spec.name == name).unwrap().init;
        let close = |found: Init, wanted: Init| match (found, wanted) {
            (Init::Normal(a), Init::Normal(b)) | (Init::Uniform(a), Init::Uniform(b)) => {
                assert!((a - b).abs() <= b * 2.0 * f32::EPSILON, "{a} {b}")
            }
            _ => assert_eq!(found, wanted),
        };
        assert_eq!(init("logit_scale"), Init::Constant(2.659_26));
        close(init("visual.conv1.weight"), Init::Uniform((1.0 / 3072f32).sqrt()));
        close(init("visual.proj"), Init::Normal((1.0 / 768f32).sqrt()));
        close(init("visual.transformer.resblocks.0.attn.in_proj_weight"), Init::Uniform((6.0 / 3072f32).sqrt()));
        close(init("visual.attn_pool.attn.k_proj_weight"), Init::Uniform((6.0 / 1280f32).sqrt()));
        close(init("text.transformer.resblocks.2.attn.in_proj_weight"), Init::Normal((1.0 / 512f32).sqrt()));
        close(init("text_decoder.cross_attn.2.mlp.c_proj.weight"), Init::Normal((1.0 / (512.0 * 24f32)).sqrt()));
        close(init("text_decoder.cross_attn.2.mlp.c_fc.weight"), Init::Normal((1.0 / 1024f32).sqrt()));
        close(init("text_decoder.cross_attn.2.mlp.c_proj.bias"), Init::Uniform((1.0 / 2048f32).sqrt()));
        close(init("text_decoder.text_projection"), Init::Normal((1.0 / 512f32).sqrt()));
    }
}
