//! What a launch did, as counts: regression numbers for tests, and the input of a roofline estimate.
use std::ops::AddAssign;

/// Counts of one launch. There is no time in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions issued by warps.
    pub warp_instructions: u64,
    /// Instructions executed by lanes: a warp instruction counts once for each active lane.
    pub lane_instructions: u64,
    /// Warp instructions that do arithmetic, logic, conversion, comparison or moves.
    pub arithmetic_instructions: u64,
    /// Warp instructions that access memory.
    pub memory_instructions: u64,
    /// Warp instructions that branch, return or wait at a barrier.
    pub control_instructions: u64,
    /// Warp instructions on the tensor cores: `mma.sync`, `wgmma`, `ldmatrix`, `stmatrix`.
    pub matrix_instructions: u64,
    /// Requests of warps to shared memory.
    pub shared_requests: u64,
    /// Passes over the 32 banks that those requests need; equal to the ideal count when there is no conflict.
    pub shared_wavefronts: u64,
    /// The fewest passes that the same bytes could need.
    pub shared_ideal_wavefronts: u64,
    /// Load requests of warps to global memory.
    pub global_load_requests: u64,
    /// 32-byte sectors that those loads touch.
    pub global_load_sectors: u64,
    /// Bytes that lanes loaded from global memory.
    pub global_load_bytes: u64,
    /// Store and reduction requests of warps to global memory.
    pub global_store_requests: u64,
    /// 32-byte sectors that those stores touch.
    pub global_store_sectors: u64,
    /// Bytes that lanes stored to global memory.
    pub global_store_bytes: u64,
    /// Bytes that asynchronous copies (`cp.async` and bulk copies) moved to shared memory.
    pub asynchronous_load_bytes: u64,
    /// Bytes that bulk copies moved from shared memory to global memory.
    pub asynchronous_store_bytes: u64,
    /// Floating-point operations of the tensor cores, two for each multiply-add.
    pub matrix_flops: u64,
    /// Times that a warp arrived at a barrier of its block or cluster.
    pub barrier_arrivals: u64,
    /// Times that a wait at an mbarrier did not find its phase complete.
    pub barrier_retries: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.arithmetic_instructions += other.arithmetic_instructions;
        self.memory_instructions += other.memory_instructions;
        self.control_instructions += other.control_instructions;
        self.matrix_instructions += other.matrix_instructions;
        self.shared_requests += other.shared_requests;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal_wavefronts += other.shared_ideal_wavefronts;
        self.global_load_requests += other.global_load_requests;
        self.global_load_sectors += other.global_load_sectors;
        self.global_load_bytes += other.global_load_bytes;
        self.global_store_requests += other.global_store_requests;
        self.global_store_sectors += other.global_store_sectors;
        self.global_store_bytes += other.global_store_bytes;
        self.asynchronous_load_bytes += other.asynchronous_load_bytes;
        self.asynchronous_store_bytes += other.asynchronous_store_bytes;
        self.matrix_flops += other.matrix_flops;
        self.barrier_arrivals += other.barrier_arrivals;
        self.barrier_retries += other.barrier_retries;
    }
}

/// The result of a launch that ended without a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What all blocks did together.
    pub counters: Counters,
    /// Blocks that ran.
    pub blocks: u64,
}
