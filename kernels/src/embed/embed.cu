// Rows of embeddings: of a packed text from its tables, of images from their patches, and the gradients of the latter.
//
// Constants: BF16 (storage of rows and patches; tables are f32). `packed` says that addresses are multiples of 16
// bytes, and rows of the narrowest type too.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 WIDTH = 16 / sizeof(T);
constexpr u32 CLASS_ID = ~0u;

template <u32 N, class S> DEVICE void add_rows(T* to, const S* a, const float* b, u32 n) {
    for (u32 column = lane_index() * N; column < n; column += WARP * N) {
        float values[N], other[N];
        load(values, a + column);
        load(other, b + column);
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] += other[i];
        store(to + column, values);
    }
}

// Packs are those of the f32 tables.
template <class S> DEVICE void sum_of_rows(T* to, const S* a, const float* b, u32 n, bool packed) {
    if (packed) {
        add_rows<4>(to, a, b, n);
    } else {
        add_rows<1>(to, a, b, n);
    }
}

// out[i] = tokens[ids[i]] + table[at[i]], with the class embedding for CLASS_ID. A warp a row.
extern "C" __global__ void __launch_bounds__(THREADS) embed_text(
    const u32* ids, const u32* at, const float* tokens, const float* table, const float* class_row, T* out, u32 rows,
    u32 vocabulary, u32 positions, u32 n, u32 packed) {
    const u64 row = row_of_warp();
    if (row >= rows) return;
    const u32 id = ids[row], position = at[row];
    out += row * n;
    if ((id != CLASS_ID && id >= vocabulary) || position >= positions) {
        void_row(out, n);
    } else {
        const float* token = id == CLASS_ID ? class_row : tokens + (u64)id * n;
        sum_of_rows(out, token, table + (u64)position * n, n, packed);
    }
}

// Row r of an image of `rows` is its patch r, or with a class embedding (else null) that or patch r - 1, plus row r of
// `table`. A warp a row of the result, which has `count`.
extern "C" __global__ void __launch_bounds__(THREADS) embed_patches(
    const T* patches, const float* table, const float* class_row, T* out, u32 count, u32 rows, u32 n, u32 packed) {
    const u32 row = row_of_warp();
    if (row >= count) return;
    const u32 image = row / rows, within = row % rows, offset = class_row ? 1 : 0;
    const float* position = table + (u64)within * n;
    out += (u64)row * n;
    if (within < offset) {
        sum_of_rows(out, class_row, position, n, packed);
    } else {
        const u64 patch = (u64)image * (rows - offset) + within - offset;
        sum_of_rows(out, patches + patch * n, position, n, packed);
    }
}

struct PatchesBackward {
    const T* dy;       // [images, columns]
    T* dpatches;       // [images, columns - skipped]
    float* dtable;     // [columns]
    float* dclass;     // [skipped]
    u32 images, columns, skipped;
    bool accumulate_patches, accumulate_table, accumulate_class;
};

// A block takes N columns a lane of the rows of an image laid side by side: passes them on to the patches, and sums
// them over the images. Each warp adds every WARPS-th image in its order, then the warps' sums are added in theirs.
template <u32 N> DEVICE void patches_backward(const PatchesBackward& b) {
    constexpr u32 BATCH = 4;  // images of a warp under way at once
    // Planes of a pack's elements lie so that neither packs nor neighbouring columns conflict.
    __shared__ float sums[WARPS][N][WARP + WARP / N];
    const u32 warp = threadIdx.x / WARP, lane = lane_index();
    const u32 first = blockIdx.x * (WARP * N), column = first + lane * N;
    float total[N] = {};
    if (column < b.columns) {
        for (u32 start = warp; start < b.images; start += WARPS * BATCH) {
            Pack<T, N> packs[BATCH];
#pragma unroll
            for (u32 k = 0; k < BATCH; ++k) {
                const u32 image = start + k * WARPS;
                if (image < b.images) packs[k] = load_pack<N>(b.dy + (u64)image * b.columns + column);
            }
#pragma unroll
            for (u32 k = 0; k < BATCH; ++k) {
                const u32 image = start + k * WARPS;
                if (image < b.images) {
                    float gradient[N];
                    unpack(gradient, packs[k]);
#pragma unroll
                    for (u32 i = 0; i < N; ++i) total[i] += gradient[i];
                    if (column >= b.skipped) {
                        const u64 place = (u64)image * (b.columns - b.skipped) + (column - b.skipped);
                        write(b.dpatches + place, gradient, b.accumulate_patches);
                    }
                }
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < N; ++i) sums[warp][i][lane] = total[i];
    __syncthreads();
    if (threadIdx.x >= WARP * N || first + threadIdx.x >= b.columns) return;
    const u32 own = first + threadIdx.x;
    float sum = 0.0f;
#pragma unroll
    for (u32 other = 0; other < WARPS; ++other) sum += sums[other][threadIdx.x % N][threadIdx.x / N];
    b.dtable[own] = b.accumulate_table ? b.dtable[own] + sum : sum;
    if (own < b.skipped) b.dclass[own] = b.accumulate_class ? b.dclass[own] + sum : sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) embed_patches_backward(
    const T* dy, T* dpatches, float* dtable, float* dclass, u32 images, u32 columns, u32 skipped, u32 accumulate_patches,
    u32 accumulate_table, u32 accumulate_class, u32 packed) {
    const PatchesBackward b = {dy, dpatches, dtable, dclass, images, columns, skipped,
                               accumulate_patches != 0, accumulate_table != 0, accumulate_class != 0};
    if (packed) {
        patches_backward<WIDTH>(b);
    } else {
        patches_backward<1>(b);
    }
}
