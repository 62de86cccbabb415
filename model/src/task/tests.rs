//! Tasks against the parts that they are made of, and every gradient against differences of the loss.

use super::*;
use crate::config::{CocaConfig, Pooler};
use crate::encoder::ImageEncoder;
use crate::heads::{Head, HeadLogits, HeadStep};
use crate::train::{Contrast, StepPlan, TrainStep};
use engine::cpu::Isa;
use engine::rng::Philox;
use engine::{CpuQueue, Queue, Workspace};

const CLASSES: usize = 3;
const SAMPLES: usize = 4;
const LABELS: [i32; SAMPLES] = [2, 0, -1, 1];
const SMOOTHING: f32 = 0.1;

fn queue() -> Queue {
    Queue::Cpu(CpuQueue::new(Isa::best(), 2).unwrap())
}

/// Small, with widths of image and text that differ.
fn config(pooler: Pooler) -> CocaConfig {
    let mut config = CocaConfig::preset("emoji").unwrap();
    config.vision.width = 32;
    config.vision.mlp_width = 64;
    config.embed_dim = 16;
    (config.text.width, config.text.mlp_width, config.text.heads) = (16, 32, 2);
    (config.decoder.width, config.decoder.mlp_width, config.decoder.heads) = (16, 32, 2);
    (config.text.vocabulary_size, config.text.context_length) = (50, 12);
    config.pooler = pooler;
    config
}

const OPEN_CLIP: Pooler = Pooler::OpenClip { queries: 4, heads: 2 };

fn plan(reads: Reads, images: usize, caption: bool) -> TaskPlan {
    let model = Coca::new(config(OPEN_CLIP), DType::F32, false).unwrap();
    TaskPlan { label_smoothing: SMOOTHING, caption, ..TaskPlan::of_logits(&model, reads, SAMPLES, images) }
}

fn model(plan: &TaskPlan, pooler: Pooler) -> Coca {
    let config = config(pooler);
    let head = plan.reads.head(&config, plan.images, CLASSES);
    let model = Coca::with_head(config, Some(head), DType::F32, true).unwrap();
    model.initialize(7).unwrap();
    model
}

fn images(count: usize) -> Vec<u8> {
    let mut random = Philox::new(3, 1);
    (0..count * 16 * 16 * 3).map(|_| random.below(256) as u8).collect()
}

/// Texts of 2 to 5 ids, start (48) and end (49) included.
fn texts(count: usize, stream: u64) -> Vec<Vec<i32>> {
    let mut random = Philox::new(4, stream);
    let mut text = || {
        let mut text = vec![48];
        text.extend((0..random.below(4)).map(|_| 1 + random.below(47) as i32));
        text.push(49);
        text
    };
    (0..count).map(|_| text()).collect()
}

fn packed(questions: &[Vec<i32>], answers: &[Option<Vec<i32>>]) -> TaskTexts {
    TaskTexts::new(questions, answers, &config(OPEN_CLIP).text).unwrap()
}

#[test]
fn a_head_on_images_is_a_head_on_the_encoders_rows() {
    for frames in [1, 3] {
        let plan = plan(Reads::Images, frames, false);
        let model = model(&plan, OPEN_CLIP);
        let images = images(SAMPLES * frames);
        let head = Head::new(*model.head().unwrap(), DType::F32, true).unwrap();
        for spec in head.specs() {
            head.parameters().write(&spec.name, &model.parameters().read(&spec.name).unwrap()).unwrap();
        }
        // As many images in a pass as the task has: products of few rows add up in another order than those of many.
        let mut encoder = ImageEncoder::new(&model, SAMPLES * frames, &Workspace::new()).unwrap();
        let encoded = encoder.encoded(&queue(), &images).unwrap();
        let rows = frames * model.config().vision.rows();
        let wanted = HeadLogits::new(&head, SAMPLES, rows, &Workspace::new()).unwrap().run(&queue(), &encoded).unwrap();
        let logits = |plan: TaskPlan, images: &[u8]| {
            TaskLogits::new(&model, plan, &Workspace::new()).unwrap().run(&queue(), images, None).unwrap()
        };
        assert_eq!(logits(plan, &images), wanted);
        let three = images.len() / SAMPLES * 3;
        assert_eq!(logits(plan, &images[..three]), wanted[..3 * CLASSES], "a pass that is not full");

        let mut step = TaskStep::new(&model, plan, &Workspace::new()).unwrap();
        step.write(&images, None, &LABELS).unwrap();
        let losses = step.run(&queue(), 1.0, 0.0, false, &mut []).unwrap();
        let mut own = HeadStep::new(&head, SAMPLES, rows, SMOOTHING, &Workspace::new()).unwrap();
        assert_eq!(losses.class, own.run(&queue(), &encoded, &LABELS, 1.0, false).unwrap());
        for spec in head.specs() {
            let gradient = |parameters: &engine::Parameters| parameters.read_gradient(&spec.name).unwrap();
            assert_eq!(gradient(model.parameters()), gradient(head.parameters()), "{}", spec.name);
        }
        let unreached = |name: &str| step.unreached().iter().any(|unreached| unreached == name);
        assert!(unreached("text.token_embedding.weight") && unreached("visual.attn_pool.query"));
        assert!(!unreached("visual.conv1.weight") && !unreached("head.pooler.query"));
    }
}

/// Every gradient tensor that matters against the difference quotient of the loss along it.
#[test]
fn gradients_are_the_slope_of_the_loss() {
    for (reads, count, caption, pooler) in [
        (Reads::Images, 2, false, OPEN_CLIP),
        (Reads::Texts, 1, true, OPEN_CLIP),
        (Reads::Texts, 2, false, Pooler::Cascade { queries: 4, heads: 2 }),
        (Reads::Texts, 1, true, Pooler::Parallel { queries: 4, heads: 2 }),
    ] {
        let plan = plan(reads, count, caption);
        let model = model(&plan, pooler);
        let mut step = TaskStep::new(&model, plan, &Workspace::new()).unwrap();
        let questions = texts(SAMPLES * count, 0);
        let answers: Vec<_> = texts(SAMPLES * count, 1).into_iter().map(|text| caption.then_some(text)).collect();
        let texts = (reads == Reads::Texts).then(|| packed(&questions, &answers));
        step.write(&images(SAMPLES * count), texts.as_ref(), &LABELS).unwrap();
        let mut loss = || {
            let losses = step.run(&queue(), 1.0, 0.5, false, &mut []).unwrap();
            f64::from(losses.class) + 0.5 * f64::from(losses.caption)
        };
        loss();
        let parameters = model.parameters();
        let reached: Vec<_> = parameters.entries().iter().filter(|entry| entry.trainable).collect();
        let gradients: Vec<Vec<f32>> =
            reached.iter().map(|entry| parameters.read_gradient(&entry.name).unwrap()).collect();
        let norm = |values: &[f32]| values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let largest = gradients.iter().map(|gradient| norm(gradient)).fold(0.0, f64::max);
        let mut checked = 0;
        for (entry, gradient) in reached.iter().zip(&gradients) {
            let slope = norm(gradient);
            if slope < 0.02 * largest {
                continue;
            }
            // A step that changes the loss by 2e-3: rounding of the loss is then 1e-4 of the change, curvature less than that.
            let (start, length) = (parameters.read(&entry.name).unwrap(), 1e-3 / slope);
            let mut at = |sign: f64| {
                let moved = start
                    .iter()
                    .zip(gradient)
                    .map(|(&x, &g)| (f64::from(x) + sign * length * f64::from(g) / slope) as f32);
                parameters.write(&entry.name, &moved.collect::<Vec<_>>()).unwrap();
                loss()
            };
            let found = (at(1.0) - at(-1.0)) / (2.0 * length);
            parameters.write(&entry.name, &start).unwrap();
            assert!((found - slope).abs() < 0.01 * slope, "{reads:?} {}: slope {found}, gradient {slope}", entry.name);
            checked += 1;
        }
        assert!(checked >= 12, "{checked} tensors have gradients that matter");
        if reads == Reads::Texts {
            let reached = |name: &str| !step.unreached().iter().any(|unreached| unreached == name);
            assert!(reached("text_decoder.resblocks.0.attn.in_proj_weight") && reached("visual.conv1.weight"));
            assert_eq!(reached("text_decoder.text_projection"), caption);
            assert!(!reached("logit_scale"));
        }
    }
}

#[test]
fn the_head_does_not_see_the_answer() {
    let plan = plan(Reads::Texts, 1, true);
    let model = model(&plan, OPEN_CLIP);
    let (images, questions) = (images(SAMPLES), texts(SAMPLES, 0));
    let answers: Vec<_> = texts(SAMPLES, 1).into_iter().map(Some).collect();
    let mut step = TaskStep::new(&model, plan, &Workspace::new()).unwrap();
    let mut losses = |answers: &[Option<Vec<i32>>]| {
        step.write(&images, Some(&packed(&questions, answers)), &LABELS).unwrap();
        step.run(&queue(), 1.0, 1.0, false, &mut []).unwrap()
    };
    let (with, without) = (losses(&answers), losses(&[]));
    assert_eq!(with.class, without.class);
    assert_ne!(with.caption, without.caption);

    // The caption loss is that of pre-training on question and answer as one text.
    let joined = |(question, answer): (&Vec<i32>, &Option<Vec<i32>>)| {
        [&question[..question.len() - 1], &answer.as_ref().unwrap()[1..]].concat()
    };
    let joined: Vec<Vec<i32>> = questions.iter().zip(&answers).map(joined).collect();
    let TaskPlan { text_rows, decoder_rows, checkpointing, guard_bytes, .. } = plan;
    let plan = StepPlan {
        batch: SAMPLES,
        text_rows,
        decoder_rows,
        checkpointing,
        contrastive: Contrast::Off,
        caption: true,
        guard_bytes,
    };
    let mut step = TrainStep::new(&model, plan, &Workspace::new()).unwrap();
    step.write(&images, &PackedText::new(&joined, &model.config().text).unwrap()).unwrap();
    assert_eq!(step.run(&queue(), 0.0, 1.0, false, &mut []).unwrap().caption, with.caption);
}

#[test]
fn a_pair_is_two_pooled_rows_side_by_side() {
    let plan = plan(Reads::Texts, 2, false);
    let model = model(&plan, OPEN_CLIP);
    let (images, questions) = (images(2 * SAMPLES), texts(2 * SAMPLES, 0));
    let mut logits = TaskLogits::new(&model, plan, &Workspace::new()).unwrap();
    let mut run =
        |images: &[u8], questions: &[Vec<i32>]| logits.run(&queue(), images, Some(packed(questions, &[]))).unwrap();
    let both = run(&images, &questions);
    let one = images.len() / (2 * SAMPLES);
    assert_eq!(run(&images[..6 * one], &questions[..6]), both[..3 * CLASSES], "a pass that is not full");
    // A classifier that reads the first row of a pair alone.
    let name = "head.classifier.weight";
    let mut weight = model.parameters().read(name).unwrap();
    let width = model.config().decoder.width;
    assert_eq!(weight.len(), CLASSES * 2 * width);
    weight.chunks_mut(2 * width).for_each(|row| row[width..].fill(0.0));
    model.parameters().write(name, &weight).unwrap();
    let first = run(&images, &questions);
    assert_ne!(first, both);
    let mut changed = images.clone();
    changed[one..2 * one].fill(9); // the second image of the first pair
    changed[4 * one..5 * one].fill(9); // the first image of the third
    let moved = run(&changed, &questions);
    assert_eq!(moved[..2 * CLASSES], first[..2 * CLASSES]);
    assert_ne!(moved[2 * CLASSES..3 * CLASSES], first[2 * CLASSES..3 * CLASSES]);
}

#[test]
fn wrong_batches_are_named() {
    let plan = plan(Reads::Texts, 1, true);
    let model = model(&plan, OPEN_CLIP);
    let error = |plan: TaskPlan| TaskStep::new(&model, plan, &Workspace::new()).unwrap_err().to_string();
    assert!(error(TaskPlan { images: 2, ..plan }).contains("do not fit the model's head"));
    let plain = Coca::new(config(OPEN_CLIP), DType::F32, true).unwrap();
    assert!(TaskStep::new(&plain, plan, &Workspace::new()).unwrap_err().to_string().contains("head: None"));
    let step = TaskStep::new(&model, plan, &Workspace::new()).unwrap();
    let questions = packed(&texts(SAMPLES, 0), &[]);
    let error = |images: &[u8], texts: Option<&TaskTexts>, labels: &[i32]| {
        step.write(images, texts, labels).unwrap_err().to_string()
    };
    assert!(error(&images(SAMPLES), None, &LABELS).contains("none were given"));
    assert!(error(&images(3), Some(&questions), &LABELS).contains("bytes of images"));
    assert!(error(&images(SAMPLES), Some(&questions), &LABELS[1..]).contains("3 classes for a step of 4"));
    let mut logits = TaskLogits::new(&model, plan, &Workspace::new()).unwrap();
    let error = logits.run(&queue(), &images(5), None).unwrap_err().to_string();
    assert!(error.contains("up to 4 samples"), "{error}");
}
