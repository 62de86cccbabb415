//! Every instruction and layout of matrices, copies and barriers: the emulator against the definition, and against a
//! GPU.
//!
//! With a GPU at hand, `COCA_GOLDEN=FILE` keeps what it answered, a line a case; if the file is there already, the answers
//! must be those in it, bit by bit. Without a GPU that test says so and passes; with `COCA_REQUIRE_GPU` set it fails.
mod cases;

use cases::{Agreement, Case, Map};
use engine::DType;
use engine::cuda::{
    Architecture, Arguments, Driver, Fill, Function, Gpu, Image, ImageKind, Launch, Source, Stream, Swizzle, TensorMap,
    TensorMapSpec, Toolchain, compiler_or_skip, shard,
};
use ptxemu::tensor_map::{self, Descriptor, ElementType};
use ptxemu::{Config, Emulator};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// The driver of an emulated device.
fn emulator(compute_capability: (u32, u32), seed: u64) -> Emulator {
    Emulator::new(Config { compute_capability, seed, ..Config::default() })
}

/// A tensor map for the engine's drivers.
fn specification(map: &Descriptor, address: u64) -> TensorMapSpec {
    TensorMapSpec {
        address,
        element: match map.element {
            ElementType::U8 => DType::U8,
            ElementType::I32 => DType::I32,
            ElementType::Bf16 => DType::BF16,
            ElementType::F32 => DType::F32,
            other => panic!("the engine has no {other:?}"),
        },
        sizes: map.sizes[..map.rank].to_vec(),
        strides_bytes: map.strides[..map.rank - 1].to_vec(),
        box_sizes: map.box_sizes[..map.rank].to_vec(),
        swizzle: match map.swizzle {
            tensor_map::Swizzle::None => Swizzle::None,
            tensor_map::Swizzle::B32 => Swizzle::B32,
            tensor_map::Swizzle::B64 => Swizzle::B64,
            tensor_map::Swizzle::B128 => Swizzle::B128,
        },
        fill: if map.fill == tensor_map::Fill::Zero { Fill::Zero } else { Fill::Nan },
    }
}

/// Runs a case on a device and returns what is in `OUT`. With `always_map` the kernel takes a tensor map in any case.
fn run(driver: &dyn Driver, function: &Function, case: &Case, always_map: bool) -> engine::Result<Vec<u8>> {
    let (input, out) = (driver.allocate(case.input.len())?, driver.allocate(case.before.len())?);
    driver.upload(Stream::Compute, input, &case.input)?;
    driver.upload(Stream::Compute, out, &case.before)?;
    let mut arguments = Arguments::new().address(input).address(out);
    match &case.map {
        Some(Map::Input(map)) => arguments = arguments.tensor_map(&driver.tensor_map(&specification(map, input))?),
        Some(Map::Output(map)) => arguments = arguments.tensor_map(&driver.tensor_map(&specification(map, out))?),
        None if always_map => arguments = arguments.tensor_map(&TensorMap::from_bytes([0; 128])),
        None => {}
    }
    let launch = Launch { cluster: [case.cluster, 1, 1], ..Launch::linear(case.cluster, case.threads) };
    driver.launch(Stream::Compute, function, &launch, &arguments)?;
    let mut found = vec![0; case.before.len()];
    driver.download(Stream::Compute, &mut found, out)?;
    driver.free(input)?;
    driver.free(out)?;
    Ok(found)
}

#[test]
fn the_emulator_does_what_the_manual_says() {
    let mut failures = Vec::new();
    for case in cases::all() {
        for seed in [1, 2] {
            let driver = emulator(case.compute_capability, seed);
            let bytes = Arc::from(case.ptx().into_bytes());
            let image = Image { name: case.name.clone(), kind: ImageKind::Ptx, bytes };
            let function = driver.load(&image).map(|module| Function { module, name: "case".into() });
            let result = function.and_then(|function| run(&driver, &function, &case, false));
            let result = result.map_err(|error| format!("{}: {error}", case.name));
            if let Err(failure) = result.and_then(|found| case.compare(&found, &case.expected)) {
                failures.push(failure);
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
}

/// Compiles the cases that a device can run, runs all of them, and returns what each left. Nothing without NVRTC.
fn run_compiled(test: &str, driver: &dyn Driver) -> Option<Vec<(Case, Vec<u8>)>> {
    let properties = driver.properties();
    let (text, cases) = cases::cuda(properties.compute_capability);
    let parts: &[(&str, &str)] = vec![("cases.cu", text.leak() as &str)].leak();
    let source = Source { name: "cases", parts, constants: Vec::new() };
    let architecture = Architecture::of(properties.compute_capability).expect("supported");
    let compiled = compiler_or_skip(test)?.compile(architecture, &source).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(compiled.functions.len(), cases.len());
    let module = driver.load(&compiled.image(properties.image)).unwrap_or_else(|error| panic!("{error}"));
    let (part, of) = shard();
    let results = cases.into_iter().enumerate().skip(part).step_by(of).map(|(index, case)| {
        let function = Function { module: module.clone(), name: format!("case_{index}") };
        let found = run(driver, &function, &case, true).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        (case, found)
    });
    Some(results.collect())
}

/// NVIDIA's compiler and assembler accept the cases as inline assembly, and the driver seam carries them to the device.
#[test]
fn compiled_cases_say_the_same() {
    for compute_capability in [(8, 0), (9, 0)] {
        let driver = emulator(compute_capability, 3);
        for (case, found) in run_compiled("compiled_cases_say_the_same", &driver).into_iter().flatten() {
            case.compare(&found, &case.expected).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
}

#[test]
fn a_gpu_says_the_same() {
    let test = "a_gpu_says_the_same";
    let gpu = match Gpu::open() {
        Ok(gpu) => gpu,
        Err(error) if std::env::var_os("COCA_REQUIRE_GPU").is_some() => panic!("{test} needs a GPU: {error}"),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: {test}: {error}");
            return;
        }
    };
    let results = run_compiled(test, &gpu).unwrap_or_default();
    let mut failures: Vec<String> =
        results.iter().filter_map(|(case, found)| case.compare(found, &case.expected).err()).collect();
    if let Some(file) = std::env::var_os("COCA_GOLDEN") {
        failures.extend(against_golden(Path::new(&file), &results));
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), gpu.properties().name, failures.join("\n"));
    let exact = results.iter().filter(|(case, _)| case.agreement == Agreement::Bits).count();
    let _ = writeln!(std::io::stderr(), "{test}: {} cases, {exact} bit by bit", results.len());
}

/// Sentences about the cases whose results are not those of the golden file, which is written if it is not there.
fn against_golden(file: &Path, results: &[(Case, Vec<u8>)]) -> Vec<String> {
    let line = |(case, found): &(Case, Vec<u8>)| format!("{}\t{:016x}", case.name, digest(found));
    let lines: Vec<String> = results.iter().map(line).collect();
    if !file.exists() {
        std::fs::write(file, lines.join("\n") + "\n").expect("the golden file can be written");
        return Vec::new();
    }
    let golden = std::fs::read_to_string(file).expect("the golden file can be read");
    let differs = |line: &&String| !golden.lines().any(|golden| golden == **line);
    let differing = lines.iter().filter(differs);
    differing.map(|line| format!("{line} is not in {}", file.display())).collect()
}

#[test]
fn golden_files_are_written_once_and_then_hold() {
    let file = std::env::temp_dir().join(format!("coca-golden-{}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let mut results: Vec<(Case, Vec<u8>)> =
        cases::all().into_iter().take(3).map(|case| (case.clone(), case.expected)).collect();
    assert!(against_golden(&file, &results).is_empty() && file.exists());
    assert!(against_golden(&file, &results).is_empty());
    results[1].1[5] ^= 1;
    let failures = against_golden(&file, &results);
    assert!(failures.len() == 1 && failures[0].starts_with(&results[1].0.name), "{failures:?}");
    std::fs::remove_file(&file).expect("removed");
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
