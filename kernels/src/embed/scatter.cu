// Rows of dy added to the gradients of the tables, by the order of their keys.
//
// Constants: BF16 (storage of dy). `packed` says that addresses are multiples of 16 bytes and n of 4.
//
// The ordered entries are cut into chunks of 32. A warp sums a chunk, for 32 packs of columns: a run of equal keys that
// lies in the chunk goes to its row of a gradient; what is part of a longer run goes to `parts` `[chunks, 2, n]`, first
// a run that began before, second one that begins here. A second launch adds up the parts of each long run. So each sum
// is taken in the order of the rows, by a division that depends on the entries alone, and frequent tokens and positions
// are shared by many warps.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 WIDTH = 4;  // packs are those of the f32 gradients
constexpr u32 CHUNK = WARP;
constexpr u32 NO_KEY = ~0u;
constexpr u32 BATCH = 4;   // rows of a warp under way at once
constexpr u32 BLOCKS = 4;  // that share a multiprocessor: together they have 32 KB of bf16 under way

struct Scatter {
    Entries entries;
    const u32* order;  // [entries]
    const T* dy;       // [rows, n]
    float *dtokens, *dtable, *dclass, *parts;
    u32 n;
};

DEVICE u32 key_at(const Scatter& s, u32 place) {
    return place < count_of(s.entries) ? key_of(s.entries, s.order[place]) : NO_KEY;
}

DEVICE float* part(const Scatter& s, u32 chunk, u32 which) { return s.parts + (u64)(2 * chunk + which) * s.n; }

// Adds to the row of a gradient that a key stands for; there is none behind the last.
template <u32 N> DEVICE void add_to_gradient(const Scatter& s, u32 key, u32 column, const float (&sum)[N]) {
    const Entries& e = s.entries;
    if (column >= s.n || key >= keys_of(e)) return;
    float* to = s.dclass;
    if (key > e.vocabulary) {
        to = s.dtable + (u64)(key - e.vocabulary - 1) * s.n;
    } else if (key > 0) {
        to = s.dtokens + (u64)(key - 1) * s.n;
    }
    write(to + column, sum, true);
}

template <u32 N> DEVICE void sum_chunk(const Scatter& s, u32 chunk, u32 column) {
    const u32 lane = lane_index(), first = chunk * CHUNK, rows = s.entries.rows;
    const u32 held = smaller(CHUNK, count_of(s.entries) - first);
    const u32 entry = lane < held ? s.order[first + lane] : 0, row = entry < rows ? entry : entry - rows;
    const u32 key = lane < held ? key_of(s.entries, entry) : NO_KEY;
    // The keys beside the chunk: in lane 0 that before it, in lane 31 that after it.
    const u32 beside = lane == 0 ? (first > 0 ? key_at(s, first - 1) : NO_KEY)
                                 : (lane == CHUNK - 1 ? key_at(s, first + CHUNK) : NO_KEY);
    const u32 previous = __shfl_up_sync(0xffffffffu, key, 1);
    // Bit l: a run begins at lane l.
    const u32 begins = __ballot_sync(0xffffffffu, key != (lane == 0 ? beside : previous));
    const bool goes_on = __shfl_sync(0xffffffffu, key == beside && key != NO_KEY, CHUNK - 1);
    float sum[N] = {};
    for (u32 start = 0; start < held; start += BATCH) {
        Pack<T, N> packs[BATCH];
#pragma unroll
        for (u32 k = 0; k < BATCH; ++k) {
            // Behind the last entry that is row 0, behind the last column column 0: read, but not used.
            const u64 from = __shfl_sync(0xffffffffu, row, start + k);
            packs[k] = load_pack<N>(s.dy + from * s.n + (column < s.n ? column : 0));
        }
#pragma unroll
        for (u32 k = 0; k < BATCH; ++k) {
            const u32 at = start + k;
            if (at >= held) break;
            float values[N];
            unpack(values, packs[k]);
#pragma unroll
            for (u32 i = 0; i < N; ++i) sum[i] += values[i];
            const bool last = at + 1 == held;
            if (last || (begins >> (at + 1) & 1)) {
                const bool began_before = (begins & ((2u << at) - 1)) == 0;
                if (began_before || (last && goes_on)) {
                    if (column < s.n) store(part(s, chunk, began_before ? 0 : 1) + column, sum);
                } else {
                    add_to_gradient(s, __shfl_sync(0xffffffffu, key, at), column, sum);
                }
#pragma unroll
                for (u32 i = 0; i < N; ++i) sum[i] = 0.0f;
            }
        }
    }
}

// If a run begins in the chunk and goes on behind it: the sum of its parts, to its gradient.
template <u32 N> DEVICE void combine_run(const Scatter& s, u32 chunk, u32 column) {
    const u32 first = chunk * CHUNK, next = first + CHUNK, key = key_at(s, next - 1);
    if (key == NO_KEY || key_at(s, next) != key || (first > 0 && key_at(s, first - 1) == key)) return;
    float sum[N] = {};
    if (column < s.n) load(sum, part(s, chunk, 1) + column);
    for (u32 start = chunk + 1;; start += WARP) {
        // Chunks that begin with the run.
        const u32 count = __popc(__ballot_sync(0xffffffffu, key_at(s, (start + lane_index()) * CHUNK) == key));
        if (column < s.n) {
#pragma unroll 8
            for (u32 other = start; other < start + count; ++other) {
                float values[N];
                load(values, part(s, other, 0) + column);
#pragma unroll
                for (u32 i = 0; i < N; ++i) sum[i] += values[i];
            }
        }
        if (count < WARP) break;
    }
    add_to_gradient(s, key, column, sum);
}

// The warps of a chunk, one for each strip of columns, are neighbours.
template <u32 N> DEVICE void scatter(const Scatter& s, bool combine) {
    const u32 strips = divide_up(s.n, WARP * N), chunk = row_of_warp() / strips;
    const u32 column = (row_of_warp() % strips * WARP + lane_index()) * N;
    if (chunk * CHUNK >= count_of(s.entries)) return;
    if (combine) {
        combine_run<N>(s, chunk, column);
    } else {
        sum_chunk<N>(s, chunk, column);
    }
}

// The sums of the chunks, and in a second launch those of the runs that are longer.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) embed_scatter(
    const u32* ids, const u32* at, const u32* order, const T* dy, float* dtokens, float* dtable, float* dclass,
    float* parts, u32 rows, u32 vocabulary, u32 positions, u32 n, u32 combine, u32 packed) {
    const Scatter s = {{ids, at, rows, vocabulary, positions}, order, dy, dtokens, dtable, dclass, parts, n};
    if (packed) {
        scatter<WIDTH>(s, combine);
    } else {
        scatter<1>(s, combine);
    }
}
