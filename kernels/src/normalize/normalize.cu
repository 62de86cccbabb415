// Unit rows, and their gradient: x, y `[rows, n]`, inverse norms f32 `[rows]`. A warp a row; its second pass finds the
// row in the L1 cache.
//
// Constants: BF16. `packed` says that addresses and rows are multiples of 16 bytes. `most` is the inverse of the least
// norm, by which shorter rows are scaled.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 WIDTH = 16 / sizeof(T);

// The product of two rows, in every lane.
template <u32 N> DEVICE float product(const T* a, const T* b, u32 n) {
    float sum = 0.0f;
#pragma unroll 4
    for (u32 column = lane_index() * N; column < n; column += WARP * N) {
        float x[N], y[N];
        load(x, a + column);
        load(y, b + column);
#pragma unroll
        for (u32 i = 0; i < N; ++i) sum = fmaf(x[i], y[i], sum);
    }
    return warp_sum(sum);
}

template <u32 N> DEVICE float forward_row(const T* x, T* y, u32 n, float most) {
    // Of a sum that is rounded to zero the inverse root is infinite.
    const float inverse = fminf(reciprocal_root(product<N>(x, x, n)), most);
    for (u32 column = lane_index() * N; column < n; column += WARP * N) {
        float values[N];
        load(values, x + column);
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] *= inverse;
        store(y + column, values);
    }
    return inverse;
}

template <u32 N> DEVICE void backward_row(
    const T* y, const T* dy, T* dx, u32 n, float inverse, float most, bool accumulate) {
    // A row shorter than the least norm was scaled by a constant: there is no change of norm to take out.
    const float product_of_rows = product<N>(y, dy, n), along = inverse < most ? product_of_rows : 0.0f;
    for (u32 column = lane_index() * N; column < n; column += WARP * N) {
        float values[N], gradient[N];
        load(values, y + column);
        load(gradient, dy + column);
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] = fmaf(-along, values[i], gradient[i]) * inverse;
        write(dx + column, values, accumulate);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
normalize_forward(const T* x, T* y, float* inverses, u32 rows, u32 n, float most, u32 packed) {
    const u32 row = row_of_warp();
    if (row >= rows) return;
    const u64 start = (u64)row * n;
    const float inverse = packed ? forward_row<WIDTH>(x + start, y + start, n, most)
                                 : forward_row<1>(x + start, y + start, n, most);
    if (lane_index() == 0) inverses[row] = inverse;
}

extern "C" __global__ void __launch_bounds__(THREADS) normalize_backward(
    const T* y, const float* inverses, const T* dy, T* dx, u32 rows, u32 n, float most, u32 accumulate, u32 packed) {
    const u32 row = row_of_warp();
    if (row >= rows) return;
    const u64 start = (u64)row * n;
    if (packed) {
        backward_row<WIDTH>(y + start, dy + start, dx + start, n, inverses[row], most, accumulate);
    } else {
        backward_row<1>(y + start, dy + start, dx + start, n, inverses[row], most, accumulate);
    }
}
