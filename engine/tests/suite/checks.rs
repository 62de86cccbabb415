//! The observers find what is planted: a NaN, unwritten elements, reads of unwritten memory, writes past the end, and a
//! fast path that disagrees with the plain one.

use crate::ops::{Scale, at, f32s, push, queue, same, streaming};
use engine::cpu::Isa;
use engine::{Check, Compile, Cost, CpuQueue, DType, Meta, Op, Out, Program, Queue, Result, Tape, View, Workspace};

/// What is wrong with the op.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Element 2 becomes NaN.
    Nan,
    /// The last element is left as it was.
    Unwritten,
    /// The output is added to where it should be set.
    ReadsOutput,
    /// The result takes in scratch that was never written.
    ReadsScratch,
    /// One element more is written.
    PastTheEnd,
    /// With more than one thread the result is a little off.
    FastPathOff,
}

/// A copy with a fault.
#[derive(Clone, Copy, Debug)]
struct Faulty(Fault);

impl Op for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        Ok(vec![same(inputs, 1)?[0], f32s([8])])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let cpu = queue.cpu(self.name())?;
        let count = inputs[0].meta().elements();
        let scratch = outputs[1].slice_mut::<f32>()?[0];
        let out = outputs[0].slice_mut::<f32>()?;
        for index in 0..count {
            let value = at(&inputs[0], index);
            out[index] = match self.0 {
                Fault::Nan if index == 2 => f32::NAN,
                Fault::Unwritten if index == count - 1 => continue,
                Fault::ReadsOutput => out[index] + value,
                Fault::ReadsScratch => value + scratch,
                Fault::FastPathOff if cpu.threads() > 1 => value * 1.001,
                _ => value,
            };
        }
        if self.0 == Fault::PastTheEnd {
            // SAFETY: none in general; here the guard band follows the output.
            unsafe { *outputs[0].pointer().cast::<f32>().add(count) = 1.0 };
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }
}

/// Runs input → scale → faulty → scale under a check.
fn check(check: Check, fault: Fault, first: f32) -> Result<()> {
    let mut tape = Tape::record();
    let input = tape.input("x", f32s([2, 3]))?;
    tape.write(input, &[first, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    let scaled = push(&mut tape, Scale(2.0), &[input]);
    let faulty = tape.span("tower.mlp", |tape| push(tape, Faulty(fault), &[scaled]));
    let last = push(&mut tape, Scale(2.0), &[faulty]);
    tape.keep(last);
    let mut program = Program::compile(tape, &Workspace::new(), Compile { guard_bytes: check.guard_bytes() })?;
    let mut observer = check.observer()?;
    let queue = Queue::Cpu(CpuQueue::new(Isa::Scalar, 2)?);
    program.run_observed(&queue, false, &mut [observer.as_mut()])
}

#[test]
fn planted_faults_are_found_where_they_are() {
    let found = [
        (Check::Nan, Fault::Nan, "output 0 (f32[2, 3]) holds NaN at element 2; all its inputs are finite"),
        (Check::Poison, Fault::Unwritten, "output 0 (f32[2, 3]) was left unwritten at element 5"),
        (Check::Poison, Fault::ReadsOutput, "output 0 (f32[2, 3]) was left unwritten at element 0"),
        (Check::Poison, Fault::ReadsScratch, "output 0 (f32[2, 3]) was left unwritten at element 0"),
        (Check::Poison, Fault::PastTheEnd, "the node wrote 0 bytes past the end of output 0 (f32[2, 3])"),
        (Check::Cpu, Fault::FastPathOff, "output 0 (f32[2, 3]) element 0 is"),
    ];
    for (kind, fault, text) in found {
        let error = check(kind, fault, 1.0).expect_err("a planted fault").to_string();
        assert!(error.starts_with("faulty: ") && error.contains(text), "{fault:?}: {error}");
        assert!(error.contains("at tower.mlp (") && error.contains("checks.rs:"), "{fault:?}: {error}");
    }
    // What is infinite on both paths does not hide what is not.
    let error = check(Check::Cpu, Fault::FastPathOff, f32::INFINITY).expect_err("a planted fault").to_string();
    assert!(error.contains("element 1 is"), "{error}");
}

#[test]
fn sound_ops_pass_every_check() {
    for kind in [Check::Nan, Check::Poison, Check::Cpu] {
        check(kind, Fault::None, 1.0).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
}

/// The sum of its inputs, forwards with one thread and backwards with more; off by a share of it if it is told to.
#[derive(Clone, Copy, Debug)]
struct Total(f32);

impl Op for Total {
    fn name(&self) -> &'static str {
        "total"
    }

    fn infer(&self, _inputs: &[Meta]) -> Result<Vec<Meta>> {
        Ok(vec![f32s([1])])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let backwards = queue.cpu(self.name())?.threads() > 1;
        let count = inputs[0].meta().elements();
        let value = |index| at(&inputs[0], if backwards { count - 1 - index } else { index });
        let error = if backwards { self.0 } else { 0.0 };
        outputs[0].slice_mut::<f32>()?[0] = (0..count).map(value).sum::<f32>() + error;
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }
}

#[test]
fn a_sum_that_cancels_may_differ_by_the_rounding_of_its_terms() {
    let check = |error: f32| {
        let mut tape = Tape::record();
        let input = tape.input("x", f32s([64]))?;
        // Thirty-two terms, and the same less 0.1 with the other sign: 3.2, of which the order leaves more or less.
        let term = |index: u16| 1000.0 + 37.0 * f32::from(index);
        let terms: Vec<f32> = (0..32).map(|index| term(index) + 0.1).chain((0..32).map(|index| -term(index))).collect();
        tape.write(input, &terms)?;
        let total = push(&mut tape, Total(error), &[input]);
        tape.keep(total);
        let mut program = Program::compile(tape, &Workspace::new(), Compile::default())?;
        let mut observer = Check::Cpu.observer()?;
        let queue = Queue::Cpu(CpuQueue::new(Isa::Scalar, 2)?);
        program.run_observed(&queue, false, &mut [observer.as_mut()])?;
        program.read::<f32>(total)
    };
    assert!((check(0.0).expect("rounding")[0] - 3.2).abs() > 1e-3, "the order matters");
    // 256 roundings of 64 terms of up to 2147 and of either sign are 0.4.
    let error = check(10.0).expect_err("more than rounding").to_string();
    assert!(error.starts_with("total: output 0 (f32[1]) element 0 is "), "{error}");
}

#[test]
fn a_nan_from_outside_is_told_from_one_that_is_made() {
    let error = check(Check::Nan, Fault::None, f32::NAN).expect_err("NaN in the input").to_string();
    assert!(error.starts_with("scale: ") && error.contains("element 0; inputs 0 are not finite either"), "{error}");
}

/// Fills all of a bf16 output but its last element.
#[derive(Clone, Copy, Debug)]
struct Sevens;

impl Op for Sevens {
    fn name(&self) -> &'static str {
        "sevens"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        Ok(vec![Meta::new(inputs[0].shape, DType::BF16)])
    }

    fn run(&self, _queue: &Queue, _inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let last = outputs[0].meta().elements() - 1;
        outputs[0].slice_mut::<half::bf16>()?[..last].fill(half::bf16::from_f32(7.0));
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }
}

#[test]
fn bf16_outputs_are_checked_too_and_programs_without_guards_refused() {
    let run = |guard_bytes| {
        let mut tape = Tape::record();
        let input = tape.input("x", f32s([5])).expect("input");
        let sevens = push(&mut tape, Sevens, &[input]);
        tape.keep(sevens);
        let mut program = Program::compile(tape, &Workspace::new(), Compile { guard_bytes }).expect("compile");
        let mut poison = Check::Poison.observer().expect("observer");
        program.run_observed(&queue(), false, &mut [poison.as_mut()]).expect_err("a fault").to_string()
    };
    let error = run(Check::Poison.guard_bytes());
    assert!(error.contains("output 0 (bf16[5]) was left unwritten at element 4"), "{error}");
    let error = run(0);
    assert!(error.contains("Check::guard_bytes"), "{error}");
}

#[test]
fn unknown_checks_are_refused_by_name() {
    assert_eq!(Check::parse("poison").expect("known"), Check::Poison);
    let error = Check::parse("asan").expect_err("unknown").to_string();
    assert!(error.contains("'asan'") && error.contains("nan, poison or cpu"), "{error}");
}
