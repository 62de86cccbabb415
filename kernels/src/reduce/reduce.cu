// Partial sums in f64 over chunks of a flat f32 arena.
//
// Constant: CHUNK (elements of a partial sum, a multiple of WARP * AHEAD). A warp adds a chunk: lane l the elements l,
// l + 32, ... in their order, then the lanes pairwise. That is the order of the CPU's sums, so the bits are the same. A
// warp's load is one line of 128 bytes; AHEAD of them are under way at once.

constexpr u32 WARPS = 4;
constexpr u32 AHEAD = 16;

// partial[c] = the sum of term(x) over the elements of chunk c.
template <class Term> DEVICE void sum_chunk(const float* values, u64 count, double* partial, Term term) {
    const u64 chunk = (u64)blockIdx.x * WARPS + threadIdx.x / WARP, first = chunk * CHUNK;
    if (first >= count) return;
    const u64 end = count - first < CHUNK ? count : first + CHUNK;
    double sum = 0.0;
    u64 index = first + threadIdx.x % WARP;
    for (; index + (AHEAD - 1) * WARP < end; index += AHEAD * WARP) {
        float ahead[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; ++i) ahead[i] = values[index + i * WARP];
#pragma unroll
        for (u32 i = 0; i < AHEAD; ++i) sum += term(ahead[i]);
    }
#pragma unroll 1
    for (; index < end; index += WARP) sum += term(values[index]);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) partial[chunk] = sum;
}

extern "C" __global__ void __launch_bounds__(WARPS * WARP)
reduce_sum(const float* values, u64 count, double* partial) {
    sum_chunk(values, count, partial, [](float x) { return (double)x; });
}

// The product of two floats is exact in f64, so a fused addition changes no bit.
extern "C" __global__ void __launch_bounds__(WARPS * WARP)
reduce_sum_of_squares(const float* values, u64 count, double* partial) {
    sum_chunk(values, count, partial, [](float x) { return (double)x * (double)x; });
}

extern "C" __global__ void __launch_bounds__(WARPS * WARP)
reduce_count_non_finite(const float* values, u64 count, double* partial) {
    sum_chunk(values, count, partial, [](float x) { return (bits_of(x) & 0x7f800000u) == 0x7f800000u ? 1.0 : 0.0; });
}
