//! The state of a resident cluster and of its blocks.
use super::Machine;
use super::barrier::Barriers;
use super::lanes::Words;
use super::warp::{Files, State, Warp};
use crate::decode::SHARED_BASE;
use crate::kernel::{InitialLong, InitialWord, Special};
use crate::mbarrier::Mbarriers;
use crate::memory::Shared;
use crate::race::{Races, Shape};
use crate::tiles::Tiles;

/// Registers of a multiprocessor, which `setmaxnreg` shares out.
const REGISTERS: u32 = 65536;

/// A block.
#[derive(Debug)]
pub struct Block {
    /// Index in the grid.
    pub index: [u32; 3],
    pub shared: Shared,
    /// Its warps; none for the one that is being executed.
    pub warps: Vec<Option<Box<Warp>>>,
    pub barriers: Barriers,
    pub mbarriers: Mbarriers,
    /// How tensor copies laid tiles out; kept with the checks of races.
    pub tiles: Tiles,
    /// Committed groups of `wgmma` of each warp.
    pub matrix_commits: Vec<u32>,
    /// Warps that have not ended.
    pub live: u32,
    /// Registers that no warp holds.
    pub free_registers: u32,
}

/// A cluster; a single block without clusters.
pub struct Cluster {
    pub blocks: Vec<Block>,
    pub races: Option<Box<Races>>,
    /// Phase of the cluster barrier, and warps that arrived in it.
    pub phase: u32,
    pub arrived: u32,
}

impl Cluster {
    /// The cluster at an index of the grid of clusters. `spare` are the registers of one that has ended.
    pub fn new(machine: &Machine<'_>, xyz: [u32; 3], linear: u32, mut spare: Vec<Files>) -> Cluster {
        let launch = machine.launch;
        let ranks: u32 = launch.cluster.iter().product();
        let threads: u32 = launch.block.iter().product();
        let warps = threads.div_ceil(32);
        let kernel = machine.kernel;
        let shared_bytes = kernel.dynamic_shared() - SHARED_BASE + launch.shared_bytes;
        let blocks = (0..ranks)
            .map(|rank| {
                let [cx, cy, _] = launch.cluster;
                let inner = [rank % cx, rank / cx % cy, rank / cx / cy];
                let index = std::array::from_fn(|i| xyz[i] * launch.cluster[i] + inner[i]);
                let context = Context { machine, xyz, linear, inner, rank, index };
                let warps: Vec<_> = (0..warps).map(|warp| Some(context.warp(warp, threads, spare.pop()))).collect();
                let taken = warps.len() as u32 * 32 * context.registers_of_a_thread();
                Block {
                    index,
                    shared: Shared::new(shared_bytes as usize),
                    barriers: Barriers::default(),
                    mbarriers: Mbarriers::default(),
                    tiles: Tiles::default(),
                    matrix_commits: vec![0; warps.len()],
                    live: warps.len() as u32,
                    free_registers: REGISTERS.saturating_sub(taken),
                    warps,
                }
            })
            .collect();
        let shape = Shape { cluster: linear, blocks: ranks, warps, shared_base: SHARED_BASE, shared_bytes };
        let races = machine.shadow.as_ref().map(|shadow| Box::new(Races::new(shape, shadow.clone())));
        Cluster { blocks, races, phase: 0, arrived: 0 }
    }

    /// The registers of a cluster that has ended, to be used again.
    pub fn take_files(&mut self) -> Vec<Files> {
        let warps = self.blocks.iter_mut().flat_map(|block| std::mem::take(&mut block.warps)).flatten();
        warps.map(|warp| warp.into_files()).collect()
    }

    /// Whether every warp has ended.
    pub fn is_done(&self) -> bool {
        self.blocks.iter().all(|block| block.live == 0)
    }

    /// Warps of the cluster that have not ended.
    pub fn live(&self) -> u32 {
        self.blocks.iter().map(|block| block.live).sum()
    }
}

/// What the first values of a warp's registers depend on.
struct Context<'m> {
    machine: &'m Machine<'m>,
    xyz: [u32; 3],
    linear: u32,
    inner: [u32; 3],
    rank: u32,
    index: [u32; 3],
}

impl Context<'_> {
    /// What the compiler may have given each thread: `setmaxnreg` moves registers between warps from there on.
    fn registers_of_a_thread(&self) -> u32 {
        let threads = self.machine.launch.block.iter().product::<u32>().next_multiple_of(32);
        (REGISTERS / threads.max(1)).min(255) / 8 * 8
    }

    fn warp(&self, index: u32, threads: u32, spare: Option<Files>) -> Box<Warp> {
        let kernel = self.machine.kernel;
        let count = (threads - index * 32).min(32);
        let existing = if count == 32 { u32::MAX } else { (1 << count) - 1 };
        let check = self.machine.config.checks.uninitialised;
        let files = spare.unwrap_or_else(|| Files::new(kernel.words, kernel.longs, kernel.predicates));
        let mut warp = Box::new(Warp::new(files, existing, kernel.local_bytes, check));
        for &(register, value) in &kernel.initial.words {
            let words = match value {
                InitialWord::Constant(value) => [value; 32],
                InitialWord::DynamicShared(offset) => [kernel.dynamic_shared().wrapping_add_signed(offset); 32],
                InitialWord::Special(special) => self.special(special, index),
            };
            warp.set_word(register, &words, u32::MAX);
        }
        for &(register, value) in &kernel.initial.longs {
            let longs = match value {
                InitialLong::Constant(value) => [value; 32],
                InitialLong::DynamicShared(offset) => {
                    [u64::from(kernel.dynamic_shared()).wrapping_add_signed(offset); 32]
                }
                InitialLong::Global(variable, offset) => {
                    [self.machine.variables[variable as usize].wrapping_add_signed(offset); 32]
                }
                InitialLong::Special(special) => self.special(special, index).map(u64::from),
            };
            warp.set_long(register, &longs, u32::MAX);
        }
        warp.registers = self.registers_of_a_thread();
        warp.state = State::Running;
        warp
    }

    fn special(&self, special: Special, warp: u32) -> Words {
        let machine = self.machine;
        let (launch, kernel) = (machine.launch, machine.kernel);
        let [x, y, _] = launch.block;
        let all = |value: u32| [value; 32];
        let threads: u32 = launch.block.iter().product();
        match special {
            Special::Thread(axis) => std::array::from_fn(|lane| {
                let thread = warp * 32 + lane as u32;
                [thread % x, thread / x % y, thread / x / y][usize::from(axis)]
            }),
            Special::Threads(axis) => all(launch.block[usize::from(axis)]),
            Special::Block(axis) => all(self.index[usize::from(axis)]),
            Special::Blocks(axis) => all(launch.grid[usize::from(axis)]),
            Special::Lane => std::array::from_fn(|lane| lane as u32),
            Special::Warp => all(warp),
            Special::Warps => all(threads.div_ceil(32)),
            Special::Multiprocessor => all(self.linear % machine.config.multiprocessors.max(1)),
            Special::Multiprocessors => all(machine.config.multiprocessors),
            Special::Cluster(axis) => all(self.xyz[usize::from(axis)]),
            Special::Clusters(axis) => all(launch.grid[usize::from(axis)] / launch.cluster[usize::from(axis)]),
            Special::BlockInCluster(axis) => all(self.inner[usize::from(axis)]),
            Special::BlocksInCluster(axis) => all(launch.cluster[usize::from(axis)]),
            Special::Rank => all(self.rank),
            Special::Ranks => all(launch.cluster.iter().product()),
            Special::LanesEqual => std::array::from_fn(|lane| 1 << lane),
            Special::LanesLess => std::array::from_fn(|lane| (1 << lane) - 1),
            Special::LanesLessEqual => std::array::from_fn(|lane| u32::MAX >> (31 - lane)),
            Special::LanesGreater => std::array::from_fn(|lane| !(u32::MAX >> (31 - lane))),
            Special::LanesGreaterEqual => std::array::from_fn(|lane| !((1 << lane) - 1)),
            Special::DynamicSharedBytes => all(launch.shared_bytes),
            Special::TotalSharedBytes => all(kernel.dynamic_shared() - SHARED_BASE + launch.shared_bytes),
            Special::GridId => all(0),
            Special::HasClusters => all(u32::from(launch.cluster != [1; 3])),
        }
    }
}
