//! A decoded kernel and what a launch needs to know of it.
use crate::op::{Instruction, Reg};
use crate::parse::{Limits, Location};
use std::collections::HashMap;

/// Where an instruction stands in the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Site {
    /// Line of the PTX.
    pub line: u32,
    /// Position in the source.
    pub location: Option<Location>,
}

/// The value that a word starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InitialWord {
    Constant(u32),
    /// Address of dynamic shared memory, plus an offset.
    DynamicShared(i32),
    Special(Special),
}

/// The value that a long starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InitialLong {
    Constant(u64),
    DynamicShared(i64),
    /// Address of a variable of the module, plus an offset.
    Global(u32, i64),
    /// A special register of 32 bits, zero-extended.
    Special(Special),
}

/// Special registers that are constant during a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    Thread(u8),
    Threads(u8),
    Block(u8),
    Blocks(u8),
    Lane,
    Warp,
    Warps,
    Multiprocessor,
    Multiprocessors,
    Cluster(u8),
    Clusters(u8),
    BlockInCluster(u8),
    BlocksInCluster(u8),
    Rank,
    Ranks,
    LanesEqual,
    LanesLess,
    LanesLessEqual,
    LanesGreater,
    LanesGreaterEqual,
    DynamicSharedBytes,
    TotalSharedBytes,
    GridId,
    /// All ones where the launch has clusters: a predicate.
    HasClusters,
}

/// Registers that have a value when a warp starts.
#[derive(Clone, Debug, Default)]
pub struct Initial {
    pub words: Vec<(Reg, InitialWord)>,
    pub longs: Vec<(Reg, InitialLong)>,
}

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterSlot {
    pub offset: u32,
    pub bytes: u32,
}

/// A kernel, decoded.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    pub code: Vec<Instruction>,
    /// One for each instruction.
    pub sites: Vec<Site>,
    pub files: HashMap<u32, String>,
    pub parameters: Vec<ParameterSlot>,
    pub parameter_bytes: u32,
    /// Registers of each class.
    pub predicates: usize,
    pub words: usize,
    pub longs: usize,
    pub initial: Initial,
    /// Static shared memory.
    pub shared_bytes: u32,
    /// Alignment of dynamic shared memory.
    pub shared_align: u32,
    /// Local memory of a lane.
    pub local_bytes: u32,
    pub limits: Limits,
}

impl Kernel {
    /// Address where dynamic shared memory starts.
    pub fn dynamic_shared(&self) -> u32 {
        (crate::decode::SHARED_BASE + self.shared_bytes).next_multiple_of(self.shared_align)
    }

    /// File and line of the source that a line of the PTX came from.
    pub fn source(&self, line: u32) -> Option<(String, u32)> {
        let site = self.sites.iter().find(|site| site.line == line)?;
        let location = site.location?;
        Some((self.files.get(&location.file)?.clone(), location.line))
    }
}
