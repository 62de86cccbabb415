// Attention: result = softmax(scale Q K^T + mask) V for each head of each sequence, and the natural logarithm of the sum of
// the exponentials of each row's scores.
//
// Constants and the division of work: `attention.cuh`. A warp owns 16 queries; keys and values pass in tiles. The softmax
// is taken online: a row's exponentials are relative to the largest score so far, and what was summed before is rescaled
// where a tile has a larger one.

// Of heads of up to 64 columns a block has up to 128 queries, so that it reads keys and values once for all of a text, and a
// multiprocessor 16 warps with 128 registers a thread; of heads of 96 columns 12 with 168, of larger ones 8.
constexpr u32 THREADS = (DIM <= 64 ? 8 : 4) * WARP, BLOCKS = DIM <= 64 ? 2 : DIM <= 96 ? 3 : 2;
constexpr u32 STAGES = ROW_BYTES <= 128 ? 3 : 2;  // tiles of keys and values, all but one of them under way
constexpr bool HELD = DIM != 96;  // queries, in registers: with 96 columns there are too few

// What a lane knows of its two rows, the upper and the lower one.
struct Running {
    float largest[2] = {-INFINITE, -INFINITE};
    float total[2] = {0.0f, 0.0f};  // of this lane's columns
    float sums[DIM / 8][4] = {};
};

// The bits of a key; none behind the end of the sequence.
DEVICE u32 bits_of_key(const Call& call, const Sequence& sequence, u32 key) {
    if (key >= sequence.keys.count) return 0;
    return call.bits ? call.bits[sequence.keys.first + key] : SEEN_LATER | SEEN_BY_ITSELF;
}

// Which of the 32 keys from `first` on a query sees, a bit for each; `later` and `itself` are their bits.
DEVICE u32 visible_keys(const Call& call, u32 later, u32 itself, u32 first, u32 query) {
    if (!call.is(CAUSAL)) return later;
    if (query < first) return 0;
    const u32 own = query - first < WARP ? 1u << (query - first) : 0;
    return later & (own - 1) | itself & own;
}

// Goes over a tile of keys, of which the warp's rows see those before `visible`.
template <class Queries>
DEVICE void attend(const Call& call, const Sequence& sequence, const Queries& queries, Running& running, u32 first_query,
                   u32 tile, u32 first_key, u32 visible, u32 seen_by_all) {
    const u32 lane = threadIdx.x % WARP;
    float scores[TILE / GROUP][2][4];
#pragma unroll
    for (u32 group = 0; group < TILE / GROUP; ++group) {
        if (first_key + group * GROUP < visible) dot_products(scores[group], queries, tile, group * GROUP);
    }
    if (first_key + TILE > seen_by_all) {
#pragma unroll
        for (u32 word = 0; word < TILE / WARP; ++word) {
            const u32 first = first_key + word * WARP, bits = bits_of_key(call, sequence, first + lane);
            const u32 later = __ballot_sync(0xffffffffu, bits & SEEN_LATER);
            const u32 itself = __ballot_sync(0xffffffffu, bits & SEEN_BY_ITSELF);
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const u32 query = first_query + lane / 4 + half * 8;
                // The first is that of the lane's first column.
                const u32 seen = visible_keys(call, later, itself, first, query) >> lane % 4 * 2;
#pragma unroll
                for (u32 i = 0; i < WARP; i += 8) {
                    float* pair = &scores[word * 2 + i / GROUP][i / 8 % 2][half * 2];
                    if (!(seen >> i & 1)) pair[0] = -INFINITE;
                    if (!(seen >> i & 2)) pair[1] = -INFINITE;
                }
            }
        }
    }
    const float factor = call.scale * LOG2_E;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        float largest = running.largest[half];
#pragma unroll
        for (u32 block = 0; block < TILE / 8; ++block) {
            const float* pair = &scores[block / 2][block % 2][half * 2];
            largest = fmaxf(largest, fmaxf(pair[0], pair[1]));
        }
        largest = quad_largest(largest);
        // A row that has seen nothing yet keeps minus infinity; any finite shift makes its terms 0.
        const float shift = largest == -INFINITE ? 0.0f : largest * factor;
        const float correction = power_of_two(fmaf(running.largest[half], factor, -shift));
        running.largest[half] = largest;
        float total = 0.0f;
#pragma unroll
        for (u32 block = 0; block < TILE / 8; ++block) {
            float* pair = &scores[block / 2][block % 2][half * 2];
            pair[0] = power_of_two(fmaf(pair[0], factor, -shift));
            pair[1] = power_of_two(fmaf(pair[1], factor, -shift));
            total += pair[0] + pair[1];
        }
        running.total[half] = fmaf(running.total[half], correction, total);
#pragma unroll
        for (u32 j = 0; j < DIM / 8; ++j) {
            running.sums[j][half * 2] *= correction;
            running.sums[j][half * 2 + 1] *= correction;
        }
    }
#pragma unroll
    for (u32 group = 0; group < TILE / GROUP; ++group) {
        if (first_key + group * GROUP < visible) {
            add_weighted(running.sums, scores[group], tile + TILE_BYTES, group * GROUP);
        }
    }
}

// `blocks` blocks share a head of a sequence; each goes on while there are queries. result `[rows, heads dim]`,
// log_sum_exp `[rows, heads]`, both 0 for a row that sees nothing.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_forward(
    const T* query, const T* key, const T* value, const int* query_offsets, const int* key_offsets, const u8* bits,
    u32 heads, u32 dim, u32 query_length, u32 key_length, u32 query_stride, u32 key_stride, float scale, u32 flags,
    u32 blocks, T* result, float* log_sum_exp) {
    extern __shared__ __align__(128) u8 shared[];
    const Call call = {query, key, value, query_offsets, key_offsets, bits, heads, dim,
                       query_length, key_length, query_stride, key_stride, scale, flags};
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, rows = blockDim.x / WARP * GROUP;
    const u32 head = blockIdx.x / blocks % heads, column = head * dim;
    const Sequence sequence(call, blockIdx.x / blocks / heads);
    const u32 own = shared_address(shared), stages = own + rows * ROW_BYTES;
    const auto stage = [&](u32 first_key) { return stages + first_key / TILE % STAGES * (2 * TILE_BYTES); };
    const auto fill_stage = [&](u32 first_key) {
        const u32 count = sequence.keys.count - first_key, tile = stage(first_key);
        const u64 start = (u64)(sequence.keys.first + first_key) * key_stride + column;
        fill(call, tile, {key + start, key_stride}, tile + TILE_BYTES, {value + start, key_stride}, count, TILE);
    };
    for (u32 first = blockIdx.x % blocks * rows; first < sequence.queries.count; first += blocks * rows) {
        const u32 first_own = first + warp * GROUP;
        const u32 visible = sequence.visible(call, first, rows), own_visible = sequence.visible(call, first_own, GROUP);
        // Everybody has left the shared memory.
        __syncthreads();
        if (visible > 0) {
            const u64 start = (u64)(sequence.queries.first + first) * query_stride + column;
            fill<true>(call, own, {query + start, query_stride}, 0, {}, sequence.queries.count - first, rows);
        }
#pragma unroll 1
        for (u32 first_key = 0; first_key < (STAGES - 1) * TILE; first_key += TILE) {
            if (first_key < visible) fill_stage(first_key);
            cp_async_commit_group();
        }
        const u32 seen_by_all = sequence.seen_by_all(call, first_own);
        const bool idle = first_own >= sequence.queries.count;
        Running running;
        for (u32 first_key = 0; first_key < visible; first_key += TILE) {
            // This tile is there, and everybody has left the one before, in whose place another comes.
            cp_async_wait_group<STAGES - 2>();
            __syncthreads();
            const u32 coming = first_key + (STAGES - 1) * TILE;
            if (coming < visible) fill_stage(coming);
            cp_async_commit_group();
            if (first_key < own_visible) {
                // Read again for each tile, or for each product where not held: the softmax needs their registers.
                const Operand<HELD> queries(call, own, warp * GROUP);
                attend(call, sequence, queries, running, first_own, stage(first_key), first_key, own_visible, seen_by_all);
            }
        }
        if (idle) continue;
        const u32 count = sequence.queries.count - first_own, first_row = sequence.first_result + first_own;
        float factors[2];
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 row = half * 8 + lane / 4;
            const float total = quad_sum(running.total[half]);
            const bool seen = running.largest[half] > -INFINITE;
            factors[half] = seen ? 1.0f / total : 0.0f;
            if (row < count && lane % 4 == 0) {
                const float value = fmaf(__log2f(total), LN_2, running.largest[half] * scale);
                log_sum_exp[(u64)(first_row + row) * heads + head] = seen ? value : 0.0f;
            }
        }
        store_rows(call, running.sums, factors[0], factors[1], result + (u64)first_row * call.width() + column,
                   call.width(), count, false, own + warp * GROUP * ROW_BYTES);
    }
}
