// The logarithm of the sum of exponentials of each row of x f32 `[rows, n]`: y f32 `[rows]`. A block has a row, which it
// reads once. `packed` says that rows are multiples of 16 bytes.

template <u32 N> DEVICE LogSumExp row(const float* x, u32 n, float (*scratch)[BLOCK_WARPS]) {
    LogSumExp own;
    const auto read = [&](float (&values)[N], u32 column) { load(values, x + column); };
    for_packs<N>(n, read, [&](u32, float (&values)[N]) { own.add(values); });
    return block_log_sum_exp(own, scratch);
}

extern "C" __global__ void __launch_bounds__(512)
log_sum_exp(const float* x, float* y, u32 n, u32 packed) {
    __shared__ float scratch[2][BLOCK_WARPS];
    x += (u64)blockIdx.x * n;
    const float value = (packed ? row<4>(x, n, scratch) : row<1>(x, n, scratch)).value();
    if (threadIdx.x == 0) y[blockIdx.x] = value;
}
