//! Barriers of a block and of a cluster.
use super::asynchronous::{Pending, Transfer};
use super::turn::Flow;
use super::warp::{State, Warp};
use super::{Machine, Place};
use crate::op::{Barrier, Predicate, Reg};
use crate::race::Object;
use crate::{Fault, FaultKind};

/// Barriers of a block.
const COUNT: usize = 16;

/// The sixteen barriers of a block.
#[derive(Debug)]
pub struct Barriers {
    barriers: [Arrivals; COUNT],
}

impl Default for Barriers {
    fn default() -> Self {
        Barriers { barriers: std::array::from_fn(|_| Arrivals::default()) }
    }
}

/// A barrier in use.
#[derive(Clone, Debug, Default)]
struct Arrivals {
    /// Warps that it waits for; none while the whole block is meant.
    expected: Option<u32>,
    /// Warps that arrived.
    arrived: u32,
    /// Those that wait, with the register that takes the reduction.
    waiting: Vec<(usize, Option<Reg>, Barrier, u32)>,
    /// Threads whose predicate holds, and threads that arrived with one.
    holding: u32,
    threads: u32,
}

impl Machine<'_> {
    pub(super) fn barrier(
        &mut self,
        place: Place,
        warp: &mut Warp,
        how: Barrier,
        id: Reg,
        count: Option<Reg>,
        p: Predicate,
        d: Option<Reg>,
        mask: u32,
    ) -> Result<Flow, Fault> {
        if !self.whole(warp, mask)? {
            return Ok(Flow::Blocked);
        }
        let lane = mask.trailing_zeros() as usize;
        let uniform = |warp: &Warp, register: Reg| {
            warp.need_word(register, mask)?;
            Ok::<u32, Fault>(warp.words[register as usize][lane])
        };
        let id = uniform(warp, id)?;
        let fail = |message: String| Err(Fault::new(FaultKind::Barrier, message));
        if id as usize >= COUNT {
            return fail(format!("barrier {id}; a block has {COUNT}"));
        }
        let expected = match count {
            Some(count) => {
                let threads = uniform(warp, count)?;
                if threads == 0 || !threads.is_multiple_of(32) {
                    return fail(format!("barrier {id} counts {threads} threads, which is not a multiple of 32"));
                }
                Some(threads / 32)
            }
            None => None,
        };
        warp.need_predicate(p, mask)?;
        let holding = (warp.holds(p) & mask).count_ones();
        self.counters.barrier_arrivals += 1;
        self.events += 1;
        let block = &mut self.clusters[place.cluster].blocks[place.block];
        let barrier = &mut block.barriers.barriers[id as usize];
        if barrier.arrived > 0 && barrier.expected != expected {
            let name =
                |count: Option<u32>| count.map_or("the whole block".into(), |warps| format!("{} threads", warps * 32));
            let message =
                format!("barrier {id} waits for {} and a warp arrives for {}", name(barrier.expected), name(expected));
            return fail(message);
        }
        barrier.expected = expected;
        barrier.arrived += 1;
        barrier.holding += holding;
        barrier.threads += mask.count_ones();
        if expected.is_some_and(|expected| barrier.arrived > expected) {
            return fail(format!(
                "more warps arrive at barrier {id} than the {} threads it waits for",
                32 * expected.unwrap_or(0)
            ));
        }
        let object = Object::Barrier { block: place.block as u32, id };
        if let Some(races) = self.clusters[place.cluster].races.as_mut() {
            races.arrive(place.race(), object);
        }
        warp.waiting_at = warp.pc;
        if how == Barrier::Arrive {
            self.try_barrier(place, id, None)?;
            return Ok(Flow::Next);
        }
        let block = &mut self.clusters[place.cluster].blocks[place.block];
        block.barriers.barriers[id as usize].waiting.push((place.warp, d, how, mask));
        warp.advance();
        warp.state = State::Barrier(id);
        self.try_barrier(place, id, Some(warp))?;
        Ok(if warp.state == State::Running { Flow::Jumped } else { Flow::Wait })
    }

    /// Opens a barrier when everybody is there. `current` is the warp that is being executed, if it waits there.
    fn try_barrier(&mut self, place: Place, id: u32, current: Option<&mut Warp>) -> Result<(), Fault> {
        let cluster = &mut self.clusters[place.cluster];
        let block = &mut cluster.blocks[place.block];
        let barrier = &mut block.barriers.barriers[id as usize];
        let expected = barrier.expected.unwrap_or(block.live);
        if barrier.arrived == 0 || barrier.arrived < expected {
            return Ok(());
        }
        let done = std::mem::take(barrier);
        let object = Object::Barrier { block: place.block as u32, id };
        if let Some(races) = cluster.races.as_mut() {
            races.complete(object);
        }
        let mut current = current;
        for (index, register, how, mask) in done.waiting {
            let warp = match &mut current {
                Some(current) if index == place.warp => &mut **current,
                _ => cluster.blocks[place.block].warps[index].as_mut().expect("a waiting warp is not being executed"),
            };
            warp.state = State::Running;
            if let Some(register) = register {
                let all = done.holding == done.threads;
                match how {
                    Barrier::ReduceCount => warp.set_word(register, &[done.holding; 32], mask),
                    Barrier::ReduceOr => {
                        warp.set_predicate(register, if done.holding > 0 { u32::MAX } else { 0 }, mask)
                    }
                    _ => warp.set_predicate(register, if all { u32::MAX } else { 0 }, mask),
                }
            }
            if let Some(races) = cluster.races.as_mut() {
                races.leave(Place { warp: index, ..place }.race(), object);
            }
        }
        self.events += 1;
        Ok(())
    }

    pub(super) fn cluster_arrive(
        &mut self,
        place: Place,
        warp: &mut Warp,
        relaxed: bool,
        mask: u32,
    ) -> Result<Flow, Fault> {
        if !self.whole(warp, mask)? {
            return Ok(Flow::Blocked);
        }
        let cluster = &mut self.clusters[place.cluster];
        if warp.cluster_phase.is_some() {
            let message = "the warp arrives at the barrier of the cluster again before it waited";
            return Err(Fault::new(FaultKind::Barrier, message));
        }
        warp.cluster_phase = Some(cluster.phase);
        cluster.arrived += 1;
        if let (Some(races), false) = (cluster.races.as_mut(), relaxed) {
            races.arrive(place.race(), Object::Cluster);
        }
        self.counters.barrier_arrivals += 1;
        self.events += 1;
        self.try_cluster(place.cluster);
        Ok(Flow::Next)
    }

    pub(super) fn cluster_wait(&mut self, place: Place, warp: &mut Warp, mask: u32) -> Result<Flow, Fault> {
        if !self.whole(warp, mask)? {
            return Ok(Flow::Blocked);
        }
        let cluster = &mut self.clusters[place.cluster];
        let Some(phase) = warp.cluster_phase else {
            let message = "the warp waits at the barrier of the cluster without having arrived";
            return Err(Fault::new(FaultKind::Barrier, message));
        };
        if cluster.phase == phase {
            warp.waiting_at = warp.pc;
            warp.state = State::Cluster;
            return Ok(Flow::Wait);
        }
        warp.cluster_phase = None;
        if let Some(races) = cluster.races.as_mut() {
            races.leave(place.race(), Object::Cluster);
        }
        Ok(Flow::Next)
    }

    /// Opens the barrier of a cluster when everybody is there; those that wait execute their wait again.
    fn try_cluster(&mut self, index: usize) {
        let cluster = &mut self.clusters[index];
        if cluster.arrived == 0 || cluster.arrived < cluster.live() {
            return;
        }
        cluster.arrived = 0;
        cluster.phase += 1;
        if let Some(races) = cluster.races.as_mut() {
            races.complete(Object::Cluster);
        }
        for warp in cluster.blocks.iter_mut().flat_map(|block| &mut block.warps).flatten() {
            if warp.state == State::Cluster {
                warp.state = State::Running;
            }
        }
        self.events += 1;
    }

    /// A warp has returned: barriers of the whole block or cluster wait for one less.
    pub(super) fn warp_ended(&mut self, place: Place) -> Result<(), Fault> {
        let block = &mut self.clusters[place.cluster].blocks[place.block];
        block.live -= 1;
        if block.live == 0 {
            self.block_ended(place)?;
        }
        for id in 0..COUNT {
            if self.clusters[place.cluster].blocks[place.block].barriers.barriers[id].expected.is_none() {
                self.try_barrier(place, id as u32, None)?;
            }
        }
        self.try_cluster(place.cluster);
        Ok(())
    }

    /// The shared memory of a block must outlive the bulk copies that read and write it.
    fn block_ended(&self, place: Place) -> Result<(), Fault> {
        let uses = |pending: &Pending| {
            let same = |rank: usize| pending.place.cluster == place.cluster && rank == place.block;
            match &pending.transfer {
                Transfer::Load { ranks, .. } => ranks.iter().any(|&rank| same(rank)),
                Transfer::Exchange { rank, .. } => same(*rank) || same(pending.place.block),
                Transfer::Store { .. } => same(pending.place.block),
                Transfer::Copy { .. } | Transfer::Arrive { .. } => false,
            }
        };
        match self.pending.iter().find(|pending| uses(pending)) {
            Some(pending) => {
                let message = "the block ended while this bulk copy was using its shared memory; wait for it";
                Err(Fault::new(FaultKind::Race, message).at_line(pending.line))
            }
            None => Ok(()),
        }
    }
}
