//! What the compile service makes of sound sources and of faulty ones.

use engine::cuda::{Architecture, Compiler, ImageKind, Source, Toolchain, compiler_or_skip};
use std::fs;
use std::path::PathBuf;

const PRELUDE: &str = "typedef unsigned int u32;\n__device__ inline u32 twice(u32 x) { return x * FACTOR; }\n";
const FILL: &str = r#"
extern "C" __global__ void __launch_bounds__(128) fill(u32* out) {
    __shared__ u32 row[128];
    row[threadIdx.x] = twice(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = row[127 - threadIdx.x];
}
extern "C" __global__ void clear(u32* out) {
    out[threadIdx.x] = 0;
}
"#;
const PARTS: &[(&str, &str)] = &[("prelude.cuh", PRELUDE), ("fill.cu", FILL)];

fn fill(factor: i64) -> Source {
    Source { name: "fill", parts: PARTS, constants: vec![("FACTOR".to_owned(), factor)] }
}

fn architecture(compute_capability: (u32, u32)) -> Architecture {
    Architecture::of(compute_capability).expect("supported")
}

/// A folder of this test alone.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("coca-compile-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    folder
}

#[test]
fn kernels_are_compiled_for_every_architecture() {
    let Some(compiler) = compiler_or_skip("kernels_are_compiled_for_every_architecture") else { return };
    let compiler = compiler.with_cache(None);
    for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
        let architecture = architecture(capability);
        let compiled = compiler.compile(architecture, &fill(2)).expect("sound");
        let names: Vec<&String> = compiled.functions.keys().collect();
        assert_eq!(names, ["clear", "fill"]);
        let usage = compiled.functions["fill"];
        assert_eq!((usage.shared_bytes, usage.stack_bytes, usage.spill_bytes), (512, 0, 0), "{architecture}");
        assert!((4..=64).contains(&usage.registers), "{architecture}: {usage:?}");
        assert_eq!(&compiled.cubin[..4], b"\x7fELF", "{architecture}");
        assert!(compiled.warnings.is_empty(), "{:?}", compiled.warnings);
        let ptx = std::str::from_utf8(&compiled.ptx).expect("text");
        assert!(ptx.contains(&format!(".target {architecture}")), "{architecture}");
        assert!(ptx.contains(".visible .entry fill(") && ptx.ends_with('\n'), "{architecture}");
        assert!(ptx.contains("\t.file\t1 \"fill.cu\"") && ptx.contains("\t.loc\t1 4 "), "{architecture}: {ptx}");
        assert_eq!(compiled.image(ImageKind::Cubin).bytes, compiled.cubin);
        assert_eq!(compiled.image(ImageKind::Ptx).bytes, compiled.ptx);
        assert_eq!(compiled.image(ImageKind::Ptx).name, "fill(FACTOR=2)");
    }
}

#[test]
fn constants_specialise_the_code() {
    let Some(compiler) = compiler_or_skip("constants_specialise_the_code") else { return };
    let compiler = compiler.with_cache(None);
    let ptx = |factor| {
        let compiled = compiler.compile(architecture((8, 0)), &fill(factor)).expect("sound");
        String::from_utf8(compiled.ptx.to_vec()).expect("text")
    };
    assert!(ptx(7).contains("mul.lo.s32"), "a product by 7");
    assert!(ptx(8).contains("shl.b32"), "a product by 8 is a shift");
}

/// The error of a kernel with one faulty line, the third of `faulty.cu`.
fn error_of(compiler: &Compiler, parts: &'static [(&'static str, &'static str)]) -> String {
    let source = Source { name: "faulty", parts, constants: vec![] };
    compiler.compile(architecture((9, 0)), &source).expect_err("faulty").to_string()
}

#[test]
fn errors_show_file_and_line() {
    let Some(compiler) = compiler_or_skip("errors_show_file_and_line") else { return };
    let compiler = compiler.with_cache(None);
    const UNKNOWN_NAME: &[(&str, &str)] = &[
        ("prelude.cuh", "typedef int i32;\n\n"),
        ("faulty.cu", "\nextern \"C\" __global__ void f(i32* out) {\n*out = y;\n}"),
    ];
    let error = error_of(&compiler, UNKNOWN_NAME);
    assert!(error.starts_with("faulty does not compile for sm_90a:\n"), "{error}");
    assert!(error.contains("faulty.cu(3): error: identifier \"y\" is undefined"), "{error}");

    // The assembler knows lines of PTX alone; they are led back to the source.
    const UNKNOWN_INSTRUCTION: &[(&str, &str)] =
        &[("prelude.cuh", ""), ("faulty.cu", "extern \"C\" __global__ void f() {\n\nasm volatile(\"foo.bar;\");\n}")];
    let error = error_of(&compiler, UNKNOWN_INSTRUCTION);
    assert!(error.contains("Not a name of any known instruction: 'foo'"), "{error}");
    assert!(error.contains("\nfaulty.cu(3): line ") && error.contains(" of the PTX is `foo.bar;`"), "{error}");
}

#[test]
fn a_kernel_that_the_assembler_changes_is_an_error() {
    let Some(compiler) = compiler_or_skip("a_kernel_that_the_assembler_changes_is_an_error") else { return };
    // Without bounds on its threads the assembler cannot divide the registers and ignores the instruction.
    const IGNORED: &[(&str, &str)] = &[(
        "faulty.cu",
        "extern \"C\" __global__ void f(int* out) {\nasm volatile(\"setmaxnreg.dec.sync.aligned.u32 40;\");\n*out = 1;\n}",
    )];
    let error = error_of(&compiler.with_cache(None), IGNORED);
    assert!(error.contains("setmaxnreg"), "{error}");
}

#[test]
fn what_was_compiled_is_found_again_and_damage_is_repaired() {
    let Some(compiler) = compiler_or_skip("what_was_compiled_is_found_again_and_damage_is_repaired") else { return };
    let folder = folder("found");
    let compiler = compiler.with_cache(Some(&folder));
    assert_eq!(compiler.cache_folder(), Some(folder.as_path()));
    let entries = || -> Vec<PathBuf> {
        fs::read_dir(&folder).expect("folder").map(|entry| entry.expect("entry").path()).collect()
    };
    let first = compiler.compile(architecture((8, 0)), &fill(2)).expect("sound");
    let [entry] = &entries()[..] else { panic!("one entry") };
    let stored = fs::metadata(entry).expect("entry").modified().expect("time");
    assert_eq!(compiler.compile(architecture((8, 0)), &fill(2)).expect("stored"), first);
    assert_eq!(fs::metadata(entry).expect("entry").modified().expect("time"), stored, "read, not made again");

    fs::write(entry, b"damaged").expect("write");
    assert_eq!(compiler.compile(architecture((8, 0)), &fill(2)).expect("made again").functions, first.functions);
    assert!(fs::metadata(entry).expect("entry").len() > 1000, "stored again");
    compiler.compile(architecture((8, 6)), &fill(2)).expect("another architecture");
    compiler.compile(architecture((8, 0)), &fill(3)).expect("other constants");
    assert_eq!(entries().len(), 3);
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn all_variants_are_compiled_with_progress() {
    let Some(compiler) = compiler_or_skip("all_variants_are_compiled_with_progress") else { return };
    let mut heard = Vec::new();
    let mut progress = |done: usize, total: usize, title: &str| heard.push(format!("{done}/{total} {title}"));
    let sources = [fill(2), fill(5), fill(2)];
    let compiled =
        compiler.with_cache(None).compile_all(architecture((8, 0)), &sources, &mut progress).expect("sound sources");
    assert_eq!(heard, ["0/3 fill(FACTOR=2)", "1/3 fill(FACTOR=5)"]);
    assert_eq!(compiled[0], compiled[2]);
    assert_ne!(compiled[0].cubin, compiled[1].cubin);
}
