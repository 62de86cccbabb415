// C = A B of bf16 operands on compute capability 9.0a, in all storage orders without transposed copies.
//
// Constants: A_K_MAJOR, B_K_MAJOR (k is the contiguous dimension), SCHEDULE, and those of the epilogue, with ALIGNED.
//
// One warp fills a ring of stages through the tensor memory accelerator; two warpgroups consume them with wgmma. A tile is
// 128 x 128; a step of k is 64 elements, one 128-byte row of a swizzled tile. A stage is 16 KB of A and as much of B; six
// make the ring.
//
// PING_PONG: each warpgroup has a tile of its own, so that one multiplies while the other is in its epilogue.
// SPLIT: for few tiles of large k (gradients of weights). Both warpgroups work on one tile, 64 rows each, and tiles are divided
// by steps of k into parts. Neighbouring blocks have the same part of neighbouring tiles: they read the same at the same time.
// Who has the last part of a tile adds the sums of the others, which they leave in global memory, and finishes it.
//
// Blocks are persistent; the producer runs ahead of the consumers. No atomic additions: the order of all sums is fixed by the
// shape and the number of parts.

enum Schedule { PING_PONG = 0, SPLIT = 1 };

constexpr u32 TILE = 128;
constexpr u32 TILE_K = 64;
constexpr u32 CONSUMERS = 2;
constexpr u32 GROUP_THREADS = 128;
constexpr u32 THREADS = (1 + CONSUMERS) * GROUP_THREADS;
constexpr u32 BLOCK_BYTES = 64 * 128;  // 64 rows of 128 bytes: what m64 takes of A in a step
constexpr u32 OPERAND_BYTES = TILE * 128;
constexpr u32 STAGE_BYTES = 2 * OPERAND_BYTES;
constexpr u32 STAGES = 192 * 1024 / STAGE_BYTES;
constexpr u32 STAGING = STAGES * STAGE_BYTES;
constexpr u32 BARRIERS = STAGING + CONSUMERS * 4 * STRIP_BYTES;
// Rows of a tile that one consumer multiplies, in blocks of 64, and consumers that read a stage.
constexpr u32 BLOCKS_M = SCHEDULE == PING_PONG ? 2 : 1;
constexpr u32 STRIPS_N = TILE / STRIP_COLUMNS;
constexpr u32 READERS = SCHEDULE == PING_PONG ? 1 : 2;
// Of a thread of each kind.
constexpr int PRODUCER_REGISTERS = 40;
constexpr int CONSUMER_REGISTERS = 232;
static_assert(ALIGNED, "tensor maps need rows and addresses that are multiples of 16 bytes");
static_assert(PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS <= 3 * 168, "a block begins with 168 a thread");

// Named barriers: of the threads of each consumer, or the turn of each consumer to multiply.
constexpr u32 GROUP_BARRIER = 1;
constexpr u32 TURN_BARRIER = 1;

using Accumulators = float[BLOCKS_M][TILE / 2];

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

// Copies the step of k at `k` of the tile's rows of m or n, which begin at `first`.
template <bool K_MAJOR> DEVICE void fill(u32 to, const TensorMap* map, u32 barrier, u32 first, u32 k) {
    if constexpr (K_MAJOR) {
        cp_async_bulk_tensor_2d(to, map, barrier, k, first);
    } else {
#pragma unroll
        for (u32 block = 0; block < TILE / 64; ++block) {
            cp_async_bulk_tensor_2d(to + block * BLOCK_BYTES, map, barrier, first + block * 64, k);
        }
    }
}

// Multiplies `steps` stages into the accumulators. `first_block` is the first block of 64 rows of A that is this
// warpgroup's; then it is the turn of consumer `next`, unless that is this many. `meanwhile` is called once while the last
// step multiplies.
template <class Meanwhile>
DEVICE void multiply(Accumulators& accumulators, u32 stages, Barriers barriers, Ring& ring, u32 steps, u32 first_block,
                     u32 next, Meanwhile meanwhile) {
    const bool elected = threadIdx.x % GROUP_THREADS == 0;
    constexpr u32 A_STEP = A_K_MAJOR ? 32 : 16 * 128, B_STEP = B_K_MAJOR ? 32 : 16 * 128;  // bytes of 16 of k
    u32 previous = 0;
    for (u32 step = 0; step < steps; ++step) {
        mbarrier_wait(barriers.full(ring.stage), ring.parity);
        const u32 a = stages + ring.stage * STAGE_BYTES + first_block * BLOCK_BYTES;
        const u32 b = stages + ring.stage * STAGE_BYTES + OPERAND_BYTES;
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
    meanwhile();
    wgmma_wait_group<0>();
    // The compiler knows only now that they have changed.
#pragma unroll
    for (u32 block = 0; block < BLOCKS_M; ++block) {
#pragma unroll
        for (u32 i = 0; i < TILE / 2; ++i) asm volatile("" : "+f"(accumulators[block][i])::"memory");
    }
    if (elected && steps > 0) mbarrier_arrive(barriers.empty(previous));
}

// A tile, or some of its steps.
struct Part {
    u32 tile, split, begin, end;
};

DEVICE Part part_at(u32 index, u32 tiles, u32 steps, u32 splits) {
    if (SCHEDULE == PING_PONG) return {index, 0, 0, steps};
    const u32 split = index / tiles;
    return {index % tiles, split, steps * split / splits, steps * (split + 1) / splits};
}

// Where blocks leave sums for each other: of each part but the last of a tile 64 of each consuming thread, and a flag of each
// consumer, which is 0 between launches.
struct Exchange {
    float* sums;
    u32* flags;

    DEVICE float* sums_of(u32 place) const {
        return sums + (u64)place * (TILE * TILE) + (threadIdx.x - GROUP_THREADS) * 4;
    }
};

// Leaves a consumer's sums for the block that finishes the tile.
DEVICE void give(const Exchange& exchange, u32 place, u32 consumer, const float* sums) {
    float* to = exchange.sums_of(place);
#pragma unroll
    for (u32 i = 0; i < TILE / 2; i += 4, to += CONSUMERS * GROUP_THREADS * 4) {
        stg_128(to, bits_of(sums[i]), bits_of(sums[i + 1]), bits_of(sums[i + 2]), bits_of(sums[i + 3]));
    }
    bar_sync<GROUP_THREADS>(GROUP_BARRIER + consumer);
    if (threadIdx.x % GROUP_THREADS == 0) st_release(exchange.flags + place * CONSUMERS + consumer, 1);
}

// Adds what another block leaves.
DEVICE void receive(const Exchange& exchange, u32 place, u32 consumer, float* sums) {
    if (threadIdx.x % GROUP_THREADS == 0) {
        u32* flag = exchange.flags + place * CONSUMERS + consumer;
        while (ld_acquire(flag) == 0) {}
        *flag = 0;
    }
    bar_sync<GROUP_THREADS>(GROUP_BARRIER + consumer);
    const float* from = exchange.sums_of(place);
#pragma unroll
    for (u32 i = 0; i < TILE / 2; i += 4, from += CONSUMERS * GROUP_THREADS * 4) {
        const float4 given = ldg_128(from);
        sums[i] += given.x, sums[i + 1] += given.y, sums[i + 2] += given.z, sums[i + 3] += given.w;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) matmul_sm90(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, Output* out, const float* bias, Output* side,
    const Output* residual, u32 m, u32 n, u32 k, u32 accumulate, u32 splits, float* sums, u32* flags) {
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

    const u32 tiles_m = divide_up(m, TILE), tiles_n = divide_up(n, TILE), tiles = tiles_m * tiles_n;
    const u32 steps = divide_up(k, TILE_K), parts = SCHEDULE == SPLIT ? tiles * splits : tiles;
    Ring ring;
    if (threadIdx.x < GROUP_THREADS) {
        setmaxnreg_dec<PRODUCER_REGISTERS>();
        if (threadIdx.x > 0) return;
        for (u32 index = blockIdx.x; index < parts; index += gridDim.x) {
            const Part part = part_at(index, tiles, steps, splits);
            const TilePosition tile = tile_position(part.tile, tiles_m, tiles_n);
            for (u32 step = part.begin; step < part.end; ++step) {
                const u32 full = barriers.full(ring.stage), stage = shared + ring.stage * STAGE_BYTES;
                mbarrier_wait(barriers.empty(ring.stage), ring.parity ^ 1);
                mbarrier_arrive_expect_tx(full, STAGE_BYTES);
                fill<A_K_MAJOR>(stage, &a, full, tile.m * TILE, step * TILE_K);
                fill<B_K_MAJOR>(stage + OPERAND_BYTES, &b, full, tile.n * TILE, step * TILE_K);
                ring.advance();
            }
        }
    } else {
        setmaxnreg_inc<CONSUMER_REGISTERS>();
        const u32 consumer = threadIdx.x / GROUP_THREADS - 1, warp = threadIdx.x % GROUP_THREADS / WARP;
        const u32 first_block = SCHEDULE == PING_PONG ? 0 : consumer;
        const u32 staging = shared + STAGING + (consumer * 4 + warp) * STRIP_BYTES;
        const Epilogue epilogue = {out, bias, side, residual, m, n, accumulate != 0};
        const Exchange exchange = {sums, flags};
        // In turns, and not only for the sake of the tensor cores: whoever waits for a phase of a barrier must know that the
        // one before is complete, for a parity does not tell a phase from the next but one.
        if (SCHEDULE == PING_PONG && consumer == 1) bar_arrive<CONSUMERS * GROUP_THREADS>(TURN_BARRIER);
        // Consumers have every other tile there, and skip the steps of those between.
        const u32 stride = SCHEDULE == PING_PONG ? CONSUMERS * gridDim.x : gridDim.x;
        const u32 skipped = SCHEDULE == PING_PONG ? consumer : 0;
        ring.skip(skipped * steps);
        for (u32 index = blockIdx.x + skipped * gridDim.x; index < parts; index += stride) {
            const Part part = part_at(index, tiles, steps, splits);
            const TilePosition tile = tile_position(part.tile, tiles_m, tiles_n);
            Accumulators accumulators;
#pragma unroll
            for (u32 block = 0; block < BLOCKS_M; ++block) {
#pragma unroll
                for (u32 i = 0; i < TILE / 2; ++i) accumulators[block][i] = 0.0f;
            }
            u32 next = CONSUMERS;
            if (SCHEDULE == PING_PONG) {
                bar_sync<CONSUMERS * GROUP_THREADS>(TURN_BARRIER + consumer);
                if (index + gridDim.x < parts) next = 1 - consumer;
            }
            const auto strip_of = [&](u32 index) {
                const u32 block = index / STRIPS_N, row = (first_block + block) * 64 + warp * 16;
                return Strip{tile.m * TILE + row, tile.n * TILE + index % STRIPS_N * STRIP_COLUMNS};
            };
            const Output* first = first_read(epilogue);
            Pieces pieces;
            const auto fetch_first = [&] {
                if (first) fetch(pieces, epilogue, first, strip_of(0), lane_of_epilogue());
            };
            multiply(accumulators, shared, barriers, ring, part.end - part.begin, first_block, next, [&] {
                if (SCHEDULE == PING_PONG) fetch_first();
            });
            if constexpr (SCHEDULE == SPLIT) {
                if (part.split + 1 < splits) {
                    give(exchange, index, consumer, accumulators[0]);
                    continue;
                }
                for (u32 split = 0; split + 1 < splits; ++split) {
                    receive(exchange, split * tiles + part.tile, consumer, accumulators[0]);
                }
                fetch_first();
            }
            finish_strips<BLOCKS_M * STRIPS_N>(epilogue, Staging(staging), accumulators[0], pieces, strip_of);
            if (SCHEDULE == PING_PONG) ring.skip(steps);
        }
    }
}
