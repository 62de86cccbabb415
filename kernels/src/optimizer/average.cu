// average += share (weights - average), each operation rounded on its own as on the CPU.
//
// No constants. The arenas are whole packs of four floats; a thread handles one.

constexpr u32 PACK = 4;

extern "C" __global__ void __launch_bounds__(256)
average(const float* weights, float* average, float share, u64 count) {
    const u64 index = ((u64)blockIdx.x * 256 + threadIdx.x) * PACK;
    if (index >= count) return;
    float from[PACK], to[PACK];
    load(from, weights + index);
    load(to, average + index);
#pragma unroll
    for (u32 i = 0; i < PACK; ++i) to[i] = __fadd_rn(to[i], __fmul_rn(share, __fsub_rn(from[i], to[i])));
    store(average + index, to);
}
