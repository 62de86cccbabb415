//! GFLOP/s of matmul at model sizes, beside the machine's FMA rate taken in the same run.

use engine::{Compile, DType, Meta, Program, Queue, Tape, Workspace};
use kernels::gauge;
use kernels::matmul::{Layout, Matmul};
use std::time::Instant;

fn main() -> engine::Result<()> {
    let queue = Queue::cpu_from_env()?;
    let sizes = [
        (1024, 1024, 1024),
        (2048, 2048, 2048),
        (1600, 3072, 768),
        (1600, 768, 3072),
        (616, 2048, 512),
        (544, 192, 192),
        (544, 768, 192),
        (2368, 576, 192),
        (64, 512, 512),
    ];
    for dtype in [DType::F32, DType::BF16] {
        for (m, n, k) in sizes {
            let mut line = format!("{dtype} {m}x{n}x{k}");
            for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
                let (a, b) = match layout {
                    Layout::Nn => ([m, k], [k, n]),
                    Layout::Nt => ([m, k], [n, k]),
                    Layout::Tn => ([k, m], [k, n]),
                };
                let mut tape = Tape::record();
                let a = tape.input("a", Meta::new(a, dtype))?;
                let b = tape.input("b", Meta::new(b, dtype))?;
                let c = tape.push(Matmul::new(layout, dtype), &[a, b])?[0];
                tape.keep(c);
                let mut program = Program::compile(tape, &Workspace::new(), Compile::default())?;
                program.run(&queue, false)?;
                let mut best = f64::MAX;
                for _ in 0..(2e10 / (2.0 * m as f64 * n as f64 * k as f64)).clamp(3.0, 400.0) as usize {
                    let start = Instant::now();
                    program.run(&queue, false)?;
                    best = best.min(start.elapsed().as_secs_f64());
                }
                let rate = 2.0 * m as f64 * n as f64 * k as f64 / best / 1e9;
                let peak = gauge::flops_per_second(&queue, dtype) / 1e9;
                line += &format!("  {layout:?} {rate:6.1} ({:.2})", rate / peak);
            }
            println!("{line}");
        }
    }
    Ok(())
}
