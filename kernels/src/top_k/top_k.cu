// The largest elements of each row: x f32 `[rows, n]` to values f32 and columns `[rows, count]`, in falling order.
//
// Constants: MOST (threads of a block, and the largest count). `packed` says that rows are multiples of 16 bytes.
//
// A block selects from a row. An element's key is its value, as an unsigned integer of the same order, above the
// complement of its column: no two keys are equal, and of equal values the lower column has the larger key. From the
// highest digit on the block counts the digits of the keys that share the digits found so far, which gives that of the
// smallest key to be taken; it stops as soon as all keys of that digit are. Then it gathers the keys, in any order, and
// sorts them: what is chosen and its order do not depend on the schedule.

constexpr u32 THREADS = MOST;
constexpr u32 DIGIT_BITS = 8;
constexpr u32 DIGITS = 1 << DIGIT_BITS;
constexpr u32 WIDTH = 4;

// A float as an unsigned integer of the same order, and back.
DEVICE u32 ordered(u32 bits) { return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u); }
DEVICE u32 unordered(u32 value) { return value ^ (value >> 31 ? 0x80000000u : 0xffffffffu); }

DEVICE u64 key_of(float value, u32 column) { return (u64)ordered(__float_as_uint(value)) << 32 | ~column; }

// Calls `visit` with the key of every element of a row; all lanes of a warp call it equally often, `inside` says
// whether with an element.
template <u32 N, class Visit> DEVICE void visit_keys(const float* x, u32 n, Visit visit) {
    for (u32 start = 0; start < n; start += THREADS * N) {
        const u32 column = start + threadIdx.x * N;
        const bool inside = column < n;
        float values[N] = {};
        if (inside) load(values, x + column);
#pragma unroll
        for (u32 i = 0; i < N; ++i) visit(key_of(values[i], column + i), inside);
    }
}

struct Digit {
    u32 value;
    u32 above;  // keys with larger ones
    u32 count;  // keys with this one
};

// The digit of the key that is the `wanted`th from above, found by one warp.
DEVICE Digit find_digit(const u32 (&histogram)[DIGITS], u32 wanted) {
    constexpr u32 SHARE = DIGITS / WARP;
    const u32 lane = threadIdx.x, highest = DIGITS - 1 - lane * SHARE;
    u32 own = 0;
#pragma unroll
    for (u32 i = 0; i < SHARE; ++i) own += histogram[highest - i];
    u32 sum = own;
#pragma unroll
    for (u32 distance = 1; distance < WARP; distance *= 2) {
        const u32 other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
    }
    const u32 owner = __ffs(__ballot_sync(0xffffffffu, sum >= wanted)) - 1;
    Digit digit = {highest, sum - own, histogram[highest]};
    while (lane == owner && digit.above + digit.count < wanted) {
        digit.above += digit.count;
        digit.count = histogram[--digit.value];
    }
    digit.value = __shfl_sync(0xffffffffu, digit.value, owner);
    digit.above = __shfl_sync(0xffffffffu, digit.above, owner);
    digit.count = __shfl_sync(0xffffffffu, digit.count, owner);
    return digit;
}

// The smallest of the `count` largest keys, as the bits from `shift` on that tell it from all smaller ones.
struct Threshold {
    u64 bits;
    u32 shift;
};

template <u32 N> DEVICE Threshold select(const float* x, u32 n, u32 count) {
    __shared__ u32 histogram[DIGITS];
    __shared__ Digit found;
    Threshold threshold = {0, 64};
    u32 wanted = count;
    do {
        if (threadIdx.x < DIGITS) histogram[threadIdx.x] = 0;
        __syncthreads();
        const u32 shift = threshold.shift - DIGIT_BITS;
        visit_keys<N>(x, n, [&](u64 key, bool inside) {
            // A shift by all bits would be undefined: before the first digit every key counts.
            const bool counts = inside && (shift == 64 - DIGIT_BITS || key >> threshold.shift == threshold.bits);
            const u32 digit = counts ? (u32)(key >> shift) & (DIGITS - 1) : DIGITS;
            // Many keys have the same digit, most of all the first: one lane counts for all that do.
            const u32 alike = __match_any_sync(0xffffffffu, digit);
            if (counts && (alike & ((1u << threadIdx.x % WARP) - 1)) == 0) atomicAdd(histogram + digit, __popc(alike));
        });
        __syncthreads();
        if (threadIdx.x < WARP) {
            const Digit digit = find_digit(histogram, wanted);
            if (threadIdx.x == 0) found = digit;
        }
        __syncthreads();
        wanted -= found.above;
        threshold = {threshold.bits << DIGIT_BITS | found.value, shift};
    } while (found.count != wanted);
    return threshold;
}

// Sorts `size` keys, a power of two of at most THREADS, in falling order.
DEVICE void sort(u64 (&keys)[MOST], u32 size) {
    for (u32 run = 2; run <= size; run *= 2) {
        for (u32 distance = run / 2; distance > 0; distance /= 2) {
            const u32 place = threadIdx.x, other = place ^ distance;
            if (place < size && other > place) {
                const u64 first = keys[place], second = keys[other];
                const bool falling = (place & run) == 0;
                if ((first < second) == falling) keys[place] = second, keys[other] = first;
            }
            __syncthreads();
        }
    }
}

template <u32 N> DEVICE void largest(const float* x, float* values, u32* columns, u32 n, u32 count) {
    __shared__ u64 keys[MOST];
    __shared__ u32 held;
    const Threshold threshold = select<N>(x, n, count);
    keys[threadIdx.x] = 0;
    if (threadIdx.x == 0) held = 0;
    __syncthreads();
    visit_keys<N>(x, n, [&](u64 key, bool inside) {
        if (inside && key >> threshold.shift >= threshold.bits) keys[atomicAdd(&held, 1)] = key;
    });
    __syncthreads();
    u32 size = 1;
    while (size < count) size *= 2;
    sort(keys, size);
    if (threadIdx.x < count) {
        const u64 key = keys[threadIdx.x];
        values[threadIdx.x] = __uint_as_float(unordered(key >> 32));
        columns[threadIdx.x] = ~(u32)key;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
top_k(const float* x, float* values, u32* columns, u32 n, u32 count, u32 packed) {
    const u64 row = blockIdx.x;
    x += row * n, values += row * count, columns += row * count;
    if (packed) {
        largest<WIDTH>(x, values, columns, n, count);
    } else {
        largest<1>(x, values, columns, n, count);
    }
}
