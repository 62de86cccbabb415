//! Emulated devices, and a case under two schedules on each.

use crate::running;
use engine::cuda::{Architecture, Compiled, Compiler, CudaQueue, Source, Toolchain, compiler_or_skip};
use engine::{Queue, Result};
use kernels::case::Case;
use ptxemu::{Checks, Config, Emulator};
use std::sync::Arc;

pub const AMPERE: (u32, u32) = (8, 0);
pub const HOPPER: (u32, u32) = (9, 0);

/// One compiler for several queues.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<Compiler>);

impl Toolchain for Shared {
    fn compile(&self, architecture: Architecture, source: &Source) -> Result<Compiled> {
        self.0.compile(architecture, source)
    }
}

/// An emulated device and its queue.
pub struct Machine {
    pub emulator: Arc<Emulator>,
    pub queue: Queue,
    pub place: String,
}

pub fn machine(compiler: &Shared, compute_capability: (u32, u32), seed: u64) -> Machine {
    let config = Config { compute_capability, multiprocessors: 4, seed, checks: Checks::ALL };
    let emulator = Arc::new(Emulator::new(config));
    let queue = Queue::Cuda(CudaQueue::new(emulator.clone(), compiler.clone()).expect("a queue"));
    let (major, minor) = compute_capability;
    Machine { emulator, queue, place: format!("the emulator of {major}.{minor} with seed {seed}") }
}

/// Two schedules on each kind of device.
pub fn machines(compiler: &Shared, capabilities: &[(u32, u32)], seeds: [u64; 2]) -> Vec<[Machine; 2]> {
    capabilities.iter().map(|&capability| seeds.map(|seed| machine(compiler, capability, seed))).collect()
}

/// A case under two schedules, the second with gradients that are added to; both give the same bits of what they share.
pub fn check(case: &Case, machines: &[[Machine; 2]]) {
    for [first, second] in machines {
        let one = running::check(case, &first.queue, &first.place, 1);
        let other = running::check(case, &second.queue, &second.place, 1);
        assert_eq!(one, other, "{}: {} and {} differ", case.name, first.place, second.place);
        if case.results > 0 {
            running::check(case, &second.queue, &second.place, 2);
        }
    }
}

pub fn check_all(test: &str, capabilities: &[(u32, u32)], cases: Vec<Case>) {
    let Some(compiler) = compiler_or_skip(test) else { return };
    let compiler = Shared(Arc::new(compiler));
    for pair in 0..u64::from(running::sweep()) {
        let machines = machines(&compiler, capabilities, [2 * pair + 1, 2 * pair + 2]);
        for case in cases.iter().filter(|case| !case.bench_only) {
            check(case, &machines);
        }
    }
}
