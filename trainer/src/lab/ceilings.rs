//! What the machine could do at best, measured beside the kernels: multiply-adds by storage type and instruction set, bytes
//! by level of the memory. The roofline of an op comes from these (Williams, Waterman and Patterson, "Roofline", 2009).

use crate::Result;
use engine::cpu::{Caches, Isa};
use engine::{Cost, CpuQueue, DType, Queue};
use kernels::gauge::{self, WorkingSet};
use serde::{Deserialize, Serialize};

/// Times that everything is measured before the first op.
const REPEATS: usize = 5;

/// Rate of arithmetic out of registers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compute {
    /// Instruction-set path.
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
    /// From the level 1 cache outwards.
    pub memory: Vec<Level>,
}

impl Ceilings {
    /// Rate of arithmetic on this path; 0 if it was not measured.
    pub fn flops_per_second(&self, isa: &str, dtype: DType) -> f64 {
        let found = self.compute.iter().find(|compute| compute.isa == isa && compute.dtype == dtype);
        found.map_or(0.0, |compute| compute.flops_per_second)
    }

    /// Index of the level that holds so many bytes.
    pub fn level(&self, footprint: usize) -> usize {
        let holds = |level: &Level| level.capacity_bytes.is_none_or(|capacity| footprint <= capacity);
        self.memory.iter().position(holds).unwrap_or(self.memory.len() - 1)
    }

    /// Least seconds in which `bytes` of a working set of `footprint` bytes move: of it each level keeps what fits beside
    /// what the faster ones keep.
    pub fn seconds_to_move(&self, bytes: f64, footprint: usize) -> f64 {
        let (mut kept, mut seconds) = (0, 0.0);
        for level in &self.memory {
            let reach = level.capacity_bytes.map_or(footprint, |capacity| capacity.min(footprint)).max(kept);
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

/// The means to measure the ceilings again beside each op: clocks and neighbours change within seconds.
#[derive(Debug)]
pub struct Gauges {
    queue: Queue,
    isa: Isa,
    sets: Vec<WorkingSet>,
    ceilings: Ceilings,
}

impl Gauges {
    /// Measures everything: arithmetic on every path of this machine, all levels on the queue's.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn new(queue: &Queue) -> Result<Gauges> {
        let cpu = queue.cpu("the kernel lab")?;
        let (threads, caches) = (cpu.threads(), Caches::detect());
        let mut compute = Vec::new();
        for isa in Isa::available() {
            let own = Queue::Cpu(CpuQueue::new(isa, threads)?);
            let mut add = |dtype, flops_per_second| {
                compute.push(Compute { isa: isa.name().to_owned(), dtype, flops_per_second });
            };
            let single = gauge::flops_per_second(&own, DType::F32)?;
            add(DType::F32, single);
            add(DType::BF16, if has_bf16(isa) { gauge::flops_per_second(&own, DType::BF16)? } else { single });
        }
        // A working set of half a cache is in it and in no faster one.
        let mut sets = Vec::new();
        let mut memory = Vec::new();
        let levels = [("L1", caches.l1 * threads), ("L2", caches.l2 * threads), ("L3", caches.l3)];
        let mut largest = 0;
        for (name, capacity) in levels {
            // A third level that is no larger than the second ones together adds nothing.
            if capacity > largest {
                largest = capacity;
                sets.push(WorkingSet::new(queue, capacity / 2)?);
                memory.push((name, Some(capacity)));
            }
        }
        sets.push(WorkingSet::new(queue, (4 * largest).max(192 << 20))?);
        memory.push(("memory", None));
        let level = |((name, capacity_bytes), set): ((&str, _), &WorkingSet)| Level {
            name: name.to_owned(),
            capacity_bytes,
            measured_bytes: set.bytes(),
            read_bytes_per_second: 0.0,
            copy_bytes_per_second: 0.0,
        };
        let memory: Vec<Level> = memory.into_iter().zip(&sets).map(level).collect();
        let mut gauges = Gauges { queue: queue.clone(), isa: cpu.isa(), sets, ceilings: Ceilings { compute, memory } };
        for _ in 0..REPEATS {
            for level in 0..gauges.sets.len() {
                gauges.move_bytes(level)?;
            }
        }
        Ok(gauges)
    }

    /// The best that was seen so far.
    pub fn ceilings(&self) -> &Ceilings {
        &self.ceilings
    }

    /// The ceiling that bounds an op, measured once more: operations or bytes a second now.
    ///
    /// # Errors
    /// None on the processor.
    pub fn now(&mut self, bound: &Bound, dtype: DType) -> Result<f64> {
        match bound {
            Bound::Compute => self.multiply_add(dtype),
            Bound::Memory(level) => self.move_bytes(*level),
        }
    }

    fn multiply_add(&mut self, dtype: DType) -> Result<f64> {
        let rate = gauge::flops_per_second_now(&self.queue, dtype)?;
        for compute in &mut self.ceilings.compute {
            if compute.isa == self.isa.name() && (compute.dtype == dtype || !has_bf16(self.isa)) {
                compute.flops_per_second = compute.flops_per_second.max(rate);
            }
        }
        Ok(rate)
    }

    fn move_bytes(&mut self, level: usize) -> Result<f64> {
        let (set, seen) = (&self.sets[level], &mut self.ceilings.memory[level]);
        let (read, copy) = (set.read_bytes_per_second(&self.queue)?, set.copy_bytes_per_second(&self.queue)?);
        seen.read_bytes_per_second = seen.read_bytes_per_second.max(read);
        seen.copy_bytes_per_second = seen.copy_bytes_per_second.max(copy);
        Ok(read.max(copy))
    }
}

/// Whether a path multiplies bf16 as it is; the others widen it and reach what they reach in f32.
fn has_bf16(isa: Isa) -> bool {
    isa == Isa::Avx512Bf16
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
