// The gradient of a shared query: the sum of its partial sums over the groups of sequences, in their order.
//
// Constants: BF16 (storage of the gradient). partial f32 `[groups, count]`, out `[count]`.

using T = Select<BF16, bf16, float>::Type;

template <u32 N> DEVICE void add_up(const float* partial, T* out, u64 index, u64 count, u32 groups, bool accumulate) {
    float sums[N] = {};
    for (u32 group = 0; group < groups; ++group) {
        float values[N];
        load(values, partial + group * count + index);
#pragma unroll
        for (u32 i = 0; i < N; ++i) sums[i] += values[i];
    }
    if (accumulate) {
        float before[N];
        load(before, out + index);
#pragma unroll
        for (u32 i = 0; i < N; ++i) sums[i] += before[i];
    }
    store(out + index, sums);
}

// A thread sums 4 elements, or one where they cannot be packed.
extern "C" __global__ void __launch_bounds__(256)
attention_sum(const float* partial, T* out, u64 count, u32 groups, u32 packed, u32 accumulate) {
    const u64 index = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * (packed ? 4 : 1);
    if (index >= count) return;
    if (packed) add_up<4>(partial, out, index, count, groups, accumulate != 0);
    else add_up<1>(partial, out, index, count, groups, accumulate != 0);
}
