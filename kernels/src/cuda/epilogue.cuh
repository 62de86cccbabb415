// What all matrix kernels are told of what happens to a finished part of C on its way to memory: bias, activation with the
// pre-activation kept, derivative of an activation, residual; set or add; f32 or bf16. And the order of tiles.
//
// Constants: EPILOGUE, ACTIVATION, OUTPUT_BF16, ALIGNED (rows and addresses of C and of its side matrices are multiples
// of 16 bytes, the bias's address too).

enum EpilogueKind { PLAIN = 0, ACTIVATE = 1, ACTIVATION_BACKWARD = 2 };

using Output = Select<OUTPUT_BF16, bf16, float>::Type;

struct Epilogue {
    Output* out;             // [m, n]
    const float* bias;       // [n] or null
    Output* side;            // [m, n]: the pre-activation, written by ACTIVATE, read by ACTIVATION_BACKWARD
    const Output* residual;  // [m, n] or null; may be `out`
    u32 m, n;
    bool accumulate;
};

struct TilePosition {
    u32 m, n;
};

// The place of a tile in the order in which tiles are worked on: groups of 8 rows of tiles, column by column within a
// group, so that tiles under way at the same time share operands in the L2 cache.
DEVICE TilePosition tile_position(u32 index, u32 tiles_m, u32 tiles_n) {
    constexpr u32 GROUP = 8;
    const u32 group = index / (GROUP * tiles_n), rest = index % (GROUP * tiles_n);
    const u32 rows = smaller(GROUP, tiles_m - group * GROUP);
    return {group * GROUP + rest % rows, rest / rows};
}
