//! Every instruction and layout of matrices, copies and barriers: the emulator against the definition, and against a GPU.
mod cases;
mod support;

use cases::{Case, Map};
use engine::cuda::{Architecture, Source, Toolchain, compiler_or_skip};
use ptxemu::tensor_map::Descriptor;
use ptxemu::{Fault, Launch, Module};

/// Runs a case on the emulator and returns what is in `OUT`.
fn emulate(case: &Case, seed: u64) -> Result<Vec<u8>, Fault> {
    let module = Module::parse(&case.ptx())?;
    let mut gpu = support::gpu(case.compute_capability, seed);
    let (input, out) = (support::upload(&mut gpu, &case.input)?, support::upload(&mut gpu, &case.before)?);
    let mut parameters = support::Parameters::default().u64(input).u64(out);
    if let Some(map) = case.map {
        let map = match map {
            Map::Input(map) => Descriptor { address: input, ..map },
            Map::Output(map) => Descriptor { address: out, ..map },
        };
        parameters = parameters.map(&map.encode()?);
    }
    let launch = Launch { grid: [1; 3], block: [case.threads, 1, 1], cluster: [1; 3], shared_bytes: 0 };
    gpu.launch(&module, "case", &launch, &parameters.bytes())?;
    support::download(&gpu, out, case.before.len())
}

#[test]
fn the_emulator_does_what_the_manual_says() {
    let mut failures = Vec::new();
    for case in cases::all() {
        for seed in [1, 2] {
            let result = emulate(&case, seed).map_err(|fault| format!("{}: {fault}", case.name));
            if let Err(failure) = result.and_then(|found| case.compare(&found, &case.expected)) {
                failures.push(failure);
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
}

/// The cases as kernels for a GPU: NVIDIA's compiler and assembler accept each of them.
#[test]
fn the_assembler_accepts_the_cases() {
    let test = "the_assembler_accepts_the_cases";
    for compute_capability in [(8, 0), (9, 0)] {
        let (text, cases) = cases::cuda(compute_capability);
        let parts: &[(&str, &str)] = vec![("cases.cu", text.leak() as &str)].leak();
        let source = Source { name: "cases", parts, constants: Vec::new() };
        let Some(compiler) = compiler_or_skip(test) else { return };
        let architecture = Architecture::of(compute_capability).expect("supported");
        let compiled = compiler.compile(architecture, &source).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(compiled.functions.len(), cases.len());
    }
}
