//! Every case of every op that has a kernel, fixed and random, on this machine's GPU: forward and backward against the f64
//! reference, gradients set and added, the same bits in every run, as a list of launches and as a graph.
//!
//! Without a GPU the tests say why and pass; with `COCA_REQUIRE_GPU` set they fail. `COCA_SEED` gives other values,
//! `COCA_SWEEP=N` N times as many random cases, and `COCA_BENCH_CASES` adds the shapes of real models, whose reference takes
//! minutes.

mod running;

use engine::{CudaQueue, Device, Queue};
use kernels::case::{Case, CaseProgram, Draw, Pass};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use running::{check, seed, sweep};
use std::env;
use std::io::Write;

/// A line past the capture of the test harness.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The GPU's queue, or nothing after a line that says why.
fn gpu_or_skip(test: &str) -> Option<CudaQueue> {
    match CudaQueue::open() {
        Ok(queue) => Some(queue),
        Err(error) if env::var_os("COCA_REQUIRE_GPU").is_some() => panic!("{test} needs a GPU: {error}"),
        Err(error) => {
            say(&format!("skipped: {test}: {error}"));
            None
        }
    }
}

/// Names of the ops of a case and its backward that have no kernel.
fn missing(case: &Case, queue: &CudaQueue) -> Vec<&'static str> {
    let pass = if case.results > 0 { Pass::Both } else { Pass::Forward };
    let program =
        CaseProgram::of_case(case, pass, &Device::Cpu).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    program.missing_kernels(queue).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

/// A recorded program gives the same bits as a list of launches, while it is captured, and as a graph.
fn check_graph(case: &Case, queue: &CudaQueue) {
    let run = || -> engine::Result<()> {
        let mut program = CaseProgram::of_case(case, Pass::Forward, queue.device())?;
        let queue = Queue::Cuda(queue.clone());
        program.run(&queue)?;
        let first = program.outputs()?;
        for _ in 0..2 {
            program.run(&queue)?;
            for ((_, first), (_, again)) in first.iter().zip(program.outputs()?) {
                let same = first.iter().zip(&again).all(|(one, other)| one.to_bits() == other.to_bits());
                assert!(same, "{}: a graph gives other bits than its launches", case.name);
            }
        }
        Ok(())
    };
    run().unwrap_or_else(|error| panic!("{}: {error}", case.name));
}

/// Everything about a case, if its ops have kernels.
fn check_case(case: &Case, gpu: &CudaQueue) -> bool {
    if !missing(case, gpu).is_empty() {
        return false;
    }
    let (queue, place) = (Queue::Cuda(gpu.clone()), gpu.driver().properties().name.clone());
    let once = check(case, &queue, &place, 1);
    assert_eq!(once, check(case, &queue, &place, 1), "{}: two runs differ", case.name);
    check(case, &queue, &place, 2);
    check_graph(case, gpu);
    true
}

#[test]
fn every_case() {
    let Some(gpu) = gpu_or_skip("every_case") else { return };
    let with_models = env::var_os("COCA_BENCH_CASES").is_some();
    let (mut checked, mut skipped) = (0, Vec::new());
    for case in kernels::cases().iter().filter(|case| with_models || !case.bench_only) {
        if check_case(case, &gpu) {
            checked += 1;
        } else if !skipped.contains(&case.op.name()) {
            skipped.push(case.op.name());
        }
    }
    say(&format!("every_case: {checked} cases with seed {}, without a kernel: {skipped:?}", seed()));
}

#[test]
fn random_cases() {
    let Some(gpu) = gpu_or_skip("random_cases") else { return };
    let config = ProptestConfig { cases: 24 * sweep(), failure_persistence: None, ..ProptestConfig::default() };
    let checked = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(any::<u32>(), 16), |words| {
        for (_, draw) in kernels::DRAWS {
            checked.set(checked.get() + usize::from(check_case(&draw(&mut Draw::new(words.clone())), &gpu)));
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    say(&format!("random_cases: {} cases with seed {}", checked.get(), seed()));
}
