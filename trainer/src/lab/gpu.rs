//! A device as figures are stamped with it: what the driver says, and its clocks through `nvidia-smi` where that is found.

use crate::machine::bytes;
use engine::CudaQueue;
use engine::cuda::Compiler;
use serde::{Deserialize, Serialize};
use std::process::{Command, Stdio};

/// What `nvidia-smi` is asked for, in the order of [`GpuState`] after the name.
const QUERY: &str =
    "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu";

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of its L2 cache.
    pub l2_bytes: u32,
    /// CUDA version that the driver supports, major and minor; none of what is no GPU.
    pub cuda: Option<(u32, u32)>,
    /// Version of the compiler, major and minor.
    pub nvrtc: Option<(u32, u32)>,
    /// Its state when it was looked at last; none without `nvidia-smi`.
    pub state: Option<GpuState>,
}

/// What `nvidia-smi` says; what a device does not tell is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuState {
    /// Version of the driver.
    pub driver: String,
    /// Clock of the multiprocessors in MHz.
    pub clock_mhz: Option<f64>,
    /// The most that it can be.
    pub most_clock_mhz: Option<f64>,
    /// Clock of the memory in MHz.
    pub memory_clock_mhz: Option<f64>,
    /// Power in watts.
    pub watts: Option<f64>,
    /// The most that it may draw.
    pub most_watts: Option<f64>,
    /// Temperature in degrees Celsius.
    pub celsius: Option<f64>,
}

impl Gpu {
    /// The device of a queue.
    pub fn of(queue: &CudaQueue) -> Gpu {
        let properties = queue.driver().properties();
        let mut gpu = Gpu {
            name: properties.name.clone(),
            compute_capability: properties.compute_capability,
            multiprocessors: properties.multiprocessors,
            memory_bytes: properties.memory_bytes,
            l2_bytes: properties.l2_bytes,
            cuda: properties.cuda,
            nvrtc: Compiler::find(properties.cuda).ok().map(|compiler| compiler.nvrtc().version()),
            state: None,
        };
        gpu.look_again();
        gpu
    }

    /// Asks for the state once more.
    pub fn look_again(&mut self) {
        let asked = Command::new("nvidia-smi")
            .args([QUERY, "--format=csv,noheader,nounits"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        if let Ok(output) = asked
            && let Some(state) = state(&self.name, &String::from_utf8_lossy(&output.stdout))
        {
            self.state = Some(state);
        }
    }

    /// One line: name, architecture, size, versions, clocks.
    pub fn summary(&self, architecture: &str) -> String {
        let mut text = format!("{}, {architecture}, {} multiprocessors, ", self.name, self.multiprocessors);
        text += &bytes(self.memory_bytes);
        for (name, version) in [("CUDA", self.cuda), ("NVRTC", self.nvrtc)] {
            if let Some((major, minor)) = version {
                text += &format!(", {name} {major}.{minor}");
            }
        }
        if let Some(state) = &self.state {
            text += &format!(", driver {}", state.driver);
            for (value, most, unit) in
                [(state.clock_mhz, state.most_clock_mhz, "MHz"), (state.watts, state.most_watts, "W")]
            {
                if let (Some(value), Some(most)) = (value, most) {
                    text += &format!(", {value:.0} of {most:.0} {unit}");
                }
            }
        }
        text
    }
}

/// The state of the first device of this name in an answer.
fn state(name: &str, answer: &str) -> Option<GpuState> {
    let lines = answer.lines().map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
    let found = lines.into_iter().find(|fields| fields.len() == 8 && fields[0] == name)?;
    let number = |place: usize| found[place].parse().ok();
    Some(GpuState {
        driver: found[1].to_owned(),
        clock_mhz: number(2),
        most_clock_mhz: number(3),
        memory_clock_mhz: number(4),
        watts: number(5),
        most_watts: number(6),
        celsius: number(7),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_and_told() {
        let answer = "NVIDIA T4, 1.0, 1, 2, 3, 4, 5, 6\nNVIDIA H100 80GB HBM3, 580.65.06, 1755, 1980, 2619, 612.5, 700.00, [N/A]\n";
        let found = state("NVIDIA H100 80GB HBM3", answer).unwrap();
        assert_eq!((found.driver.as_str(), found.clock_mhz, found.celsius), ("580.65.06", Some(1755.0), None));
        assert_eq!(state("another", answer), None);
        assert_eq!(state("NVIDIA T4", "NVIDIA T4, 1.0"), None);
        let gpu = Gpu {
            name: "NVIDIA H100 80GB HBM3".into(),
            compute_capability: (9, 0),
            multiprocessors: 132,
            memory_bytes: 80 << 30,
            l2_bytes: 50 << 20,
            cuda: Some((13, 0)),
            nvrtc: None,
            state: Some(found),
        };
        let wanted = "NVIDIA H100 80GB HBM3, sm_90a, 132 multiprocessors, 80.0 GiB, CUDA 13.0, driver 580.65.06, \
                      1755 of 1980 MHz, 612 of 700 W";
        assert_eq!(gpu.summary("sm_90a"), wanted);
    }
}
