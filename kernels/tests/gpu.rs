//! Every case of every op that has a kernel, fixed and random, on this machine's GPU: forward and backward against the f64
//! reference, gradients set and added, the same bits in every run, as a list of launches and as a graph.
//!
//! Without a GPU the tests say why and pass; with `COCA_REQUIRE_GPU` set they fail. `COCA_SEED` gives other values,
//! `COCA_SWEEP=N` N times as many random cases, `COCA_SHARD=I/N` every Nth case from I on, for N processes side by side, and
//! `COCA_BENCH_CASES` adds the shapes of real models, whose reference takes minutes.
//!
//! A case that fails does not keep the next from running, unless the device itself has failed: all failures are listed.

mod running;

use engine::cuda::shard;
use engine::rng::Philox;
use engine::{CudaQueue, Device, Queue};
use kernels::case::{Case, CaseProgram, Draw, Pass};
use running::{check, seed, sweep};
use std::any::Any;
use std::env;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Checks this process's share of the cases, and lists those that fail.
///
/// # Panics
/// There are any.
fn check_all(test: &str, gpu: &CudaQueue, cases: impl Iterator<Item = Case>) {
    let (part, of) = shard();
    let (mut checked, mut skipped, mut failures) = (0, Vec::new(), Vec::new());
    for case in cases.skip(part).step_by(of) {
        if env::var_os("COCA_SAY_CASES").is_some() {
            say(&format!("{test}: {}", case.name));
        }
        match catch_unwind(AssertUnwindSafe(|| check_case(&case, gpu))) {
            Ok(true) => checked += 1,
            Ok(false) if skipped.contains(&case.op.name()) => {}
            Ok(false) => skipped.push(case.op.name()),
            Err(panic) => failures.push(format!("{}: {}", case.name, said(&*panic))),
        }
        if let Err(error) = gpu.synchronize() {
            failures.push(format!("the device failed at {}, cases after it did not run: {error}", case.name));
            break;
        }
    }
    say(&format!("{test}: {checked} cases with seed {}, without a kernel: {skipped:?}", seed()));
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_case() {
    let Some(gpu) = gpu_or_skip("every_case") else { return };
    let with_models = env::var_os("COCA_BENCH_CASES").is_some();
    check_all("every_case", &gpu, kernels::cases().into_iter().filter(|case| with_models || !case.bench_only));
}

#[test]
fn random_cases() {
    let Some(gpu) = gpu_or_skip("random_cases") else { return };
    let mut random = Philox::new(seed(), 0xca5e);
    let rounds: Vec<Vec<u32>> =
        (0..24 * sweep()).map(|_| (0..16).map(|_| random.below(1 << 32) as u32).collect()).collect();
    let drawn =
        rounds.iter().flat_map(|words| kernels::DRAWS.iter().map(|(_, draw)| draw(&mut Draw::new(words.clone()))));
    check_all("random_cases", &gpu, drawn);
}
