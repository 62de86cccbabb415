// Sums over rows, the gradient of a bias: x `[rows, n]` to f32 `[n]`.
//
// Constants: INPUT_BF16, PAIRS (n is even and x aligned to 4 bytes: a thread reads two bf16 at once). A block sums a strip
// of 8 threads' columns, 32 bytes or one sector of each row, over all rows, 128 rows at a time. Each thread adds its rows
// in their order, then the rows of a warp, then the warps: the order depends on the shape alone.

using Input = Select<INPUT_BF16, bf16, float>::Type;

constexpr u32 THREADS = 1024;
constexpr u32 WARPS = THREADS / WARP;
constexpr u32 STRIP = 8;  // threads of a row
constexpr u32 WIDTH = PAIRS ? 2 : 1;

extern "C" __global__ void __launch_bounds__(THREADS)
column_sum(const Input* x, float* out, u32 rows, u32 n, u32 accumulate) {
    __shared__ float sums[WARPS][STRIP * WIDTH];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, place = threadIdx.x % STRIP * WIDTH;
    const u32 column = blockIdx.x * (STRIP * WIDTH) + place;
    float totals[WIDTH] = {};
    if (column < n) {
        // Loads of several rows are under way at once.
#pragma unroll 8
        for (u32 row = threadIdx.x / STRIP; row < rows; row += THREADS / STRIP) {
            const u64 index = (u64)row * n + column;
            if constexpr (PAIRS) {
                const u32 pair = *reinterpret_cast<const u32*>(x + index);
                totals[0] += __uint_as_float(pair << 16);
                totals[1] += __uint_as_float(pair & 0xffff0000u);
            } else {
                totals[0] += widen(x[index]);
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < WIDTH; ++i) {
        totals[i] += __shfl_xor_sync(0xffffffffu, totals[i], STRIP);
        totals[i] += __shfl_xor_sync(0xffffffffu, totals[i], STRIP * 2);
        if (lane < STRIP) sums[warp][place + i] = totals[i];
    }
    __syncthreads();
    if (threadIdx.x < STRIP * WIDTH) {
        const u32 own = blockIdx.x * (STRIP * WIDTH) + threadIdx.x;
        float total = 0.0f;
#pragma unroll
        for (u32 other = 0; other < WARPS; ++other) total += sums[other][threadIdx.x];
        if (own < n) out[own] = accumulate ? out[own] + total : total;
    }
}
