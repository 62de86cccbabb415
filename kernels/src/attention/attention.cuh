// What the kernels of attention share: which rows belong to a sequence, tiles of rows in shared memory, the two products,
// the mask, and the way back to memory.
//
// Constants: BF16 (storage of queries, keys, values, results and their gradients), DIM (columns of a head with padding: 32,
// 64, 96 or 128).
//
// A block works on one head of one sequence. Each of its warps owns 16 rows of one side, queries or keys (or 32 keys, in
// `attention_backward_whole.cu`), whose results it keeps in registers; the rows of the other side pass through shared memory
// in tiles, of which the next is under way while one is worked on. Both products of a step multiply 16 own rows with 16 rows
// of a tile, so that what a sequence's end or a causal mask leaves out is skipped in steps of 16. Results are summed in the
// order of the rows, by one warp.
//
// bf16 goes through ldmatrix and mma.sync. f32 is multiplied and added in f32 by lanes that own the same elements as in
// mma.sync: rows lane / 4 + {0, 8} and columns 2 (lane % 4) + {0, 1} + 8 j of a product, in its elements 2 half + {0, 1}.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 MOST_WARPS = 4;
constexpr u32 GROUP = 16;              // rows of a warp, and of a tile in one step
constexpr u32 CHUNK = 16 / sizeof(T);  // elements of 16 bytes
constexpr u32 CHUNKS = DIM / CHUNK;    // of a row
constexpr u32 ROW_BYTES = DIM * sizeof(T);
constexpr u32 TILE = BF16 ? 64 : 32;  // rows of a tile
constexpr u32 TILE_BYTES = TILE * ROW_BYTES;
constexpr float LN_2 = 0.693147181f;
constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000u);
static_assert(DIM % 32 == 0 && DIM <= 128, "head dimensions");

enum Flags {
    SHARED_QUERY = 1,  // one block of queries for all sequences
    CAUSAL = 2,
    PACKED = 4,        // heads, rows and addresses are multiples of 16 bytes
};

enum KeyBits { SEEN_LATER = 1, SEEN_BY_ITSELF = 2 };

struct Call {
    const T *query, *key, *value;            // columns of the first head
    const int *query_offsets, *key_offsets;  // null where all sequences have the same length
    const u8* bits;                          // one for each row of keys, or null
    u32 heads, dim;
    u32 query_length, key_length;            // rows of a sequence without offsets
    u32 query_stride, key_stride;            // elements from one row to the next
    float scale;
    u32 flags;

    DEVICE bool is(Flags flag) const { return flags & flag; }
    DEVICE u32 width() const { return heads * dim; }
};

struct Rows {
    u32 first, count;
};

DEVICE Rows rows_of(const int* offsets, u32 length, u32 sequence) {
    if (!offsets) return {sequence * length, length};
    return {(u32)offsets[sequence], (u32)(offsets[sequence + 1] - offsets[sequence])};
}

// The rows of a sequence.
struct Sequence {
    Rows queries, keys;
    u32 first_result;  // row of the results of its first query

    DEVICE Sequence(const Call& call, u32 index) {
        const Rows results = rows_of(call.query_offsets, call.query_length, index);
        queries = {call.is(SHARED_QUERY) ? 0 : results.first, results.count};
        keys = rows_of(call.key_offsets, call.key_length, index);
        first_result = results.first;
    }

    // How many keys the 16 or more queries from `first` on may see.
    DEVICE u32 visible(const Call& call, u32 first, u32 count) const {
        if (first >= queries.count) return 0;
        return call.is(CAUSAL) ? smaller(keys.count, first + count) : keys.count;
    }

    // How many keys all queries from `first` on see: others need a look at the mask.
    DEVICE u32 seen_by_all(const Call& call, u32 first) const {
        if (call.bits) return 0;
        return call.is(CAUSAL) ? smaller(keys.count, first + 1) : keys.count;
    }
};

// Whether a query sees a key, both counted in their sequence.
DEVICE bool sees(const Call& call, const Sequence& sequence, u32 query, u32 key) {
    if (key >= sequence.keys.count) return false;
    if (!call.is(CAUSAL)) return true;
    if (key > query || !call.bits) return key <= query;
    return call.bits[sequence.keys.first + key] & (key == query ? SEEN_BY_ITSELF : SEEN_LATER);
}

// Byte offset of a chunk in a tile. Chunks are permuted so that the 8 rows of an ldmatrix, or of a quarter warp, lie in
// different banks: with rows of a multiple of 128 bytes by the row, else, where rows alternate between the halves of the
// banks, by every second row.
DEVICE u32 offset(u32 row, u32 chunk) {
    return row * ROW_BYTES + ((chunk ^ (CHUNKS % 8 == 0 ? row & 7 : row >> 1 & 3)) << 4);
}

// As above, of a row behind the first of 8, whose part of the address does not depend on the lane.
DEVICE u32 offset(u32 first, u32 row, u32 chunk) { return first * ROW_BYTES + offset(row, chunk); }

// 16 bytes of a row from a column on to shared memory, zeros where there are no columns.
template <bool IS_PACKED> DEVICE void copy_chunk(const Call& call, u32 to, const T* row, u32 column, bool inside) {
    if constexpr (IS_PACKED) {
        cp_async_16(to, row + column, inside && column < call.dim);
    } else {
        constexpr u32 ELEMENTS = 4 / sizeof(T);
#pragma unroll 1
        for (u32 word = 0; word < 4; ++word) {
            u32 bits = 0;
#pragma unroll
            for (u32 i = 0; i < ELEMENTS; ++i) {
                const u32 place = column + word * ELEMENTS + i;
                if (inside && place < call.dim) bits |= bits_of(row[place]) << i * 16;
            }
            sts(to + word * 4, bits);
        }
    }
}

// A head's columns of rows in memory.
struct Matrix {
    const T* rows;
    u32 stride;
};

template <bool IS_PACKED>
DEVICE void copy_chunks(
    const Call& call, u32 tile, const Matrix& matrix, u32 other_tile, const Matrix& other, u32 count, u32 chunks) {
#pragma unroll 1
    for (u32 index = threadIdx.x; index < chunks; index += blockDim.x) {
        const u32 row = index / CHUNKS, chunk = index % CHUNKS, place = offset(row, chunk);
        const bool inside = row < count;
        const u64 from = inside ? row : 0;
        copy_chunk<IS_PACKED>(call, tile + place, matrix.rows + from * matrix.stride, chunk * CHUNK, inside);
        if (!other.rows) continue;
        copy_chunk<IS_PACKED>(call, other_tile + place, other.rows + from * other.stride, chunk * CHUNK, inside);
    }
}

// Copies `count` rows of a head of two matrices, at most `capacity`, to two tiles, and zeros behind them up to a multiple of
// 16 rows, or, of rows that warps own, up to the capacity. The block calls this together.
template <bool OWNED = false>
DEVICE void fill(
    const Call& call, u32 tile, const Matrix& matrix, u32 other_tile, const Matrix& other, u32 count, u32 capacity) {
    const u32 chunks = (OWNED ? capacity : smaller(capacity, divide_up(count, GROUP) * GROUP)) * CHUNKS;
    if (call.is(PACKED)) copy_chunks<true>(call, tile, matrix, other_tile, other, count, chunks);
    else copy_chunks<false>(call, tile, matrix, other_tile, other, count, chunks);
}

// Until all that the block has begun to copy is there.
DEVICE void wait_for_copies() {
    cp_async_commit_group();
    cp_async_wait_group<0>();
    __syncthreads();
}

// The 16 rows of a tile that a warp multiplies with: HELD in registers, or read again for each product.
template <bool HELD> struct Operand {
    static constexpr u32 STEPS = HELD && BF16 ? DIM / 16 : 1;
    u32 tile, first, chunks;
    u32 fragments[STEPS][4];

    DEVICE Operand(const Call& call, u32 tile, u32 first) : tile(tile), first(first), chunks(divide_up(call.dim, CHUNK)) {
        if constexpr (HELD && BF16) {
#pragma unroll
            for (u32 step = 0; step < STEPS; ++step) read(fragments[step], step);
        }
    }

    // In the order of the registers of mma.sync: rows 0-7 and 8-15 at columns 0-7, then at columns 8-15. Of `group` 1 are
    // the 16 rows behind.
    DEVICE void read(u32 (&fragment)[4], u32 step, u32 group = 0) const {
        const u32 lane = threadIdx.x % WARP, matrix = lane / 8, row = matrix % 2 * 8 + lane % 8;
        ldmatrix_x4(fragment, tile + offset(first + group * GROUP, row, step * 2 + matrix / 2));
    }
};

DEVICE float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// The dot products of the operand's rows with 16 rows of a tile.
template <bool HELD>
DEVICE void dot_products(float (&products)[2][4], const Operand<HELD>& left, u32 tile, u32 first) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 block = 0; block < 2; ++block) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) products[block][i] = 0.0f;
    }
    if constexpr (BF16) {
        const u32 matrix = lane / 8;
#pragma unroll
        for (u32 step = 0; step < DIM / 16; ++step) {
            u32 a[4], b[4];
            if constexpr (HELD) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) a[i] = left.fragments[step][i];
            } else {
                left.read(a, step);
            }
            // Rows 0-7 of the tile's at columns 0-7 and 8-15, then rows 8-15.
            ldmatrix_x4(b, tile + offset(first, matrix / 2 * 8 + lane % 8, step * 2 + matrix % 2));
            mma_m16n8k16_bf16(products[0], a, b[0], b[1]);
            mma_m16n8k16_bf16(products[1], a, b[2], b[3]);
        }
    } else {
        const u32 own = left.first + lane / 4, other = first + lane % 4 * 2;
#pragma unroll 1
        for (u32 chunk = 0; chunk < left.chunks; ++chunk) {
            const float4 upper = lds_128(left.tile + offset(own, chunk));
            const float4 lower = lds_128(left.tile + offset(own + 8, chunk));
#pragma unroll
            for (u32 block = 0; block < 2; ++block) {
#pragma unroll
                for (u32 c = 0; c < 2; ++c) {
                    const float4 row = lds_128(tile + offset(other + block * 8 + c, chunk));
                    products[block][c] = dot(upper, row, products[block][c]);
                    products[block][2 + c] = dot(lower, row, products[block][2 + c]);
                }
            }
        }
    }
}

// Adds 16 rows of a tile, each times the weights of the warp's rows, to the sums of these.
DEVICE void add_weighted(float (&sums)[DIM / 8][4], const float (&weights)[2][4], u32 tile, u32 first) {
    const u32 lane = threadIdx.x % WARP;
    if constexpr (BF16) {
        // A product's elements are where mma.sync wants those of its left operand.
        const u32 a[4] = {narrow_pair(weights[0][0], weights[0][1]), narrow_pair(weights[0][2], weights[0][3]),
                          narrow_pair(weights[1][0], weights[1][1]), narrow_pair(weights[1][2], weights[1][3])};
        const u32 matrix = lane / 8;
#pragma unroll
        for (u32 block = 0; block < DIM / 8; block += 2) {
            u32 b[4];
            ldmatrix_x4_trans(b, tile + offset(first, matrix % 2 * 8 + lane % 8, block + matrix / 2));
            mma_m16n8k16_bf16(sums[block], a, b[0], b[1]);
            mma_m16n8k16_bf16(sums[block + 1], a, b[2], b[3]);
        }
    } else {
#pragma unroll 1
        for (u32 pair = 0; pair < 8; ++pair) {
#pragma unroll
            for (u32 c = 0; c < 2; ++c) {
                // A row's weights are spread over the four lanes that own it.
                const u32 owner = pair % 4, row = first + pair * 2 + c;
                const float upper = __shfl_sync(0xffffffffu, pair < 4 ? weights[0][c] : weights[1][c], owner, 4);
                const float lower = __shfl_sync(0xffffffffu, pair < 4 ? weights[0][2 + c] : weights[1][2 + c], owner, 4);
#pragma unroll
                for (u32 j = 0; j < DIM / 8; ++j) {
                    const float2 values = lds_64(tile + offset(row, j * 2 + lane % 4 / 2) + lane % 2 * 8);
                    sums[j][0] = fmaf(upper, values.x, sums[j][0]);
                    sums[j][1] = fmaf(upper, values.y, sums[j][1]);
                    sums[j][2] = fmaf(lower, values.x, sums[j][2]);
                    sums[j][3] = fmaf(lower, values.y, sums[j][3]);
                }
            }
        }
    }
}

// The sum and the largest over the four lanes that own a row, in each of them.
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

DEVICE float quad_largest(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Byte offset of a chunk in rows on their way out, permuted for the pairs of columns of a product: in f32 a half warp writes
// two chunks of four rows.
DEVICE u32 staging_offset(u32 row, u32 chunk) {
    return BF16 ? offset(row, chunk) : row * ROW_BYTES + ((chunk ^ (row & 3) << 1) << 4);
}

// Writes the first `count` of a warp's 16 rows of sums, times a factor for the upper and for the lower 8. Four lanes have
// only 8 columns of a row: rows are brought together in `staging`, shared memory for 16 rows, of which these columns are
// the warp's own.
template <u32 N>
DEVICE void store_rows(const Call& call, const float (&sums)[N][4], float factor_of_upper, float factor_of_lower,
                       T* to, u32 stride, u32 count, bool accumulate, u32 staging, u32 first_column = 0) {
    constexpr u32 WIDTH = N * 8 / CHUNK;  // chunks of a row of sums
    // Rows that are read together with one where a row has fewer chunks than in a tile, and their distance, at which they
    // lie in other banks.
    constexpr u32 TOGETHER = CHUNKS / WIDTH, APART = 8 / TOGETHER;
    const u32 lane = threadIdx.x % WARP, first_chunk = first_column / CHUNK;
    __syncwarp();
#pragma unroll
    for (u32 j = 0; j < N; ++j) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 row = half * 8 + lane / 4;
            const float factor = half ? factor_of_lower : factor_of_upper;
            const float first = sums[j][half * 2] * factor, second = sums[j][half * 2 + 1] * factor;
            if constexpr (BF16) {
                sts(staging + staging_offset(row, first_chunk + j) + lane % 4 * 4, narrow_pair(first, second));
            } else {
                sts_64(staging + staging_offset(row, first_chunk + j * 2 + lane % 4 / 2) + lane % 2 * 8, first, second);
            }
        }
    }
    __syncwarp();
    const auto row_of = [](u32 index) {
        const u32 turn = index / WIDTH;
        return turn / 8 * 8 + turn % TOGETHER * APART + turn % 8 / TOGETHER;
    };
    if (call.is(PACKED) && !accumulate) {
#pragma unroll 4
        for (u32 first = 0; first < GROUP * WIDTH; first += WARP) {
            const u32 row = row_of(first + lane), chunk = first_chunk + (first + lane) % WIDTH, column = chunk * CHUNK;
            if (row >= count || column >= call.dim) continue;
            const float4 words = lds_128(staging + staging_offset(row, chunk));
            stg_128(to + (u64)row * stride + column, bits_of(words.x), bits_of(words.y), bits_of(words.z), bits_of(words.w));
        }
        return;
    }
#pragma unroll 1
    for (u32 index = lane; index < GROUP * WIDTH; index += WARP) {
        const u32 row = row_of(index), chunk = first_chunk + index % WIDTH, column = chunk * CHUNK;
        if (row >= count || column >= call.dim) continue;
        const float4 words = lds_128(staging + staging_offset(row, chunk));
        const Pack<T, CHUNK> pack = {bits_of(words.x), bits_of(words.y), bits_of(words.z), bits_of(words.w)};
        T* place = to + (u64)row * stride + column;
        float values[CHUNK];
        unpack(values, pack);
        if (call.is(PACKED)) {
            float before[CHUNK];
            load(before, place);
#pragma unroll
            for (u32 i = 0; i < CHUNK; ++i) values[i] += before[i];
            store(place, values);
        } else {
#pragma unroll
            for (u32 i = 0; i < CHUNK; ++i) {
                if (column + i < call.dim) place[i] = narrow<T>(values[i] + (accumulate ? widen(place[i]) : 0.0f));
            }
        }
    }
}
