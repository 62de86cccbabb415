// Two matrices side by side, and back: x `[rows, n + m]` is a `[rows, n]` beside b `[rows, m]`. A warp a row.
//
// Constants: BF16. `packed` says that addresses and the rows of all three are multiples of 16 bytes.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 WIDTH = 16 / sizeof(T);

DEVICE void move(T* to, const T* from, u32 n, bool accumulate, bool packed) {
    if (packed) {
        move_row<WIDTH>(to, from, n, accumulate);
    } else {
        move_row<1>(to, from, n, accumulate);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
join_columns(const T* a, const T* b, T* x, u32 rows, u32 n, u32 m, u32 accumulate, u32 packed) {
    const u64 row = row_of_warp();
    if (row >= rows) return;
    x += row * (n + m);
    move(x, a + row * n, n, accumulate, packed);
    move(x + n, b + row * m, m, accumulate, packed);
}

extern "C" __global__ void __launch_bounds__(THREADS) split_columns(
    const T* x, T* a, T* b, u32 rows, u32 n, u32 m, u32 accumulate_a, u32 accumulate_b, u32 packed) {
    const u64 row = row_of_warp();
    if (row >= rows) return;
    x += row * (n + m);
    move(a + row * n, x, n, accumulate_a, packed);
    move(b + row * m, x + n, m, accumulate_b, packed);
}
