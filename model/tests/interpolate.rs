//! Models opened at another image size or text length: positions equal open_clip's (`fixtures/interpolate.py`).

use engine::cpu::Isa;
use engine::{CpuQueue, DType, Queue, Result, Workspace};
use model::Coca;
use model::encoder::{ImageEncoder, TextEncoder};
use model::interpolate::{image_positions, text_positions};
use model::weights::{Weights, load_folder};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The packed model of the parity fixtures, for images and texts of these sizes.
fn open_at(image_size: Option<usize>, context_length: Option<usize>) -> Result<Coca> {
    let (mut config, weights) = load_folder(&fixtures().join("parity/packed"))?;
    config.vision.image_size = image_size.unwrap_or(config.vision.image_size);
    config.text.context_length = context_length.unwrap_or(config.text.context_length);
    let model = Coca::new(config, DType::F32, false)?;
    model.load(&weights)?;
    Ok(model)
}

/// Two f32 passes of at most 16 products each, with weights whose sizes sum to less than 1.5.
fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let off = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= 2.0 * 16.0 * 1.5 * 1.5 * 0.5 * f32::EPSILON * largest, "{what} is off by {off:e} of {largest}");
}

#[test]
fn positions_equal_open_clip() {
    let reference = Weights::open(&fixtures().join("interpolate.safetensors")).expect("fixture");
    let queue = Queue::Cpu(CpuQueue::new(Isa::best(), 2).expect("threads"));
    for name in reference.names() {
        let (size, side) = name.split_once('.').expect("a size and a side");
        let size: usize = size.parse().expect("a size");
        let (image, context) = if side == "image" { (Some(size), None) } else { (None, Some(size)) };
        let model = open_at(image, context).expect("model");
        let positions = if side == "image" { "visual.positional_embedding" } else { "text.positional_embedding" };
        let ours = model.parameters().read(positions).expect("positions");
        assert_close(&ours, &reference.to_vec(name).expect("reference"), name);
        // The model works at its new size.
        let features = if side == "image" {
            let mut encoder = ImageEncoder::new(&model, 1, &Workspace::new()).expect("encoder");
            encoder.features(&queue, &vec![7; size * size * 3])
        } else {
            let mut encoder = TextEncoder::new(&model, 1, &Workspace::new()).expect("encoder");
            encoder.features(&queue, &[vec![5; size]])
        };
        assert!(features.expect("features").iter().all(|value| value.is_finite()));
    }
}

#[test]
fn the_same_size_changes_nothing() {
    let model = open_at(Some(24), Some(16)).expect("model");
    let usual = Coca::open(&fixtures().join("parity/packed"), DType::F32, false).expect("model");
    for spec in model.specs() {
        let [ours, theirs] = [&model, &usual].map(|model| model.parameters().read(&spec.name).expect("parameter"));
        assert_eq!(ours, theirs, "{}", spec.name);
    }
}

#[test]
fn bad_sizes_and_tables_are_errors() {
    for (image, context) in [(Some(25), None), (Some(0), None), (None, Some(0))] {
        assert!(open_at(image, context).is_err(), "{image:?} {context:?}");
    }
    // Another width is no other number of positions.
    let (mut config, weights) = load_folder(&fixtures().join("parity/packed")).expect("folder");
    (config.vision.image_size, config.vision.width) = (2 * config.vision.image_size, 2 * config.vision.width);
    let error = Coca::new(config, DType::F32, false).expect("model").load(&weights).expect_err("another width");
    assert!(error.to_string().contains("visual.positional_embedding [17, 20] instead of [65, 40]"), "{error}");
    assert!(image_positions(&[0.0; 10], 2, true, 3).is_ok());
    assert!(image_positions(&[0.0; 8], 2, true, 3).is_err());
    assert!(image_positions(&[], 2, true, 3).is_err());
    assert!(image_positions(&[0.0; 8], 0, false, 3).is_err());
    assert!(text_positions(&[0.0; 5], 2, 3).is_err());
    assert!(text_positions(&[], 2, 3).is_err());
}
