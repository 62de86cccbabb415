// Elementwise, reduction and transposition kernels.
constexpr int TILE = 32;

extern "C" __global__ void add(const float* a, const float* b, float* sum, int count) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) sum[i] = a[i] + b[i];
}

// One block sums a row; the last thread also counts rows with an atomic.
extern "C" __global__ void __launch_bounds__(128) row_sums(const float* rows, float* sums, u32* finished, int width) {
    __shared__ float partial[4];
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += 128) sum += rows[(u64)blockIdx.x * width + i];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = (partial[0] + partial[1]) + (partial[2] + partial[3]);
        __threadfence();
        atomicAdd(finished, 1u);
    }
}

extern "C" __global__ void __launch_bounds__(256) transpose(const float* from, float* to, int rows, int columns) {
    __shared__ float tile[TILE][TILE + PADDING];
    int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
    for (int i = y; i < TILE; i += 8) {
        int row = blockIdx.y * TILE + i, column = blockIdx.x * TILE + x;
        if (row < rows && column < columns) tile[i][x] = from[(u64)row * columns + column];
    }
    __syncthreads();
    for (int i = y; i < TILE; i += 8) {
        int row = blockIdx.x * TILE + i, column = blockIdx.y * TILE + x;
        if (row < columns && column < rows) to[(u64)row * rows + column] = tile[x][i];
    }
}

// Functions of the maths library, and a divergent loop with a switch.
extern "C" __global__ void maths(const float* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float v = x[i], result = 0;
    for (int step = 0; step <= i % 5; step++) {
        switch (step) {
            case 0: result += expf(v); break;
            case 1: result += logf(v * v + 1); break;
            case 2: result += erff(v); break;
            case 3: result += tanhf(v) / (1 + v * v); break;
            default: result += sqrtf(v * v + 2) + sinf(v) * powf(v * v + 0.5f, 0.3f);
        }
    }
    y[i] = result;
}
