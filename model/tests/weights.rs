//! Weights in files, against files that PyTorch, safetensors and open_clip wrote (`fixtures/make_weights.py`).

use model::config::CocaConfig;
use model::params::parameters;
use model::weights::{
    CONFIG_FILE, FileDtype, PYTORCH_FILE, SAFETENSORS_FILE, TensorRef, Weights, load_folder, save, save_folder,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights").join(name)
}

/// A fresh folder for one test.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// `pattern` of the script.
fn pattern(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index % 16) as f32 * 0.25 - 2.0).collect()
}

/// The elements of `pattern` at these indices.
fn picked(indices: impl IntoIterator<Item = usize>) -> Vec<f32> {
    let values = pattern(1000);
    indices.into_iter().map(|index| values[index]).collect()
}

fn message(result: engine::Result<impl std::fmt::Debug>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn tensors_of_every_kind_are_read_from_both_formats() {
    let expected: [(&str, &[usize], Vec<f32>); 12] = [
        ("plain", &[2, 3], pattern(6)),
        ("scalar", &[], vec![2.5]),
        ("transposed", &[3, 2], picked([0, 3, 1, 4, 2, 5])),
        ("permuted", &[4, 2, 3], picked((0..4).flat_map(|k| (0..6).map(move |ij| 4 * ij + k)))),
        ("every_second", &[4], picked([1, 3, 5, 7])),
        ("shared_rows", &[3, 4], picked(8..20)),
        ("shared_columns", &[6, 2], picked((0..6).flat_map(|row| [4 * row + 1, 4 * row + 2]))),
        ("half", &[3, 5], pattern(15)),
        ("bfloat", &[300], pattern(300)),
        ("bfloat_transposed", &[5, 3], picked((0..5).flat_map(|column| [column, 5 + column, 10 + column]))),
        ("empty", &[0, 7], vec![]),
        ("parameter", &[4], pattern(4)),
    ];
    for file in ["state.bin", "state.safetensors"] {
        let weights = Weights::open(&fixture(file)).unwrap();
        assert_eq!(weights.names().count(), expected.len() + 1, "{file}");
        for (name, shape, values) in &expected {
            assert_eq!(weights.shape(name), Some(*shape), "{file} {name}");
            assert_eq!(&weights.to_vec(name).unwrap(), values, "{file} {name}");
        }
        assert_eq!(weights.dtype("bfloat"), Some(FileDtype::Bf16));
        assert!(message(weights.to_vec("integers")).contains("\"integers\": its type is I64"));
        assert!(message(weights.to_vec("absent")).contains("no tensor \"absent\""));
        assert!(message(weights.read("plain", &mut [0.0; 5])).contains("[2, 3], 6 elements; 5 are wanted"));
    }
    let weights = Weights::open(&fixture("state.safetensors")).unwrap();
    assert_eq!(weights.metadata()["note"], "by PyTorch");
}

#[test]
fn a_training_checkpoint_gives_its_state_dict() {
    let weights = Weights::open(&fixture("checkpoint.pt")).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["0.bias", "0.weight", "1.bias", "1.weight"]);
    assert_eq!(weights.to_vec("0.weight").unwrap(), pattern(6));
    assert_eq!(weights.to_vec("1.bias").unwrap(), pattern(2));
}

#[test]
fn archives_with_64_bit_sizes_are_read() {
    let weights = Weights::open(&fixture("zip64.pt")).unwrap();
    assert_eq!(weights.to_vec("plain").unwrap(), pattern(6));
}

#[test]
fn files_that_are_not_plain_weights_are_refused_by_name() {
    for (file, wanted) in [
        ("hostile.pt", "\"posix.system\""),
        ("legacy.pt", "before 1.6"),
        ("deflated.pt", "compressed"),
        ("parameters.json", "safetensors"),
        ("absent.pt", "absent.pt"),
        ("folder", "folder"),
    ] {
        let found = message(Weights::open(&fixture(file)));
        assert!(found.contains(wanted) && found.contains(file), "{found}");
    }
    assert!(message(Weights::from_bytes(vec![])).contains("too few"));
    let empty = scratch("empty").join("empty.safetensors");
    std::fs::write(&empty, []).unwrap();
    assert!(message(Weights::open(&empty)).contains("empty.safetensors"));
}

#[test]
fn parameters_are_open_clips_in_every_layout() {
    let json = std::fs::read_to_string(fixture("parameters.json")).unwrap();
    let layouts: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(layouts.len(), 3);
    for layout in layouts {
        let config = CocaConfig::from_open_clip(&layout["model_cfg"].to_string()).unwrap();
        let found: BTreeMap<String, Vec<usize>> =
            parameters(&config).into_iter().map(|spec| (spec.name, spec.shape.dims().to_vec())).collect();
        let wanted: BTreeMap<String, Vec<usize>> = serde_json::from_value(layout["parameters"].clone()).unwrap();
        assert_eq!(found, wanted, "{}", layout["layout"]);
    }
}

/// Both of open_clip's formats hold the same values.
#[test]
fn a_folder_of_open_clip_is_read() {
    let (config, weights) = load_folder(&fixture("folder")).unwrap();
    assert_eq!(config.image.mean, [0.5; 3]);
    let other = Weights::open(&fixture("folder").join(PYTORCH_FILE)).unwrap();
    other.check(&parameters(&config)).unwrap();
    for name in weights.names() {
        assert_eq!(weights.to_vec(name).unwrap(), other.to_vec(name).unwrap(), "{name}");
    }
    let folder = scratch("bin_only");
    for file in [CONFIG_FILE, PYTORCH_FILE] {
        std::fs::copy(fixture("folder").join(file), folder.join(file)).unwrap();
    }
    assert_eq!(load_folder(&folder).unwrap().0, config);
    std::fs::remove_file(folder.join(PYTORCH_FILE)).unwrap();
    assert!(message(load_folder(&folder)).contains("neither open_clip_model.safetensors nor"));
    std::fs::remove_file(folder.join(CONFIG_FILE)).unwrap();
    assert!(message(load_folder(&folder)).contains(CONFIG_FILE));
}

#[test]
fn weights_that_do_not_fit_are_listed() {
    let (mut config, weights) = load_folder(&fixture("folder")).unwrap();
    config.vision.layers = 1;
    config.decoder.layers = 3;
    config.text.context_length = 9;
    let found = message(weights.check(&parameters(&config)));
    for wanted in [
        "26 missing: text_decoder.resblocks.2.ln_1.weight",
        "and 18 more",
        "12 unexpected: visual.transformer.resblocks.1.attn.in_proj_bias",
        "1 of another shape or type: text.positional_embedding [9, 8] instead of [10, 8]",
    ] {
        assert!(found.contains(wanted), "{wanted}\n{found}");
    }
}

#[test]
fn the_logit_scale_may_be_a_scalar_or_a_row_of_one() {
    let scale: Vec<_> = parameters(&CocaConfig::preset("emoji").unwrap()).into_iter().take(1).collect();
    let path = scratch("logit_scale").join("a.safetensors");
    for (shape, fits) in [(&[][..], true), (&[1], true), (&[1, 1], false)] {
        save(&path, &[TensorRef { name: "logit_scale", shape, data: &[2.5] }], FileDtype::F32, &[]).unwrap();
        let weights = Weights::open(&path).unwrap();
        assert_eq!(weights.check(&scale).is_ok(), fits, "{shape:?}");
    }
}

/// Our file is read back by us and by the format's own library.
#[test]
fn what_we_write_is_read_by_the_reference() {
    let path = scratch("written").join("a.safetensors");
    let (long, odd) = (pattern(40_000), [1.0f32 + f32::EPSILON, -0.0, f32::MIN_POSITIVE / 4.0]);
    let tensors = [
        TensorRef { name: "z.long", shape: &[200, 200], data: &long },
        TensorRef { name: "a\"b", shape: &[3], data: &odd },
        TensorRef { name: "scalar", shape: &[], data: &[7.5] },
        TensorRef { name: "empty", shape: &[0, 3], data: &[] },
    ];
    for dtype in [FileDtype::F32, FileDtype::Bf16] {
        save(&path, &tensors, dtype, &[("format", "pt")]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
        let weights = Weights::open(&path).unwrap();
        assert_eq!(weights.names().count(), tensors.len());
        for TensorRef { name, shape, data } in &tensors {
            let rounded: Vec<f32> = match dtype {
                FileDtype::Bf16 => data.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect(),
                _ => data.to_vec(),
            };
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&weights.to_vec(name).unwrap()), bits(&rounded), "{name}");
            let view = reference.tensor(name).unwrap();
            assert_eq!(view.shape(), *shape);
            let stored: Vec<u32> = match dtype {
                FileDtype::Bf16 => {
                    view.data().chunks(2).map(|b| (u16::from_le_bytes([b[0], b[1]]) as u32) << 16).collect()
                }
                _ => view.data().chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect(),
            };
            assert_eq!(stored, bits(&rounded), "{name}");
        }
    }
}

#[test]
fn a_folder_that_we_write_is_read_back() {
    let (config, weights) = load_folder(&fixture("folder")).unwrap();
    let values: Vec<(&str, Vec<f32>)> = weights.names().map(|name| (name, weights.to_vec(name).unwrap())).collect();
    let tensors: Vec<TensorRef> =
        values.iter().map(|(name, data)| TensorRef { name, shape: weights.shape(name).unwrap(), data }).collect();
    let folder = scratch("saved").join("folder");
    save_folder(&folder, &config, &tensors, FileDtype::F32).unwrap();
    let (found_config, found) = load_folder(&folder).unwrap();
    assert_eq!(found_config, config);
    for (name, data) in &values {
        assert_eq!(&found.to_vec(name).unwrap(), data, "{name}");
    }
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, [CONFIG_FILE, SAFETENSORS_FILE], "no temporary file is left");

    assert!(message(save_folder(&folder, &config, &tensors[1..], FileDtype::F32)).contains("is missing"));
    let twice: Vec<TensorRef> = tensors.iter().chain(&tensors[..1]).copied().collect();
    assert!(save_folder(&folder, &config, &twice, FileDtype::F32).is_err());
    assert!(message(save_folder(&folder, &config, &tensors, FileDtype::F16)).contains("F32 or BF16"));
    assert!(load_folder(&folder).is_ok(), "a refused save leaves the folder as it was");
}

/// The folder also serves `fixtures/check_folder.py`, which loads it with open_clip.
#[test]
fn a_preset_survives_its_folder() {
    let config = CocaConfig::preset("emoji").unwrap();
    let parameters = parameters(&config);
    let values: Vec<Vec<f32>> = parameters.iter().map(|parameter| pattern(parameter.shape.elements())).collect();
    let tensors: Vec<TensorRef> = parameters
        .iter()
        .zip(&values)
        .map(|(parameter, data)| TensorRef { name: &parameter.name, shape: parameter.shape.dims(), data })
        .collect();
    let folder = scratch("preset").join("emoji");
    save_folder(&folder, &config, &tensors, FileDtype::Bf16).unwrap();
    let (found, weights) = load_folder(&folder).unwrap();
    assert_eq!(found, config);
    for (parameter, data) in parameters.iter().zip(&values) {
        assert_eq!(&weights.to_vec(&parameter.name).unwrap(), data, "{}", parameter.name);
    }
}

#[test]
fn a_failed_write_keeps_the_old_file() {
    let path = scratch("atomic").join("file");
    model::weights::write_atomically(&path, |file| std::io::Write::write_all(file, b"old")).unwrap();
    let failed = model::weights::write_atomically(&path, |file| {
        std::io::Write::write_all(file, b"half of the new")?;
        Err(std::io::Error::other("the disk is full"))
    });
    assert!(message(failed).contains("the disk is full"));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
}
