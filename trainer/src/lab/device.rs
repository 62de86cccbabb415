//! Runs of an op on a device. Copies of its program with buffers of their own take turns, so that the cache holds nothing of
//! what a run reads from the run before; the runs are one graph, so that launches do not count; times are the device's own.

use super::measure::Contestant;
use crate::Result;
use engine::cuda::Graph;
use engine::{CudaQueue, Queue};
use kernels::case::CaseProgram;

/// Copies at most: what is smaller than a hundredth of the cache is bound by its launch.
const MOST_COPIES: usize = 128;
/// One graph takes about so long.
const GRAPH_SECONDS: f64 = 1e-3;
/// Rounds over all copies in a graph at most.
const MOST_ROUNDS: f64 = 64.0;

/// Copies of buffers of `footprint` bytes that are twice as large together as a cache of `cache` bytes.
pub fn copies(cache: usize, footprint: usize) -> usize {
    (2 * cache).div_ceil(footprint.max(1)).clamp(1, MOST_COPIES)
}

/// A graph of runs of several copies of one program.
#[derive(Debug)]
pub struct DeviceRuns {
    queue: CudaQueue,
    graph: Graph,
    /// Runs in the graph.
    runs: usize,
    /// Own the memory that the graph works on.
    _programs: Vec<CaseProgram>,
}

impl DeviceRuns {
    /// Runs every copy once, then captures as many rounds of all as take about a millisecond.
    ///
    /// # Errors
    /// The op refuses, or the device fails.
    pub fn new(queue: &CudaQueue, mut programs: Vec<CaseProgram>) -> Result<DeviceRuns> {
        let plain = Queue::Cuda(queue.clone().with_graphs(false));
        let count = programs.len();
        let mut all = || programs.iter_mut().try_for_each(|program| program.run(&plain));
        all()?;
        let seconds = queue.seconds(&mut all)?;
        let rounds = (GRAPH_SECONDS / seconds.max(1e-9)).clamp(1.0, MOST_ROUNDS) as usize;
        let graph = queue.driver().capture(&mut || (0..rounds).try_for_each(|_| all()))?;
        Ok(DeviceRuns { queue: queue.clone(), graph, runs: rounds * count, _programs: programs })
    }
}

impl Contestant for DeviceRuns {
    /// As many whole graphs as hold the runs; the share of the seconds that `count` runs have.
    fn run(&mut self, count: usize) -> Result<f64> {
        let replays = count.div_ceil(self.runs);
        let driver = self.queue.driver();
        let seconds = self.queue.seconds(|| (0..replays).try_for_each(|_| driver.replay(&self.graph)))?;
        Ok(seconds * count as f64 / (replays * self.runs) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_twice_the_cache() {
        assert_eq!(copies(50 << 20, 30 << 20), 4);
        assert_eq!([copies(50 << 20, 100 << 20), copies(50 << 20, 1 << 30), copies(0, 0)], [1, 1, 1]);
        assert_eq!(copies(50 << 20, 10), MOST_COPIES);
    }
}
