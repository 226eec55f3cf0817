/* What every kernel source is written in: CUDA C for nvcc, or, with CUDISTILL_EMU, plain C++17 in which emu/emu.h runs
 * the same source on the CPU. A kernel file includes this first and then its launchers' header; it uses no CUDA
 * name that is not here or in emu/emu.h, launches by LAUNCH, and reads and writes global memory only by the
 * functions below, so that the emulator can check and count every access.
 *
 * Rules the emulator enforces (it aborts with kernel, block and thread): all threads of a block meet at the same
 * barriers, all 32 lanes of a warp at the same exchange, addresses lie in device or pinned memory and are
 * aligned to what is accessed. Blocks are one-dimensional where lane() and warp() are used. */
#ifndef CUDISTILL_KERNELS_KERNEL_CUH
#define CUDISTILL_KERNELS_KERNEL_CUH

#ifdef CUDISTILL_EMU
#include "kernels/emu/emu.h"
#else
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

#define DEVICE static __device__ __forceinline__
#define FULL_MASK 0xffffffffu

enum { WARP_SIZE = 32, MAX_WARPS = 32 /* of a block */ };

/* ---- Storage types: no arithmetic on them, only conversions. ---- */
#ifndef CUDISTILL_EMU
typedef __half half_t;
typedef __nv_bfloat16 bf16_t;

DEVICE float to_float(half_t x)
{
    return __half2float(x);
}
DEVICE float to_float(bf16_t x)
{
    return __bfloat162float(x);
}
#endif
DEVICE float to_float(float x)
{
    return x;
}

/* Round to nearest even. */
template <typename T> DEVICE T from_float(float x)
{
    if constexpr (std::is_same<T, float>::value) {
        return x;
    } else if constexpr (std::is_same<T, half_t>::value) {
        return __float2half_rn(x);
    } else {
        static_assert(std::is_same<T, bf16_t>::value, "float, half_t or bf16_t");
        return __float2bfloat16_rn(x);
    }
}

/* x rounded to T and back: what a reader of the stored value will see. */
template <typename T> DEVICE float rounded_to(float x)
{
    return to_float(from_float<T>(x));
}

/* ---- Packs: N values that move in one access. ---- */
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

/* Values of T in 16 bytes, the widest access of all targets. */
template <typename T> constexpr int PACK_WIDTH = (int)(16 / sizeof(T));

/* Whether p may be accessed `bytes` at a time; on the host, in launchers, as well as in kernels. */
static __host__ __device__ __forceinline__ bool aligned_to(const void *p, size_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

/* Pairs convert in one instruction on the device. */
template <typename T> DEVICE float2 pair_to_float(Pack<T, 2> pair)
{
#ifndef CUDISTILL_EMU
    if constexpr (std::is_same<T, half_t>::value) {
        return __half22float2(__halves2half2(pair.v[0], pair.v[1]));
    } else if constexpr (std::is_same<T, bf16_t>::value) {
        return __bfloat1622float2(__halves2bfloat162(pair.v[0], pair.v[1]));
    }
#endif
    return make_float2(to_float(pair.v[0]), to_float(pair.v[1]));
}
template <typename T> DEVICE Pack<T, 2> pair_from_float(float a, float b)
{
    Pack<T, 2> pair;
#ifndef CUDISTILL_EMU
    if constexpr (std::is_same<T, half_t>::value) {
        const __half2 both = __floats2half2_rn(a, b);
        pair.v[0] = __low2half(both);
        pair.v[1] = __high2half(both);
        return pair;
    } else if constexpr (std::is_same<T, bf16_t>::value) {
        const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
        pair.v[0] = __low2bfloat16(both);
        pair.v[1] = __high2bfloat16(both);
        return pair;
    }
#endif
    pair.v[0] = from_float<T>(a);
    pair.v[1] = from_float<T>(b);
    return pair;
}

template <typename T, int N> DEVICE void unpack(const Pack<T, N> &pack, float (&out)[N])
{
    if constexpr (N % 2 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            Pack<T, 2> pair;
            pair.v[0] = pack.v[i];
            pair.v[1] = pack.v[i + 1];
            const float2 both = pair_to_float(pair);
            out[i] = both.x;
            out[i + 1] = both.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) {
            out[i] = to_float(pack.v[i]);
        }
    }
}
template <typename T, int N> DEVICE Pack<T, N> repack(const float (&in)[N])
{
    Pack<T, N> pack;
    if constexpr (N % 2 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const Pack<T, 2> pair = pair_from_float<T>(in[i], in[i + 1]);
            pack.v[i] = pair.v[0];
            pack.v[i + 1] = pair.v[1];
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) {
            pack.v[i] = from_float<T>(in[i]);
        }
    }
    return pack;
}

/* ---- Global memory. T: any trivially copyable type of 1, 2, 4, 8, 16 or a multiple of 16 bytes. _stream: read or
 * written once, first to leave the cache. load_cached: small read-only tables that many threads read (never
 * memory that the same kernel writes); the emulator counts it apart. ---- */
#ifdef CUDISTILL_EMU
template <typename T> DEVICE T load_global(const T *p)
{
    return emu::load(p, &emu::counts.loaded);
}
template <typename T> DEVICE T load_stream(const T *p)
{
    return emu::load(p, &emu::counts.loaded);
}
template <typename T> DEVICE T load_cached(const T *p)
{
    return emu::load(p, &emu::counts.cached);
}
template <typename T> DEVICE void store_global(T *p, T value)
{
    emu::store(p, value);
}
template <typename T> DEVICE void store_stream(T *p, T value)
{
    emu::store(p, value);
}
#else
template <int bytes> struct RawWord {
    static_assert(bytes % 16 == 0, "no access of this width");
    typedef uint4 type;
};
template <> struct RawWord<8> {
    typedef uint2 type;
};
template <> struct RawWord<4> {
    typedef unsigned int type;
};
template <> struct RawWord<2> {
    typedef unsigned short type;
};
template <> struct RawWord<1> {
    typedef unsigned char type;
};
enum CacheHint { CACHE_DEFAULT, CACHE_STREAM, CACHE_READ_ONLY };

template <CacheHint hint, typename T> DEVICE T load_words(const T *p)
{
    typedef typename RawWord<(int)sizeof(T)>::type Word;
    enum { WORDS = sizeof(T) / sizeof(Word) };
    Word words[WORDS];
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        const Word *at = reinterpret_cast<const Word *>(p) + i;
        if constexpr (hint == CACHE_STREAM) {
            words[i] = __ldcs(at);
        } else if constexpr (hint == CACHE_READ_ONLY) {
            words[i] = __ldg(at);
        } else {
            words[i] = *at;
        }
    }
    T value;
    memcpy(&value, words, sizeof value);
    return value;
}
template <CacheHint hint, typename T> DEVICE void store_words(T *p, const T &value)
{
    typedef typename RawWord<(int)sizeof(T)>::type Word;
    enum { WORDS = sizeof(T) / sizeof(Word) };
    Word words[WORDS];
    memcpy(words, &value, sizeof value);
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        Word *at = reinterpret_cast<Word *>(p) + i;
        if constexpr (hint == CACHE_STREAM) {
            __stcs(at, words[i]);
        } else {
            *at = words[i];
        }
    }
}
template <typename T> DEVICE T load_global(const T *p)
{
    return load_words<CACHE_DEFAULT>(p);
}
template <typename T> DEVICE T load_stream(const T *p)
{
    return load_words<CACHE_STREAM>(p);
}
template <typename T> DEVICE T load_cached(const T *p)
{
    return load_words<CACHE_READ_ONLY>(p);
}
template <typename T> DEVICE void store_global(T *p, T value)
{
    store_words<CACHE_DEFAULT>(p, value);
}
template <typename T> DEVICE void store_stream(T *p, T value)
{
    store_words<CACHE_STREAM>(p, value);
}
#endif

/* p must be aligned to the pack. */
template <typename T, int N> DEVICE Pack<T, N> load_pack(const T *p)
{
    return load_global(reinterpret_cast<const Pack<T, N> *>(p));
}
template <typename T, int N> DEVICE Pack<T, N> load_pack_stream(const T *p)
{
    return load_stream(reinterpret_cast<const Pack<T, N> *>(p));
}
template <typename T, int N> DEVICE Pack<T, N> load_pack_cached(const T *p)
{
    return load_cached(reinterpret_cast<const Pack<T, N> *>(p));
}
template <typename T, int N> DEVICE void store_pack(T *p, const Pack<T, N> &pack)
{
    store_global(reinterpret_cast<Pack<T, N> *>(p), pack);
}
template <typename T, int N> DEVICE void store_pack_stream(T *p, const Pack<T, N> &pack)
{
    store_stream(reinterpret_cast<Pack<T, N> *>(p), pack);
}

/* ---- Shared memory, 16-byte aligned; undefined (poisoned under emulation) when a block begins. Arrays of one
 * SHARED_ARRAY line are one array, also when the function it stands in is called twice. ---- */
#ifdef CUDISTILL_EMU
#define SHARED_ARRAY(type, name, count)                                                            \
    static emu::SharedSite name##_site_;                                                           \
    type(&name)[count] = *reinterpret_cast<type(*)[count]>(                                        \
        emu::shared_array(&name##_site_, sizeof(type) * (count), #name))
#define DYNAMIC_SHARED(type, name) type *const name = static_cast<type *>(emu::dynamic_shared())
#else
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#define DYNAMIC_SHARED(type, name)                                                                 \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes_[];                         \
    type *const name = reinterpret_cast<type *>(dynamic_shared_bytes_)
#endif

/* ---- Launching. `kernel` without commas outside parentheses: a local `auto k = kernel<A, B>;` where there are any.
 * Arguments are converted to the kernel's parameter types and copied, at most 4 KB. ---- */
#ifdef CUDISTILL_EMU
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                     \
    emu::launch(emu::LaunchShape{#kernel, __func__, (grid), (block), 1, (size_t)(shared_bytes)},   \
                (stream), (kernel), ##__VA_ARGS__)
#define LAUNCH_CLUSTER(kernel, grid, block, cluster, shared_bytes, stream, ...)                    \
    emu::launch(emu::LaunchShape{#kernel, __func__, (grid), (block), (unsigned)(cluster),          \
                                 (size_t)(shared_bytes)},                                          \
                (stream), (kernel), ##__VA_ARGS__)
#else
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                     \
    (kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
/* `cluster` consecutive blocks (in x, a divisor of the grid, at most 8) run at once on neighbouring multiprocessors and
 * may read each other's shared memory. sm_90 and up. */
#define LAUNCH_CLUSTER(kernel, grid, block, cluster, shared_bytes, stream, ...)                    \
    launch_cluster((grid), (block), (cluster), (shared_bytes), (stream), (kernel), ##__VA_ARGS__)

template <typename... Params, typename... Args>
static void launch_cluster(dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes,
                           cudaStream_t stream, void (*kernel)(Params...), Args... args)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    /* The error is kept for kernel_status. */
    (void)cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}
#endif

/* Largest dynamic shared memory of a block on the current device; 48 KB where it cannot be asked. */
static inline size_t shared_limit(void)
{
    int device = 0;
    int bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
            cudaSuccess) {
        (void)cudaGetLastError();
        return 48 * 1024;
    }
    return (size_t)bytes;
}
/* To be called by a launcher before LAUNCH where a kernel wants more than 48 KB of dynamic shared memory; allowed during
 * capture. cudaError_t. The limit is set to all that the device has beside the kernel's static arrays: it belongs to the
 * kernel, and with a limit of its own each, one host thread could lower it between another's call and launch. */
template <typename Kernel> static int allow_shared(Kernel kernel, size_t bytes)
{
    const void *const entry = reinterpret_cast<const void *>(kernel);
    size_t most = bytes;
#ifndef CUDISTILL_EMU
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, entry);
    if (error != cudaSuccess) {
        return (int)error;
    }
    const size_t limit = shared_limit();
    if (bytes + attributes.sharedSizeBytes <= limit) {
        most = limit - attributes.sharedSizeBytes;
    }
#endif
    return (int)cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most);
}
/* What a launcher returns: the error of its launch, which is cleared. */
static inline int kernel_status(void)
{
    return (int)cudaGetLastError();
}

/* ---- Threads, barriers, exchanges within a warp (all 32 lanes take part). ---- */
DEVICE int lane(void)
{
    return (int)(threadIdx.x % WARP_SIZE);
}
DEVICE int warp(void)
{
    return (int)(threadIdx.x / WARP_SIZE);
}
/* Of the block; its size is a multiple of 32. */
DEVICE int warp_count(void)
{
    return (int)(blockDim.x / WARP_SIZE);
}
DEVICE void sync_block(void)
{
    __syncthreads();
}
DEVICE void sync_warp(void)
{
    __syncwarp();
}
template <typename T> DEVICE T shuffle(T value, int source_lane)
{
    return __shfl_sync(FULL_MASK, value, source_lane);
}
template <typename T> DEVICE T shuffle_xor(T value, int lane_mask)
{
    return __shfl_xor_sync(FULL_MASK, value, lane_mask);
}
/* From the lane `delta` below; lanes that have none keep their value. */
template <typename T> DEVICE T shuffle_up(T value, int delta)
{
    return __shfl_up_sync(FULL_MASK, value, (unsigned)delta);
}
/* Bit i: what lane i said. */
DEVICE unsigned warp_ballot(bool said)
{
    return __ballot_sync(FULL_MASK, said);
}

/* Reductions over the warp; every lane gets the result, the same bits. The order is the butterfly: lanes 16 apart first.
 * combine must be commutative. Under emulation one exchange and the same tree. */
template <typename T, typename Combine> DEVICE T warp_reduce(T value, Combine combine)
{
#ifdef CUDISTILL_EMU
    return emu::reduce(value, combine);
#else
#pragma unroll
    for (int apart = WARP_SIZE / 2; apart > 0; apart /= 2) {
        value = combine(value, shuffle_xor(value, apart));
    }
    return value;
#endif
}
/* a + b, rounded: never part of a fused multiply-add. Where a sum's addend is a product, two lanes that fuse their own would
 * come to different bits. */
DEVICE float rounded_sum(float a, float b)
{
#ifdef CUDISTILL_EMU
    return a + b;
#else
    return __fadd_rn(a, b);
#endif
}
DEVICE float warp_sum(float value)
{
    return warp_reduce(value, [](float a, float b) { return rounded_sum(a, b); });
}
/* A NaN does not win against a number (fmaxf). */
DEVICE float warp_max(float value)
{
    return warp_reduce(value, [](float a, float b) { return fmaxf(a, b); });
}
DEVICE int warp_sum(int value)
{
    return warp_reduce(value, [](int a, int b) { return a + b; });
}

template <typename T, int N> struct Vector {
    T v[N];
};
/* Element by element, in place. */
template <int N> DEVICE void warp_sum(float (&values)[N])
{
#ifdef CUDISTILL_EMU
    Vector<float, N> vector;
    memcpy(vector.v, values, sizeof vector.v);
    vector = emu::reduce(vector, [](Vector<float, N> a, const Vector<float, N> &b) {
        for (int i = 0; i < N; i++) {
            a.v[i] += b.v[i];
        }
        return a;
    });
    memcpy(values, vector.v, sizeof vector.v);
#else
#pragma unroll
    for (int apart = WARP_SIZE / 2; apart > 0; apart /= 2) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            values[i] = rounded_sum(values[i], shuffle_xor(values[i], apart));
        }
    }
#endif
}

/* ---- Reductions over a block whose size is a multiple of 32: warps first, then the warps' results by the same
 * butterfly; every thread gets the result. Barriers: all threads of the block must call. ---- */
template <typename T, typename Combine>
DEVICE T block_reduce(T value, T neutral, T (&scratch)[MAX_WARPS], Combine combine)
{
    value = warp_reduce(value, combine);
    sync_block(); /* scratch may still be read by an earlier call */
    if (lane() == 0) {
        scratch[warp()] = value;
    }
    sync_block();
    return warp_reduce(lane() < warp_count() ? scratch[lane()] : neutral, combine);
}
DEVICE float block_sum(float value)
{
    SHARED_ARRAY(float, scratch, MAX_WARPS);
    return block_reduce(value, 0.0f, scratch, [](float a, float b) { return rounded_sum(a, b); });
}
DEVICE float block_max(float value)
{
    SHARED_ARRAY(float, scratch, MAX_WARPS);
    return block_reduce(value, -INFINITY, scratch, [](float a, float b) { return fmaxf(a, b); });
}
DEVICE int block_sum(int value)
{
    SHARED_ARRAY(int, scratch, MAX_WARPS);
    return block_reduce(value, 0, scratch, [](int a, int b) { return a + b; });
}
/* Element by element, in place: two barriers for all of them together. */
template <int N> DEVICE void block_sum(float (&values)[N])
{
    SHARED_ARRAY(float, scratch, N *MAX_WARPS);
    warp_sum(values);
    sync_block();
    if (lane() == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            scratch[i * MAX_WARPS + warp()] = values[i];
        }
    }
    sync_block();
#pragma unroll
    for (int i = 0; i < N; i++) {
        values[i] = lane() < warp_count() ? scratch[i * MAX_WARPS + lane()] : 0.0f;
    }
    warp_sum(values);
}

/* Whether this block is the last of `blocks` to get here in this launch: it then sees everything that the others have
 * stored before. All threads of every block must call, once. Nobody waits. `counter` is 0 before the first launch and
 * again after each, so that launches that follow one another may share it. */
DEVICE bool last_block(unsigned *counter, unsigned blocks)
{
    SHARED_ARRAY(int, is_last, 1);
    sync_block(); /* all of the block's stores are before the fence */
    if (threadIdx.x == 0) {
        __threadfence();
        is_last[0] = atomicAdd(counter, 1u) == blocks - 1;
        if (is_last[0]) {
            store_global(counter, 0u);
        }
        __threadfence(); /* loads of the other blocks' stores are after the count */
    }
    sync_block();
    return is_last[0] != 0;
}

/* ---- Fast arithmetic, by name. Errors from the PTX manual; the fall-back of the emulator is exact to an ulp, so a
 * test's tolerance must add the error stated here. Results and arguments below 2^-126 count as 0. ---- */
/* 2^x, relative error 2^-22. */
DEVICE float exp2_fast(float x)
{
#ifdef CUDISTILL_EMU
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}
/* e^x: the rounding of x*log2(e) adds |x| * 2^-24 to the relative error 2^-22. */
DEVICE float exp_fast(float x)
{
    return exp2_fast(x * 1.4426950408889634f);
}

/* ---- Randomness: the same numbers as base/rng.h (Philox4x32-10; Salmon et al., SC'11). ---- */
typedef struct {
    uint32_t v[4];
} Philox4;

DEVICE Philox4 philox4x32_10(Philox4 counter, uint32_t key0, uint32_t key1)
{
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t product0 = (uint64_t)0xD2511F53u * counter.v[0];
        const uint64_t product1 = (uint64_t)0xCD9E8D57u * counter.v[2];
        const Philox4 next = {{(uint32_t)(product1 >> 32) ^ counter.v[1] ^ key0, (uint32_t)product1,
                               (uint32_t)(product0 >> 32) ^ counter.v[3] ^ key1,
                               (uint32_t)product0}};
        counter = next;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

typedef struct {
    Philox4 counter;
    uint32_t key[2];
    Philox4 block;
    int used;
} Rng;

/* purpose: RngPurpose of base/rng.h. */
DEVICE Rng rng_make(uint64_t seed, uint32_t epoch, uint64_t sample, int purpose)
{
    Rng rng = {};
    rng.counter.v[1] = epoch;
    rng.counter.v[2] = (uint32_t)sample;
    rng.counter.v[3] = (uint32_t)(sample >> 32) ^ ((uint32_t)purpose << 24);
    rng.key[0] = (uint32_t)seed;
    rng.key[1] = (uint32_t)(seed >> 32);
    rng.used = 4;
    return rng;
}
DEVICE uint32_t rng_u32(Rng *rng)
{
    if (rng->used == 4) {
        rng->block = philox4x32_10(rng->counter, rng->key[0], rng->key[1]);
        rng->counter.v[0]++;
        rng->used = 0;
    }
    const int at = rng->used++;
    /* No indexing by a variable: the block stays in registers. */
    return at == 0 ? rng->block.v[0]
                   : (at == 1 ? rng->block.v[1] : (at == 2 ? rng->block.v[2] : rng->block.v[3]));
}
/* Uniform in [0, bound), bound > 0. */
DEVICE uint32_t rng_below(Rng *rng, uint32_t bound)
{
    const uint32_t refused = (0u - bound) % bound;
    uint64_t product = (uint64_t)rng_u32(rng) * bound;
    while ((uint32_t)product < refused) {
        product = (uint64_t)rng_u32(rng) * bound;
    }
    return (uint32_t)(product >> 32);
}
/* [0, 1), 24 bits. */
DEVICE float rng_uniform(Rng *rng)
{
    return (float)(rng_u32(rng) >> 8) * 5.9604644775390625e-8f;
}

/* ---- Clusters: for kernels launched by LAUNCH_CLUSTER only. Code for targets below sm_90 compiles and traps. ---- */
#ifdef CUDISTILL_EMU
DEVICE void cluster_sync(void)
{
    emu::cluster_barrier();
}
DEVICE int cluster_rank(void)
{
    return emu::cluster_rank();
}
template <typename T> DEVICE T *cluster_shared(T *mine, int rank)
{
    return static_cast<T *>(emu::cluster_shared(mine, rank));
}
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
/* Barrier of all threads of the cluster; orders their shared memory. One is needed before a block reads another's memory
 * for the first time, and one before a block whose memory is read may end. */
DEVICE void cluster_sync(void)
{
    cooperative_groups::this_cluster().sync();
}
/* Of this block in its cluster. */
DEVICE int cluster_rank(void)
{
    return (int)cooperative_groups::this_cluster().block_rank();
}
/* The address, in block `rank` of the cluster, of what is at `mine` in this block's shared memory. */
template <typename T> DEVICE T *cluster_shared(T *mine, int rank)
{
    return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
}
#else
DEVICE void cluster_sync(void)
{
    __trap();
}
DEVICE int cluster_rank(void)
{
    __trap();
    return 0;
}
template <typename T> DEVICE T *cluster_shared(T *mine, int)
{
    __trap();
    return mine;
}
#endif

#endif
