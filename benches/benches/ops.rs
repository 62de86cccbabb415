//! Criterion over every op's model-sized cases: forward, and forward with backward. Throughput is FLOP/s.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::{Device, Queue};
use kernels::case::{CaseProgram, Pass};
use std::time::Duration;

fn ops(criterion: &mut Criterion) {
    let queue = Queue::cpu_from_env().expect("COCA_ISA and COCA_THREADS are valid");
    for case in kernels::cases().iter().filter(|case| case.bench_only) {
        let mut group = criterion.benchmark_group(&case.name);
        group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        let passes = if case.results > 0 {
            &[("forward", Pass::Forward), ("forward and backward", Pass::Both)][..]
        } else {
            &[("forward", Pass::Forward)]
        };
        for &(name, pass) in passes {
            let mut program = CaseProgram::of_case(case, pass, &Device::Cpu).expect("a case that compiles");
            group.throughput(Throughput::Elements(program.cost().expect("a cost").flops as u64));
            group.bench_function(name, |bencher| bencher.iter(|| program.run(&queue).expect("a run")));
        }
        group.finish();
    }
}

criterion_group!(all, ops);
criterion_main!(all);
