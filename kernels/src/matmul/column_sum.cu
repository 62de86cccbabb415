// Sums over rows, the gradient of a bias: x `[rows, n]` to f32 `[n]`.
//
// Constants: INPUT_BF16, PACKED (rows of x are made of packs of 16 bytes, which a thread reads at once; else single values).
// A strip of columns takes 64 bytes, what the memory moves at once, of each row. There are too few strips to keep the
// memory busy, so the blocks of a cluster share the rows of a strip, 8 rows a thread under way at once. Each thread adds
// its rows in their order, then the rows of a warp, the warps, and the blocks are added: the order depends on the shape
// and the number of blocks alone.

using Input = Select<INPUT_BF16, bf16, float>::Type;

constexpr u32 THREADS = 512;
constexpr u32 WARPS = THREADS / WARP;
constexpr u32 STRIP = 64 / sizeof(Input);
constexpr u32 WIDTH = PACKED ? 16 / sizeof(Input) : 1;
constexpr u32 LANES = STRIP / WIDTH;  // of a row
constexpr u32 READS = 8;
constexpr bool CLUSTERS = __CUDA_ARCH__ >= 900;

// Block (x, y) has strip x and the y-th share of the rows; those of a strip are a cluster.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
column_sum(const Input* x, float* out, u32 rows, u32 n, u32 accumulate) {
    __shared__ float sums[WARPS][STRIP];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, place = threadIdx.x % LANES * WIDTH;
    const u32 column = blockIdx.x * STRIP + place;
    float totals[WIDTH] = {};
    if (column < n) {
        const u32 step = gridDim.y * (THREADS / LANES);
        for (u32 first = (blockIdx.y * THREADS + threadIdx.x) / LANES; first < rows; first += READS * step) {
            Pack<Input, WIDTH> packs[READS] = {};  // zeros behind the last row
#pragma unroll
            for (u32 i = 0; i < READS; ++i) {
                if (first + i * step < rows) packs[i] = load_pack<WIDTH>(x + (u64)(first + i * step) * n + column);
            }
#pragma unroll
            for (u32 i = 0; i < READS; ++i) {
                float values[WIDTH];
                unpack(values, packs[i]);
#pragma unroll
                for (u32 j = 0; j < WIDTH; ++j) totals[j] += values[j];
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < WIDTH; ++j) {
#pragma unroll
        for (u32 distance = LANES; distance < WARP; distance *= 2) {
            totals[j] += __shfl_xor_sync(0xffffffffu, totals[j], distance);
        }
        if (lane < LANES) sums[warp][place + j] = totals[j];
    }
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x < STRIP) {
#pragma unroll
        for (u32 other = 0; other < WARPS; ++other) total += sums[other][threadIdx.x];
    }
    if constexpr (CLUSTERS) {
        float* own = &sums[0][threadIdx.x % STRIP];
        if (threadIdx.x < STRIP) *own = total;
        barrier_cluster();
        if (blockIdx.y == 0 && threadIdx.x < STRIP) {
            for (u32 block = 1; block < gridDim.y; ++block) {
                total += ld_shared_cluster(mapa(shared_address(own), block));
            }
        }
        // Nobody leaves while the first block reads its sums.
        barrier_cluster();
    }
    const u32 end = blockIdx.x * STRIP + threadIdx.x;
    if (blockIdx.y == 0 && threadIdx.x < STRIP && end < n) out[end] = accumulate ? out[end] + total : total;
}
