//! The execution of a launch: blocks, warps, and the order in which they take turns.
//!
//! As many clusters as the device has multiprocessors are resident at once, in the order of the grid. In a round every
//! warp that can run gets a turn of random length; between turns, asynchronous operations complete at random. When no
//! warp gets on, one is completed by force; when there is none, the launch is deadlocked.
mod access;
mod addresses;
mod alu;
pub mod approximate;
mod asynchronous;
mod atomic;
mod barrier;
mod cluster;
mod collective;
mod complete;
mod contiguous;
pub mod float;
mod half;
mod isa;
pub mod lanes;
pub mod long;
mod matrix;
mod mbarriers;
mod random;
mod turn;
mod warp;
pub mod word;

use crate::gpu::{Config, Launch};
use crate::kernel::Kernel;
use crate::memory::Global;
use crate::race::GlobalShadow;
use crate::report::{Counters, Report};
use crate::{Fault, FaultKind};
use asynchronous::Pending;
use cluster::Cluster;
use isa::Isa;
use random::Random;
use std::sync::Arc;
use warp::{State, Warp};

/// Warp instructions that a launch may execute without any effect on others before it counts as stuck.
const IDLE_INSTRUCTIONS: u64 = 20_000_000;
/// Instructions of the shortest turns.
const SHORT_TURN: usize = 8;
/// Rounds in which every warp only waited before the launch counts as stuck.
const IDLE_ROUNDS: u32 = 64;

/// A warp of a resident cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index among the resident clusters.
    pub cluster: usize,
    /// Rank of the block in the cluster.
    pub block: usize,
    pub warp: usize,
}

/// How a turn of a warp ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It could go on.
    Ran,
    /// It waits for something, or has ended.
    Waits,
    /// It asked for something that has not happened and will ask again.
    Spins,
}

/// A launch in progress.
pub(crate) struct Machine<'a> {
    kernel: &'a Kernel,
    launch: &'a Launch,
    config: &'a Config,
    parameters: &'a [u8],
    /// Addresses of the module's variables.
    variables: &'a [u64],
    memory: &'a mut Global,
    isa: Isa,
    random: Random,
    counters: Counters,
    clusters: Vec<Cluster>,
    pending: Vec<Pending>,
    /// Issue number of the next asynchronous operation.
    order: u64,
    shadow: Option<Arc<GlobalShadow>>,
    /// Counts what others could notice: stores, arrivals, completions.
    events: u64,
    /// One in so many turns completes an asynchronous operation.
    laziness: usize,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(
        kernel: &'a Kernel,
        launch: &'a Launch,
        config: &'a Config,
        parameters: &'a [u8],
        variables: &'a [u64],
        memory: &'a mut Global,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let laziness = [1, 4, 30][random.below(3)];
        Machine {
            kernel,
            launch,
            config,
            parameters,
            variables,
            memory,
            isa: Isa::detect(),
            random,
            counters: Counters::default(),
            clusters: Vec::new(),
            pending: Vec::new(),
            order: 0,
            shadow: config.checks.races.then(|| Arc::new(GlobalShadow::default())),
            events: 0,
            laziness,
        }
    }

    /// Runs all blocks.
    pub(crate) fn run(mut self) -> Result<Report, Fault> {
        let per_axis: [u32; 3] = std::array::from_fn(|i| self.launch.grid[i] / self.launch.cluster[i]);
        let total: u64 = per_axis.iter().map(|&n| u64::from(n)).product();
        let resident = self.config.multiprocessors.max(1) as usize;
        let mut next = 0u64;
        let mut idle_rounds = 0;
        let mut last_event = (0, 0);
        loop {
            // What a cluster still has in the queue is over before another takes its place.
            while let Some(index) = self.pending.iter().position(|p| self.clusters[p.place.cluster].is_done()) {
                self.complete(index)?;
            }
            while next < total && self.clusters.iter().filter(|cluster| !cluster.is_done()).count() < resident {
                let index = next as u32;
                let xyz = [index % per_axis[0], index / per_axis[0] % per_axis[1], index / per_axis[0] / per_axis[1]];
                match self.clusters.iter().position(Cluster::is_done) {
                    Some(free) => {
                        let spare = self.clusters[free].take_files();
                        self.clusters[free] = Cluster::new(&self, xyz, index, spare);
                    }
                    None => self.clusters.push(Cluster::new(&self, xyz, index, Vec::new())),
                }
                next += 1;
            }
            let places = self.runnable();
            if places.is_empty() {
                if self.complete_any()? {
                    continue;
                }
                if self.clusters.iter().all(Cluster::is_done) {
                    break;
                }
                return Err(self.deadlock("no warp can run"));
            }
            let before = self.events;
            let mut ran = false;
            let start = self.random.below(places.len());
            for i in 0..places.len() {
                let place = places[(start + i) % places.len()];
                if self.warp_mut(place).state == State::Running {
                    ran |= self.turn(place)? == Turn::Ran;
                }
                if !self.pending.is_empty() && self.random.below(self.laziness) == 0 {
                    self.complete_any()?;
                }
            }
            if ran || self.events != before {
                idle_rounds = 0;
            } else if !self.complete_any()? {
                idle_rounds += 1;
                if idle_rounds == IDLE_ROUNDS {
                    return Err(self.deadlock("every warp waits"));
                }
            }
            if self.events != last_event.0 {
                last_event = (self.events, self.counters.warp_instructions);
            } else if self.counters.warp_instructions - last_event.1 > IDLE_INSTRUCTIONS && !self.complete_any()? {
                return Err(self.deadlock("the warps run without any effect"));
            }
        }
        let blocks = self.launch.grid.iter().map(|&n| u64::from(n)).product();
        Ok(Report { counters: self.counters, blocks })
    }

    fn runnable(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for (cluster, c) in self.clusters.iter().enumerate() {
            for (block, b) in c.blocks.iter().enumerate() {
                for (warp, w) in b.warps.iter().enumerate() {
                    if w.as_ref().is_some_and(|w| w.state == State::Running) {
                        places.push(Place { cluster, block, warp });
                    }
                }
            }
        }
        places
    }

    /// The warp at a place, which is not the one that is being executed.
    fn warp_mut(&mut self, place: Place) -> &mut Warp {
        let warp = &mut self.clusters[place.cluster].blocks[place.block].warps[place.warp];
        warp.as_mut().expect("the warp is not being executed")
    }

    /// Gives a warp its turn.
    fn turn(&mut self, place: Place) -> Result<Turn, Fault> {
        let budget = match self.random.below(4) {
            0 => 1 + self.random.below(SHORT_TURN),
            1 => 1 + self.random.below(60),
            _ => 1 + self.random.below(400),
        };
        let slot = &mut self.clusters[place.cluster].blocks[place.block].warps[place.warp];
        let mut warp = slot.take().expect("the warp is not being executed");
        if self.random.below(2) == 0 {
            warp.forget_deferred();
        }
        let mut result = self.execute(place, &mut warp, budget);
        if budget <= SHORT_TURN && matches!(result, Ok(Turn::Ran)) {
            // Too short to tell a warp that works from one that goes around a wait.
            result = Ok(Turn::Spins);
        }
        if matches!(result, Ok(Turn::Ran)) && self.random.below(4) == 0 {
            // Parted lanes go on independently: any group may be the next.
            warp.defer();
        }
        let result = result.map_err(|fault| self.placed(fault, place, &warp));
        self.clusters[place.cluster].blocks[place.block].warps[place.warp] = Some(warp);
        result
    }

    /// Completes a random asynchronous operation; false when there is none.
    fn complete_any(&mut self) -> Result<bool, Fault> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        let index = self.random.below(self.pending.len());
        self.complete(index)?;
        Ok(true)
    }

    /// Adds to a fault where it happened, as far as that is not in it yet.
    fn placed(&self, mut fault: Fault, place: Place, warp: &Warp) -> Fault {
        if fault.place.line.is_none() {
            let site = self.kernel.sites[(warp.pc as usize).min(self.kernel.sites.len() - 1)];
            fault.place.line = Some(site.line);
        }
        fault.place.warp.get_or_insert(place.warp as u32);
        fault.place.lanes.get_or_insert(warp.active);
        self.located(fault, place)
    }

    /// Adds block, kernel and source line.
    fn located(&self, mut fault: Fault, place: Place) -> Fault {
        if let Some(line) = fault.place.line
            && fault.place.source.is_none()
        {
            fault.place.source = self.kernel.source(line);
        }
        fault.place.kernel = Some(self.kernel.name.clone());
        fault.place.block.get_or_insert(self.clusters[place.cluster].blocks[place.block].index);
        fault
    }

    /// The report of a launch that does not get on: where every warp is.
    #[cold]
    fn deadlock(&self, why: &str) -> Fault {
        let mut lines = vec![format!("{why} and nothing is outstanding")];
        let mut first = None;
        for cluster in &self.clusters {
            for block in &cluster.blocks {
                for (index, warp) in block.warps.iter().enumerate() {
                    let Some(warp) = warp.as_ref().filter(|warp| warp.state != State::Done) else { continue };
                    for (pc, mask) in warp.groups() {
                        let pc = if warp.state == State::Running { pc } else { warp.waiting_at };
                        let site = self.kernel.sites[pc as usize];
                        first.get_or_insert((site, block.index, index as u32, mask));
                        let [x, y, z] = block.index;
                        let state = match warp.state {
                            State::Barrier(id) => format!("at barrier {id}"),
                            State::Cluster => "at the barrier of the cluster".into(),
                            State::Running | State::Done => "waiting".into(),
                        };
                        let source = self.kernel.source(site.line);
                        let source = source.map_or(String::new(), |(file, line)| format!(" ({file}:{line})"));
                        lines.push(format!(
                            "block ({x}, {y}, {z}) warp {index} lanes {mask:#010x} {state}, PTX line {}{source}",
                            site.line
                        ));
                    }
                }
                for (address, barrier) in block.mbarriers.iter() {
                    let (arrivals, bytes) = barrier.outstanding();
                    let phase = barrier.phase();
                    lines.push(format!(
                        "mbarrier {address:#x}: phase {phase} lacks {arrivals} arrivals and {bytes} bytes"
                    ));
                }
            }
        }
        let mut fault = Fault::new(FaultKind::Deadlock, lines.join("\n"));
        if let Some((site, block, warp, lanes)) = first {
            fault = fault.at_line(site.line);
            fault.place.source = self.kernel.source(site.line);
            fault.place.block = Some(block);
            fault.place.warp = Some(warp);
            fault.place.lanes = Some(lanes);
        }
        fault.place.kernel = Some(self.kernel.name.clone());
        fault
    }
}
