//! Where ops run. An op matches on the queue once and hands over to its code for that device.

use crate::cpu::{self, Isa};
use crate::cuda::CudaQueue;
use crate::{Buffer, Device, Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The device that executes a list of ops.
#[derive(Clone, Debug)]
pub enum Queue {
    /// This machine's processor.
    Cpu(CpuQueue),
    /// A GPU, or what stands for one.
    Cuda(CudaQueue),
}

impl Queue {
    /// The CPU with `COCA_ISA` and `COCA_THREADS` honoured, else the best path and all cores.
    pub fn cpu_from_env() -> Result<Queue> {
        Ok(Queue::Cpu(CpuQueue::new(Isa::from_env()?, cpu::threads_from_env()?)?))
    }

    /// The CPU's queue for code that has no other path; on another device an error that names the code.
    pub fn cpu(&self, name: &str) -> Result<&CpuQueue> {
        match self {
            Queue::Cpu(cpu) => Ok(cpu),
            Queue::Cuda(_) => Err(Error::NoKernel(format!("{name} has no CUDA kernel yet"))),
        }
    }

    /// Where the tensors lie that this queue works on.
    pub fn device(&self) -> &Device {
        match self {
            Queue::Cpu(_) => &Device::Cpu,
            Queue::Cuda(cuda) => cuda.device(),
        }
    }

    /// An error if memory is not that of this queue's device.
    pub fn check(&self, buffer: &Buffer) -> Result<()> {
        if self.device().is(buffer.device()) {
            return Ok(());
        }
        let (own, other) = (self.device(), buffer.device());
        Err(Error::invalid(format!(
            "{} bytes lie in the memory of {other}, they are to be worked on by {own}: move the parameters there with \
             Parameters::move_to before anything is made for them",
            buffer.bytes()
        )))
    }

    /// Runs `work` where its parallel regions are cheapest: on a worker of the pool.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Queue::Cpu(cpu) => cpu.pool.install(work),
            Queue::Cuda(_) => work(),
        }
    }
}

/// Tasks that a thread has at least of a pass, before they are made longer.
const TASKS: usize = 8;

/// Most grains of a task of a pass.
const MOST_GRAINS: usize = 8;

/// A thread pool and the instruction-set path that its kernels take.
#[derive(Clone, Debug)]
pub struct CpuQueue {
    isa: Isa,
    threads: usize,
    pool: Arc<rayon::ThreadPool>,
}

impl CpuQueue {
    /// A queue with its own pool of `threads` threads.
    pub fn new(isa: Isa, threads: usize) -> Result<CpuQueue> {
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("coca-cpu-{index}"))
            .build()
            .map_err(|error| Error::invalid(format!("cannot start {threads} threads: {error}")))?;
        Ok(CpuQueue { isa, threads, pool: Arc::new(pool) })
    }

    /// The instruction-set path of this queue.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads of this queue.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0) … task(count - 1)`, each once, handed out in order to whichever thread is free.
    ///
    /// What a task computes must not depend on which thread runs it nor on how many there are: results stay the same
    /// bits for any thread count. Choose `count` from the shapes alone where the split changes rounding (reductions).
    pub fn parallel(&self, count: usize, task: impl Fn(usize) + Sync) {
        if count <= 1 || self.threads == 1 {
            (0..count).for_each(task);
            return;
        }
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                task(index);
            }
        };
        self.pool.in_place_scope(|scope| {
            for _ in 1..self.threads.min(count) {
                scope.spawn(|_| work());
            }
            work();
        });
    }

    /// Splits `0..length` into ranges of `grain` (the last may be shorter) and runs them as tasks.
    pub fn parallel_ranges(&self, length: usize, grain: usize, task: impl Fn(std::ops::Range<usize>) + Sync) {
        let grain = grain.max(1);
        self.parallel(length.div_ceil(grain), |index| {
            let start = index * grain;
            task(start..(start + grain).min(length));
        });
    }

    /// As [`CpuQueue::parallel_ranges`], of several grains each while all threads still have tasks enough: for passes over memory,
    /// which are faster over long ranges, and whose results do not depend on how they are split.
    pub fn parallel_spans(&self, length: usize, grain: usize, task: impl Fn(std::ops::Range<usize>) + Sync) {
        let grain = grain.max(1);
        let grains = (length.div_ceil(grain) / (TASKS * self.threads)).clamp(1, MOST_GRAINS);
        self.parallel_ranges(length, grains * grain, task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn spans_are_whole_grains_that_cover_everything_once() {
        for threads in [1, 2, 5] {
            let queue = CpuQueue::new(Isa::Scalar, threads).expect("threads");
            for (length, grain, longest) in [(0, 4, 0), (3, 4, 3), (1000, 8, 64), (1 << 20, 16, 128), (77, 0, 8)] {
                let spans = Mutex::new(Vec::new());
                queue.parallel_spans(length, grain, |span| spans.lock().expect("no panics").push(span));
                let mut spans = spans.into_inner().expect("no panics");
                spans.sort_by_key(|span| span.start);
                let mut covered = 0;
                for span in &spans {
                    assert!(span.start == covered && span.start.is_multiple_of(grain.max(1)), "{span:?}");
                    assert!(span.len() <= longest && !span.is_empty(), "{span:?} of {length} by {grain}");
                    covered = span.end;
                }
                assert_eq!(covered, length);
                assert!(spans.len() >= (TASKS * threads).min(length.div_ceil(grain.max(1))));
            }
        }
    }
}
