// Two blocks of a cluster: one copy brings a tile to both, each scales it and reads the other's, both add to the
// result.
constexpr int ELEMENTS = 32 * 32;

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(128)
exchange(const __grid_constant__ TensorMap in, const __grid_constant__ TensorMap out, const float* bias) {
    __shared__ __align__(128) float tile[ELEMENTS], scaled[ELEMENTS], sum[ELEMENTS], biases[ELEMENTS];
    __shared__ __align__(8) u64 full, ready, copied;
    u32 rank, other, remote;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&full)) : "memory");
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 128;" ::"r"(shared_address(&ready)) : "memory");
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 128;" ::"r"(shared_address(&copied)) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&full)), "r"(ELEMENTS * 4) : "memory");
        if (rank == 0)
            asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
                         "[%0], [%1, {%3, %3}], [%2], %4;" ::"r"(shared_address(tile)), "l"(&in), "r"(shared_address(&full)),
                         "r"(0), "h"((u16)3) : "memory");
    }
    for (int i = threadIdx.x; i < ELEMENTS / 4; i += 128) copy_async(shared_address(&biases[i * 4]), &bias[i * 4]);
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&copied)) : "memory");
    auto wait = [](u64* barrier) {
        asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n"
                     "@!done bra AGAIN;\n}" ::"r"(shared_address(barrier)) : "memory");
    };
    wait(&full);
    wait(&copied);
    for (int i = threadIdx.x; i < ELEMENTS; i += 128) scaled[i] = tile[i] * (rank + 1);
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(&ready)), "r"(rank ^ 1));
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
    wait(&ready);
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(other) : "r"(shared_address(scaled)), "r"(rank ^ 1));
    for (int i = threadIdx.x; i < ELEMENTS; i += 128) {
        // The other block's elements from its far end: written by another of its threads.
        float value;
        asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(other + (ELEMENTS - 1 - i) * 4) : "memory");
        sum[i] = scaled[i] + value + biases[ELEMENTS - 1 - i];
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %2}], [%1];"
                     ::"l"(&out), "r"(shared_address(sum)), "r"(0) : "memory");
        asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
