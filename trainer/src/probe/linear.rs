//! The linear probe: softmax regression on the model's unit features with an L2 penalty on the weights (not the biases),
//! minimised to the end. The penalty is the one with which nine tenths of the training set classify the last tenth best.

use super::lbfgs::minimize;
use crate::Result;
use crate::evaluate::Score;
use engine::rng::Philox;
use engine::{DType, Queue, Workspace};
use model::heads::{Head, HeadConfig, HeadLogits, HeadStep};

/// Penalties that are tried, in this order, each from where the one before it ended.
const PENALTIES: [f64; 7] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7];
/// One of so many training samples is held out.
const HELD_OUT: usize = 10;
/// Steps of the minimisation of one penalty.
const ITERATIONS: usize = 200;
/// Norm of the gradient at which it ends; the loss is a mean in f32, exact to about a hundredth of this.
const TOLERANCE: f64 = 1e-5;
/// Samples in a pass.
const PASS: usize = 1024;
/// Stream of random numbers that says what is held out.
const SPLIT: u64 = 1;

/// A fitted linear probe.
#[derive(Debug)]
pub struct Linear {
    /// The classifier.
    pub head: Head,
    /// The penalty that was chosen.
    pub penalty: f64,
    /// Share of the held-out samples that it classified right.
    pub held_out: f64,
}

/// Rows of features with their classes.
struct Rows {
    features: Vec<f32>,
    labels: Vec<usize>,
}

impl Linear {
    /// Fits unit features `[samples, config.inputs]` with the class of each; the seed says which samples are held out.
    ///
    /// # Errors
    /// An op refuses, or memory runs out.
    pub fn fit(config: HeadConfig, features: &[f32], targets: &[usize], seed: u64, queue: &Queue) -> Result<Linear> {
        let mut order: Vec<usize> = (0..targets.len()).collect();
        Philox::new(seed, SPLIT).shuffle(&mut order);
        let (held, fitted) = order.split_at(targets.len().div_ceil(HELD_OUT));
        let rows = |samples: &[usize]| Rows {
            features: samples
                .iter()
                .flat_map(|&i| &features[i * config.inputs..(i + 1) * config.inputs])
                .copied()
                .collect(),
            labels: samples.iter().map(|&sample| targets[sample]).collect(),
        };
        let (held, fitted, all) =
            (rows(held), rows(fitted), Rows { features: features.to_vec(), labels: targets.to_vec() });
        let head = Head::new(config, DType::F32, true)?;
        let mut start = vec![0.0; head.parameters().elements()];
        let (mut penalty, mut held_out) = (PENALTIES[0], -1.0);
        for candidate in PENALTIES {
            start = regress(&head, &fitted, candidate, start, queue)?;
            let right: Vec<Option<usize>> = held.labels.iter().copied().map(Some).collect();
            let score = Score::of("", &logits(&head, &held.features, queue)?, config.classes, &right).top1;
            // Of equal ones the strongest.
            if score > held_out {
                (penalty, held_out) = (candidate, score);
            }
        }
        regress(&head, &all, penalty, vec![0.0; start.len()], queue)?;
        Ok(Linear { head, penalty, held_out })
    }

    /// Logits `[samples, classes]` of unit features.
    ///
    /// # Errors
    /// An op refuses.
    pub fn logits(&self, features: &[f32], queue: &Queue) -> Result<Vec<f32>> {
        logits(&self.head, features, queue)
    }
}

fn logits(head: &Head, features: &[f32], queue: &Queue) -> Result<Vec<f32>> {
    let count = (features.len() / head.config().inputs).clamp(1, PASS);
    HeadLogits::new(head, count, 1, &Workspace::new())?.run(queue, features)
}

/// Sets the head to the minimum of `mean cross-entropy + penalty / 2 · |weights|²`, sought from `start`; returns its arena.
fn regress(head: &Head, rows: &Rows, penalty: f64, start: Vec<f64>, queue: &Queue) -> Result<Vec<f64>> {
    let (parameters, width, count) = (head.parameters(), head.config().inputs, rows.labels.len());
    let pass = count.min(PASS);
    let mut step = HeadStep::new(head, pass, 1, 0.0, &Workspace::new())?;
    let labels: Vec<i32> = rows.labels.iter().map(|&label| label as i32).collect();
    let weights = parameters.find("head.classifier.weight")?;
    let penalised = weights.offset..weights.offset + weights.shape.elements();
    let set = |x: &[f64]| head.set(&x.iter().map(|&x| x as f32).collect::<Vec<_>>());
    let found = minimize(start, ITERATIONS, TOLERANCE, |x| {
        set(x)?;
        let mut value = 0.0;
        for (index, (features, labels)) in rows.features.chunks(pass * width).zip(labels.chunks(pass)).enumerate() {
            let share = labels.len() as f64 / count as f64;
            value += share * f64::from(step.run(queue, features, labels, share as f32, index > 0)?);
        }
        let mut gradient = Vec::with_capacity(x.len());
        if let Some(arena) = parameters.gradient() {
            gradient.extend(arena.read::<f32>(0, x.len())?.into_iter().map(f64::from));
        }
        for at in penalised.clone() {
            value += 0.5 * penalty * x[at] * x[at];
            gradient[at] += penalty * x[at];
        }
        Ok((value, gradient))
    })?;
    set(&found)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::CpuQueue;
    use engine::cpu::Isa;

    fn queue(threads: usize) -> Queue {
        Queue::Cpu(CpuQueue::new(Isa::best(), threads).unwrap())
    }

    /// Unit features around one direction for each class.
    fn clouds(samples: usize, classes: usize, width: usize, spread: f64) -> (Vec<f32>, Vec<usize>) {
        let mut random = Philox::new(9, 0);
        let (mut features, mut targets) = (Vec::new(), Vec::new());
        for sample in 0..samples {
            let class = sample % classes;
            let row: Vec<f64> =
                (0..width).map(|column| f64::from(u8::from(column == class)) + spread * random.normal()).collect();
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            features.extend(row.iter().map(|x| (x / norm) as f32));
            targets.push(class);
        }
        (features, targets)
    }

    /// At the minimum the gradient of the mean loss is minus the penalty's, for weights, and zero for biases.
    #[test]
    fn it_ends_where_the_gradient_is_the_penaltys() {
        let (features, targets) = clouds(90, 3, 5, 0.4);
        let config = HeadConfig { inputs: 5, pooler: None, joined: 1, classes: 3 };
        let head = Head::new(config, DType::F32, true).unwrap();
        let rows = Rows { features, labels: targets };
        let penalty = 1e-2;
        let start = vec![0.0; head.parameters().elements()];
        regress(&head, &rows, penalty, start, &queue(2)).unwrap();
        let read = |name: &str| head.parameters().read(name).unwrap();
        let (weight, bias) = (read("head.classifier.weight"), read("head.classifier.bias"));
        let (mut weight_gradient, mut bias_gradient) = (vec![0.0; 15], vec![0.0; 3]);
        for (row, &label) in rows.features.chunks(5).zip(&rows.labels) {
            let logit = |class: usize| {
                let dot: f64 = (0..5).map(|k| f64::from(weight[class * 5 + k]) * f64::from(row[k])).sum();
                dot + f64::from(bias[class])
            };
            let sum: f64 = (0..3).map(|class| logit(class).exp()).sum();
            for class in 0..3 {
                let off = (logit(class).exp() / sum - f64::from(u8::from(class == label))) / 90.0;
                bias_gradient[class] += off;
                (0..5).for_each(|k| weight_gradient[class * 5 + k] += off * f64::from(row[k]));
            }
        }
        for (gradient, weight) in weight_gradient.iter().zip(&weight) {
            assert!((gradient + penalty * f64::from(*weight)).abs() < 2.0 * TOLERANCE, "{gradient} {weight}");
        }
        assert!(bias_gradient.iter().all(|gradient| gradient.abs() < 2.0 * TOLERANCE), "{bias_gradient:?}");
        assert!(weight.iter().any(|weight| weight.abs() > 0.5), "{weight:?}");
    }

    #[test]
    fn separable_features_are_told_apart_whatever_the_number_of_threads() {
        let (features, targets) = clouds(60, 4, 6, 0.05);
        let config = HeadConfig { inputs: 6, pooler: None, joined: 1, classes: 4 };
        let fit = |threads| Linear::fit(config, &features, &targets, 3, &queue(threads)).unwrap();
        let (one, two) = (fit(1), fit(2));
        assert_eq!(one.held_out, 1.0);
        let scores = one.logits(&features, &queue(1)).unwrap();
        let right: Vec<Option<usize>> = targets.into_iter().map(Some).collect();
        assert_eq!(Score::of("linear", &scores, 4, &right).top1, 1.0);
        let bits = |linear: &Linear| linear.head.parameters().master().read::<u8>(0, 4 * 24).unwrap();
        assert_eq!((bits(&one), one.penalty), (bits(&two), two.penalty));
    }
}
