//! Kernels with planted bugs: each must be caught under every seed, at its line, and the same kernel without the bug
//! passes.
mod support;

use ptxemu::tensor_map::{Descriptor, ElementType, Fill, Swizzle};
use ptxemu::{Fault, FaultKind, Gpu, Launch, Module};
use support::{Parameters, compile, gpu};

/// Order of warps and of asynchronous operations.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=6;

const COMMON: (&str, &str) = ("common.cuh", include_str!("cuda/prelude.cuh"));
const PRELUDE: (&str, &str) = ("prelude.cuh", include_str!("planted/prelude.cuh"));

/// A source with a constant `BUG`, and how to run it: prepares the device, launches, and says whether the result is
/// right.
struct Case {
    name: &'static str,
    parts: &'static [(&'static str, &'static str)],
    compute_capability: (u32, u32),
    run: fn(&mut Gpu, &Module) -> Result<bool, Fault>,
}

/// What is expected of a bug.
struct Bug {
    /// Name of the constant in the source.
    name: &'static str,
    /// Kinds of faults that may report it; which comes first can depend on the schedule.
    kinds: &'static [FaultKind],
    /// Beginnings of the PTX instruction at fault.
    instructions: &'static [&'static str],
    /// Text of the kernel's line at fault; empty where it depends on the schedule.
    line: &'static str,
}

impl Case {
    /// Text of the kernel's own file.
    fn text(&self) -> &'static str {
        self.parts[self.parts.len() - 1].1
    }

    /// The number of a bug: `NAME = number` in the source.
    fn number(&self, bug: &str) -> i64 {
        let (_, rest) = self.text().split_once(&format!("{bug} = ")).expect("a constant of the source");
        rest.split([',', ';']).next().and_then(|number| number.parse().ok()).expect("a number")
    }

    fn check(&self, bugs: &[Bug]) {
        let Some(sound) = compile(self.name, self.parts, self.compute_capability, &[("BUG", 0)]) else { return };
        for seed in SEEDS {
            let right = (self.run)(&mut gpu(self.compute_capability, seed), &sound);
            let right = right.unwrap_or_else(|fault| panic!("{} without a bug, seed {seed}: {fault}", self.name));
            assert!(right, "{} without a bug, seed {seed}: wrong result", self.name);
        }
        for bug in bugs {
            let constants = [("BUG", self.number(bug.name))];
            let module =
                compile(self.name, self.parts, self.compute_capability, &constants).expect("it was found before");
            for seed in SEEDS {
                let what = format!("{} with {}, seed {seed}", self.name, bug.name);
                let fault = match (self.run)(&mut gpu(self.compute_capability, seed), &module) {
                    Ok(right) => panic!("{what}: not caught, result right: {right}"),
                    Err(fault) => fault,
                };
                assert!(bug.kinds.contains(&fault.kind), "{what}: {fault}");
                assert!(fault.place.line.is_some_and(|line| line > 0), "{what}, PTX line: {fault}");
                let instruction = fault.place.instruction.clone().unwrap_or_default();
                let expected = bug.instructions.iter().any(|text| instruction.contains(text));
                assert!(expected, "{what}, instruction {instruction}: {fault}");
                let (file, line) = fault.place.source.clone().unwrap_or_else(|| panic!("{what}, .cu line: {fault}"));
                assert!(file.ends_with(self.parts[self.parts.len() - 1].0), "{what}, file: {fault}");
                if !bug.line.is_empty() {
                    let text = self.text().lines().nth(line as usize - 1).unwrap_or_default();
                    assert!(text.contains(bug.line), "{what}, line `{text}`: {fault}");
                }
                // Of two accesses to a word both are named.
                if fault.message.starts_with("word ") {
                    assert!(fault.message.matches("PTX line").count() == 2, "{what}, both lines: {fault}");
                    assert!(fault.message.contains(".cu:"), "{what}: {fault}");
                }
            }
        }
    }
}

/// A launch along x.
fn linear(blocks: u32, threads: u32) -> Launch {
    Launch { grid: [blocks, 1, 1], block: [threads, 1, 1], cluster: [1; 3], shared_bytes: 0 }
}

#[test]
fn exchanges_between_threads() {
    let case = Case {
        name: "exchange",
        parts: &[COMMON, PRELUDE, ("exchange.cu", include_str!("planted/exchange.cu"))],
        compute_capability: (8, 0),
        run: |gpu, module| {
            let input: Vec<u32> = (0..128).map(|i| i * i + 7).collect();
            let (a, out) = (support::upload(gpu, &input)?, gpu.allocate(512));
            let scratch = gpu.allocate(512);
            let parameters = Parameters::default().u64(a).u64(out).u64(scratch).bytes();
            gpu.launch(module, "exchange", &linear(1, 128), &parameters)?;
            let expected: Vec<u32> = (0..128).map(|t| 2 * (input[127 - t] + input[127 - (t ^ 1)])).collect();
            Ok(support::download::<u32>(gpu, out, 128)? == expected)
        },
    };
    case.check(&[
        Bug {
            name: "MISSING_BARRIER",
            kinds: &[FaultKind::Race, FaultKind::Uninitialised],
            instructions: &["ld.shared", "st.shared"],
            line: "row[",
        },
        Bug {
            name: "UNINITIALISED",
            kinds: &[FaultKind::Uninitialised],
            instructions: &["ld.shared"],
            line: "reads what another warp wrote",
        },
        Bug {
            name: "DIVERGENT_SHUFFLE",
            kinds: &[FaultKind::Divergence],
            instructions: &["shfl", "bar.warp.sync"],
            line: "sync",
        },
        Bug {
            name: "DIVERGENT_BARRIER",
            // Lanes that pass by the barrier read what is not there yet.
            kinds: &[FaultKind::Divergence, FaultKind::Deadlock, FaultKind::Race, FaultKind::Uninitialised],
            instructions: &["bar", "shfl", "ld.shared", "st.shared"],
            line: "",
        },
        Bug {
            name: "MISSING_WARP_BARRIER",
            kinds: &[FaultKind::Race],
            instructions: &["ld.shared"],
            line: "reads what another lane wrote",
        },
        Bug {
            name: "UNINITIALISED_GLOBAL",
            kinds: &[FaultKind::Uninitialised],
            instructions: &["ld.global"],
            line: "scratch[t]",
        },
        Bug {
            name: "OUT_OF_BOUNDS",
            kinds: &[FaultKind::OutOfBounds],
            instructions: &["st.global"],
            line: "the last store",
        },
        Bug {
            name: "SHARED_OUT_OF_BOUNDS",
            kinds: &[FaultKind::OutOfBounds],
            instructions: &["ld."],
            line: "230 * 1024",
        },
        Bug {
            name: "MISALIGNED",
            kinds: &[FaultKind::Misaligned],
            instructions: &["st.global"],
            line: "the last store",
        },
    ]);
}

#[test]
fn copies_in_stages() {
    let case = Case {
        name: "copies",
        parts: &[COMMON, PRELUDE, ("copies.cu", include_str!("planted/copies.cu"))],
        compute_capability: (8, 0),
        run: |gpu, module| {
            let tiles = 6;
            let input: Vec<f32> = (0..128 * tiles).map(|i| (i * i % 1000) as f32).collect();
            let (a, out) = (support::upload(gpu, &input)?, gpu.allocate(512));
            let parameters = Parameters::default().u64(a).u64(out).u32(tiles as u32).bytes();
            gpu.launch(module, "copies", &linear(1, 128), &parameters)?;
            let expected: Vec<f32> = (0..128).map(|t| input.chunks(128).map(|row| row[127 - t]).sum()).collect();
            Ok(support::download::<f32>(gpu, out, 128)? == expected)
        },
    };
    case.check(&[
        Bug {
            name: "MISSING_WAIT",
            kinds: &[FaultKind::Race, FaultKind::Uninitialised],
            instructions: &["ld.shared", "cp.async"],
            line: "",
        },
        Bug {
            name: "MISSING_BARRIER",
            kinds: &[FaultKind::Race, FaultKind::Uninitialised],
            instructions: &["ld.shared", "cp.async"],
            line: "",
        },
        Bug { name: "EARLY_REUSE", kinds: &[FaultKind::Race], instructions: &["ld.shared", "cp.async"], line: "" },
    ]);
}

/// Bytes of bf16 values.
fn bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&value| half::bf16::from_f32(value).to_bits()).collect()
}

/// A map of a row-major matrix with boxes of `box_rows` x `box_columns`.
fn matrix(
    address: u64,
    element: ElementType,
    [rows, columns]: [u32; 2],
    [box_rows, box_columns]: [u32; 2],
    swizzle: Swizzle,
) -> Result<[u8; 128], Fault> {
    Descriptor {
        address,
        element,
        rank: 2,
        sizes: [columns.into(), rows.into(), 0, 0, 0],
        strides: [u64::from(columns * element.bytes()), 0, 0, 0],
        box_sizes: [box_columns, box_rows, 0, 0, 0],
        swizzle,
        fill: Fill::Zero,
    }
    .encode()
}

#[test]
fn a_pipeline_of_tma_and_wgmma() {
    let case = Case {
        name: "pipeline",
        parts: &[COMMON, PRELUDE, ("pipeline.cu", include_str!("planted/pipeline.cu"))],
        compute_capability: (9, 0),
        run: |gpu, module| {
            let k = 320usize;
            let a: Vec<f32> = (0..64 * k).map(|i| (i * 7 % 33) as f32 - 16.0).collect();
            let b: Vec<f32> = (0..16 * k).map(|i| (i * 5 % 17) as f32 - 8.0).collect();
            let (a_at, b_at) = (support::upload(gpu, &bf16(&a))?, support::upload(gpu, &bf16(&b))?);
            let out = gpu.allocate(64 * 16 * 4);
            let map = |at, rows| matrix(at, ElementType::Bf16, [rows, k as u32], [rows, 64], Swizzle::B128);
            let parameters =
                Parameters::default().map(&map(a_at, 64)?).map(&map(b_at, 16)?).u64(out).u32(k as u32).bytes();
            gpu.launch(module, "pipeline", &linear(1, 160), &parameters)?;
            // Integers: exact in any order.
            let expected: Vec<f32> =
                (0..64 * 16).map(|i| (0..k).map(|depth| a[i / 16 * k + depth] * b[i % 16 * k + depth]).sum()).collect();
            Ok(support::download::<f32>(gpu, out, 64 * 16)? == expected)
        },
    };
    let unordered = &[FaultKind::Race, FaultKind::Uninitialised];
    let matrices = &["wgmma", "cp.async.bulk.tensor"];
    // A wait is a loop around mbarrier.try_wait.
    let waits = &["mbarrier.try_wait", "bra WAIT"];
    case.check(&[
        Bug { name: "EARLY_RELEASE", kinds: &[FaultKind::Race], instructions: matrices, line: "" },
        Bug { name: "MISSING_WAIT", kinds: unordered, instructions: matrices, line: "" },
        Bug { name: "CONSUMER_PHASE", kinds: unordered, instructions: matrices, line: "" },
        Bug { name: "PRODUCER_PHASE", kinds: &[FaultKind::Deadlock], instructions: waits, line: "barrier_wait" },
        Bug {
            name: "FEW_BYTES",
            kinds: &[FaultKind::Race, FaultKind::Uninitialised, FaultKind::Barrier],
            instructions: &["wgmma", "cp.async.bulk.tensor", "mbarrier"],
            line: "",
        },
        Bug { name: "MANY_BYTES", kinds: &[FaultKind::Deadlock], instructions: waits, line: "barrier_wait" },
        Bug { name: "SHORT_STRIDE", kinds: &[FaultKind::Descriptor], instructions: &["wgmma"], line: "multiply_add(d" },
        Bug {
            name: "LONG_STRIDE",
            kinds: &[FaultKind::Descriptor, FaultKind::Race, FaultKind::Uninitialised, FaultKind::OutOfBounds],
            instructions: &["wgmma"],
            line: "multiply_add(d",
        },
        Bug {
            name: "MISSING_SWIZZLE",
            kinds: &[FaultKind::Descriptor],
            instructions: &["wgmma"],
            line: "multiply_add(d",
        },
        Bug {
            name: "OTHER_SWIZZLE",
            kinds: &[FaultKind::Descriptor],
            instructions: &["wgmma"],
            line: "multiply_add(d",
        },
        Bug { name: "NO_INIT", kinds: &[FaultKind::Barrier], instructions: &["mbarrier"], line: "barrier_" },
        Bug { name: "MISSING_ARRIVAL", kinds: &[FaultKind::Deadlock], instructions: waits, line: "barrier_wait" },
        Bug {
            name: "OUT_OF_BOUNDS",
            kinds: &[FaultKind::OutOfBounds],
            instructions: &["st.global"],
            line: "stores the result",
        },
    ]);
}

#[test]
fn tiles_that_threads_write_and_tma_stores() {
    let case = Case {
        name: "tiles",
        parts: &[COMMON, PRELUDE, ("tiles.cu", include_str!("planted/tiles.cu"))],
        compute_capability: (9, 0),
        run: |gpu, module| {
            let tiles = 8u32;
            let input: Vec<f32> = (0..32 * tiles).map(|i| i as f32 * 0.5).collect();
            let (a, out) = (support::upload(gpu, &input)?, gpu.allocate(input.len() * 4));
            let map = matrix(out, ElementType::F32, [tiles, 32], [1, 32], Swizzle::None)?;
            let parameters = Parameters::default().map(&map).u64(a).u32(tiles).bytes();
            gpu.launch(module, "tiles", &linear(1, 64), &parameters)?;
            let expected: Vec<f32> = input.iter().map(|x| x + 1.0).collect();
            Ok(support::download::<f32>(gpu, out, input.len())? == expected)
        },
    };
    case.check(&[
        Bug {
            name: "MISSING_PROXY_FENCE",
            kinds: &[FaultKind::Proxy],
            instructions: &["cp.async.bulk.tensor"],
            line: "store_tile",
        },
        Bug {
            name: "MISSING_BARRIER",
            kinds: &[FaultKind::Race, FaultKind::Uninitialised],
            instructions: &["cp.async.bulk.tensor", "st.shared"],
            line: "",
        },
        Bug {
            name: "EARLY_REUSE",
            kinds: &[FaultKind::Race],
            instructions: &["st.shared", "cp.async.bulk.tensor"],
            line: "",
        },
    ]);
}

#[test]
fn blocks_that_meet_in_global_memory() {
    let case = Case {
        name: "blocks",
        parts: &[COMMON, PRELUDE, ("blocks.cu", include_str!("planted/blocks.cu"))],
        compute_capability: (8, 0),
        run: |gpu, module| {
            let count = 6u32;
            let (partial, counter) = (gpu.allocate(4 * count as usize), support::upload(gpu, &[0u32])?);
            let out = gpu.allocate(4);
            let parameters = Parameters::default().u64(partial).u64(counter).u64(out).bytes();
            gpu.launch(module, "blocks", &linear(count, 32), &parameters)?;
            let expected: u32 = (0..count).map(|block| 32 * block + 31 * 16).sum();
            Ok(support::download::<u32>(gpu, out, 1)? == [expected])
        },
    };
    case.check(&[
        Bug {
            name: "MISSING_FENCE",
            kinds: &[FaultKind::Race],
            instructions: &["ld.global", "st.global"],
            line: "partial",
        },
        Bug {
            name: "NO_COUNTER",
            kinds: &[FaultKind::Race, FaultKind::Uninitialised],
            instructions: &["ld.global", "st.global"],
            line: "partial",
        },
    ]);
}
