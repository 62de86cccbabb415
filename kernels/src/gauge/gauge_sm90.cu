// The rate of wgmma, which on compute capability 9.0 is the ceiling of bf16 products: mma.sync reaches about two thirds of it.

constexpr u32 THREADS = 256;
constexpr u32 TILE_BYTES = 64 * 128;  // 64 rows of 64 bf16
constexpr u32 GROUPS = THREADS / 128;

// See gauge.cu.
DEVICE u32 operand(u32 index, u32 mask) { return 0x3f803f80u | ((index + 1) * 2654435761u >> 3 & mask); }

// Each of two warpgroups adds the product of 64 rows of A, its own, with the 256 columns of B that both share to its
// accumulators, over 64 of k, `rounds` times. `out` has a place for each thread of the grid.
extern "C" __global__ void __launch_bounds__(THREADS, 1) gauge_wgmma(float* out, u32 rounds, u32 mask) {
    __shared__ alignas(1024) u32 tiles[(GROUPS + 4) * TILE_BYTES / 4];
    for (u32 i = threadIdx.x; i < (GROUPS + 4) * TILE_BYTES / 4; i += THREADS) tiles[i] = operand(i, mask);
    fence_proxy_async();
    __syncthreads();
    const u32 a = shared_address(tiles) + threadIdx.x / 128 * TILE_BYTES;
    const u32 b = shared_address(tiles) + GROUPS * TILE_BYTES;
    float d[128];
#pragma unroll
    for (u32 i = 0; i < 128; ++i) d[i] = 0.0f;
    for (u32 round = 0; round < rounds; ++round) {
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < 4; ++k) {
            wgmma_m64k16<true, true>(
                d, wgmma_descriptor<true, TILE_BYTES>(a + k * 32), wgmma_descriptor<true, TILE_BYTES>(b + k * 32));
        }
        wgmma_commit_group();
        wgmma_wait_group<1>();
    }
    wgmma_wait_group<0>();
    float total = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 128; ++i) total += d[i];
    out[blockIdx.x * THREADS + threadIdx.x] = total;
}
