// C = A B for every GPU from compute capability 8.0 on, f32 and bf16, all storage orders and sizes.
//
// Constants: A_K_MAJOR, B_K_MAJOR (k is the contiguous dimension), INPUT_BF16, TILE_M, TILE_N (64 or 128), WARPS_M,
// WARPS_N, ALIGNED (rows and addresses of A and B too are multiples of 16 bytes), and those of the epilogue.
//
// A block computes a tile of C. Operands pass through three stages of shared memory, filled by cp.async two steps of k
// ahead. A step is 64 bytes of k: 32 bf16 or 16 f32. At 128x128 a stage is 16 KB, so three fill the 48 KB that need no
// opt-in and two blocks share a multiprocessor wherever there are 100 KB; a step of two blocks is about 1000 cycles of
// tensor cores, more than the latency of memory that two stages must cover.
//
// bf16 goes through ldmatrix and mma.sync. f32 is multiplied and added in f32, by threads that own the same elements of C
// as in mma.sync, so the rest of the kernel is one. The sum over k runs in its order, in one accumulator.

using Input = Select<INPUT_BF16, bf16, float>::Type;

constexpr u32 CHUNK = 16 / sizeof(Input);   // elements of 16 bytes
constexpr u32 TILE_K = 64 / sizeof(Input);  // elements of a step
constexpr u32 STAGES = 3;
constexpr u32 THREADS = WARPS_M * WARPS_N * WARP;
constexpr u32 WARP_M = TILE_M / WARPS_M;
constexpr u32 WARP_N = TILE_N / WARPS_N;
constexpr u32 A_BYTES = TILE_M * 64;
constexpr u32 STAGE_BYTES = A_BYTES + TILE_N * 64;
static_assert(WARP_M % STAGING_ROWS == 0 && WARP_N % STAGING_COLUMNS == 0, "the epilogue's parts");
static_assert(WARPS_M * WARPS_N * STAGING_BYTES <= STAGES * STAGE_BYTES, "staging lies over the stages");
static_assert(STAGES * STAGE_BYTES <= 48 * 1024, "static shared memory");

// An operand's tile: EXTENT rows of m or n by TILE_K of k, in chunks of 16 bytes, permuted so that the 8 rows of an
// ldmatrix lie in different banks. With k contiguous a row has 64 bytes, and two rows share the banks; else a row is
// one k and has 8 chunks or a multiple of that.
template <bool K_MAJOR, u32 EXTENT> struct Tile {
    static constexpr u32 ROW_CHUNKS = K_MAJOR ? 4 : EXTENT / CHUNK;
    static constexpr u32 COPIES = EXTENT * 4 / THREADS;  // chunks of a step that one thread copies
    static_assert(EXTENT * 4 % THREADS == 0 && (K_MAJOR || ROW_CHUNKS % 8 == 0), "whole rounds");

    static DEVICE u32 offset(u32 row, u32 chunk) {
        return row * (ROW_CHUNKS * 16) + ((chunk ^ (K_MAJOR ? row >> 1 & 3 : row & 7)) << 4);
    }

    // Of the 8 by 8 elements of bf16 that start at (extent, k): the address of its row `row`, for ldmatrix.
    static DEVICE u32 matrix_row(u32 tile, u32 extent, u32 k, u32 row) {
        return tile + (K_MAJOR ? offset(extent + row, k / CHUNK) : offset(k + row, extent / CHUNK));
    }

    // Copies the step of k that begins at `k`; elements outside of the operand become zeros.
    static DEVICE void fill(u32 tile, const Input* source, u32 extent, u32 k_size, u32 first, u32 k) {
        const u32 stride = K_MAJOR ? k_size : extent;
#pragma unroll
        for (u32 copy = 0; copy < COPIES; ++copy) {
            const u32 index = copy * THREADS + threadIdx.x, row = index / ROW_CHUNKS, chunk = index % ROW_CHUNKS;
            const u32 outer = (K_MAJOR ? first : k) + row, inner = (K_MAJOR ? k : first) + chunk * CHUNK;
            const bool inside = outer < (K_MAJOR ? extent : k_size) && inner < stride;
            const Input* from = source + (u64)outer * stride + inner;
            const u32 to = tile + offset(row, chunk);
            if constexpr (ALIGNED) {
                cp_async_16(to, inside ? from : source, inside);
            } else {
                u32 words[4] = {0, 0, 0, 0};
                if (inside) {
#pragma unroll
                    for (u32 i = 0; i < CHUNK; ++i) {
                        const u32 place = i * sizeof(Input);
                        if (inner + i < stride) words[place / 4] |= bits_of(from[i]) << place % 4 * 8;
                    }
                }
                sts_128(to, words[0], words[1], words[2], words[3]);
            }
        }
    }
};

using TileA = Tile<A_K_MAJOR, TILE_M>;
using TileB = Tile<B_K_MAJOR, TILE_N>;
using Accumulators = float[WARP_M / 16][WARP_N / 8][4];

// Adds one step of the warp's part at (m, n) of the tile, bf16.
DEVICE void multiply_bf16(Accumulators& accumulators, u32 a, u32 b, u32 m, u32 n) {
    // Which of the four matrices this lane addresses, and which row of it.
    const u32 lane = threadIdx.x % WARP, matrix = lane / 8, row = lane % 8;
#pragma unroll
    for (u32 k = 0; k < TILE_K; k += 16) {
        u32 as[WARP_M / 16][4], bs[WARP_N / 16][4];
#pragma unroll
        for (u32 i = 0; i < WARP_M / 16; ++i) {
            // In the order of the registers of mma.sync: rows 0-7 and 8-15 of m at k 0-7, then at k 8-15.
            const u32 address = TileA::matrix_row(a, m + i * 16 + matrix % 2 * 8, k + matrix / 2 * 8, row);
            if constexpr (A_K_MAJOR) ldmatrix_x4(as[i], address);
            else ldmatrix_x4_trans(as[i], address);
        }
#pragma unroll
        for (u32 j = 0; j < WARP_N / 16; ++j) {
            // Two neighbouring 8 columns of n, each with k 0-7 and 8-15.
            const u32 address = TileB::matrix_row(b, n + j * 16 + matrix / 2 * 8, k + matrix % 2 * 8, row);
            if constexpr (B_K_MAJOR) ldmatrix_x4(bs[j], address);
            else ldmatrix_x4_trans(bs[j], address);
        }
#pragma unroll
        for (u32 i = 0; i < WARP_M / 16; ++i) {
#pragma unroll
            for (u32 j = 0; j < WARP_N / 8; ++j) {
                mma_m16n8k16_bf16(accumulators[i][j], as[i], bs[j / 2][j % 2 * 2], bs[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
}

// As above in f32. A lane owns rows lane / 4 + 8 i and columns 2 (lane % 4) + {0, 1} + 8 j.
DEVICE void multiply_f32(Accumulators& accumulators, u32 a, u32 b, u32 m, u32 n) {
    const u32 lane = threadIdx.x % WARP;
    m += lane / 4, n += lane % 4 * 2;
    // Not unrolled: the loads of several chunks at once would not fit into registers.
#pragma unroll 1
    for (u32 chunk = 0; chunk < TILE_K / CHUNK; ++chunk) {
        float as[WARP_M / 8][CHUNK];
#pragma unroll
        for (u32 i = 0; i < WARP_M / 8; ++i) {
            const u32 row = m + i * 8;
            if constexpr (A_K_MAJOR) {
                const float4 quad = lds_128(a + TileA::offset(row, chunk));
                as[i][0] = quad.x, as[i][1] = quad.y, as[i][2] = quad.z, as[i][3] = quad.w;
            } else {
#pragma unroll
                for (u32 k = 0; k < CHUNK; ++k) {
                    as[i][k] = lds(a + TileA::offset(chunk * CHUNK + k, row / CHUNK) + row % CHUNK * 4);
                }
            }
        }
#pragma unroll
        for (u32 j = 0; j < WARP_N / 8; ++j) {
            float bs[2][CHUNK];
            const u32 column = n + j * 8;
            if constexpr (B_K_MAJOR) {
#pragma unroll
                for (u32 c = 0; c < 2; ++c) {
                    const float4 quad = lds_128(b + TileB::offset(column + c, chunk));
                    bs[c][0] = quad.x, bs[c][1] = quad.y, bs[c][2] = quad.z, bs[c][3] = quad.w;
                }
            } else {
#pragma unroll
                for (u32 k = 0; k < CHUNK; ++k) {
                    const u32 place = TileB::offset(chunk * CHUNK + k, column / CHUNK) + column % CHUNK * 4;
                    const float2 pair = lds_64(b + place);
                    bs[0][k] = pair.x, bs[1][k] = pair.y;
                }
            }
#pragma unroll
            for (u32 k = 0; k < CHUNK; ++k) {
#pragma unroll
                for (u32 i = 0; i < WARP_M / 8; ++i) {
#pragma unroll
                    for (u32 c = 0; c < 2; ++c) {
                        float& sum = accumulators[i / 2][j][i % 2 * 2 + c];
                        sum = fmaf(as[i][k], bs[c][k], sum);
                    }
                }
            }
        }
    }
}

// One block a tile: gridDim.x = tiles of m times tiles of n.
extern "C" __global__ void __launch_bounds__(THREADS, 2) matmul_sm80(
    const Input* a, const Input* b, Output* out, const float* bias, Output* side, const Output* residual, u32 m, u32 n,
    u32 k, u32 accumulate) {
    __shared__ __align__(128) u8 shared[STAGES * STAGE_BYTES];
    const u32 stages = shared_address(shared), warp = threadIdx.x / WARP;
    const TilePosition tile = tile_position(blockIdx.x, divide_up(m, TILE_M), divide_up(n, TILE_N));
    const u32 first_m = tile.m * TILE_M, first_n = tile.n * TILE_N;
    const u32 warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N * WARP_N;

    Accumulators accumulators;
#pragma unroll
    for (u32 i = 0; i < WARP_M / 16; ++i) {
#pragma unroll
        for (u32 j = 0; j < WARP_N / 8; ++j) {
#pragma unroll
            for (u32 part = 0; part < 4; ++part) accumulators[i][j][part] = 0.0f;
        }
    }

    const u32 steps = divide_up(k, TILE_K);
    const auto fill = [&](u32 step) {
        const u32 stage = stages + step % STAGES * STAGE_BYTES;
        TileA::fill(stage, a, m, k, first_m, step * TILE_K);
        TileB::fill(stage + A_BYTES, b, n, k, first_n, step * TILE_K);
    };
    // One group of copies is committed for every step, empty at the end, so that the count of pending ones is fixed.
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; ++step) {
        if (step < steps) fill(step);
        cp_async_commit_group();
    }
    for (u32 step = 0; step < steps; ++step) {
        cp_async_wait_group<STAGES - 2>();
        // Everybody's copies of this step are there, and everybody has left the stage that is filled next.
        __syncthreads();
        if (step + STAGES - 1 < steps) fill(step + STAGES - 1);
        cp_async_commit_group();
        const u32 stage = stages + step % STAGES * STAGE_BYTES;
        if constexpr (INPUT_BF16) multiply_bf16(accumulators, stage, stage + A_BYTES, warp_m, warp_n);
        else multiply_f32(accumulators, stage, stage + A_BYTES, warp_m, warp_n);
    }
    cp_async_wait_group<0>();
    __syncthreads();

    const Epilogue epilogue = {out, bias, side, residual, m, n, accumulate != 0};
    const u32 staging = stages + warp * STAGING_BYTES;
#pragma unroll
    for (u32 i = 0; i < WARP_M / STAGING_ROWS; ++i) {
#pragma unroll
        for (u32 j = 0; j < WARP_N / STAGING_COLUMNS; ++j) {
            finish_fragment(epilogue, staging, accumulators[i][j * 4], first_m + warp_m + i * STAGING_ROWS,
                            first_n + warp_n + j * STAGING_COLUMNS);
        }
    }
}
