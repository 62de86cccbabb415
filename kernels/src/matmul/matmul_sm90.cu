// C = A B of bf16 operands on compute capability 9.0a, in all storage orders without transposed copies.
//
// Constants: A_K_MAJOR, B_K_MAJOR (k is the contiguous dimension), SCHEDULE, TILE_N, and those of the epilogue, with ALIGNED.
//
// One warp fills a ring of stages through the tensor memory accelerator; two warpgroups consume them with wgmma. A step of
// k is 64 elements, one 128-byte row of a swizzled tile. A stage is 16 KB of A and TILE_N * 128 bytes of B; the ring takes
// 192 KB, six stages at 128 columns and four at 256.
//
// COOPERATIVE: both warpgroups work on one 128 x 256 tile, 64 rows each. Least traffic of shared memory, for large k.
// PING_PONG: each warpgroup has a 128 x 128 tile of its own, so that one multiplies while the other is in its epilogue.
// SPLIT: for products of few tiles and large k (gradients of weights). The blocks of a cluster share a 128 x TILE_N tile,
// each with a part of k; their sums meet in shared memory and are added in the order of the blocks, each block for a part
// of the tile. No atomics: the order of additions is fixed by the shape and the number of splits.
//
// Blocks are persistent but in SPLIT: block i computes tiles i, i + gridDim.x, ...; the producer runs ahead of them.

enum Schedule { COOPERATIVE = 0, PING_PONG = 1, SPLIT = 2 };

constexpr u32 TILE_M = 128;
constexpr u32 TILE_K = 64;
constexpr u32 CONSUMERS = 2;
constexpr u32 GROUP_THREADS = 128;
constexpr u32 THREADS = (1 + CONSUMERS) * GROUP_THREADS;
constexpr u32 BLOCK_BYTES = 64 * 128;  // 64 rows of 128 bytes: what m64 takes of A in a step
constexpr u32 A_BYTES = TILE_M * 128;
constexpr u32 STAGE_BYTES = A_BYTES + TILE_N * 128;
constexpr u32 STAGES = 192 * 1024 / STAGE_BYTES;
constexpr u32 STAGING = STAGES * STAGE_BYTES;
constexpr u32 BARRIERS = STAGING + CONSUMERS * 4 * STAGING_BYTES;
// Rows of a tile that one consumer multiplies, in blocks of 64, and consumers that read a stage.
constexpr u32 BLOCKS_M = SCHEDULE == PING_PONG ? 2 : 1;
constexpr u32 READERS = SCHEDULE == PING_PONG ? 1 : 2;
// 64K registers for 128 producing and 256 consuming threads.
constexpr int PRODUCER_REGISTERS = 40;
constexpr int CONSUMER_REGISTERS = 232;
static_assert(BLOCKS_M * TILE_N <= 256, "128 accumulators a thread");
static_assert(ALIGNED, "tensor maps need rows and addresses that are multiples of 16 bytes");
static_assert(GROUP_THREADS * (PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS) <= 65536, "registers");
static_assert(SCHEDULE != SPLIT || TILE_M * TILE_N * 4 <= STAGING, "the sums lie over the stages");

// Named barriers: consumers before they overwrite the stages; from TURN_BARRIER on, the turn of each consumer to multiply.
constexpr u32 SUMS_BARRIER = 1;
constexpr u32 TURN_BARRIER = 2;

using Accumulators = float[BLOCKS_M][TILE_N / 2];

// Where a block stands in the ring of stages.
struct Ring {
    u32 stage = 0, parity = 0;

    DEVICE void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    DEVICE void skip(u32 steps) {
        const u32 to = stage + steps;
        stage = to % STAGES, parity ^= to / STAGES & 1;
    }
};

struct Barriers {
    u32 base;

    DEVICE u32 full(u32 stage) const { return base + stage * 16; }
    DEVICE u32 empty(u32 stage) const { return base + stage * 16 + 8; }
};

// Copies the step of k at `k` of the EXTENT rows of m or n that begin at `first`.
template <bool K_MAJOR, u32 EXTENT> DEVICE void fill(u32 to, const TensorMap* map, u32 barrier, u32 first, u32 k) {
    if constexpr (K_MAJOR) {
        cp_async_bulk_tensor_2d(to, map, barrier, k, first);
    } else {
#pragma unroll
        for (u32 block = 0; block < EXTENT / 64; ++block) {
            cp_async_bulk_tensor_2d(to + block * BLOCK_BYTES, map, barrier, first + block * 64, k);
        }
    }
}

// Multiplies `steps` stages into the accumulators. `first_block` is the first block of 64 rows of A that is this
// warpgroup's; then it is the turn of consumer `next`, unless that is this many.
DEVICE void multiply(
    Accumulators& accumulators, u32 stages, Barriers barriers, Ring& ring, u32 steps, u32 first_block, u32 next) {
    const bool elected = threadIdx.x % GROUP_THREADS == 0;
    constexpr u32 A_STEP = A_K_MAJOR ? 32 : 16 * 128, B_STEP = B_K_MAJOR ? 32 : 16 * 128;  // bytes of 16 of k
    u32 previous = 0;
    for (u32 step = 0; step < steps; ++step) {
        mbarrier_wait(barriers.full(ring.stage), ring.parity);
        const u32 a = stages + ring.stage * STAGE_BYTES + first_block * BLOCK_BYTES;
        const u32 b = stages + ring.stage * STAGE_BYTES + A_BYTES;
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < TILE_K / 16; ++k) {
#pragma unroll
            for (u32 block = 0; block < BLOCKS_M; ++block) {
                wgmma_m64k16<A_K_MAJOR, B_K_MAJOR>(
                    accumulators[block],
                    wgmma_descriptor<A_K_MAJOR, BLOCK_BYTES>(a + block * BLOCK_BYTES + k * A_STEP),
                    wgmma_descriptor<B_K_MAJOR, BLOCK_BYTES>(b + k * B_STEP));
            }
        }
        wgmma_commit_group();
        // While this step multiplies, the stage of the one before goes back to the producer.
        wgmma_wait_group<1>();
        if (elected && step > 0) mbarrier_arrive(barriers.empty(previous));
        previous = ring.stage;
        ring.advance();
    }
    if (next < CONSUMERS) bar_arrive<CONSUMERS * GROUP_THREADS>(TURN_BARRIER + next);
    wgmma_wait_group<0>();
    if (elected && steps > 0) mbarrier_arrive(barriers.empty(previous));
}

// Byte offset of 4 floats of a row of the SPLIT tile, permuted so that the 4 rows that a half warp writes to differ in
// their banks.
DEVICE u32 sum_offset(u32 row, u32 unit) { return row * (TILE_N * 4) + ((unit ^ (row & 3) << 1) << 4); }

// Adds the sums of all blocks of the cluster and writes this block's part of the tile. The consumers call it, and the
// producer's threads meet them in its two barriers.
DEVICE void finish_split(const Epilogue& e, const Accumulators& accumulators, u32 shared, u32 first_m, u32 first_n) {
    const u32 thread = threadIdx.x - GROUP_THREADS, lane = threadIdx.x % WARP;
    // The other warpgroup may still multiply from the stages that the sums will lie over.
    bar_sync<CONSUMERS * GROUP_THREADS>(SUMS_BARRIER);
#pragma unroll
    for (u32 part = 0; part < TILE_N / 8; ++part) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 row = thread / WARP * 16 + half * 8 + lane / 4, pair = lane % 4;
            const float* sums = &accumulators[0][part * 4 + half * 2];
            sts_64(shared + sum_offset(row, part * 2 + pair / 2) + pair % 2 * 8, sums[0], sums[1]);
        }
    }
    barrier_cluster();
    constexpr u32 UNITS = TILE_M * TILE_N / 4;
    const u32 rank = blockIdx.x, splits = gridDim.x;
    const u32 begin = UNITS * rank / splits, end = UNITS * (rank + 1) / splits;
    for (u32 unit = begin + thread; unit < end; unit += CONSUMERS * GROUP_THREADS) {
        const u32 row = unit / (TILE_N / 4), column = unit % (TILE_N / 4) * 4;
        const u32 offset = shared + sum_offset(row, column / 4);
        float4 total = ld_shared_cluster_128(mapa(offset, 0));
        for (u32 other = 1; other < splits; ++other) {
            const float4 part = ld_shared_cluster_128(mapa(offset, other));
            total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
        }
        float values[4] = {total.x, total.y, total.z, total.w};
        if (first_m + row < e.m && first_n + column < e.n) finish_values(e, values, first_m + row, first_n + column);
    }
    // Nobody leaves while others read its sums.
    barrier_cluster();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) matmul_sm90(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, Output* out, const float* bias, Output* side,
    const Output* residual, u32 m, u32 n, u32 k, u32 accumulate) {
    extern __shared__ __align__(1024) u8 dynamic[];
    const u32 shared = shared_address(dynamic);
    const Barriers barriers = {shared + BARRIERS};
    if (threadIdx.x == 0) {
        prefetch_tensormap(&a);
        prefetch_tensormap(&b);
        for (u32 stage = 0; stage < STAGES; ++stage) {
            mbarrier_init(barriers.full(stage), 1);
            mbarrier_init(barriers.empty(stage), READERS);
        }
        fence_mbarrier_init();
    }
    __syncthreads();

    const u32 tiles_m = divide_up(m, TILE_M), tiles_n = divide_up(n, TILE_N), tiles = tiles_m * tiles_n;
    // SPLIT has a grid of splits by tiles, and a block takes its share of the steps of k.
    const u32 first_tile = SCHEDULE == SPLIT ? blockIdx.y : blockIdx.x;
    const u32 workers = SCHEDULE == SPLIT ? gridDim.y : gridDim.x;
    const u32 all_steps = divide_up(k, TILE_K);
    const u32 begin = SCHEDULE == SPLIT ? all_steps * blockIdx.x / gridDim.x : 0;
    const u32 end = SCHEDULE == SPLIT ? all_steps * (blockIdx.x + 1) / gridDim.x : all_steps;
    const Epilogue epilogue = {out, bias, side, residual, m, n, accumulate != 0};

    if (threadIdx.x < GROUP_THREADS) {
        setmaxnreg_dec<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            Ring ring;
            for (u32 index = first_tile; index < tiles; index += workers) {
                const TilePosition tile = tile_position(index, tiles_m, tiles_n);
                for (u32 step = begin; step < end; ++step) {
                    const u32 full = barriers.full(ring.stage), stage = shared + ring.stage * STAGE_BYTES;
                    mbarrier_wait(barriers.empty(ring.stage), ring.parity ^ 1);
                    mbarrier_arrive_expect_tx(full, STAGE_BYTES);
                    fill<A_K_MAJOR, TILE_M>(stage, &a, full, tile.m * TILE_M, step * TILE_K);
                    fill<B_K_MAJOR, TILE_N>(stage + A_BYTES, &b, full, tile.n * TILE_N, step * TILE_K);
                    ring.advance();
                }
            }
        }
        if constexpr (SCHEDULE == SPLIT) {
            __syncwarp();
            barrier_cluster();
            barrier_cluster();
        }
    } else {
        setmaxnreg_inc<CONSUMER_REGISTERS>();
        const u32 consumer = threadIdx.x / GROUP_THREADS - 1, warp = threadIdx.x % GROUP_THREADS / WARP;
        const u32 first_block = SCHEDULE == PING_PONG ? 0 : consumer;
        const u32 staging = shared + STAGING + (consumer * 4 + warp) * STAGING_BYTES;
        // In turns, and not only for the sake of the tensor cores: whoever waits for a phase of a barrier must know that the
        // one before is complete, for a parity does not tell a phase from the next but one.
        if (SCHEDULE == PING_PONG && consumer == 1) bar_arrive<CONSUMERS * GROUP_THREADS>(TURN_BARRIER);
        Ring ring;
        u32 turn = 0;
        for (u32 index = first_tile; index < tiles; index += workers, ++turn) {
            if (SCHEDULE == PING_PONG && turn % CONSUMERS != consumer) {
                ring.skip(end - begin);
                continue;
            }
            const TilePosition tile = tile_position(index, tiles_m, tiles_n);
            Accumulators accumulators;
#pragma unroll
            for (u32 block = 0; block < BLOCKS_M; ++block) {
#pragma unroll
                for (u32 i = 0; i < TILE_N / 2; ++i) accumulators[block][i] = 0.0f;
            }
            u32 next = CONSUMERS;
            if (SCHEDULE == PING_PONG) {
                bar_sync<CONSUMERS * GROUP_THREADS>(TURN_BARRIER + consumer);
                if (index + workers < tiles) next = 1 - consumer;
            }
            multiply(accumulators, shared, barriers, ring, end - begin, first_block, next);
            if constexpr (SCHEDULE == SPLIT) {
                finish_split(epilogue, accumulators, shared, tile.m * TILE_M, tile.n * TILE_N);
            } else {
#pragma unroll
                for (u32 block = 0; block < BLOCKS_M; ++block) {
#pragma unroll
                    for (u32 part = 0; part < TILE_N / STAGING_COLUMNS; ++part) {
                        finish_fragment(epilogue, staging, &accumulators[block][part * 16],
                                        tile.m * TILE_M + (first_block + block) * 64 + warp * STAGING_ROWS,
                                        tile.n * TILE_N + part * STAGING_COLUMNS);
                    }
                }
            }
        }
    }
}
