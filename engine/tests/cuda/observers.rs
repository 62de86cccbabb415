//! Checks and the profiler on a device: they copy what they look at, and find what is planted there.

use crate::fake::{Fake, queue};
use crate::ops::{Fault, KERNELS, Scale, f32s, push, scale_by};
use engine::{Check, Compile, Device, Profiler, Program, Result, Roofline, Tape, Workspace};

/// Runs x → scale → faulty scale → scale on a device under a check.
fn check(check: Check, fault: Fault, first: f32) -> Result<()> {
    let fake = Fake::new(1, KERNELS);
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([2, 3]))?;
    tape.write(x, &[first, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    let scaled = push(&mut tape, scale_by(2.0), &[x]);
    let faulty = tape.span("tower", |tape| push(tape, Scale { factor: 3.0, fault }, &[scaled]));
    let last = push(&mut tape, scale_by(2.0), &[faulty]);
    tape.keep(last);
    let workspace = Workspace::on(&Device::Cuda(fake.clone()));
    let mut program = Program::compile(tape, &workspace, Compile { guard_bytes: check.guard_bytes() })?;
    let mut observer = check.observer()?;
    program.run_observed(&queue(&fake, true), false, &mut [observer.as_mut()])
}

#[test]
fn planted_faults_of_kernels_are_found() {
    let found = [
        (
            Check::Nan,
            Fault::None,
            f32::NAN,
            "output 0 (f32[2, 3]) holds NaN at element 0; inputs 0 are not finite either",
        ),
        (Check::Poison, Fault::Unwritten, 1.0, "output 0 (f32[2, 3]) was left unwritten at element 5"),
        (Check::Poison, Fault::PastTheEnd, 1.0, "the node wrote 0 bytes past the end of output 0"),
        (Check::Cpu, Fault::Off, 1.0, "output 0 (f32[2, 3]) element 0 is"),
    ];
    for (kind, fault, first, text) in found {
        let error = check(kind, fault, first).expect_err(text).to_string();
        assert!(error.starts_with("scale: ") && error.contains(text), "{kind:?}, {fault:?}: {error}");
    }
}

#[test]
fn sound_kernels_pass_every_check() {
    for kind in [Check::Nan, Check::Poison, Check::Cpu] {
        check(kind, Fault::None, 1.0).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
}

#[test]
fn the_profiler_sees_every_node() {
    let fake = Fake::new(2, KERNELS);
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([8])).expect("input");
    let scaled = push(&mut tape, scale_by(2.0), &[x]);
    push(&mut tape, scale_by(2.0), &[scaled]);
    let workspace = Workspace::on(&Device::Cuda(fake.clone()));
    let mut program = Program::compile(tape, &workspace, Compile::default()).expect("compile");
    let mut profiler = Profiler::new(Roofline { flops_per_second: 1e9, bytes_per_second: 1e9 });
    profiler.start_run();
    for _ in 0..2 {
        program.run_observed(&queue(&fake, true), false, &mut [&mut profiler]).expect("run");
    }
    assert_eq!(profiler.events().len(), 4);
    assert_eq!(fake.counts(), [4, 0, 0], "observed runs are lists of launches");
}
