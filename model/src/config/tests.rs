//! Tests of the configuration: rules between sizes, open_clip's JSON in and out.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn preset(name: &str) -> CocaConfig {
    CocaConfig::preset(name).unwrap()
}

fn message(result: Result<impl std::fmt::Debug>) -> String {
    result.unwrap_err().to_string()
}

/// A preset's file among open_clip's `model_configs`.
macro_rules! open_clips {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/open_clip/", $name, ".json"))
    };
}

fn l14() -> Value {
    serde_json::from_str(open_clips!("coca_ViT-L-14")).unwrap()
}

fn read(value: &Value) -> Result<CocaConfig> {
    CocaConfig::from_open_clip(&value.to_string())
}

#[test]
fn presets_are_valid_and_an_unknown_name_lists_them() {
    for name in PRESETS {
        preset(name).validate().unwrap();
    }
    assert!(message(CocaConfig::preset("coca")).contains("coca_ViT-L-14"));
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    type Change = fn(&mut CocaConfig);
    let changes: [(Change, &str); 12] = [
        (|c| c.vision.patch_size = 7, "vision.patch_size = 7 does not divide vision.image_size = 16"),
        (|c| c.vision.heads = 5, "vision.heads = 5 does not divide vision.width = 192"),
        (|c| c.text.heads = 0, "text.heads is 0"),
        (|c| c.decoder.heads = 7, "decoder.heads = 7 does not divide decoder.width = 128"),
        (|c| c.decoder.width = 96, "text.width is 128, decoder.width is 96"),
        (|c| c.embed_dim = 96, "embed_dim = 96; it must equal decoder.width = 128"),
        (|c| c.pooler = Pooler::OpenClip { queries: 1, heads: 6 }, "pooler.queries is 1"),
        (|c| c.pooler = Pooler::Cascade { queries: 8, heads: 9 }, "pooler.heads = 9 does not divide embed_dim"),
        (|c| (c.pooler, c.vision.class_token) = (Pooler::None, false), "class_token = true"),
        (|c| c.text.pad_id = 4096, "text.pad_id is 4096"),
        (|c| c.image.std[1] = 0.0, "image.std"),
        (|c| c.text.vocabulary_size = usize::MAX, "text.vocabulary_size"),
    ];
    for (change, wanted) in changes {
        let mut config = preset("emoji");
        change(&mut config);
        let found = message(config.validate());
        assert!(found.contains(wanted), "{found}");
    }
}

#[test]
fn open_clips_files_are_the_presets() {
    for (name, json) in [
        ("coca_base", open_clips!("coca_base")),
        ("coca_ViT-B-32", open_clips!("coca_ViT-B-32")),
        ("coca_ViT-L-14", open_clips!("coca_ViT-L-14")),
    ] {
        assert_eq!(CocaConfig::from_open_clip(json).unwrap(), preset(name), "{name}");
    }
    let nested = json!({"model_cfg": l14(), "preprocess_cfg": {"mean": [0.5, 0.5, 0.25], "size": [224, 224], "mode": "RGB",
        "resize_mode": "squash", "interpolation": "bicubic"}, "unread": 1});
    let config = read(&nested).unwrap();
    assert_eq!(config.image.mean, [0.5, 0.5, 0.25]);
    assert_eq!(config.image.resize_mode, ResizeMode::Squash);
    assert_eq!(config.image.std, ImageConfig::default().std);
}

#[test]
fn every_preset_survives_its_own_json() {
    for name in PRESETS {
        let config = preset(name);
        let json = config.to_open_clip();
        assert_eq!(CocaConfig::from_open_clip(&json).unwrap(), config, "{name}");
        let extended = serde_json::from_str::<Value>(&json).unwrap().get("coca").is_some();
        assert_eq!(extended, name.starts_with("paper"), "{name}: open_clip's keys are enough for its own forms");
    }
}

#[test]
fn what_open_clip_cannot_say_is_kept() {
    type Change = fn(&mut CocaConfig);
    let changes: [(Change, bool); 9] = [
        (|c| c.text.cls_mask = ClsMask::Length, true),
        (|c| c.decoder.self_attention_mlp = false, true),
        (|c| c.decoder.mlp_width = 640, true),
        (|c| c.pooler = Pooler::Parallel { queries: 8, heads: 4 }, true),
        (|c| c.vision.class_token = false, true),
        (|c| c.vision.mlp_width = 701, false),
        (|c| (c.vision.ln_pre, c.quick_gelu) = (false, true), false),
        (|c| c.init_logit_scale = 1.0 / 3.0, false),
        (|c| (c.text.pad_id, c.image.std[0]) = (7, 0.1 + 0.2), false),
    ];
    for (index, (change, extended)) in changes.into_iter().enumerate() {
        let mut config = preset("emoji");
        change(&mut config);
        let json = config.to_open_clip();
        assert_eq!(CocaConfig::from_open_clip(&json).unwrap(), config, "change {index}");
        assert_eq!(json.contains("\"coca\""), extended, "change {index}");
    }
}

#[test]
fn the_keys_of_the_tokenizer_are_written_as_they_were_read() {
    let mut file = l14();
    let keys = json!({"hf_tokenizer_name": "a/tokenizer", "tokenizer_mode": "",
        "tokenizer_kwargs": {"clean": "whitespace", "strip_sep_token": false, "language": null}});
    file["text_cfg"].as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let config = read(&file).unwrap();
    let paper = CocaConfig { pooler: Pooler::Cascade { queries: 255, heads: 8 }, ..config.clone() };
    for (config, extended) in [(config, false), (paper, true)] {
        let json = config.to_open_clip();
        let written: Value = serde_json::from_str(&json).unwrap();
        for (key, value) in keys.as_object().unwrap() {
            assert_eq!(&written["model_cfg"]["text_cfg"][key], value, "{key}");
        }
        assert_eq!((CocaConfig::from_open_clip(&json).unwrap(), json.contains("\"coca\"")), (config, extended));
    }
    for (key, value, named) in [
        ("tokenizer_mode", json!("clips"), "text_cfg.tokenizer_mode = \"clips\""),
        ("tokenizer_kwargs", json!({"clean": "canonicalize"}), "text_cfg.tokenizer_kwargs.clean = \"canonicalize\""),
        ("tokenizer_kwargs", json!({"clean": "lower"}), "text_cfg.tokenizer_kwargs.clean = \"lower\""),
        ("tokenizer_kwargs", json!({"strip_sep_token": true}), "text_cfg.tokenizer_kwargs.strip_sep_token = true"),
    ] {
        let mut file = file.clone();
        file["text_cfg"][key] = value;
        assert!(message(read(&file)).contains(named), "{named}");
    }
    let mut clip = l14();
    clip["text_cfg"]["tokenizer_kwargs"] = json!({"clean": "lower", "reduction_mask": ""});
    assert!(read(&clip).is_ok());
    clip["text_cfg"]["tokenizer_kwargs"] = json!({"reduction_mask": "simple"});
    assert!(message(read(&clip)).contains("tokenizer_kwargs.reduction_mask = \"simple\""));
    file["text_cfg"]["tokenizer_kwargs"] = json!("clean");
    assert!(message(read(&file)).contains("text_cfg.tokenizer_kwargs = \"clean\""));
}

#[test]
fn an_extension_that_contradicts_the_model_is_refused() {
    let mut value: Value = serde_json::from_str(&preset("paper-base").to_open_clip()).unwrap();
    value["model_cfg"]["vision_cfg"]["layers"] = json!(13);
    assert!(message(read(&value)).contains("different models"));
}

#[test]
fn unsupported_keys_are_named() {
    let cases = [
        ("/vision_cfg/timm_model_name", json!("convnext"), "vision_cfg.timm_model_name = \"convnext\""),
        ("/text_cfg/hf_model_name", json!("roberta-base"), "text_cfg.hf_model_name"),
        ("/vision_cfg/layers", json!([3, 4, 6, 3]), "vision_cfg.layers"),
        ("/vision_cfg/image_size", json!([224, 256]), "only squares"),
        ("/vision_cfg/attentional_pool", json!("cascade"), "attentional_pool"),
        ("/vision_cfg/head_width", json!(60), "vision_cfg.head_width"),
        ("/vision_cfg/pool_type", json!("avg"), "vision_cfg.pool_type"),
        ("/text_cfg/embed_cls", json!(false), "text_cfg.embed_cls"),
        ("/text_cfg/qk_norm", json!(true), "text_cfg.qk_norm"),
        ("/text_cfg/widht", json!(1), "text_cfg.widht is no key"),
        ("/multimodal_cfg/ls_init_value", json!(0.1), "multimodal_cfg.ls_init_value"),
        ("/multimodal_cfg/width", json!(-1), "multimodal_cfg.width"),
        ("/multimodal_cfg", json!(null), "multimodal_cfg"),
        ("/init_logit_bias", json!(-10.0), "init_logit_bias"),
        ("/embed_dim", json!(640), "embed_dim = 640"),
    ];
    for (pointer, value, wanted) in cases {
        let mut config = l14();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        let found = message(read(&config));
        assert!(found.contains(wanted), "{pointer}: {found}");
    }
    let mut clip = l14();
    clip.as_object_mut().unwrap().remove("multimodal_cfg");
    assert!(message(read(&clip)).contains("not a CoCa"));
    assert!(message(CocaConfig::from_open_clip("[]")).contains("object"));
    assert!(message(CocaConfig::from_open_clip("{")).contains("not JSON"));
}

/// Any valid configuration, with odd sizes.
fn any_config() -> impl Strategy<Value = CocaConfig> {
    let pooler = (0..4, 2usize..40, 1usize..5);
    let sizes = prop::collection::vec(1usize..400, 12);
    (pooler, sizes, any::<[bool; 4]>(), 0..3usize, -9.0..9.0f64, [0.1..0.9f64, 0.1..0.9, 0.1..0.9]).prop_map(
        |((layout, queries, heads), sizes, flags, mask, init_logit_scale, mean)| {
            let width = 12 * sizes[0];
            let pooler = match layout {
                0 => Pooler::None,
                1 => Pooler::OpenClip { queries, heads },
                2 => Pooler::Cascade { queries, heads },
                _ => Pooler::Parallel { queries, heads },
            };
            let (embed_dim, vision_width) = if layout == 0 { (sizes[1], width) } else { (width, 4 * sizes[1]) };
            CocaConfig {
                embed_dim,
                vision: VisionConfig {
                    image_size: sizes[2] % 20 * sizes[3] + sizes[3],
                    patch_size: sizes[3],
                    layers: sizes[4],
                    width: vision_width,
                    heads: heads.next_power_of_two(),
                    mlp_width: sizes[5],
                    class_token: flags[0] || layout == 0,
                    ln_pre: flags[1],
                },
                pooler,
                text: TextConfig {
                    context_length: sizes[6],
                    vocabulary_size: sizes[7],
                    width,
                    heads,
                    layers: sizes[8],
                    mlp_width: sizes[9],
                    pad_id: sizes[7] / 2,
                    cls_mask: [ClsMask::Legacy, ClsMask::Correct, ClsMask::Length][mask],
                },
                decoder: DecoderConfig {
                    width,
                    heads,
                    layers: sizes[10],
                    mlp_width: if flags[3] { 4 * width } else { sizes[11] },
                    self_attention_mlp: flags[2],
                },
                quick_gelu: flags[3],
                init_logit_scale,
                tokenizer: TokenizerKeys::default(),
                image: ImageConfig { mean, std: mean, ..ImageConfig::default() },
            }
        },
    )
}

proptest! {
    #[test]
    fn every_configuration_survives_its_own_json(config in any_config()) {
        config.validate().unwrap();
        prop_assert_eq!(&CocaConfig::from_open_clip(&config.to_open_clip()).unwrap(), &config);
    }
}
