//! The ceilings of a device: multiply-adds by the unit that does them, bytes through its cache and from its memory. Times are
//! the device's own; the first launch of each kernel shows on values known in advance that it does its work.

use crate::cuda::{PACK_BYTES, PRELUDE, Part, SM80, SM90, part, size};
use engine::cuda::{Architecture, Arguments, CudaQueue, Launch, Source};
use engine::{Buffer, DType, Error, Result};
use std::sync::Arc;

const PARTS: &[Part] = &[PRELUDE, SM80, part!("gauge", "gauge.cu")];
const SM90_PARTS: &[Part] = &[PRELUDE, SM90, part!("gauge", "gauge_sm90.cu")];

const THREADS: usize = 256;
/// Blocks on each multiprocessor of what needs many warps.
const BLOCKS: usize = 8;
/// One measurement takes about so long, beside which a launch does not count.
const MEASURED_SECONDS: f64 = 1e-3;
/// Rounds at most, against clocks that stand still.
const MOST_ROUNDS: u32 = 1 << 24;
/// Bits of a pair of bf16 that a gauge of products varies: signs and fractions, so that values stay between 1 and 2.
const MASK: u32 = 0x807f_807f;
/// Bytes of memory a multiprocessor that are measured at least.
const LEAST_BYTES: usize = 64 << 10;

/// What multiplies and adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `fma` of f32.
    Fma,
    /// `mma.sync` of bf16: products of a warp.
    Mma,
    /// `wgmma` of bf16: products of four warps, on compute capability 9.0 alone.
    Wgmma,
}

impl Unit {
    /// The units of an architecture.
    pub fn available(architecture: Architecture) -> Vec<Unit> {
        let has_wgmma = architecture.compute_capability() == (9, 0);
        [Unit::Fma, Unit::Mma].into_iter().chain(has_wgmma.then_some(Unit::Wgmma)).collect()
    }

    /// The fastest one for a storage type.
    pub fn fastest(architecture: Architecture, dtype: DType) -> Unit {
        Unit::available(architecture).into_iter().rfind(|unit| unit.dtype() == dtype).unwrap_or(Unit::Fma)
    }

    /// The instruction.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Fma => "fma",
            Unit::Mma => "mma.sync",
            Unit::Wgmma => "wgmma",
        }
    }

    /// Type of its operands.
    pub fn dtype(self) -> DType {
        if self == Unit::Fma { DType::F32 } else { DType::BF16 }
    }

    /// Floating-point operations of a block in a round, and blocks on a multiprocessor.
    fn work(self) -> (usize, usize) {
        match self {
            Unit::Fma => (THREADS * 16 * 2, BLOCKS),
            Unit::Mma => (THREADS / 32 * 8 * (16 * 8 * 16 * 2), BLOCKS / 2),
            Unit::Wgmma => (THREADS / 128 * 4 * (64 * 256 * 16 * 2), 1),
        }
    }

    /// What a thread writes after `rounds` rounds of ones, or from 0 with a factor of a half.
    fn expected(self, rounds: u32) -> f32 {
        match self {
            Unit::Fma => 16.0 * (1.0 - 0.5f32.powi(rounds as i32)),
            Unit::Mma => (8 * 4 * 16 * rounds) as f32,
            Unit::Wgmma => (128 * 64 * rounds) as f32,
        }
    }
}

fn source(unit: Unit) -> Source {
    match unit {
        Unit::Wgmma => Source { name: "gauge_sm90", parts: SM90_PARTS, constants: Vec::new() },
        Unit::Fma | Unit::Mma => Source { name: "gauge", parts: PARTS, constants: Vec::new() },
    }
}

/// Every variant.
pub(crate) fn variants(architecture: Architecture) -> Vec<Source> {
    Unit::available(architecture).into_iter().filter(|&unit| unit != Unit::Mma).map(source).collect()
}

/// A device whose ceilings are measured.
#[derive(Debug)]
pub struct DeviceGauge {
    queue: CudaQueue,
    multiprocessors: usize,
    /// A word for each thread of the largest grid.
    out: Arc<Buffer>,
}

impl DeviceGauge {
    /// Compiles the kernels and runs each of them once.
    ///
    /// # Errors
    /// A kernel does not compile, does not run or does not do its work.
    pub fn new(queue: &CudaQueue) -> Result<DeviceGauge> {
        let multiprocessors = queue.driver().properties().multiprocessors as usize;
        let out = Buffer::on(queue.device(), multiprocessors * BLOCKS * THREADS * 4)?;
        let gauge = DeviceGauge { queue: queue.clone(), multiprocessors, out };
        for unit in Unit::available(queue.architecture()) {
            let rounds = 3;
            gauge.multiply_add(unit, rounds, true)?;
            let count = gauge.multiprocessors * unit.work().1 * THREADS;
            let (found, expected) = (gauge.out.read::<f32>(0, count)?, unit.expected(rounds));
            if let Some(wrong) = found.iter().find(|&&sum| sum != expected) {
                return Err(Error::invalid(format!("the gauge of {} gives {wrong} for {expected}", unit.name())));
            }
        }
        Ok(gauge)
    }

    /// The units of the device.
    pub fn units(&self) -> Vec<Unit> {
        Unit::available(self.queue.architecture())
    }

    /// Floating-point operations a second of a unit out of registers, or of shared memory for [`Unit::Wgmma`], of one
    /// moment of a millisecond; a multiply-add counts as two.
    ///
    /// # Errors
    /// The device fails, or has no such unit.
    pub fn flops_per_second(&self, unit: Unit) -> Result<f64> {
        let (flops, blocks) = unit.work();
        self.rate((flops * blocks * self.multiprocessors) as f64, |rounds| self.multiply_add(unit, rounds, false))
    }

    /// Memory of about this many bytes, or of as many as the device needs for a measurement; see [`DeviceSet`].
    ///
    /// # Errors
    /// Memory runs out, or the kernels do not do their work.
    pub fn working_set(&self, bytes: usize) -> Result<DeviceSet> {
        let bytes = bytes.max(LEAST_BYTES * self.multiprocessors).next_multiple_of(2 * PACK_BYTES);
        let words: Vec<u32> = (0..bytes as u32 / 4).collect();
        let set = DeviceSet { buffer: Buffer::on(self.queue.device(), bytes)? };
        set.buffer.write(0, bytemuck::cast_slice::<u32, u8>(&words))?;
        self.read(&set, 2)?;
        let sums = self.out.read::<i32>(0, self.multiprocessors * BLOCKS * THREADS)?;
        let total = |sum: u32, word: u32| sum.wrapping_add(word);
        let (found, expected) = (sums.into_iter().fold(0, |sum, word| total(sum, word as u32)), words.iter().copied());
        let expected = expected.fold(0, total).wrapping_mul(2);
        if found != expected {
            return Err(Error::invalid(format!("the gauge of reads gives {found} for {expected}")));
        }
        self.copy(&set, 1)?;
        let half = bytes / 8;
        if set.buffer.read::<u8>(0, bytes / 2)? != bytemuck::cast_slice::<u32, u8>(&words[half..]) {
            return Err(Error::invalid("the gauge of copies does not copy"));
        }
        Ok(set)
    }

    /// Bytes a second that all multiprocessors read of a working set, again and again.
    ///
    /// # Errors
    /// The device fails.
    pub fn read_bytes_per_second(&self, set: &DeviceSet) -> Result<f64> {
        self.rate(set.bytes() as f64, |passes| self.read(set, passes))
    }

    /// As [`DeviceGauge::read_bytes_per_second`], copying one half to the other; bytes read and bytes written count.
    ///
    /// # Errors
    /// The device fails.
    pub fn copy_bytes_per_second(&self, set: &DeviceSet) -> Result<f64> {
        self.rate(set.bytes() as f64, |passes| self.copy(set, passes))
    }

    /// Lets the units for a storage type work for about so many seconds, without waiting.
    ///
    /// # Errors
    /// The device fails.
    pub fn keep_busy(&self, dtype: DType, seconds: f64) -> Result<()> {
        let unit = Unit::fastest(self.queue.architecture(), dtype);
        let (flops, blocks) = unit.work();
        let rounds = self.flops_per_second(unit)? * seconds / (flops * blocks * self.multiprocessors) as f64;
        self.multiply_add(unit, (rounds as u32).clamp(1, MOST_ROUNDS), false)
    }

    /// Amount a second of what `launch` does in each of the rounds that it is given.
    fn rate(&self, per_round: f64, launch: impl Fn(u32) -> Result<()>) -> Result<f64> {
        let mut rounds = 1;
        loop {
            let seconds = self.queue.seconds(|| launch(rounds))?;
            if seconds >= MEASURED_SECONDS || rounds == MOST_ROUNDS {
                return Ok(per_round * f64::from(rounds) / seconds);
            }
            let more = (1.5 * MEASURED_SECONDS / seconds.max(1e-9)).clamp(2.0, 100.0);
            rounds = ((f64::from(rounds) * more) as u32).min(MOST_ROUNDS);
        }
    }

    fn multiply_add(&self, unit: Unit, rounds: u32, known: bool) -> Result<()> {
        let arguments = Arguments::new().address(self.out.address(0)).u32(rounds);
        let (kernel, arguments) = match unit {
            Unit::Fma if known => ("gauge_fma", arguments.f32(0.5).f32(0.0)),
            // A factor near 1 lets the sums change for thousands of rounds.
            Unit::Fma => ("gauge_fma", arguments.f32(0.9999).f32(1.0)),
            Unit::Mma => ("gauge_mma", arguments.u32(if known { 0 } else { MASK })),
            Unit::Wgmma => ("gauge_wgmma", arguments.u32(if known { 0 } else { MASK })),
        };
        let launch = Launch::linear(size("blocks", self.multiprocessors * unit.work().1)?, THREADS as u32);
        self.queue.launch(&source(unit), kernel, &launch, &arguments)
    }

    fn read(&self, set: &DeviceSet, passes: u32) -> Result<()> {
        let addresses = [self.out.address(0), set.buffer.address(0)];
        self.move_bytes("gauge_read", addresses, set.bytes() / PACK_BYTES, passes)
    }

    fn copy(&self, set: &DeviceSet, passes: u32) -> Result<()> {
        let to = set.buffer.address(0);
        let half = set.bytes() / 2;
        self.move_bytes("gauge_copy", [to, to + half as u64], half / PACK_BYTES, passes)
    }

    fn move_bytes(&self, kernel: &str, [to, from]: [u64; 2], packs: usize, passes: u32) -> Result<()> {
        let arguments = Arguments::new().address(to).address(from).u64(packs as u64).u32(passes);
        let launch = Launch::linear(size("blocks", self.multiprocessors * BLOCKS)?, THREADS as u32);
        self.queue.launch(&source(Unit::Fma), kernel, &launch, &arguments)
    }
}

/// Memory of a device whose bandwidth can be measured again and again: that of the cache that holds it.
#[derive(Debug)]
pub struct DeviceSet {
    buffer: Arc<Buffer>,
}

impl DeviceSet {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }
}
