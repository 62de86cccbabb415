// One step of generation: the newest row of each sequence attends to its cached rows and to itself.
//
// Constants: BF16 (storage). A block works on one head of one sequence. `lanes` neighbouring lanes, a power of two, hold a
// row of the head, 16 bytes each; the block's warps take as many rows at once as fit, and each lane loads four keys and
// their values before it needs the first. Every group of lanes keeps an online softmax over its rows; the groups of a warp
// are merged in a tree, then the warps in their order. The cache is read once.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 WARPS = 4;
constexpr u32 CHUNK = 16 / sizeof(T);
constexpr u32 AT_ONCE = 4;      // rows that a lane has under way
constexpr u32 MOST_COLUMNS = 128;
constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000u);

// 16 bytes of a row from a column on; zeros behind the head's last column.
DEVICE void load_chunk(float (&values)[CHUNK], const T* row, u32 column, u32 dim, bool packed) {
    if (packed && column < dim) {
        load(values, row + column);
    } else {
#pragma unroll
        for (u32 i = 0; i < CHUNK; ++i) values[i] = column + i < dim ? widen(row[column + i]) : 0.0f;
    }
}

// A softmax over some rows: the largest score, the sum of the exponentials relative to it, and the values times these.
// Scores are in powers of two.
struct Part {
    float largest = -INFINITE, total = 0.0f;
    float sums[CHUNK] = {};

    // What the terms of a part are multiplied with beside a largest score of both; 0 for a part without rows.
    static DEVICE float correction(float largest, float common) {
        return largest == -INFINITE ? 0.0f : power_of_two(largest - common);
    }

    DEVICE void add(const float (&scores)[AT_ONCE], const float (&values)[AT_ONCE][CHUNK]) {
        float common = largest;
#pragma unroll
        for (u32 row = 0; row < AT_ONCE; ++row) common = fmaxf(common, scores[row]);
        const float before = correction(largest, common);
        largest = common;
        total *= before;
#pragma unroll
        for (u32 i = 0; i < CHUNK; ++i) sums[i] *= before;
#pragma unroll
        for (u32 row = 0; row < AT_ONCE; ++row) {
            const float weight = correction(scores[row], common);
            total += weight;
#pragma unroll
            for (u32 i = 0; i < CHUNK; ++i) sums[i] = fmaf(weight, values[row][i], sums[i]);
        }
    }

    // With the part of the lane at a distance.
    DEVICE void merge(u32 distance) {
        const float other = __shfl_xor_sync(0xffffffffu, largest, distance), common = fmaxf(largest, other);
        const float own_share = correction(largest, common), share = correction(other, common);
        largest = common;
        total = total * own_share + __shfl_xor_sync(0xffffffffu, total, distance) * share;
#pragma unroll
        for (u32 i = 0; i < CHUNK; ++i) {
            sums[i] = sums[i] * own_share + __shfl_xor_sync(0xffffffffu, sums[i], distance) * share;
        }
    }
};

// qkv `[sequences, 3 heads dim]`, cache `[sequences, capacity, 2 heads dim]`, lengths and sees_itself (or null)
// `[sequences]`, result `[sequences, heads dim]`. A length beyond the capacity counts as the capacity.
extern "C" __global__ void __launch_bounds__(WARPS * WARP) attention_decode(
    const T* qkv, const T* cache, const int* lengths, const int* sees_itself, T* result, u32 heads, u32 dim, u32 capacity,
    u32 lanes, float scale, u32 is_packed, u32 accumulate) {
    __shared__ float largest[WARPS], totals[WARPS], sums[WARPS][MOST_COLUMNS];
    const u32 sequence = blockIdx.x / heads, head = blockIdx.x % heads, width = heads * dim;
    const u32 warp = threadIdx.x / WARP, column = threadIdx.x % lanes * CHUNK;
    const u32 slot = threadIdx.x / lanes, slots = WARPS * WARP / lanes;
    const bool packed = is_packed;
    const T* own = qkv + (u64)sequence * 3 * width + head * dim;
    const T* cached = cache + (u64)sequence * capacity * 2 * width + head * dim;
    const u32 length = (u32)min(max(lengths[sequence], 0), (int)capacity);
    const u32 count = length + (!sees_itself || sees_itself[sequence] != 0);

    float query[CHUNK];
    load_chunk(query, own, column, dim, packed);
    Part part;
    for (u32 first = slot; first - slot < count; first += slots * AT_ONCE) {
        float keys[AT_ONCE][CHUNK], values[AT_ONCE][CHUNK], scores[AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; ++i) {
            const u32 row = first + i * slots;
            // A row that is not there has no columns.
            const u32 columns = row < count ? dim : 0;
            const T* key = row < length ? cached + (u64)row * 2 * width : own + width;
            load_chunk(keys[i], key, column, columns, packed);
            load_chunk(values[i], key + width, column, columns, packed);
        }
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; ++i) {
            float score = 0.0f;
#pragma unroll
            for (u32 j = 0; j < CHUNK; ++j) score = fmaf(query[j], keys[i][j], score);
            for (u32 distance = lanes / 2; distance > 0; distance /= 2) {
                score += __shfl_xor_sync(0xffffffffu, score, distance);
            }
            scores[i] = first + i * slots < count ? score * (scale * LOG2_E) : -INFINITE;
        }
        part.add(scores, values);
    }
    for (u32 distance = lanes; distance < WARP; distance *= 2) part.merge(distance);

    if (threadIdx.x % WARP < lanes) {
        if (column == 0) largest[warp] = part.largest, totals[warp] = part.total;
#pragma unroll
        for (u32 i = 0; i < CHUNK; ++i) {
            if (column + i < dim) sums[warp][column + i] = part.sums[i];
        }
    }
    __syncthreads();
    if (threadIdx.x >= dim) return;
    float common = -INFINITE, total = 0.0f, sum = 0.0f;
#pragma unroll
    for (u32 other = 0; other < WARPS; ++other) common = fmaxf(common, largest[other]);
#pragma unroll
    for (u32 other = 0; other < WARPS; ++other) {
        const float share = Part::correction(largest[other], common);
        total = fmaf(share, totals[other], total);
        sum = fmaf(share, sums[other][threadIdx.x], sum);
    }
    T* to = result + (u64)sequence * width + head * dim + threadIdx.x;
    const float value = total == 0.0f ? 0.0f : sum / total;  // NaN stays
    *to = narrow<T>(accumulate ? widen(*to) + value : value);
}
