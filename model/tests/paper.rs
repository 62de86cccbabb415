//! The paper's form of CoCa: features, tokens, logits, losses and every gradient, against an independent implementation in
//! plain torch. The fixtures were made by `fixtures/paper.py`; `fixtures/README.md` describes them.

mod common;

use common::{fixture, largest_difference, queue, relative_norm};
use engine::cpu::Isa;
use engine::{Checkpointing, DType, Workspace};
use model::Coca;
use model::encoder::{ImageEncoder, evaluate_pairs};
use model::weights::CONFIG_FILE;
use std::path::Path;

const LAYOUTS: [&str; 2] = ["paper/cascade", "paper/parallel"];

/// The fixtures' configurations were written by hand, after the rules of `CocaConfig::to_open_clip`.
#[test]
fn folders_are_saved_as_they_were_read() {
    for name in LAYOUTS {
        let fixture = fixture(name);
        let model = fixture.model(false);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
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
        for isa in Isa::available() {
            for checkpointing in [Checkpointing::None, Checkpointing::Block] {
                let what = format!("{name} on {isa}, {checkpointing:?}");
                let mut step = fixture.train_step(&model, checkpointing);
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
