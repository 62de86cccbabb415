//! What a race is called: names of agents, and the sentence that tells of two accesses.
use std::collections::HashMap;

use super::clock::Knowledge;
use super::shadow::{ALL_LANES, Conflict, Record, STRONG, WRITE};
use super::{AGENTS_OF_WARP, MAXIMUM_MBARRIERS, Shape, Space, Warp};
use crate::{Fault, FaultKind};

/// Two accesses that do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Race {
    /// [`FaultKind::Race`], or [`FaultKind::Proxy`] for a missing proxy fence.
    pub kind: FaultKind,
    /// PTX line of the access that came first.
    pub first_line: u32,
    /// PTX line of the access that came second.
    pub second_line: u32,
    place: String,
    first: String,
    second: String,
    advice: String,
}

/// What a shadow found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub conflict: Conflict,
    pub earlier: Record,
    /// Offset of the word in its shadow.
    pub offset: u64,
}

/// Numbers of agents, and their names.
#[derive(Debug)]
pub(super) struct Names {
    shape: Shape,
    /// Number of the cluster's first agent.
    pub first: u32,
    mbarriers: HashMap<(u32, u32), u32>,
}

impl Race {
    /// The fault, at the place of the second access. `source` looks up the `.cu` file and line of a PTX line.
    pub fn into_fault(self, source: impl Fn(u32) -> Option<(String, u32)>) -> Fault {
        let at = |line: u32| match source(line) {
            Some((file, source)) => format!("PTX line {line}, {file}:{source}"),
            None => format!("PTX line {line}"),
        };
        let (first, second) = (at(self.first_line), at(self.second_line));
        let message =
            format!("{}: {} ({first}), then {} ({second}){}", self.place, self.first, self.second, self.advice);
        Fault::new(self.kind, message).at_line(self.second_line)
    }

    /// Reported when mbarriers run out of numbers.
    pub(super) fn too_many_mbarriers(line: u32) -> Box<Race> {
        Box::new(Race {
            kind: FaultKind::Unsupported,
            first_line: line,
            second_line: line,
            place: format!("more than {MAXIMUM_MBARRIERS} mbarriers in a cluster"),
            first: "a bulk load".into(),
            second: "a bulk load".into(),
            advice: String::new(),
        })
    }
}

impl Names {
    pub fn new(shape: Shape) -> Names {
        let first = shape.cluster.wrapping_mul(Names::agents(&shape));
        Names { shape, first, mbarriers: HashMap::new() }
    }

    /// No knowledge, in this cluster.
    pub fn nothing(&self) -> Knowledge {
        Knowledge::new(self.first..self.first + Names::agents(&self.shape))
    }

    /// Agents of a cluster.
    fn agents(shape: &Shape) -> u32 {
        shape.blocks * shape.warps * AGENTS_OF_WARP + MAXIMUM_MBARRIERS
    }

    /// Index of a warp in the cluster.
    pub fn index(&self, warp: Warp) -> usize {
        (warp.block * self.shape.warps + warp.warp) as usize
    }

    pub fn warp(&self, warp: Warp) -> u32 {
        self.first + self.index(warp) as u32 * AGENTS_OF_WARP
    }

    pub fn copy(&self, warp: Warp) -> u32 {
        self.warp(warp) + 1
    }

    pub fn bulk_read(&self, warp: Warp) -> u32 {
        self.warp(warp) + 2
    }

    pub fn bulk_write(&self, warp: Warp) -> u32 {
        self.warp(warp) + 3
    }

    pub fn matrix(&self, warp: Warp) -> u32 {
        self.warp(Warp { warp: warp.warp / 4 * 4, ..warp }) + 4
    }

    pub fn first_mbarrier(&self) -> u32 {
        self.first + self.shape.blocks * self.shape.warps * AGENTS_OF_WARP
    }

    /// The agent of the loads that report to an mbarrier.
    pub fn mbarrier(&mut self, block: u32, address: u32) -> Option<u32> {
        let (next, first) = (self.mbarriers.len() as u32, self.first_mbarrier());
        let index = *self.mbarriers.entry((block, address)).or_insert(next);
        (index < MAXIMUM_MBARRIERS).then_some(first + index)
    }

    /// The race of what was found with an access.
    pub fn race(&self, found: Found, access: Record, space: Space) -> Box<Race> {
        let address = found.offset + self.shape.base(space);
        let memory = match space {
            Space::Global => "global memory".to_string(),
            Space::Shared(_) if self.shape.blocks == 1 => "shared memory".to_string(),
            Space::Shared(block) => format!("shared memory of block {block} of the cluster"),
        };
        let advice = match found.conflict {
            Conflict::Race => match self.kind_of(found.earlier.agent) {
                1 => ", before cp.async.wait_group and a barrier".into(),
                2 => ", before cp.async.bulk.wait_group.read".into(),
                3 => ", before cp.async.bulk.wait_group".into(),
                4 => ", before wgmma.wait_group".into(),
                5 => ", before the load's mbarrier was waited for".into(),
                _ => ", with no barrier, mbarrier or atomic operation that orders them".into(),
            },
            Conflict::Lanes => ", with no bar.warp.sync between lanes of one warp".into(),
            Conflict::Proxy => ", with no fence.proxy.async between them".to_string(),
        };
        Box::new(Race {
            kind: if found.conflict == Conflict::Proxy { FaultKind::Proxy } else { FaultKind::Race },
            first_line: found.earlier.line,
            second_line: access.line,
            place: format!("word {address:#x} of {memory}"),
            first: self.describe(&found.earlier),
            second: self.describe(&access),
            advice,
        })
    }

    /// 0 for a warp, 1 for its copies, 2 and 3 for the reads and writes of its bulk copies, 4 for wgmma, 5 for loads.
    fn kind_of(&self, agent: u32) -> u32 {
        let local = agent % Names::agents(&self.shape);
        if local < self.shape.blocks * self.shape.warps * AGENTS_OF_WARP { local % AGENTS_OF_WARP } else { 5 }
    }

    fn describe(&self, record: &Record) -> String {
        let verb = match (record.is(WRITE), record.is(STRONG)) {
            (false, _) => "read",
            (true, false) => "written",
            (true, true) => "updated",
        };
        let agents = Names::agents(&self.shape);
        let (cluster, local) = (record.agent / agents, record.agent % agents);
        let warp = local / AGENTS_OF_WARP;
        let (block, warp) = (warp / self.shape.warps, warp % self.shape.warps);
        let who = match self.kind_of(record.agent) {
            0 if record.lane < ALL_LANES => format!("warp {warp} lane {}", record.lane),
            0 => format!("warp {warp}"),
            1 => format!("cp.async of warp {warp}"),
            2 | 3 => format!("a bulk copy of warp {warp}"),
            4 => format!("wgmma of warps {warp} to {}", warp + 3),
            _ => {
                let index = local - self.shape.blocks * self.shape.warps * AGENTS_OF_WARP;
                let name = self.mbarriers.iter().find(|(_, other)| **other == index && cluster == self.shape.cluster);
                match name {
                    Some(((_, address), _)) => format!("a bulk load of mbarrier {address:#x}"),
                    None => "a bulk load".to_string(),
                }
            }
        };
        let place = if self.shape.blocks > 1 && self.kind_of(record.agent) < 5 {
            format!(" of block {block} of cluster {cluster}")
        } else if cluster != self.shape.cluster {
            format!(" of block {cluster}")
        } else {
            String::new()
        };
        format!("{verb} by {who}{place}")
    }
}
