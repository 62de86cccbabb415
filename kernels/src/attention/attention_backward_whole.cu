// The gradients of attention by one kernel with five products, for short sequences in bf16: a block has all keys of a head
// of a sequence, and so all that the gradient of a query is the sum of.
//
// Constants: those of `attention.cuh`, with BF16 = 1, and GROUPS (1 or 2 times 16 keys for each warp).
//
// Keys and values stay in shared memory, and a warp has the sums of its keys' gradients in registers. Queries pass in tiles
// with the gradients of their results. With the transposed scores of a tile, P^T and dS^T, a warp adds to its sums; it also
// leaves dS^T in shared memory, where, after a barrier, warps find what dQ needs of all keys. A warp of 16 keys holds these
// and their values in registers. One of 32 keys reads them again for each product, which costs as little, for it reads the
// other operand once for both groups.

constexpr bool HELD = GROUPS == 1;
constexpr u32 OWN = GROUPS * GROUP;               // keys of a warp
constexpr u32 QUERIES = 32;                       // rows of a tile of queries
constexpr u32 QUERIES_BYTES = QUERIES * ROW_BYTES;
constexpr u32 STAGE_BYTES = 2 * QUERIES_BYTES;    // queries and gradients
constexpr u32 SCORE_BYTES = QUERIES * sizeof(T);  // of a key in dS^T
constexpr u32 COLUMNS = HELD ? 32 : 16;           // of 16 rows of dQ, for a warp: with 4 or 8 warps each has a share
constexpr u32 SHARES = QUERIES / GROUP * (DIM / COLUMNS);
constexpr u32 STATISTICS = 128;                   // queries whose statistics are there at a time
// A multiprocessor has three blocks of 4 warps of 16 keys or two of up to 6, both with 168 registers a thread; of warps of
// 32 keys it has two blocks of 4 or one of 8, with 255.
constexpr u32 THREADS = (HELD ? 6 : 8) * WARP, BLOCKS = HELD ? 2 : 1;
static_assert(BF16 && DIM <= 64, "registers");

// Beside KeyBits: earlier queries see the key, without a causal mask.
constexpr u32 SEEN_EARLIER = 4, SEEN_BY_ALL = SEEN_LATER | SEEN_BY_ITSELF | SEEN_EARLIER;

// Which queries see a key.
DEVICE u32 seen_by(const Call& call, const Sequence& sequence, u32 key) {
    if (key >= sequence.keys.count) return 0;
    if (!call.is(CAUSAL)) return SEEN_BY_ALL;
    const u32 both = SEEN_LATER | SEEN_BY_ITSELF;
    return call.bits ? call.bits[sequence.keys.first + key] & both : both;
}

// The bit that says whether a query sees a key.
DEVICE u32 bit_of(u32 query, u32 key) {
    return query > key ? SEEN_LATER : query == key ? SEEN_BY_ITSELF : SEEN_EARLIER;
}

// The dot products of the warp's rows with 16 rows of a tile.
DEVICE void dot_products(float (&products)[GROUPS][2][4], const Operand<HELD>& left, u32 tile, u32 first) {
    const u32 lane = threadIdx.x % WARP, matrix = lane / 8;
#pragma unroll
    for (u32 group = 0; group < GROUPS; ++group) {
#pragma unroll
        for (u32 i = 0; i < 8; ++i) products[group][i / 4][i % 4] = 0.0f;
    }
#pragma unroll
    for (u32 step = 0; step < DIM / 16; ++step) {
        u32 b[4];
        ldmatrix_x4(b, tile + offset(first, matrix / 2 * 8 + lane % 8, step * 2 + matrix % 2));
#pragma unroll
        for (u32 group = 0; group < GROUPS; ++group) {
            u32 a[4];
            if constexpr (HELD) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) a[i] = left.fragments[step][i];
            } else {
                left.read(a, step, group);
            }
            mma_m16n8k16_bf16(products[group][0], a, b[0], b[1]);
            mma_m16n8k16_bf16(products[group][1], a, b[2], b[3]);
        }
    }
}

// Adds 16 rows of a tile, each times the weights of the warp's rows, to the sums of these.
DEVICE void add_weighted(float (&sums)[GROUPS][DIM / 8][4], const u32 (&weights)[GROUPS][4], u32 tile, u32 first) {
    const u32 lane = threadIdx.x % WARP, matrix = lane / 8;
#pragma unroll
    for (u32 block = 0; block < DIM / 8; block += 2) {
        u32 b[4];
        ldmatrix_x4_trans(b, tile + offset(first, matrix % 2 * 8 + lane % 8, block + matrix / 2));
#pragma unroll
        for (u32 group = 0; group < GROUPS; ++group) {
            mma_m16n8k16_bf16(sums[group][block], weights[group], b[0], b[1]);
            mma_m16n8k16_bf16(sums[group][block + 1], weights[group], b[2], b[3]);
        }
    }
}

// Byte offset of 8 queries of a key behind the first of 8 in dS^T, permuted as in a tile with rows of 64 bytes.
DEVICE u32 score_offset(u32 first, u32 key, u32 chunk) {
    return (first + key) * SCORE_BYTES + ((chunk ^ (key >> 1 & 3)) << 4);
}

// Adds dQ of 16 queries of a tile in some columns, but for the scale: dS K of so many keys. Of a warp's keys dS^T has all or
// none.
DEVICE void sum_over_keys(
    float (&sums)[COLUMNS / 8][4], u32 scores_tile, u32 key_tile, u32 keys, u32 first_query, u32 first_column) {
    const u32 lane = threadIdx.x % WARP, matrix = lane / 8;
    // Those of a warp's second group, which do not wait for the first.
    float others[COLUMNS / 8][4] = {};
#pragma unroll 1
    for (u32 first = 0; first < keys; first += OWN) {
#pragma unroll
        for (u32 group = 0; group < GROUPS; ++group) {
            const u32 first_key = first + group * GROUP;
            auto& part = group == 0 ? sums : others;
            u32 a[4];
            const u32 score = score_offset(first_key, matrix / 2 * 8 + lane % 8, first_query / 8 + matrix % 2);
            ldmatrix_x4_trans(a, scores_tile + score);
#pragma unroll
            for (u32 block = 0; block < COLUMNS / 8; block += 2) {
                u32 b[4];
                const u32 place = offset(first_key, matrix % 2 * 8 + lane % 8, first_column / 8 + block + matrix / 2);
                ldmatrix_x4_trans(b, key_tile + place);
                mma_m16n8k16_bf16(part[block], a, b[0], b[1]);
                mma_m16n8k16_bf16(part[block + 1], a, b[2], b[3]);
            }
        }
    }
    if constexpr (GROUPS == 2) {
#pragma unroll
        for (u32 i = 0; i < COLUMNS / 2; ++i) sums[i / 4][i % 4] += others[i / 4][i % 4];
    }
}

// Calls `use(group, block, i, statistic)` for each of a lane's elements of a product with the statistic of its query; that of
// the lane's first column lies at `first`.
template <class Use> DEVICE void with_statistics(u32 first, Use use) {
#pragma unroll
    for (u32 block = 0; block < 2; ++block) {
        const float2 pair = lds_64(first + block * 8 * sizeof(float));
#pragma unroll
        for (u32 i = 0; i < GROUPS * 4; ++i) use(i / 4, block, i % 4, i % 2 ? pair.y : pair.x);
    }
}

// A block has a head of a sequence. If that has more keys than the block's warps own, they come in rounds, from one of which
// to the next the sums of dQ stay in shared memory if they are for at most `kept` queries and warps have 32 keys. Else, which
// is for ragged sequences that are longer than most, dQ is rounded after each round. dquery, dkey and dvalue have the columns
// and strides of queries, keys and values.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_backward_whole(
    const T* query, const T* key, const T* value, const int* query_offsets, const int* key_offsets, const u8* bits,
    u32 heads, u32 dim, u32 query_length, u32 key_length, u32 query_stride, u32 key_stride, float scale, u32 flags,
    const T* result, const float* log_sum_exp, const T* gradient, T* dquery, T* dkey, T* dvalue,
    u32 kept, u32 accumulate_query, u32 accumulate_key) {
    extern __shared__ __align__(128) u8 shared[];
    const Call call = {query, key, value, query_offsets, key_offsets, bits, heads, dim,
                       query_length, key_length, query_stride, key_stride, scale, flags};
    const Saved saved = {result, log_sum_exp, gradient};
    const u32 warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, rows = warps * OWN;
    const u32 head = blockIdx.x % heads, column = head * dim;
    const Sequence sequence(call, blockIdx.x / heads);
    const Rows queries = sequence.queries, keys = sequence.keys;
    const u32 own = warp * OWN, key_tile = shared_address(shared), value_tile = key_tile + rows * ROW_BYTES;
    const u32 scores_tile = value_tile + rows * ROW_BYTES, stages = scores_tile + rows * SCORE_BYTES;
    const u32 shifts = stages + 2 * STAGE_BYTES, deltas = shifts + STATISTICS * sizeof(float);
    const u32 kept_sums = deltas + STATISTICS * sizeof(float);
    const float factor = scale * LOG2_E;
    const auto stage = [&](u32 first_query) { return stages + first_query / QUERIES % 2 * STAGE_BYTES; };
    const auto fill_stage = [&](u32 first_query) {
        const u32 to = stage(first_query);
        const T* from = query + (u64)(queries.first + first_query) * query_stride + column;
        const T* gradients = gradient + (u64)(sequence.first_result + first_query) * call.width() + column;
        fill(call, to, {from, query_stride}, to + QUERIES_BYTES, {gradients, call.width()}, queries.count - first_query,
             QUERIES);
    };
    const bool keeps = GROUPS == 2 && queries.count <= kept;
    u32 first = 0;  // key of the round
    // Statistics from a query on, up to the next multiple of their number, and waits for what is under way. All of a short
    // sequence's are there since the first round.
    const auto prepare = [&](u32 first_query) {
        const u32 most = first > 0 && queries.count <= STATISTICS ? 0 : (first_query / STATISTICS + 1) * STATISTICS;
        const u32 end = smaller(most, divide_up(queries.count, GROUP) * GROUP);
        // A warp takes 16 queries at a time, also those of the last that are not there: most sequences need one turn.
#pragma unroll 1
        for (u32 own_queries = first_query + warp * GROUP; own_queries < end; own_queries += warps * GROUP) {
            const u32 own_query = own_queries + lane / 2, place = own_query % STATISTICS * sizeof(float);
            const Statistics found = statistics<2, DIM / CHUNK / 2>(call, saved, sequence, head, own_query);
            if (lane % 2 == 0) {
                sts(shifts + place, bits_of(found.shift));
                sts(deltas + place, bits_of(found.delta));
            }
        }
        wait_for_copies();
    };
    do {
        const u32 first_own = first + own;
        const bool idle = first_own >= keys.count;
        // Under a causal mask no query before the keys sees them.
        const u32 start = call.is(CAUSAL) ? first / QUERIES * QUERIES : 0;
        const u64 from = (u64)(keys.first + first) * key_stride + column;
        fill<true>(call, key_tile, {key + from, key_stride}, value_tile, {value + from, key_stride}, keys.count - first,
                   rows);
        if (start < queries.count) fill_stage(start);
        u32 seen[GROUPS][2], seen_by_every = SEEN_BY_ALL;
#pragma unroll
        for (u32 i = 0; i < GROUPS * 2; ++i) seen[i / 2][i % 2] = seen_by(call, sequence, first_own + i * 8 + lane / 4);
        prepare(start);
#pragma unroll
        for (u32 i = 0; i < GROUPS * 2; ++i) seen_by_every &= seen[i / 2][i % 2];
        const bool by_all = __all_sync(0xffffffffu, seen_by_every == SEEN_BY_ALL);
        const bool by_later = __all_sync(0xffffffffu, seen_by_every & SEEN_LATER);
        const Operand<HELD> own_keys(call, key_tile, own), own_values(call, value_tile, own);
        float key_sums[GROUPS][DIM / 8][4] = {}, value_sums[GROUPS][DIM / 8][4] = {};
        for (u32 first_query = start; first_query < queries.count; first_query += QUERIES) {
            if (first_query > start && first_query % STATISTICS == 0) prepare(first_query);
            if (first_query + QUERIES < queries.count) fill_stage(first_query + QUERIES);
            const u32 tile = stage(first_query), gradient_tile = tile + QUERIES_BYTES;
            const u32 last = idle ? 0 : smaller(first_query + QUERIES, queries.count);
#pragma unroll 1
            for (u32 first_of_group = first_query; first_of_group < last; first_of_group += GROUP) {
                if (call.is(CAUSAL) && first_of_group + GROUP <= first_own) continue;
                const u32 place = first_of_group - first_query;
                const bool masked = !(first_of_group >= first_own + OWN ? by_later : by_all);
                float scores[GROUPS][2][4], dscores[GROUPS][2][4];
                dot_products(scores, own_keys, tile, place);
                dot_products(dscores, own_values, gradient_tile, place);
                const u32 column_of_lane = first_of_group + lane % 4 * 2;
                const u32 statistics_of_lane = column_of_lane % STATISTICS * sizeof(float);
                with_statistics(shifts + statistics_of_lane, [&](u32 group, u32 block, u32 i, float shift) {
                    scores[group][block][i] = power_of_two(fmaf(scores[group][block][i], factor, -shift));
                });
                if (masked) {
#pragma unroll
                    for (u32 i = 0; i < GROUPS * 8; ++i) {
                        const u32 group = i / 8, block = i / 4 % 2, half = i / 2 % 2;
                        const u32 own_query = column_of_lane + block * 8 + i % 2;
                        const u32 own_key = first_own + group * GROUP + half * 8 + lane / 4;
                        if (!(seen[group][half] & bit_of(own_query, own_key))) scores[group][block][i % 4] = 0.0f;
                    }
                }
                with_statistics(deltas + statistics_of_lane, [&](u32 group, u32 block, u32 i, float delta) {
                    dscores[group][block][i] = scores[group][block][i] * (dscores[group][block][i] - delta);
                });
                // A product's elements are where mma.sync wants those of its left operand.
                u32 weights[GROUPS][4], dweights[GROUPS][4];
#pragma unroll
                for (u32 i = 0; i < GROUPS * 4; ++i) {
                    const u32 group = i / 4, block = i / 2 % 2, pair = i % 2 * 2;
                    weights[group][i % 4] = narrow_pair(scores[group][block][pair], scores[group][block][pair + 1]);
                    dweights[group][i % 4] = narrow_pair(dscores[group][block][pair], dscores[group][block][pair + 1]);
                    const u32 to = score_offset(own + group * GROUP + i % 2 * 8, lane / 4, place / 8 + block);
                    sts(scores_tile + to + lane % 4 * 4, dweights[group][i % 4]);
                }
                add_weighted(value_sums, weights, gradient_tile, place);
                add_weighted(key_sums, dweights, tile, place);
            }
            // All of dS^T is there, and everybody has left this tile.
            __syncthreads();
#pragma unroll 1
            for (u32 share = warp; share < SHARES; share += warps) {
                const u32 place = share % (QUERIES / GROUP) * GROUP, first_column = share / (QUERIES / GROUP) * COLUMNS;
                const u32 first_of_group = first_query + place;
                if (first_of_group >= queries.count) continue;
                const u32 visible = sequence.visible(call, first_of_group, GROUP);
                // Another round has had all keys that they see.
                if (first > 0 && visible <= first) continue;
                // In the order of the registers: nobody else reads them.
                const u32 turn = first_query / QUERIES * SHARES + share;
                const u32 place_of_sums = kept_sums + (turn * (COLUMNS / 8 * WARP) + lane) * 16;
                float sums[COLUMNS / 8][4] = {};
                if (first > 0 && keeps) {
#pragma unroll
                    for (u32 j = 0; j < COLUMNS / 8; ++j) {
                        const float4 before = lds_128(place_of_sums + j * WARP * 16);
                        sums[j][0] = before.x, sums[j][1] = before.y, sums[j][2] = before.z, sums[j][3] = before.w;
                    }
                }
                sum_over_keys(sums, scores_tile, key_tile, smaller(visible - first, rows), place, first_column);
                if (visible > first + rows && keeps) {
#pragma unroll
                    for (u32 j = 0; j < COLUMNS / 8; ++j) {
                        sts_128(place_of_sums + j * WARP * 16, bits_of(sums[j][0]), bits_of(sums[j][1]),
                                bits_of(sums[j][2]), bits_of(sums[j][3]));
                    }
                    continue;
                }
                T* to = dquery + (u64)(queries.first + first_of_group) * query_stride + column;
                store_rows(call, sums, scale, scale, to, query_stride, queries.count - first_of_group,
                           accumulate_query || (first > 0 && !keeps), tile + place * ROW_BYTES, first_column);
            }
            // The next tile is there, and everybody has left dS^T.
            wait_for_copies();
        }
#pragma unroll
        for (u32 group = 0; group < GROUPS; ++group) {
            const u32 first_of_group = first_own + group * GROUP, staging = (own + group * GROUP) * ROW_BYTES;
            if (first_of_group >= keys.count) continue;
            const u32 count = keys.count - first_of_group;
            const u64 to = (u64)(keys.first + first_of_group) * key_stride + column;
            store_rows(call, key_sums[group], scale, scale, dkey + to, key_stride, count, accumulate_key != 0,
                       key_tile + staging);
            store_rows(call, value_sums[group], 1.0f, 1.0f, dvalue + to, key_stride, count, accumulate_key != 0,
                       value_tile + staging);
        }
        first += rows;
        // Everybody has left the shared memory.
        if (first < keys.count) __syncthreads();
    } while (first < keys.count);
}
