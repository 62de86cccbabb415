// The epilogue of matmul_sm90, as that of epilogue.cuh, but from registers to memory and back: shared memory, which would make
// whole rows out of what lanes own, is what wgmma is short of.
//
// A lane owns pairs of columns of m16n8 accumulators. Of f32 four lanes have a sector of 32 bytes; of bf16 they have two half
// sectors in two neighbouring accumulators, and neighbouring lanes exchange half of those, so that each has 8 bytes and the
// four a sector again. What is read of C's shape takes the way back. A warp takes its rows in strips of 16 rows by 256 bytes:
// what a strip reads first is fetched while the product is still under way, or the strip before is worked on.

constexpr u32 STRIP_COLUMNS = 256 / sizeof(Output);
constexpr u32 STRIP_SUMS = STRIP_COLUMNS / 2;  // accumulators of a lane
constexpr u32 UNITS = 16;                      // of 8 bytes that a lane moves: of each a row of the upper half and of the lower
constexpr u32 UNIT_SUMS = OUTPUT_BF16 ? 8 : 4; // sums of two units: of one accumulator, or of two

// What a lane moves of a strip, in the order of its accumulators.
using Units = u32[UNITS][2];

// A strip of C: its first row and column.
struct Strip {
    u32 row, column;
};

// A lane's places in a strip. Its number is read anew for each, or the compiler would keep all that follows from it in
// registers while products need them.
struct Lane {
    u32 index, row, column;

    DEVICE explicit Lane(Strip strip) {
        asm volatile("mov.u32 %0, %%laneid;" : "=r"(index));
        row = strip.row + index / 4;
        column = strip.column + (OUTPUT_BF16 ? index % 2 * 8 + index % 4 / 2 * 4 : index % 4 * 2);
    }

    // Whether a unit lies in C, and where.
    DEVICE bool has(const Epilogue& e, u32 unit) const {
        return row + unit % 2 * 8 < e.m && column + unit / 2 * (OUTPUT_BF16 ? 16 : 8) < e.n;
    }
    DEVICE u64 place(const Epilogue& e, u32 unit) const {
        return (u64)(row + unit % 2 * 8) * e.n + column + unit / 2 * (OUTPUT_BF16 ? 16 : 8);
    }
};

// The matrix of C's shape that an epilogue reads before it writes any, or null.
DEVICE const Output* first_read(const Epilogue& e) {
    if (EPILOGUE == ACTIVATE) return nullptr;
    if (EPILOGUE == ACTIVATION_BACKWARD) return e.side;
    return e.residual ? e.residual : e.accumulate ? e.out : nullptr;
}

DEVICE void fetch(Units& units, const Epilogue& e, const Output* matrix, Strip strip) {
    const Lane lane(strip);
#pragma unroll
    for (u32 unit = 0; unit < UNITS; ++unit) {
        uint2 words = make_uint2(0, 0);
        if (lane.has(e, unit)) words = *reinterpret_cast<const uint2*>(matrix + lane.place(e, unit));
        units[unit][0] = words.x, units[unit][1] = words.y;
    }
}

// Of two words of each of two neighbouring lanes, the first of both to the first lane and the second to the second; it is its
// own inverse.
DEVICE void exchange_words(u32& first, u32& second, u32 lane) {
    const bool odd = lane % 2;
    const u32 other = __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
    (odd ? first : second) = other;
}

// Calls `use(sum, value)` for each of a lane's sums with what was fetched for its place.
template <class Use> DEVICE void with_fetched(const Units& units, float* sums, Use use) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 unit = 0; unit < UNITS; ++unit) {
        u32 words[2] = {units[unit][0], units[unit][1]};
        float* upper = sums + unit / 2 * UNIT_SUMS + unit % 2 * 2;
        if constexpr (OUTPUT_BF16) {
            exchange_words(words[0], words[1], lane);
#pragma unroll
            for (u32 block = 0; block < 2; ++block) {
                use(upper[block * 4], __uint_as_float(words[block] << 16));
                use(upper[block * 4 + 1], __uint_as_float(words[block] & 0xffff0000u));
            }
        } else {
            use(upper[0], __uint_as_float(words[0]));
            use(upper[1], __uint_as_float(words[1]));
        }
    }
}

// Rounds a lane's sums, writes them to their strip of a matrix, and calls `then(sum, value)` for each with what it became.
template <class Then>
DEVICE void write_strip(const Epilogue& e, float* sums, Output* matrix, Strip strip, Then then) {
    const Lane lane(strip);
#pragma unroll
    for (u32 unit = 0; unit < UNITS; ++unit) {
        float* upper = sums + unit / 2 * UNIT_SUMS + unit % 2 * 2;
        u32 words[2];
        if constexpr (OUTPUT_BF16) {
#pragma unroll
            for (u32 block = 0; block < 2; ++block) {
                words[block] = narrow_pair(upper[block * 4], upper[block * 4 + 1]);
                then(upper[block * 4], __uint_as_float(words[block] << 16));
                then(upper[block * 4 + 1], __uint_as_float(words[block] & 0xffff0000u));
            }
            exchange_words(words[0], words[1], lane.index);
        } else {
            words[0] = bits_of(upper[0]), words[1] = bits_of(upper[1]);
            then(upper[0], upper[0]);
            then(upper[1], upper[1]);
        }
        if (lane.has(e, unit)) stg_64(matrix + lane.place(e, unit), __uint_as_float(words[0]), __uint_as_float(words[1]));
    }
}

// The bias of a lane's pairs of columns of `COUNT` accumulators from column `column` of C on.
template <u32 COUNT> DEVICE void fetch_bias(u32 (&pairs)[COUNT][2], const Epilogue& e, u32 column) {
    column += threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 block = 0; block < COUNT; ++block) {
        float2 pair = make_float2(0.0f, 0.0f);
        if (column + block * 8 < e.n) pair = *reinterpret_cast<const float2*>(e.bias + column + block * 8);
        pairs[block][0] = __float_as_uint(pair.x), pairs[block][1] = __float_as_uint(pair.y);
    }
}

template <u32 COUNT> DEVICE void add_bias(float* sums, const u32 (&pairs)[COUNT][2]) {
#pragma unroll
    for (u32 i = 0; i < COUNT * 4; ++i) sums[i] += __uint_as_float(pairs[i / 4][i % 2]);
}

// The bias of a strip lies where there are no units.
using Bias = u32[STRIP_COLUMNS / 8][2];
static_assert(sizeof(Bias) <= sizeof(Units), "room for the bias");
DEVICE Bias& bias_in(Units& units) { return reinterpret_cast<Bias&>(units); }

// Begins to read what the epilogue of a strip needs first: values of a matrix, or if there are none the bias.
DEVICE void begin_strip(Units& units, const Epilogue& e, Strip strip) {
    if (const Output* first = first_read(e)) fetch(units, e, first, strip);
    else if (e.bias) fetch_bias(bias_in(units), e, strip.column);
}

// Finishes `STRIPS` strips of which `strip_of(index)` tells the places; the first of them has begun.
// `sums` are a lane's accumulators, those of each strip after those of the one before.
template <u32 STRIPS, class Place>
DEVICE void finish_strips(const Epilogue& e, float* sums, Units& units, Place strip_of) {
    const Output* first = first_read(e);
    const auto nothing = [](float&, float) {};
#pragma unroll
    for (u32 index = 0; index < STRIPS; ++index) {
        float* of_strip = sums + index * STRIP_SUMS;
        const Strip strip = strip_of(index);
        if (e.bias && !first) {
            if (index > 0 && strip.column != strip_of(index - 1).column) fetch_bias(bias_in(units), e, strip.column);
            add_bias(of_strip, bias_in(units));
        } else if (e.bias) {
            // A few columns at a time: there are no registers for more.
            constexpr u32 COUNT = 8;
#pragma unroll
            for (u32 block = 0; block < STRIP_COLUMNS / 8; block += COUNT) {
                u32 pairs[COUNT][2];
                fetch_bias(pairs, e, strip.column + block * 8);
                add_bias(of_strip + block * 4, pairs);
                asm volatile("" ::: "memory");
            }
        }
        if constexpr (EPILOGUE == ACTIVATE) {
            // The activation is that of the value as it is kept. To the result nothing is added.
            write_strip(e, of_strip, e.side, strip, [](float& sum, float kept) { sum = activation<ACTIVATION>(kept); });
        } else {
            const auto add = [](float& sum, float value) { sum += value; };
            if constexpr (EPILOGUE == ACTIVATION_BACKWARD) {
                with_fetched(units, of_strip, [](float& sum, float z) { sum *= activation_derivative<ACTIVATION>(z); });
            } else if (first) {
                with_fetched(units, of_strip, add);
            }
            if (first && index + 1 < STRIPS) fetch(units, e, first, strip_of(index + 1));
            // A residual is read before the same elements are written: it may be in place.
            const Output* added[2] = {e.residual, e.accumulate ? e.out : nullptr};
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                if (!added[i] || added[i] == first) continue;
                Units others;
                fetch(others, e, added[i], strip);
                with_fetched(others, of_strip, add);
            }
        }
        write_strip(e, of_strip, e.out, strip, nothing);
    }
}
