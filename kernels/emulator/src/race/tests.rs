use super::*;
use crate::FaultKind;

const ALL: u32 = u32::MAX;
const SHARED: Space = Space::Shared(0);

fn cluster(cluster: u32, blocks: u32, global: &Arc<GlobalShadow>) -> Races {
    Races::new(Shape { cluster, blocks, warps: 8, shared_base: 0x400, shared_bytes: 4096 }, global.clone())
}

fn one_block() -> Races {
    cluster(0, 1, &Arc::default())
}

fn warp(warp: u32) -> Warp {
    Warp { block: 0, warp }
}

/// Lane l at word l from an address.
fn words(from: u64) -> [u64; 32] {
    std::array::from_fn(|lane| from + 4 * lane as u64)
}

fn write(races: &mut Races, by: Warp, line: u32, from: u64) -> Result<(), Box<Race>> {
    races.access(by, line, SHARED, ALL, &words(from), 4, Access::Write)
}

fn read(races: &mut Races, by: Warp, line: u32, from: u64) -> Result<(), Box<Race>> {
    races.access(by, line, SHARED, ALL, &words(from), 4, Access::Read)
}

/// All warps of block 0 pass a barrier.
fn barrier(races: &mut Races, id: u32) {
    let object = Object::Barrier { block: 0, id };
    (0..8).for_each(|index| races.arrive(warp(index), object));
    races.complete(object);
    (0..8).for_each(|index| races.leave(warp(index), object));
}

fn message(race: Result<(), Box<Race>>) -> (FaultKind, String) {
    let fault = race.expect_err("a race").into_fault(|line| Some(("kernel.cu".into(), line * 10)));
    (fault.kind, fault.message)
}

#[test]
fn a_barrier_between_a_write_and_a_read_is_what_it_takes() {
    for with_barrier in [true, false] {
        let mut races = one_block();
        write(&mut races, warp(1), 7, 0x400).unwrap();
        if with_barrier {
            barrier(&mut races, 0);
            read(&mut races, warp(2), 9, 0x400).unwrap();
            read(&mut races, warp(3), 9, 0x400).unwrap();
            // And the way back: those reads must be over before the next write.
            let (kind, text) = message(write(&mut races, warp(1), 7, 0x400));
            assert_eq!(kind, FaultKind::Race);
            assert!(
                text.contains("read by warp 2 lane 0 (PTX line 9, kernel.cu:90), then written by warp 1 lane 0"),
                "{text}"
            );
        } else {
            let (kind, text) = message(read(&mut races, warp(2), 9, 0x400));
            assert_eq!(kind, FaultKind::Race);
            let expected = "word 0x400 of shared memory: written by warp 1 lane 0 (PTX line 7, kernel.cu:70), then read by \
                            warp 2 lane 0 (PTX line 9, kernel.cu:90), with no barrier";
            assert!(text.starts_with(expected), "{text}");
        }
    }
}

#[test]
fn every_reader_must_be_waited_for() {
    for missing in 0..8 {
        let mut races = one_block();
        (0..8).for_each(|index| read(&mut races, warp(index), 3, 0x400).unwrap());
        let object = Object::Barrier { block: 0, id: 1 };
        (0..8).filter(|&index| index != missing).for_each(|index| races.arrive(warp(index), object));
        races.complete(object);
        let writer = warp((missing + 1) % 8);
        races.leave(writer, object);
        let (_, text) = message(write(&mut races, writer, 4, 0x400));
        assert!(text.contains(&format!("read by warp {missing} lane 0")), "{text}");
    }
}

#[test]
fn arriving_alone_passes_nothing_back() {
    let mut races = one_block();
    let object = Object::Barrier { block: 0, id: 2 };
    write(&mut races, warp(0), 1, 0x400).unwrap();
    races.arrive(warp(0), object);
    races.arrive(warp(1), object);
    write(&mut races, warp(0), 2, 0x500).unwrap();
    races.complete(object);
    races.leave(warp(1), object);
    read(&mut races, warp(1), 3, 0x400).unwrap();
    assert_eq!(message(read(&mut races, warp(1), 3, 0x500)).0, FaultKind::Race, "written after bar.arrive");
    // The next generation of the barrier does not carry what only the first was told.
    races.arrive(warp(2), object);
    races.complete(object);
    races.leave(warp(3), object);
    assert!(read(&mut races, warp(3), 4, 0x400).is_err());
}

#[test]
fn neighbours_may_share_a_word() {
    let mut races = one_block();
    let at = |races: &mut Races, by, address: u64, bytes, access| {
        races.access(by, 1, SHARED, 1, &[address; 32], bytes, access)
    };
    at(&mut races, warp(0), 0x400, 2, Access::Write).unwrap();
    at(&mut races, warp(1), 0x402, 2, Access::Write).unwrap();
    at(&mut races, warp(0), 0x400, 2, Access::Read).unwrap();
    at(&mut races, warp(1), 0x403, 1, Access::Read).unwrap();
    at(&mut races, warp(1), 0x402, 2, Access::Write).unwrap();
    assert!(at(&mut races, warp(0), 0x403, 1, Access::Read).is_err());
    assert!(at(&mut races, warp(1), 0x401, 1, Access::Read).is_err());
    assert!(at(&mut races, warp(1), 0x400, 8, Access::Read).is_err(), "a wide access meets both");
    assert!(at(&mut races, warp(0), 0x3fc, 8, Access::Read).is_ok(), "below the window nothing is known");
    assert!(at(&mut races, warp(0), 0x1400, 4, Access::Read).is_ok(), "nor above");
}

#[test]
fn lanes_of_a_warp_need_a_warp_barrier() {
    let mut races = one_block();
    let reversed: [u64; 32] = std::array::from_fn(|lane| 0x400 + 4 * (31 - lane) as u64);
    write(&mut races, warp(0), 5, 0x400).unwrap();
    read(&mut races, warp(0), 6, 0x400).unwrap();
    let crossed = races.access(warp(0), 8, SHARED, ALL, &reversed, 4, Access::Read);
    let (kind, text) = message(crossed);
    assert_eq!(kind, FaultKind::Race);
    assert!(text.contains("written by warp 0 lane 31 (PTX line 5") && text.contains("bar.warp.sync"), "{text}");
    races.warp_sync(warp(0));
    races.access(warp(0), 8, SHARED, ALL, &reversed, 4, Access::Read).unwrap();
    assert!(write(&mut races, warp(0), 9, 0x400).is_err(), "another lane has read it since");
    races.warp_sync(warp(0));
    write(&mut races, warp(0), 9, 0x400).unwrap();
    assert!(races.collective(warp(0), 10, SHARED, 0x400, 16, Access::Read).is_err(), "ldmatrix reads for all lanes");
    races.warp_sync(warp(0));
    races.collective(warp(0), 10, SHARED, 0x400, 16, Access::Read).unwrap();
    // Lanes that each use their own half of a word are none of their business.
    let halves: [u64; 32] = std::array::from_fn(|lane| 0x600 + 2 * lane as u64);
    races.access(warp(0), 11, SHARED, ALL, &halves, 2, Access::Write).unwrap();
    races.access(warp(0), 12, SHARED, ALL, &halves, 2, Access::Read).unwrap();
    races.access(warp(0), 13, SHARED, ALL, &halves, 2, Access::Write).unwrap();
}

#[test]
fn copies_of_other_warps_need_the_wait_and_the_barrier() {
    // (waits, passes the barrier) of the warp that copies.
    for (waits, passes) in [(true, true), (true, false), (false, true)] {
        let mut races = one_block();
        let copy = races.issue(warp(0), Engine::Copy, 20);
        let group = races.commit(warp(0), Engine::Copy);
        let later = races.issue(warp(0), Engine::Copy, 21);
        races.commit(warp(0), Engine::Copy);
        races.transfer(&later, SHARED, 0x600, 16, Access::Write).unwrap();
        races.transfer(&copy, SHARED, 0x400, 16, Access::Write).unwrap();
        if waits {
            races.wait(warp(0), Engine::Copy, group, false);
            read(&mut races, warp(0), 22, 0x400).unwrap();
        }
        if passes {
            barrier(&mut races, 0);
        }
        let result = read(&mut races, warp(1), 23, 0x400);
        if waits && passes {
            result.unwrap();
            let (_, text) = message(read(&mut races, warp(1), 24, 0x600));
            assert!(text.contains("written by cp.async of warp 0 (PTX line 21"), "{text}");
        } else {
            let (_, text) = message(result);
            assert!(text.contains("cp.async.wait_group and a barrier"), "{text}");
        }
    }
}

#[test]
fn copies_in_flight_have_no_order_among_themselves() {
    let mut races = one_block();
    let first = races.issue(warp(0), Engine::Copy, 1);
    let group = races.commit(warp(0), Engine::Copy);
    let early = races.issue(warp(0), Engine::Copy, 2);
    races.transfer(&first, SHARED, 0x400, 16, Access::Write).unwrap();
    assert!(races.transfer(&early, SHARED, 0x400, 16, Access::Write).is_err());
    races.wait(warp(0), Engine::Copy, group, false);
    let late = races.issue(warp(0), Engine::Copy, 3);
    races.transfer(&late, SHARED, 0x400, 16, Access::Write).unwrap();
}

/// A bulk load of warp 0 onto the mbarrier at 0x1000, delivered.
fn load(races: &mut Races, line: u32, at: u64) -> Result<(), Box<Race>> {
    let ticket = races.issue_load(warp(0), line);
    let bound = races.bind(&ticket, 0, 0x1000)?;
    races.transfer(&bound, SHARED, at, 128, Access::Write)?;
    races.report(&bound, 0, 0x1000);
    Ok(())
}

const LOADED: Object = Object::Mbarrier { block: 0, address: 0x1000 };
const RELEASED: Object = Object::Mbarrier { block: 0, address: 0x1008 };

#[test]
fn a_load_is_over_for_those_who_waited_for_its_phase() {
    let mut races = one_block();
    races.arrive(warp(0), LOADED);
    load(&mut races, 30, 0x400).unwrap();
    let (_, text) = message(read(&mut races, warp(1), 31, 0x400));
    assert!(
        text.contains("a bulk load of mbarrier 0x1000 (PTX line 30") && text.contains("mbarrier was waited"),
        "{text}"
    );
    races.complete(LOADED);
    // Delivered after the phase was over: the byte count was too small.
    load(&mut races, 32, 0x600).unwrap();
    races.leave(warp(1), LOADED);
    read(&mut races, warp(1), 33, 0x400).unwrap();
    assert!(read(&mut races, warp(1), 34, 0x600).is_err());
}

#[test]
fn a_stage_is_loaded_again_when_its_readers_said_so() {
    for released_after_reading in [true, false] {
        let mut races = one_block();
        load(&mut races, 40, 0x400).unwrap();
        races.complete(LOADED);
        races.leave(warp(4), LOADED);
        if !released_after_reading {
            races.arrive(warp(4), RELEASED);
        }
        read(&mut races, warp(4), 41, 0x400).unwrap();
        if released_after_reading {
            races.arrive(warp(4), RELEASED);
        }
        races.complete(RELEASED);
        // The producer has also seen its own load end: it waited like everyone, or the consumer told it.
        races.leave(warp(0), RELEASED);
        let result = load(&mut races, 42, 0x400);
        if released_after_reading {
            result.unwrap();
        } else {
            let (kind, text) = message(result);
            assert_eq!(kind, FaultKind::Race);
            assert!(text.contains("read by warp 4 lane 0 (PTX line 41") && text.contains("(PTX line 42"), "{text}");
        }
    }
}

#[test]
fn operands_of_wgmma_stay_until_the_group_was_waited_for() {
    for waited in [true, false] {
        let mut races = one_block();
        for member in 4..8 {
            let operation = races.issue(warp(member), Engine::Matrix, 50);
            races.transfer(&operation, SHARED, 0x400, 128, Access::Read).unwrap();
        }
        let groups = [4, 5, 6, 7].map(|member| races.commit(warp(member), Engine::Matrix));
        assert_eq!(groups, [1; 4]);
        if waited {
            races.wait(warp(4), Engine::Matrix, 1, false);
        }
        // One warp speaks for the warpgroup.
        races.arrive(warp(4), RELEASED);
        races.complete(RELEASED);
        races.leave(warp(0), RELEASED);
        let result = load(&mut races, 51, 0x400);
        if waited {
            result.unwrap();
        } else {
            let (_, text) = message(result);
            assert!(
                text.contains("read by wgmma of warps 4 to 7 (PTX line 50") && text.contains("wgmma.wait_group"),
                "{text}"
            );
        }
    }
}

#[test]
fn the_asynchronous_proxy_needs_a_fence_after_generic_writes() {
    #[derive(PartialEq, Debug)]
    enum Fence {
        Writer,
        Issuer,
        TooEarly,
        OtherSpace,
        Missing,
    }
    for fence in [Fence::Writer, Fence::Issuer, Fence::TooEarly, Fence::OtherSpace, Fence::Missing] {
        let mut races = one_block();
        if fence == Fence::TooEarly {
            races.proxy_fence(warp(1), true, true);
        }
        write(&mut races, warp(1), 60, 0x400).unwrap();
        match fence {
            Fence::Writer => races.proxy_fence(warp(1), true, false),
            Fence::OtherSpace => races.proxy_fence(warp(1), false, true),
            _ => {}
        }
        barrier(&mut races, 0);
        if fence == Fence::Issuer {
            races.proxy_fence(warp(0), true, true);
        }
        let store = races.issue(warp(0), Engine::Bulk, 61);
        let result = races.transfer(&store, SHARED, 0x400, 128, Access::Read);
        if fence == Fence::Writer || fence == Fence::Issuer {
            result.unwrap();
        } else {
            let (kind, text) = message(result);
            assert_eq!(kind, FaultKind::Proxy, "{fence:?}");
            assert!(
                text.contains("no fence.proxy.async") && text.contains("then read by a bulk copy of warp 0"),
                "{text}"
            );
        }
    }
    // A race is one before it is a matter of proxies; and cp.async is generic.
    let mut races = one_block();
    write(&mut races, warp(1), 60, 0x400).unwrap();
    let store = races.issue(warp(0), Engine::Bulk, 61);
    assert_eq!(message(races.transfer(&store, SHARED, 0x400, 4, Access::Read)).0, FaultKind::Race);
    let copy = races.issue(warp(1), Engine::Copy, 62);
    let group = races.commit(warp(1), Engine::Copy);
    races.transfer(&copy, SHARED, 0x500, 16, Access::Write).unwrap();
    races.wait(warp(1), Engine::Copy, group, false);
    let store = races.issue(warp(1), Engine::Bulk, 63);
    assert_eq!(message(races.transfer(&store, SHARED, 0x500, 16, Access::Read)).0, FaultKind::Proxy);
}

#[test]
fn a_bulk_store_ends_in_two_steps() {
    let mut races = one_block();
    write(&mut races, warp(0), 70, 0x400).unwrap();
    races.proxy_fence(warp(0), true, true);
    let store = races.issue(warp(0), Engine::Bulk, 71);
    let group = races.commit(warp(0), Engine::Bulk);
    races.transfer(&store, SHARED, 0x400, 128, Access::Read).unwrap();
    races.transfer(&store, Space::Global, 0x10000, 128, Access::Write).unwrap();
    assert!(write(&mut races, warp(0), 72, 0x400).is_err());
    races.wait(warp(0), Engine::Bulk, group, true);
    write(&mut races, warp(0), 73, 0x400).unwrap();
    let global = |races: &mut Races| races.access(warp(0), 74, Space::Global, ALL, &words(0x10000), 4, Access::Read);
    let (_, text) = message(global(&mut races));
    assert!(text.contains("word 0x10000 of global memory: written by a bulk copy of warp 0 (PTX line 71"), "{text}");
    races.wait(warp(0), Engine::Bulk, group, false);
    global(&mut races).unwrap();
}

const RELAXED_ATOM: Strong = Strong { writes: true, reads: true, acquire: false, release: false };
const RELAXED_RED: Strong = Strong { reads: false, ..RELAXED_ATOM };
const RELEASE_STORE: Strong = Strong { release: true, ..RELAXED_RED };
const ACQUIRE_LOAD: Strong = Strong { writes: false, reads: true, acquire: true, release: false };

#[test]
fn blocks_meet_through_atomics_alone() {
    let first = words(0x2000);
    let flag = [0x8000; 32];
    // What the writer does before its atomic, what the reader does after its own, and whether that suffices.
    let cases: [(&[Scope], &[Scope], bool); 5] = [
        (&[Scope::Device], &[Scope::Device], true),
        (&[], &[Scope::Device], false),
        (&[Scope::Device], &[], false),
        (&[Scope::Block], &[Scope::Device], false),
        (&[Scope::Block, Scope::Device], &[Scope::Device], true),
    ];
    for (before, after, ordered) in cases {
        let global = Arc::default();
        let (mut left, mut right) = (cluster(3, 1, &global), cluster(7, 1, &global));
        left.access(warp(2), 80, Space::Global, ALL, &first, 4, Access::Write).unwrap();
        before.iter().for_each(|&scope| left.fence(warp(2), scope));
        left.strong(warp(2), 81, Space::Global, 1, &flag, 4, RELAXED_RED).unwrap();
        right.strong(warp(5), 82, Space::Global, 1, &flag, 4, RELAXED_ATOM).unwrap();
        after.iter().for_each(|&scope| right.fence(warp(5), scope));
        let result = right.access(warp(5), 83, Space::Global, ALL, &first, 4, Access::Read);
        if ordered {
            result.unwrap();
            barrier(&mut right, 0);
            right.access(warp(0), 84, Space::Global, ALL, &first, 4, Access::Read).unwrap();
        } else {
            let (_, text) = message(result);
            assert!(text.contains("written by warp 2 lane 0 of block 3 (PTX line 80"), "{text}");
        }
    }
}

#[test]
fn release_and_acquire_need_no_fence_and_strong_accesses_do_not_race() {
    let global = Arc::default();
    let (mut left, mut right) = (cluster(0, 1, &global), cluster(1, 1, &global));
    let flag = [0x8000; 32];
    left.access(warp(0), 1, Space::Global, ALL, &words(0x2000), 4, Access::Write).unwrap();
    left.strong(warp(0), 2, Space::Global, 1, &flag, 4, RELEASE_STORE).unwrap();
    left.access(warp(0), 3, Space::Global, ALL, &words(0x3000), 4, Access::Write).unwrap();
    right.strong(warp(0), 4, Space::Global, 1, &flag, 4, ACQUIRE_LOAD).unwrap();
    right.access(warp(0), 5, Space::Global, ALL, &words(0x2000), 4, Access::Read).unwrap();
    assert!(right.access(warp(0), 6, Space::Global, ALL, &words(0x3000), 4, Access::Read).is_err());
    // Many add to one word; a weak read of the sum races with any of them that is not known.
    for block in 0..4 {
        let mut adder = cluster(10 + block, 1, &global);
        adder.strong(warp(block), 7, Space::Global, ALL, &[0x9000; 32], 4, RELAXED_RED).unwrap();
    }
    let (_, text) = message(right.access(warp(0), 8, Space::Global, 1, &[0x9000; 32], 4, Access::Read));
    assert!(text.contains("updated by warp"), "{text}");
}

#[test]
fn adding_warps_are_all_waited_for() {
    for missing in 0..8 {
        let mut races = one_block();
        for index in 0..8 {
            races.strong(warp(index), 1, SHARED, ALL, &[0x400; 32], 4, RELAXED_RED).unwrap();
        }
        let object = Object::Barrier { block: 0, id: 0 };
        (0..8).filter(|&index| index != missing).for_each(|index| races.arrive(warp(index), object));
        races.complete(object);
        let reader = warp((missing + 1) % 8);
        races.leave(reader, object);
        let result = races.access(reader, 2, SHARED, 1, &[0x400; 32], 4, Access::Read);
        assert!(message(result).1.contains(&format!("updated by warp {missing} ")), "{missing}");
    }
}

#[test]
fn blocks_of_a_cluster_meet_at_its_barrier() {
    let mut races = cluster(2, 2, &Arc::default());
    let remote = Space::Shared(1);
    let other = Warp { block: 1, warp: 0 };
    races.access(warp(3), 1, remote, ALL, &words(0x400), 4, Access::Write).unwrap();
    races.access(warp(3), 1, SHARED, ALL, &words(0x400), 4, Access::Write).unwrap();
    let (_, text) = message(races.access(other, 2, remote, ALL, &words(0x400), 4, Access::Read));
    let expected =
        "word 0x400 of shared memory of block 1 of the cluster: written by warp 3 lane 0 of block 0 of cluster 2";
    assert!(text.starts_with(expected), "{text}");
    races.arrive(warp(3), Object::Cluster);
    races.arrive(other, Object::Cluster);
    races.complete(Object::Cluster);
    races.leave(other, Object::Cluster);
    races.access(other, 2, remote, ALL, &words(0x400), 4, Access::Read).unwrap();
}

#[test]
fn a_reduction_meets_its_own_kind() {
    let mut races = one_block();
    for by in [0, 1] {
        let add = races.issue(warp(by), Engine::Bulk, 1);
        races.reduce(&add, Space::Global, 0x1000, 64).unwrap();
    }
    let store = races.issue(warp(2), Engine::Bulk, 2);
    assert!(races.transfer(&store, Space::Global, 0x1000, 64, Access::Write).is_err());
}

#[test]
fn mbarriers_are_numbered_up_to_a_bound() {
    let mut races = one_block();
    let ticket = races.issue_load(warp(0), 5);
    for index in 0..MAXIMUM_MBARRIERS {
        races.bind(&ticket, 0, index * 8).unwrap();
    }
    let (kind, text) = message(races.bind(&ticket, 0, MAXIMUM_MBARRIERS * 8).map(|_| ()));
    assert_eq!(kind, FaultKind::Unsupported);
    assert!(text.contains("more than 1024 mbarriers"), "{text}");
}
