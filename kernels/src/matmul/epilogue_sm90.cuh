// The epilogue of matmul_sm90: a warp takes its rows of C in strips of 16 rows by 256 bytes.
//
// On their way through the warp's own 4 KB of shared memory, what lanes own by pairs of columns becomes 16 bytes a lane, two
// whole rows of the strip at a time, and what is read of C's shape takes the way back. That is fetched while the product is
// still under way, and of the next strip while one is worked on: else its latency would be most of an epilogue's time.

constexpr u32 STRIP_COLUMNS = 256 / sizeof(Output);
constexpr u32 STRIP_SUMS = STRIP_COLUMNS / 2;        // accumulators of a lane
constexpr u32 STRIP_BYTES = 16 * 256;
constexpr u32 PIECE = 16 / sizeof(Output);           // elements of 16 bytes
constexpr u32 PIECES = 8;                            // of a lane
constexpr u32 BLOCKS_N = STRIP_COLUMNS / 8;          // m16n8 accumulators side by side

// Byte offset of a strip's 16-byte chunk. Permuted so that no access conflicts: of bf16 the 8 rows of a matrix that
// stmatrix writes lie in different banks; of f32 the two chunks of 4 rows that a half warp's pairs go to do. All bits are
// exclusive ors of those of row and chunk: the offset of a lane and that of a step are computed apart and joined by one.
DEVICE constexpr u32 strip_offset(u32 row, u32 chunk) {
    return row * 256 + ((chunk ^ (OUTPUT_BF16 ? row & 7 : (row & 3) << 1)) << 4);
}

// What a lane has of a strip in whole rows.
using Pieces = u32[PIECES][4];

// What a lane is in an epilogue. Read anew for each, or the compiler would keep all that follows from it in registers while
// products need them.
DEVICE u32 lane_of_epilogue() {
    u32 lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

// A warp's staging, and the offsets of a lane in it: of its first piece, and of what it addresses of its first block, the row
// of a matrix or in f32 its pair of the upper half.
struct Staging {
    u32 base, lane, piece, fragment;

    DEVICE explicit Staging(u32 base) : base(base), lane(lane_of_epilogue()) {
        piece = strip_offset(lane / 16, lane % 16);
        fragment =
            OUTPUT_BF16 ? strip_offset(lane % 16, lane / 16) : strip_offset(lane / 4, lane % 4 / 2) | lane % 2 * 8;
    }

    DEVICE u32 piece_at(u32 index) const { return base + (piece ^ strip_offset(index * 2, 0)); }
    DEVICE u32 matrices_at(u32 block) const { return base + (fragment ^ strip_offset(0, block)); }
    DEVICE u32 pair_at(u32 block, u32 half) const { return base + (fragment ^ strip_offset(half * 8, block * 2)); }
};

// A strip of C: its first row and column.
struct Strip {
    u32 row, column;

    // The place of a lane's first piece; each next one is two rows further.
    DEVICE u64 first_piece(const Epilogue& e, u32 lane) const {
        return (u64)(row + lane / 16) * e.n + column + lane % 16 * PIECE;
    }
    // Pieces of the lane that lie in C.
    DEVICE u32 pieces(const Epilogue& e, u32 lane) const {
        const u32 first = row + lane / 16;
        return column + lane % 16 * PIECE < e.n && first < e.m ? divide_up(e.m - first, 2) : 0;
    }
};

// The matrix of C's shape that an epilogue reads before it writes any, or null.
DEVICE const Output* first_read(const Epilogue& e) {
    if (EPILOGUE == ACTIVATE) return nullptr;
    if (EPILOGUE == ACTIVATION_BACKWARD) return e.side;
    return e.residual ? e.residual : e.accumulate ? e.out : nullptr;
}

DEVICE void fetch(Pieces& pieces, const Epilogue& e, const Output* matrix, Strip strip, u32 lane) {
    const Output* from = matrix + strip.first_piece(e, lane);
    const u32 count = strip.pieces(e, lane);
#pragma unroll
    for (u32 piece = 0; piece < PIECES; ++piece) {
        uint4 words = make_uint4(0, 0, 0, 0);
        if (piece < count) words = *reinterpret_cast<const uint4*>(from);
        from += e.n * 2;
        pieces[piece][0] = words.x, pieces[piece][1] = words.y, pieces[piece][2] = words.z, pieces[piece][3] = words.w;
    }
}

// A lane's sums of one step: so many blocks that there is work while results of some are waited for.
constexpr u32 STEP = 4;
using Sums = float[STEP * 4];

// Takes those of the step at `first` out of the staging, and puts them there, rounded.
DEVICE void take(Sums& sums, const Staging& staging, u32 first) {
#pragma unroll
    for (u32 block = 0; block < STEP; block += 2) {
        float* of_blocks = sums + block * 4;
        if constexpr (OUTPUT_BF16) {
            u32 words[4];
            ldmatrix_x4(words, staging.matrices_at(first + block));
#pragma unroll
            for (u32 word = 0; word < 4; ++word) {
                of_blocks[word * 2] = __uint_as_float(words[word] << 16);
                of_blocks[word * 2 + 1] = __uint_as_float(words[word] & 0xffff0000u);
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                const float2 pair = lds_64(staging.pair_at(first + block + i / 2, i % 2));
                of_blocks[i * 2] = pair.x, of_blocks[i * 2 + 1] = pair.y;
            }
        }
    }
}

DEVICE void put(const float* sums, const Staging& staging, u32 first) {
#pragma unroll
    for (u32 block = 0; block < STEP; block += 2) {
        const float* of_blocks = sums + block * 4;
        if constexpr (OUTPUT_BF16) {
            u32 words[4];
#pragma unroll
            for (u32 word = 0; word < 4; ++word) {
                words[word] = narrow_pair(of_blocks[word * 2], of_blocks[word * 2 + 1]);
            }
            stmatrix_x4(staging.matrices_at(first + block), words);
        } else {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                sts_64(staging.pair_at(first + block + i / 2, i % 2), of_blocks[i * 2], of_blocks[i * 2 + 1]);
            }
        }
    }
}

// Puts pieces into the staging, where all lanes find what is at the places of their sums.
DEVICE void spread(const Staging& staging, const Pieces& pieces) {
    __syncwarp();
#pragma unroll
    for (u32 piece = 0; piece < PIECES; ++piece) {
        const u32 (&words)[4] = pieces[piece];
        sts_128(staging.piece_at(piece), words[0], words[1], words[2], words[3]);
    }
    __syncwarp();
}

// Calls `use(sum, value)` for each of a lane's sums with what was spread to its place.
template <class Use> DEVICE void with_spread(const Staging& staging, float* sums, Use use) {
#pragma unroll
    for (u32 block = 0; block < BLOCKS_N; block += STEP) {
        Sums values;
        take(values, staging, block);
#pragma unroll
        for (u32 i = 0; i < STEP * 4; ++i) use(sums[block * 4 + i], values[i]);
    }
}

// Writes what lies in the staging to its strip of a matrix.
DEVICE void write_staged(const Epilogue& e, const Staging& staging, Output* matrix, Strip strip) {
    const u32 count = strip.pieces(e, staging.lane);
    Output* to = matrix + strip.first_piece(e, staging.lane);
    __syncwarp();
#pragma unroll
    for (u32 piece = 0; piece < PIECES; ++piece) {
        const float4 words = lds_128(staging.piece_at(piece));
        if (piece < count) stg_128(to, bits_of(words.x), bits_of(words.y), bits_of(words.z), bits_of(words.w));
        to += e.n * 2;
    }
    __syncwarp();
}

// Rounds the sums and writes them to their strip of a matrix.
DEVICE void write_sums(const Epilogue& e, const Staging& staging, const float* sums, Output* matrix, Strip strip) {
    __syncwarp();
#pragma unroll
    for (u32 block = 0; block < BLOCKS_N; block += STEP) put(sums + block * 4, staging, block);
    write_staged(e, staging, matrix, strip);
}

// Adds the bias to a lane's sums, half of a strip at a time: there are no registers for more.
DEVICE void add_bias(const Epilogue& e, float* sums, Strip strip, u32 lane) {
    constexpr u32 AT_ONCE = BLOCKS_N / 2;
#pragma unroll
    for (u32 first = 0; first < BLOCKS_N; first += AT_ONCE) {
        float bias[AT_ONCE][2];
#pragma unroll
        for (u32 block = 0; block < AT_ONCE; ++block) {
            const u32 column = strip.column + (first + block) * 8 + lane % 4 * 2;
            bias[block][0] = bias[block][1] = 0.0f;
            if (column < e.n) load(bias[block], e.bias + column);
        }
#pragma unroll
        for (u32 i = 0; i < AT_ONCE * 4; ++i) sums[first * 4 + i] += bias[i / 4][i % 2];
        asm volatile("" ::: "memory");
    }
}

// Finishes `STRIPS` strips of which `strip_of(index)` tells the places; `pieces` are of what is read first of the first.
// `sums` are a lane's accumulators, those of each strip after those of the one before.
template <u32 STRIPS, class Place>
DEVICE void finish_strips(const Epilogue& e, const Staging& staging, float* sums, Pieces& pieces, Place strip_of) {
    const Output* first = first_read(e);
#pragma unroll
    for (u32 index = 0; index < STRIPS; ++index) {
        float* of_strip = sums + index * STRIP_SUMS;
        const Strip strip = strip_of(index);
        if (first) {
            spread(staging, pieces);
            if (index + 1 < STRIPS) fetch(pieces, e, first, strip_of(index + 1), staging.lane);
        }
        if (e.bias) add_bias(e, of_strip, strip, staging.lane);
        if constexpr (EPILOGUE == ACTIVATION_BACKWARD) {
            with_spread(staging, of_strip, [](float& sum, float z) { sum *= activation_derivative<ACTIVATION>(z); });
        }
        if constexpr (EPILOGUE == ACTIVATE) {
            // The activation is that of the value as it is kept. To the result nothing is added.
            write_sums(e, staging, of_strip, e.side, strip);
#pragma unroll
            for (u32 block = 0; block < BLOCKS_N; block += STEP) {
                Sums values;
                take(values, staging, block);
                __syncwarp();
#pragma unroll
                for (u32 i = 0; i < STEP * 4; ++i) values[i] = activation<ACTIVATION>(values[i]);
                put(values, staging, block);
            }
            write_staged(e, staging, e.out, strip);
        } else {
            // A residual is read before the same elements are written: it may be in place.
            const Output* added[2] = {e.residual, e.accumulate ? e.out : nullptr};
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                if (!added[i]) continue;
                if (added[i] != first) {
                    Pieces others;
                    fetch(others, e, added[i], strip, staging.lane);
                    spread(staging, others);
                }
                with_spread(staging, of_strip, [](float& sum, float value) { sum += value; });
            }
            write_sums(e, staging, of_strip, e.out, strip);
        }
    }
}
