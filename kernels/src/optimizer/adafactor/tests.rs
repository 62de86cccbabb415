//! Adafactor against a plain f64 version, on every instruction set, factored and not, clipped and not.

use super::*;
use crate::optimizer::test_support::{every_queue, random_parameters, read_bf16, write_gradients};
use crate::simd::Float;
use half::bf16;
use proptest::prelude::*;

const SETTINGS: AdafactorSettings =
    AdafactorSettings { beta1: 0.9, beta2: 0.999, weight_decay: 0.01, clip_threshold: 1.0 };

fn rule(entry: &Parameter) -> Rule {
    Rule { decay: entry.shape.rank() > 1, learning_rate_scale: if entry.name == "slow" { 0.25 } else { 1.0 } }
}

/// One parameter by the book.
struct Plain {
    rows: usize,
    columns: usize,
    p: Vec<f64>,
    m: Vec<f64>,
    /// For every element, or for every row.
    v: Vec<f64>,
    /// For every column, if factored.
    c: Option<Vec<f64>>,
}

impl Plain {
    fn new(p: Vec<f64>, dims: &[usize]) -> Plain {
        let zeros = |n: usize| vec![0.0; n];
        let (m, n) = (zeros(p.len()), p.len());
        match dims {
            &[rows, columns] if rows >= 128 && columns >= 128 => {
                Plain { rows, columns, p, m, v: zeros(rows), c: Some(zeros(columns)) }
            }
            _ => Plain { rows: 1, columns: n, p, m, v: zeros(n), c: None },
        }
    }

    fn step(&mut self, settings: AdafactorSettings, rule: Rule, step: Step, gradient: &[f32]) {
        let lr = step.learning_rate * rule.learning_rate_scale;
        let t = step.number as i32;
        let b2 = settings.beta2 * (1.0 - settings.beta2.powi(t - 1)) / (1.0 - settings.beta2.powi(t));
        let g: Vec<f64> = gradient.iter().map(|&g| f64::from(g) * step.gradient_factor).collect();
        let g2: Vec<f64> = g.iter().map(|g| g * g + 1e-30).collect();
        let (rows, columns) = (self.rows, self.columns);
        let mut u = g;
        match &mut self.c {
            None => self.v.iter_mut().zip(&g2).for_each(|(v, g2)| *v = b2 * *v + (1.0 - b2) * g2),
            Some(c) => {
                for (row, v) in self.v.iter_mut().enumerate() {
                    let mean = (0..columns).map(|column| g2[row * columns + column]).sum::<f64>() / columns as f64;
                    *v = b2 * *v + (1.0 - b2) * mean;
                }
                for (column, c) in c.iter_mut().enumerate() {
                    let mean = (0..rows).map(|row| g2[row * columns + column]).sum::<f64>() / rows as f64;
                    *c = b2 * *c + (1.0 - b2) * mean;
                }
            }
        }
        let mean_row = self.v.iter().sum::<f64>() / self.v.len() as f64;
        for (i, u) in u.iter_mut().enumerate() {
            *u /= match &self.c {
                None => self.v[i].sqrt(),
                Some(c) => (self.v[i / columns] / mean_row * c[i % columns]).sqrt(),
            };
        }
        let root_mean_square = (u.iter().map(|u| u * u).sum::<f64>() / u.len() as f64).sqrt();
        if settings.clip_threshold > 0.0 {
            u.iter_mut().for_each(|u| *u /= (root_mean_square / settings.clip_threshold).max(1.0));
        }
        for (i, u) in u.iter().enumerate() {
            self.m[i] = settings.beta1 * self.m[i] + (1.0 - settings.beta1) * lr * u;
            self.p[i] -= self.m[i];
            if rule.decay {
                self.p[i] -= lr * settings.weight_decay * self.p[i];
            }
        }
    }
}

fn check(settings: AdafactorSettings, shapes: &[(&str, &[usize])], bf16: bool, steps: u64, deviation: f64, seed: u64) {
    let mut first_bits: Option<Vec<u32>> = None;
    for queue in every_queue() {
        let mut parameters = random_parameters(shapes, bf16, seed);
        parameters.set_trainable(false, |name| name == "frozen");
        let mut plain: Vec<Plain> = (parameters.entries().iter())
            .map(|entry| {
                let p = parameters.read(&entry.name).expect("read").into_iter().map(f64::from).collect();
                Plain::new(p, entry.shape.dims())
            })
            .collect();
        let mut adafactor = Adafactor::new(settings, &parameters, rule).expect("settings");
        for number in 1..=steps {
            write_gradients(&parameters, deviation, seed ^ number);
            let step = Step { number, learning_rate: 0.01 / number as f64, gradient_factor: 1.0 / number as f64 };
            adafactor.step(&queue, &parameters, step).expect("step");
            for (plain, entry) in plain.iter_mut().zip(parameters.entries()).filter(|(_, entry)| entry.trainable) {
                let gradient = parameters.read_gradient(&entry.name).expect("gradient");
                plain.step(settings, rule(entry), step, &gradient);
            }
        }
        let mut bits = Vec::new();
        for (plain, entry) in plain.iter().zip(parameters.entries()) {
            let values = parameters.read(&entry.name).expect("read");
            // u is at most √(elements of a mean · 1 / weight of the oldest gradient); its f32 sums have at most `terms`
            // additions in a row, and a step rounds p and m about ten times.
            let (longest, eps) = (plain.rows.max(plain.columns) as f64, f64::from(f32::EPSILON));
            let terms = if plain.c.is_some() { longest.min(4096.0) } else { 0.0 };
            let ratio = if plain.c.is_some() { 6.0 * (steps as f64).sqrt() } else { (steps as f64 + 1.0).sqrt() * 1.2 };
            let lr: f64 = (1..=steps).map(|number| 0.01 / number as f64).sum();
            for (&fast, &exact) in values.iter().zip(&plain.p) {
                let bound = eps * (3.0 * steps as f64 * (exact.abs() + 0.1) + (10.0 + terms) * lr * ratio);
                assert!((f64::from(fast) - exact).abs() <= bound, "{}: {fast} for {exact}", entry.name);
            }
            if bf16 {
                let copy = read_bf16(&parameters, &entry.name);
                assert!(copy.iter().zip(&values).all(|(copy, &value)| *copy == bf16::narrow(value)));
            }
            bits.extend(values.iter().map(|value| value.to_bits()));
        }
        assert_eq!(first_bits.get_or_insert_with(|| bits.clone()), &bits, "other bits on {queue:?}");
    }
}

#[test]
fn follows_the_formula_over_many_steps() {
    let shapes: &[(&str, &[usize])] = &[
        ("large", &[300, 701]),
        ("small", &[128, 131]),
        ("narrow", &[700, 127]),
        ("conv", &[60, 3, 30, 30]),
        ("bias", &[13]),
        ("slow", &[200, 140]),
        ("frozen", &[130, 130]),
        ("scalar", &[]),
    ];
    check(SETTINGS, shapes, true, 5, 1.0, 1);
    check(
        AdafactorSettings { beta1: 0.0, weight_decay: 0.0, clip_threshold: 0.0, beta2: 0.9 },
        shapes,
        false,
        3,
        1e-3,
        2,
    );
}

#[test]
fn the_average_is_adams_with_its_start_corrected() {
    let (beta2, gradients) = (0.9, [3.0f64, -1.0, 0.5, 2.0]);
    let (mut adam, mut ours) = (0.0, 0.0);
    for (index, g) in gradients.iter().enumerate() {
        let step = index as u64 + 1;
        adam = beta2 * adam + (1.0 - beta2) * g * g;
        let second = second_moment_decay(beta2, step);
        ours = second * ours + (1.0 - second) * g * g;
        let corrected = adam / (1.0 - beta2.powi(step as i32));
        assert!((ours - corrected).abs() < 1e-14 * corrected, "step {step}");
    }
}

#[test]
fn state_of_large_matrices_is_sublinear_and_rows_without_gradient_keep_still() {
    let parameters = random_parameters(&[("w", &[1000, 500])], false, 3);
    let mut adafactor = Adafactor::new(SETTINGS, &parameters, rule).expect("settings");
    let (name, second) = adafactor.state()[1];
    assert_eq!((name, second.bytes()), ("second_moment", (1024 + 512) * 4));
    let before = parameters.read("w").expect("w");
    let gradient: Vec<f32> = (0..500_000).map(|i| if i / 500 == 7 { 1.0 + (i % 3) as f32 } else { 0.0 }).collect();
    parameters.gradient().expect("gradient").write(0, &gradient).expect("fits");
    let keep = Rule { decay: false, learning_rate_scale: 1.0 };
    adafactor.layouts.iter_mut().for_each(|layout| layout.rule = keep);
    let step = Step { number: 1, learning_rate: 1e-2, gradient_factor: 1.0 };
    adafactor.step(&every_queue()[0], &parameters, step).expect("step");
    for (i, (before, after)) in before.iter().zip(parameters.read("w").expect("w")).enumerate() {
        assert!(after.is_finite());
        assert_eq!(i / 500 == 7, *before != after, "element {i}");
    }
}

#[test]
fn bad_settings_are_errors() {
    let parameters = random_parameters(&[("w", &[4, 4])], false, 5);
    for (settings, word) in [
        (AdafactorSettings { beta1: 1.0, ..SETTINGS }, "beta1"),
        (AdafactorSettings { beta2: f64::NAN, ..SETTINGS }, "beta2"),
        (AdafactorSettings { weight_decay: -1.0, ..SETTINGS }, "weight_decay"),
        (AdafactorSettings { clip_threshold: -1.0, ..SETTINGS }, "clip threshold"),
    ] {
        let error = Adafactor::new(settings, &parameters, rule).expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    }
    let scale = |_: &Parameter| Rule { decay: true, learning_rate_scale: f64::NAN };
    let error = Adafactor::new(SETTINGS, &parameters, scale).expect_err("scale").to_string();
    assert!(error.contains("'w'"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn follows_the_formula(
        rows in 1usize..400, columns in 1usize..400, bf16 in any::<bool>(), steps in 1u64..4, seed in any::<u64>(),
        beta1 in 0f64..0.99, beta2 in 0.9f64..0.9999, weight_decay in 0f64..1.0, clip in prop_oneof![Just(0.0), 0.1f64..2.0],
        scale in -6i32..4,
    ) {
        let settings = AdafactorSettings { beta1, beta2, weight_decay, clip_threshold: clip };
        check(settings, &[("w", &[rows, columns]), ("b", &[columns])], bf16, steps, 10f64.powi(scale), seed);
    }
}
