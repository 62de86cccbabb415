// The epilogue of matmul_sm80.
//
// Accumulators lie scattered over a warp: a lane holds pairs of columns in rows 8 apart. Each warp sends them through
// 2 KB of shared memory of its own, 16 rows by 32 columns at a time, and then moves 16 bytes a lane: whole sectors.

constexpr u32 STAGING_ROWS = 16;
constexpr u32 STAGING_COLUMNS = 32;
constexpr u32 STAGING_BYTES = STAGING_ROWS * STAGING_COLUMNS * 4;

// Byte offset of 4 floats, of which a row has 8. The units are permuted so that neither access conflicts: pairs of
// columns are written in half warps of 4 rows, which the upper two bits of the mask send to different quarters of the
// banks; 8 columns a lane are read in quarter warps of 2 rows, which the lowest bit tells apart.
DEVICE u32 staging_offset(u32 row, u32 unit) {
    return row * (STAGING_COLUMNS * 4) + ((unit ^ ((row & 3) << 1 | (row & 1))) << 4);
}

// N finished values of one row, or the first `count` of them.
template <u32 N> DEVICE void finish_values(const Epilogue& e, float (&values)[N], u32 row, u32 column) {
    const u64 index = (u64)row * e.n + column;
    float other[N];
    if (e.bias) {
        load(other, e.bias + column);
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] += other[i];
    }
    if constexpr (EPILOGUE == ACTIVATE) {
        store(e.side + index, values);
        // The activation is that of the value as it is kept.
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] = activation<ACTIVATION>(widen(narrow<Output>(values[i])));
    }
    if constexpr (EPILOGUE == ACTIVATION_BACKWARD) {
        load(other, e.side + index);
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] *= activation_derivative<ACTIVATION>(other[i]);
    }
    // A residual is read before the same element is written: it may be in place.
    if (e.residual) {
        load(other, e.residual + index);
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] += other[i];
    }
    if (e.accumulate) {
        load(other, e.out + index);
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] += other[i];
    }
    store(e.out + index, values);
}

// Writes 16 rows by 32 columns of C from `row` and `column` on. `fragment` holds a lane's part as four m16n8
// accumulators; `staging` is the warp's own shared memory. The whole warp calls this.
DEVICE void finish_fragment(const Epilogue& e, u32 staging, const float* fragment, u32 row, u32 column) {
    const u32 lane = threadIdx.x % WARP;
    __syncwarp();
#pragma unroll
    for (u32 part = 0; part < 4; ++part) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 pair = lane % 4;
            const u32 address = staging + staging_offset(half * 8 + lane / 4, part * 2 + pair / 2) + pair % 2 * 8;
            sts_64(address, fragment[part * 4 + half * 2], fragment[part * 4 + half * 2 + 1]);
        }
    }
    __syncwarp();
    if constexpr (ALIGNED) {
        constexpr u32 WIDTH = 16 / sizeof(Output);
        constexpr u32 LANES = STAGING_COLUMNS / WIDTH;  // of a row
        constexpr u32 ROWS = WARP / LANES;              // at a time
#pragma unroll
        for (u32 pass = 0; pass < STAGING_ROWS / ROWS; ++pass) {
            const u32 r = pass * ROWS + lane / LANES, c = lane % LANES * WIDTH;
            float values[WIDTH];
#pragma unroll
            for (u32 unit = 0; unit < WIDTH / 4; ++unit) {
                const float4 quad = lds_128(staging + staging_offset(r, c / 4 + unit));
                values[unit * 4] = quad.x, values[unit * 4 + 1] = quad.y;
                values[unit * 4 + 2] = quad.z, values[unit * 4 + 3] = quad.w;
            }
            if (row + r < e.m && column + c < e.n) finish_values(e, values, row + r, column + c);
        }
    } else {
#pragma unroll 1
        for (u32 r = 0; r < STAGING_ROWS; ++r) {
            float value[1] = {lds(staging + staging_offset(r, lane / 4) + lane % 4 * 4)};
            if (row + r < e.m && column + lane < e.n) finish_values(e, value, row + r, column + lane);
        }
    }
}
