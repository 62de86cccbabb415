//! The machine that a run happens on: processor, memory, GPU. Stamped on reports and shown by `coca doctor`.

use engine::cpu::{Caches, Isa};
use engine::cuda::Detected;
use serde::{Deserialize, Serialize};
use std::fs;

/// What was found out about this machine without running anything long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    /// The processor's name as the system gives it.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Vector extensions that matter here and that the processor has.
    pub features: Vec<String>,
    /// Instruction-set paths that can run, slowest first.
    pub isa_available: Vec<String>,
    /// Bytes of the level 1 data, level 2 and level 3 caches.
    pub caches: [usize; 3],
    /// Bytes of memory that this process may use at most; 0 if unknown.
    pub memory_total: u64,
    /// Bytes of memory that are free or can be freed; 0 if unknown.
    pub memory_available: u64,
    /// The GPUs, or why there are none.
    pub cuda: Detected,
}

impl Machine {
    /// Looks at this machine.
    pub fn detect() -> Machine {
        let caches = Caches::detect();
        let (memory_total, memory_available) = memory();
        Machine {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(1, |count| count.get()),
            features: features(),
            isa_available: Isa::available().map(|isa| isa.name().to_owned()).collect(),
            caches: [caches.l1, caches.l2, caches.l3],
            memory_total,
            memory_available,
            cuda: Detected::now(),
        }
    }

    /// One line: processor, cores, memory.
    pub fn summary(&self) -> String {
        let memory = if self.memory_total == 0 { String::new() } else { format!(", {}", bytes(self.memory_total)) };
        let cores = if self.cores == 1 { "core" } else { "cores" };
        format!("{}, {} {cores}{memory}, {}", self.processor, self.cores, self.system)
    }
}

/// Most bytes of memory that this process has held at a time; 0 if the system does not tell.
pub fn peak_memory() -> u64 {
    kibibytes("/proc/self/status", "VmHWM").unwrap_or(0)
}

/// Bytes of memory that this process holds now; 0 if the system does not tell.
pub fn resident_memory() -> u64 {
    kibibytes("/proc/self/status", "VmRSS").unwrap_or(0)
}

/// A number of bytes as a person reads it: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// The value of the first `key : value` line of a file under /proc.
fn field(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// Bytes of such a line whose value is in kB, by which the kernel means 1024.
fn kibibytes(file: &str, key: &str) -> Option<u64> {
    Some(field(file, key)?.strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".into())
}

fn features() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! found {
            ($($name:tt)+) => { [$(($name, is_x86_feature_detected!($name)),)+] };
        }
        let all = found!("sse4.2" "avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16" "avx512fp16");
        all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Vec::new()
    }
}

/// Total and available bytes, a container's limit counted.
fn memory() -> (u64, u64) {
    let total = kibibytes("/proc/meminfo", "MemTotal").unwrap_or(0);
    let available = kibibytes("/proc/meminfo", "MemAvailable").unwrap_or(0);
    let number = |file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    match (number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current")) {
        (Some(limit), used) if limit < total => (limit, available.min(limit.saturating_sub(used.unwrap_or(0)))),
        _ => (total, available),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        let texts = [0, 1023, 1024, 1536 << 20, 250 << 30].map(bytes);
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "250 GiB"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_sees_a_large_buffer() {
        let before = peak_memory();
        assert!(before > 0);
        let buffer = std::hint::black_box(vec![1u8; 64 << 20]);
        // Other tests run beside this one, so the peak may have been there before; it is never below what is held now.
        assert!(peak_memory() >= before.max(buffer.len() as u64));
    }

    #[test]
    fn this_machine_is_described_consistently() {
        let machine = Machine::detect();
        assert!(machine.cores >= 1);
        assert_eq!(machine.isa_available[0], "scalar");
        assert!(machine.memory_available <= machine.memory_total);
        #[cfg(target_arch = "x86_64")]
        for (path, feature) in [("avx2", "avx2"), ("avx512", "avx512f"), ("avx512bf16", "avx512bf16")] {
            let has = machine.features.iter().any(|name| name == feature);
            assert!(has || !machine.isa_available.iter().any(|name| name == path), "{path} without {feature}");
        }
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    }
}
