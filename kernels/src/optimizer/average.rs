//! The exponential moving average of the weights, for evaluation and export.

use super::cuda::THREADS;
use crate::cuda::{PACK_BYTES, PRELUDE, Part, part, size};
use crate::vectorized;
use engine::buffer::ALIGNMENT;
use engine::cuda::{Arguments, CudaQueue, Launch, Source};
use engine::{Buffer, CpuQueue, Error, Parameters, Queue, Result, Shared};

const PARTS: &[Part] = &[PRELUDE, part!("optimizer", "average.cu")];

/// Elements of a task at least.
const GRAIN: usize = 1 << 15;

// The arenas are made of whole packs.
const _: () = assert!(ALIGNMENT.is_multiple_of(PACK_BYTES));

fn source() -> Source {
    Source { name: "average", parts: PARTS, constants: Vec::new() }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    vec![source()]
}

/// `average += (1 - decay) (weights - average)` over the whole master arena. `average` is an f32 arena of its size, on
/// the same device, that starts as a copy of it.
pub fn update_average(queue: &Queue, parameters: &Parameters, average: &Buffer, decay: f64) -> Result<()> {
    super::decay_rate("the decay of the average", decay)?;
    let elements = parameters.elements();
    if average.bytes() != elements * 4 {
        let bytes = average.bytes();
        return Err(Error::invalid(format!("the average has {bytes} bytes, the weights {}", elements * 4)));
    }
    queue.check(parameters.master())?;
    queue.check(average)?;
    let share = (1.0 - decay) as f32;
    match queue {
        Queue::Cpu(cpu) => queue.enter(|| on_cpu(cpu, parameters, average, share)),
        Queue::Cuda(cuda) => on_device(cuda, parameters, average, share),
    }
}

fn on_cpu(queue: &CpuQueue, parameters: &Parameters, average: &Buffer, share: f32) -> Result<()> {
    let elements = parameters.elements();
    // SAFETY: between runs nobody else touches the arenas (the rule of `Buffer`).
    let (weights, average) =
        unsafe { (parameters.master().slice::<f32>(0, elements)?, average.slice_mut::<f32>(0, elements)?) };
    let average = Shared::new(average);
    queue.parallel_spans(elements, GRAIN, |range| {
        // SAFETY: ranges are disjoint.
        let average = unsafe { average.part(range.clone()) };
        approach(queue.isa(), share, &weights[range], average);
    });
    Ok(())
}

fn on_device(queue: &CudaQueue, parameters: &Parameters, average: &Buffer, share: f32) -> Result<()> {
    let elements = parameters.elements();
    let blocks = size("blocks", elements.div_ceil(THREADS as usize * PACK_BYTES / 4))?;
    if blocks == 0 {
        return Ok(());
    }
    let arguments = Arguments::new()
        .address(parameters.master().address(0))
        .address(average.address(0))
        .f32(share)
        .u64(elements as u64);
    queue.launch(&source(), "average", &Launch::linear(blocks, THREADS), &arguments)
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
