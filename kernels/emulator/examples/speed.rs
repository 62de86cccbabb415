//! How fast the emulator is on one core: lane instructions per second of loops that do one kind of thing, with every
//! check and with none. `cargo run --release -p ptxemu --example speed`
use ptxemu::{Checks, Config, Gpu, Launch, Module};
use std::time::Instant;

/// Loops of `steps` iterations around 16 repetitions of a body.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_memory, .param .u32 k_steps) {{
        .reg .pred %p<2>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .b64 %d<8>; {declarations}
        ld.param.u64 %d0, [k_memory]; ld.param.u32 %r0, [k_steps];
        mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 256, %r1;
        mul.wide.u32 %d1, %r3, 4; add.s64 %d2, %d0, %d1;
        cvt.rn.f32.u32 %f0, %r3; mov.f32 %f1, 0f3F7FFF00; mov.f32 %f2, 0f3F000000; mov.u32 %r4, 12345; mov.u32 %r5, 0;
        mov.f32 %f4, 0f00000000; mov.f32 %f5, 0f00000000; mov.f32 %f6, 0f00000000; mov.f32 %f7, 0f00000000;
        LOOP:\n{}
        add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, %r0; @%p1 bra LOOP;
        st.global.f32 [%d2], %f0; ret; }}",
        body.repeat(16)
    )
}

fn main() {
    let arithmetic = "fma.rn.f32 %f0, %f0, %f1, %f2; mul.lo.u32 %r4, %r4, 1664525; add.u32 %r4, %r4, 1013904223; xor.b32 %r4, %r4, %r3;\n";
    let memory = "ld.global.f32 %f3, [%d2]; st.shared.f32 [%r6], %f3; bar.sync 0; ld.shared.f32 %f3, [%r6]; add.f32 %f0, %f0, %f3;\n";
    let matrix = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r4, %r4, %r4, %r4}, {%r4, %r4}, \
                  {%f4, %f5, %f6, %f7};\n";
    let shared =
        ".shared .align 16 .b8 tile[1024]; mov.u32 %r6, tile; mov.u32 %r7, %tid.x; mad.lo.u32 %r6, %r7, 4, %r6;";
    let loops = [
        ("arithmetic", kernel("", arithmetic), 2000),
        ("memory and barriers", kernel(shared, memory), 200),
        ("mma.sync", kernel("", matrix), 50),
    ];
    for (name, text, steps) in loops {
        let module = Module::parse(&text).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        for (checks, checked) in
            [(Checks { uninitialised: false, races: false }, "unchecked"), (Checks::ALL, "checked")]
        {
            let mut gpu = Gpu::new(Config { compute_capability: (8, 0), checks, ..Config::default() });
            let memory = gpu.allocate(4 * 256 * 4);
            gpu.write(memory, &[0; 4 * 256 * 4]).expect("it was allocated");
            let mut parameters = memory.to_le_bytes().to_vec();
            parameters.extend(u32::to_le_bytes(steps));
            let launch = Launch { grid: [4, 1, 1], block: [256, 1, 1], cluster: [1; 3], shared_bytes: 0 };
            let start = Instant::now();
            let report =
                gpu.launch(&module, "k", &launch, &parameters).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            let seconds = start.elapsed().as_secs_f64();
            let counters = report.counters;
            let lanes = counters.lane_instructions as f64 / seconds / 1e6;
            let flops = counters.matrix_flops as f64 / seconds / 1e9;
            println!("{name:20} {checked:10} {lanes:8.1} M lane instructions/s {flops:8.2} GFLOP/s of matrices");
        }
    }
}
