// What the backward kernels of attention share. With P = softmax(scale Q K^T + mask), which is computed again from the
// log-sum-exp, dO the gradient of the result O, and delta the sum over a row of O dO:
//
//     dS = P (dO V^T - delta)      dQ = scale dS K      dK = scale dS^T Q      dV = P^T dO

// What the forward pass left, and the gradient: `[rows, heads dim]`, and log-sum-exps `[rows, heads]`.
struct Saved {
    const T* result;
    const float* log_sum_exp;
    const T* gradient;
};

// P of a score is 2^(factor score - shift).
struct Statistics {
    float shift, delta;
};

// Those of a query, in all of LANES neighbouring lanes, each of which has AT_ONCE loads of both matrices under way; 0 after
// the end of the sequence, which has queries. The whole warp calls this.
template <u32 LANES, u32 AT_ONCE>
DEVICE Statistics statistics(const Call& call, const Saved& saved, const Sequence& sequence, u32 head, u32 query) {
    const u32 lane = threadIdx.x % LANES;
    const bool inside = query < sequence.queries.count;
    const u64 row = sequence.first_result + (inside ? query : 0), start = row * call.width() + head * call.dim;
    const float shift = inside ? saved.log_sum_exp[row * call.heads + head] * LOG2_E : 0.0f;
    float delta = 0.0f;
    if (call.is(PACKED)) {
#pragma unroll 1
        for (u32 chunk = lane; chunk * CHUNK < call.dim; chunk += AT_ONCE * LANES) {
            Pack<T, CHUNK> results[AT_ONCE], gradients[AT_ONCE];
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; ++i) {
                // Without branches the loads follow each other.
                const u32 column = (chunk + i * LANES) * CHUNK;
                const u64 from = start + (column < call.dim ? column : 0);
                results[i] = load_pack<CHUNK>(saved.result + from);
                gradients[i] = load_pack<CHUNK>(saved.gradient + from);
            }
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; ++i) {
                float result[CHUNK], gradient[CHUNK];
                unpack(result, results[i]);
                unpack(gradient, gradients[i]);
                float sum = 0.0f;
#pragma unroll
                for (u32 j = 0; j < CHUNK; ++j) sum = fmaf(result[j], gradient[j], sum);
                if ((chunk + i * LANES) * CHUNK < call.dim) delta += sum;
            }
        }
    } else {
        for (u32 column = lane; column < call.dim; column += LANES) {
            delta = fmaf(widen(saved.result[start + column]), widen(saved.gradient[start + column]), delta);
        }
    }
#pragma unroll
    for (u32 distance = LANES / 2; distance > 0; distance /= 2) delta += __shfl_xor_sync(0xffffffffu, delta, distance);
    return {shift, inside ? delta : 0.0f};
}
