// What kernels share in which a warp handles a row: which row, and moving it, N values a lane at a time. Enough warps
// are resident that one access of each in flight keeps the memory busy.

constexpr u32 WARPS = 8;  // rows of a block
constexpr u32 THREADS = WARPS * WARP;

DEVICE u32 lane_index() { return threadIdx.x % WARP; }
DEVICE u32 row_of_warp() { return blockIdx.x * WARPS + threadIdx.x / WARP; }

// N values, set or added to what is there.
template <u32 N, class T> DEVICE void write(T* to, const float (&values)[N], bool accumulate) {
    if (accumulate) {
        float sums[N];
        load(sums, to);
#pragma unroll
        for (u32 i = 0; i < N; ++i) sums[i] += values[i];
        store(to, sums);
    } else {
        store(to, values);
    }
}

// A row of n values, set or added.
template <u32 N, class T> DEVICE void move_row(T* to, const T* from, u32 n, bool accumulate) {
    for (u32 column = lane_index() * N; column < n; column += WARP * N) {
        float values[N];
        load(values, from + column);
        write(to + column, values, accumulate);
    }
}

// A row of NaNs, the result of an index that points nowhere: kernels cannot report, but what is computed of it shows.
template <class T> DEVICE void void_row(T* to, u32 n) {
    for (u32 column = lane_index(); column < n; column += WARP) to[column] = narrow<T>(__uint_as_float(0x7fc00000u));
}
