//! What this CPU can do: instruction sets, caches, cores. `COCA_ISA` forces a slower path so that one machine tests all.

use crate::{Error, Result};
use std::fmt;
use std::sync::OnceLock;

/// An instruction-set path, slowest first; a path may use everything that the ones before it use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, any CPU.
    Scalar,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with the bf16 dot product `vdpbf16ps`.
    Avx512Bf16,
}

impl Isa {
    /// All paths, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// The name that `COCA_ISA` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
        }
    }

    /// True if this CPU and operating system can run the path.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match self {
                Isa::Scalar => true,
                Isa::Avx2 => avx2,
                Isa::Avx512 => avx512,
                Isa::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Scalar
        }
    }

    /// The paths that this machine can run, slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The best path of this machine.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available().last().unwrap_or(Isa::Scalar))
    }

    /// The path to use: `COCA_ISA` if set, else the best. An unknown or unavailable name is an error.
    pub fn from_env() -> Result<Isa> {
        match std::env::var("COCA_ISA") {
            Ok(name) if !name.is_empty() => Isa::parse(&name),
            _ => Ok(Isa::best()),
        }
    }

    /// A path by name; an error if the name is unknown or the machine lacks it.
    pub fn parse(name: &str) -> Result<Isa> {
        let known = || Isa::ALL.map(Isa::name).join(", ");
        let isa = Isa::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| Error::invalid(format!("COCA_ISA: unknown path '{name}', use one of {}", known())))?;
        if !isa.is_available() {
            let best = Isa::best();
            return Err(Error::invalid(format!("COCA_ISA: this CPU cannot run '{name}', its best path is '{best}'")));
        }
        Ok(isa)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Data cache sizes in bytes, as one core sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// Level 1 data.
    pub l1: usize,
    /// Level 2.
    pub l2: usize,
    /// Level 3, whole.
    pub l3: usize,
}

impl Caches {
    /// The caches of CPU 0 as Linux reports them; 32 KiB, 512 KiB and 8 MiB where it does not.
    pub fn detect() -> Caches {
        static CACHES: OnceLock<Caches> = OnceLock::new();
        *CACHES.get_or_init(|| {
            let mut caches = Caches { l1: 32 << 10, l2: 512 << 10, l3: 8 << 20 };
            for index in 0..8 {
                let read = |file: &str| {
                    let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}");
                    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
                };
                let (Some(level), Some(kind), Some(size)) = (read("level"), read("type"), read("size")) else { break };
                let Some(bytes) = size.strip_suffix('K').and_then(|k| k.parse::<usize>().ok()).map(|k| k << 10) else {
                    continue;
                };
                match (level.as_str(), kind.as_str()) {
                    ("1", "Data") => caches.l1 = bytes,
                    ("2", _) => caches.l2 = bytes,
                    ("3", _) => caches.l3 = bytes,
                    _ => {}
                }
            }
            caches
        })
    }
}

/// The number of threads to use: `COCA_THREADS` if set, else the cores that this process may use.
pub fn threads_from_env() -> Result<usize> {
    match std::env::var("COCA_THREADS") {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(count @ 1..=1024) => Ok(count),
            _ => Err(Error::invalid(format!("COCA_THREADS: '{text}' is not a number from 1 to 1024"))),
        },
        _ => Ok(std::thread::available_parallelism().map_or(1, |count| count.get())),
    }
}
