//! `coca doctor`: what this machine offers, what a run would use of it, and what is missing, in plain words.

use crate::Result;
use crate::machine::{Machine, bytes};
use engine::cpu::{Isa, threads_from_env};
use engine::cuda::{Compiler, Detected, DetectedDevice};
use engine::{DType, Queue};
use kernels::gauge;
use std::fmt::Write;

/// The report as text.
///
/// # Errors
/// `COCA_ISA` or `COCA_THREADS` asks for what cannot be, or there is no memory to measure with.
pub fn report() -> Result<String> {
    let machine = Machine::detect();
    let isa = Isa::from_env()?;
    let queue = Queue::cpu_from_env()?;
    let peak = |dtype| -> engine::Result<f64> { Ok(gauge::flops_per_second(&queue, dtype)? / 1e9) };
    let peaks = [peak(DType::F32)?, peak(DType::BF16)?];
    let bandwidth = gauge::read_bytes_per_second(&queue)? / 1e9;
    Ok(render(&machine, isa.name(), threads_from_env()?, &compiler(&machine.cuda)) + &render_peaks(peaks, bandwidth))
}

/// The compiler of CUDA kernels for the driver, or for any where there is none; or why there is none.
fn compiler(cuda: &Detected) -> String {
    let newest = match cuda {
        Detected::Found { cuda, .. } => Some(*cuda),
        Detected::Absent(_) => None,
    };
    match Compiler::find(newest) {
        Err(error) => format!("none: {error}"),
        Ok(compiler) => {
            let ((major, minor), path) = (compiler.nvrtc().version(), compiler.nvrtc().path().display());
            let kept = compiler.cache_folder().map(|folder| format!(", kernels kept in {}", folder.display()));
            format!("{major}.{minor}, {path}{}", kept.unwrap_or_default())
        }
    }
}

/// What the multiply-add units and the memory reach, measured by running them for a moment.
fn render_peaks([f32, bf16]: [f64; 2], bandwidth: f64) -> String {
    format!("{:<14}{f32:.0} GFLOP/s in f32, {bf16:.0} in bf16, {bandwidth:.1} GB/s from memory\n", "measured peak")
}

fn render(machine: &Machine, isa: &str, threads: usize, compiler: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}{value}");
    };
    let forced = |variable: &str| {
        if std::env::var_os(variable).is_some() { format!(", set by {variable}") } else { String::new() }
    };
    line("system", &machine.system);
    line("processor", &machine.processor);
    line("features", &machine.features.join(" "));
    line("paths", &format!("{} (used: {isa}{})", machine.isa_available.join(", "), forced("COCA_ISA")));
    line("threads", &format!("{threads} of {} cores{}", machine.cores, forced("COCA_THREADS")));
    let [l1, l2, l3] = machine.caches.map(|size| bytes(size as u64));
    line("caches", &format!("{l1} level 1 data, {l2} level 2, {l3} level 3"));
    match machine.memory_total {
        0 => line("memory", "unknown"),
        total => line("memory", &format!("{}, {} available", bytes(total), bytes(machine.memory_available))),
    }
    match &machine.cuda {
        Detected::Absent(reason) => line("GPU", &format!("none: {reason}")),
        Detected::Found { cuda: (major, minor), devices } => {
            line("GPU driver", &format!("CUDA {major}.{minor}"));
            for device in devices {
                let DetectedDevice { name, compute_capability: (major, minor), memory_bytes } = device;
                line("GPU", &format!("{name}, compute capability {major}.{minor}, {}", bytes(*memory_bytes)));
            }
        }
    }
    line("NVRTC", compiler);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_have_their_line() {
        assert_eq!(
            render_peaks([161.4, 322.0], 25.04),
            "measured peak 161 GFLOP/s in f32, 322 in bf16, 25.0 GB/s from memory\n"
        );
    }

    #[test]
    fn every_part_has_its_line() {
        let mut machine = Machine::detect();
        machine.memory_total = 8 << 30;
        machine.memory_available = 5 << 30;
        machine.cuda = Detected::Absent("no NVIDIA driver is installed (libcuda.so.1 is not found).".into());
        let text = render(&machine, "scalar", 3, "none: it is not found");
        assert!(text.contains("memory        8.0 GiB, 5.0 GiB available\n"), "{text}");
        assert!(
            text.contains("GPU           none: no NVIDIA driver is installed (libcuda.so.1 is not found).\n"),
            "{text}"
        );
        assert!(text.contains("(used: scalar"), "{text}");
        assert!(text.ends_with("NVRTC         none: it is not found\n"), "{text}");
        let device = DetectedDevice { name: "H100".into(), compute_capability: (9, 0), memory_bytes: 80 << 30 };
        machine.cuda = Detected::Found { cuda: (12, 8), devices: vec![device] };
        let text = render(&machine, "scalar", 3, "13.0, /lib/libnvrtc.so.13");
        assert!(
            text.contains("GPU driver    CUDA 12.8\nGPU           H100, compute capability 9.0, 80.0 GiB\nNVRTC         13.0, /lib"),
            "{text}"
        );
    }
}
