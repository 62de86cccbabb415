// The gradients of attention by two kernels, each of which computes P and dS of its own: that takes seven products where
// one kernel needs five (`attention_backward_whole.cu`), but all sums stay in the registers of a warp, for any length and
// without atomic additions. In `attention_backward_query` a warp owns 16 queries and keys pass in tiles; in
// `attention_backward_key` it owns 16 keys and queries pass.
//
// Constants and the division of work: `attention.cuh`.

// Blocks of a multiprocessor: three leave 168 registers a thread, two 255.
constexpr u32 BLOCKS = DIM <= 64 ? 3 : 2;

// Writes the first `count` of a warp's 16 rows of sums, times a factor, as f32: of each, four lanes have a sector.
DEVICE void store_partial(
    const Call& call, const float (&sums)[DIM / 8][4], float factor, float* to, u32 stride, u32 count) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 j = 0; j < DIM / 8; ++j) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 row = half * 8 + lane / 4, column = j * 8 + lane % 4 * 2;
            const float first = sums[j][half * 2] * factor, second = sums[j][half * 2 + 1] * factor;
            float* place = to + (u64)row * stride + column;
            if (row >= count || column >= call.dim) continue;
            if (call.is(PACKED)) {
                stg_64(place, first, second);
            } else {
                place[0] = first;
                if (column + 1 < call.dim) place[1] = second;
            }
        }
    }
}

// `blocks` blocks share a head of a group of sequences; each goes on while there are queries. A group is one sequence, but
// of a shared query, whose gradients are added up in the order of the sequences: `partial` `[groups, rows, heads dim]` gets
// them, `dquery`, with the columns and the stride of queries, those of others.
extern "C" __global__ void __launch_bounds__(MOST_WARPS * WARP, BLOCKS) attention_backward_query(
    const T* query, const T* key, const T* value, const int* query_offsets, const int* key_offsets, const u8* bits,
    u32 heads, u32 dim, u32 query_length, u32 key_length, u32 query_stride, u32 key_stride, float scale, u32 flags,
    u32 blocks, const T* result, const float* log_sum_exp, const T* gradient, T* dquery, float* partial, u32 sequences,
    u32 groups, u32 accumulate) {
    extern __shared__ __align__(128) u8 shared[];
    const Call call = {query, key, value, query_offsets, key_offsets, bits, heads, dim,
                       query_length, key_length, query_stride, key_stride, scale, flags};
    const Saved saved = {result, log_sum_exp, gradient};
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, rows = blockDim.x / WARP * GROUP;
    const u32 head = blockIdx.x / blocks % heads, group = blockIdx.x / blocks / heads, column = head * dim;
    const u32 member = (u64)group * sequences / groups, end = (u64)(group + 1) * sequences / groups;
    const u32 own = shared_address(shared), own_gradient = own + rows * ROW_BYTES;
    const u32 stages = own_gradient + rows * ROW_BYTES;
    const auto stage = [&](u32 first_key) { return stages + first_key / TILE % 2 * (2 * TILE_BYTES); };
    const float factor = scale * LOG2_E;
    // The sequences of a group have the same queries.
    const Rows all = Sequence(call, member).queries;
    for (u32 first = blockIdx.x % blocks * rows; first < all.count; first += blocks * rows) {
        const u32 first_own = first + warp * GROUP;
        const bool idle = first_own >= all.count;
        float sums[DIM / 8][4] = {};
        for (u32 index = member; index < end; ++index) {
            const Sequence sequence(call, index);
            const u32 visible = sequence.visible(call, first, rows);
            const u32 own_visible = sequence.visible(call, first_own, GROUP);
            const auto fill_stage = [&](u32 first_key) {
                const u32 count = sequence.keys.count - first_key;
                const u64 start = (u64)(sequence.keys.first + first_key) * key_stride + column;
                const u32 tile = stage(first_key);
                fill(call, tile, {key + start, key_stride}, tile + TILE_BYTES, {value + start, key_stride}, count, TILE);
            };
            // Everybody has left the shared memory.
            __syncthreads();
            const T* own_queries = query + (u64)(all.first + first) * query_stride + column;
            const T* own_gradients = gradient + (u64)(sequence.first_result + first) * call.width() + column;
            fill<true>(call, own, {own_queries, query_stride}, own_gradient, {own_gradients, call.width()},
                       all.count - first, rows);
            if (visible > 0) fill_stage(0);
            const Statistics upper = statistics<4, 2>(call, saved, sequence, head, first_own + lane / 4);
            const Statistics lower = statistics<4, 2>(call, saved, sequence, head, first_own + lane / 4 + 8);
            wait_for_copies();
            const Operand<true> queries(call, own, warp * GROUP);
            const Operand<true> gradients(call, own_gradient, warp * GROUP);
            for (u32 first_key = 0; first_key < visible; first_key += TILE) {
                if (first_key + TILE < visible) fill_stage(first_key + TILE);
                cp_async_commit_group();
                const u32 tile = stage(first_key), last = smaller(first_key + TILE, own_visible);
#pragma unroll 1
                for (u32 first_of_group = first_key; first_of_group < last; first_of_group += GROUP) {
                    const u32 place = first_of_group - first_key;
                    const bool masked = first_of_group + GROUP > sequence.seen_by_all(call, first_own);
                    float scores[2][4], dscores[2][4];
                    dot_products(scores, queries, tile, place);
                    dot_products(dscores, gradients, tile + TILE_BYTES, place);
#pragma unroll
                    for (u32 block = 0; block < 2; ++block) {
#pragma unroll
                        for (u32 i = 0; i < 4; ++i) {
                            const Statistics& own_row = i < 2 ? upper : lower;
                            const u32 own_query = first_own + lane / 4 + i / 2 * 8;
                            const u32 own_key = first_of_group + block * 8 + lane % 4 * 2 + i % 2;
                            float probability = power_of_two(fmaf(scores[block][i], factor, -own_row.shift));
                            if (masked && !sees(call, sequence, own_query, own_key)) probability = 0.0f;
                            dscores[block][i] = probability * (dscores[block][i] - own_row.delta);
                        }
                    }
                    add_weighted(sums, dscores, tile, place);
                }
                // The next tile is there, and everybody has left this one.
                cp_async_wait_group<0>();
                __syncthreads();
            }
        }
        if (idle) continue;
        const u32 staging = own + warp * GROUP * ROW_BYTES, count = all.count - first_own;
        if (partial) {
            const u64 row = (u64)group * all.count + first_own;
            store_partial(call, sums, scale, partial + row * call.width() + column, call.width(), count);
        } else {
            store_rows(call, sums, scale, scale, dquery + (u64)(all.first + first_own) * query_stride + column, query_stride,
                       count, accumulate != 0, staging);
        }
    }
}

// `blocks` blocks share a head of a sequence; each goes on while there are keys. dkey and dvalue have the columns and the
// stride of keys and values.
extern "C" __global__ void __launch_bounds__(MOST_WARPS * WARP, BLOCKS) attention_backward_key(
    const T* query, const T* key, const T* value, const int* query_offsets, const int* key_offsets, const u8* bits,
    u32 heads, u32 dim, u32 query_length, u32 key_length, u32 query_stride, u32 key_stride, float scale, u32 flags,
    u32 blocks, const T* result, const float* log_sum_exp, const T* gradient, T* dkey, T* dvalue, u32 accumulate) {
    extern __shared__ __align__(128) u8 shared[];
    // The gradients of keys and values fill the registers of the largest heads.
    constexpr bool HELD = DIM <= 96;
    // Queries, their gradients, their shifts and deltas.
    constexpr u32 SHIFTS = 2 * TILE_BYTES, DELTAS = SHIFTS + TILE * 4, STAGE_BYTES = DELTAS + TILE * 4;
    const Call call = {query, key, value, query_offsets, key_offsets, bits, heads, dim,
                       query_length, key_length, query_stride, key_stride, scale, flags};
    const Saved saved = {result, log_sum_exp, gradient};
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, rows = blockDim.x / WARP * GROUP;
    const u32 head = blockIdx.x / blocks % heads, column = head * dim;
    const Sequence sequence(call, blockIdx.x / blocks / heads);
    const Rows queries = sequence.queries, keys = sequence.keys;
    const u32 own = shared_address(shared), own_values = own + rows * ROW_BYTES, stages = own_values + rows * ROW_BYTES;
    const float factor = scale * LOG2_E;
    const auto stage = [&](u32 first_query) { return stages + first_query / TILE % 2 * STAGE_BYTES; };
    const auto fill_stage = [&](u32 first_query) {
        const u32 to = stage(first_query), count = queries.count - first_query;
        const T* from = query + (u64)(queries.first + first_query) * query_stride + column;
        const T* gradients = gradient + (u64)(sequence.first_result + first_query) * call.width() + column;
        fill(call, to, {from, query_stride}, to + TILE_BYTES, {gradients, call.width()}, count, TILE);
        // A warp takes 8 queries at a time, also those of the last 16 that are not there.
        const u32 filled = smaller(TILE, divide_up(count, GROUP) * GROUP);
        for (u32 row = warp * 8; row < filled; row += rows / 2) {
            const u32 place = row + lane / 4;
            const Statistics found = statistics<4, 2>(call, saved, sequence, head, first_query + place);
            if (lane % 4 == 0) {
                sts(to + SHIFTS + place * 4, bits_of(found.shift));
                sts(to + DELTAS + place * 4, bits_of(found.delta));
            }
        }
    };
    for (u32 first = blockIdx.x % blocks * rows; first < keys.count; first += blocks * rows) {
        const u32 first_own = first + warp * GROUP;
        const bool idle = first_own >= keys.count;
        // Under a causal mask no query before the keys sees them.
        const u32 start = call.is(CAUSAL) ? first / TILE * TILE : 0;
        // Everybody has left the shared memory.
        __syncthreads();
        const u64 from = (u64)(keys.first + first) * key_stride + column;
        fill<true>(call, own, {key + from, key_stride}, own_values, {value + from, key_stride}, keys.count - first, rows);
        if (start < queries.count) fill_stage(start);
        wait_for_copies();
        const Operand<HELD> own_key_rows(call, own, warp * GROUP);
        const Operand<HELD> own_value_rows(call, own_values, warp * GROUP);
        float key_sums[DIM / 8][4] = {}, value_sums[DIM / 8][4] = {};
        for (u32 first_query = start; first_query < queries.count; first_query += TILE) {
            if (first_query + TILE < queries.count) fill_stage(first_query + TILE);
            cp_async_commit_group();
            const u32 tile = stage(first_query), last = idle ? 0 : smaller(first_query + TILE, queries.count);
#pragma unroll 1
            for (u32 first_of_group = first_query; first_of_group < last; first_of_group += GROUP) {
                if (call.is(CAUSAL) && first_of_group + GROUP <= first_own) continue;
                const u32 place = first_of_group - first_query;
                const bool masked = first_own + GROUP > sequence.seen_by_all(call, first_of_group);
                float scores[2][4], dscores[2][4];
                dot_products(scores, own_key_rows, tile, place);
                dot_products(dscores, own_value_rows, tile + TILE_BYTES, place);
#pragma unroll
                for (u32 block = 0; block < 2; ++block) {
                    const u32 column_of_lane = block * 8 + lane % 4 * 2;
                    const float2 shifts = lds_64(tile + SHIFTS + (place + column_of_lane) * 4);
                    const float2 deltas = lds_64(tile + DELTAS + (place + column_of_lane) * 4);
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) {
                        const u32 own_query = first_of_group + column_of_lane + i % 2;
                        const u32 own_key = first_own + lane / 4 + i / 2 * 8;
                        float probability = power_of_two(fmaf(scores[block][i], factor, -(i % 2 ? shifts.y : shifts.x)));
                        if (masked && !sees(call, sequence, own_query, own_key)) probability = 0.0f;
                        scores[block][i] = probability;
                        dscores[block][i] = probability * (dscores[block][i] - (i % 2 ? deltas.y : deltas.x));
                    }
                }
                add_weighted(value_sums, scores, tile + TILE_BYTES, place);
                add_weighted(key_sums, dscores, tile, place);
            }
            // The next tile is there, and everybody has left this one.
            cp_async_wait_group<0>();
            __syncthreads();
        }
        if (idle) continue;
        const u32 count = keys.count - first_own;
        const u64 to = (u64)(keys.first + first_own) * key_stride + column;
        store_rows(call, key_sums, scale, scale, dkey + to, key_stride, count, accumulate != 0,
                   own + warp * GROUP * ROW_BYTES);
        store_rows(call, value_sums, 1.0f, 1.0f, dvalue + to, key_stride, count, accumulate != 0,
                   own_values + warp * GROUP * ROW_BYTES);
    }
}
