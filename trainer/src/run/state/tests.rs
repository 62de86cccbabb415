//! Weights to start from, at their own sizes and at others.

use super::*;
use crate::data::Batch;
use crate::model_folder::test_model;
use crate::run::Stepper;
use crate::test_folder;
use crate::test_support::TestFolder;
use engine::Workspace;
use model::encoder::{ImageEncoder, TextEncoder};

/// A folder with a model for pictures of 16 pixels and texts of 8 ids.
fn stored(name: &str) -> TestFolder {
    let folder = test_folder(name);
    test_model(&folder, 3);
    folder
}

/// The start of a run from a folder, with these overrides of its architecture.
fn start(folder: &Path, overrides: &[&str]) -> Result<(Config, State)> {
    let mut sets: Vec<String> = overrides.iter().map(|set| format!("model.overrides.{set}")).collect();
    sets.extend(["batch.size=2".into(), format!("model.init={:?}", folder.display().to_string())]);
    let config = Config::load(None, &sets)?;
    let state = State::new(&config, Tokenizer::load(folder.join("tokenizer.json"))?, None, None)?;
    Ok((config, state))
}

#[test]
fn weights_train_on_at_another_image_size_and_text_length() {
    let folder = stored("init-resized");
    let sizes = ["vision.image_size=32", "text.context_length=14"];
    let (config, mut state) = start(&folder, &sizes).unwrap();
    let name = "visual.positional_embedding";
    for (name, rows) in [(name, 17), ("text.positional_embedding", 15)] {
        assert_eq!(state.model.parameters().find(name).unwrap().shape, [rows, 64].into());
    }
    let stored = Coca::open(&folder, DType::F32, false).unwrap();
    let [before, old] = [&state.model, &stored].map(|model| model.parameters().read(name).unwrap());
    assert_eq!(before[..64], old[..64], "the class token's position stays");
    let batch = Batch {
        images: (0..2 * 32 * 32 * 3).map(|value| value as u8).collect(),
        texts: vec![(1..=14).collect(), vec![1, 2, 3]],
        ..Batch::default()
    };
    let queue = Queue::cpu_from_env().unwrap();
    let gradient = Stepper::new(&config, None).unwrap().run(&queue, &state.model, &[batch], &mut []).unwrap();
    assert!(gradient.losses.contrastive.is_finite() && gradient.losses.caption > 0.0);
    state.update(&queue, &config, 1e-3, 1.0).unwrap();
    let after = state.model.parameters().read(name).unwrap();
    assert!(after != before && after.iter().all(|value| value.is_finite()));
}

#[test]
fn the_same_sizes_change_no_feature() {
    let folder = stored("init-same");
    let (_, state) = start(&folder, &["vision.image_size=16", "text.context_length=8"]).unwrap();
    let stored = Coca::open(&folder, DType::F32, false).unwrap();
    let queue = Queue::cpu_from_env().unwrap();
    let image: Vec<u8> = (0..16 * 16 * 3).map(|value| (7 * value) as u8).collect();
    let [ours, theirs] = [&state.model, &stored].map(|model| {
        let workspace = Workspace::new();
        let (mut images, mut texts) =
            (ImageEncoder::new(model, 1, &workspace).unwrap(), TextEncoder::new(model, 1, &workspace).unwrap());
        (images.features(&queue, &image).unwrap(), texts.features(&queue, &[[3, 1, 4]]).unwrap())
    });
    assert_eq!(ours, theirs);
}

#[test]
fn what_the_weights_fix_is_refused_by_name_and_values() {
    let folder = stored("init-fixed");
    for (sets, wanted) in [
        (&["vision.layers=2"][..], "vision.layers is 2, the weights in "),
        (&["vision.patch_size=4"], "vision.patch_size is 4, the weights in "),
        (&["vision.heads=4"], "vision.heads is 4, the weights in "),
        (&["text.width=32", "decoder.width=32", "embed_dim=32"], "decoder.width is 32, the weights in "),
        (&["pooler={ layout = \"cascade\" }"], "pooler.layout is \"cascade\", the weights in "),
    ] {
        let error = start(&folder, sets).unwrap_err().to_string();
        assert!(error.starts_with("model.overrides: ") && error.contains(wanted), "{error}");
        assert!(error.contains("which cannot be changed: leave it out, or leave model.init out"), "{error}");
    }
}

#[test]
fn the_keys_of_a_tokenizer_stay_with_it() {
    let folder = stored("init-tokenizer");
    let path = folder.join("open_clip_config.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "a/tokenizer".into();
    std::fs::write(&path, file.to_string()).unwrap();
    let (_, state) = start(&folder, &[]).unwrap();
    assert_eq!(state.model.config().tokenizer.hf_tokenizer_name.as_deref(), Some("a/tokenizer"));
    let own = format!("model.tokenizer={:?}", folder.join("tokenizer.json").display().to_string());
    let sets = [own, "batch.size=2".into(), format!("model.init={:?}", folder.display().to_string())];
    let config = Config::load(None, &sets).unwrap();
    let state = State::new(&config, state.tokenizer, None, None).unwrap();
    assert_eq!(state.model.config().tokenizer, Default::default());
}

#[test]
fn a_factor_of_zero_keeps_a_tower_as_it_is() {
    let folder = stored("scales");
    let init = format!("model.init={:?}", folder.display().to_string());
    let sets = [init, "optimizer.scales={ visual = 0 }".into(), "batch.size=2".into()];
    let config = Config::load(None, &sets).unwrap();
    let tokenizer = Tokenizer::load(folder.join("tokenizer.json")).unwrap();
    let mut state = State::new(&config, tokenizer, None, None).unwrap();
    let before = |state: &State, name: &str| state.model.parameters().read(name).unwrap();
    let names = ["visual.proj", "visual.conv1.weight", "text.text_projection"];
    let [image, patches, text] = names.map(|name| before(&state, name));
    let batch = Batch {
        images: (0..2 * 16 * 16 * 3).map(|value| value as u8).collect(),
        texts: vec![vec![1, 2, 3], vec![4, 5]],
        ..Batch::default()
    };
    let queue = Queue::cpu_from_env().unwrap();
    Stepper::new(&config, None).unwrap().run(&queue, &state.model, &[batch], &mut []).unwrap();
    state.update(&queue, &config, 1e-3, 1.0).unwrap();
    assert_eq!([&image, &patches], [&before(&state, names[0]), &before(&state, names[1])]);
    assert_ne!(text, before(&state, names[2]));
}
