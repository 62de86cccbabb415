// From pictures to patches: u8 `[batch, height, width, 3]` to `[batch patches, 3 p p]`, `byte * scale + shift`.
//
// Constants: BF16. A thread takes `pixels` neighbours of a line and writes them to the plane of each channel; threads
// go by the pixels of a patch, patches one after the other. So a warp writes runs of each plane, whole sectors with
// packs of 16 bytes, and reads whole pieces of lines in three loads, of which the first brings the sectors to the L1
// cache.

using T = Select<BF16, bf16, float>::Type;

constexpr u32 WIDTH = 16 / sizeof(T);
constexpr u32 THREADS = 256;

// An unsigned integer of this many bytes.
template <u32 BYTES> struct Unsigned { using Type = u8; };
template <> struct Unsigned<2> { using Type = u16; };
template <> struct Unsigned<4> { using Type = u32; };
template <> struct Unsigned<8> { using Type = u64; };

struct Channel {
    float scale, shift;
};

template <u32 N> DEVICE void store_values(T* to, const float (&values)[N]) {
    if constexpr (N * sizeof(T) == 4 && N == 2) {
        *reinterpret_cast<u32*>(to) = narrow_pair(values[0], values[1]);
    } else {
        store(to, values);
    }
}

// Group `index` of N pixels. Lines of patches follow each other from one picture to the next, so the number of the line
// of patches gives the place in memory.
template <u32 N> DEVICE void pixels(
    const u8* images, T* rows, u32 index, u32 width, u32 p, const Channel (&channels)[3]) {
    const u32 groups_of_line = p / N, groups_of_patch = p * groups_of_line, across = width / p;
    const u32 patch = index / groups_of_patch, within = index % groups_of_patch;
    const u32 y = within / groups_of_line, x = within % groups_of_line * N;
    const u8* from = images + ((u64)(patch / across * p + y) * width + patch % across * p + x) * 3;
    using Word = typename Unsigned<N>::Type;
    Word words[3];
#pragma unroll
    for (u32 i = 0; i < 3; ++i) words[i] = reinterpret_cast<const Word*>(from)[i];
    T* to = rows + (u64)patch * (3 * p * p) + y * p + x;
#pragma unroll
    for (u32 channel = 0; channel < 3; ++channel) {
        float values[N];
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            const u32 byte = 3 * i + channel;
            const float value = (float)(u8)(words[byte / N] >> (8 * (byte % N)));
            values[i] = fmaf(value, channels[channel].scale, channels[channel].shift);
        }
        store_values(to + channel * p * p, values);
    }
}

// `pixels` is WIDTH, 2 or 1; `count` of such groups.
extern "C" __global__ void __launch_bounds__(THREADS)
patchify(const u8* images, T* rows, u32 count, u32 width, u32 p, u32 pixels_of_group, float scale_r, float shift_r,
         float scale_g, float shift_g, float scale_b, float shift_b) {
    const u32 index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= count) return;
    const Channel channels[3] = {{scale_r, shift_r}, {scale_g, shift_g}, {scale_b, shift_b}};
    if (pixels_of_group == WIDTH) {
        pixels<WIDTH>(images, rows, index, width, p, channels);
    } else if (pixels_of_group == 2) {
        pixels<2>(images, rows, index, width, p, channels);
    } else {
        pixels<1>(images, rows, index, width, p, channels);
    }
}
