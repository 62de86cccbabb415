//! Vector clocks: what an agent knows to have happened, and what of it passed which fence.
use std::collections::BTreeMap;
use std::ops::Range;

/// The ways in which an event can be known. Every later one implies the first for the same event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The event happened before.
    Happened,
    /// ... and before a fence of block scope or wider.
    FencedBlock,
    /// ... and before a fence of device scope or wider.
    FencedDevice,
    /// ... and before a proxy fence for shared memory.
    AsyncShared,
    /// ... and before a proxy fence for global memory.
    AsyncGlobal,
}

/// The newest known event of one agent, in each of the ways of [`Known`].
type Entry = [u32; 5];

/// Clocks of the agents of one cluster densely, and of the few others that are known through global memory by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Knowledge {
    /// Numbers of the cluster's agents in the grid; none for what belongs to no cluster.
    agents: Range<u32>,
    own: Vec<Entry>,
    foreign: BTreeMap<u32, Entry>,
}

impl Knowledge {
    /// Nothing, in a cluster with these agents.
    pub fn new(agents: Range<u32>) -> Knowledge {
        Knowledge { agents, own: Vec::new(), foreign: BTreeMap::new() }
    }

    /// Whether the event `clock` of an agent is known in that way.
    pub fn includes(&self, known: Known, agent: u32, clock: u32) -> bool {
        let entry = if self.agents.contains(&agent) {
            self.own.get((agent - self.agents.start) as usize)
        } else {
            self.foreign.get(&agent)
        };
        entry.is_some_and(|entry| entry[known as usize] >= clock)
    }

    /// Learns of the event `clock` of an agent of this cluster, and of all before it.
    pub fn learn(&mut self, agent: u32, clock: u32) {
        let happened = &mut self.entry(agent)[Known::Happened as usize];
        *happened = clock.max(*happened);
    }

    /// Learns all that `other` knows. Both may belong to different clusters.
    pub fn join(&mut self, other: &Knowledge) {
        if self.agents != other.agents {
            other.entries().for_each(|(agent, entry)| maximum(self.entry(agent), entry));
            return;
        }
        if self.own.len() < other.own.len() {
            self.own.resize(other.own.len(), Entry::default());
        }
        self.own.iter_mut().zip(&other.own).for_each(|(to, from)| maximum(to, from));
        for (&agent, entry) in &other.foreign {
            maximum(self.foreign.entry(agent).or_default(), entry);
        }
    }

    /// A fence: all that happened before is known in these ways too.
    pub fn fence(&mut self, ways: &[Known]) {
        for entry in self.own.iter_mut().chain(self.foreign.values_mut()) {
            ways.iter().for_each(|&way| entry[way as usize] = entry[Known::Happened as usize]);
        }
    }

    /// What a relaxed operation may pass on: only the events before the agent's last fence, `way` saying which fence counts.
    /// Nothing when there was none.
    pub fn fenced(&self, way: Known) -> Option<Knowledge> {
        let limited = |entry: &Entry| entry.map(|clock| clock.min(entry[way as usize]));
        let entries = || self.own.iter().chain(self.foreign.values());
        entries().any(|entry| entry[way as usize] > 0).then(|| Knowledge {
            agents: self.agents.clone(),
            own: self.own.iter().map(limited).collect(),
            foreign: self.foreign.iter().map(|(&agent, entry)| (agent, limited(entry))).collect(),
        })
    }

    fn entries(&self) -> impl Iterator<Item = (u32, &Entry)> {
        let own = self.own.iter().enumerate().map(|(local, entry)| (self.agents.start + local as u32, entry));
        own.filter(|(_, entry)| entry[0] > 0).chain(self.foreign.iter().map(|(&agent, entry)| (agent, entry)))
    }

    fn entry(&mut self, agent: u32) -> &mut Entry {
        if !self.agents.contains(&agent) {
            return self.foreign.entry(agent).or_default();
        }
        let local = (agent - self.agents.start) as usize;
        if self.own.len() <= local {
            self.own.resize(local + 1, Entry::default());
        }
        &mut self.own[local]
    }
}

fn maximum(to: &mut Entry, from: &Entry) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = (*to).max(*from));
}
