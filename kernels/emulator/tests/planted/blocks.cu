// The last block of a grid sums what the others left in global memory.
constexpr int MISSING_FENCE = 1, NO_COUNTER = 2;

// out[0] = the sum over blocks b and threads t of b + t, for 32 threads a block; `counter` begins with 0.
extern "C" __global__ void __launch_bounds__(32) blocks(u32* partial, u32* counter, u32* out) {
    u32 t = threadIdx.x, last = 0;
    u32 value = blockIdx.x + t;
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    if (t == 0) {
        partial[blockIdx.x] = value; // leaves a partial sum
        if (BUG != MISSING_FENCE) __threadfence();
        last = BUG == NO_COUNTER ? blockIdx.x == gridDim.x - 1 : atomicAdd(counter, 1) == gridDim.x - 1;
        if (last) {
            if (BUG != MISSING_FENCE) __threadfence();
            u32 sum = 0;
            for (u32 block = 0; block < gridDim.x; ++block) sum += partial[block]; // reads the partial sums
            *out = sum;
        }
    }
}
