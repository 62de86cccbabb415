//! A head against a plain f64 version of it: logits, loss, and every gradient by central differences.

use super::*;
use crate::weights::{FileDtype, TensorRef, save};
use engine::cpu::Isa;
use engine::rng::Philox;
use engine::{Compile, CpuQueue, Meta, Program, Queue, Workspace};
use kernels::cross_entropy::cross_entropy;
use std::collections::BTreeMap;

const BATCH: usize = 3;
const ROWS: usize = 5;
const SMOOTHING: f32 = 0.2;
const LABELS: [i32; BATCH] = [2, 0, 3];

/// A pooler whose keys have another width, one whose projections are packed, and no pooler.
fn configs() -> [HeadConfig; 3] {
    let pooler = Some(HeadPooler { width: 8, heads: 2 });
    [(6, pooler), (8, pooler), (7, None)].map(|(inputs, pooler)| HeadConfig { inputs, pooler, joined: 1, classes: 4 })
}

fn rows(config: &HeadConfig) -> usize {
    if config.pooler.is_some() { ROWS } else { 1 }
}

fn queue(threads: usize) -> Queue {
    Queue::Cpu(CpuQueue::new(Isa::best(), threads).unwrap())
}

/// A head with every parameter drawn, and sequences for it.
fn drawn(config: HeadConfig) -> (Head, Vec<f32>) {
    let head = Head::new(config, DType::F32, true).unwrap();
    let mut random = Philox::new(5, 0);
    let mut normal = |count: usize| (0..count).map(|_| random.normal() as f32).collect::<Vec<_>>();
    for spec in head.specs() {
        head.parameters().write(&spec.name, &normal(spec.shape.elements())).unwrap();
    }
    let tokens = normal(BATCH * rows(&config) * config.inputs);
    (head, tokens)
}

type Values = BTreeMap<String, Vec<f64>>;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn normed(x: &[f64], values: &Values, name: &str) -> Vec<f64> {
    let count = x.len() as f64;
    let mean = x.iter().sum::<f64>() / count;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    let (weight, bias) = (&values[&format!("{name}.weight")], &values[&format!("{name}.bias")]);
    let scale = (variance + 1e-5).sqrt();
    x.iter().zip(weight).zip(bias).map(|((x, weight), bias)| (x - mean) / scale * weight + bias).collect()
}

fn projected(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let row = |(row, bias): (&[f64], &f64)| row.iter().zip(x).map(|(weight, x)| weight * x).sum::<f64>() + bias;
    weight.chunks(x.len()).zip(bias).map(row).collect()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}

fn pooled(sequence: &[f64], config: &HeadConfig, pooler: HeadPooler, values: &Values) -> Vec<f64> {
    let HeadPooler { width, heads } = pooler;
    let part = |index: usize, letter: char, x: &[f64]| {
        let span = |columns: usize| index * width * columns..(index + 1) * width * columns;
        let weight: &[f64] = match values.get("head.pooler.attn.in_proj_weight") {
            Some(packed) => &packed[span(width)],
            None => &values[&format!("head.pooler.attn.{letter}_proj_weight")],
        };
        projected(x, weight, &values["head.pooler.attn.in_proj_bias"][span(1)])
    };
    let query = part(0, 'q', &normed(&values["head.pooler.query"], values, "head.pooler.ln_q"));
    let rows: Vec<_> = sequence.chunks(config.inputs).map(|row| normed(row, values, "head.pooler.ln_k")).collect();
    let [keys, contents] =
        [(1, 'k'), (2, 'v')].map(|(index, letter)| rows.iter().map(|row| part(index, letter, row)).collect::<Vec<_>>());
    let mut mixed = vec![0.0; width];
    for head in 0..heads {
        let columns = head * width / heads..(head + 1) * width / heads;
        let scale = (columns.len() as f64).sqrt();
        let score = |key: &Vec<f64>| columns.clone().map(|column| query[column] * key[column]).sum::<f64>() / scale;
        let shares = softmax(&keys.iter().map(score).collect::<Vec<_>>());
        for column in columns.clone() {
            mixed[column] = shares.iter().zip(&contents).map(|(share, row)| share * row[column]).sum();
        }
    }
    let (weight, bias) = (&values["head.pooler.attn.out_proj.weight"], &values["head.pooler.attn.out_proj.bias"]);
    normed(&projected(&mixed, weight, bias), values, "head.ln_post")
}

/// Logits and mean loss.
fn reference(config: &HeadConfig, values: &Values, tokens: &[f64]) -> (Vec<f64>, f64) {
    let (mut logits, mut loss) = (Vec::new(), 0.0);
    for (sequence, &label) in tokens.chunks(rows(config) * config.inputs).zip(&LABELS) {
        let x = config.pooler.map_or_else(|| sequence.to_vec(), |pooler| pooled(sequence, config, pooler, values));
        let row = projected(&x, &values["head.classifier.weight"], &values["head.classifier.bias"]);
        let smoothing = f64::from(SMOOTHING);
        for (class, probability) in softmax(&row).iter().enumerate() {
            let own = if class == label as usize { 1.0 - smoothing } else { 0.0 };
            loss -= (own + smoothing / row.len() as f64) * probability.ln() / BATCH as f64;
        }
        logits.extend(row);
    }
    (logits, loss)
}

/// The derivative of `loss` by each element, by central differences.
fn differences(values: &[f64], mut loss: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut at = |index: usize, step: f64| {
        let mut moved = values.to_vec();
        moved[index] += step;
        loss(&moved)
    };
    (0..values.len()).map(|index| (at(index, STEP) - at(index, -STEP)) / (2.0 * STEP)).collect()
}

/// Operations on the way from a parameter to the loss and back to its gradient: LayerNorms, projections, softmax, sums.
const STAGES: f64 = 20.0;

/// The parameters and sequences, and the same with every value off by a rounding to f32, up or down.
fn rounded(values: &Values, tokens: &[f64]) -> Vec<(Values, Vec<f64>)> {
    let mut random = Philox::new(99, 0);
    let mut round = |values: &[f64]| -> Vec<f64> {
        values.iter().map(|value| value * (1.0 + 2f64.powi(-24) * random.normal().signum())).collect()
    };
    let mut all = vec![(values.clone(), tokens.to_vec())];
    all.extend((0..8).map(|_| (values.iter().map(|(name, own)| (name.clone(), round(own))).collect(), round(tokens))));
    all
}

/// Holds `found` against what `wanted` gives for the exact inputs. Each stage rounds what it reads and writes, which moves a result
/// at most as far as rounding all inputs does; what `wanted` gives is itself exact to about 1e-9.
fn close(what: &str, found: &[f32], inputs: &[(Values, Vec<f64>)], wanted: impl Fn(&Values, &[f64]) -> Vec<f64>) {
    let all: Vec<_> = inputs.iter().map(|(values, tokens)| wanted(values, tokens)).collect();
    let distance = |other: &[f64]| all[0].iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let bound = STAGES * all.iter().map(|other| distance(other)).fold(0.0, f64::max) + 1e-8;
    let off = distance(&wide(found));
    assert_eq!(found.len(), all[0].len(), "{what}");
    assert!(off < bound, "{what} is off by {off:e}, more than {bound:e}");
}

#[test]
fn logits_loss_and_every_gradient_equal_the_reference() {
    for config in configs() {
        let (head, tokens) = drawn(config);
        let values: Values = head
            .specs()
            .iter()
            .map(|spec| (spec.name.clone(), wide(&head.parameters().read(&spec.name).unwrap())))
            .collect();
        let inputs = rounded(&values, &wide(&tokens));
        let outputs = |values: &Values, tokens: &[f64]| reference(&config, values, tokens);
        // Passes of two, so that the last one has room.
        let mut program = HeadLogits::new(&head, 2, rows(&config), &Workspace::new()).unwrap();
        close("logits", &program.run(&queue(2), &tokens).unwrap(), &inputs, |v, t| outputs(v, t).0);

        // A batch with room for more, whose places do not count.
        let mut step = HeadStep::new(&head, BATCH + 2, rows(&config), SMOOTHING, &Workspace::new()).unwrap();
        let loss = step.run(&queue(2), &tokens, &LABELS, 1.0, false).unwrap();
        close("loss", &[loss], &inputs, |values, tokens| vec![outputs(values, tokens).1]);
        for name in values.keys() {
            close(name, &head.parameters().read_gradient(name).unwrap(), &inputs, |values, tokens| {
                let mut moved = values.clone();
                differences(&values[name], |own| {
                    moved.insert(name.clone(), own.to_vec());
                    outputs(&moved, tokens).1
                })
            });
        }
        let bias = head.parameters().read_gradient("head.classifier.bias").unwrap();
        step.run(&queue(1), &tokens, &LABELS, 2.0, true).unwrap();
        for (before, after) in bias.iter().zip(head.parameters().read_gradient("head.classifier.bias").unwrap()) {
            assert!((3.0 * before - after).abs() < 1e-6, "weights and accumulation");
        }

        // What the rows come from gets its gradient too.
        let mut tape = Tape::record();
        let meta = Meta::new([tokens.len() / config.inputs, config.inputs], DType::F32);
        let input = tape.variable("tokens", meta).unwrap();
        let logits = head.logits(&mut tape, input, Rows::Fixed(rows(&config))).unwrap();
        let labels = tape.input("labels", Meta::new([BATCH], DType::I32)).unwrap();
        let loss = cross_entropy(&mut tape, logits, labels, SMOOTHING).unwrap();
        let weight = tape.input("weight", Meta::new([1], DType::F32)).unwrap();
        tape.backward(&[(loss, weight)]).unwrap();
        let gradient = tape.gradient(input).unwrap().unwrap();
        let mut program = Program::compile(tape, &Workspace::new(), Compile::default()).unwrap();
        program.write(input, &tokens).unwrap();
        program.write(labels, &LABELS).unwrap();
        program.write(weight, &[1.0f32]).unwrap();
        program.run(&queue(1), false).unwrap();
        close("tokens", &program.read::<f32>(gradient).unwrap(), &inputs, |values, tokens| {
            differences(tokens, |moved| outputs(values, moved).1)
        });
    }
}

#[test]
fn bf16_rounds_what_f32_computes() {
    let [config, ..] = configs();
    let (head, tokens) = drawn(config);
    let exact = HeadLogits::new(&head, BATCH, ROWS, &Workspace::new()).unwrap().run(&queue(1), &tokens).unwrap();
    let small = Head::new(config, DType::BF16, true).unwrap();
    small.set(&head.parameters().master().read(0, head.parameters().elements()).unwrap()).unwrap();
    let tokens: Vec<half::bf16> = tokens.iter().map(|&value| half::bf16::from_f32(value)).collect();
    let rounded = HeadLogits::new(&small, BATCH, ROWS, &Workspace::new()).unwrap().run(&queue(1), &tokens).unwrap();
    let scale = exact.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    // Some ten roundings of 2^-8 on the way.
    assert!(exact.iter().zip(&rounded).all(|(a, b)| (a - b).abs() < 0.05 * scale), "{exact:?} {rounded:?}");
    assert_ne!(exact, rounded);
    let mut step = HeadStep::new(&small, BATCH, ROWS, 0.0, &Workspace::new()).unwrap();
    assert!(step.run(&queue(1), &tokens, &LABELS, 1.0, false).unwrap() > 0.0);
}

#[test]
fn a_head_is_saved_with_its_sizes_and_classes() {
    let folder = std::env::temp_dir().join(format!("coca-heads-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("head.safetensors");
    let classes = ["a", "b", "c", "d"].map(str::to_owned);
    for config in configs() {
        let (head, _) = drawn(config);
        head.save(&path, &classes).unwrap();
        let (again, names) = Head::open(&path, DType::F32, false).unwrap();
        assert_eq!((again.config(), names), (config, classes.to_vec()));
        for spec in head.specs() {
            let read = |head: &Head| head.parameters().read(&spec.name).unwrap();
            assert_eq!(read(&again), read(&head), "{}", spec.name);
        }
        assert!(head.save(&path, &classes[1..]).unwrap_err().to_string().contains("3 names for the 4 classes"));
    }
    let tensor = TensorRef { name: "x", shape: &[1], data: &[1.0] };
    save(&path, &[tensor], FileDtype::F32, &[]).unwrap();
    let error = Head::open(&path, DType::F32, false).unwrap_err().to_string();
    assert!(error.contains("head.safetensors: no 'head' in its free text"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn wrong_sizes_are_named() {
    let [config, _, linear] = configs();
    let new = |config: HeadConfig| Head::new(config, DType::F32, false).unwrap_err().to_string();
    assert!(new(HeadConfig { classes: 1, ..config }).contains("at least two classes"));
    let pooler = Some(HeadPooler { width: 8, heads: 3 });
    assert!(new(HeadConfig { pooler, ..config }).contains("a pooler of width 8 cannot have 3 heads"));
    let head = Head::new(config, DType::F32, false).unwrap();
    let error = HeadStep::new(&head, 2, ROWS, 0.0, &Workspace::new()).unwrap_err().to_string();
    assert!(error.contains("no gradient arena"), "{error}");
    let flat = Head::new(linear, DType::F32, false).unwrap();
    assert!(HeadLogits::new(&flat, 2, 3, &Workspace::new()).unwrap_err().to_string().contains("single rows"));
    let mut logits = HeadLogits::new(&flat, 2, 1, &Workspace::new()).unwrap();
    assert!(logits.run(&queue(1), &[0.0f32; 8]).unwrap_err().to_string().contains("no whole sequences of 7"));
    let (head, tokens) = drawn(config);
    let mut step = HeadStep::new(&head, BATCH, ROWS, 0.0, &Workspace::new()).unwrap();
    let error = step.run(&queue(1), &tokens, &LABELS[1..], 1.0, false).unwrap_err().to_string();
    assert!(error.contains("3 sequences and 2 labels"), "{error}");
    let error = step.run(&queue(1), &tokens, &[0, 1, 4], 1.0, false).unwrap_err().to_string();
    assert!(error.contains("label 4 of row 2 is not below 4"), "{error}");
}

#[test]
fn a_head_of_a_model_is_as_its_own_pooler() {
    for (preset, heads) in [("coca_ViT-B-32", 8), ("coca_base", 8), ("paper-large", 16)] {
        let model = CocaConfig::preset(preset).unwrap();
        let config = HeadConfig::of_images(&model, 10);
        config.validate().unwrap();
        let pooler = config.pooler.unwrap();
        assert_eq!(
            (pooler.width, pooler.heads, config.inputs),
            (model.embed_dim, heads, model.vision.width),
            "{preset}"
        );
        let own = crate::params::parameters(&model);
        let starts = config.parameters();
        for part in ["attn.out_proj.weight", "ln_k.weight", "attn.in_proj_bias"] {
            let find =
                |list: &[ParamSpec], name: String| list.iter().find(|spec| spec.name == name).map(|spec| spec.init);
            let ours = find(&starts, format!("{POOLER}.{part}"));
            assert!(ours.is_some(), "{part}");
            if preset != "coca_base" {
                assert_eq!(ours, find(&own, format!("visual.attn_pool.{part}")), "{preset} {part}");
            }
        }
    }
}
