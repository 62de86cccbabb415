//! bf16 activations against open_clip in f64, on the fixture `parity/packed`: features, both losses and every gradient.
//!
//! Where the bounds come from: rounding to bf16 errs by at most 2^-9 of a value, in the mean square by 2^-9 / √3, and the
//! errors of n roundings between two points are independent, so they add to √n 2^-9 / √3 of a tensor's norm. The bound is
//! √n 2^-8: the factor 2√3 is room for the worst row or parameter and for layers that amplify what they read. The counts n
//! follow from the depth; losses and gradients have their rule beside their check.

mod common;

use common::{fixture, queue};
use engine::cpu::Isa;
use engine::{Checkpointing, DType};
use model::Coca;
use model::packing::PackedText;

/// Norm, matrix, query with key and value, mix, matrix, stream.
const SELF_ATTENTION: usize = 6;
/// As self-attention, with a second norm and with keys and values apart from queries.
const CROSS_ATTENTION: usize = 8;
/// Norm, matrix, hidden rows, activation, matrix, stream.
const MLP: usize = 6;
/// Two norms, matrix, queries, keys and values, mix, matrix, tokens.
const POOLER: usize = 8;
/// Patches, matrix, product, sum with positions; two blocks; pooler; norm.
const IMAGE_TOKENS: usize = 4 + 2 * (SELF_ATTENTION + MLP) + POOLER + 1;
/// Sum with positions; two blocks.
const TEXT_ROWS: usize = 1 + 2 * (SELF_ATTENTION + MLP);
/// Both towers; two layers; norm; matrix.
const LOGITS: usize = IMAGE_TOKENS + TEXT_ROWS + 2 * (SELF_ATTENTION + CROSS_ATTENTION + 2 * MLP) + 2;

/// The relative error that so many roundings may leave.
fn bound(roundings: usize) -> f64 {
    (roundings as f64).sqrt() * 2f64.powi(-8)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn relative_error(ours: &[f32], theirs: &[f32]) -> f64 {
    let difference: Vec<f32> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    (dot(&difference, &difference) / dot(theirs, theirs)).sqrt()
}

#[test]
fn bf16_stays_within_its_rounding_of_open_clip() {
    let fixture = fixture("parity/packed");
    let expected = |name: &str| fixture.tensor(name);
    let model = Coca::open(&fixture.folder, DType::BF16, true).expect("model");
    let packed = PackedText::new(&fixture.texts, &model.config().text).expect("packed");
    let width = model.config().embed_dim;
    let mut step = fixture.train_step_on(&model, &packed, Checkpointing::None);

    // One rounding more for the projection's matrix, and in the text tower one for its norm.
    let (image_bound, text_bound) = (bound(IMAGE_TOKENS + 1), bound(TEXT_ROWS + 2));
    // A similarity errs by both features' errors, which point anywhere in `width` dimensions; the loss is the mean over the
    // pairs of a difference between similarities.
    let similarity = f64::from(model.logit_scale().expect("scale")) * image_bound.hypot(text_bound);
    let contrastive_bound = similarity * (2.0 / (width * packed.texts()) as f64).sqrt();
    // A token's loss is a difference between logits, the loss is their mean over the tokens.
    let logits = expected("logits");
    let logit = bound(LOGITS) * (dot(&logits, &logits) / logits.len() as f64).sqrt();
    let caption_bound = logit * (2.0 / packed.labels.len() as f64).sqrt();
    // The backward pass rounds as often as the forward pass that it reads.
    let gradient_bound = bound(2 * LOGITS);

    for isa in Isa::available() {
        let losses = step.run(&queue(isa), 1.0, 2.0, false, &mut []).expect("run");
        for (ours, key, bound) in [
            (losses.contrastive, "contrastive_loss", contrastive_bound),
            (losses.caption, "caption_loss", caption_bound),
        ] {
            let off = (f64::from(ours) - fixture.json[key].as_f64().expect("loss")).abs();
            assert!(off < bound, "{isa}: {key} is off by {off:e}, more than {bound:e}");
        }
        let (image, text) = step.features().expect("features");
        for (ours, name, bound) in [(image, "image_features", image_bound), (text, "text_features", text_bound)] {
            for (row, (ours, theirs)) in ours.chunks(width).zip(expected(name).chunks(width)).enumerate() {
                let off = relative_error(ours, theirs);
                assert!(off < bound, "{isa}: row {row} of {name} is off by {off:e}, more than {bound:e}");
            }
        }
        let (mut gradient, mut expected_gradient) = (Vec::new(), Vec::new());
        for spec in model.specs() {
            let ours = model.parameters().read_gradient(&spec.name).expect("gradient");
            let theirs = expected(&format!("gradient.{}", spec.name));
            // A parameter's gradient is a sum over rows that may cancel to half and less; roundings do not cancel.
            let (off, bound) = (relative_error(&ours, &theirs), 2.0 * gradient_bound);
            assert!(off < bound, "{isa}: gradient of {} is off by {off:e}, more than {bound:e}", spec.name);
            gradient.extend(ours);
            expected_gradient.extend(theirs);
        }
        let off = relative_error(&gradient, &expected_gradient);
        assert!(off < gradient_bound, "{isa}: the gradient is off by {off:e}, more than {gradient_bound:e}");
        // An error of that length turns a vector by at most its arc sine.
        let squares = dot(&gradient, &gradient) * dot(&expected_gradient, &expected_gradient);
        let cosine = dot(&gradient, &expected_gradient) / squares.sqrt();
        let least = (1.0 - gradient_bound * gradient_bound).sqrt();
        assert!(cosine > least, "{isa}: the gradient's cosine is {cosine}, less than {least}");
    }
}
