// C[M, N] = A[M, K] B[N, K]^T in bf16 with f32 sums: 64 x 64 tiles, steps of 32 along K in three stages of cp.async.
constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32, STAGES = 3;

// Byte offset of a 16-byte chunk of a row of 64 bytes; chunks are permuted so that eight rows of a column use all
// banks.
__device__ __forceinline__ u32 place(int row, int chunk) { return row * 64 + ((chunk ^ (SWIZZLE ? row / 2 % 4 : 0)) * 16); }

extern "C" __global__ void __launch_bounds__(128) gemm(const u16* a, const u16* b, float* c, int m, int n, int k) {
    __shared__ __align__(128) u8 a_tiles[STAGES][TILE_M * TILE_K * 2], b_tiles[STAGES][TILE_N * TILE_K * 2];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    a += (u64)blockIdx.y * TILE_M * k, b += (u64)blockIdx.x * TILE_N * k;
    auto load = [&](int step) {
        if (step < k / TILE_K)
            for (int i = threadIdx.x; i < TILE_M * 4; i += 128) {
                int row = i / 4, chunk = i % 4, stage = step % STAGES;
                copy_async(shared_address(a_tiles[stage]) + place(row, chunk), a + (u64)row * k + step * TILE_K + chunk * 8);
                copy_async(shared_address(b_tiles[stage]) + place(row, chunk), b + (u64)row * k + step * TILE_K + chunk * 8);
            }
        copy_commit();
    };
    float sums[2][4][4] = {};
    int warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
    for (int step = 0; step < STAGES - 1; step++) load(step);
    for (int step = 0; step < k / TILE_K; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        load(step + STAGES - 1);
        u32 a_tile = shared_address(a_tiles[step % STAGES]), b_tile = shared_address(b_tiles[step % STAGES]);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 a_parts[2][4], b_parts[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                load_matrices(a_parts[i], a_tile + place(warp_m + i * 16 + lane % 16, half * 2 + lane / 16));
                load_matrices(b_parts[i], b_tile + place(warp_n + i * 16 + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) multiply_add(sums[i][j], a_parts[i], b_parts[j / 2][j % 2 * 2], b_parts[j / 2][j % 2 * 2 + 1]);
        }
    }
    int row = blockIdx.y * TILE_M + warp_m + lane / 4, column = blockIdx.x * TILE_N + warp_n + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float2* to = (float2*)&c[(u64)(row + i * 16 + half * 8) * n + column + j * 8];
                *to = make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
}
