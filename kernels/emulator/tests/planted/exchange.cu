// Threads exchange values through shared memory and shuffles, with one of the bugs that need no copies.
constexpr int MISSING_BARRIER = 1, UNINITIALISED = 2, DIVERGENT_SHUFFLE = 3, OUT_OF_BOUNDS = 4, DIVERGENT_BARRIER = 5,
              MISSING_WARP_BARRIER = 6, UNINITIALISED_GLOBAL = 7, MISALIGNED = 8, SHARED_OUT_OF_BOUNDS = 9;

// out[t] = 2 (in[127 - t] + in[127 - (t ^ 1)]) for 128 threads; `in` has 128 values, the first 127 of `scratch` are not written.
extern "C" __global__ void __launch_bounds__(128) exchange(const u32* in, u32* out, const u32* scratch) {
    __shared__ u32 row[128];
    __shared__ u32 pairs[128];
    u32 t = threadIdx.x;
    if (BUG != UNINITIALISED || t != 77) row[t] = in[t];
    if (BUG == DIVERGENT_BARRIER) {
        if (t < 50) asm volatile("bar.sync 0, 128;" ::: "memory");
    } else if (BUG != MISSING_BARRIER) {
        __syncthreads();
    }
    u32 value = row[127 - t]; // reads what another warp wrote
    if (BUG == DIVERGENT_SHUFFLE) {
        if (t % 32 < 16) value += __shfl_xor_sync(0xffffffff, value, 1);
    } else {
        value += __shfl_xor_sync(0xffffffff, value, 1);
    }
    pairs[t] = value;
    if (BUG != MISSING_WARP_BARRIER) __syncwarp();
    value += pairs[t ^ 1]; // reads what another lane wrote
    if (BUG == UNINITIALISED_GLOBAL) value += scratch[t];
    if (BUG == SHARED_OUT_OF_BOUNDS) value += *(volatile u32*)((char*)row + 230 * 1024 + 4 * t);
    if (BUG == MISALIGNED) out = (u32*)((char*)out + 2);
    out[BUG == OUT_OF_BOUNDS ? t + 1 : t] = value; // the last store
}
