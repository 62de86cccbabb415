//! Criterion over the PTX emulator: loops that do one kind of thing, with every check and with none. Throughput is lane
//! instructions a second on one core.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptxemu::{Checks, Config, Gpu, Launch, Module, Report};
use std::time::Duration;

const THREADS: u32 = 256;
const BLOCKS: u32 = 4;

/// What is done 16 times in each of `steps` iterations.
struct Loop {
    name: &'static str,
    steps: u32,
    body: &'static str,
}

const LOOPS: [Loop; 3] = [
    Loop {
        name: "arithmetic",
        steps: 200,
        body: "fma.rn.f32 %f0, %f0, %f1, %f2; mul.lo.u32 %r4, %r4, 1664525; add.u32 %r4, %r4, 1013904223;
               xor.b32 %r4, %r4, %r3;",
    },
    Loop {
        name: "memory and barriers",
        steps: 20,
        body: "ld.global.f32 %f3, [%d2]; st.shared.f32 [%r6], %f3; bar.sync 0; ld.shared.f32 %f3, [%r6];
               add.f32 %f0, %f0, %f3;",
    },
    Loop {
        name: "mma.sync",
        steps: 5,
        body:
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r4, %r4, %r4, %r4}, {%r4, %r4},
               {%f4, %f5, %f6, %f7};",
    },
];

impl Loop {
    fn module(&self) -> Module {
        let text = format!(
            ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_memory, .param .u32 k_steps) {{
            .reg .pred %p<2>; .reg .b32 %r<8>; .reg .f32 %f<8>; .reg .b64 %d<3>; .shared .align 16 .b8 tile[1024];
            ld.param.u64 %d0, [k_memory]; ld.param.u32 %r0, [k_steps];
            mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 256, %r1;
            mul.wide.u32 %d1, %r3, 4; add.s64 %d2, %d0, %d1; mov.u32 %r6, tile; mad.lo.u32 %r6, %r1, 4, %r6;
            cvt.rn.f32.u32 %f0, %r3; mov.f32 %f1, 0f3F7FFF00; mov.f32 %f2, 0f3F000000; mov.u32 %r4, 12345; mov.u32 %r5, 0;
            mov.f32 %f4, 0f00000000; mov.f32 %f5, 0f00000000; mov.f32 %f6, 0f00000000; mov.f32 %f7, 0f00000000;
            LOOP:\n{}
            add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, %r0; @%p1 bra LOOP;
            st.global.f32 [%d2], %f0; ret; }}",
            self.body.repeat(16)
        );
        Module::parse(&text).unwrap_or_else(|fault| panic!("{}: {fault}", self.name))
    }
}

fn run(gpu: &mut Gpu, module: &Module, memory: u64, steps: u32) -> Report {
    let parameters = [&memory.to_le_bytes()[..], &steps.to_le_bytes()].concat();
    let launch = Launch { grid: [BLOCKS, 1, 1], block: [THREADS, 1, 1], cluster: [1; 3], shared_bytes: 0 };
    gpu.launch(module, "k", &launch, &parameters).unwrap_or_else(|fault| panic!("{fault}"))
}

fn emulator(criterion: &mut Criterion) {
    let bytes = (BLOCKS * THREADS * 4) as usize;
    for looped in &LOOPS {
        let module = looped.module();
        let mut group = criterion.benchmark_group(format!("emulator: {}", looped.name));
        group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        let none = Checks { uninitialised: false, races: false };
        for (name, checks) in [("no checks", none), ("every check", Checks::ALL)] {
            let mut gpu = Gpu::new(Config { compute_capability: (8, 0), checks, ..Config::default() });
            let memory = gpu.allocate(bytes);
            gpu.write(memory, &vec![0; bytes]).expect("it was allocated");
            let report = run(&mut gpu, &module, memory, looped.steps);
            group.throughput(Throughput::Elements(report.counters.lane_instructions));
            group.bench_function(name, |bencher| bencher.iter(|| run(&mut gpu, &module, memory, looped.steps)));
        }
        group.finish();
    }
}

criterion_group!(all, emulator);
criterion_main!(all);
