//! The machine's ceilings, measured: multiply-add rate by storage type, and memory bandwidth. Figures of kernels are
//! given as a share of these, taken in the same run, because clocks and neighbours vary.

pub(crate) mod cuda;

pub use cuda::{DeviceGauge, DeviceSet, Unit};

use engine::cpu::Isa;
use engine::{Buffer, DType, Queue, Result, Roofline};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that one measurement of a bandwidth moves at least: long beside waking the threads in any cache.
const MOVED_BYTES: usize = 64 << 20;
/// How long a rate is taken at least. Threads that have slept are woken on one core; those of a pool part after some milliseconds,
/// one that works beside a thread from outside may stay with it.
const GAUGED: Duration = Duration::from_millis(50);
/// Words that are read in one go: enough sums for two loads a cycle.
const CHUNK: usize = 64;
/// A working set that is in memory and in no cache.
const MEMORY_BYTES: usize = 192 << 20;

/// Multiply-adds per second, times two, that all threads of the queue, or all multiprocessors of its device, reach out of
/// registers in this storage type: the best of many moments.
pub fn flops_per_second(queue: &Queue, dtype: DType) -> Result<f64> {
    if let Queue::Cuda(cuda) = queue {
        let (gauge, unit) = (DeviceGauge::new(cuda)?, Unit::fastest(cuda.architecture(), dtype));
        return best(|| gauge.flops_per_second(unit));
    }
    queue.enter(|| best(|| flops_per_second_now(queue, dtype)))
}

/// The best rate of some time.
fn best(mut rate: impl FnMut() -> Result<f64>) -> Result<f64> {
    let (start, mut best) = (Instant::now(), 0.0f64);
    loop {
        best = best.max(rate()?);
        if start.elapsed() >= GAUGED {
            return Ok(best);
        }
    }
}

/// As [`flops_per_second`], of one moment of milliseconds and on the CPU alone.
pub fn flops_per_second_now(queue: &Queue, dtype: DType) -> Result<f64> {
    let cpu = queue.cpu("the gauge of arithmetic")?;
    // Milliseconds of work, beside which waking the threads does not count.
    let rounds = 1_000_000;
    let start = Instant::now();
    let flops = std::sync::Mutex::new(0.0);
    cpu.parallel(cpu.threads(), |_| {
        let done = burn(cpu.isa(), dtype, rounds);
        *flops.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += done;
    });
    let flops = flops.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(flops / start.elapsed().as_secs_f64())
}

/// Bytes per second read from memory by all threads, or from that of the queue's device.
pub fn read_bytes_per_second(queue: &Queue) -> Result<f64> {
    if let Queue::Cuda(cuda) = queue {
        let gauge = DeviceGauge::new(cuda)?;
        let set = gauge.working_set(4 * cuda.driver().properties().l2_bytes as usize)?;
        return best(|| gauge.read_bytes_per_second(&set));
    }
    let set = WorkingSet::new(queue, MEMORY_BYTES)?;
    queue.enter(|| best(|| set.read_bytes_per_second(queue)))
}

/// Memory of a size, a part for each thread of a queue, whose bandwidth can be measured again and again: that of the cache
/// that holds it.
#[derive(Debug)]
pub struct WorkingSet {
    buffer: Arc<Buffer>,
    /// Words of a thread's part.
    part: usize,
    passes: usize,
}

impl WorkingSet {
    /// About this many bytes over all threads of the queue.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn new(queue: &Queue, bytes: usize) -> Result<WorkingSet> {
        let cpu = queue.cpu("the gauge of memory")?;
        // Whole chunks of what is read and copied at a time.
        let part = (bytes / 4 / cpu.threads()).next_multiple_of(2 * CHUNK);
        let buffer = Buffer::zeroed(part * cpu.threads() * 4)?;
        buffer.write(0, &vec![1.0f32; part * cpu.threads()])?;
        Ok(WorkingSet { passes: (MOVED_BYTES / buffer.bytes()).max(1), buffer, part })
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// Bytes per second that the threads of the queue, which must be as many as it was made for, read together, each its
    /// own part again and again.
    pub fn read_bytes_per_second(&self, queue: &Queue) -> Result<f64> {
        self.bytes_per_second(queue, |isa, words| {
            assert!(read(isa, words) > 0.0, "the reads were not optimised away");
        })
    }

    /// As [`WorkingSet::read_bytes_per_second`], copying one half of each part to the other; bytes read and bytes written
    /// count.
    pub fn copy_bytes_per_second(&self, queue: &Queue) -> Result<f64> {
        self.bytes_per_second(queue, |_, words| {
            let (to, from) = words.split_at_mut(words.len() / 2);
            to.copy_from_slice(from);
        })
    }

    fn bytes_per_second(&self, queue: &Queue, pass: impl Fn(Isa, &mut [f32]) + Sync) -> Result<f64> {
        let cpu = queue.cpu("the gauge of memory")?;
        let threads = self.bytes() / 4 / self.part;
        let start = Instant::now();
        cpu.parallel(threads, |index| {
            // SAFETY: a part of its own for each task; the buffer is this set's alone.
            let Ok(words) = (unsafe { self.buffer.slice_mut::<f32>(index * self.part * 4, self.part) }) else { return };
            for _ in 0..self.passes {
                pass(cpu.isa(), std::hint::black_box(&mut *words));
            }
        });
        Ok((self.bytes() * self.passes) as f64 / start.elapsed().as_secs_f64())
    }
}

/// Both ceilings for a storage type.
pub fn roofline(queue: &Queue, dtype: DType) -> Result<Roofline> {
    Ok(Roofline { flops_per_second: flops_per_second(queue, dtype)?, bytes_per_second: read_bytes_per_second(queue)? })
}

crate::vectorized! {
    fn read(words: &[f32]) -> f32 {
        let mut lanes = [0.0f32; CHUNK];
        for chunk in words.chunks_exact(CHUNK) {
            for (lane, word) in lanes.iter_mut().zip(chunk) {
                *lane += word;
            }
        }
        lanes.iter().sum()
    }
}

/// Runs the ISA's multiply-add in registers; returns the floating-point operations done.
fn burn(isa: Isa, dtype: DType, rounds: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    match (isa, dtype) {
        // SAFETY: the queue's ISA is available.
        (Isa::Avx512Bf16, DType::BF16) => return unsafe { burn_bf16(rounds) },
        // SAFETY: as above.
        (Isa::Avx512 | Isa::Avx512Bf16, _) => return unsafe { burn_avx512(rounds) },
        // SAFETY: as above.
        (Isa::Avx2, _) => return unsafe { burn_avx2(rounds) },
        (Isa::Scalar, _) => {}
    }
    let _ = (isa, dtype);
    let mut sums = [1.0f32; 16];
    let factor = std::hint::black_box(0.999_9f32);
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = *sum * factor + factor);
    }
    std::hint::black_box(sums);
    (rounds * 16 * 2) as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn burn_avx512(rounds: usize) -> f64 {
    use std::arch::x86_64::*;
    let factor = _mm512_set1_ps(std::hint::black_box(0.999_9));
    let mut sums = [factor; 16];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, factor, factor));
    }
    let total = sums.iter().fold(_mm512_setzero_ps(), |total, &sum| _mm512_add_ps(total, sum));
    std::hint::black_box(_mm512_reduce_add_ps(total));
    (rounds * 16 * 16 * 2) as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn burn_bf16(rounds: usize) -> f64 {
    use std::arch::x86_64::*;
    let ones = _mm512_set1_epi32(std::hint::black_box(0x3f80_3f80));
    // SAFETY: same size; the bits are bf16 pairs.
    let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(ones) };
    let mut sums = [_mm512_set1_ps(1.0); 16];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, ones, ones));
    }
    let total = sums.iter().fold(_mm512_setzero_ps(), |total, &sum| _mm512_add_ps(total, sum));
    std::hint::black_box(_mm512_reduce_add_ps(total));
    (rounds * 16 * 32 * 2) as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn burn_avx2(rounds: usize) -> f64 {
    use std::arch::x86_64::*;
    let factor = _mm256_set1_ps(std::hint::black_box(0.999_9));
    let mut sums = [factor; 12];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, factor, factor));
    }
    std::hint::black_box(sums);
    (rounds * 12 * 8 * 2) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::CpuQueue;

    #[test]
    fn ceilings_are_positive_on_every_isa() {
        for isa in Isa::available() {
            let queue = Queue::Cpu(CpuQueue::new(isa, 2).expect("threads"));
            for dtype in [DType::F32, DType::BF16] {
                assert!(flops_per_second(&queue, dtype).expect("a CPU") > 1e8, "{isa} {dtype}");
            }
        }
        let queue = Queue::Cpu(CpuQueue::new(Isa::best(), 2).expect("threads"));
        assert!(read_bytes_per_second(&queue).expect("memory") > 1e8);
    }

    #[test]
    fn small_working_sets_are_no_slower_than_memory() {
        let queue = Queue::Cpu(CpuQueue::new(Isa::best(), 1).expect("threads"));
        let best = |bytes| {
            let set = WorkingSet::new(&queue, bytes).expect("memory");
            let read = || set.read_bytes_per_second(&queue).expect("a CPU");
            let once = || read().max(set.copy_bytes_per_second(&queue).expect("a CPU"));
            (0..3).map(|_| once()).fold(0.0, f64::max)
        };
        // Twice would be true of any machine; a neighbour may have the first of them wait.
        assert!(best(16 << 10) > 0.8 * best(MEMORY_BYTES));
    }
}
