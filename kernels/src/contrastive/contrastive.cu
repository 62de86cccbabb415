// Symmetric InfoNCE from chunks of the similarities I T^T, f32 `[rows, n]` of n images with all n texts: log-sum-exps by row
// and by column, the loss, and the gradients of the similarities. Products are the matrix kernels' work.
//
// A logit is a similarity times exp(*logit_scale). `first` is the row of the whole matrix at which a chunk begins; its
// diagonal is where row and column agree. `aligned` says that rows are made of packs of 4.
//
// Rows have a block each. Columns are read by blocks of 32 columns, one a lane, so that a warp's access is a whole line;
// the warps divide the rows among them in a fixed way, and what they found is put together in their order. From chunk to
// chunk the columns' running sums wait in memory.

constexpr u32 MOST_THREADS = 512;
constexpr u32 COLUMN_ROWS = 8;  // rows that a warp reads at a time

template <u32 N>
DEVICE void row_sums(const float* similarities, float scale, float* rows, float* diagonals, u32 first, u32 n,
                     float (*scratch)[BLOCK_WARPS]) {
    const float* from = similarities + (u64)blockIdx.x * n;
    LogSumExp own;
    const auto read = [&](float (&values)[N], u32 column) { load(values, from + column); };
    for_packs<N>(n, read, [&](u32, float (&values)[N]) {
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] *= scale;
        own.add(values);
    });
    const LogSumExp all = block_log_sum_exp(own, scratch);
    if (threadIdx.x == 0) {
        const u32 row = first + blockIdx.x;
        rows[row] = all.value();
        diagonals[row] = from[row] * scale;
    }
}

// Log-sum-exps and diagonal logits of the rows of a chunk, a block a row.
extern "C" __global__ void __launch_bounds__(MOST_THREADS, 2) contrastive_rows(
    const float* similarities, const float* logit_scale, float* rows, float* diagonals, u32 first, u32 n, u32 aligned) {
    __shared__ float scratch[2][BLOCK_WARPS];
    const float scale = expf(*logit_scale);
    if (aligned) row_sums<4>(similarities, scale, rows, diagonals, first, n, scratch);
    else row_sums<1>(similarities, scale, rows, diagonals, first, n, scratch);
}

// Adds the `count` rows of a chunk to the running log-sum-exps of columns, `largest` and `sums` `[n]`, which begin with
// the chunk at row 0; `columns` `[n]` gets the values so far.
extern "C" __global__ void __launch_bounds__(1024) contrastive_columns(
    const float* similarities, const float* logit_scale, float* columns, float* largest, float* sums, u32 first,
    u32 count, u32 n) {
    __shared__ float scratch[2][BLOCK_WARPS][WARP];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, column = blockIdx.x * WARP + lane;
    const float scale = expf(*logit_scale);
    LogSumExp own;
    if (column < n) {
#pragma unroll 1
        for (u32 row = warp * COLUMN_ROWS; row < count; row += BLOCK_WARPS * COLUMN_ROWS) {
            float values[COLUMN_ROWS];
#pragma unroll
            for (u32 i = 0; i < COLUMN_ROWS; ++i) {
                values[i] = row + i < count ? similarities[(u64)(row + i) * n + column] * scale : minus_infinity();
            }
            own.add(values);
        }
    }
    scratch[0][warp][lane] = own.largest;
    scratch[1][warp][lane] = own.sum;
    __syncthreads();
    if (warp > 0 || column >= n) return;
    LogSumExp all;
    if (first > 0) all.largest = largest[column];
    for (u32 other = 0; other < BLOCK_WARPS; ++other) all.largest = fmaxf(all.largest, scratch[0][other][lane]);
    if (first > 0) all.sum = sums[column] * exponential(largest[column] - all.largest);
    for (u32 other = 0; other < BLOCK_WARPS; ++other) {
        all.sum += scratch[1][other][lane] * exponential(scratch[0][other][lane] - all.largest);
    }
    largest[column] = all.largest;
    sums[column] = all.sum;
    columns[column] = all.value();
}

// The mean of the cross-entropies of rows and of columns to the diagonal. One block.
extern "C" __global__ void __launch_bounds__(1024) contrastive_loss(
    const float* rows, const float* columns, const float* diagonals, float* loss, u32 n) {
    __shared__ float scratch[BLOCK_WARPS];
    float own = 0.0f;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) own += (rows[i] - diagonals[i]) + (columns[i] - diagonals[i]);
    const float total = block_total(own, scratch);
    if (threadIdx.x == 0) *loss = 0.5f * total / (float)n;
}

template <u32 N>
DEVICE void gradient_row(float* similarities, float scale, float own, const float* columns, float factor, u32 diagonal,
                         u32 n, float* part, float* scratch) {
    float* row = similarities + (u64)blockIdx.x * n;
    float total = 0.0f;
    const auto read = [&](float (&values)[N], u32 column) { load(values, row + column); };
    for_packs<N>(n, read, [&](u32 column, float (&values)[N]) {
        float other[N];
        load(other, columns + column);
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            const float logit = values[i] * scale, target = column + i == diagonal ? 2.0f : 0.0f;
            const float gradient = factor * (exponential(logit - own) + exponential(logit - other[i]) - target);
            total = fmaf(gradient, logit, total);
            values[i] = gradient * scale;
        }
        store(row + column, values);
    });
    total = block_total(total, scratch);
    if (threadIdx.x == 0) *part = total;
}

// Turns the similarities of a chunk into their gradients, a block a row. `parts` `[n]` gets, for each row, the sum of
// gradient times logit of the logits: its part of the gradient of logit_scale.
extern "C" __global__ void __launch_bounds__(MOST_THREADS, 2) contrastive_gradient(
    float* similarities, const float* logit_scale, const float* rows, const float* columns, const float* gradient,
    float* parts, u32 first, u32 n, u32 aligned) {
    __shared__ float scratch[BLOCK_WARPS];
    const float scale = expf(*logit_scale), factor = *gradient * 0.5f / (float)n;
    const u32 row = first + blockIdx.x;
    if (aligned) gradient_row<4>(similarities, scale, rows[row], columns, factor, row, n, parts + row, scratch);
    else gradient_row<1>(similarities, scale, rows[row], columns, factor, row, n, parts + row, scratch);
}

// The gradient of logit_scale: the sum of `parts` `[n]`. One block.
extern "C" __global__ void __launch_bounds__(1024)
contrastive_scale_gradient(const float* parts, float* out, u32 n, u32 accumulate) {
    __shared__ float scratch[BLOCK_WARPS];
    float own = 0.0f;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) own += parts[i];
    const float total = block_total(own, scratch);
    if (threadIdx.x == 0) *out = accumulate ? *out + total : total;
}
