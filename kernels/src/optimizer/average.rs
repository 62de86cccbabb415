//! The exponential moving average of the weights, for evaluation and export.

use crate::vectorized;
use engine::{Buffer, Error, Parameters, Queue, Result, Shared};

/// Elements of a task.
const GRAIN: usize = 1 << 15;

/// `average += (1 - decay) (weights - average)` over the whole master arena. `average` is an f32 arena of its size that
/// starts as a copy of it.
pub fn update_average(queue: &Queue, parameters: &Parameters, average: &Buffer, decay: f64) -> Result<()> {
    super::decay_rate("the decay of the average", decay)?;
    let cpu = queue.cpu("the average of the weights")?;
    let elements = parameters.elements();
    if average.bytes() != elements * 4 {
        let bytes = average.bytes();
        return Err(Error::invalid(format!("the average has {bytes} bytes, the weights {}", elements * 4)));
    }
    // SAFETY: between runs nobody else touches the arenas (the rule of `Buffer`).
    let (weights, average) =
        unsafe { (parameters.master().slice::<f32>(0, elements)?, average.slice_mut::<f32>(0, elements)?) };
    let average = Shared::new(average);
    queue.enter(|| {
        cpu.parallel_ranges(elements, GRAIN, |range| {
            // SAFETY: ranges are disjoint.
            let average = unsafe { average.part(range.clone()) };
            approach(cpu.isa(), (1.0 - decay) as f32, &weights[range], average);
        });
    });
    Ok(())
}

vectorized! {
    fn approach(share: f32, weights: &[f32], average: &mut [f32]) {
        average.iter_mut().zip(weights).for_each(|(average, weight)| *average += share * (weight - *average));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::test_support::{every_queue, random_parameters};

    #[test]
    fn follows_the_formula_on_every_isa() {
        for queue in every_queue() {
            let parameters = random_parameters(&[("a", &[33, 70]), ("b", &[5])], true, 11);
            let average = Buffer::zeroed(parameters.elements() * 4).expect("memory");
            let mut exact = vec![0.0f64; 33 * 70];
            for _ in 0..3 {
                update_average(&queue, &parameters, &average, 0.9).expect("updated");
                let weights = parameters.read("a").expect("a");
                exact.iter_mut().zip(&weights).for_each(|(exact, &w)| *exact += 0.1 * (f64::from(w) - *exact));
            }
            let offset = parameters.find("a").expect("a").offset;
            let fast = average.read::<f32>(offset * 4, exact.len()).expect("inside");
            for (fast, exact) in fast.iter().zip(&exact) {
                // Three roundings an update, relative to weights of a normal distribution (below 6).
                assert!((f64::from(*fast) - exact).abs() < 9.0 * 6.0 * f64::from(f32::EPSILON));
            }
        }
        let parameters = random_parameters(&[("a", &[3])], true, 1);
        let queue = every_queue().remove(0);
        assert!(update_average(&queue, &parameters, &Buffer::zeroed(4).expect("memory"), 0.9).is_err());
        assert!(update_average(&queue, &parameters, parameters.gradient().expect("gradient"), 1.0).is_err());
    }
}
