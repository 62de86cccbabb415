// A product by TMA and wgmma through two stages: warpgroup 0 multiplies, a thread of warp 4 loads.
constexpr int EARLY_RELEASE = 1, CONSUMER_PHASE = 2, PRODUCER_PHASE = 3, FEW_BYTES = 4, MANY_BYTES = 5, SHORT_STRIDE = 6,
              LONG_STRIDE = 7, MISSING_SWIZZLE = 8, OTHER_SWIZZLE = 9, MISSING_WAIT = 10, NO_INIT = 11, MISSING_ARRIVAL = 12,
              OUT_OF_BOUNDS = 13;
constexpr int STAGES = 2, A_BYTES = 64 * 128, B_BYTES = 16 * 128, STAGE_BYTES = A_BYTES + B_BYTES;

__device__ __forceinline__ u64 descriptor(u32 address) {
    u64 stride = BUG == SHORT_STRIDE ? 512 : BUG == LONG_STRIDE ? 4096 : 1024;
    u64 swizzle = BUG == MISSING_SWIZZLE ? 0 : BUG == OTHER_SWIZZLE ? 2 : 1;
    return (address & 0x3ffff) >> 4 | 1ull << 16 | stride >> 4 << 32 | swizzle << 62;
}

// c (64 x 16, f32) = a (64 x k) b (16 x k) transposed, bf16; k is a multiple of 64.
extern "C" __global__ void __launch_bounds__(160, 1)
pipeline(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c, int k) {
    __shared__ alignas(1024) unsigned char stages[STAGES * STAGE_BYTES];
    __shared__ alignas(8) u64 full[STAGES], empty[STAGES];
    int t = threadIdx.x;
    if (t == 0 && BUG != NO_INIT) {
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(shared_address(&full[stage]), 1);
            barrier_init(shared_address(&empty[stage]), BUG == MISSING_ARRIVAL ? 5 : 4);
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (t >= 128) {
        if (t > 128) return;
        u32 bytes = BUG == FEW_BYTES ? A_BYTES : BUG == MANY_BYTES ? STAGE_BYTES + 128 : STAGE_BYTES;
        for (int tile = 0; tile < k / 64; ++tile) {
            int stage = tile % STAGES, phase = tile / STAGES & 1;
            u32 at = shared_address(stages + stage * STAGE_BYTES), barrier = shared_address(&full[stage]);
            barrier_wait(shared_address(&empty[stage]), BUG == PRODUCER_PHASE ? phase : phase ^ 1);
            barrier_expect(barrier, bytes);
            load_tile(at, &a, barrier, tile * 64, 0);
            load_tile(at + A_BYTES, &b, barrier, tile * 64, 0);
        }
        return;
    }
    float d[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int tile = 0; tile < k / 64; ++tile) {
        int stage = tile % STAGES, phase = tile / STAGES & 1;
        u32 at = shared_address(stages + stage * STAGE_BYTES);
        if (BUG != MISSING_WAIT) barrier_wait(shared_address(&full[stage]), BUG == CONSUMER_PHASE ? phase ^ 1 : phase);
        matrix_fence();
        for (int step = 0; step < 4; ++step)
            multiply_add(d, descriptor(at + 32 * step), descriptor(at + A_BYTES + 32 * step));
        matrix_commit();
        if (BUG == EARLY_RELEASE && t % 32 == 0) barrier_arrive(shared_address(&empty[stage]));
        matrix_wait();
        if (BUG != EARLY_RELEASE && t % 32 == 0) barrier_arrive(shared_address(&empty[stage]));
    }
    int row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
    if (BUG == OUT_OF_BOUNDS) row += 8;
    for (int i = 0; i < 8; ++i)
        c[(row + 8 * (i / 2 % 2)) * 16 + column + 8 * (i / 4) + i % 2] = d[i]; // stores the result
}
