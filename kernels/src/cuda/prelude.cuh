// Types, packs of up to 16 bytes, and reductions. No header is included, so the run-time compiler needs none.
// Generated `constexpr` lines stand before this file; each kernel names those it reads.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__

constexpr u32 WARP = 32;
constexpr float LOG2_E = 1.44269504f;

template <bool CONDITION, class A, class B> struct Select { using Type = A; };
template <class A, class B> struct Select<false, A, B> { using Type = B; };

DEVICE constexpr u32 divide_up(u32 a, u32 b) { return (a + b - 1) / b; }
DEVICE u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

// The upper half of a float.
struct bf16 {
    u16 bits;
};

DEVICE float widen(float x) { return x; }
DEVICE float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE u32 bits_of(bf16 x) { return x.bits; }

// To the nearest value of the storage type, ties to even.
template <class T> DEVICE T narrow(float x);
template <> DEVICE float narrow<float>(float x) { return x; }
template <> DEVICE bf16 narrow<bf16>(float x) {
    bf16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
}

// Two values in one word, the first in the lower half.
DEVICE u32 narrow_pair(float low, float high) {
    u32 result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

// N consecutive values as they are stored, moved by one instruction: 4, 8 or 16 bytes, or a single value.
template <class T, u32 N> struct Pack {
    static constexpr u32 WORDS = N * sizeof(T) / 4;
    u32 words[WORDS];
};
template <class T> struct Pack<T, 1> {
    T value;
};

template <u32 N, class T> DEVICE Pack<T, N> load_pack(const T* from) {
    Pack<T, N> pack;
    if constexpr (N == 1) {
        pack.value = *from;
    } else if constexpr (Pack<T, N>::WORDS == 4) {
        const uint4 words = *reinterpret_cast<const uint4*>(from);
        pack.words[0] = words.x, pack.words[1] = words.y, pack.words[2] = words.z, pack.words[3] = words.w;
    } else {
        static_assert(Pack<T, N>::WORDS == 2, "packs have 8 or 16 bytes");
        const uint2 words = *reinterpret_cast<const uint2*>(from);
        pack.words[0] = words.x, pack.words[1] = words.y;
    }
    return pack;
}

template <class T, u32 N> DEVICE void unpack(float (&values)[N], const Pack<T, N>& pack) {
    if constexpr (N == 1) {
        values[0] = widen(pack.value);
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] = __uint_as_float(pack.words[i]);
    } else {
#pragma unroll
        for (u32 i = 0; i < N; i += 2) {
            values[i] = __uint_as_float(pack.words[i / 2] << 16);
            values[i + 1] = __uint_as_float(pack.words[i / 2] & 0xffff0000u);
        }
    }
}

// N values from an address that is a multiple of their size together.
template <u32 N, class T> DEVICE void load(float (&values)[N], const T* from) {
    if constexpr (N * sizeof(T) > 16) {
        static_assert(sizeof(T) == 4 && N == 8, "two packs of floats");
        const Pack<T, 4> low = load_pack<4>(from), high = load_pack<4>(from + 4);
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            values[i] = __uint_as_float(low.words[i]);
            values[i + 4] = __uint_as_float(high.words[i]);
        }
    } else {
        unpack(values, load_pack<N>(from));
    }
}

// N values, rounded, to an address that is a multiple of their size together.
template <u32 N, class T> DEVICE void store(T* to, const float (&values)[N]) {
    if constexpr (N == 1) {
        *to = narrow<T>(values[0]);
    } else {
        u32 words[Pack<T, N>::WORDS];
        if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (u32 i = 0; i < N; ++i) words[i] = __float_as_uint(values[i]);
        } else {
#pragma unroll
            for (u32 i = 0; i < N; i += 2) words[i / 2] = narrow_pair(values[i], values[i + 1]);
        }
        if constexpr (Pack<T, N>::WORDS == 4) {
            *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
        } else {
            static_assert(Pack<T, N>::WORDS == 2, "packs have 8 or 16 bytes");
            *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
        }
    }
}

// 1 / x within 1 ulp.
DEVICE float reciprocal(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// 1 / sqrt(x), relative error below 2^-22.9.
DEVICE float reciprocal_root(float x) {
    float result;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// 2^x, relative error below 2^-22.
DEVICE float power_of_two(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// The sum over a warp, in every lane: the tree is fixed, so all lanes and all runs get the same bits.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

DEVICE double warp_sum(double x) {
#pragma unroll
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

// The sum over a block of WARPS warps, in every thread. `scratch` holds WARPS floats and may be used again only after
// another barrier.
template <u32 WARPS> DEVICE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (u32 warp = 0; warp < WARPS; ++warp) total += scratch[warp];
    return total;
}

// The address of shared memory as instructions take it.
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }
