//! The paper's form of CoCa: features, tokens, logits, losses and every gradient, against an independent implementation in
//! plain torch. The fixtures were made by `fixtures/paper.py`; `fixtures/README.md` describes them.

use engine::cpu::Isa;
use engine::{Checkpointing, CpuQueue, DType, Queue, Workspace};
use model::Coca;
use model::encoder::{ImageEncoder, evaluate_pairs};
use model::packing::PackedText;
use model::train::{Contrast, StepPlan, TrainStep};
use model::weights::{CONFIG_FILE, Weights};
use std::path::{Path, PathBuf};

const LAYOUTS: [&str; 2] = ["cascade", "parallel"];

struct Fixture {
    folder: PathBuf,
    reference: Weights,
    json: serde_json::Value,
    images: Vec<u8>,
    texts: Vec<Vec<i32>>,
}

fn fixture(name: &str) -> Fixture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/paper").join(name);
    let bytes = std::fs::read(folder.join("reference.safetensors")).expect("fixture");
    let json = std::fs::read(folder.join("reference.json")).expect("fixture");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("fixture");
    // The images are no weights, so `Weights` does not read them.
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let images = tensors.tensor("images").expect("images").data().to_vec();
    let texts = serde_json::from_value(json["texts"].clone()).expect("texts");
    Fixture { reference: Weights::from_bytes(bytes).expect("reference"), folder, json, images, texts }
}

impl Fixture {
    fn tensor(&self, name: &str) -> Vec<f32> {
        self.reference.to_vec(name).expect("reference")
    }

    fn model(&self, gradients: bool) -> Coca {
        Coca::open(&self.folder, DType::F32, gradients).expect("model")
    }

    fn check_losses(&self, contrastive: f32, caption: f32, what: &str) {
        for (ours, key) in [(contrastive, "contrastive_loss"), (caption, "caption_loss")] {
            let off = (f64::from(ours) - self.json[key].as_f64().expect("loss")).abs();
            assert!(off < 1e-5, "{what}: {key} is off by {off:e}");
        }
    }
}

fn queue(isa: Isa) -> Queue {
    Queue::Cpu(CpuQueue::new(isa, 2).expect("threads"))
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn relative_norm(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    (difference / norm).sqrt()
}

/// The fixtures' configurations were written by hand, after the rules of `CocaConfig::to_open_clip`.
#[test]
fn folders_are_saved_as_they_were_read() {
    for name in LAYOUTS {
        let fixture = fixture(name);
        let model = fixture.model(false);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("paper").join(name);
        model.save(&folder, None).expect("saved");
        let text = |folder: &Path| std::fs::read_to_string(folder.join(CONFIG_FILE)).expect("configuration");
        assert_eq!(text(&folder), text(&fixture.folder), "{name}");
        let again = Coca::open(&folder, DType::F32, false).expect("model");
        assert_eq!(again.config(), model.config(), "{name}");
        for spec in model.specs() {
            let read = |model: &Coca| model.parameters().read(&spec.name).expect("parameter");
            assert_eq!(read(&again), read(&model), "{name}: {}", spec.name);
        }
    }
}

#[test]
fn forward_equals_the_reference() {
    for name in LAYOUTS {
        let fixture = fixture(name);
        let model = fixture.model(false);
        let config = &model.config().text;
        let (vocabulary, positions) = (config.vocabulary_size, config.context_length - 1);
        for isa in Isa::available() {
            let (queue, what) = (queue(isa), format!("{name} on {isa}"));
            let outputs = evaluate_pairs(&model, &queue, &fixture.images, &fixture.texts).expect("outputs");
            fixture.check_losses(outputs.contrastive_loss, outputs.caption_loss, &what);
            let mut encoder = ImageEncoder::new(&model, 4, &Workspace::new()).expect("encoder");
            let tokens = encoder.tokens(&queue, &fixture.images).expect("tokens");
            for (ours, tensor, bound) in [
                (&outputs.image_features, "image_features", 1e-6),
                (&outputs.text_features, "text_features", 1e-6),
                (&tokens, "image_tokens", 2e-5),
            ] {
                let off = largest_difference(ours, &fixture.tensor(tensor));
                assert!(off < bound, "{what}: {tensor} are off by {off:e}");
            }
            // The reference has logits for every position but the last; ours for those with a label.
            let all = fixture.tensor("logits");
            let scale = all.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (text, rows) in outputs.offsets.windows(2).enumerate() {
                let ours = &outputs.logits[rows[0] as usize * vocabulary..rows[1] as usize * vocabulary];
                let off = largest_difference(ours, &all[text * positions * vocabulary..][..ours.len()]);
                assert!(off < 1e-4 * scale, "{what}: logits of text {text} are off by {off:e} of {scale}");
            }
        }
    }
}

#[test]
fn every_gradient_equals_the_reference() {
    for name in LAYOUTS {
        let fixture = fixture(name);
        let model = fixture.model(true);
        let packed = PackedText::new(&fixture.texts, &model.config().text).expect("packed");
        for isa in Isa::available() {
            for checkpointing in [Checkpointing::None, Checkpointing::Block] {
                // More room than the batch needs: what lies behind the rows in use must not matter.
                let plan = StepPlan {
                    batch: fixture.texts.len(),
                    text_rows: packed.rows() + 11,
                    decoder_rows: packed.decoder_rows.len() + 5,
                    checkpointing,
                    contrastive: Contrast::Within,
                    caption: true,
                    guard_bytes: 0,
                };
                let what = format!("{name} on {isa}, {checkpointing:?}");
                let mut step = TrainStep::new(&model, plan, &Workspace::new()).expect("step");
                assert!(step.unreached().is_empty(), "{what}: no gradient for {:?}", step.unreached());
                step.write(&fixture.images, &packed).expect("batch");
                let losses = step.run(&queue(isa), 1.0, 2.0, false, &mut []).expect("run");
                fixture.check_losses(losses.contrastive, losses.caption, &what);
                for spec in model.specs() {
                    let ours = model.parameters().read_gradient(&spec.name).expect("gradient");
                    let off = relative_norm(&ours, &fixture.tensor(&format!("gradient.{}", spec.name)));
                    assert!(off < 1e-4, "{what}: gradient of {} is off by {off:e}", spec.name);
                }
            }
        }
    }
}
