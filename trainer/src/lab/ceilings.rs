//! What the machine could do at best, measured beside the kernels: multiply-adds by storage type and instructions, bytes by
//! level of the memory. The roofline of an op comes from these (Williams, Waterman and Patterson, "Roofline", 2009).

use engine::{Cost, DType};
use serde::{Deserialize, Serialize};

/// Rate of arithmetic out of registers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compute {
    /// Instruction-set path or architecture; of a unit of a device that is not the fastest for its type, its instruction.
    pub isa: String,
    /// Storage type of the operands.
    pub dtype: DType,
    /// Floating-point operations a second of all threads; a multiply-add counts as two.
    pub flops_per_second: f64,
}

/// Bandwidth of a level of the memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// L1, L2, L3 or memory.
    pub name: String,
    /// Bytes that it holds for all threads together; of memory none are counted.
    pub capacity_bytes: Option<usize>,
    /// Bytes of the working set that was measured.
    pub measured_bytes: usize,
    /// Bytes a second that all threads read.
    pub read_bytes_per_second: f64,
    /// Bytes a second that all threads read and write while they copy.
    pub copy_bytes_per_second: f64,
}

impl Level {
    /// The better of both: no op moves bytes faster.
    pub fn bytes_per_second(&self) -> f64 {
        self.read_bytes_per_second.max(self.copy_bytes_per_second)
    }
}

/// What limits an op at best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Bytes; the level of this index in [`Ceilings::memory`] holds the op's working set.
    Memory(usize),
}

/// The ceilings of a run: the best that was seen in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// By instruction set, slowest first, and storage type.
    pub compute: Vec<Compute>,
    /// From the first cache outwards.
    pub memory: Vec<Level>,
    /// Whether runs take turns on copies of their buffers, so that all that a run touches comes from memory.
    #[serde(default)]
    pub rotated: bool,
}

impl Ceilings {
    /// Rate of arithmetic on this path; 0 if it was not measured.
    pub fn flops_per_second(&self, isa: &str, dtype: DType) -> f64 {
        let found = self.compute.iter().find(|compute| compute.isa == isa && compute.dtype == dtype);
        found.map_or(0.0, |compute| compute.flops_per_second)
    }

    /// Index of the level that so many bytes come from.
    pub fn level(&self, footprint: usize) -> usize {
        let holds = |level: &Level| match level.capacity_bytes {
            Some(capacity) => !self.rotated && footprint <= capacity,
            None => true,
        };
        self.memory.iter().position(holds).unwrap_or(self.memory.len() - 1)
    }

    /// Least seconds in which `bytes` of a working set of `footprint` bytes move: of it each level keeps what fits beside
    /// what the faster ones keep.
    pub fn seconds_to_move(&self, bytes: f64, footprint: usize) -> f64 {
        let (mut kept, mut seconds) = (0, 0.0);
        for level in &self.memory {
            let capacity = level.capacity_bytes.map_or(usize::MAX, |capacity| if self.rotated { 0 } else { capacity });
            let reach = capacity.min(footprint).max(kept);
            seconds += (reach - kept) as f64 / level.bytes_per_second();
            kept = reach;
        }
        bytes * seconds / footprint.max(1) as f64
    }

    /// Least seconds for work of this cost on this path.
    pub fn least_seconds(&self, isa: &str, dtype: DType, cost: Cost, footprint: usize) -> f64 {
        (cost.flops / self.flops_per_second(isa, dtype)).max(self.seconds_to_move(cost.bytes, footprint))
    }

    /// What limits such work.
    pub fn bound(&self, isa: &str, dtype: DType, cost: Cost, footprint: usize) -> Bound {
        let arithmetic = cost.flops / self.flops_per_second(isa, dtype);
        if arithmetic >= self.seconds_to_move(cost.bytes, footprint) {
            Bound::Compute
        } else {
            Bound::Memory(self.level(footprint))
        }
    }
}

#[cfg(test)]
pub(super) fn test_ceilings() -> Ceilings {
    let level = |name: &str, capacity_bytes, rate| Level {
        name: name.to_owned(),
        capacity_bytes,
        measured_bytes: 1,
        read_bytes_per_second: rate,
        copy_bytes_per_second: rate / 2.0,
    };
    Ceilings {
        compute: vec![Compute { isa: "avx2".into(), dtype: DType::F32, flops_per_second: 100e9 }],
        memory: vec![level("L1", Some(1000), 100e9), level("L2", Some(10_000), 50e9), level("memory", None, 10e9)],
        rotated: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_move_at_the_rate_of_what_holds_them() {
        let ceilings = test_ceilings();
        let close = |seconds: f64, wanted: f64| assert!((seconds / wanted - 1.0).abs() < 1e-12, "{seconds} {wanted}");
        close(ceilings.seconds_to_move(1000.0, 1000), 1000.0 / 100e9);
        // A tenth of it stays in the first level.
        close(ceilings.seconds_to_move(10_000.0, 10_000), 1000.0 / 100e9 + 9000.0 / 50e9);
        close(ceilings.seconds_to_move(40_000.0, 20_000), 2.0 * (1000.0 / 100e9 + 9000.0 / 50e9 + 10_000.0 / 10e9));
        assert_eq!([900, 1001, 10_001].map(|bytes| ceilings.level(bytes)), [0, 1, 2]);
        let rotated = Ceilings { rotated: true, ..ceilings };
        close(rotated.seconds_to_move(1000.0, 1000), 1000.0 / 10e9);
        assert_eq!([900, 10_001].map(|bytes| rotated.level(bytes)), [2, 2]);
    }

    #[test]
    fn the_slower_of_arithmetic_and_bytes_is_the_bound() {
        let ceilings = test_ceilings();
        let (dtype, few, many) = (DType::F32, Cost { flops: 1e3, bytes: 1e3 }, Cost { flops: 1e6, bytes: 1e3 });
        assert_eq!(ceilings.bound("avx2", dtype, many, 500), Bound::Compute);
        assert_eq!(ceilings.bound("avx2", dtype, Cost { flops: 1e3, bytes: 1e6 }, 50_000), Bound::Memory(2));
        assert!((ceilings.least_seconds("avx2", dtype, many, 500) - 1e-5).abs() < 1e-12);
        assert_eq!(ceilings.least_seconds("avx2", dtype, few, 500), 1e3 / 100e9);
    }
}
