//! Races found with vector clocks, and the proxies of asynchronous copies.
//!
//! Agents are the warps, and for each warp its `cp.async` copies and the reads and the writes of its bulk copies; for each
//! warpgroup its `wgmma`; for each mbarrier the bulk loads that report to it. An agent's events are numbered; every word of
//! memory remembers the events that touched it (`shadow`), every agent and every object of synchronisation the newest events
//! of all agents that it knows to be over (`clock`). Two accesses of one word of which one writes are a race unless the
//! later one knew of the earlier. Knowledge moves only by
//! - barriers of a block or cluster and mbarriers: [`Races::arrive`], [`Races::complete`], [`Races::leave`];
//! - waits for groups of asynchronous operations: [`Races::wait`];
//! - atomic, acquire and release accesses, alone or with fences: [`Races::strong`], [`Races::fence`];
//! - `bar.warp.sync`, for lanes of one warp: [`Races::warp_sync`].
//!
//! Whatever the schedule was, a missing edge is found as soon as both accesses happened in one run. The asynchronous proxy
//! (bulk copies and `wgmma`, but not `cp.async`) must also know that writes of the generic proxy passed `fence.proxy.async`
//! ([`Races::proxy_fence`]); the fence may stand anywhere on the way between the two. Not looked for: the fence between
//! generic reads and an asynchronous write after them, which published kernels leave out.
//!
//! One [`Races`] belongs to a cluster and its thread; the blocks of a grid meet in a [`GlobalShadow`], a new one for each
//! launch, since launches of a stream are ordered. Without them nothing is checked and nothing is paid.
mod clock;
mod detector;
mod memory;
mod report;
mod shadow;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

pub use memory::GlobalShadow;
pub use report::Race;

use clock::Knowledge;
use report::Names;
use shadow::{Cell, Lists};

/// Agents of a warp: itself, its `cp.async`, the reads and the writes of its bulk copies, and the `wgmma` of the warpgroup
/// that it leads.
const AGENTS_OF_WARP: u32 = 5;
/// mbarriers of a cluster that can be told apart.
const MAXIMUM_MBARRIERS: u32 = 1024;

/// What a cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Index of the cluster in the grid, linear.
    pub cluster: u32,
    /// Blocks of the cluster.
    pub blocks: u32,
    /// Warps of a block.
    pub warps: u32,
    /// Address of the first byte of a block's shared memory.
    pub shared_base: u32,
    /// Bytes of a block's shared memory.
    pub shared_bytes: u32,
}

/// A warp, by the rank of its block in the cluster and its index in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Warp {
    /// Rank of the block in the cluster.
    pub block: u32,
    /// Index of the warp in the block.
    pub warp: u32,
}

/// Which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Shared memory of the block with this rank; addresses are those that this block uses itself.
    Shared(u32),
    /// Global memory.
    Global,
}

/// What a weak access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads.
    Read,
    /// Writes.
    Write,
}

/// An atomic operation, or a volatile, relaxed, acquire or release load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strong {
    /// Whether it writes: a store, `atom` or `red`.
    pub writes: bool,
    /// Whether it reads what others wrote: a load or `atom`; `red` does not.
    pub reads: bool,
    /// `.acquire` or `.acq_rel`.
    pub acquire: bool,
    /// `.release` or `.acq_rel`.
    pub release: bool,
}

/// How far a fence reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `.cta`.
    Block,
    /// `.cluster`, `.gpu` or `.sys`.
    Device,
}

/// Objects that agents synchronise through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// Barrier `id` of a block (`bar`, `barrier`).
    Barrier {
        /// Rank of the block.
        block: u32,
        /// Number of the barrier.
        id: u32,
    },
    /// The barrier of the cluster (`barrier.cluster`).
    Cluster,
    /// An mbarrier.
    Mbarrier {
        /// Rank of the block in whose shared memory it lies.
        block: u32,
        /// Its shared address there.
        address: u32,
    },
}

/// What executes asynchronous operations for a warp, in groups that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// `cp.async`; of the generic proxy.
    Copy,
    /// Bulk copies that end in a bulk group: stores and reductions.
    Bulk,
    /// `wgmma`; one for the four warps of a warpgroup.
    Matrix,
}

/// An asynchronous operation in flight: who makes its accesses, and what its issuer knew.
#[derive(Clone, Debug)]
pub struct Ticket {
    line: u32,
    shared_agent: u32,
    global_agent: u32,
    clock: u32,
    kind: u8,
    knowledge: Arc<Knowledge>,
}

/// The knowledge of one warp.
#[derive(Debug)]
struct Agent {
    clock: u32,
    knowledge: Knowledge,
    /// What relaxed loads found, to be learnt at the next fence.
    found: Option<Knowledge>,
    /// Operations issued, or groups committed, for each [`Engine`].
    issued: [u32; 3],
}

/// What an object of synchronisation passes on.
#[derive(Debug)]
struct Exchange {
    arriving: Knowledge,
    completed: Knowledge,
}

/// The detector for one cluster.
#[derive(Debug)]
pub struct Races {
    shape: Shape,
    names: Names,
    warps: Vec<Agent>,
    exchanges: HashMap<Object, Exchange>,
    mbarrier_clocks: Vec<u32>,
    shared: Vec<Vec<Cell>>,
    lists: Lists,
    /// What atomic operations on words of shared memory left there, by block and address.
    words: HashMap<(u32, u32), Knowledge>,
    global: Arc<GlobalShadow>,
}

impl Shape {
    /// Address of the first byte that a shadow covers.
    fn base(&self, space: Space) -> u64 {
        if space == Space::Global { 0 } else { self.shared_base.into() }
    }
}
