// Rows by index: y[i] = x[index[i]], and the gradient of x. A warp a row.
//
// Constants: BF16. `packed` says that addresses and rows are multiples of 16 bytes. x, dx `[rows, n]`; index `[count]`;
// y, dy `[count, n]`.
//
// The gradient goes by the rows of x: `take_rows_ends` notes the first and the last index of each, so that one that is
// taken once, as those of a model are, is copied without a search; between the two a warp searches the index for the
// others. They are added in their order, each sum is rounded once.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 WIDTH = 16 / sizeof(T);
constexpr u32 NONE = ~0u;

extern "C" __global__ void __launch_bounds__(THREADS) take_rows(
    const T* x, const u32* index, T* y, u32 count, u32 rows, u32 n, u32 accumulate, u32 packed) {
    const u64 to = row_of_warp();
    if (to >= count) return;
    const u64 from = index[to];
    y += to * n;
    if (from >= rows) {
        void_row(y, n);
    } else if (packed) {
        move_row<WIDTH>(y, x + from * n, n, accumulate);
    } else {
        move_row<1>(y, x + from * n, n, accumulate);
    }
}

// `ends` `[2, rows]`, all bits set before, gets the first i that takes each row, and the complement of the last.
extern "C" __global__ void __launch_bounds__(THREADS)
take_rows_ends(const u32* index, u32* ends, u32 count, u32 rows) {
    const u32 i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= count || index[i] >= rows) return;
    atomicMin(ends + index[i], i);
    atomicMin(ends + rows + index[i], ~i);
}

// The sum of the rows `first` to `last` of dy that took `row`, to that row of dx.
template <u32 N> DEVICE void give_row(
    const u32* index, const T* dy, T* dx, u32 row, u32 first, u32 last, u32 n, bool accumulate) {
    for (u32 start = 0; start < n; start += WARP * N) {
        const u32 column = start + lane_index() * N;
        const bool inside = column < n;
        float sum[N] = {};
        if (inside) load(sum, dy + (u64)first * n + column);
        for (u32 next = first + 1; next <= last; next += WARP) {
            const u32 i = next + lane_index();
            u32 takers = __ballot_sync(0xffffffffu, i <= last && index[i] == row);
            for (; takers; takers &= takers - 1) {
                const u64 from = next + __ffs(takers) - 1;
                float other[N];
                if (inside) {
                    load(other, dy + from * n + column);
#pragma unroll
                    for (u32 k = 0; k < N; ++k) sum[k] += other[k];
                }
            }
        }
        if (inside) write(dx + (u64)row * n + column, sum, accumulate);
    }
}

// Rows that nothing takes become zero.
template <u32 N> DEVICE void zero_row(T* to, u32 n) {
    const float zeros[N] = {};
    for (u32 column = lane_index() * N; column < n; column += WARP * N) store(to + column, zeros);
}

extern "C" __global__ void __launch_bounds__(THREADS) take_rows_backward(
    const u32* index, const u32* ends, const T* dy, T* dx, u32 rows, u32 n, u32 accumulate, u32 packed) {
    const u32 row = row_of_warp();
    if (row >= rows) return;
    const u32 first = ends[row], last = ~ends[rows + row];
    if (first != NONE) {
        if (packed) {
            give_row<WIDTH>(index, dy, dx, row, first, last, n, accumulate);
        } else {
            give_row<1>(index, dy, dx, row, first, last, n, accumulate);
        }
    } else if (!accumulate) {
        if (packed) {
            zero_row<WIDTH>(dx + (u64)row * n, n);
        } else {
            zero_row<1>(dx + (u64)row * n, n);
        }
    }
}
