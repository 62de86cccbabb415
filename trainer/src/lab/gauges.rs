//! The means to measure the ceilings again beside each op: clocks and neighbours change within seconds.

use super::ceilings::{Bound, Ceilings, Compute, Level};
use crate::Result;
use engine::cpu::{Caches, Isa};
use engine::{CpuQueue, CudaQueue, DType, Queue};
use kernels::gauge::{self, DeviceGauge, DeviceSet, Unit, WorkingSet};

/// Times that everything is measured before the first op.
const REPEATS: usize = 5;
/// A working set of at least this many bytes is in memory and in no cache.
const MEMORY_BYTES: usize = 192 << 20;
/// Seconds that a device works while it is asked for its clocks.
const LOAD_SECONDS: f64 = 0.5;

/// The ceilings of a run, and what measures them again.
#[derive(Debug)]
pub struct Gauges {
    meter: Meter,
    ceilings: Ceilings,
}

#[derive(Debug)]
enum Meter {
    Cpu { queue: Queue, isa: Isa, sets: Vec<WorkingSet> },
    Device { queue: CudaQueue, gauge: DeviceGauge, sets: Vec<DeviceSet> },
}

impl Gauges {
    /// Measures everything: arithmetic on every path of this machine or unit of the device, all levels of the memory.
    ///
    /// # Errors
    /// Memory runs out, or a device fails.
    pub fn new(queue: &Queue) -> Result<Gauges> {
        let mut gauges = match queue {
            Queue::Cpu(cpu) => Gauges::of_processor(queue, cpu)?,
            Queue::Cuda(cuda) => Gauges::of_device(cuda)?,
        };
        for _ in 0..REPEATS {
            for level in 0..gauges.ceilings.memory.len() {
                gauges.move_bytes(level)?;
            }
        }
        Ok(gauges)
    }

    fn of_processor(queue: &Queue, cpu: &CpuQueue) -> Result<Gauges> {
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
        let (mut sets, mut memory, mut largest) = (Vec::new(), Vec::new(), 0);
        for (name, capacity) in [("L1", caches.l1 * threads), ("L2", caches.l2 * threads), ("L3", caches.l3)] {
            // A third level that is no larger than the second ones together adds nothing.
            if capacity > largest {
                largest = capacity;
                sets.push(WorkingSet::new(queue, capacity / 2)?);
                memory.push((name, Some(capacity)));
            }
        }
        sets.push(WorkingSet::new(queue, (4 * largest).max(MEMORY_BYTES))?);
        memory.push(("memory", None));
        let memory = memory.into_iter().zip(&sets).map(|(about, set)| level(about, set.bytes())).collect();
        let meter = Meter::Cpu { queue: queue.clone(), isa: cpu.isa(), sets };
        Ok(Gauges { meter, ceilings: Ceilings { compute, memory, rotated: false } })
    }

    fn of_device(queue: &CudaQueue) -> Result<Gauges> {
        let gauge = DeviceGauge::new(queue)?;
        let mut compute = Vec::new();
        for unit in gauge.units() {
            let isa = path_of(queue, unit);
            let rate =
                (0..REPEATS).try_fold(0.0, |best: f64, _| gauge.flops_per_second(unit).map(|rate| rate.max(best)));
            compute.push(Compute { isa, dtype: unit.dtype(), flops_per_second: rate? });
        }
        let cache = queue.driver().properties().l2_bytes as usize;
        let (mut sets, mut memory) = (Vec::new(), Vec::new());
        if cache > 0 {
            sets.push(gauge.working_set(cache / 2)?);
            memory.push(("L2", Some(cache)));
        }
        sets.push(gauge.working_set(4 * cache)?);
        memory.push(("memory", None));
        let memory = memory.into_iter().zip(&sets).map(|(about, set)| level(about, set.bytes())).collect();
        let meter = Meter::Device { queue: queue.clone(), gauge, sets };
        Ok(Gauges { meter, ceilings: Ceilings { compute, memory, rotated: true } })
    }

    /// The best that was seen so far.
    pub fn ceilings(&self) -> &Ceilings {
        &self.ceilings
    }

    /// The ceiling that bounds an op, measured once more: operations or bytes a second now.
    ///
    /// # Errors
    /// A device fails.
    pub fn now(&mut self, bound: &Bound, dtype: DType) -> Result<f64> {
        match bound {
            Bound::Compute => self.multiply_add(dtype),
            Bound::Memory(level) => self.move_bytes(*level),
        }
    }

    /// Does something while a device works; on the processor that is at work anyway.
    ///
    /// # Errors
    /// A device fails.
    pub fn under_load(&self, work: impl FnOnce()) -> Result<()> {
        if let Meter::Device { queue, gauge, .. } = &self.meter {
            gauge.keep_busy(DType::BF16, LOAD_SECONDS)?;
            work();
            queue.synchronize()?;
        } else {
            work();
        }
        Ok(())
    }

    fn multiply_add(&mut self, dtype: DType) -> Result<f64> {
        let (rate, path, alike) = match &self.meter {
            Meter::Cpu { queue, isa, .. } => {
                (gauge::flops_per_second_now(queue, dtype)?, isa.name().to_owned(), !has_bf16(*isa))
            }
            Meter::Device { queue, gauge, .. } => {
                let unit = Unit::fastest(queue.architecture(), dtype);
                (gauge.flops_per_second(unit)?, path_of(queue, unit), false)
            }
        };
        for compute in &mut self.ceilings.compute {
            if compute.isa == path && (compute.dtype == dtype || alike) {
                compute.flops_per_second = compute.flops_per_second.max(rate);
            }
        }
        Ok(rate)
    }

    fn move_bytes(&mut self, level: usize) -> Result<f64> {
        let (read, copy) = match &self.meter {
            Meter::Cpu { queue, sets, .. } => {
                (sets[level].read_bytes_per_second(queue)?, sets[level].copy_bytes_per_second(queue)?)
            }
            Meter::Device { gauge, sets, .. } => {
                (gauge.read_bytes_per_second(&sets[level])?, gauge.copy_bytes_per_second(&sets[level])?)
            }
        };
        let seen = &mut self.ceilings.memory[level];
        seen.read_bytes_per_second = seen.read_bytes_per_second.max(read);
        seen.copy_bytes_per_second = seen.copy_bytes_per_second.max(copy);
        Ok(read.max(copy))
    }
}

fn level((name, capacity_bytes): (&str, Option<usize>), measured_bytes: usize) -> Level {
    let name = name.to_owned();
    Level { name, capacity_bytes, measured_bytes, read_bytes_per_second: 0.0, copy_bytes_per_second: 0.0 }
}

/// Whether a path multiplies bf16 as it is; the others widen it and reach what they reach in f32.
fn has_bf16(isa: Isa) -> bool {
    isa == Isa::Avx512Bf16
}

/// What the rate of a unit stands under: the architecture, or its instruction if another unit is faster.
fn path_of(queue: &CudaQueue, unit: Unit) -> String {
    let architecture = queue.architecture();
    if Unit::fastest(architecture, unit.dtype()) == unit { architecture.to_string() } else { unit.name().to_owned() }
}
