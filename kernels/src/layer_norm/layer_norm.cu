// LayerNorm over the innermost dimension, and its gradients.
//
// Constants: BF16 (storage of x, y and their gradients), HELD (elements of a row that each lane of a warp holds, a multiple
// of 8; 0 for rows of any length and alignment, which are read from memory again for each pass). x, y `[rows, n]`; weight,
// bias f32 `[n]`; mean, rstd f32 `[rows]`.
//
// With HELD a warp keeps a whole row in registers: x is read once, and both sums of the two-pass variance are taken from
// registers. The gradients of weight and bias are summed in registers over the rows of a warp, over the warps of a block
// in their order, and over blocks by `layer_norm_reduce`; the number of blocks depends on the number of rows alone, so
// results do not depend on the schedule. These sums leave room for few warps, too few to keep the memory busy if each
// waited for its row: the next row of a warp comes to shared memory while it works on one.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 WARPS = 8;
constexpr u32 THREADS = WARPS * WARP;
constexpr u32 WIDTH = 16 / sizeof(T);
constexpr u32 PACKS = HELD / WIDTH;
// The backward kernel keeps two sums for each element that a lane holds; two blocks share a multiprocessor where that
// leaves enough registers.
constexpr u32 BACKWARD_BLOCKS = HELD <= (BF16 ? 32 : 24) ? 2 : 1;

// A row held by a warp: lane l has packs l, l + 32, ...
DEVICE u32 column_of(u32 pack) { return (pack * WARP + threadIdx.x % WARP) * WIDTH; }

// A row of x or of its sum with a residual, which is rounded and kept: statistics are those of what is stored. Packs
// behind the row's end are zero.
template <u32 P> DEVICE void read_row(float (&values)[P][WIDTH], const T* x, const T* residual, T* sum, u32 n) {
#pragma unroll
    for (u32 p = 0; p < P; ++p) {
        const u32 column = column_of(p);
        if (column < n) {
            load(values[p], x + column);
            if (residual) {
                float other[WIDTH];
                load(other, residual + column);
#pragma unroll
                for (u32 i = 0; i < WIDTH; ++i) values[p][i] = widen(narrow<T>(values[p][i] + other[i]));
                store(sum + column, values[p]);
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < WIDTH; ++i) values[p][i] = 0.0f;
        }
    }
}

template <u32 P> DEVICE float2 forward_held(
    const T* x, const float* weight, const float* bias, const T* residual, T* y, T* sum, u32 n, float epsilon) {
    const float share = 1.0f / (float)n;
    float values[P][WIDTH];
    read_row<P>(values, x, residual, sum, n);
    float total = 0.0f, squares = 0.0f;
#pragma unroll
    for (u32 p = 0; p < P; ++p) {
#pragma unroll
        for (u32 i = 0; i < WIDTH; ++i) total += values[p][i];
    }
    const float mean = warp_sum(total) * share;
#pragma unroll
    for (u32 p = 0; p < P; ++p) {
        if (column_of(p) < n) {
#pragma unroll
            for (u32 i = 0; i < WIDTH; ++i) squares = fmaf(values[p][i] - mean, values[p][i] - mean, squares);
        }
    }
    const float rstd = reciprocal_root(warp_sum(squares) * share + epsilon);
#pragma unroll
    for (u32 p = 0; p < P; ++p) {
        const u32 column = column_of(p);
        if (column < n) {
            float scale[WIDTH], shift[WIDTH];
            load(scale, weight + column);
            load(shift, bias + column);
#pragma unroll
            for (u32 i = 0; i < WIDTH; ++i) values[p][i] = fmaf((values[p][i] - mean) * rstd, scale[i], shift[i]);
            store(y + column, values[p]);
        }
    }
    return make_float2(mean, rstd);
}

DEVICE float2 forward_any(
    const T* x, const float* weight, const float* bias, const T* residual, T* y, T* sum, u32 n, float epsilon) {
    const u32 lane = threadIdx.x % WARP;
    const float share = 1.0f / (float)n;
    float total = 0.0f, squares = 0.0f;
    for (u32 column = lane; column < n; column += WARP) {
        T value = x[column];
        if (residual) sum[column] = value = narrow<T>(widen(value) + widen(residual[column]));
        total += widen(value);
    }
    // Later passes read what this lane wrote.
    if (residual) x = sum;
    const float mean = warp_sum(total) * share;
    for (u32 column = lane; column < n; column += WARP) {
        const float centred = widen(x[column]) - mean;
        squares = fmaf(centred, centred, squares);
    }
    const float rstd = reciprocal_root(warp_sum(squares) * share + epsilon);
    for (u32 column = lane; column < n; column += WARP) {
        y[column] = narrow<T>(fmaf((widen(x[column]) - mean) * rstd, weight[column], bias[column]));
    }
    return make_float2(mean, rstd);
}

// A warp a row. With a residual (else null) `sum` gets x + residual, which is what is normalised.
extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_forward(
    const T* x, const float* weight, const float* bias, const T* residual, T* y, T* sum, float* means, float* rstds,
    u32 rows, u32 n, float epsilon) {
    const u32 row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) return;
    const u64 start = (u64)row * n;
    if (residual) residual += start, sum += start;
    float2 statistics;
    if constexpr (PACKS > 0) {
        statistics = forward_held<PACKS>(x + start, weight, bias, residual, y + start, sum, n, epsilon);
    } else {
        statistics = forward_any(x + start, weight, bias, residual, y + start, sum, n, epsilon);
    }
    if (threadIdx.x % WARP == 0) means[row] = statistics.x, rstds[row] = statistics.y;
}

struct Backward {
    const T* x;
    const float *weight, *means, *rstds;
    const T* dy;
    T* dx;
    u32 rows, n;
    bool accumulate;
};

// In shared memory each warp has two stages: x and dy of the row that it works on, and of its next.
constexpr u32 ROW = HELD * WARP;
constexpr u32 STAGE = 2 * ROW;

// Starts to copy a row. A lane copies what it will read itself, so that it needs no barrier.
template <u32 P> DEVICE void fetch_row(const Backward& b, u32 row, T* stage) {
    if (row < b.rows) {
#pragma unroll
        for (u32 p = 0; p < P; ++p) {
            const u32 column = column_of(p);
            const u64 index = (u64)row * b.n + column;
            if (column < b.n) {
                cp_async_16(shared_address(stage + column), b.x + index, true);
                cp_async_16(shared_address(stage + ROW + column), b.dy + index, true);
            }
        }
    }
    cp_async_commit_group();
}

// Mean and rstd of a row, if it is one.
DEVICE float2 statistics_of(const Backward& b, u32 row) {
    return row < b.rows ? make_float2(b.means[row], b.rstds[row]) : make_float2(0.0f, 0.0f);
}

// One row: writes dx, and adds to this lane's sums of dy x' and of dy.
template <u32 P> DEVICE void backward_row(
    const Backward& b, u32 row, const T* stage, float2 statistics, float (&dweight)[P][WIDTH],
    float (&dbias)[P][WIDTH]) {
    T* dx = b.dx + (u64)row * b.n;
    const float share = 1.0f / (float)b.n, rstd = statistics.y, shift = -statistics.x * rstd;
    // Early, so that it is there when it is added to.
    Pack<T, WIDTH> before[P] = {};
    if (b.accumulate) {
#pragma unroll
        for (u32 p = 0; p < P; ++p) {
            if (column_of(p) < b.n) before[p] = load_pack<WIDTH>(dx + column_of(p));
        }
    }
    float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
    for (u32 p = 0; p < P; ++p) {
        const u32 column = column_of(p);
        if (column < b.n) {
            float x[WIDTH], dy[WIDTH], weight[WIDTH];
            load(x, stage + column);
            load(dy, stage + ROW + column);
            load(weight, b.weight + column);
#pragma unroll
            for (u32 i = 0; i < WIDTH; ++i) {
                const float hat = fmaf(x[i], rstd, shift), g = dy[i] * weight[i];
                sum_g += g;
                sum_gx = fmaf(g, hat, sum_gx);
                dweight[p][i] = fmaf(dy[i], hat, dweight[p][i]);
                dbias[p][i] += dy[i];
            }
        }
    }
    const float mean_g = warp_sum(sum_g) * share, mean_gx = warp_sum(sum_gx) * share;
    // mean(g) + x' mean(g x') is linear in x.
    const float slope = -rstd * mean_gx, origin = -fmaf(shift, mean_gx, mean_g);
#pragma unroll
    for (u32 p = 0; p < P; ++p) {
        const u32 column = column_of(p);
        if (column < b.n) {
            float x[WIDTH], dy[WIDTH], weight[WIDTH], result[WIDTH];
            load(x, stage + column);
            load(dy, stage + ROW + column);
            load(weight, b.weight + column);
            unpack(result, before[p]);
#pragma unroll
            for (u32 i = 0; i < WIDTH; ++i) {
                result[i] = fmaf(rstd, fmaf(dy[i], weight[i], fmaf(x[i], slope, origin)), result[i]);
            }
            store(dx + column, result);
        }
    }
}

template <u32 P> DEVICE void backward_held(const Backward& b, float* parts) {
    extern __shared__ __align__(16) u8 dynamic[];
    const u32 warp = threadIdx.x / WARP, step = gridDim.x * WARPS;
    T* stages = reinterpret_cast<T*>(dynamic);
    T *current = stages + warp * 2 * STAGE, *next = current + STAGE;
    float dweight[P][WIDTH] = {}, dbias[P][WIDTH] = {};
    u32 row = blockIdx.x * WARPS + warp;
    fetch_row<P>(b, row, current);
    float2 statistics = statistics_of(b, row);
    for (; row < b.rows; row += step) {
        fetch_row<P>(b, row + step, next);
        const float2 statistics_of_next = statistics_of(b, row + step);
        cp_async_wait_group<1>();
        backward_row<P>(b, row, current, statistics, dweight, dbias);
        T* used = current;
        current = next, next = used;
        statistics = statistics_of_next;
    }
    // The sums of each warp, `[2][ROW]`, lie over its stages, which other lanes may still read.
    float* sums = reinterpret_cast<float*>(dynamic);
    constexpr u32 PITCH = 2 * STAGE * sizeof(T) / sizeof(float);
    static_assert(2 * ROW <= PITCH, "two sums of a row fit into two stages");
    __syncwarp();
#pragma unroll
    for (u32 p = 0; p < P; ++p) {
#pragma unroll
        for (u32 i = 0; i < WIDTH; i += 4) {
            float4* own = reinterpret_cast<float4*>(sums + warp * PITCH + column_of(p) + i);
            own[0] = make_float4(dweight[p][i], dweight[p][i + 1], dweight[p][i + 2], dweight[p][i + 3]);
            own[ROW / 4] = make_float4(dbias[p][i], dbias[p][i + 1], dbias[p][i + 2], dbias[p][i + 3]);
        }
    }
    __syncthreads();
    for (u32 quad = threadIdx.x; quad < b.n / 2; quad += THREADS) {
        const u32 which = quad >= b.n / 4, column = (quad - which * (b.n / 4)) * 4;
        float total[4] = {};
#pragma unroll
        for (u32 other = 0; other < WARPS; ++other) {
            float own[4];
            load(own, sums + other * PITCH + which * ROW + column);
#pragma unroll
            for (u32 i = 0; i < 4; ++i) total[i] += own[i];
        }
        stg_128(parts + which * b.n + column, bits_of(total[0]), bits_of(total[1]), bits_of(total[2]), bits_of(total[3]));
    }
}

// A block a row. A thread owns its columns of dx and of the sums, which wait in memory.
DEVICE void backward_any(const Backward& b, float* parts) {
    __shared__ float scratch[2][WARPS];
    const float share = 1.0f / (float)b.n;
    for (u32 row = blockIdx.x; row < b.rows; row += gridDim.x) {
        const u64 start = (u64)row * b.n;
        const float mean = b.means[row], rstd = b.rstds[row];
        float sum_g = 0.0f, sum_gx = 0.0f;
        for (u32 column = threadIdx.x; column < b.n; column += THREADS) {
            const float g = widen(b.dy[start + column]) * b.weight[column];
            sum_g += g;
            sum_gx = fmaf(g, (widen(b.x[start + column]) - mean) * rstd, sum_gx);
        }
        const float mean_g = block_sum<WARPS>(sum_g, scratch[0]) * share;
        const float mean_gx = block_sum<WARPS>(sum_gx, scratch[1]) * share;
        const bool first = row == blockIdx.x;
        for (u32 column = threadIdx.x; column < b.n; column += THREADS) {
            const float gradient = widen(b.dy[start + column]), hat = (widen(b.x[start + column]) - mean) * rstd;
            float result = rstd * (fmaf(gradient, b.weight[column], -mean_g) - hat * mean_gx);
            if (b.accumulate) result += widen(b.dx[start + column]);
            b.dx[start + column] = narrow<T>(result);
            parts[column] = fmaf(gradient, hat, first ? 0.0f : parts[column]);
            parts[b.n + column] = gradient + (first ? 0.0f : parts[b.n + column]);
        }
        __syncthreads();
    }
}

// With x' = (x - mean) rstd and g = dy weight: dx (+)= rstd (g - mean(g) - x' mean(g x')). `parts` `[blocks, 2, n]` gets
// each block's sums of dy x' and of dy.
extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) layer_norm_backward(
    const T* x, const float* weight, const float* means, const float* rstds, const T* dy, T* dx, float* parts, u32 rows,
    u32 n, u32 accumulate) {
    const Backward b = {x, weight, means, rstds, dy, dx, rows, n, accumulate != 0};
    parts += (u64)blockIdx.x * 2 * n;
    if constexpr (PACKS > 0) {
        backward_held<PACKS>(b, parts);
    } else {
        backward_any(b, parts);
    }
}

// dweight (+)= and dbias (+)= the sums of `parts` `[count, 2, n]` over its blocks. A warp adds every REDUCE_WARPS-th part of
// 32 neighbouring columns, all read at once; the warps' sums are added in their order.
constexpr u32 REDUCE_WARPS = 32;

extern "C" __global__ void __launch_bounds__(REDUCE_WARPS * WARP) layer_norm_reduce(
    const float* parts, float* dweight, float* dbias, u32 count, u32 n, u32 accumulate_weight, u32 accumulate_bias) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 column = blockIdx.x * WARP + lane;
    __shared__ float sums[REDUCE_WARPS][WARP];
    float total = 0.0f;
    if (column < 2 * n) {
#pragma unroll 8
        for (u32 part = warp; part < count; part += REDUCE_WARPS) total += parts[(u64)part * 2 * n + column];
    }
    sums[warp][lane] = total;
    __syncthreads();
    if (warp == 0 && column < 2 * n) {
#pragma unroll
        for (u32 other = 1; other < REDUCE_WARPS; ++other) total += sums[other][lane];
        const bool is_weight = column < n;
        float* to = is_weight ? dweight + column : dbias + (column - n);
        *to = (is_weight ? accumulate_weight : accumulate_bias) ? *to + total : total;
    }
}
