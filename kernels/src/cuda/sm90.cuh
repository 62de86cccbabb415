// Instructions of compute capability 9.0a, each wrapped once under its PTX name: mbarrier, tensor memory accelerator, wgmma,
// registers of warpgroups, clusters.

// A tensor map as the driver encodes it, passed by value: `const __grid_constant__ TensorMap`.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

// ---- mbarrier -------------------------------------------------------------------------------------------------------

DEVICE void mbarrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the asynchronous proxy.
DEVICE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

DEVICE void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and lets the phase wait for `bytes` more bytes of copies.
DEVICE void mbarrier_arrive_expect_tx(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Waits until the phase of this parity is complete; a new barrier is in phase 0, and the phase before counts as complete.
DEVICE void mbarrier_wait(u32 barrier, u32 parity) {
    u32 complete;
    do {
        asm volatile(
            "{\n.reg .pred complete;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n"
            "selp.u32 %0, 1, 0, complete;\n}"
            : "=r"(complete)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!complete);
}

// ---- tensor memory accelerator --------------------------------------------------------------------------------------

DEVICE void prefetch_tensormap(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies the box at (x, y) to shared memory and completes its bytes on the barrier. Elements outside are filled.
DEVICE void cp_async_bulk_tensor_2d(u32 to, const TensorMap* map, u32 barrier, u32 x, u32 y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
            "r"(to), "l"(map), "r"(barrier), "r"(x), "r"(y)
        : "memory");
}

// Makes this thread's writes to shared memory visible to the asynchronous proxy, through which wgmma reads.
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- wgmma ----------------------------------------------------------------------------------------------------------

// A matrix in shared memory of rows of 128 bytes, permuted in groups of 8 rows (1024 bytes) as the tensor memory
// accelerator's 128-byte swizzle does. K-major: a row is one m or n and 64 of k; groups of 8 rows follow each other.
// Else a row is one k and 64 of m or n; groups of 8 of k follow each other, and the next 64 of m or n lie `BLOCK_BYTES`
// further.
template <bool IS_K_MAJOR, u32 BLOCK_BYTES> DEVICE u64 wgmma_descriptor(u32 address) {
    constexpr u64 LEADING = IS_K_MAJOR ? 1 : BLOCK_BYTES >> 4;
    constexpr u64 STRIDE = 1024 >> 4;
    constexpr u64 SWIZZLE_128 = 1;
    return (u64)((address & 0x3ffff) >> 4) | LEADING << 16 | STRIDE << 32 | SWIZZLE_128 << 62;
}

// Before the first wgmma, and whenever registers of its operands were touched by other instructions.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

DEVICE void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most PENDING of the warpgroup's latest groups are under way.
template <int PENDING> DEVICE void wgmma_wait_group() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// The first 64 accumulators of a wgmma, as places in its text and as operands.
#define FIRST_64_PLACES \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FIRST_64(d) \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
    "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
    "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
    "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
    "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
    "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])

// d += a b, 64 x 128 x 16 of bf16, both operands in shared memory, by the four warps of a warpgroup. Warp w holds rows 16 w
// to 16 w + 15 of d: 16 neighbouring m16n8 accumulators as of mma.sync.
template <bool A_IS_K_MAJOR, bool B_IS_K_MAJOR> DEVICE void wgmma_m64k16(float (&d)[64], u64 a, u64 b) {
    asm volatile(
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        FIRST_64_PLACES "}, %64, %65, accumulate, 1, 1, %67, %68;\n}"
        : FIRST_64(d)
        : "l"(a), "l"(b), "r"(1), "n"(A_IS_K_MAJOR ? 0 : 1), "n"(B_IS_K_MAJOR ? 0 : 1));
}

// d += a b, 64 x 256 x 16 of bf16, both operands in shared memory, by the four warps of a warpgroup. Warp w holds rows 16 w
// to 16 w + 15 of d: 32 neighbouring m16n8 accumulators as of mma.sync.
template <bool A_IS_K_MAJOR, bool B_IS_K_MAJOR> DEVICE void wgmma_m64k16(float (&d)[128], u64 a, u64 b) {
    asm volatile(
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        FIRST_64_PLACES ", "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, accumulate, 1, 1, %131, %132;\n}"
        : FIRST_64(d),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
          "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
          "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
          "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "l"(a), "l"(b), "r"(1), "n"(A_IS_K_MAJOR ? 0 : 1), "n"(B_IS_K_MAJOR ? 0 : 1));
}

// Writes four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8, and holds elements as
// ldmatrix gives them.
DEVICE void stmatrix_x4(u32 address, const u32 (&d)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(d[0]), "r"(d[1]),
                 "r"(d[2]), "r"(d[3])
                 : "memory");
}

// ---- warpgroups and clusters ----------------------------------------------------------------------------------------

template <int REGISTERS> DEVICE void setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> DEVICE void setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// A barrier of some of a block's warps, by number; 0 is that of __syncthreads. It opens when THREADS threads have come,
// whether they wait or not.
template <int THREADS> DEVICE void bar_sync(u32 number) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "n"(THREADS) : "memory");
}

template <int THREADS> DEVICE void bar_arrive(u32 number) {
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "n"(THREADS) : "memory");
}

// All threads of a cluster; what was written before is seen by all after.
DEVICE void barrier_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address of the same place in the shared memory of another block of the cluster.
DEVICE u32 mapa(u32 address, u32 rank) {
    u32 result;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(result) : "r"(address), "r"(rank));
    return result;
}

DEVICE float ld_shared_cluster(u32 address) {
    float value;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}
