use super::*;
use crate::cli::{Cli, Command};
use clap::Parser;
use engine::cuda::compiler_or_skip;
use engine::{Meta, Op, Out, View};
use kernels::case::{Input, Pass, Tolerance};
use ptxemu::{Checks, Emulator};
use std::sync::Arc;

fn parse(line: &str) -> std::result::Result<BenchArgs, String> {
    let words = ["coca", "bench"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Some(Command::Bench(args)) => Ok(args),
        other => panic!("{other:?}"),
    }
}

/// The report of a run, and what it printed.
fn run(name: &str, line: &str) -> (Report, String) {
    run_with(name, line, bench)
}

fn run_with(name: &str, line: &str, bench: impl FnOnce(&BenchArgs) -> Result<Outcome>) -> (Report, String) {
    let folder = crate::test_folder(&format!("lab-{name}"));
    let file = folder.join("run.json");
    let mut args = parse(line).unwrap();
    args.json = Some(file.clone());
    args.html = Some(folder.join("run.html"));
    let outcome = bench(&args).unwrap();
    let report = baseline::load(&file).unwrap();
    let page = std::fs::read_to_string(folder.join("run.html")).unwrap();
    assert_eq!(page.matches("class=\"dot ours").count(), report.rows.iter().filter(|row| row.bytes > 0.0).count());
    let text = outcome.text.clone();
    outcome.judge().unwrap();
    (report, text)
}

#[test]
fn products_are_measured_end_to_end() {
    let (report, text) = run("products", "--shapes M=96,N=64,K=80 --shapes M=1,N=64,K=32 --threads 1 --seconds 0.05");
    assert_eq!(report.rows.len(), 12);
    for row in &report.rows {
        assert_eq!((row.check.passed(), row.calls), (Some(true), 1), "{row:?}");
        assert!(row.seconds.low <= row.seconds.median && row.seconds.median <= row.seconds.high);
        let percent = row.roofline_percent.unwrap();
        // A neighbour may slow every measurement of the ceilings more than this one.
        assert!(percent > 0.0 && percent < 130.0, "{row:?}");
        assert!(row.ceiling.median > 0.0 && text.contains(&row.name), "{row:?}");
    }
    assert_eq!(report.rows[0].flops, 2.0 * 96.0 * 64.0 * 80.0);
    let ceilings = &report.ceilings;
    assert!(ceilings.compute.iter().all(|compute| compute.flops_per_second > 1e8));
    assert!(ceilings.memory.iter().all(|level| level.read_bytes_per_second > 1e8 && level.copy_bytes_per_second > 1e8));
    assert_eq!(ceilings.memory.last().unwrap().name, "memory");
}

#[test]
fn programs_that_are_named_take_turns() {
    let folder = crate::test_folder("programs-for-lab");
    // A child writes it: a file that this process has open, or a child forked just then, could not be started.
    let write = |name: &str, case: &str| {
        let file = folder.join(name);
        let body = format!(
            r#"#!/bin/sh
            read list; echo '{{"name": "{name} 1", "ways": [""], "has": [[true], [true]]}}'
            while read line; do
                case "$line" in {case}) exit;; esac
                count=${{line##*'"count":'}}; echo "{{\"seconds\": ${{count%%[!0-9]*}}}}"
            done"#
        );
        let script = r#"printf %s "$1" > "$0" && chmod +x "$0""#;
        let status = std::process::Command::new("sh").args(["-c", script]).arg(&file).arg(body).status().unwrap();
        assert!(status.success());
        format!("--peer {}", file.display())
    };
    let (steady, fading) = (write("steady", "none"), write("fading", r#"*'"case":1,'*"#));
    let missing = folder.join("missing");
    let line = "matmul_n --shapes M=8,N=8,K=8 --dtype f32 --threads 1 --seconds 0.002";
    let (report, text) = run("programs", &format!("{line} {steady} {fading} {steady} --peer {}", missing.display()));
    assert_eq!(report.absent.len(), 2, "{text}");
    let names = |row: &Row| row.peers.iter().map(|peer| peer.name.clone()).collect::<Vec<_>>();
    assert_eq!(
        report.rows.iter().map(names).collect::<Vec<_>>(),
        [vec!["steady 1", "fading 1", "steady 1 #2"], vec!["steady 1", "steady 1 #2"]]
    );
    assert!(report.rows.iter().flat_map(|row| &row.peers).all(|peer| peer.seconds.median == 1.0));
    let failed =
        format!("fading 1 takes part no longer since it failed in forward {}: the peer ended", report.rows[1].name);
    let unknown = format!("--peer {} does not take part: No such file", missing.display());
    assert_eq!(report.absent[1], failed);
    assert!(report.absent[0].starts_with(&unknown) && text.contains(&failed), "{text}");
}

/// The queue of an emulated device; nothing without a compiler.
fn emulated(test: &str) -> Option<Queue> {
    let compiler = compiler_or_skip(test)?;
    let config = ptxemu::Config { compute_capability: (8, 0), multiprocessors: 2, seed: 1, checks: Checks::ALL };
    Some(Queue::Cuda(CudaQueue::new(Arc::new(Emulator::new(config)), compiler).unwrap()))
}

#[test]
fn products_are_measured_on_a_device() {
    let Some(queue) = emulated("products_are_measured_on_a_device") else { return };
    let (report, text) = run_with("device", "--shapes M=64,N=48,K=32 --seconds 0.001", |args| bench_on(queue, args));
    assert_eq!(report.rows.len(), 6);
    for row in &report.rows {
        assert_eq!((row.check.passed(), row.check.against.as_str()), (Some(true), "all of it in f64"), "{row:?}");
        assert!(row.roofline_percent.unwrap() > 0.0 && row.seconds.median > 0.0, "{row:?}");
    }
    let ceilings = &report.ceilings;
    let names: Vec<_> = ceilings.compute.iter().map(|compute| (compute.isa.as_str(), compute.dtype)).collect();
    assert_eq!(names, [("sm_80", DType::F32), ("sm_80", DType::BF16)]);
    // The emulator has no cache.
    assert!(ceilings.rotated && ceilings.memory.len() == 1 && ceilings.memory[0].name == "memory");
    let gpu = report.environment.gpu.as_ref().unwrap();
    assert_eq!((gpu.name.as_str(), gpu.multiprocessors, gpu.cuda), ("PTX emulator", 2, None));
    assert!(gpu.nvrtc.is_some() && text.starts_with("PTX emulator, sm_80, 2 multiprocessors"), "{text}");
}

/// An op that only the processor has.
#[derive(Clone, Debug)]
struct OnProcessor;

impl Op for OnProcessor {
    fn name(&self) -> &'static str {
        "on_processor"
    }
    fn infer(&self, inputs: &[Meta]) -> engine::Result<Vec<Meta>> {
        Ok(inputs.to_vec())
    }
    fn run(&self, queue: &Queue, _: &[View<'_>], _: &mut [Out<'_>]) -> engine::Result<()> {
        queue.cpu(self.name()).map(drop)
    }
    fn cost(&self, _: &[Meta]) -> Cost {
        Cost { flops: 1.0, bytes: 1.0 }
    }
}

#[test]
fn ops_without_a_kernel_are_named_and_left_out() {
    let Some(queue) = emulated("ops_without_a_kernel_are_named_and_left_out") else { return };
    let subject = Subject {
        name: "on_processor f32[4]".into(),
        pass: "forward",
        calls: 1,
        op: Arc::new(OnProcessor),
        inputs: vec![Input::variable([4], DType::F32)],
        run: Pass::Forward,
        results: 1,
        reference: None,
        tolerance: Tolerance::sum_of(1),
    };
    let gauges = Gauges::new(&queue).unwrap();
    let mut lab = Lab { queue, path: "sm_80".into(), gauges, seconds: 0.001 };
    let (measured, absent) = lab.ops(&[subject.clone(), subject], &parse("").unwrap()).unwrap();
    assert!(measured.is_empty());
    assert_eq!(absent, ["not measured, for want of a CUDA kernel: on_processor"]);
}

#[test]
fn the_ops_of_a_step_are_found_and_right() {
    let tiny = "--set data.train=emoji --set batch.size=4 --set model.overrides.vision.layers=1 \
                --set model.overrides.text.layers=1 --set model.overrides.decoder.layers=1";
    let config = crate::test_folder("lab-config");
    let file = config.join("run.toml");
    std::fs::write(&file, "[model]\npreset = \"emoji\"\ntokenizer = \"captions\"\n").unwrap();
    let (report, text) =
        run("nodes", &format!("--shapes from={} {tiny} --threads 1 --seconds 0.002 --dtype f32", file.display()));
    let phases = |phase: &str| report.rows.iter().filter(|row| row.pass == phase).count();
    assert!(phases("forward") >= 8 && phases("backward") >= 8, "{text}");
    let ops = ["attention ", "attention_backward ", "layer_norm ", "matmul_nt", "contrastive", "linear_cross_entropy"];
    for op in ops {
        assert!(report.rows.iter().any(|row| row.name.starts_with(op)), "{op}: {text}");
    }
    let wrong = |row: &&Row| row.check.passed() == Some(false);
    assert!(report.rows.iter().find(wrong).is_none(), "{text}");
    assert!(report.rows.iter().any(|row| row.calls > 1) && report.step.is_some());

    let (report, text) = run("step", &format!("model {tiny} --threads 1 --seconds 0.01 --peer none"));
    let whole = report.rows.last().unwrap();
    assert_eq!((whole.name.as_str(), whole.pass.as_str()), ("step", WHOLE), "{text}");
    assert!(report.absent[0].starts_with("peers have single ops"), "{text}");
    let parts: f64 = report.rows.iter().rev().skip(1).map(|row| row.flops).sum();
    assert!((whole.flops / parts - 1.0).abs() < 1e-9 && whole.flops > 0.0);
    assert!(report.rows.iter().any(|row| row.name == "optimizer") && report.rows.iter().any(|row| row.calls > 1));
}

#[test]
fn slower_kernels_fail_where_that_was_asked_for() {
    let folder = crate::test_folder("lab-baseline");
    let (mut report, _) = run("base", "matmul_nn --shapes M=64,N=64,K=64 --dtype f32 --threads 1 --seconds 0.05");
    let file = folder.join("base.json");
    let mut outcome = |factor: f64| {
        report.rows[0].seconds = report.rows[0].seconds.times(factor);
        std::fs::write(&file, serde_json::to_string(&report).unwrap()).unwrap();
        let line = "matmul_nn --shapes M=64,N=64,K=64 --dtype f32 --threads 1 --seconds 0.05 --fail-on-slower";
        let args = parse(&format!("{line} --baseline {}", file.display())).unwrap();
        bench(&args).unwrap()
    };
    // A kernel of a hundredth of the time, whatever the machine does meanwhile; then of a hundred times.
    let slower = outcome(0.01);
    assert!(slower.text.contains("1 SLOWER"), "{}", slower.text);
    assert!(slower.judge().unwrap_err().to_string().contains("1 rows are slower"));
    let faster = outcome(10_000.0);
    assert!(faster.text.contains("1 FASTER"), "{}", faster.text);
    assert!(faster.judge().is_ok());
}

#[test]
fn wrong_requests_are_refused() {
    let fails = |line: &str, part: &str| {
        let error = match parse(line) {
            Ok(args) => bench(&args).unwrap_err().to_string(),
            Err(error) => error,
        };
        assert!(error.contains(part), "{line}: {error}");
    };
    fails("--shapes 12", "neither from=CONFIG.toml nor M=");
    fails("--dtype f16", "use f32 or bf16");
    fails("--seconds 0", "from 0.001 to 3600");
    fails("--threads 0", "--threads");
    fails("--fail-on-slower", "--baseline");
    fails("--isa sse9", "unknown path 'sse9'");
    fails("--baseline none.json", "none.json");
    fails("model --shapes M=1,N=1,K=1 --threads 1", "--shapes from=CONFIG.toml");
    fails("--device gpu", "possible values: cpu, cuda");
    fails("--device cuda --threads 2", "--isa and --threads are of the processor");
    fails("--shapes from=none.toml --threads 1", "none.toml");
    fails("convolution --threads 1", "no op has 'convolution' in its name; there are activation, ");
}
