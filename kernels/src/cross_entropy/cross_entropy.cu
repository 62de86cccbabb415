// Softmax cross-entropy with label smoothing, of logits f32 `[rows, n]`: the loss of each row, its gradient, and the mean.
// The losses of `cross_entropy` and of `linear_cross_entropy` are both made of these.
//
// Constant: OUTPUT_BF16 (storage of the gradient). A row whose label is one of `first_ignored`..`last_ignored` does not
// count: its loss is 0 and its logits are not read. A label that is no column makes loss and gradient of its row NaN:
// the host cannot know the labels, and nothing else would show the fault.
//
// A block has a row. Largest logit and sum of exponentials are found in one reading; the gradient needs the row once
// more, from shared memory where it fits (`held`: 49,408 logits take 193 KB of the 227 KB of compute capability 9.0), else
// from global memory again. Threads keep to their own columns, so the held row needs no barrier, and the gradient may be
// written over the logits.

using Output = Select<OUTPUT_BF16, bf16, float>::Type;

constexpr u32 MOST_THREADS = 1024;

struct Labels {
    const int* labels;
    int first_ignored, last_ignored;

    DEVICE bool counts(u32 row) const {
        const int label = labels[row];
        return label < first_ignored || label > last_ignored;
    }
};

struct Rows {
    const float *logits, *share;
    float* row_loss;
    Output* gradient;
    u32 n;
    float smoothing;
    bool accumulate, held;
};

template <u32 N> DEVICE void write_gradient(const Rows& rows, u64 index, float (&values)[N]) {
    if (rows.accumulate) {
        float before[N];
        load(before, rows.gradient + index);
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] += before[i];
    }
    store(rows.gradient + index, values);
}

// A row in packs of N.
template <u32 N>
DEVICE void row(const Rows& rows, const Labels& labels, float* held, float (*scratch)[BLOCK_WARPS]) {
    const u64 start = (u64)blockIdx.x * rows.n;
    const float* logits = rows.logits + start;
    if (!labels.counts(blockIdx.x)) {
        if (rows.row_loss && threadIdx.x == 0) rows.row_loss[blockIdx.x] = 0.0f;
        if (rows.gradient && !rows.accumulate) {
            const float zeros[N] = {};
            for (u32 column = threadIdx.x * N; column < rows.n; column += blockDim.x * N) {
                store(rows.gradient + start + column, zeros);
            }
        }
        return;
    }
    const u32 label = labels.labels[blockIdx.x];
    const float not_a_number = __uint_as_float(0x7fc00000u);
    const float target = label < rows.n ? logits[label] : not_a_number;
    const float share = label < rows.n && rows.gradient ? *rows.share : not_a_number;
    // Sums are of differences, so that large logits do not cancel: smoothing's from the first.
    const float origin = logits[0];
    LogSumExp own;
    float spread = 0.0f;
    const auto read = [&](float (&values)[N], u32 column) { load(values, logits + column); };
    for_packs<N>(rows.n, read, [&](u32 column, float (&values)[N]) {
        own.add(values);
#pragma unroll
        for (u32 i = 0; i < N; ++i) spread += values[i] - origin;
        if (rows.held) store(held + column, values);
    });
    const LogSumExp all = block_log_sum_exp(own, scratch);
    const float total = block_total(spread, scratch[2]);
    if (rows.row_loss && threadIdx.x == 0) {
        float loss = logf(all.sum) - (1.0f - rows.smoothing) * (target - all.largest);
        if (rows.smoothing > 0.0f) loss -= rows.smoothing * (total / (float)rows.n + (origin - all.largest));
        rows.row_loss[blockIdx.x] = loss;
    }
    if (!rows.gradient) return;
    const float factor = share / all.sum, smooth = share * rows.smoothing / (float)rows.n;
    const auto read_again = [&](float (&values)[N], u32 column) {
        if (rows.held) load(values, held + column);
        else load(values, logits + column);
    };
    for_packs<N>(rows.n, read_again, [&](u32 column, float (&values)[N]) {
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            values[i] = fmaf(factor, exponential(values[i] - all.largest), -smooth);
            if (column + i == label) values[i] -= share * (1.0f - rows.smoothing);
        }
        write_gradient(rows, start + column, values);
    });
}

// Losses (if `row_loss` is not null) and gradients `share (softmax - target)` (if `gradient` is not null) of a row a block.
// `aligned` says that rows are made of packs of 4; with `held` the dynamic shared memory holds a row.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) cross_entropy_rows(
    const float* logits, const int* labels, const float* share, float* row_loss, Output* gradient, u32 n,
    int first_ignored, int last_ignored, float smoothing, u32 accumulate, u32 aligned, u32 held) {
    extern __shared__ __align__(16) float dynamic[];
    __shared__ float scratch[3][BLOCK_WARPS];
    const Rows rows = {logits, share, row_loss, gradient, n, smoothing, accumulate != 0, held != 0};
    const Labels all = {labels, first_ignored, last_ignored};
    if (aligned) row<4>(rows, all, dynamic, scratch);
    else row<1>(rows, all, dynamic, scratch);
}

// The number of rows that count, at least 1. In f32, which counts exactly up to 2^24.
DEVICE float count_rows(const Labels& labels, u32 rows, float* scratch) {
    float count = 0.0f;
#pragma unroll 4
    for (u32 row = threadIdx.x; row < rows; row += blockDim.x) count += labels.counts(row) ? 1.0f : 0.0f;
    return fmaxf(block_total(count, scratch), 1.0f);
}

// The share of the loss's gradient that falls to each row that counts. One block.
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_share(
    const int* labels, const float* gradient, float* share, u32 rows, int first_ignored, int last_ignored) {
    __shared__ float scratch[BLOCK_WARPS];
    const float count = count_rows({labels, first_ignored, last_ignored}, rows, scratch);
    if (threadIdx.x == 0) *share = *gradient / count;
}

// The mean loss of the rows that count; 0 if there are none. One block.
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_mean(
    const float* row_loss, const int* labels, float* loss, u32 rows, int first_ignored, int last_ignored,
    u32 accumulate) {
    __shared__ float scratch[2][BLOCK_WARPS];
    const float count = count_rows({labels, first_ignored, last_ignored}, rows, scratch[0]);
    float own = 0.0f;
#pragma unroll 4
    for (u32 row = threadIdx.x; row < rows; row += blockDim.x) own += row_loss[row];
    const float mean = block_total(own, scratch[1]) / count;
    if (threadIdx.x == 0) *loss = accumulate ? *loss + mean : mean;
}
