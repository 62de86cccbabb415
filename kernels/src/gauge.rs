//! The machine's ceilings, measured: multiply-add rate by storage type, and memory bandwidth. Figures of kernels are
//! given as a share of these, taken in the same run, because clocks and neighbours vary.

use engine::cpu::Isa;
use engine::{Buffer, DType, Queue, Result, Roofline, Shared};
use std::time::Instant;

/// Multiply-adds per second, times two, that all threads of the queue reach out of registers in this storage type.
pub fn flops_per_second(queue: &Queue, dtype: DType) -> Result<f64> {
    let cpu = queue.cpu("the gauge of arithmetic")?;
    // Milliseconds of work, beside which waking the threads does not count.
    let rounds = 1_000_000;
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            let flops = std::sync::Mutex::new(0.0);
            cpu.parallel(cpu.threads(), |_| {
                let done = burn(cpu.isa(), dtype, rounds);
                *flops.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += done;
            });
            let flops = flops.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
            flops / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max);
    Ok(best)
}

/// Bytes per second read from memory by all threads.
pub fn read_bytes_per_second(queue: &Queue) -> Result<f64> {
    let cpu = queue.cpu("the gauge of memory")?;
    const BYTES: usize = 192 << 20;
    let buffer = Buffer::zeroed(BYTES)?;
    // SAFETY: a buffer of this function's own.
    let words = unsafe { buffer.slice_mut::<f32>(0, BYTES / 4)? };
    words.fill(1.0);
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let start = Instant::now();
        let mut sums = vec![0.0f32; cpu.threads()];
        let share = Shared::new(&mut sums);
        let part = words.len() / cpu.threads();
        cpu.parallel(cpu.threads(), |index| {
            let total = read(cpu.isa(), &words[index * part..(index + 1) * part]);
            // SAFETY: one element a task.
            unsafe { share.part(index..index + 1)[0] = total };
        });
        let seconds = start.elapsed().as_secs_f64();
        assert!(sums.iter().all(|&sum| sum > 0.0), "the reads were not optimised away");
        best = best.max((part * cpu.threads() * 4) as f64 / seconds);
    }
    Ok(best)
}

/// Both ceilings for a storage type.
pub fn roofline(queue: &Queue, dtype: DType) -> Result<Roofline> {
    Ok(Roofline { flops_per_second: flops_per_second(queue, dtype)?, bytes_per_second: read_bytes_per_second(queue)? })
}

crate::vectorized! {
    fn read(words: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 64];
        for chunk in words.chunks_exact(64) {
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
}
