//! The machine, the program and the moment of a measurement, to stand beside its figures.

use super::Gpu;
use crate::machine::Machine;
use engine::{Queue, cpu};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where, when and with what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of this program.
    pub version: String,
    /// Commit of the checkout that the program was built in, as it is now; none where there is no checkout.
    pub commit: Option<String>,
    /// Whether tracked files of the checkout differ from the commit.
    pub dirty: Option<bool>,
    /// `release`, or `debug` if assertions are on.
    pub build: String,
    /// Coordinated universal time, as ISO 8601 writes it.
    pub date: String,
    /// Operating system and architecture.
    pub system: String,
    /// The processor's own name.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of the level 1 data, level 2 and level 3 caches.
    pub caches: [usize; 3],
    /// Instruction-set path in use, or the architecture of the device.
    pub isa: String,
    /// Threads in use; beside a device those of the processor.
    pub threads: usize,
    /// Clocks of the cores in MHz at the start, as far as the system tells.
    pub clock_mhz: Vec<f64>,
    /// Processes that ran or waited to, on average over the minute before the start.
    pub load_average: Option<f64>,
    /// The device, if it is one that is measured.
    #[serde(default)]
    pub gpu: Option<Gpu>,
}

impl Environment {
    /// This machine, as the queue uses it.
    pub fn now(queue: &Queue) -> Environment {
        let machine = Machine::detect();
        let (isa, threads, gpu) = match queue {
            Queue::Cpu(cpu) => (cpu.isa().name().to_owned(), cpu.threads(), None),
            Queue::Cuda(cuda) => {
                let threads = cpu::threads_from_env().unwrap_or(machine.cores);
                (cuda.architecture().to_string(), threads, Some(Gpu::of(cuda)))
            }
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (commit, dirty) = checkout(Path::new(env!("CARGO_MANIFEST_DIR")));
        Environment {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit,
            dirty,
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            date: iso_date(since.as_secs()),
            system: machine.system,
            processor: machine.processor,
            cores: machine.cores,
            caches: machine.caches,
            isa,
            threads,
            clock_mhz: clocks(),
            load_average: load_average(),
            gpu,
        }
    }

    /// Asks the device for its clocks and the like once more: at work they are others than at rest.
    pub fn look_again(&mut self) {
        if let Some(gpu) = &mut self.gpu {
            gpu.look_again();
        }
    }

    /// One line: processor or device, path, threads, clock, load.
    pub fn machine(&self) -> String {
        if let Some(gpu) = &self.gpu {
            return gpu.summary(&self.isa);
        }
        let threads = if self.threads == 1 { "thread" } else { "threads" };
        let mut text = format!("{}, {}, {} {threads} of {}", self.processor, self.isa, self.threads, self.cores);
        if !self.clock_mhz.is_empty() {
            let mean = self.clock_mhz.iter().sum::<f64>() / self.clock_mhz.len() as f64;
            text += &format!(", {:.2} GHz", mean / 1e3);
        }
        if let Some(load) = self.load_average {
            text += &format!(", load {load:.1}");
        }
        text
    }

    /// Sentences about what makes figures worth less.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if let Some(load) = self.load_average.filter(|load| *load >= 1.0) {
            let cores = self.cores;
            doubts.push(format!("The machine was busy before the run: a load of {load:.1} on {cores} cores."));
        }
        if self.build != "release" {
            doubts.push(format!("This is a {} build: kernels are slower than in a release build.", self.build));
        }
        doubts
    }

    /// One line: version, build, commit, date.
    pub fn program(&self) -> String {
        let commit = self.commit.as_ref().map_or(String::new(), |commit| {
            let changed = if self.dirty == Some(true) { " with changes" } else { "" };
            format!(", commit {}{changed}", &commit[..commit.len().min(12)])
        });
        format!("coca {} ({}){commit}, {}", self.version, self.build, self.date)
    }
}

/// The commit of the checkout that a folder is in, and whether tracked files differ from it.
fn checkout(folder: &Path) -> (Option<String>, Option<bool>) {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let commit = git(&["rev-parse", "HEAD"]);
    let dirty = commit.as_ref().and_then(|_| git(&["status", "--porcelain", "--untracked-files=no"]));
    (commit, dirty.map(|changes| !changes.is_empty()))
}

/// The clock of every core, by the frequency driver or else by what the processor table says.
fn clocks() -> Vec<f64> {
    let driver = |core: usize| {
        let file = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq");
        std::fs::read_to_string(file).ok()?.trim().parse::<f64>().ok().map(|kilohertz| kilohertz / 1e3)
    };
    let of_driver: Vec<f64> = (0..).map_while(driver).collect();
    if !of_driver.is_empty() {
        return of_driver;
    }
    let table = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let lines = table.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() == "cpu MHz");
    lines.filter_map(|(_, value)| value.trim().parse().ok()).collect()
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// The date of a number of seconds since 1970.
fn iso_date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that leap days are last; eras of 400 years have the same days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
pub(super) fn test_environment() -> Environment {
    Environment {
        version: "1.2.3".into(),
        commit: Some("0123456789abcdef0123".into()),
        dirty: Some(true),
        build: "release".into(),
        date: iso_date(0),
        system: "linux x86_64".into(),
        processor: "A <processor>".into(),
        cores: 4,
        caches: [32 << 10, 512 << 10, 8 << 20],
        isa: "avx2".into(),
        threads: 2,
        clock_mhz: vec![3000.0, 3500.0],
        load_average: Some(0.5),
        gpu: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::CpuQueue;
    use engine::cpu::Isa;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @SECONDS +%FT%TZ` writes them.
        let dates = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ];
        for (seconds, date) in dates {
            assert_eq!(iso_date(seconds), date);
        }
    }

    #[test]
    fn lines_name_machine_and_program() {
        let environment = test_environment();
        assert_eq!(environment.machine(), "A <processor>, avx2, 2 threads of 4, 3.25 GHz, load 0.5");
        assert_eq!(
            environment.program(),
            "coca 1.2.3 (release), commit 0123456789ab with changes, 1970-01-01T00:00:00Z"
        );
    }

    #[test]
    fn doubts_are_told() {
        let environment = test_environment();
        assert!(environment.doubts().is_empty());
        let busy = Environment { load_average: Some(11.34), build: "debug".into(), ..environment };
        let doubts = busy.doubts().join("\n");
        assert!(doubts.contains("a load of 11.3 on 4 cores") && doubts.contains("a debug build"), "{doubts}");
    }

    #[test]
    fn this_machine_is_described() {
        let queue = Queue::Cpu(CpuQueue::new(Isa::Scalar, 1).unwrap());
        let environment = Environment::now(&queue);
        assert_eq!((environment.isa.as_str(), environment.threads), ("scalar", 1));
        assert!(environment.date.as_str() > "2026" && environment.cores >= 1);
        let text = serde_json::to_string(&environment).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), environment);
        assert_eq!(checkout(Path::new("/")), (None, None));
    }
}
