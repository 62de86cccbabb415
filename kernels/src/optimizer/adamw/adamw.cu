// AdamW over flat arenas: one pass of 28 bytes an element, 30 with a bf16 copy.
//
// Constant: LENGTH (elements of a piece). Every operation is rounded on its own, in the order of the CPU's code, so that
// both give the same bits. A thread's loads are packs of 16 bytes from four arenas: with 2048 threads on a multiprocessor
// 128 KB are in flight.

// What one parameter has of its own in a step.
struct Segment {
    u64 first;
    u32 count;
    // 1 - lr wd, and lr / (1 - b1^t).
    float keep, step;
    u32 unused;
};

struct Moments {
    // 1 - b1, b2, 1 - b2, sqrt(1 - b2^t).
    float first, second, second_new, root_correction, epsilon;
};

struct Update {
    float *master, *first, *second;
    const float* gradient;
    bf16* copy;
    Moments moments;
    float gradient_factor, keep, step;

    template <u32 N> DEVICE void run(u64 index) const {
        float p[N], g[N], m[N], v[N];
        load(g, gradient + index);
        load(p, master + index);
        load(m, first + index);
        load(v, second + index);
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            const float gradient = __fmul_rn(g[i], gradient_factor);
            m[i] = __fadd_rn(m[i], __fmul_rn(moments.first, __fsub_rn(gradient, m[i])));
            const float square = __fmul_rn(gradient, gradient);
            v[i] = __fadd_rn(__fmul_rn(moments.second, v[i]), __fmul_rn(moments.second_new, square));
            const float root = __fdiv_rn(__fsqrt_rn(v[i]), moments.root_correction);
            const float change = __fmul_rn(step, __fdiv_rn(m[i], __fadd_rn(root, moments.epsilon)));
            p[i] = __fsub_rn(__fmul_rn(p[i], keep), change);
        }
        store(first + index, m);
        store(second + index, v);
        store(master + index, p);
        if (copy) store(copy + index, p);
    }
};

// `copy` may be null.
extern "C" __global__ void __launch_bounds__(THREADS) adamw(
    const Piece* pieces, const Segment* segments, float* master, const float* gradient, bf16* copy, float* first,
    float* second, float gradient_factor, float first_new, float second_keep, float second_new, float root_correction,
    float epsilon) {
    const Piece piece = pieces[blockIdx.x];
    const Segment segment = segments[piece.row];
    const u64 start = segment.first;
    const Moments moments = {first_new, second_keep, second_new, root_correction, epsilon};
    const Update update = {master + start, first + start, second + start, gradient + start,
                           copy ? copy + start : nullptr, moments, gradient_factor, segment.keep, segment.step};
    for_packs(piece.piece, LENGTH, segment.count, update);
}
