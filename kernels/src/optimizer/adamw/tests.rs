//! AdamW against a plain f64 version, on every instruction set, with and without copies, clipping and frozen parts.

use super::*;
use crate::optimizer::test_support::{every_queue, random_parameters, read_bf16, write_gradients};
use crate::simd::Float;
use half::bf16;
use proptest::prelude::*;

const SETTINGS: AdamWSettings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.2 };

fn rule(entry: &Parameter) -> Rule {
    Rule { decay: entry.shape.rank() > 1, learning_rate_scale: if entry.name == "slow" { 0.25 } else { 1.0 } }
}

/// One parameter by the book.
#[derive(Clone, Debug)]
struct Plain {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Plain {
    fn step(&mut self, settings: AdamWSettings, rule: Rule, step: Step, gradient: &[f32]) {
        let lr = step.learning_rate * rule.learning_rate_scale;
        for (i, &g) in gradient.iter().enumerate() {
            let g = f64::from(g) * step.gradient_factor;
            if rule.decay {
                self.p[i] -= lr * settings.weight_decay * self.p[i];
            }
            self.m[i] = settings.beta1 * self.m[i] + (1.0 - settings.beta1) * g;
            self.v[i] = settings.beta2 * self.v[i] + (1.0 - settings.beta2) * g * g;
            let m = self.m[i] / (1.0 - settings.beta1.powf(step.number as f64));
            let v = self.v[i] / (1.0 - settings.beta2.powf(step.number as f64));
            self.p[i] -= lr * m / (v.sqrt() + settings.epsilon);
        }
    }
}

fn check(settings: AdamWSettings, shapes: &[(&str, &[usize])], bf16: bool, steps: u64, deviation: f64, seed: u64) {
    let mut first_bits: Option<Vec<u32>> = None;
    for queue in every_queue() {
        let mut parameters = random_parameters(shapes, bf16, seed);
        parameters.set_trainable(false, |name| name == "frozen");
        let start: Vec<f32> =
            parameters.entries().iter().flat_map(|e| parameters.read(&e.name).expect("read")).collect();
        let mut plain: Vec<Plain> = (parameters.entries().iter())
            .map(|entry| {
                let p: Vec<f64> = parameters.read(&entry.name).expect("read").into_iter().map(f64::from).collect();
                Plain { m: vec![0.0; p.len()], v: vec![0.0; p.len()], p }
            })
            .collect();
        let mut adamw = AdamW::new(settings, &parameters, rule).expect("settings");
        for number in 1..=steps {
            write_gradients(&parameters, deviation, seed ^ number);
            let step = Step { number, learning_rate: 0.01 / number as f64, gradient_factor: 1.0 / number as f64 };
            adamw.step(&queue, &parameters, step).expect("step");
            for (plain, entry) in plain.iter_mut().zip(parameters.entries()).filter(|(_, entry)| entry.trainable) {
                let gradient = parameters.read_gradient(&entry.name).expect("gradient");
                plain.step(settings, rule(entry), step, &gradient);
            }
        }
        let mut bits = Vec::new();
        for (plain, entry) in plain.iter().zip(parameters.entries()) {
            let values = parameters.read(&entry.name).expect("read");
            // A gradient is at most 1/√(weight of the oldest one) times √v, so |m / √v| is at most that, `ratio`. A
            // step rounds p three times and its change about ten, each relative to lr · ratio.
            let oldest = (1.0 - settings.beta2) * settings.beta2.powf(steps as f64 - 1.0);
            let ratio = ((1.0 - settings.beta2.powf(steps as f64)) / oldest).sqrt();
            let eps = f64::from(f32::EPSILON);
            for (&fast, &exact) in values.iter().zip(&plain.p) {
                let bound = steps as f64 * eps * (3.0 * (exact.abs() + 0.1) + 10.0 * 0.01 * ratio);
                assert!((f64::from(fast) - exact).abs() <= bound, "{}: {fast} for {exact}", entry.name);
            }
            if bf16 {
                let copy = read_bf16(&parameters, &entry.name);
                assert!(copy.iter().zip(&values).all(|(copy, &value)| *copy == bf16::narrow(value)));
            }
            bits.extend(values.iter().map(|value| value.to_bits()));
        }
        assert!(start.iter().zip(&bits).any(|(start, bits)| start.to_bits() != *bits), "nothing moved");
        assert_eq!(first_bits.get_or_insert_with(|| bits.clone()), &bits, "other bits on {queue:?}");
    }
}

#[test]
fn follows_the_formula_over_many_steps() {
    let shapes: &[(&str, &[usize])] =
        &[("w", &[67, 1000]), ("bias", &[13]), ("slow", &[3, 5]), ("frozen", &[7]), ("s", &[])];
    check(SETTINGS, shapes, true, 12, 1.0, 1);
    check(AdamWSettings { beta1: 0.0, weight_decay: 0.0, ..SETTINGS }, shapes, false, 2, 1e-3, 2);
}

#[test]
fn zero_gradients_only_decay() {
    let parameters = random_parameters(&[("w", &[40, 3]), ("bias", &[9])], false, 3);
    let (w, bias) = (parameters.read("w").expect("w"), parameters.read("bias").expect("bias"));
    let mut adamw = AdamW::new(SETTINGS, &parameters, rule).expect("settings");
    let step = Step { number: 1, learning_rate: 0.5, gradient_factor: 1.0 };
    adamw.step(&every_queue()[0], &parameters, step).expect("step");
    assert_eq!(parameters.read("bias").expect("bias"), bias);
    let decayed: Vec<f32> = w.iter().map(|w| w * 0.9).collect();
    assert_eq!(parameters.read("w").expect("w"), decayed);
}

#[test]
fn restored_state_goes_on_with_the_same_bits_and_padding_stays_zero() {
    let shapes: &[(&str, &[usize])] = &[("a", &[3]), ("b", &[5, 70])];
    let queue = &every_queue()[0];
    let run = |adamw: &mut AdamW, parameters: &Parameters, numbers: std::ops::Range<u64>| {
        for number in numbers {
            write_gradients(parameters, 1.0, number);
            adamw.step(queue, parameters, Step { number, learning_rate: 1e-3, gradient_factor: 0.5 }).expect("step");
        }
    };
    let whole = random_parameters(shapes, true, 4);
    run(&mut AdamW::new(SETTINGS, &whole, rule).expect("settings"), &whole, 1..5);
    let parted = random_parameters(shapes, true, 4);
    let mut before = AdamW::new(SETTINGS, &parted, rule).expect("settings");
    run(&mut before, &parted, 1..3);
    let mut after = AdamW::new(SETTINGS, &parted, rule).expect("settings");
    for ((_, from), (_, to)) in before.state().into_iter().zip(after.state()) {
        to.write(0, &from.read::<f32>(0, parted.elements()).expect("whole")).expect("same size");
    }
    run(&mut after, &parted, 3..5);
    let all = |parameters: &Parameters| parameters.master().read::<f32>(0, parameters.elements()).expect("whole");
    assert_eq!(all(&whole), all(&parted));
    let used =
        |index: usize| whole.entries().iter().any(|e| (e.offset..e.offset + e.shape.elements()).contains(&index));
    assert!(all(&whole).iter().enumerate().all(|(index, &value)| used(index) || value == 0.0));
}

#[test]
fn bad_settings_and_foreign_parameters_are_errors() {
    let parameters = random_parameters(&[("w", &[4, 4])], false, 5);
    for (settings, word) in [
        (AdamWSettings { beta1: 1.0, ..SETTINGS }, "beta1"),
        (AdamWSettings { beta2: -0.1, ..SETTINGS }, "beta2"),
        (AdamWSettings { epsilon: f64::NAN, ..SETTINGS }, "epsilon"),
        (AdamWSettings { weight_decay: f64::INFINITY, ..SETTINGS }, "weight_decay"),
    ] {
        let error = AdamW::new(settings, &parameters, rule).expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    }
    let mut adamw = AdamW::new(SETTINGS, &parameters, rule).expect("settings");
    let step = Step { number: 1, learning_rate: 1e-3, gradient_factor: 1.0 };
    let queue = &every_queue()[0];
    let other = random_parameters(&[("w", &[40, 40])], false, 5);
    assert!(adamw.step(queue, &other, step).expect_err("size").to_string().contains("elements"));
    for step in
        [Step { number: 0, ..step }, Step { learning_rate: -1.0, ..step }, Step { gradient_factor: f64::NAN, ..step }]
    {
        assert!(adamw.step(queue, &parameters, step).is_err(), "{step:?}");
    }
    let frozen = Parameters::new([("w".to_owned(), [4, 4].into())], false, false).expect("parameters");
    let mut adamw = AdamW::new(SETTINGS, &frozen, rule).expect("settings");
    assert!(adamw.step(queue, &frozen, step).expect_err("no gradients").to_string().contains("gradient"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn follows_the_formula(
        rows in 1usize..40, columns in 1usize..90, bf16 in any::<bool>(), steps in 1u64..5, seed in any::<u64>(),
        beta1 in 0f64..0.99, beta2 in 0.5f64..0.9999, weight_decay in 0f64..1.0, scale in -6i32..4,
    ) {
        let settings = AdamWSettings { beta1, beta2, epsilon: 1e-8, weight_decay };
        check(settings, &[("w", &[rows, columns]), ("b", &[columns])], bf16, steps, 10f64.powi(scale), seed);
    }
}
