// A block that has a row: how its threads divide the row, sums and largest values over a block, running log-sum-exps. Blocks
// have any number of whole warps up to BLOCK_WARPS; all orders of summation depend on their number alone.

constexpr u32 BLOCK_WARPS = 32;

DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }

// Calls `use(column, values)` for each pack of N of a row of n that is this thread's, in order. `read(values, column)`
// reads four packs before the first is used: with 512 threads 32 KB are under way, where 14 KB keep an H100 busy.
template <u32 N, class Read, class Use> DEVICE void for_packs(u32 n, const Read& read, const Use& use) {
    constexpr u32 READS = 4;
    const u32 step = blockDim.x * N;
    for (u32 first = threadIdx.x * N; first < n; first += READS * step) {
        float values[READS][N];
#pragma unroll
        for (u32 i = 0; i < READS; ++i) {
            if (first + i * step < n) read(values[i], first + i * step);
        }
#pragma unroll
        for (u32 i = 0; i < READS; ++i) {
            if (first + i * step < n) use(first + i * step, values[i]);
        }
    }
}

// exp(x): the rounding of the exponent costs |x| 2^-24, of which exp(x) leaves little where |x| is large and x negative.
DEVICE float exponential(float x) { return power_of_two(x * LOG2_E); }

// The largest of some values, and the sum of the exponentials of their differences from it. Values may be minus infinity;
// NaNs make the sum NaN.
struct LogSumExp {
    float largest = -3.40282347e38f;  // of none: finite, so that its difference from minus infinity is no NaN
    float sum = 0.0f;

    template <u32 N> DEVICE void add(const float (&values)[N]) {
        float top = largest;
#pragma unroll
        for (u32 i = 0; i < N; ++i) top = fmaxf(top, values[i]);
        sum *= exponential(largest - top);
        largest = top;
#pragma unroll
        for (u32 i = 0; i < N; ++i) sum += exponential(values[i] - largest);
    }

    DEVICE float value() const { return largest + logf(sum); }
};

DEVICE float warp_max(float x) {
#pragma unroll
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// Of a block, in every thread. `scratch` holds BLOCK_WARPS floats, and may be used again only after another barrier.
DEVICE float block_max(float x, float* scratch) {
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_max(scratch[smaller(threadIdx.x % WARP, blockDim.x / WARP - 1)]);
}

DEVICE float block_total(float x, float* scratch) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % WARP < blockDim.x / WARP ? scratch[threadIdx.x % WARP] : 0.0f);
}

// Those of all threads of a block as one, in every thread. `scratch` is as above, twice.
DEVICE LogSumExp block_log_sum_exp(const LogSumExp& own, float (*scratch)[BLOCK_WARPS]) {
    LogSumExp all;
    all.largest = block_max(own.largest, scratch[0]);
    all.sum = block_total(own.sum * exponential(own.largest - all.largest), scratch[1]);
    return all;
}
