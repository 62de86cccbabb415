//! Parity with open_clip 3.3: features, tokens, logits, losses, every gradient, ten AdamW steps. The fixtures were made by
//! `fixtures/parity.py`; `fixtures/README.md` describes them.

mod common;

use common::{Fixture, fixture, largest_difference, queue, relative_norm};
use engine::cpu::Isa;
use engine::{Checkpointing, Workspace};
use kernels::attention::{SEEN_BY_ITSELF, SEEN_LATER};
use kernels::embed::CLASS_ID;
use kernels::optimizer::{AdamW, AdamWSettings, Optimizer, Rule, Step};
use model::LOGIT_SCALE;
use model::config::TextConfig;
use model::encoder::{ImageEncoder, evaluate_pairs};
use model::packing::PackedText;
use model::params::ParamSpec;

const LAYOUTS: [&str; 3] = ["parity/unpacked", "parity/packed", "parity/plain"];

#[test]
fn forward_equals_open_clip() {
    for name in LAYOUTS {
        let fixture = fixture(name);
        let model = fixture.model(false);
        for isa in Isa::available() {
            let queue = queue(isa);
            let outputs = evaluate_pairs(&model, &queue, &fixture.images, &fixture.texts).expect("outputs");
            let what = format!("{name} on {isa}");
            for (features, tensor) in
                [(&outputs.image_features, "image_features"), (&outputs.text_features, "text_features")]
            {
                let off = largest_difference(features, &fixture.tensor(tensor));
                assert!(off < 1e-6, "{what}: {tensor} are off by {off:e}");
            }
            let mut encoder = ImageEncoder::new(&model, 4, &Workspace::new()).expect("encoder");
            let tokens = encoder.tokens(&queue, &fixture.images).expect("tokens");
            let off = largest_difference(&tokens, &fixture.tensor("image_tokens"));
            assert!(off < 2e-5, "{what}: image tokens are off by {off:e}");
            // The reference has logits for all positions but the last; ours for those with a label.
            let all = fixture.tensor("logits");
            let (vocabulary, positions) = (61, 15);
            let scale = all.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for text in 0..fixture.texts.len() {
                let (first, end) = (outputs.offsets[text] as usize, outputs.offsets[text + 1] as usize);
                let ours = &outputs.logits[first * vocabulary..end * vocabulary];
                let start = text * positions * vocabulary;
                let off = largest_difference(ours, &all[start..start + ours.len()]);
                assert!(off < 1e-4 * scale, "{what}: logits of text {text} are off by {off:e} of {scale}");
            }
            fixture.check_losses(outputs.contrastive_loss, outputs.caption_loss, &what);
        }
    }
}

#[test]
fn every_gradient_equals_open_clip() {
    for name in LAYOUTS {
        let fixture = fixture(name);
        let model = fixture.model(true);
        for isa in Isa::available() {
            for level in [Checkpointing::None, Checkpointing::Cheap, Checkpointing::Block] {
                let mut step = fixture.train_step(&model, level);
                step.run(&queue(isa), 1.0, 2.0, false, &mut []).expect("run");
                for spec in model.specs() {
                    let ours = model.parameters().read_gradient(&spec.name).expect("gradient");
                    let off = relative_norm(&ours, &fixture.tensor(&format!("gradient.{}", spec.name)));
                    assert!(off < 1e-4, "{name} on {isa}, {level:?}: gradient of {} is off by {off:e}", spec.name);
                }
            }
        }
    }
}

/// The same texts as rectangles, as open_clip reads them: every row of the context and CLS, every position with a label.
fn rectangles(texts: &[Vec<i32>], config: &TextConfig) -> PackedText {
    let (context, pad) = (config.context_length, config.pad_id as i32);
    let mut padded = PackedText { offsets: vec![0], decoder_offsets: vec![0], ..PackedText::default() };
    for text in texts {
        let first = padded.ids.len() as i32;
        let id = |row: usize| text.get(row).copied().unwrap_or(pad);
        for row in 0..=context {
            // CLS is no pad id itself; what stands before it can hide it.
            let shown =
                config.cls_mask.shows(row.checked_sub(1).map(id), if row < context { id(row) } else { -1 }, pad);
            padded.ids.push(if row < context { id(row) } else { CLASS_ID });
            padded.positions.push(row as i32);
            padded.key_bits.push(if shown { SEEN_LATER | SEEN_BY_ITSELF } else { 0 });
        }
        padded.class_rows.push(first + context as i32);
        padded.offsets.push(padded.ids.len() as i32);
        padded.decoder_rows.extend((0..context as i32 - 1).map(|row| first + row));
        padded.labels.extend((1..context).map(id));
        padded.decoder_offsets.push(padded.decoder_rows.len() as i32);
    }
    padded
}

#[test]
fn a_packed_batch_equals_the_padded_one() {
    for name in LAYOUTS {
        let fixture = fixture(name);
        let model = fixture.model(true);
        let config = &model.config().text;
        let batches = [PackedText::new(&fixture.texts, config).expect("packed"), rectangles(&fixture.texts, config)];
        assert!(batches[0].rows() < batches[1].rows() && batches[0].labels.len() < batches[1].labels.len());
        for isa in Isa::available() {
            let [packed, padded] = [0, 1].map(|index| {
                let mut step = fixture.train_step_on(&model, &batches[index], Checkpointing::None);
                let losses = step.run(&queue(isa), 1.0, 2.0, false, &mut []).expect("run");
                let gradient = |spec: &ParamSpec| model.parameters().read_gradient(&spec.name).expect("gradient");
                let gradients: Vec<Vec<f32>> = model.specs().iter().map(gradient).collect();
                (losses, step.features().expect("features"), gradients)
            });
            let what = format!("{name} on {isa}");
            let off = largest_difference(
                &[packed.0.contrastive, packed.0.caption],
                &[padded.0.contrastive, padded.0.caption],
            );
            assert!(off < 1e-5, "{what}: a loss is off by {off:e}");
            let off = largest_difference(&packed.1.0, &padded.1.0).max(largest_difference(&packed.1.1, &padded.1.1));
            assert!(off < 1e-6, "{what}: a feature is off by {off:e}");
            for (spec, (packed, padded)) in model.specs().iter().zip(packed.2.iter().zip(&padded.2)) {
                let off = relative_norm(packed, padded);
                assert!(off < 2e-5, "{what}: gradient of {} is off by {off:e}", spec.name);
            }
        }
    }
}

#[test]
fn checkpointing_changes_no_bit_and_takes_less_memory() {
    let fixture = fixture("parity/unpacked");
    let model = fixture.model(true);
    let mut peaks = Vec::new();
    let mut gradients = Vec::new();
    for level in [Checkpointing::None, Checkpointing::Cheap, Checkpointing::Block] {
        let mut step = fixture.train_step(&model, level);
        step.run(&queue(Isa::best()), 1.0, 2.0, false, &mut []).expect("run");
        let arena = model.parameters().gradient().expect("gradients");
        gradients.push(arena.read::<i32>(0, model.parameters().elements()).expect("gradients"));
        let plan = step.program().plan();
        assert!(plan.lower_bound_bytes <= plan.peak_bytes, "{plan}");
        assert!(plan.peak_bytes as f64 <= 1.1 * plan.lower_bound_bytes as f64, "{plan}");
        peaks.push(plan.peak_bytes);
    }
    assert!(peaks[2] < peaks[1] && peaks[1] < peaks[0], "{peaks:?}");
    assert!(gradients[0] == gradients[1] && gradients[1] == gradients[2], "recomputation changed a bit");
}

#[test]
fn ten_adamw_steps_follow_open_clip() {
    for name in LAYOUTS {
        for isa in Isa::available() {
            follow_steps(&fixture(name), isa, &format!("{name} on {isa}"));
        }
    }
}

fn follow_steps(fixture: &Fixture, isa: Isa, what: &str) {
    let model = fixture.model(true);
    let queue = queue(isa);
    let mut step = fixture.train_step(&model, Checkpointing::None);
    let settings = &fixture.json["adamw"];
    let number = |key: &str| settings[key].as_f64().expect("a number");
    let betas: Vec<f64> = serde_json::from_value(settings["betas"].clone()).expect("betas");
    let adamw = AdamWSettings {
        beta1: betas[0],
        beta2: betas[1],
        epsilon: number("eps"),
        weight_decay: number("weight_decay"),
    };
    let rule = |entry: &engine::Parameter| Rule {
        decay: model::params::decays(&entry.name, &entry.shape),
        learning_rate_scale: 1.0,
    };
    let mut optimizer = AdamW::new(adamw, model.parameters(), rule).expect("optimizer");
    for (number_of, expected) in fixture.json["steps"].as_array().expect("steps").iter().enumerate() {
        let losses = step.run(&queue, 1.0, 2.0, false, &mut []).expect("run");
        let total = f64::from(losses.contrastive) + 2.0 * f64::from(losses.caption);
        let off = (total - expected["loss"].as_f64().expect("loss")).abs();
        assert!(off < 1e-4, "{what}: the loss of step {number_of} is off by {off:e}");
        let update = Step { number: number_of as u64 + 1, learning_rate: number("lr"), gradient_factor: 1.0 };
        optimizer.step(&queue, model.parameters(), update).expect("update");
        let scale = model.parameters().read(LOGIT_SCALE).expect("scale")[0].clamp(0.0, 100f32.ln());
        model.parameters().write(LOGIT_SCALE, &[scale]).expect("clamp");
        let off = (f64::from(scale) - expected["logit_scale_after"].as_f64().expect("scale")).abs();
        assert!(off < 1e-4, "{what}: the scale of step {number_of} is off by {off:e}");
    }
}
