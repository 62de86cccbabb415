//! open_clip's JSON model configurations, in and out: the bare form of its `model_configs/*.json` and the nested form of
//! `open_clip_config.json`. What open_clip cannot express is kept whole under an own key, `coca`, which it never reads.
//! Keys and defaults: open_clip 3.3, `CLIPVisionCfg`, `CLIPTextCfg`, `MultimodalCfg`, `PreprocessCfg` and `CoCa.__init__`.

use super::{
    ClsMask, CocaConfig, DecoderConfig, ImageConfig, Pooler, ResizeMode, TextConfig, TokenizerKeys, VisionConfig,
    default_logit_scale,
};
use engine::{Error, Result};
use serde_json::{Map, Value, json};

/// Our key beside `model_cfg`.
const EXTENSION: &str = "coca";

/// Keys that both `CLIPVisionCfg` and `CLIPTextCfg` know and that must stay off.
const OFF_IN_BOTH: [&str; 10] = [
    "ls_init_value",
    "act_kwargs",
    "norm_kwargs",
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
];

/// Keys of `MultimodalCfg` that open_clip accepts and never reads.
const UNREAD_IN_MULTIMODAL: [&str; 30] = [
    "vocab_size",
    "mlp_ratio",
    "dim_head",
    "n_queries",
    "attn_pooler_heads",
    "hf_tokenizer_name",
    "tokenizer_mode",
    "tokenizer_kwargs",
    "embed_cls",
    "pad_id",
    "eos_id",
    "no_causal_mask",
    "final_ln_after_pool",
    "pool_type",
    "proj_bias",
    "proj_type",
    "output_tokens",
    "act_kwargs",
    "norm_kwargs",
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
    "hf_model_name",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
];

impl CocaConfig {
    /// Reads a configuration from open_clip's JSON, bare or nested, or from what [`CocaConfig::to_open_clip`] wrote.
    ///
    /// Errors name the key: one that open_clip does not know, one that asks for something this crate does not have
    /// (`timm_model_name`, `hf_model_name`, …), or a size that breaks a rule of [`CocaConfig::validate`].
    pub fn from_open_clip(json: &str) -> Result<CocaConfig> {
        let value: Value = serde_json::from_str(json).map_err(|error| invalid(format!("not JSON: {error}")))?;
        let Value::Object(root) = value else { return Err(invalid("not a JSON object")) };
        let plain = read_plain(&root)?;
        plain.validate()?;
        let Some(extension) = root.get(EXTENSION) else { return Ok(plain) };
        let mut config: CocaConfig =
            serde_json::from_value(extension.clone()).map_err(|error| invalid(format!("{EXTENSION}: {error}")))?;
        config.validate()?;
        // Where the tokenizer is found may be edited in one place: it is no part of the model.
        config.tokenizer.clone_from(&plain.tokenizer);
        if read_plain(&write_plain(&config))? != plain {
            return Err(invalid(format!(
                "\"{EXTENSION}\" and \"model_cfg\" describe different models; edit both alike or delete \"{EXTENSION}\""
            )));
        }
        Ok(config)
    }

    /// The text of an `open_clip_config.json`. The key `coca` is added only where open_clip's keys do not say all.
    pub fn to_open_clip(&self) -> String {
        let mut root = write_plain(self);
        if read_plain(&root).ok().as_ref() != Some(self) {
            let model = CocaConfig { tokenizer: TokenizerKeys::default(), ..self.clone() };
            root.insert(EXTENSION.into(), serde_json::to_value(model).expect("a configuration is plain data"));
        }
        serde_json::to_string_pretty(&root).expect("a JSON value has a text") + "\n"
    }
}

fn invalid(detail: impl std::fmt::Display) -> Error {
    Error::invalid(format!("open_clip configuration: {detail}"))
}

/// Reads open_clip's own keys.
fn read_plain(root: &Map<String, Value>) -> Result<CocaConfig> {
    let mut root = Section { name: "", keys: root.clone() };
    let image = match root.section("preprocess_cfg")? {
        Some(section) => read_image(section)?,
        None => ImageConfig::default(),
    };
    // Beside a nested model_cfg open_clip reads nothing but preprocess_cfg; a bare model has its keys at the top.
    let mut model = match root.section("model_cfg")? {
        Some(model) => model,
        None => {
            root.ignore(&[EXTENSION]);
            root
        }
    };
    let Some(mut decoder) = model.section("multimodal_cfg")? else {
        return Err(invalid("no \"multimodal_cfg\": this is not a CoCa (a CLIP has no decoder)"));
    };
    let (Some(mut vision), Some(mut text)) = (model.section("vision_cfg")?, model.section("text_cfg")?) else {
        return Err(invalid("\"vision_cfg\" and \"text_cfg\" are both needed"));
    };
    let pooler = read_pooler(&mut vision)?;
    let tokenizer = read_tokenizer(&mut text)?;
    let text = read_text(&mut text)?;
    let config = CocaConfig {
        embed_dim: model.required("embed_dim")?,
        vision: read_vision(&mut vision)?,
        pooler,
        decoder: read_decoder(&mut decoder, &text)?,
        quick_gelu: model.flag("quick_gelu", false)?,
        init_logit_scale: model.number("init_logit_scale", default_logit_scale())?,
        image,
        tokenizer,
        text,
    };
    model.only("pad_id", json!(config.text.pad_id), "it must equal text_cfg.pad_id")?;
    model.off(&["init_logit_bias"], "CoCa's losses have no bias")?;
    model.ignore(&["custom_text", "nonscalar_logit_scale", "cast_dtype"]);
    model.finish()?;
    Ok(config)
}

/// Arguments of open_clip's tokenizers are kept where they say what is done here anyway.
fn read_tokenizer(text: &mut Section) -> Result<TokenizerKeys> {
    let keys = TokenizerKeys {
        hf_tokenizer_name: text.parse("hf_tokenizer_name")?,
        tokenizer_mode: text.parse("tokenizer_mode")?,
        tokenizer_kwargs: text.parse("tokenizer_kwargs")?,
    };
    let cleaning = if keys.names_tokenizer() { "whitespace" } else { "lower" };
    for (key, value) in keys.tokenizer_kwargs.iter().flatten() {
        let usual = match key.as_str() {
            "clean" => *value == json!(cleaning),
            "strip_sep_token" => *value == json!(false),
            "reduction_mask" => *value == json!(""),
            "language" | "additional_special_tokens" => value.is_null(),
            "use_fast" => *value == json!(true),
            _ => false,
        };
        if !usual {
            return Err(invalid(format!(
                "text_cfg.tokenizer_kwargs.{key} = {value} is not supported: it may change ids"
            )));
        }
    }
    match keys.tokenizer_mode.as_deref() {
        // CLIP's own tokenizer is not told.
        Some(mode) if !mode.is_empty() && keys.names_tokenizer() => {
            Err(invalid(format!("text_cfg.tokenizer_mode = {mode:?} is not supported: it changes ids")))
        }
        _ => Ok(keys),
    }
}

fn read_vision(section: &mut Section) -> Result<VisionConfig> {
    section.off(&["timm_model_name"], "only open_clip's own Vision Transformer is supported")?;
    section.off(&OFF_IN_BOTH, "this variant of the block is not supported")?;
    section.off(&["final_ln_after_pool"], "the final LayerNorm stands before pooling")?;
    section.only("pool_type", json!("tok"), "only pooling by the first row is supported")?;
    section.only("pos_embed_type", json!("learnable"), "only learned positions are supported")?;
    section.on("output_tokens", "the decoder reads the image tokens")?;
    // Patch dropout is a matter of training; the rest is read only with a timm model.
    section.ignore(&["patch_dropout", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias"]);
    section.ignore(&["timm_drop", "timm_drop_path"]);
    let image_size = section.side("image_size", 224)?;
    let width = section.size("width", 768)?;
    let head_width = section.size("head_width", 64)?;
    if head_width == 0 || !width.is_multiple_of(head_width) {
        return Err(invalid(format!(
            "vision_cfg.head_width = {head_width} does not divide vision_cfg.width = {width}"
        )));
    }
    let config = VisionConfig {
        image_size,
        patch_size: section.side("patch_size", 16)?,
        layers: section.size("layers", 12)?,
        width,
        heads: width / head_width,
        mlp_width: section.mlp_width(width)?,
        class_token: true,
        ln_pre: !section.flag("no_ln_pre", false)?,
    };
    section.finish()?;
    Ok(config)
}

fn read_pooler(vision: &mut Section) -> Result<Pooler> {
    if let Some(layout @ Value::String(_)) = vision.keys.get("attentional_pool") {
        return Err(invalid(format!(
            "vision_cfg.attentional_pool = {layout} is an unfinished layout of open_clip; the paper's layouts are \
             cascade and parallel poolers under \"{EXTENSION}\""
        )));
    }
    let (queries, heads) = (vision.size("attn_pooler_queries", 256)?, vision.size("attn_pooler_heads", 8)?);
    Ok(match vision.flag("attentional_pool", false)? {
        true => Pooler::OpenClip { queries, heads },
        false => Pooler::None,
    })
}

fn read_text(section: &mut Section) -> Result<TextConfig> {
    section.off(&["hf_model_name"], "only open_clip's own text transformer is supported")?;
    section.off(&OFF_IN_BOTH, "this variant of the block is not supported")?;
    section.off(&["no_causal_mask", "proj_bias"], "CoCa's text tower is causal and its projection has no bias")?;
    section.only("proj_type", json!("linear"), "the text projection is linear")?;
    section.on("embed_cls", "CoCa's text embedding is its CLS row")?;
    section.on("output_tokens", "the decoder reads the text tokens")?;
    // Not read when there is a CLS row, or only with a Hugging Face tower.
    section.ignore(&[
        "pool_type",
        "eos_id",
        "final_ln_after_pool",
        "hf_model_pretrained",
        "hf_proj_type",
        "hf_pooler_type",
    ]);
    let width = section.size("width", 512)?;
    let config = TextConfig {
        context_length: section.size("context_length", 77)?,
        vocabulary_size: section.size("vocab_size", 49_408)?,
        width,
        heads: section.size("heads", 8)?,
        layers: section.size("layers", 12)?,
        mlp_width: section.mlp_width(width)?,
        pad_id: section.size("pad_id", 0)?,
        cls_mask: ClsMask::Legacy,
    };
    section.finish()?;
    Ok(config)
}

fn read_decoder(section: &mut Section, text: &TextConfig) -> Result<DecoderConfig> {
    section.off(&["ls_init_value"], "layer scale is not supported")?;
    let context_length = section.size("context_length", 77)?;
    if context_length < text.context_length.saturating_sub(1) {
        return Err(invalid(format!(
            "multimodal_cfg.context_length = {context_length} is too short for text_cfg.context_length = {}",
            text.context_length
        )));
    }
    let width = section.size("width", 512)?;
    let config = DecoderConfig {
        width,
        heads: section.size("heads", 8)?,
        layers: section.size("layers", 12)?,
        mlp_width: width.saturating_mul(4),
        self_attention_mlp: true,
    };
    section.ignore(&UNREAD_IN_MULTIMODAL);
    section.finish()?;
    Ok(config)
}

fn read_image(mut section: Section) -> Result<ImageConfig> {
    let standard = ImageConfig::default();
    section.only("mode", json!("RGB"), "pictures are read as RGB")?;
    section.only("interpolation", json!("bicubic"), "pictures are resized by the bicubic filter")?;
    // open_clip takes the size from the model; keys it does not know it drops.
    Ok(ImageConfig {
        mean: section.parse("mean")?.unwrap_or(standard.mean),
        std: section.parse("std")?.unwrap_or(standard.std),
        resize_mode: section.parse("resize_mode")?.unwrap_or(ResizeMode::Shortest),
        fill_color: section.parse("fill_color")?.unwrap_or(0),
    })
}

/// The nested form, with the nearest that open_clip can express.
fn write_plain(config: &CocaConfig) -> Map<String, Value> {
    let CocaConfig { vision, text, decoder, image, .. } = config;
    let mut vision_cfg = json!({
        "image_size": vision.image_size,
        "layers": vision.layers,
        "width": vision.width,
        "head_width": vision.width / vision.heads,
        "patch_size": vision.patch_size,
        "mlp_ratio": mlp_ratio(vision.mlp_width, vision.width),
        "no_ln_pre": !vision.ln_pre,
        "output_tokens": true,
    });
    if let Some((queries, heads)) = config.pooler.generative() {
        vision_cfg["attentional_pool"] = json!(true);
        // One more where a second pooler has the contrastive query, so that the count of image tokens stays.
        vision_cfg["attn_pooler_queries"] = json!(queries + config.pooler.has_contrastive() as usize);
        vision_cfg["attn_pooler_heads"] = json!(heads);
    }
    let mut model = json!({
        "embed_dim": config.embed_dim,
        "vision_cfg": vision_cfg,
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocabulary_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "mlp_ratio": mlp_ratio(text.mlp_width, text.width),
            "pad_id": text.pad_id,
            "embed_cls": true,
            "output_tokens": true,
        },
        "multimodal_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocabulary_size,
            "width": decoder.width,
            "heads": decoder.heads,
            "layers": decoder.layers,
        },
        "custom_text": true,
    });
    if let (Value::Object(text), Value::Object(keys)) = (&mut model["text_cfg"], json!(config.tokenizer)) {
        text.extend(keys);
    }
    if config.quick_gelu {
        model["quick_gelu"] = json!(true);
    }
    if config.init_logit_scale != default_logit_scale() {
        model["init_logit_scale"] = json!(config.init_logit_scale);
    }
    let preprocess = json!({
        "mean": image.mean,
        "std": image.std,
        "interpolation": "bicubic",
        "resize_mode": image.resize_mode,
        "fill_color": image.fill_color,
    });
    Map::from_iter([("model_cfg".to_string(), model), ("preprocess_cfg".to_string(), preprocess)])
}

/// The ratio from which open_clip's `int(width * ratio)` gives `mlp_width` back, where a float can.
fn mlp_ratio(mlp_width: usize, width: usize) -> f64 {
    let ratio = mlp_width as f64 / width as f64;
    if (width as f64 * ratio) as usize == mlp_width { ratio } else { ratio.next_up() }
}

/// One object of the JSON; each read takes its key out, so that what is left is unknown.
struct Section {
    name: &'static str,
    keys: Map<String, Value>,
}

impl Section {
    /// The object under `key`.
    fn section(&mut self, key: &'static str) -> Result<Option<Section>> {
        match self.keys.remove(key) {
            None => Ok(None),
            Some(Value::Object(keys)) => Ok(Some(Section { name: key, keys })),
            Some(other) => Err(self.wrong(key, &other, "must be an object")),
        }
    }

    fn parse<T: serde::de::DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        match self.keys.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                serde_json::from_value(value.clone()).map(Some).map_err(|error| self.wrong(key, &value, error))
            }
        }
    }

    fn size(&mut self, key: &str, default: usize) -> Result<usize> {
        Ok(self.parse(key)?.unwrap_or(default))
    }

    fn required(&mut self, key: &str) -> Result<usize> {
        self.parse(key)?.ok_or_else(|| invalid(format!("{}{key} is missing", self.prefix())))
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool> {
        Ok(self.parse(key)?.unwrap_or(default))
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64> {
        Ok(self.parse(key)?.unwrap_or(default))
    }

    /// A side in pixels, also as a pair of equal sides.
    fn side(&mut self, key: &str, default: usize) -> Result<usize> {
        let Some(pair @ Value::Array(_)) = self.keys.get(key).cloned() else { return self.size(key, default) };
        self.keys.remove(key);
        match serde_json::from_value::<[usize; 2]>(pair.clone()) {
            Ok([height, width]) if height == width => Ok(width),
            _ => Err(self.wrong(key, &pair, "only squares are supported")),
        }
    }

    /// `int(width * mlp_ratio)`.
    fn mlp_width(&mut self, width: usize) -> Result<usize> {
        Ok((width as f64 * self.number("mlp_ratio", 4.0)?) as usize)
    }

    /// Keys whose only supported values are null, false and zero.
    fn off(&mut self, keys: &[&str], reason: &str) -> Result<()> {
        for key in keys {
            match self.keys.remove(*key) {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(value) => return Err(self.wrong(key, &value, reason)),
            }
        }
        Ok(())
    }

    /// A key whose only supported value is this; it may be absent.
    fn only(&mut self, key: &str, wanted: Value, reason: &str) -> Result<()> {
        match self.keys.remove(key) {
            Some(value) if value != wanted => Err(self.wrong(key, &value, reason)),
            _ => Ok(()),
        }
    }

    /// A flag that must be there and true.
    fn on(&mut self, key: &str, reason: &str) -> Result<()> {
        match self.keys.remove(key) {
            Some(Value::Bool(true)) => Ok(()),
            other => Err(self.wrong(key, &other.unwrap_or(Value::Bool(false)), reason)),
        }
    }

    fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.keys.remove(*key);
        }
    }

    /// An error if a key is left.
    fn finish(&self) -> Result<()> {
        match self.keys.keys().next() {
            None => Ok(()),
            Some(key) => Err(invalid(format!("{}{key} is no key that open_clip knows", self.prefix()))),
        }
    }

    fn prefix(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("{}.", self.name) }
    }

    fn wrong(&self, key: &str, value: &Value, reason: impl std::fmt::Display) -> Error {
        let mut value = value.to_string();
        if let Some((end, _)) = value.char_indices().nth(60) {
            value.replace_range(end.., "…");
        }
        invalid(format!("{}{key} = {value}: {reason}", self.prefix()))
    }
}
