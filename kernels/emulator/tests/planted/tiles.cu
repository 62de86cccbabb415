// Threads write tiles that TMA stores, one after the other from one buffer.
constexpr int MISSING_PROXY_FENCE = 1, MISSING_BARRIER = 2, EARLY_REUSE = 3;

// out[y][x] = in[y][x] + 1 for y < 8 tiles and x < 32; the map describes `out` with boxes of 32 x 1.
extern "C" __global__ void __launch_bounds__(64) tiles(const __grid_constant__ TensorMap out, const float* in, int tiles) {
    __shared__ alignas(128) float buffer[32];
    int t = threadIdx.x;
    for (int tile = 0; tile < tiles; ++tile) {
        if (t >= 32) buffer[t - 32] = in[tile * 32 + t - 32] + 1.0f; // writes the buffer
        if (BUG != MISSING_PROXY_FENCE) proxy_fence();
        if (BUG != MISSING_BARRIER) __syncthreads();
        if (t == 0) {
            store_tile(&out, shared_address(buffer), 0, tile);
            bulk_commit();
            if (BUG != EARLY_REUSE) bulk_wait_read();
        }
        __syncthreads();
    }
}
