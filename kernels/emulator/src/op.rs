//! The decoded instructions. Every operand is a register: literals and special registers are kept in registers that a
//! warp starts with, so that executing an instruction never asks what an operand is.
use crate::exec::{float, long, word};
use crate::tensor_core::{Mma, Wgmma};

/// Index of a register in the file of its class: predicates, 32-bit words (which also hold 8 and 16 bits,
/// zero-extended) or 64-bit longs. Register 0 of each class is a constant: true, 0 and 0; register 1 takes what nobody
/// reads (`_`).
pub type Reg = u16;

/// The predicate of an instruction; register 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predicate {
    /// The predicate register.
    pub register: Reg,
    /// All ones where the predicate is negated.
    pub flip: u32,
}

impl Predicate {
    /// Always true.
    pub const TRUE: Predicate = Predicate { register: 0, flip: 0 };
}

/// A decoded instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Lanes for which this is false skip it.
    pub guard: Predicate,
    /// What the others do.
    pub op: Op,
}

/// How the words of an arithmetic instruction are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// 8 or 16 low bits, sign-extended when read, cut when written.
    Signed(u8),
    /// 8 or 16 low bits.
    Unsigned(u8),
    /// f32 with denormals flushed to zero, clamped to [0, 1], or both.
    F32 { flush: bool, saturate: bool },
    /// f16 widened to f32 and rounded back.
    Half(HalfKind),
    /// Two of them in a word.
    Halves(HalfKind),
}

/// The 16-bit float formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfKind {
    /// bfloat16 instead of IEEE binary16.
    pub brain: bool,
    /// Clamp the result to [0, 1].
    pub saturate: bool,
    /// Negative results become zero.
    pub relu: bool,
}

/// An operand of a memory instruction: base register plus offset.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// The base register.
    pub base: Reg,
    /// Whether the base is a long; else a word, as 32-bit shared addresses are.
    pub wide: bool,
    /// Added to the base.
    pub offset: i64,
}

/// Where a memory instruction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Decided by the address.
    Generic,
    /// Global memory.
    Global,
    /// Shared memory of the block.
    Shared,
    /// Shared memory of a block of the cluster.
    Cluster,
    /// The lane's own memory.
    Local,
    /// The parameters of the kernel.
    Param,
}

/// A load or store.
#[derive(Clone, Debug)]
pub struct Access {
    pub space: Space,
    pub address: Address,
    /// Bytes of an element.
    pub bytes: u8,
    /// Elements are sign-extended to their register.
    pub signed: bool,
    /// The registers, one for each element.
    pub registers: Vec<Reg>,
    /// Whether they are longs.
    pub wide: bool,
    /// It synchronises: `.acquire`, `.release`, `.relaxed`, `.volatile` or `.mmio`.
    pub order: Order,
}

/// Memory order of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// An ordinary access.
    Weak,
    /// Atomic without ordering others.
    Relaxed,
    /// Orders later accesses.
    Acquire,
    /// Orders earlier accesses.
    Release,
    /// Both.
    AcquireRelease,
}

/// The operation of an atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Increment,
    Decrement,
    Exchange,
    CompareExchange,
}

/// How an atomic reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicKind {
    Unsigned,
    Signed,
    F32,
    F64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
}

/// `atom` and `red`.
#[derive(Clone, Debug)]
pub struct Atomic {
    pub space: Space,
    pub address: Address,
    pub op: AtomicOp,
    pub kind: AtomicKind,
    /// Bytes of an element.
    pub bytes: u8,
    /// Where old values go; empty for `red`.
    pub old: Vec<Reg>,
    /// The operand of each element.
    pub values: Vec<Reg>,
    /// The second operand of `cas`: what is written.
    pub swap: Reg,
    pub wide: bool,
    pub order: Order,
}

/// How `shfl` chooses its source lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What `vote` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// What `redux` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    Add,
    MinUnsigned,
    MaxUnsigned,
    MinSigned,
    MaxSigned,
    And,
    Or,
    Xor,
}

/// Operations on predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    And,
    Or,
    Xor,
}

/// What follows a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// The comparison alone.
    None,
    /// Combined with a predicate.
    With(Logic, Predicate),
}

/// Barriers of a block (`bar`, `barrier`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Arrive and wait.
    Sync,
    /// Arrive only.
    Arrive,
    /// Arrive, wait, and reduce a predicate over the threads.
    ReduceAnd,
    ReduceOr,
    ReduceCount,
}

/// Special registers that change while a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Instructions that the launch has executed: a stand-in for time.
    Low,
    Wide,
}

/// What a lane does.
#[derive(Clone, Debug)]
pub enum Op {
    /// A word from words.
    Word {
        f: word::Kind,
        form: Form,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        e: Reg,
    },
    /// A word from longs.
    Narrow {
        f: long::NarrowKind,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    /// A long from longs (a, b, c) and words (x, y).
    Long {
        f: long::Kind,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        x: Reg,
        y: Reg,
    },
    /// An f32 operation with a directed rounding.
    Rounded {
        f: float::Kind,
        round: float::Round,
        form: Form,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    /// `setp` on words: `d` gets the comparison, `q` its complement.
    CompareWord {
        f: word::Compare,
        form: Form,
        combine: Combine,
        d: Reg,
        q: Reg,
        a: Reg,
        b: Reg,
    },
    /// `setp` on longs.
    CompareLong {
        f: long::Compare,
        combine: Combine,
        d: Reg,
        q: Reg,
        a: Reg,
        b: Reg,
    },
    /// `set`: a word of ones (or 1.0) where the predicate holds.
    Set {
        d: Reg,
        p: Reg,
        one: u32,
    },
    /// `selp` on words.
    SelectWord {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Predicate,
    },
    /// `selp` on longs.
    SelectLong {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Predicate,
    },
    /// Logic on predicates.
    Logic {
        f: Logic,
        d: Reg,
        a: Predicate,
        b: Predicate,
    },
    /// An addition with carry in and out (`add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, ...).
    Carry {
        f: word::CarryKind,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    /// `mov` of a register that changes: `%clock`, `%clock64`, `%globaltimer`.
    Clock {
        d: Reg,
        clock: Clock,
    },
    /// Maps a shared address to a block of the cluster.
    MapShared {
        d: Reg,
        a: Reg,
        rank: Reg,
        wide: bool,
        generic: bool,
    },
    /// The rank of the block that a shared address belongs to.
    RankOf {
        d: Reg,
        a: Reg,
        wide: bool,
    },
    /// `isspacep`.
    IsSpace {
        d: Reg,
        a: Reg,
        space: Space,
    },
    /// `cvta`: between a space and generic addresses.
    Convert {
        d: Reg,
        a: Reg,
        space: Space,
        to_generic: bool,
    },
    Branch {
        target: u32,
    },
    /// `brx.idx`.
    BranchIndexed {
        index: Reg,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    Breakpoint,
    /// Hints, and fences that matter only to the race detector, which are in [`Op::Fence`].
    Nothing,
    Fence(Fence),
    Shuffle {
        how: Shuffle,
        d: Reg,
        valid: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        members: Reg,
    },
    Vote {
        how: Vote,
        d: Reg,
        p: Predicate,
        members: Reg,
    },
    Match {
        all: bool,
        d: Reg,
        valid: Reg,
        a: Reg,
        wide: bool,
        members: Reg,
    },
    ReduceWarp {
        how: Reduce,
        d: Reg,
        a: Reg,
        members: Reg,
    },
    ActiveMask {
        d: Reg,
    },
    Elect {
        d: Reg,
        p: Reg,
        members: Reg,
    },
    WarpBarrier {
        members: Reg,
    },
    Barrier {
        how: Barrier,
        id: Reg,
        count: Option<Reg>,
        p: Predicate,
        d: Option<Reg>,
    },
    /// `barrier.cluster.arrive`; `relaxed` orders no memory.
    ClusterArrive {
        relaxed: bool,
    },
    ClusterWait,
    /// `setmaxnreg`.
    Registers {
        count: u32,
        increase: bool,
    },
    /// Spins are slowed down: the warp gives way.
    Sleep,
    Matrix(Box<Matrix>),
    Async(Box<Async>),
    /// `cluster`: the address may be of another block.
    MBarrier {
        op: Box<MBarrier>,
        address: Address,
        cluster: Space,
    },
    /// `mbarrier.pending_count`.
    PendingCount {
        d: Reg,
        state: Reg,
    },
}

/// Fences that the checks know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// `fence.sc`, `fence.acq_rel`, `membar`; `wide` beyond the block.
    Memory { wide: bool },
    /// `fence.proxy.async` for shared memory, global memory, or both.
    Proxy { shared: bool, global: bool },
    /// `fence.mbarrier_init.release.cluster`.
    MBarrierInit,
}

/// Where `wgmma` finds matrix A.
#[derive(Clone, Copy, Debug)]
pub enum SourceA {
    /// A descriptor of shared memory in a long.
    Descriptor(Reg),
    /// A fragment in words.
    Registers([Reg; 4]),
}

/// Instructions of a whole warp on matrices.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// `mma.sync`.
    Multiply { shape: Mma, d: [Reg; 4], a: Vec<Reg>, b: Vec<Reg>, c: [Reg; 4] },
    /// `ldmatrix`.
    Load { d: Vec<Reg>, address: Address, transpose: bool },
    /// `stmatrix`.
    Store { values: Vec<Reg>, address: Address, transpose: bool },
    /// `movmatrix`: a transposition among registers.
    Transpose { d: Reg, a: Reg },
    /// `wgmma.mma_async`.
    Group { shape: Wgmma, d: Vec<Reg>, a: SourceA, b: Reg, accumulate: Predicate },
    /// `wgmma.fence`.
    Fence,
    /// `wgmma.commit_group`.
    Commit,
    /// `wgmma.wait_group`.
    Wait { groups: u32 },
}

/// The reduction of a bulk copy to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction {
    pub op: AtomicOp,
    /// Type of the elements; none where a tensor map knows it.
    pub kind: Option<(AtomicKind, u8)>,
}

/// A part of a bulk copy: contiguous bytes, or the box of a tensor map at coordinates.
#[derive(Clone, Debug)]
pub enum Region {
    /// Bytes at an address; the size is in a word.
    Linear { address: Address, bytes: Reg },
    /// A box of a tensor.
    Tensor { map: Address, coordinates: Vec<Reg> },
}

/// Asynchronous copies and their groups.
#[derive(Clone, Debug)]
pub enum Async {
    /// `cp.async`: `bytes` to shared memory, of which `source` come from global memory and the others are zero.
    Copy {
        shared: Address,
        global: Address,
        bytes: u32,
        source: Option<Reg>,
        skip: Option<Predicate>,
    },
    Commit,
    /// `cp.async.wait_group`; none for `wait_all`.
    Wait {
        groups: Option<u32>,
    },
    /// `cp.async.mbarrier.arrive`; without `.noinc` it also expects the arrival.
    Arrive {
        barrier: Address,
        expect: bool,
    },
    /// A bulk copy from global memory that reports to an mbarrier.
    Load {
        shared: Address,
        from: Region,
        barrier: Address,
        multicast: Option<Reg>,
    },
    /// A bulk copy between blocks of a cluster.
    Exchange {
        to: Address,
        from: Address,
        bytes: Reg,
        barrier: Address,
    },
    /// A bulk copy or reduction to global memory.
    Store {
        to: Region,
        shared: Address,
        reduction: Option<Reduction>,
    },
    BulkCommit,
    /// `cp.async.bulk.wait_group`; with `read` only until the sources have been read.
    BulkWait {
        groups: u32,
        read: bool,
    },
}

/// What a wait at an mbarrier asks for.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// The parity in a word.
    Parity(Reg),
    /// The state in a long.
    State(Reg),
}

/// Operations on mbarriers.
#[derive(Clone, Debug)]
pub enum MBarrier {
    Init {
        count: Reg,
    },
    Invalidate,
    /// `arrive`, with its count, the bytes it expects, and where the state goes.
    Arrive {
        state: Reg,
        count: Option<Reg>,
        expect: Option<Reg>,
        drop: bool,
        relaxed: bool,
    },
    ExpectBytes {
        bytes: Reg,
    },
    CompleteBytes {
        bytes: Reg,
    },
    /// `test_wait` and `try_wait`.
    Wait {
        p: Reg,
        phase: Phase,
        relaxed: bool,
    },
}
