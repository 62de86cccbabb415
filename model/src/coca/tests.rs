//! The draws of [`Coca::initialize`], parameter by parameter, against coca.md 2.4, whose rules stand here once more.

use super::*;
use crate::config::Pooler;

/// What a parameter starts as.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    Every(f64),
    Normal(f64),
    Uniform(f64),
}

/// The rule for a parameter of this name and shape.
fn rule(name: &str, shape: &Shape, config: &CocaConfig) -> Start {
    use Start::{Every, Normal, Uniform};
    let root = |size: usize| 1.0 / (size as f64).sqrt();
    let (rows, columns) = (shape.dims().first().copied().unwrap_or(1), shape.columns());
    let (vision, text, decoder) = (&config.vision, &config.text, &config.decoder);
    let last =
        |count: usize| name.rsplit('.').take(count).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(".");
    let is_norm = name.split('.').any(|part| part.starts_with("ln_"));
    match name {
        "logit_scale" => return Every((1.0f64 / 0.07).ln()),
        "visual.class_embedding" | "visual.positional_embedding" | "visual.proj" => return Normal(root(vision.width)),
        "visual.conv1.weight" => return Uniform(root(3 * vision.patch_size * vision.patch_size)),
        "text.token_embedding.weight" => return Normal(0.02),
        "text.positional_embedding" | "text.cls_emb" => return Normal(0.01),
        "text.text_projection" | "text_decoder.text_projection" => return Normal(root(text.width)),
        _ if is_norm && name.ends_with(".weight") => return Every(1.0),
        _ if is_norm => return Every(0.0),
        _ if name.ends_with("attn.in_proj_bias") || name.ends_with("out_proj.bias") => return Every(0.0),
        _ => {}
    }
    // Biases of an MLP are uniform everywhere, by the width of what they are added to the image of.
    match last(2).as_str() {
        "c_fc.bias" if name.starts_with("visual.") => return Uniform(root(vision.width)),
        "c_fc.bias" => return Uniform(root(text.width)),
        "c_proj.bias" if name.starts_with("visual.") => return Uniform(root(vision.mlp_width)),
        "c_proj.bias" if name.starts_with("text.") => return Uniform(root(text.mlp_width)),
        "c_proj.bias" => return Uniform(root(decoder.mlp_width)),
        _ => {}
    }
    if name.starts_with("visual.") {
        // PyTorch's defaults; Xavier's bound for projections into attention.
        let into_attention = ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"];
        return match last(1).as_str() {
            "query" => Normal(1.0),
            part if into_attention.contains(&part) => Uniform((6.0 / (rows + columns) as f64).sqrt()),
            _ => Uniform(root(columns)),
        };
    }
    let layers = if name.starts_with("text.") { text.layers } else { decoder.layers };
    match last(2).as_str() {
        "attn.in_proj_weight" => Normal(root(text.width)),
        "out_proj.weight" | "c_proj.weight" => Normal(root(text.width) * root(2 * layers)),
        "c_fc.weight" => Normal(root(2 * text.width)),
        _ => panic!("coca.md has no rule for {name}"),
    }
}

fn configs() -> [CocaConfig; 3] {
    let open_clip = CocaConfig::preset("emoji").unwrap();
    // Encoder and pooler of different widths; different depths and MLPs, so that no size stands for another.
    let mut apart = open_clip.clone();
    (apart.vision.width, apart.vision.mlp_width, apart.text.layers, apart.text.mlp_width) = (96, 160, 3, 224);
    let mut paper = CocaConfig { pooler: Pooler::Parallel { queries: 9, heads: 4 }, ..apart.clone() };
    (paper.decoder.self_attention_mlp, paper.vision.class_token, paper.decoder.mlp_width) = (false, false, 192);
    [open_clip, apart, paper]
}

#[test]
fn every_parameter_starts_as_open_clip_has_it() {
    for config in configs() {
        let model = Coca::new(config, DType::F32, false).unwrap();
        model.initialize(5).unwrap();
        for ParamSpec { name, shape, .. } in model.specs() {
            let values = model.parameters().read(name).unwrap();
            let count = values.len() as f64;
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
            let squares = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
            let (deviation, largest) = (
                (squares / count).sqrt(),
                values.iter().fold(0.0, |largest, &value| f64::from(value.abs()).max(largest)),
            );
            let rule = rule(name, shape, model.config());
            // Variance of a squared value over its mean squared: 2 of a normal one, 4/5 of a uniform one.
            let (wanted, spread) = match rule {
                Start::Every(value) => {
                    assert!(
                        values.iter().all(|&found| f64::from((found - value as f32).abs()) < 1e-6),
                        "{name}: {rule:?}"
                    );
                    continue;
                }
                Start::Normal(deviation) => (deviation, 2.0),
                Start::Uniform(bound) => (bound / 3f64.sqrt(), 0.8),
            };
            // Five standard errors; that of a root is half of its square's.
            let error = 5.0 / count.sqrt();
            assert!(
                (deviation / wanted - 1.0).abs() < error * f64::sqrt(spread) / 2.0,
                "{name}: {deviation} for {rule:?}"
            );
            assert!(mean.abs() < error * wanted, "{name}: a mean of {mean} for {rule:?}");
            // A uniform value stays within its bound; of 512 normal ones some lie beyond √3 deviations.
            match rule {
                Start::Uniform(bound) => assert!(largest <= bound * (1.0 + 1e-6), "{name}: {largest} for {rule:?}"),
                _ => assert!(count < 512.0 || largest > 2.0 * wanted, "{name}: at most {largest} for {rule:?}"),
            }
        }
    }
}

#[test]
fn draws_follow_the_seed_and_differ_between_parameters() {
    let draw = |seed, name: &str| {
        let model = Coca::new(CocaConfig::preset("emoji").unwrap(), DType::F32, false).unwrap();
        model.initialize(seed).unwrap();
        model.parameters().read(name).unwrap()
    };
    let [first, second] = [0, 1].map(|layer| format!("text.transformer.resblocks.{layer}.mlp.c_fc.weight"));
    assert_eq!(draw(1, &first), draw(1, &first));
    assert_ne!(draw(1, &first), draw(2, &first));
    assert_ne!(draw(1, &first), draw(1, &second));
}

#[test]
fn a_head_is_beside_the_model_and_in_no_folder_of_weights() {
    use crate::heads::{Head, HeadConfig};
    let config = CocaConfig::preset("emoji").unwrap();
    let head = HeadConfig::of_texts(&config, 2, 3);
    let model = Coca::with_head(config.clone(), Some(head), DType::F32, false).unwrap();
    let plain = Coca::new(config, DType::F32, false).unwrap();
    model.initialize(3).unwrap();
    plain.initialize(3).unwrap();
    let read = |model: &Coca, name: &str| model.parameters().read(name).unwrap();
    for spec in plain.specs() {
        assert_eq!(read(&model, &spec.name), read(&plain, &spec.name), "{}", spec.name);
    }
    let folder = std::env::temp_dir().join(format!("coca-with-head-{}", std::process::id()));
    model.save(&folder, None).unwrap();
    let again = Coca::open(&folder, DType::F32, false).unwrap();
    assert_eq!(again.specs().len(), plain.specs().len());
    let (path, classes) = (folder.join("head.safetensors"), ["a", "b", "c"].map(str::to_owned));
    model.save_head(&path, &classes, &[("task", "x")], None).unwrap();
    let other = Coca::with_head(plain.config().clone(), Some(head), DType::F32, false).unwrap();
    assert_eq!(other.load_head(&path).unwrap(), classes);
    assert_eq!(crate::weights::Weights::open(&path).unwrap().metadata()["task"], "x");
    assert_eq!(Head::open(&path, DType::F32, false).unwrap().0.config(), head);
    for spec in &model.specs()[plain.specs().len()..] {
        assert_eq!(read(&other, &spec.name), read(&model, &spec.name), "{}", spec.name);
    }
    // Values in place of the parameters are the whole arena's.
    let doubled: Vec<f32> = model
        .parameters()
        .master()
        .read::<f32>(0, model.parameters().elements())
        .unwrap()
        .iter()
        .map(|x| 2.0 * x)
        .collect();
    model.save_head(&path, &classes, &[], Some(&doubled)).unwrap();
    other.load_head(&path).unwrap();
    let name = "head.classifier.weight";
    assert_eq!(read(&other, name), read(&model, name).iter().map(|x| 2.0 * x).collect::<Vec<_>>());
    assert!(plain.save_head(&path, &classes, &[], None).unwrap_err().to_string().contains("no head"));
    assert!(plain.load_head(&path).unwrap_err().to_string().contains("other sizes"));
    std::fs::remove_dir_all(&folder).unwrap();
}
