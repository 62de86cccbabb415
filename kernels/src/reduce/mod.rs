//! Reductions over flat f32 arenas: sum, mean, sum of squares, the global norm of a gradient, non-finite elements.
//!
//! Partial sums are f64 over chunks of a fixed length, added in order: the same bits for any number of threads, on every
//! instruction set, and on a GPU.

mod cpu;
pub(crate) mod cuda;

pub(crate) use cpu::lanes;

use engine::{Buffer, Error, Parameters, Queue, Result};
use std::ops::Range;

/// Elements of a partial sum. Part of the result's definition: it does not depend on the device.
const CHUNK: usize = 1 << 15;

/// What is added up.
#[derive(Clone, Copy, Debug)]
enum Term {
    Value,
    Square,
    /// 1 for what is NaN or infinite. Their count is exact: an f64 holds every integer that a slice's length can be.
    NonFinite,
}

/// Sum of elements `elements` of an f32 arena. An error if they lie outside.
pub fn sum(queue: &Queue, arena: &Buffer, elements: Range<usize>) -> Result<f64> {
    reduce(queue, arena, elements, Term::Value)
}

/// Mean of elements `elements` of an f32 arena; NaN of none.
pub fn mean(queue: &Queue, arena: &Buffer, elements: Range<usize>) -> Result<f64> {
    let count = elements.len() as f64;
    Ok(sum(queue, arena, elements)? / count)
}

/// Sum of squares of elements `elements` of an f32 arena. Finite exactly if every element is: the square of an f32
/// cannot overflow an f64.
pub fn sum_of_squares(queue: &Queue, arena: &Buffer, elements: Range<usize>) -> Result<f64> {
    reduce(queue, arena, elements, Term::Square)
}

/// Root of [`sum_of_squares`].
pub fn norm(queue: &Queue, arena: &Buffer, elements: Range<usize>) -> Result<f64> {
    Ok(sum_of_squares(queue, arena, elements)?.sqrt())
}

/// How many of elements `elements` of an f32 arena are NaN or infinite.
pub fn count_non_finite(queue: &Queue, arena: &Buffer, elements: Range<usize>) -> Result<usize> {
    reduce(queue, arena, elements, Term::NonFinite).map(|count| count as usize)
}

/// The global norm of the gradient of all parameters: finite exactly if every element of the gradient is.
pub fn gradient_norm(queue: &Queue, parameters: &Parameters) -> Result<f64> {
    let arena = parameters.gradient().ok_or_else(|| Error::invalid("these parameters have no gradient arena"))?;
    norm(queue, arena, 0..parameters.elements())
}

fn reduce(queue: &Queue, arena: &Buffer, elements: Range<usize>, term: Term) -> Result<f64> {
    let (bytes, end) = (arena.bytes(), elements.end);
    if elements.start > end || end > bytes / 4 {
        let start = elements.start;
        return Err(Error::invalid(format!("elements {start}..{end} are not all in an arena of {bytes} bytes")));
    }
    queue.check(arena)?;
    let partial = match queue {
        Queue::Cpu(cpu) => {
            // SAFETY: between runs nobody writes to an arena (the rule of `Buffer`).
            let values = unsafe { arena.slice::<f32>(elements.start * 4, elements.len())? };
            queue.enter(|| match term {
                Term::Value => cpu::sum(cpu, values),
                Term::Square => cpu::sum_of_squares(cpu, values),
                Term::NonFinite => cpu::count_non_finite(cpu, values),
            })
        }
        Queue::Cuda(cuda) => {
            let kernel = match term {
                Term::Value => "reduce_sum",
                Term::Square => "reduce_sum_of_squares",
                Term::NonFinite => "reduce_count_non_finite",
            };
            cuda::partial(cuda, kernel, arena, elements)?
        }
    };
    Ok(partial.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::CpuQueue;
    use engine::cpu::Isa;
    use engine::rng::Philox;
    use proptest::prelude::*;

    fn queue(isa: Isa, threads: usize) -> Queue {
        Queue::Cpu(CpuQueue::new(isa, threads).expect("threads"))
    }

    fn all(queue: &Queue, values: &[f32]) -> (f64, f64, usize) {
        let arena = Buffer::zeroed(values.len() * 4).expect("memory");
        arena.write(0, values).expect("fits");
        let range = 0..values.len();
        let squares = sum_of_squares(queue, &arena, range.clone()).expect("inside");
        assert_eq!(norm(queue, &arena, range.clone()).expect("inside").to_bits(), squares.sqrt().to_bits());
        let total = sum(queue, &arena, range.clone()).expect("inside");
        let average = mean(queue, &arena, range.clone()).expect("inside");
        assert!(average.to_bits() == (total / values.len() as f64).to_bits());
        (total, squares, count_non_finite(queue, &arena, range).expect("inside"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn sums_are_exact_to_f64_rounding_and_the_same_everywhere(
            count in 1usize..70_000, seed in any::<u64>(), exponent in -30f64..30.0,
        ) {
            let mut random = Philox::new(seed, 0);
            let values: Vec<f32> = (0..count).map(|_| (random.normal() * exponent.exp2()) as f32).collect();
            let first = all(&queue(Isa::Scalar, 1), &values);
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    let (sum, squares, bad) = all(&queue(isa, threads), &values);
                    prop_assert_eq!((sum.to_bits(), squares.to_bits(), bad), (first.0.to_bits(), first.1.to_bits(), 0));
                }
            }
            // Each of n additions rounds once, relative to at most the sum of magnitudes.
            let magnitude: f64 = values.iter().map(|&x| f64::from(x).abs()).sum();
            let bound = 2.0 * count as f64 * f64::EPSILON;
            let exact: f64 = values.iter().map(|&x| f64::from(x)).sum();
            prop_assert!((first.0 - exact).abs() <= bound * magnitude);
            let exact: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
            prop_assert!((first.1 - exact).abs() <= bound * exact);
        }

        #[test]
        fn non_finite_elements_are_counted_and_show_in_the_norm(
            count in 1usize..40_000, places in proptest::collection::btree_set(any::<usize>(), 1..9), kind in 0usize..3,
        ) {
            let mut values = vec![3.0e38f32; count];
            let places: std::collections::BTreeSet<usize> = places.into_iter().map(|place| place % count).collect();
            for &place in &places {
                values[place] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][kind];
            }
            for isa in Isa::available() {
                let (_, squares, bad) = all(&queue(isa, 2), &values);
                prop_assert_eq!(bad, places.len());
                prop_assert!(!squares.is_finite());
            }
        }
    }

    #[test]
    fn the_largest_finite_values_have_a_finite_norm() {
        let (_, squares, bad) = all(&queue(Isa::best(), 2), &[f32::MAX; 1000]);
        assert!(squares.is_finite() && bad == 0);
    }

    #[test]
    fn tasks_of_several_chunks_give_the_same_bits() {
        let mut random = Philox::new(29, 0);
        let values: Vec<f32> = (0..40 * CHUNK + 5).map(|_| random.normal() as f32).collect();
        let one = all(&queue(Isa::Scalar, 1), &values);
        for threads in [1, 2, 3, 7] {
            assert!(all(&queue(Isa::best(), threads), &values) == one, "{threads} threads");
        }
    }

    #[test]
    fn elements_outside_the_arena_are_refused() {
        let arena = Buffer::zeroed(64).expect("memory");
        assert!(sum(&queue(Isa::Scalar, 1), &arena, 0..17).is_err());
        let parameters = Parameters::new([("a".to_owned(), [3].into())], false, false).expect("parameters");
        let error = gradient_norm(&queue(Isa::Scalar, 1), &parameters).expect_err("no gradients").to_string();
        assert!(error.contains("gradient"), "{error}");
    }
}
