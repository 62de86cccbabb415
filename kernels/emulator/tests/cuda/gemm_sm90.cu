// C[M, N] = A[M, K] B[N, K]^T in bf16 with f32 sums by wgmma: tiles of 64 x 64 for each of two consumer warpgroups,
// brought by a producer warp through tensor maps with 128-byte swizzle, STAGES deep; results leave through a tensor map
// too.
constexpr int TILE_K = 64, TILE_N = 64, STAGES = 2;

__device__ __forceinline__ void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra AGAIN;\n}" ::"r"(barrier), "r"(parity) : "memory");
}
__device__ __forceinline__ void load_tile(u32 to, const TensorMap* map, u32 barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 ::"r"(to), "l"(map), "r"(barrier), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ u64 descriptor(u32 tile) {  // K-major, 128-byte swizzle, 1024 bytes to the next eight rows
    return (tile & 0x3ffff) >> 4 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
__device__ __forceinline__ void multiply_group(float (&d)[32], u64 a, u64 b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
                 "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, p, 1, 1, 0, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
                 : "l"(a), "l"(b), "r"(accumulate));
}

extern "C" __global__ void __launch_bounds__(288, 1)
gemm(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap c, int k) {
    extern __shared__ __align__(1024) u8 tiles[];
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
    constexpr u32 A_BYTES = 128 * TILE_K * 2, STAGE_BYTES = A_BYTES + TILE_N * TILE_K * 2;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 base = shared_address(tiles);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) barrier_init(shared_address(&full[i]), 1), barrier_init(shared_address(&empty[i]), 2);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (warp == 8) {
        if (lane == 0)
            for (int step = 0; step < k / TILE_K; step++) {
                int stage = step % STAGES, round = step / STAGES;
                u32 to = base + stage * STAGE_BYTES, barrier = shared_address(&full[stage]);
                barrier_wait(shared_address(&empty[stage]), round % 2 ^ 1);
                barrier_expect(barrier, STAGE_BYTES);
                load_tile(to, &a, barrier, step * TILE_K, blockIdx.y * 128);
                load_tile(to + A_BYTES, &b, barrier, step * TILE_K, blockIdx.x * TILE_N);
            }
        return;
    }
    int group = warp / 4;
    float sums[32] = {};
    for (int step = 0; step < k / TILE_K; step++) {
        int stage = step % STAGES;
        barrier_wait(shared_address(&full[stage]), step / STAGES % 2);
        u32 a_tile = base + stage * STAGE_BYTES + group * 64 * TILE_K * 2, b_tile = base + stage * STAGE_BYTES + A_BYTES;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int part = 0; part < TILE_K / 16; part++)
            multiply_group(sums, descriptor(a_tile + part * 32), descriptor(b_tile + part * 32), step + part > 0);
        asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (threadIdx.x % 128 == 0) barrier_arrive(shared_address(&empty[stage]));
    }
    // Every consumer is done with the tiles: the results take their place, 64 x 64 f32 for each group.
    asm volatile("bar.sync 1, 256;" ::: "memory");
    u32 out = base + group * 64 * TILE_N * 4;
    int row = warp % 4 * 16 + lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < TILE_N / 8; j++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(out + ((row + half * 8) * TILE_N + column + j * 8) * 4),
                         "f"(sums[j * 4 + half * 2]), "f"(sums[j * 4 + half * 2 + 1]) : "memory");
    asm volatile("fence.proxy.async.shared::cta;\nbar.sync 1, 256;" ::: "memory");
    if (threadIdx.x % 128 == 0) {
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
                     ::"l"(&c), "r"(out), "r"(blockIdx.x * TILE_N), "r"(blockIdx.y * 128 + group * 64) : "memory");
        asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
    }
}
