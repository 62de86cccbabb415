//! Every op's model-sized cases as a share of the machine's ceilings, which are measured beside each case.
//!
//! The share is of the roofline: the larger of the times that the arithmetic and the bytes alone would take.

use benches::{machine::Machine, op};
use engine::{DType, Program, Queue};
use kernels::gauge;
use std::time::Instant;

fn main() -> engine::Result<()> {
    let queue = Queue::cpu_from_env()?;
    let filter = std::env::args().nth(1).unwrap_or_default();
    let machine = Machine::now(&queue)?;
    let bytes_per_second = gauge::read_bytes_per_second(&queue)?;
    println!("{} {} {} threads, {:.1} GB/s", machine.processor, machine.isa, machine.threads, bytes_per_second / 1e9);
    println!("{:>10} {:>10} {:>8} {:>9}  pass, case", "ms", "GFLOP/s", "GB/s", "roofline");
    for case in kernels::cases().iter().filter(|case| case.bench_only && case.name.contains(&filter)) {
        let dtype = case.inputs.iter().map(|input| input.meta.dtype).find(|dtype| dtype.is_float());
        for with_backward in [false, true] {
            if with_backward && case.results == 0 {
                continue;
            }
            let mut program = op::program(case, with_backward)?;
            let (seconds, peak) = best_of(&mut program, &queue, dtype.unwrap_or(DType::F32))?;
            let cost = program.cost()?;
            let share = (cost.flops / peak).max(cost.bytes / bytes_per_second) / seconds;
            println!(
                "{:10.3} {:10.1} {:8.1} {:8.0}%  {} {}",
                seconds * 1e3,
                cost.flops / seconds / 1e9,
                cost.bytes / seconds / 1e9,
                100.0 * share,
                if with_backward { "both" } else { "forward" },
                case.name
            );
        }
    }
    Ok(())
}

/// The best time of about a second of runs, and the best multiply-add rate taken between them.
fn best_of(program: &mut Program, queue: &Queue, dtype: DType) -> engine::Result<(f64, f64)> {
    program.run(queue, false)?;
    let (begin, mut best, mut peak) = (Instant::now(), f64::MAX, 0.0f64);
    while begin.elapsed().as_secs_f64() < 1.0 {
        peak = peak.max(gauge::flops_per_second(queue, dtype)?);
        let round = Instant::now();
        while round.elapsed().as_secs_f64() < 0.1 {
            let start = Instant::now();
            program.run(queue, false)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok((best, peak))
}
