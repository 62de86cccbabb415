//! Kernels as NVRTC compiles them, run through the engine's seam: results against Rust, counters against what they must
//! be.
use engine::cuda::{
    Architecture, Arguments, Driver, Fill, Function, ImageKind, Launch, Source, Stream, Swizzle, TensorMap,
    TensorMapSpec, Toolchain, compiler_or_skip,
};
use engine::{DType, Result};
use half::bf16;
use ptxemu::{Config, Counters, Emulator};

const PRELUDE: (&str, &str) = ("prelude.cuh", include_str!("cuda/prelude.cuh"));
const SIMPLE: &[(&str, &str)] = &[PRELUDE, ("simple.cu", include_str!("cuda/simple.cu"))];
const GEMM_SM80: &[(&str, &str)] = &[PRELUDE, ("gemm_sm80.cu", include_str!("cuda/gemm_sm80.cu"))];
const GEMM_SM90: &[(&str, &str)] = &[PRELUDE, ("gemm_sm90.cu", include_str!("cuda/gemm_sm90.cu"))];
const CLUSTER: &[(&str, &str)] = &[PRELUDE, ("cluster.cu", include_str!("cuda/cluster.cu"))];

/// A device with a compiled source.
struct Bench {
    device: Emulator,
    module: engine::cuda::Module,
}

impl Bench {
    /// None, and a note, without NVRTC.
    fn new(
        test: &str,
        parts: &'static [(&'static str, &'static str)],
        constants: &[(&str, i64)],
        compute_capability: (u32, u32),
        seed: u64,
    ) -> Option<Bench> {
        let compiler = compiler_or_skip(test)?;
        let constants = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
        let source = Source { name: "test", parts, constants };
        let architecture = Architecture::of(compute_capability).expect("supported");
        let compiled = compiler.compile(architecture, &source).unwrap_or_else(|error| panic!("{error}"));
        let device = Emulator::new(Config { compute_capability, seed, ..Config::default() });
        let module = device.load(&compiled.image(ImageKind::Ptx)).unwrap_or_else(|error| panic!("{error}"));
        Some(Bench { device, module })
    }

    fn upload<T: bytemuck::NoUninit>(&self, values: &[T]) -> Result<u64> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.device.allocate(bytes.len())?;
        self.device.upload(Stream::Compute, address, bytes)?;
        Ok(address)
    }

    fn download(&self, address: u64, count: usize) -> Result<Vec<f32>> {
        let mut values = vec![0f32; count];
        self.device.download(Stream::Compute, bytemuck::cast_slice_mut(&mut values), address)?;
        Ok(values)
    }

    fn launch(&self, name: &str, launch: Launch, arguments: &Arguments) -> Result<Counters> {
        let function = Function { module: self.module.clone(), name: name.into() };
        self.device.take_counters();
        self.device.launch(Stream::Compute, &function, &launch, arguments)?;
        Ok(self.device.take_counters())
    }
}

/// Numbers between -1 and 1 that look random.
fn numbers(count: usize, salt: u32) -> Vec<f32> {
    let mut state = salt;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn elementwise_reduction_and_transpose() -> Result<()> {
    for compute_capability in [(8, 0), (9, 0)] {
        let test = "elementwise_reduction_and_transpose";
        let Some(bench) = Bench::new(test, SIMPLE, &[("PADDING", 1)], compute_capability, 3) else { return Ok(()) };
        let (a, b) = (numbers(1000, 1), numbers(1000, 2));
        let (a_at, b_at, sum_at) = (bench.upload(&a)?, bench.upload(&b)?, bench.device.allocate(4000)?);
        let arguments = Arguments::new().address(a_at).address(b_at).address(sum_at).i32(1000);
        let counters = bench.launch("add", Launch::linear(2, 128), &arguments)?;
        let sum = bench.download(sum_at, 1000)?;
        assert!((0..1000).all(|i| sum[i] == a[i] + b[i]));
        assert_eq!(counters.global_load_bytes, 8000);
        assert_eq!(counters.global_load_sectors, 250, "every sector is loaded once");

        let rows = numbers(5 * 300, 3);
        let (rows_at, sums_at, finished_at) =
            (bench.upload(&rows)?, bench.device.allocate(20)?, bench.upload(&[0u32])?);
        let arguments = Arguments::new().address(rows_at).address(sums_at).address(finished_at).i32(300);
        bench.launch("row_sums", Launch::linear(5, 128), &arguments)?;
        for (found, row) in bench.download(sums_at, 5)?.iter().zip(rows.chunks(300)) {
            let expected: f64 = row.iter().map(|&x| f64::from(x)).sum();
            assert!((f64::from(*found) - expected).abs() < 300.0 * 6e-8 * 4.0, "{found} and {expected}");
        }
        assert_eq!(bench.download(finished_at, 1)?[0].to_bits(), 5);

        let (rows, columns) = (45, 70);
        let from = numbers(rows * columns, 4);
        let (from_at, to_at) = (bench.upload(&from)?, bench.device.allocate(from.len() * 4)?);
        let arguments = Arguments::new().address(from_at).address(to_at).i32(rows as i32).i32(columns as i32);
        let launch = Launch { grid: [3, 2, 1], block: [256, 1, 1], cluster: [1; 3], shared_bytes: 0 };
        let counters = bench.launch("transpose", launch, &arguments)?;
        let to = bench.download(to_at, from.len())?;
        assert!((0..from.len()).all(|i| to[i % columns * rows + i / columns] == from[i]));
        assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "padded rows meet no bank twice");
    }
    Ok(())
}

#[test]
fn a_transpose_without_padding_has_conflicts() -> Result<()> {
    let test = "a_transpose_without_padding_has_conflicts";
    let Some(bench) = Bench::new(test, SIMPLE, &[("PADDING", 0)], (8, 0), 3) else { return Ok(()) };
    let (from, to) = (bench.upload(&numbers(1024, 4))?, bench.device.allocate(4096)?);
    let arguments = Arguments::new().address(from).address(to).i32(32).i32(32);
    let counters = bench.launch("transpose", Launch::linear(1, 256), &arguments)?;
    assert_eq!(counters.shared_ideal_wavefronts, 64);
    assert_eq!(counters.shared_wavefronts, 32 + 32 * 32, "32 rows written in one pass each, 32 columns read in 32");
    Ok(())
}

#[test]
fn the_maths_library() -> Result<()> {
    let Some(bench) = Bench::new("the_maths_library", SIMPLE, &[("PADDING", 1)], (9, 0), 1) else { return Ok(()) };
    let x: Vec<f32> = numbers(77, 9).iter().map(|v| v * 4.0).collect();
    let (x_at, y_at) = (bench.upload(&x)?, bench.device.allocate(4 * 77)?);
    bench.launch("maths", Launch::linear(1, 96), &Arguments::new().address(x_at).address(y_at).i32(77))?;
    for (i, found) in bench.download(y_at, 77)?.into_iter().enumerate() {
        let v = f64::from(x[i]);
        let terms = [
            v.exp(),
            (v * v + 1.0).ln(),
            error_function(v),
            v.tanh() / (1.0 + v * v),
            (v * v + 2.0).sqrt() + v.sin() * (v * v + 0.5).powf(0.3),
        ];
        let expected: f64 = terms[..=i % 5].iter().sum();
        assert!((f64::from(found) - expected).abs() < 3e-6 * expected.abs().max(1.0), "{i}: {found} and {expected}");
    }
    Ok(())
}

/// erf by its series, which converges everywhere and is exact enough up to 4.
fn error_function(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Random matrices, and their product A B^T in f64.
fn operands(m: usize, n: usize, k: usize) -> (Vec<bf16>, Vec<bf16>, Vec<f64>) {
    let round = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let (a, b) = (round(numbers(m * k, 5)), round(numbers(n * k, 6)));
    let dot = |i: usize, j: usize| (0..k).map(|x| a[i * k + x].to_f64() * b[j * k + x].to_f64()).sum();
    let product = (0..m * n).map(|at| dot(at / n, at % n)).collect();
    (a, b, product)
}

fn assert_close(found: &[f32], expected: &[f64], k: usize) {
    // Rounding to f32 once for each step along K of at most 16.
    let bound = k as f64 / 16.0 * 6e-8 * (k as f64).sqrt() * 4.0;
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(found) - expected).abs() < bound, "element {i}: {found} and {expected}, bound {bound}");
    }
}

#[test]
fn a_product_with_asynchronous_copies_and_mma_sync() -> Result<()> {
    let (m, n, k) = (128, 64, 128);
    let (a, b, expected) = operands(m, n, k);
    for (swizzle, conflicts) in [(1, 1), (0, 4)] {
        let test = "a_product_with_asynchronous_copies_and_mma_sync";
        let Some(bench) = Bench::new(test, GEMM_SM80, &[("SWIZZLE", swizzle)], (8, 0), 5) else { return Ok(()) };
        let (a, b, c) = (bench.upload(&a)?, bench.upload(&b)?, bench.device.allocate(m * n * 4)?);
        let arguments = Arguments::new().address(a).address(b).address(c).i32(m as i32).i32(n as i32).i32(k as i32);
        let launch = Launch { grid: [1, 2, 1], block: [128, 1, 1], cluster: [1; 3], shared_bytes: 0 };
        let counters = bench.launch("gemm", launch, &arguments)?;
        assert_close(&bench.download(c, m * n)?, &expected, k);
        assert_eq!(counters.matrix_flops, 2 * (m * n * k) as u64);
        // 4 matrices in each of 4 loads, for 2 halves of 4 steps in 4 warps of 2 blocks.
        assert!(counters.shared_wavefronts >= 4 * 4 * 2 * 4 * 4 * 2 * conflicts);
        assert_eq!(counters.shared_wavefronts == counters.shared_ideal_wavefronts, swizzle == 1);
    }
    Ok(())
}

fn tensor(
    device: &Emulator,
    address: u64,
    element: DType,
    sizes: [usize; 2],
    part: [u32; 2],
    swizzle: Swizzle,
) -> Result<TensorMap> {
    device.tensor_map(&TensorMapSpec {
        address,
        element,
        sizes: sizes.map(|size| size as u64).to_vec(),
        strides_bytes: vec![(sizes[0] * element.size()) as u64],
        box_sizes: part.to_vec(),
        swizzle,
        fill: Fill::Zero,
    })
}

#[test]
fn a_product_with_tensor_maps_and_wgmma() -> Result<()> {
    let (m, n, k) = (256, 64, 320);
    let (a, b, expected) = operands(m, n, k);
    let mut runs = Vec::new();
    for seed in [1, 2, 1] {
        let Some(bench) = Bench::new("a_product_with_tensor_maps_and_wgmma", GEMM_SM90, &[], (9, 0), seed) else {
            return Ok(());
        };
        let device = &bench.device;
        let (a, b, c) = (bench.upload(&a)?, bench.upload(&b)?, device.allocate(m * n * 4)?);
        let arguments = Arguments::new()
            .tensor_map(&tensor(device, a, DType::BF16, [k, m], [64, 128], Swizzle::B128)?)
            .tensor_map(&tensor(device, b, DType::BF16, [k, n], [64, 64], Swizzle::B128)?)
            .tensor_map(&tensor(device, c, DType::F32, [n, m], [64, 64], Swizzle::None)?)
            .i32(k as i32);
        let launch = Launch { grid: [1, 2, 1], block: [288, 1, 1], cluster: [1; 3], shared_bytes: 2 * 24576 };
        let counters = bench.launch("gemm", launch, &arguments)?;
        assert_close(&bench.download(c, m * n)?, &expected, k);
        assert_eq!(counters.matrix_flops, 2 * (m * n * k) as u64);
        assert_eq!(counters.asynchronous_load_bytes, (2 * 24576 * k / 64) as u64);
        assert_eq!(counters.asynchronous_store_bytes, (m * n * 4) as u64);
        runs.push(counters);
    }
    assert_eq!(runs[0], runs[2], "a seed repeats its schedule");
    assert_ne!(runs[0], runs[1], "another seed makes another one");
    Ok(())
}

#[test]
fn a_cluster_shares_its_memory() -> Result<()> {
    let input: Vec<f32> = (0..1024).map(|i| i as f32).collect();
    for seed in 1..=4 {
        let Some(bench) = Bench::new("a_cluster_shares_its_memory", CLUSTER, &[], (9, 0), seed) else { return Ok(()) };
        let device = &bench.device;
        let (input_at, out) = (bench.upload(&input)?, bench.upload(&[0.5f32; 1024])?);
        let bias = bench.upload(&[0.25f32; 1024])?;
        let map = |address| tensor(device, address, DType::F32, [32, 32], [32, 32], Swizzle::None);
        let arguments = Arguments::new().tensor_map(&map(input_at)?).tensor_map(&map(out)?).address(bias);
        bench.launch("exchange", Launch::linear(2, 128), &arguments)?;
        // Block r adds (r + 1) x[i] + (2 - r) x[1023 - i] + 0.25: together 3 (x[i] + x[1023 - i]) + 0.5.
        assert_eq!(bench.download(out, 1024)?, [3.0 * 1023.0 + 0.5 + 0.5; 1024]);
    }
    Ok(())
}

#[test]
fn faults_name_the_line_of_the_source() -> Result<()> {
    let test = "faults_name_the_line_of_the_source";
    let Some(bench) = Bench::new(test, SIMPLE, &[("PADDING", 1)], (9, 0), 1) else { return Ok(()) };
    let (a, b, sum) = (bench.upload(&[1f32; 100])?, bench.upload(&[1f32; 100])?, bench.device.allocate(400)?);
    let arguments = Arguments::new().address(a).address(b).address(sum).i32(101);
    let error = bench.launch("add", Launch::linear(1, 128), &arguments).unwrap_err().to_string();
    for part in ["OutOfBounds", "PTX line", "simple.cu:5", "kernel add", "block (0, 0, 0)", "warp 3", "ld.global"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    Ok(())
}

#[test]
fn a_graph_repeats_its_calls() -> Result<()> {
    let Some(bench) = Bench::new("a_graph_repeats_its_calls", SIMPLE, &[("PADDING", 1)], (8, 0), 1) else {
        return Ok(());
    };
    let device = &bench.device;
    let (a, b, sum) = (bench.upload(&[1f32; 64])?, bench.upload(&[2f32; 64])?, device.allocate(256)?);
    let function = Function { module: bench.module.clone(), name: "add".into() };
    let arguments = Arguments::new().address(a).address(b).address(sum).i32(64);
    let graph = device.capture(&mut || {
        device.launch(Stream::Compute, &function, &Launch::linear(1, 64), &arguments)?;
        device.copy(Stream::Compute, a, sum, 256)
    })?;
    assert!(!device.is_written(sum, 256)?, "a captured launch does not run");
    for replays in 1..=3 {
        device.replay(&graph)?;
        assert_eq!(bench.download(a, 64)?, [1.0 + 2.0 * replays as f32; 64]);
    }
    device.capture(&mut || device.upload(Stream::Compute, a, &[0])).unwrap_err();
    device.synchronize()
}
