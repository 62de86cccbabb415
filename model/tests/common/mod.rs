//! What the tests against fixtures share: a folder of `fixtures/` with its reference, a training step on its batch, and
//! distances.

#![allow(dead_code, reason = "every test file is a program of its own and uses a part of this")]

use engine::cpu::Isa;
use engine::{Checkpointing, CpuQueue, DType, Queue, Workspace};
use model::Coca;
use model::packing::PackedText;
use model::train::{Contrast, StepPlan, TrainStep};
use model::weights::Weights;
use std::path::{Path, PathBuf};

/// A model's folder and what another implementation computed from it.
pub struct Fixture {
    pub folder: PathBuf,
    pub json: serde_json::Value,
    /// u8 `[texts, size, size, 3]`.
    pub images: Vec<u8>,
    pub texts: Vec<Vec<i32>>,
    reference: Weights,
}

/// The folder `fixtures/NAME`.
pub fn fixture(name: &str) -> Fixture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let bytes = std::fs::read(folder.join("reference.safetensors")).expect("fixture");
    let json = std::fs::read(folder.join("reference.json")).expect("fixture");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("fixture");
    // The images are no weights, so `Weights` does not read them.
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let images = tensors.tensor("images").expect("images").data().to_vec();
    let texts = serde_json::from_value(json["texts"].clone()).expect("texts");
    Fixture { folder, json, images, texts, reference: Weights::from_bytes(bytes).expect("reference") }
}

impl Fixture {
    /// A tensor of the reference.
    pub fn tensor(&self, name: &str) -> Vec<f32> {
        self.reference.to_vec(name).expect("reference")
    }

    /// The model, in f32.
    pub fn model(&self, gradients: bool) -> Coca {
        Coca::open(&self.folder, DType::F32, gradients).expect("model")
    }

    /// A step on the fixture's batch.
    pub fn train_step(&self, model: &Coca, checkpointing: Checkpointing) -> TrainStep {
        let packed = PackedText::new(&self.texts, &model.config().text).expect("packed");
        self.train_step_on(model, &packed, checkpointing)
    }

    /// A step on the fixture's images with these texts.
    pub fn train_step_on(&self, model: &Coca, packed: &PackedText, checkpointing: Checkpointing) -> TrainStep {
        // More room than the batch needs: what lies behind the rows in use must not matter.
        let plan = StepPlan {
            batch: packed.texts(),
            text_rows: packed.rows() + 11,
            decoder_rows: packed.decoder_rows.len() + 5,
            checkpointing,
            contrastive: Contrast::Within,
            caption: true,
            guard_bytes: 0,
        };
        let step = TrainStep::new(model, plan, &Workspace::new()).expect("step");
        assert!(step.unreached().is_empty(), "no gradient for {:?}", step.unreached());
        step.write(&self.images, packed).expect("batch");
        step
    }

    /// Both losses are the reference's.
    pub fn check_losses(&self, contrastive: f32, caption: f32, what: &str) {
        for (ours, key) in [(contrastive, "contrastive_loss"), (caption, "caption_loss")] {
            let off = (f64::from(ours) - self.json[key].as_f64().expect("loss")).abs();
            assert!(off < 1e-5, "{what}: {key} is off by {off:e}");
        }
    }
}

/// Two threads of an instruction set.
pub fn queue(isa: Isa) -> Queue {
    Queue::Cpu(CpuQueue::new(isa, 2).expect("threads"))
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The norm of the difference over the norm of `b`; the former alone if `b` is zero.
pub fn relative_norm(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}
