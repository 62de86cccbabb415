// The ceilings of a device: multiply-adds out of registers, bytes through the L2 cache and from memory. Every kernel writes
// what it computed, so that the host can tell that the work was done.
//
// Blocks have 256 threads; `out` has a place for each thread of the grid.

constexpr u32 THREADS = 256;

// Bits without a pattern where `mask` has ones, over pairs of bf16 ones: products of equal bits take less power, and so run
// at higher clocks, than those of a model. With a mask of 0 all values are 1.
DEVICE u32 operand(u32 index, u32 mask) { return 0x3f803f80u | ((index + 1) * 2654435761u >> 3 & mask); }

// 16 sums a thread, independent of each other, from multiples of `start`: x = factor x + factor, `rounds` times. They differ
// from sum to sum and thread to thread as far as the compiler knows, or it would compute one for all of a thread or a warp.
extern "C" __global__ void __launch_bounds__(THREADS) gauge_fma(float* out, u32 rounds, float factor, float start) {
    float sums[16];
#pragma unroll
    for (u32 i = 0; i < 16; ++i) sums[i] = start * (float)(threadIdx.x * 16 + i);
#pragma unroll 8
    for (u32 round = 0; round < rounds; ++round) {
#pragma unroll
        for (u32 i = 0; i < 16; ++i) sums[i] = __fmaf_rn(sums[i], factor, factor);
    }
    float total = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 16; ++i) total += sums[i];
    out[blockIdx.x * THREADS + threadIdx.x] = total;
}

// Each warp adds the products of 2 tiles of A with 4 of B to 8 tiles of 16 x 8, `rounds` times.
extern "C" __global__ void __launch_bounds__(THREADS) gauge_mma(float* out, u32 rounds, u32 mask) {
    u32 a[2][4], b[4][2];
    float d[8][4];
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
        a[i / 4][i % 4] = operand(threadIdx.x * 16 + i, mask);
        b[i / 2][i % 2] = operand(threadIdx.x * 16 + 8 + i, mask);
        d[i][0] = d[i][1] = d[i][2] = d[i][3] = 0.0f;
    }
#pragma unroll 4
    for (u32 round = 0; round < rounds; ++round) {
#pragma unroll
        for (u32 i = 0; i < 8; ++i) mma_m16n8k16_bf16(d[i], a[i / 4], b[i % 4][0], b[i % 4][1]);
    }
    float total = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 8; ++i) total += d[i][0] + d[i][1] + d[i][2] + d[i][3];
    out[blockIdx.x * THREADS + threadIdx.x] = total;
}

// A pack past the L1 cache, which would keep a part of what fits into the L2 cache.
DEVICE uint4 load_past_l1(const uint4* from) {
    uint4 pack;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pack.x), "=r"(pack.y), "=r"(pack.z), "=r"(pack.w)
                 : "l"(from)
                 : "memory");
    return pack;
}

// Adds up all words of `packs` packs, `passes` times.
extern "C" __global__ void __launch_bounds__(THREADS) gauge_read(u32* out, const uint4* from, u64 packs, u32 passes) {
    const u32 thread = blockIdx.x * THREADS + threadIdx.x;
    u32 total = 0;
    for (u32 pass = 0; pass < passes; ++pass) {
#pragma unroll 4
        for (u64 i = thread; i < packs; i += gridDim.x * THREADS) {
            const uint4 pack = load_past_l1(from + i);
            total += pack.x + pack.y + pack.z + pack.w;
        }
    }
    out[thread] = total;
}

// Copies `packs` packs, `passes` times.
extern "C" __global__ void __launch_bounds__(THREADS) gauge_copy(uint4* to, const uint4* from, u64 packs, u32 passes) {
    for (u32 pass = 0; pass < passes; ++pass) {
#pragma unroll 4
        for (u64 i = blockIdx.x * THREADS + threadIdx.x; i < packs; i += gridDim.x * THREADS) {
            to[i] = load_past_l1(from + i);
        }
    }
}
