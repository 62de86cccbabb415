//! Threads for parallel regions that follow each other within microseconds: they wait awake for a while, then asleep.
//!
//! The caller of a region takes part in it. A thread that wakes up late finds the region closed and is not waited for, so that
//! a short region never takes longer than its caller alone would have taken. One region runs at a time; one that begins
//! meanwhile, on another thread or within a task, runs on its caller alone.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, Thread};

/// Looks at the gate before a waiting thread lets the system run others: some twenty microseconds.
const SPINS: usize = 1000;
/// Looks after that, each behind others who want the core, before it goes to sleep.
const YIELDS: usize = 400;

/// In the gate: no thread may enter any more.
const CLOSED: u64 = 1 << 31;
/// In the gate: the threads inside.
const INSIDE: u64 = CLOSED - 1;
/// In the gate: the number of the region.
const REGION: u64 = 1 << 32;

/// What every thread of a region does: takes tasks until there are none.
type Work<'a> = &'a (dyn Fn() + Sync);

/// What threads and callers share.
struct Shared {
    /// Number of the region, whether it is closed, and how many threads are inside.
    gate: AtomicU64,
    /// The work of the region whose gate is open.
    work: UnsafeCell<Option<Work<'static>>>,
    stop: AtomicBool,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the work is written while the gate is closed and nobody is inside, and read by those inside alone.
unsafe impl Sync for Shared {}

/// A thread and whether it sleeps.
struct Worker {
    asleep: Arc<AtomicBool>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// The threads beside the callers'.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held by the region that runs.
    region: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads beside the caller's)", self.workers.len())
    }
}

impl Pool {
    /// Starts `count` threads.
    pub fn new(count: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(CLOSED),
            work: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { shared, workers: Vec::new(), region: Mutex::new(()) };
        for index in 0..count {
            let (shared, asleep) = (pool.shared.clone(), Arc::new(AtomicBool::new(false)));
            let flag = asleep.clone();
            let handle =
                thread::Builder::new().name(format!("coca-cpu-{}", index + 1)).spawn(move || serve(&shared, &flag))?;
            pool.workers.push(Worker { asleep, thread: handle.thread().clone(), handle: Some(handle) });
        }
        Ok(pool)
    }

    /// Runs `work` on the calling thread and, as they come, on up to `helpers` others; returns when all have left it.
    ///
    /// # Panics
    /// With what the work panicked with, if it did.
    pub fn run(&self, helpers: usize, work: Work<'_>) {
        let held = match self.region.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return work(),
        };
        let shared = &*self.shared;
        // SAFETY: nobody is inside; the lifetime ends after the last thread has left, which is waited for below.
        unsafe { *shared.work.get() = Some(std::mem::transmute::<Work<'_>, Work<'static>>(work)) };
        let region = (shared.gate.load(Ordering::Relaxed) & !(CLOSED | INSIDE)).wrapping_add(REGION);
        shared.gate.store(region, Ordering::SeqCst);
        for worker in self.workers.iter().take(helpers) {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(work));
        shared.gate.fetch_or(CLOSED, Ordering::AcqRel);
        wait(|| shared.gate.load(Ordering::Acquire) & INSIDE == 0, || thread::yield_now());
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(held);
        if let Err(payload) = own.and_then(|()| theirs.map_or(Ok(()), Err)) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A thread catches what its tasks panic with.
                let _ = handle.join();
            }
        }
    }
}

/// Looks at `done` until it holds, for a while closely, then with `pause` between.
fn wait(done: impl Fn() -> bool, mut pause: impl FnMut()) {
    for _ in 0..SPINS {
        if done() {
            return;
        }
        spin_loop();
    }
    while !done() {
        pause();
    }
}

/// A thread's life: enters each region that is open when it looks, once.
fn serve(shared: &Shared, asleep: &AtomicBool) {
    let mut last = 0;
    let region_of = |gate: u64| gate & !(CLOSED | INSIDE);
    loop {
        let is_open = |gate: u64| gate & CLOSED == 0 && region_of(gate) != last;
        let ready = || is_open(shared.gate.load(Ordering::SeqCst)) || shared.stop.load(Ordering::SeqCst);
        let mut yields = 0;
        wait(ready, || {
            yields += 1;
            if yields < YIELDS {
                thread::yield_now();
                return;
            }
            // Whoever opens the gate afterwards sees the flag; whoever did before is seen here.
            asleep.store(true, Ordering::SeqCst);
            if !ready() {
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        });
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let gate = shared.gate.load(Ordering::Acquire);
        if !is_open(gate) || shared.gate.compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            continue;
        }
        last = region_of(gate);
        // SAFETY: written before the gate was opened, and kept until this thread has left.
        let work = unsafe { *shared.work.get() };
        if let Some(Err(payload)) = work.map(|work| catch_unwind(AssertUnwindSafe(work))) {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        }
        shared.gate.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    /// Counts to `count` in tasks of one.
    fn tasks(pool: &Pool, count: usize) -> usize {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        pool.run(usize::MAX, &|| {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        done.into_inner()
    }

    #[test]
    fn every_task_runs_once_in_regions_close_and_far_apart() {
        let pool = Pool::new(3).expect("threads");
        for region in 0..2000 {
            assert_eq!(tasks(&pool, 1 + region % 37), 1 + region % 37);
            if region % 400 == 0 {
                thread::sleep(Duration::from_millis(20)); // long enough to fall asleep
            }
        }
    }

    #[test]
    fn others_help() {
        let pool = Pool::new(1).expect("threads");
        let (inside, both) = (AtomicUsize::new(0), AtomicBool::new(false));
        // Each thread stays until it has seen the other, or has given up.
        pool.run(1, &|| {
            inside.fetch_add(1, Ordering::SeqCst);
            let start = std::time::Instant::now();
            while !both.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(20) {
                both.fetch_or(inside.load(Ordering::SeqCst) == 2, Ordering::SeqCst);
                thread::yield_now();
            }
        });
        assert!(both.into_inner());
    }

    #[test]
    fn regions_within_regions_and_of_several_callers_run() {
        let pool = Pool::new(2).expect("threads");
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let next = AtomicUsize::new(0);
                        pool.run(2, &|| {
                            while next.fetch_add(1, Ordering::Relaxed) < 5 {
                                total.fetch_add(tasks(&pool, 3), Ordering::Relaxed);
                            }
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 5 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2).expect("threads");
        for panicking in [0, 7] {
            let next = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(2, &|| {
                    loop {
                        match next.fetch_add(1, Ordering::Relaxed) {
                            index if index == panicking => panic!("task {index}"),
                            index if index >= 20 => return,
                            _ => thread::sleep(Duration::from_millis(1)),
                        }
                    }
                })
            }));
            let payload = result.expect_err("a panic");
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {panicking}")));
            assert_eq!(tasks(&pool, 50), 50);
        }
    }
}
