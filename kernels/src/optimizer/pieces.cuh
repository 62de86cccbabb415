// Flat arenas in packs of four floats. Parameters begin at multiples of 256 bytes, so that their packs are aligned.

// The piece of a block: a row of a table, and the number of the piece.
struct Piece {
    u32 row, piece;
};

constexpr u32 THREADS = 256;
constexpr u32 PACK = 4;

// Calls work.run<N>(index) for the elements of piece `piece`, of `length` elements, of a parameter of `count`: packs, and at
// the end of the parameter single elements, for its padding is not to be touched.
template <class Work> DEVICE void for_packs(u32 piece, u32 length, u32 count, Work work) {
    const u64 begin = (u64)piece * length;
    const u32 here = (u32)(count - begin < length ? count - begin : length);
#pragma unroll 1
    for (u32 at = threadIdx.x * PACK; at < here; at += THREADS * PACK) {
        if (at + PACK <= here) {
            work.template run<PACK>(begin + at);
        } else {
#pragma unroll 1
            for (u32 index = at; index < here; ++index) work.template run<1>(begin + index);
        }
    }
}
