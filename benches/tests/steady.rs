//! After its first steps a training step takes no new memory: no page fault, and what its lists of tensors allocate is
//! small and given back.

use benches::step::OurStep;
use engine::cpu::Isa;
use engine::{CpuQueue, DType, Queue};
use model::config::CocaConfig;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which counts what it gives.
struct Counting;

/// The largest piece that was asked for.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Pages that the process has been given so far.
fn page_faults() -> i64 {
    // SAFETY: plain integers, for which zeros are values.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure belongs to this call.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) }, 0);
    usage.ru_minflt + usage.ru_majflt
}

#[test]
fn steps_take_no_new_memory() {
    for dtype in [DType::F32, DType::BF16] {
        let config = CocaConfig::preset("emoji").expect("a preset");
        let queue = Queue::Cpu(CpuQueue::new(Isa::best(), 2).expect("threads"));
        let mut step = OurStep::new(&queue, config, dtype, 64, 8).expect("a step");
        // Which thread takes which task is chance: each meets every op's largest piece within some steps.
        for _ in 0..10 {
            step.run().expect("a step");
        }
        // The system may take pages back meanwhile, some or for a while many, and a thread may only now meet the largest
        // piece of some op. Steps that took new memory would do so every time.
        let mut tens = Vec::new();
        let quiet = (0..20).any(|_| {
            LARGEST.store(0, Ordering::Relaxed);
            let before = page_faults();
            for _ in 0..10 {
                step.run().expect("a step");
            }
            let (faults, largest) = (page_faults() - before, LARGEST.load(Ordering::Relaxed));
            tens.push((faults, largest));
            faults <= 10 && largest <= 64 << 10
        });
        assert!(
            quiet,
            "{dtype}: in no ten steps of {} at most ten page faults and no large piece: (faults, largest) {tens:?}",
            tens.len()
        );
    }
}
