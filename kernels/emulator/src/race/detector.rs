//! What the detector does at each event.
use std::collections::HashMap;
use std::sync::Arc;

use super::clock::Known;
use super::memory::{Memory, lock};
use super::report::Names;
use super::shadow::{ALL_LANES, ASYNC_PROXY, Cell, IN_FLIGHT, Lists, Record, STRONG, WRITE};
use super::{
    AGENTS_OF_WARP, Access, Agent, Engine, Exchange, GlobalShadow, Object, Race, Races, Scope, Shape, Space, Strong,
    Ticket, Warp,
};

impl Races {
    /// A detector for the cluster of that shape, about to start.
    pub fn new(shape: Shape, global: Arc<GlobalShadow>) -> Races {
        let names = Names::new(shape);
        let warps = (0..shape.blocks * shape.warps)
            .map(|index| {
                let mut knowledge = names.nothing();
                knowledge.learn(names.first + index * AGENTS_OF_WARP, 1);
                Agent { clock: 1, knowledge, found: None, issued: [0; 3] }
            })
            .collect();
        let words = shape.shared_bytes.div_ceil(4) as usize;
        Races {
            shape,
            names,
            warps,
            exchanges: HashMap::new(),
            mbarrier_clocks: Vec::new(),
            shared: vec![vec![Cell::default(); words]; shape.blocks as usize],
            lists: Lists::new(),
            words: HashMap::new(),
            global,
        }
    }

    /// A weak access of the lanes in `lanes` to `bytes` bytes at each one's address. Addresses outside of shared memory
    /// are not looked at; bounds are checked elsewhere.
    ///
    /// # Errors
    /// The race or missing proxy fence that it completes.
    pub fn access(
        &mut self,
        warp: Warp,
        line: u32,
        space: Space,
        lanes: u32,
        addresses: &[u64; 32],
        bytes: u32,
        access: Access,
    ) -> Result<(), Box<Race>> {
        self.lanes(warp, line, space, lanes, addresses, bytes, weak(access))
    }

    /// A weak access of a whole warp together, such as a row of `ldmatrix` or `stmatrix`.
    ///
    /// # Errors
    /// As [`Races::access`].
    pub fn collective(
        &mut self,
        warp: Warp,
        line: u32,
        space: Space,
        address: u64,
        bytes: u32,
        access: Access,
    ) -> Result<(), Box<Race>> {
        let record = self.record(warp, line, weak(access), ALL_LANES);
        let knowledge = &self.warps[self.names.index(warp)].knowledge;
        let mut memory = Memory::new(space, &mut self.shared, &mut self.lists, &self.global);
        let found = memory.access(record, address, self.shape.base(space), bytes, knowledge);
        found.map_err(|found| self.names.race(found, record, space))
    }

    /// A strong access of the lanes in `lanes`: it does not race with other strong accesses, and passes knowledge on
    /// through the word: a release all that the warp knows, a relaxed one what the warp knew at its last fence; an
    /// acquire learns at once, a relaxed one at the next fence.
    ///
    /// # Errors
    /// A race with a weak access.
    pub fn strong(
        &mut self,
        warp: Warp,
        line: u32,
        space: Space,
        lanes: u32,
        addresses: &[u64; 32],
        bytes: u32,
        operation: Strong,
    ) -> Result<(), Box<Race>> {
        let kind = if operation.writes { STRONG | WRITE } else { STRONG };
        let agent = &mut self.warps[self.names.index(warp)];
        let mut table = lock(&self.global);
        if operation.reads {
            for address in addresses_of(lanes, addresses) {
                let word = match space {
                    Space::Shared(block) => self.words.get(&(block, address as u32)),
                    Space::Global => table.words.get(&address),
                };
                if let Some(word) = word {
                    let into = if operation.acquire {
                        &mut agent.knowledge
                    } else {
                        agent.found.get_or_insert_with(|| self.names.nothing())
                    };
                    into.join(word);
                }
            }
        }
        drop(table);
        self.lanes(warp, line, space, lanes, addresses, bytes, kind)?;
        if !operation.writes {
            return Ok(());
        }
        let agent = &mut self.warps[self.names.index(warp)];
        let way = if space == Space::Global { Known::FencedDevice } else { Known::FencedBlock };
        let passed = if operation.release { Some(agent.knowledge.clone()) } else { agent.knowledge.fenced(way) };
        if let Some(passed) = passed {
            table = lock(&self.global);
            for address in addresses_of(lanes, addresses) {
                let word = match space {
                    Space::Shared(block) => {
                        self.words.entry((block, address as u32)).or_insert_with(|| self.names.nothing())
                    }
                    Space::Global => table.words.entry(address).or_default(),
                };
                word.join(&passed);
            }
            drop(table);
            self.advance(warp);
        }
        Ok(())
    }

    /// `fence.acq_rel`, `fence.sc` and `membar`.
    pub fn fence(&mut self, warp: Warp, scope: Scope) {
        let agent = &mut self.warps[self.names.index(warp)];
        if let Some(found) = agent.found.take() {
            agent.knowledge.join(&found);
        }
        let ways: &[Known] = match scope {
            Scope::Block => &[Known::FencedBlock],
            Scope::Device => &[Known::FencedBlock, Known::FencedDevice],
        };
        agent.knowledge.fence(ways);
        self.advance(warp);
    }

    /// `fence.proxy.async`, for shared memory, global memory or both.
    pub fn proxy_fence(&mut self, warp: Warp, shared: bool, global: bool) {
        let ways = [(shared, Known::AsyncShared), (global, Known::AsyncGlobal)];
        for (_, way) in ways.into_iter().filter(|(on, _)| *on) {
            self.warps[self.names.index(warp)].knowledge.fence(&[way]);
        }
        self.advance(warp);
    }

    /// `bar.warp.sync`. Shuffles, votes and matrix instructions are none: they do not order memory.
    pub fn warp_sync(&mut self, warp: Warp) {
        self.advance(warp);
    }

    /// The warp arrives at an object with release semantics: `bar.sync`, `bar.arrive`, `barrier.cluster.arrive`,
    /// `mbarrier.arrive`, but none that is `.relaxed`.
    pub fn arrive(&mut self, warp: Warp, object: Object) {
        exchange(&mut self.exchanges, &self.names, object).arriving.join(&self.warps[self.names.index(warp)].knowledge);
        self.advance(warp);
    }

    /// The object's barrier or phase is complete: what has arrived is passed on to those that leave from now on. Call
    /// it after the arrival that completes and before any [`Races::leave`].
    pub fn complete(&mut self, object: Object) {
        // Nothing came with release semantics: nothing is passed on.
        let Some(exchange) = self.exchanges.get_mut(&object) else { return };
        if matches!(object, Object::Mbarrier { .. }) {
            // Arrivals are read-modify-writes of one object: a later phase passes on what an earlier one got.
            exchange.completed.join(&exchange.arriving);
        } else {
            exchange.completed = std::mem::replace(&mut exchange.arriving, self.names.nothing());
        }
    }

    /// The warp leaves the barrier, or finds the phase of the mbarrier complete, with acquire semantics. Waits with
    /// `.relaxed` do not call it.
    pub fn leave(&mut self, warp: Warp, object: Object) {
        if let Some(exchange) = self.exchanges.get(&object) {
            self.warps[self.names.index(warp)].knowledge.join(&exchange.completed);
        }
    }

    /// Issues an asynchronous operation that ends in a group.
    pub fn issue(&mut self, warp: Warp, engine: Engine, line: u32) -> Ticket {
        let issued = &mut self.warps[self.names.index(warp)].issued[engine as usize];
        let clock = match engine {
            // All of a group end together, and the warps of a warpgroup count its groups alike.
            Engine::Matrix => *issued + 1,
            _ => {
                *issued += 1;
                *issued
            }
        };
        let (shared_agent, global_agent) = match engine {
            Engine::Copy => (self.names.copy(warp), self.names.copy(warp)),
            Engine::Bulk => (self.names.bulk_read(warp), self.names.bulk_write(warp)),
            Engine::Matrix => (self.names.matrix(warp), self.names.matrix(warp)),
        };
        let kind = if engine == Engine::Copy { IN_FLIGHT } else { IN_FLIGHT | ASYNC_PROXY };
        self.ticket(warp, line, shared_agent, global_agent, clock, kind)
    }

    /// Closes a group. Returns the number to give to [`Races::wait`] for all operations issued so far.
    pub fn commit(&mut self, warp: Warp, engine: Engine) -> u32 {
        let issued = &mut self.warps[self.names.index(warp)].issued[engine as usize];
        if engine == Engine::Matrix {
            *issued += 1;
        }
        *issued
    }

    /// The warp waited for the groups up to the one whose commit returned `sequence`. With `reads_only`
    /// (`cp.async.bulk.wait_group.read`) only the reads of shared memory are known to be over.
    pub fn wait(&mut self, warp: Warp, engine: Engine, sequence: u32, reads_only: bool) {
        let agents = match engine {
            Engine::Copy => [Some(self.names.copy(warp)), None],
            Engine::Bulk => [Some(self.names.bulk_read(warp)), (!reads_only).then(|| self.names.bulk_write(warp))],
            Engine::Matrix => [Some(self.names.matrix(warp)), None],
        };
        let knowledge = &mut self.warps[self.names.index(warp)].knowledge;
        agents.into_iter().flatten().for_each(|agent| knowledge.learn(agent, sequence));
    }

    /// Issues a bulk copy that reports to an mbarrier. Before its accesses it is bound to the mbarrier:
    /// [`Races::bind`].
    pub fn issue_load(&mut self, warp: Warp, line: u32) -> Ticket {
        self.ticket(warp, line, 0, 0, 0, IN_FLIGHT | ASYNC_PROXY)
    }

    /// The bulk load, or a part of it, is being delivered to the block of an mbarrier: the ticket for these accesses.
    ///
    /// # Errors
    /// When the cluster has more mbarriers than can be told apart.
    pub fn bind(&mut self, load: &Ticket, block: u32, address: u32) -> Result<Ticket, Box<Race>> {
        let index = self.names.mbarrier(block, address).ok_or_else(|| Race::too_many_mbarriers(load.line))?;
        let index_in_clocks = (index - self.names.first_mbarrier()) as usize;
        if self.mbarrier_clocks.len() <= index_in_clocks {
            self.mbarrier_clocks.resize(index_in_clocks + 1, 0);
        }
        self.mbarrier_clocks[index_in_clocks] += 1;
        let clock = self.mbarrier_clocks[index_in_clocks];
        Ok(Ticket { shared_agent: index, global_agent: index, clock, ..load.clone() })
    }

    /// An access of an asynchronous operation to `bytes` bytes.
    ///
    /// # Errors
    /// As [`Races::access`].
    pub fn transfer(
        &mut self,
        ticket: &Ticket,
        space: Space,
        address: u64,
        bytes: u32,
        access: Access,
    ) -> Result<(), Box<Race>> {
        self.asynchronous(ticket, space, address, bytes, weak(access))
    }

    /// The write of an asynchronous reduction: atomic element by element.
    ///
    /// # Errors
    /// As [`Races::access`].
    pub fn reduce(&mut self, ticket: &Ticket, space: Space, address: u64, bytes: u32) -> Result<(), Box<Race>> {
        self.asynchronous(ticket, space, address, bytes, WRITE | STRONG)
    }

    /// An asynchronous operation reports to an mbarrier: a bound load with its bytes, or `cp.async.mbarrier.arrive`,
    /// where `ticket` is that of the warp's last copy. Call it before [`Races::complete`].
    pub fn report(&mut self, ticket: &Ticket, block: u32, address: u32) {
        let object = Object::Mbarrier { block, address };
        exchange(&mut self.exchanges, &self.names, object).arriving.learn(ticket.shared_agent, ticket.clock);
    }

    fn asynchronous(
        &mut self,
        ticket: &Ticket,
        space: Space,
        address: u64,
        bytes: u32,
        kind: u8,
    ) -> Result<(), Box<Race>> {
        let agent = if space == Space::Global { ticket.global_agent } else { ticket.shared_agent };
        let Ticket { line, clock, .. } = *ticket;
        let record = Record { agent, clock, line, lane: ALL_LANES, mask: 0, kind: kind | ticket.kind };
        let mut memory = Memory::new(space, &mut self.shared, &mut self.lists, &self.global);
        let found = memory.access(record, address, self.shape.base(space), bytes, &ticket.knowledge);
        found.map_err(|found| self.names.race(found, record, space))
    }

    fn ticket(&mut self, warp: Warp, line: u32, shared_agent: u32, global_agent: u32, clock: u32, kind: u8) -> Ticket {
        let knowledge = Arc::new(self.warps[self.names.index(warp)].knowledge.clone());
        self.advance(warp);
        Ticket { line, shared_agent, global_agent, clock, kind, knowledge }
    }

    fn record(&self, warp: Warp, line: u32, kind: u8, lane: u8) -> Record {
        let clock = self.warps[self.names.index(warp)].clock;
        Record { agent: self.names.warp(warp), clock, line, lane, mask: 0, kind }
    }

    fn lanes(
        &mut self,
        warp: Warp,
        line: u32,
        space: Space,
        lanes: u32,
        addresses: &[u64; 32],
        bytes: u32,
        kind: u8,
    ) -> Result<(), Box<Race>> {
        let mut record = self.record(warp, line, kind, 0);
        let knowledge = &self.warps[self.names.index(warp)].knowledge;
        let mut memory = Memory::new(space, &mut self.shared, &mut self.lists, &self.global);
        let base = self.shape.base(space);
        for lane in (0..32).filter(|lane| lanes >> lane & 1 == 1) {
            record.lane = lane as u8;
            let found = memory.access(record, addresses[lane], base, bytes, knowledge);
            if let Err(found) = found {
                drop(memory);
                return Err(self.names.race(found, record, space));
            }
        }
        Ok(())
    }

    /// What the warp does from now on is not known to those who learnt from it until now.
    fn advance(&mut self, warp: Warp) {
        let id = self.names.warp(warp);
        let agent = &mut self.warps[self.names.index(warp)];
        agent.clock += 1;
        agent.knowledge.learn(id, agent.clock);
    }
}

/// What passes through an object, of which nothing may have been heard yet.
fn exchange<'a>(exchanges: &'a mut HashMap<Object, Exchange>, names: &Names, object: Object) -> &'a mut Exchange {
    let nothing = || Exchange { arriving: names.nothing(), completed: names.nothing() };
    exchanges.entry(object).or_insert_with(nothing)
}

fn weak(access: Access) -> u8 {
    if access == Access::Write { WRITE } else { 0 }
}

fn addresses_of(lanes: u32, addresses: &[u64; 32]) -> impl Iterator<Item = u64> {
    (0..32).filter(move |lane| lanes >> lane & 1 == 1).map(|lane| addresses[lane])
}
