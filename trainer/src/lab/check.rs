//! Whether a kernel that is fast is also right, in the run that times it: against the op's plain f64 version, whole where
//! that takes no longer than a moment and at some elements where it would; else against the scalar path, or on a device
//! against the processor, which the tests hold against the f64 version on small shapes.

use super::cases::Subject;
use crate::Result;
use engine::cpu::Isa;
use engine::rng::Philox;
use engine::{CpuQueue, DType, Device, Queue};
use kernels::case::{Array, CaseProgram, Pass, clip, coarsest};
use serde::{Deserialize, Serialize};

/// Floating-point operations that the f64 version may take.
const PLAIN_FLOPS: f64 = 3e8;
/// Floating-point operations that the scalar path may take.
const SCALAR_FLOPS: f64 = 1e11;
/// Floating-point operations that the processor's best path may take.
const PROCESSOR_FLOPS: f64 = 1e12;
/// Elements that are compared at most where not all are.
const SAMPLE: usize = 4096;

/// How a kernel's results compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What they were held against, or why they were not.
    pub against: String,
    /// Elements that were compared.
    pub compared: usize,
    /// The largest error as a share of what rounding allows; right results have at most 1.
    pub error: f64,
}

impl Check {
    /// Nothing was compared, for this reason.
    pub fn none(reason: &str) -> Check {
        Check { against: format!("not checked: {reason}"), compared: 0, error: 0.0 }
    }

    /// Whether the results are right; none if nothing was compared.
    pub fn passed(&self) -> Option<bool> {
        (self.compared > 0).then_some(self.error <= 1.0)
    }
}

/// What a program computed: each output, or the gradient of each input that has one.
fn results(program: &CaseProgram, run: Pass) -> Result<Vec<Option<(DType, Vec<f64>)>>> {
    match run {
        Pass::Forward => Ok(program.outputs()?.into_iter().map(Some).collect()),
        Pass::Both => program.gradients(),
    }
}

/// Runs the program once and compares what it computed from `values`.
///
/// # Errors
/// The op refuses.
pub fn check(subject: &Subject, program: &mut CaseProgram, queue: &Queue, values: &[Array]) -> Result<Check> {
    program.run(queue)?;
    let fast = results(program, subject.run)?;
    let flops = program.cost()?.flops;
    let inputs = clip(&subject.inputs, values);
    if let Some(reference) = &subject.reference {
        if flops <= PLAIN_FLOPS {
            let exact = match subject.run {
                Pass::Forward => reference.forward(&inputs).into_iter().map(Some).collect(),
                Pass::Both => {
                    let shape = reference.forward(&inputs)[0].shape;
                    reference.gradients(&inputs, &[Array::new(shape, vec![1.0; shape.elements()])])
                }
            };
            let exact = exact.into_iter().map(|array| array.map(|array| array.data)).collect::<Vec<_>>();
            return Ok(whole(subject, &fast, &exact, 1.0, "all of it in f64"));
        }
        if subject.run == Pass::Forward
            && let Some(check) = sampled(subject, &fast, &inputs, flops)
        {
            return Ok(check);
        }
    }
    let (plain, against) = match queue {
        Queue::Cpu(cpu) if cpu.isa() == Isa::Scalar => {
            return Ok(Check::none("the scalar path is what others are held against"));
        }
        Queue::Cpu(_) if flops > SCALAR_FLOPS => return Ok(Check::none("the scalar path would take too long")),
        Queue::Cpu(cpu) => {
            program.run(&Queue::Cpu(CpuQueue::new(Isa::Scalar, cpu.threads())?))?;
            (results(program, subject.run)?, "the scalar path")
        }
        Queue::Cuda(_) if flops > PROCESSOR_FLOPS => return Ok(Check::none("the processor would take too long")),
        Queue::Cuda(_) => {
            let mut plain = subject.program(values, &Device::Cpu)?;
            plain.run(&Queue::cpu_from_env()?)?;
            (results(&plain, subject.run)?, "the processor")
        }
    };
    let plain: Vec<_> = plain.into_iter().map(|array| array.map(|(_, values)| values)).collect();
    // Scratch has no values of its own.
    let count = if subject.run == Pass::Forward { subject.results } else { fast.len() };
    // Both may be off by the bound.
    Ok(whole(subject, &fast[..count], &plain, 2.0, against))
}

/// Compares whole tensors, `factor` times the bound being allowed.
fn whole(
    subject: &Subject,
    fast: &[Option<(DType, Vec<f64>)>],
    exact: &[Option<Vec<f64>>],
    factor: f64,
    against: &str,
) -> Check {
    let mut check = Check { against: against.to_owned(), compared: 0, error: 0.0 };
    for (fast, exact) in fast.iter().zip(exact) {
        let (Some((own, fast)), Some(exact)) = (fast, exact) else { continue };
        let dtype = if subject.run == Pass::Both { coarsest(&subject.inputs) } else { *own };
        let bound = factor * subject.tolerance.bound(dtype, exact);
        check.compared += fast.len().min(exact.len());
        let worst = fast.iter().zip(exact).map(|(&fast, &exact)| share(fast, exact, bound)).fold(0.0, f64::max);
        check.error = check.error.max(worst);
    }
    if check.compared == 0 { Check::none("it has no result that is a number") } else { check }
}

/// Compares as many elements as the f64 version can compute in a moment; none if it cannot compute single ones.
fn sampled(subject: &Subject, fast: &[Option<(DType, Vec<f64>)>], inputs: &[Array], flops: f64) -> Option<Check> {
    let reference = subject.reference.as_ref()?;
    let mut check = Check { against: String::new(), compared: 0, error: 0.0 };
    let mut of = 0;
    for (output, values) in fast.iter().enumerate() {
        let Some((dtype, fast)) = values else { continue };
        let count = (PLAIN_FLOPS / flops * fast.len() as f64).clamp(2.0, SAMPLE as f64) as usize;
        let mut random = Philox::new(output as u64, fast.len() as u64);
        let places: Vec<usize> = (0..count).map(|_| random.below(fast.len())).collect();
        let exact: Option<Vec<f64>> = places.iter().map(|&index| reference.element(inputs, output, index)).collect();
        let Some(exact) = exact else { continue };
        let bound = subject.tolerance.bound(*dtype, &exact);
        let errors = places.iter().zip(&exact).map(|(&index, &exact)| share(fast[index], exact, bound));
        check.error = check.error.max(errors.fold(0.0, f64::max));
        (check.compared, of) = (check.compared + count, of + fast.len());
    }
    check.against = format!("{} of {of} elements in f64", check.compared);
    (check.compared > 0).then_some(check)
}

/// An error as a share of the bound; what is no number, or stands where 0 is allowed, is beyond any bound.
fn share(fast: f64, exact: f64, bound: f64) -> f64 {
    let error = (fast - exact).abs();
    match error / bound {
        _ if fast == exact => 0.0,
        share if share.is_finite() => share,
        _ => f64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cases::products;
    use kernels::case::values;

    fn queue() -> Queue {
        Queue::Cpu(CpuQueue::new(Isa::best(), 1).unwrap())
    }

    fn checked(subject: &Subject, values: &[Array], given: &[Array]) -> Check {
        check(subject, &mut subject.program(values, &Device::Cpu).unwrap(), &queue(), given).unwrap()
    }

    #[test]
    fn right_results_pass_and_wrong_ones_do_not() {
        let subject = products((20, 30, 40)).swap_remove(1);
        let right = values(&subject.inputs, 1);
        let check = checked(&subject, &right, &right);
        assert_eq!((check.passed(), check.compared, check.against.as_str()), (Some(true), 600, "all of it in f64"));
        // As a kernel that loses one term of every sum.
        let mut wrong = right.clone();
        wrong[0].data.iter_mut().step_by(40).for_each(|value| *value = 0.0);
        assert_eq!(checked(&subject, &wrong, &right).passed(), Some(false));
        wrong[0].data[0] = f64::NAN;
        assert_eq!(checked(&subject, &wrong, &right).error, f64::MAX);
    }

    #[test]
    fn large_products_are_checked_at_some_elements() {
        for subject in products((400, 700, 600)).into_iter().take(3) {
            let right = values(&subject.inputs, 1);
            let check = checked(&subject, &right, &right);
            assert_eq!((check.passed(), check.compared), (Some(true), SAMPLE), "{}: {check:?}", subject.name);
            assert_eq!(check.against, "4096 of 280000 elements in f64");
            let mut wrong = right.clone();
            wrong[1].data.iter_mut().for_each(|value| *value *= 1.001);
            assert_eq!(checked(&subject, &wrong, &right).passed(), Some(false));
        }
    }

    #[test]
    fn what_has_no_plain_version_is_held_against_the_scalar_path() {
        let subject = Subject { reference: None, ..products((20, 30, 40)).swap_remove(0) };
        let right = values(&subject.inputs, 1);
        let check = checked(&subject, &right, &right);
        if Isa::best() == Isa::Scalar {
            assert_eq!(check.passed(), None);
        } else {
            assert_eq!((check.passed(), check.against.as_str()), (Some(true), "the scalar path"));
        }
    }
}
