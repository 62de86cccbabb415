// The entries in the order of their keys, equal ones in their own: a radix sort from the lowest digit on, two kernels a
// digit of 8 bits. `embed_count` counts the digits of each tile of 1024 entries, `embed_place` moves a tile's entries
// to their places: behind all of smaller digits, those of earlier tiles, of earlier warps of the tile and of earlier
// lanes. Counts are integers, so their atomics do not depend on the schedule. Digits are read anew through the entry,
// which halves what is moved; ids fit into the L2 cache.
//
// `order` holds the places so far, null before the first digit; `counts` `[tiles, DIGITS]`.

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / WARP;
constexpr u32 DIGITS = 256;
constexpr u32 ROUNDS = 4;
constexpr u32 TILE = THREADS * ROUNDS;

static_assert(DIGITS == THREADS, "a thread for each digit");

DEVICE u32 entry_at(const u32* order, u32 place) { return order ? order[place] : place; }
DEVICE u32 digit_of(const Entries& e, u32 entry, u32 shift) { return key_of(e, entry) >> shift & (DIGITS - 1); }

extern "C" __global__ void __launch_bounds__(THREADS) embed_count(
    const u32* ids, const u32* at, const u32* order, u32* counts, u32 rows, u32 vocabulary, u32 positions, u32 shift) {
    const Entries e = {ids, at, rows, vocabulary, positions};
    __shared__ u32 histogram[DIGITS];
    histogram[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (u32 round = 0; round < ROUNDS; ++round) {
        const u32 place = blockIdx.x * TILE + round * THREADS + threadIdx.x;
        if (place < count_of(e)) atomicAdd(histogram + digit_of(e, entry_at(order, place), shift), 1);
    }
    __syncthreads();
    counts[blockIdx.x * DIGITS + threadIdx.x] = histogram[threadIdx.x];
}

// The sum over the threads before this one. Holds a barrier.
DEVICE u32 sum_before(u32 value, u32 (&totals)[WARPS]) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 sum = value;
#pragma unroll
    for (u32 distance = 1; distance < WARP; distance *= 2) {
        const u32 other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == WARP - 1) totals[warp] = sum;
    __syncthreads();
    sum -= value;
#pragma unroll
    for (u32 other = 0; other < WARPS; ++other) {
        if (other < warp) sum += totals[other];
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) embed_place(
    const u32* ids, const u32* at, const u32* order, const u32* counts, u32* to, u32 rows, u32 vocabulary, u32 positions,
    u32 shift) {
    const Entries e = {ids, at, rows, vocabulary, positions};
    // First how many entries of a digit a warp has met, then where its next one goes.
    __shared__ u32 places[WARPS][DIGITS];
    __shared__ u32 totals[WARPS];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (u32 digit = lane; digit < DIGITS; digit += WARP) places[warp][digit] = 0;
    __syncwarp();
    u32 entries[ROUNDS], digits[ROUNDS], ranks[ROUNDS];
#pragma unroll
    for (u32 round = 0; round < ROUNDS; ++round) {
        const u32 place = (blockIdx.x * WARPS + warp) * (ROUNDS * WARP) + round * WARP + lane;
        const bool inside = place < count_of(e);
        entries[round] = inside ? entry_at(order, place) : 0;
        digits[round] = inside ? digit_of(e, entries[round], shift) : DIGITS;
        const u32 alike = __match_any_sync(0xffffffffu, digits[round]), before = alike & ((1u << lane) - 1);
        if (inside) ranks[round] = places[warp][digits[round]] + __popc(before);
        __syncwarp();
        if (inside && before == 0) places[warp][digits[round]] += __popc(alike);
        __syncwarp();
    }
    const u32 digit = threadIdx.x;
    u32 total = 0, earlier = 0;
#pragma unroll 8
    for (u32 tile = 0; tile < gridDim.x; ++tile) {
        const u32 count = counts[tile * DIGITS + digit];
        total += count;
        if (tile < blockIdx.x) earlier += count;
    }
    // Its barrier is also the one after which warps read each other's counts.
    u32 next = earlier + sum_before(total, totals);
#pragma unroll
    for (u32 other = 0; other < WARPS; ++other) {
        const u32 count = places[other][digit];
        places[other][digit] = next;
        next += count;
    }
    __syncthreads();
#pragma unroll
    for (u32 round = 0; round < ROUNDS; ++round) {
        if (digits[round] < DIGITS) to[places[warp][digits[round]] + ranks[round]] = entries[round];
    }
}
