//! The way to a GPU on machines without one: a stand-in for the driver's library, found at run time as the real one is.
//! Each case is this test program once more, with the library's folder in its path.

use engine::DType;
use engine::cuda::{
    Arguments, Compiler, CudaQueue, Detected, Driver, Fill, Function, Gpu, Image, ImageKind, Launch, Stream, Swizzle,
    TensorMapSpec, compiler_or_skip,
};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Set in the second process: the text that it is to expect.
const EXPECTED: &str = "STUB_EXPECTED";

/// The folder of the library, which is compiled once.
fn library() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stub-libcuda");
        std::fs::create_dir_all(&folder).expect("folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stub/libcuda.rs");
        let temporary = folder.join(format!("libcuda-{}.so", std::process::id()));
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let arguments = ["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "cuda", "-A", "warnings", "-o"];
        let status = Command::new(compiler).args(arguments).arg(&temporary).arg(source).status().expect("rustc");
        assert!(status.success(), "the stub compiles");
        // Under both names that are looked for, so that a real driver is not found in its stead.
        std::fs::copy(&temporary, folder.join("libcuda.so")).expect("in place");
        std::fs::rename(temporary, folder.join("libcuda.so.1")).expect("in place");
        folder
    })
}

/// Runs a test of this program in a process whose driver is the stub.
fn with_stub(test: &str, settings: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", library())
        .envs(settings.iter().copied())
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{settings:?}: {text}");
}

#[test]
fn what_is_missing_is_told_in_one_sentence() {
    let cases: [(&[(&str, &str)], &str); 9] = [
        (&[("STUB_INIT", "100")], "the NVIDIA driver is installed but sees no GPU."),
        (
            &[("STUB_INIT", "35")],
            "the NVIDIA driver is older than its GPU or its library needs (code 35): update the driver.",
        ),
        (
            &[("STUB_INIT", "803")],
            "the NVIDIA driver's library and its kernel module are of different versions (code 803): restart the machine, \
             or install one version of both.",
        ),
        (
            &[("STUB_INIT", "34")],
            "the library libcuda.so is the CUDA toolkit's stub, not a driver: take its folder out of LD_LIBRARY_PATH.",
        ),
        (
            &[("STUB_INIT", "802")],
            "the NVIDIA driver is not ready (code 802): the service nvidia-fabricmanager is not running.",
        ),
        (&[("STUB_INIT", "999")], "the NVIDIA driver is installed but cuInit fails with code 999."),
        (&[("STUB_VERSION", "11080")], "the NVIDIA driver supports CUDA 11.8, 12.4 is needed: update the driver."),
        (&[("STUB_DEVICES", "0")], "the NVIDIA driver is installed but sees no GPU."),
        (&[("STUB_CAPABILITY", "75")], "the GPU has compute capability 7.5, the kernels need 8.0 (Ampere) or newer"),
    ];
    for (settings, text) in cases {
        with_stub("the_expected_sentence", &[settings, &[(EXPECTED, text)]].concat());
    }
}

#[test]
#[ignore = "started by what_is_missing_is_told_in_one_sentence"]
fn the_expected_sentence() {
    let expected = std::env::var(EXPECTED).expect("a sentence");
    for error in [Gpu::open().map(|_| ()), CudaQueue::open().map(|_| ())] {
        assert_eq!(error.expect_err("no GPU").to_string(), expected);
    }
    if let Detected::Absent(reason) = Detected::now() {
        assert_eq!(reason, expected);
    }
}

#[test]
fn the_compiler_is_found_where_it_may_be() {
    let nowhere = library().display().to_string();
    let find = |settings: &[(&str, &str)], expected: &str| {
        // No other folder and no Python that might have one, unless the settings say so.
        let bare = [("COCA_NVRTC", ""), ("CUDA_HOME", ""), ("CUDA_PATH", ""), ("PATH", nowhere.as_str())];
        with_stub("the_compiler_or_why_not", &[&bare, settings, &[(EXPECTED, expected)]].concat());
    };
    find(&[("COCA_NVRTC", "/nowhere")], "COCA_NVRTC: /nowhere is neither libnvrtc.so.MAJOR beside");
    find(&[("COCA_NVRTC", &nowhere)], &format!("COCA_NVRTC: {nowhere} is neither libnvrtc.so.MAJOR beside"));
    let Some(compiler) = compiler_or_skip("the_compiler_is_found_where_it_may_be") else { return };
    let file = compiler.nvrtc().path().to_path_buf();
    let folder = file.parent().expect("a folder");
    find(&[("COCA_NVRTC", &folder.display().to_string())], "");
    find(&[("COCA_NVRTC", &file.display().to_string())], "");
    // A toolkit in CUDA_HOME, and a package of Python, both made of links.
    let made = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nvrtc-places");
    let _ = std::fs::remove_dir_all(&made);
    std::fs::create_dir_all(made.join("packages/nvidia/cu13")).expect("folder");
    std::os::unix::fs::symlink(folder, made.join("lib64")).expect("link");
    std::os::unix::fs::symlink(folder, made.join("packages/nvidia/cu13/lib")).expect("link");
    find(&[("CUDA_HOME", &made.display().to_string())], "");
    let python = made.join("python3");
    std::fs::write(&python, format!("#!/bin/sh\necho\necho {}/packages\n", made.display())).expect("script");
    std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    find(&[("PATH", &made.display().to_string())], "");
}

#[test]
#[ignore = "started by the_compiler_is_found_where_it_may_be"]
fn the_compiler_or_why_not() {
    let expected = std::env::var(EXPECTED).expect("a sentence, or none");
    match Compiler::find(None) {
        Ok(compiler) => assert!(expected.is_empty() && compiler.nvrtc().version() >= (12, 0), "{expected}"),
        Err(error) => assert!(!expected.is_empty() && error.to_string().starts_with(&expected), "{error}"),
    }
}

#[test]
fn without_a_driver_there_is_a_sentence_too() {
    if let Detected::Absent(reason) = Detected::now() {
        assert!(reason.ends_with('.') && !reason.contains('\n'), "{reason}");
        assert_eq!(Gpu::open().expect_err("no GPU").to_string(), reason);
    }
}

#[test]
fn the_bindings_reach_the_driver() {
    with_stub("a_device_works", &[]);
}

#[test]
#[ignore = "started by the_bindings_reach_the_driver"]
fn a_device_works() {
    let gpu = Gpu::open().expect("the stub's device");
    let properties = gpu.properties();
    assert_eq!((properties.name.as_str(), properties.compute_capability), ("Stub GPU", (9, 0)));
    assert_eq!((properties.multiprocessors, properties.memory_bytes), (132, 8 << 30));
    assert_eq!((properties.shared_bytes_per_block, properties.cuda), (232448, Some((12, 8))));
    assert_eq!(properties.l2_bytes, 50 << 20);

    // Memory.
    let (one, two) = (gpu.allocate(1024).expect("memory"), gpu.allocate(1024).expect("memory"));
    let error = gpu.allocate(1 << 40).expect_err("too much").to_string();
    assert!(error.starts_with("Stub GPU of 8589934592 bytes cannot give 1099511627776 more: "), "{error}");
    assert!(error.ends_with("cuMemAlloc fails: the stub refuses (CUDA_ERROR_STUB)"), "{error}");
    let bytes: Vec<u8> = (0..=255).collect();
    gpu.upload(Stream::Compute, one, &bytes).expect("upload");
    gpu.copy(Stream::Compute, two + 16, one, 256).expect("copy");
    gpu.fill(Stream::Compute, two + 16, 7, 2).expect("fill");
    let mut back = vec![0u8; 256];
    gpu.download(Stream::Compute, &mut back, two + 16).expect("download");
    assert_eq!((&back[..2], &back[2..]), (&[7, 7][..], &bytes[2..]));
    let mut pinned = gpu.pinned(256).expect("pinned");
    assert_eq!(pinned.as_slice(), [0; 256]);
    pinned.as_mut_slice().copy_from_slice(&bytes);
    // SAFETY: nothing touches the pinned memory until the event has passed.
    unsafe { gpu.upload_pinned(Stream::Copy, one, &pinned, 100..104) }.expect("upload");

    // Streams and events.
    let (first, second) = (gpu.record(Stream::Copy).expect("event"), gpu.record(Stream::Copy).expect("event"));
    gpu.wait(Stream::Compute, &first).expect("wait");
    gpu.wait_on_host(&second).expect("wait");
    assert_eq!(gpu.elapsed(&first, &second).expect("time"), 0.25);
    gpu.download(Stream::Compute, &mut back[..4], one).expect("download");
    assert_eq!(back[..4], [100, 101, 102, 103]);

    // Kernels.
    let image = |bytes: &[u8], kind| Image { name: "test".into(), kind, bytes: bytes.into() };
    let error = gpu.load(&image(b"PTX", ImageKind::Ptx)).expect_err("no machine code").to_string();
    assert_eq!(error, "test: a GPU loads machine code, not Ptx");
    let error = gpu.load(&image(b"PTX", ImageKind::Cubin)).expect_err("no machine code").to_string();
    assert!(error.starts_with("loading test fails: "), "{error}");
    let module = gpu.load(&image(b"\x7fELF", ImageKind::Cubin)).expect("loaded");
    let function = |name: &str| Function { module: module.clone(), name: name.to_owned() };
    let launch = Launch { cluster: [2, 1, 1], ..Launch::linear(4, 32).with_shared(64) };
    let arguments = |value| Arguments::new().address(one).u32(3).f32(value);
    let floats = || {
        let mut bytes = [0u8; 12];
        gpu.download(Stream::Compute, &mut bytes, one).expect("download");
        [0, 4, 8].map(|at| f32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes")))
    };
    gpu.launch(Stream::Compute, &function("fill"), &launch, &arguments(2.5)).expect("launch");
    assert_eq!(floats(), [2.5; 3]);
    let error = gpu.launch(Stream::Compute, &function("none"), &launch, &arguments(1.0)).expect_err("no kernel");
    assert!(error.to_string().starts_with("the search for kernel none fails: "), "{error}");
    let error = gpu.launch(Stream::Compute, &function("fill"), &launch, &Arguments::new()).expect_err("too few");
    assert_eq!(error.to_string(), "launch of fill: its parameters have [8, 4, 4] bytes, the arguments []");
    let wide = Launch { block: [64, 1, 1], ..launch };
    let error = gpu.launch(Stream::Compute, &function("fill"), &wide, &arguments(1.0)).expect_err("another block");
    assert!(error.to_string().starts_with("launch of fill fails: "), "{error}");

    // Graphs.
    let linear = Launch::linear(4, 32).with_shared(64);
    let submit = |value| gpu.launch(Stream::Compute, &function("fill"), &linear, &arguments(value));
    let graph = gpu.capture(&mut || submit(9.0)).expect("captured");
    assert_eq!(floats(), [2.5; 3], "nothing has run yet");
    gpu.replay(&graph).expect("replayed");
    assert_eq!(floats(), [9.0; 3]);
    let refused = gpu.capture(&mut || Err(engine::Error::invalid("refused")));
    assert_eq!(refused.expect_err("the error of the work").to_string(), "refused");
    submit(1.0).expect("launches run again after a capture that failed");
    assert_eq!(floats(), [1.0; 3]);

    // Tensor maps: the values of cuda.h.
    let spec = TensorMapSpec {
        address: one,
        element: DType::BF16,
        sizes: vec![64, 9],
        strides_bytes: vec![128],
        box_sizes: vec![64, 8],
        swizzle: Swizzle::B128,
        fill: Fill::Nan,
    };
    let words = |spec: &TensorMapSpec| -> Vec<u64> {
        let map = gpu.tensor_map(spec).expect("encoded");
        map.bytes().chunks_exact(8).take(11).map(|word| u64::from_ne_bytes(word.try_into().expect("eight"))).collect()
    };
    assert_eq!(words(&spec), [9, 2, one, 9, 128, 8, 1, 0, 3, 2, 1]);
    let plain = TensorMapSpec { element: DType::U8, swizzle: Swizzle::None, fill: Fill::Zero, ..spec.clone() };
    assert_eq!(words(&plain), [0, 2, one, 9, 128, 8, 1, 0, 0, 2, 0]);
    let others = [(DType::F32, 7), (DType::I32, 3)];
    for (element, code) in others {
        let spec =
            TensorMapSpec { element, box_sizes: vec![16, 8], swizzle: Swizzle::B64, fill: Fill::Zero, ..spec.clone() };
        assert_eq!((words(&spec)[0], words(&spec)[8]), (code, 2));
    }
    assert!(gpu.tensor_map(&TensorMapSpec { sizes: vec![], ..spec }).is_err());

    gpu.synchronize().expect("done");
    gpu.free(one).expect("freed");
    assert!(gpu.free(one).is_err(), "freed twice");
    gpu.free(two).expect("freed");
    // The driver may go before its handles.
    drop(gpu);
    drop((module, graph, first, pinned));
}
