// Two stages of cp.async between which a block of four warps alternates.
constexpr int MISSING_WAIT = 1, MISSING_BARRIER = 2, EARLY_REUSE = 3;

// out[t] = sum over i of in[i][127 - t], for `tiles` rows of 128 values and 128 threads.
extern "C" __global__ void __launch_bounds__(128) copies(const float* in, float* out, int tiles) {
    __shared__ alignas(16) float stages[2][128];
    u32 t = threadIdx.x;
    float sum = 0.0f;
    if (t < 32) copy_async(shared_address(&stages[0][4 * t]), in + 4 * t);
    copy_commit();
    for (int tile = 0; tile < tiles; ++tile) {
        if (t < 32 && tile + 1 < tiles)
            copy_async(shared_address(&stages[(tile + 1) % 2][4 * t]), in + 128 * (tile + 1) + 4 * t); // the other stage
        copy_commit();
        if (BUG != MISSING_WAIT) copy_wait<1>();
        if (BUG != MISSING_BARRIER) __syncthreads();
        sum += stages[tile % 2][127 - t]; // reads the stage
        if (BUG != EARLY_REUSE) __syncthreads();
    }
    out[t] = sum;
}
