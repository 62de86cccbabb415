// Adafactor over flat arenas, in five launches: squares of the gradient by rows and columns; the means of columns, and of
// the row means; the size of each row's update; the learning rate of each parameter; the update.
//
// Constant: LENGTH (elements of a piece of the update). Every operation is rounded on its own and every sum taken in the order of the CPU's code, so that both give the same bits: a sum over a
// row has 16 interleaved parts, which are the lanes of half a warp; one over rows in f64 has 32.
//
// A factored parameter is a matrix with one second moment a row and one a column; of any other, every element has its own
// and rows are pieces of one length. Launches 1 to 3 read the gradient, those of a parameter one after another while it may still
// be in the L2 cache.

constexpr u32 HALF = WARP / 2;
constexpr u32 ROWS = THREADS / HALF;
constexpr float TINY = 1e-30f;

// A parameter, as the host lays it out.
struct Parameter {
    // First elements in the arenas, of second moments, of scratch.
    u64 first, second, scratch;
    u32 count, rows, columns, parts, factored;
    // This step's rate, and 1 - lr wd.
    float learning_rate, keep;
    u32 unused;
};

// What a step finds of a parameter.
struct Found {
    // Mean of the row means.
    double mean;
    // The rate that keeps the update below the threshold.
    float learning_rate;
    u32 unused;
};

// What all parameters share in a step.
struct Settings {
    float gradient, momentum, momentum_new, second, second_new;
    u32 unused;
    // 0: updates are as large as they are.
    double clip_threshold;
};

struct Arenas {
    const Piece* pieces;
    const Parameter* parameters;
    Found* found;
    float* master;
    const float* gradient;
    bf16* copy;
    float *momentum, *second, *scratch;
};

DEVICE float mul(float a, float b) { return __fmul_rn(a, b); }
DEVICE float add(float a, float b) { return __fadd_rn(a, b); }

DEVICE u32 aligned(u32 elements) { return divide_up(elements, 64) * 64; }

// Where the parts of a parameter's state lie.
DEVICE float* row_means(const Arenas& a, const Parameter& p) { return a.second + p.second; }
DEVICE float* column_means(const Arenas& a, const Parameter& p) { return a.second + p.second + aligned(p.rows); }
DEVICE float* partial_sums(const Arenas& a, const Parameter& p) { return a.scratch + p.scratch; }
DEVICE float* column_factors(const Arenas& a, const Parameter& p) {
    return partial_sums(a, p) + (u64)p.parts * p.columns;
}
// Of each row the sum of squares of its updates, behind them of a factored one the factor.
DEVICE float* row_sums(const Arenas& a, const Parameter& p) {
    return partial_sums(a, p) + (p.factored ? (u64)(p.parts + 1) * p.columns : 0);
}
DEVICE float* row_factors(const Arenas& a, const Parameter& p) { return row_sums(a, p) + p.rows; }

// The sum of term(i) over a row by half a warp, in all its lanes.
template <class Term> DEVICE float half_warp_sum(u32 count, Term term) {
    float sum = 0.0f;
#pragma unroll 4
    for (u32 i = threadIdx.x % HALF; i < count; i += HALF) sum = add(sum, term(i));
#pragma unroll
    for (u32 distance = HALF / 2; distance > 0; distance /= 2) {
        sum = add(sum, __shfl_xor_sync(0xffffffffu, sum, distance));
    }
    return sum;
}

// The sum of values over a warp, in f64 and in all lanes.
DEVICE double sum_of(const float* values, u32 count) {
    double sum = 0.0;
#pragma unroll 4
    for (u32 i = threadIdx.x % WARP; i < count; i += WARP) sum += (double)values[i];
    return warp_sum(sum);
}

DEVICE float square(float gradient, float factor) { return mul(mul(gradient, factor), mul(gradient, factor)); }

// The average of second moments, with a new value.
DEVICE float average(const Settings& s, float mean, float value) {
    return add(mul(s.second, mean), mul(s.second_new, value));
}

// Rows: the mean of their squares into its average; what is not factored takes every square into its own, and the size of
// the update is known already.
DEVICE void row_moments(const Arenas& a, const Parameter& p, const Settings& s, u32 piece) {
    const u32 row = piece * ROWS + threadIdx.x / HALF;
    const bool inside = row < p.rows;
    const u32 start = row * p.columns, count = inside ? smaller(p.columns, p.count - start) : 0;
    const float* gradient = a.gradient + p.first + start;
    if (p.factored) {
        const float total = half_warp_sum(count, [&](u32 i) { return square(gradient[i], s.gradient); });
        if (inside && threadIdx.x % HALF == 0) {
            float* mean = row_means(a, p) + row;
            *mean = average(s, *mean, add(__fdiv_rn(total, (float)p.columns), TINY));
        }
    } else {
        float* second = a.second + p.second + start;
        const float total = half_warp_sum(count, [&](u32 i) {
            const float g = mul(gradient[i], s.gradient), v = average(s, second[i], add(mul(g, g), TINY));
            second[i] = v;
            const float update = __fdiv_rn(g, __fsqrt_rn(v));
            return mul(update, update);
        });
        if (inside && threadIdx.x % HALF == 0) row_sums(a, p)[row] = total;
    }
}

// Columns of one part of the rows: sums of squares, a thread a column.
DEVICE void column_parts(const Arenas& a, const Parameter& p, const Settings& s, u32 piece) {
    const u32 blocks = divide_up(p.columns, THREADS), part = piece / blocks;
    const u32 column = piece % blocks * THREADS + threadIdx.x;
    if (column >= p.columns) return;
    const u32 length = divide_up(p.rows, p.parts);
    const u32 begin = smaller(part * length, p.rows), end = smaller(begin + length, p.rows);
    const float* gradient = a.gradient + p.first + column;
    float sum = 0.0f;
#pragma unroll 8
    for (u32 row = begin; row < end; ++row) sum = add(sum, square(gradient[(u64)row * p.columns], s.gradient));
    partial_sums(a, p)[(u64)part * p.columns + column] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) adafactor_squares(Arenas a, Settings s) {
    const Piece piece = a.pieces[blockIdx.x];
    const Parameter p = a.parameters[piece.row];
    const u32 rows = divide_up(p.rows, ROWS);
    if (piece.piece < rows) {
        row_moments(a, p, s, piece.piece);
    } else {
        column_parts(a, p, s, piece.piece - rows);
    }
}

// Of factored parameters: the first piece takes the mean of the row means, the others the means of columns into their
// averages, whose reciprocal roots are the factors.
extern "C" __global__ void __launch_bounds__(THREADS) adafactor_means(Arenas a, Settings s) {
    const Piece piece = a.pieces[blockIdx.x];
    const Parameter p = a.parameters[piece.row];
    if (piece.piece == 0) {
        if (threadIdx.x >= WARP) return;
        const double total = sum_of(row_means(a, p), p.rows);
        if (threadIdx.x == 0) a.found[piece.row].mean = __ddiv_rn(total, (double)p.rows);
        return;
    }
    const u32 column = (piece.piece - 1) * THREADS + threadIdx.x;
    if (column >= p.columns) return;
    float sum = 0.0f;
#pragma unroll 4
    for (u32 part = 0; part < p.parts; ++part) sum = add(sum, partial_sums(a, p)[(u64)part * p.columns + column]);
    float* mean = column_means(a, p) + column;
    const float after = average(s, *mean, add(mul(sum, __fdiv_rn(1.0f, (float)p.rows)), TINY));
    *mean = after;
    column_factors(a, p)[column] = __fdiv_rn(1.0f, __fsqrt_rn(after));
}

// Of factored parameters: each row's factor, and where updates are clipped their sum of squares.
extern "C" __global__ void __launch_bounds__(THREADS) adafactor_sizes(Arenas a, Settings s) {
    const Piece piece = a.pieces[blockIdx.x];
    const Parameter p = a.parameters[piece.row];
    const u32 row = piece.piece * ROWS + threadIdx.x / HALF;
    const bool inside = row < p.rows;
    float factor = 0.0f;
    if (inside) {
        const double share = __ddiv_rn(a.found[piece.row].mean, (double)row_means(a, p)[row]);
        factor = mul((float)__dsqrt_rn(share), s.gradient);
        if (threadIdx.x % HALF == 0) row_factors(a, p)[row] = factor;
    }
    if (s.clip_threshold == 0.0) return;
    const float* gradient = a.gradient + p.first + (u64)row * p.columns;
    const float* factors = column_factors(a, p);
    const float total = half_warp_sum(inside ? p.columns : 0, [&](u32 i) {
        const float update = mul(mul(gradient[i], factor), factors[i]);
        return mul(update, update);
    });
    if (inside && threadIdx.x % HALF == 0) row_sums(a, p)[row] = total;
}

// A warp a parameter: the rate over that by which the root mean square of the update exceeds the threshold.
extern "C" __global__ void __launch_bounds__(THREADS) adafactor_rates(Arenas a, Settings s) {
    if (threadIdx.x >= WARP) return;
    const Piece piece = a.pieces[blockIdx.x];
    const Parameter p = a.parameters[piece.row];
    double excess = 1.0;
    if (s.clip_threshold != 0.0) {
        const double mean = __ddiv_rn(sum_of(row_sums(a, p), p.rows), (double)p.count);
        const double ratio = __ddiv_rn(__dsqrt_rn(mean), s.clip_threshold);
        excess = ratio > 1.0 ? ratio : 1.0;
    }
    if (threadIdx.x == 0) a.found[piece.row].learning_rate = (float)__ddiv_rn((double)p.learning_rate, excess);
}

struct Update {
    const Arenas& a;
    const Parameter& p;
    const Settings& s;
    float learning_rate;

    // The updates of N elements, which are in one row if N is more than one.
    template <u32 N> DEVICE void updates(float (&u)[N], const float (&g)[N], u32 index) const {
        if (!p.factored) {
            float second[N];
            load(second, a.second + p.second + index);
#pragma unroll
            for (u32 i = 0; i < N; ++i) u[i] = __fdiv_rn(mul(g[i], s.gradient), __fsqrt_rn(second[i]));
            return;
        }
        const u32 row = index / p.columns, column = index - row * p.columns;
        const float factor = row_factors(a, p)[row];
        float factors[N];
        load(factors, column_factors(a, p) + column);
#pragma unroll
        for (u32 i = 0; i < N; ++i) u[i] = mul(mul(g[i], factor), factors[i]);
    }

    template <u32 N> DEVICE void apply(u32 index) const {
        const u64 at = p.first + index;
        float g[N], m[N], w[N], u[N];
        load(g, a.gradient + at);
        load(m, a.momentum + at);
        load(w, a.master + at);
        updates(u, g, index);
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            m[i] = add(mul(s.momentum, m[i]), mul(s.momentum_new, mul(learning_rate, u[i])));
            w[i] = mul(__fsub_rn(w[i], m[i]), p.keep);
        }
        store(a.momentum + at, m);
        store(a.master + at, w);
        if (a.copy) store(a.copy + at, w);
    }

    template <u32 N> DEVICE void run(u64 index) const {
        // A pack that spans rows is made of single elements.
        if (N > 1 && p.factored && p.columns % N != 0) {
#pragma unroll 1
            for (u32 i = 0; i < N; ++i) apply<1>((u32)index + i);
        } else {
            apply<N>((u32)index);
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) adafactor_update(Arenas a, Settings s) {
    const Piece piece = a.pieces[blockIdx.x];
    const Parameter p = a.parameters[piece.row];
    const Update update = {a, p, s, a.found[piece.row].learning_rate};
    for_packs(piece.piece, LENGTH, p.count, update);
}
