//! The machine and the moment of a measurement, to stand beside every figure.

use engine::Queue;
use serde::Serialize;

/// Where and when.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's own name.
    pub processor: String,
    /// Instruction-set path in use.
    pub isa: String,
    /// Threads in use.
    pub threads: usize,
    /// Seconds since 1970.
    pub unix_seconds: u64,
}

impl Machine {
    /// This machine, as the queue uses it.
    ///
    /// # Errors
    /// The queue is not the processor's.
    pub fn now(queue: &Queue) -> engine::Result<Machine> {
        let cpu = queue.cpu("the benches of the processor")?;
        let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = information.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let family = field("cpu family").zip(field("model\t")).map(|(family, model)| format!(" {family}/{model}"));
        let processor = field("model name").unwrap_or_else(|| "unknown".into()) + &family.unwrap_or_default();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Ok(Machine {
            processor,
            isa: cpu.isa().to_string(),
            threads: cpu.threads(),
            unix_seconds: since.map_or(0, |since| since.as_secs()),
        })
    }
}

/// Most memory that this process has held, in bytes.
pub fn peak_bytes() -> u64 {
    // SAFETY: plain data, filled by the call below.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a valid target and pointer.
    match unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } {
        0 => usage.ru_maxrss as u64 * 1024,
        _ => 0,
    }
}
