/* CUDA C as plain C++17: what kernels/kernel.cuh builds on where CUDISTILL_EMU is defined. Every thread of a block runs
 * in turn on the CPU; only threads that meet a barrier or a warp exchange get a stack of their own.
 *
 * A block runs warp by warp: every lane of the warp runs to its next meeting point, then every lane to the one after,
 * until all wait at a barrier of the block; then the next warp. Lanes, warps and blocks are taken forwards, backwards or
 * permuted (emu_api.h). What differs between the three orders is a missing barrier.
 *
 * All kernels of a process run under one lock, hence the plain global variables. Errors of the kernel (addresses,
 * alignment, divergence) end the process with kernel, block and thread. */
#ifndef CUDISTILL_KERNELS_EMU_H
#define CUDISTILL_KERNELS_EMU_H

#include <cuda_runtime_api.h>

#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

/* ---- Vector types of CUDA C ---- */
#define EMU_VECTORS(base, name)                                                                    \
    struct name##2                                                                                 \
    {                                                                                              \
        base x, y;                                                                                 \
    };                                                                                             \
    struct name##3                                                                                 \
    {                                                                                              \
        base x, y, z;                                                                              \
    };                                                                                             \
    struct name##4                                                                                 \
    {                                                                                              \
        base x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name##2 make_##name##2(base x, base y)                                           \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##3 make_##name##3(base x, base y, base z)                                   \
    {                                                                                              \
        return {x, y, z};                                                                          \
    }                                                                                              \
    static inline name##4 make_##name##4(base x, base y, base z, base w)                           \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
EMU_VECTORS(float, float)
EMU_VECTORS(int, int)
EMU_VECTORS(unsigned, uint)
EMU_VECTORS(unsigned char, uchar)
EMU_VECTORS(short, short)
EMU_VECTORS(unsigned short, ushort)
#undef EMU_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

/* ---- 16-bit storage types ---- */
struct half_t {
    uint16_t bits;
};
struct bf16_t {
    uint16_t bits;
};

namespace emu
{

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- Meeting points ---- */
enum { LANES = 32, SLOT_BYTES = 128 };

/* What the lanes of a warp deposit at one meeting; two take turns, since a lane may arrive at the next meeting before
 * others have read this one. */
struct Exchange {
    bool reduced;
    alignas(16) char slot[LANES][SLOT_BYTES];
};

enum Meeting { MEET_SYNC, MEET_SHUFFLE, MEET_BALLOT, MEET_REDUCE };

/* Of the lane that runs: its place in the warp, and where its warp deposits next. */
extern int lane;
extern Exchange *deposit;

/* Returns when all lanes of the warp are here. `detail` must be equal in all of them. */
void meet_warp(Meeting kind, int detail);
void block_barrier();
void cluster_barrier();
int cluster_rank();
void *cluster_shared(void *mine, int rank);

template <typename T> T exchange(T value, int source, Meeting kind, int detail)
{
    static_assert(sizeof(T) <= SLOT_BYTES, "too large for an exchange");
    static_assert(std::is_trivially_copyable<T>::value, "exchanges copy bytes");
    Exchange *const own = deposit;
    memcpy(own->slot[lane], &value, sizeof value);
    meet_warp(kind, detail);
    memcpy(&value, own->slot[source], sizeof value);
    return value;
}

/* The butterfly's tree: combine is commutative, so that all lanes of the butterfly hold these bits. */
template <typename T, typename Combine> T reduce(T value, Combine combine)
{
    static_assert(sizeof(T) <= SLOT_BYTES, "too large for an exchange");
    Exchange *const own = deposit;
    memcpy(own->slot[lane], &value, sizeof value);
    meet_warp(MEET_REDUCE, (int)sizeof value);
    if (!own->reduced) {
        T all[LANES];
        for (int i = 0; i < LANES; i++) {
            memcpy(&all[i], own->slot[i], sizeof value);
        }
        for (int apart = LANES / 2; apart > 0; apart /= 2) {
            for (int i = 0; i < apart; i++) {
                all[i] = combine(all[i], all[i + apart]);
            }
        }
        memcpy(own->slot[0], &all[0], sizeof value);
        own->reduced = true;
    }
    memcpy(&value, own->slot[0], sizeof value);
    return value;
}

/* ---- Shared memory ---- */
/* Of one SHARED_ARRAY line: where its array lies in every block of the launch numbered `launch`. */
struct SharedSite {
    uint64_t launch;
    size_t offset;
};
void *shared_array(SharedSite *site, size_t bytes, const char *name);
void *dynamic_shared();
bool in_shared(const void *p);

/* ---- Global memory ---- */
/* Bytes of the running launch. */
struct Counts {
    uint64_t loaded, stored, cached;
};
extern Counts counts;

/* The allocation that was last hit. */
extern uintptr_t allocation_base;
extern size_t allocation_bytes;
/* Finds the allocation that holds the bytes and makes it the last hit, or ends the process. */
void find_allocation(const void *p, size_t bytes, const char *what);
[[noreturn]] void misaligned(const void *p, size_t align, const char *what);

template <typename T> inline void check_access(const T *p, const char *what)
{
    static_assert(std::is_trivially_copyable<T>::value, "global memory holds plain values");
    const uintptr_t at = (uintptr_t)p;
    constexpr size_t align = sizeof(T) % 16 == 0 ? 16 : sizeof(T);
    static_assert((align & (align - 1)) == 0, "1, 2, 4, 8 or a multiple of 16 bytes");
    if (at % align != 0) {
        misaligned(p, align, what);
    }
    const size_t offset = at - allocation_base;
    if (offset >= allocation_bytes || sizeof(T) > allocation_bytes - offset) {
        find_allocation(p, sizeof(T), what);
    }
}
template <typename T> inline T load(const T *p, uint64_t *counter)
{
    check_access(p, "load");
    *counter += sizeof(T);
    T value;
    memcpy(&value, static_cast<const void *>(p), sizeof value);
    return value;
}
template <typename T> inline void store(T *p, const T &value)
{
    check_access(p, "store");
    counts.stored += sizeof(T);
    memcpy(static_cast<void *>(p), &value, sizeof value);
}
template <typename T, typename Op> inline T atomic(T *p, Op op)
{
    if (in_shared(p)) {
        const T before = *p;
        *p = op(before);
        return before;
    }
    const T before = load(p, &counts.loaded);
    store(p, op(before));
    return before;
}

/* ---- Launching ---- */
struct LaunchShape {
    const char *kernel, *launcher;
    dim3 grid, block;
    unsigned cluster;
    size_t shared_bytes;
};
/* Checks the shape, then puts the work into the stream. `kernel` is its address, `thread` runs one thread. The error,
 * if any, is what cudaGetLastError then returns. */
void submit(const LaunchShape &shape, cudaStream_t stream, const void *kernel,
            std::function<void()> thread);

template <typename... Params, typename... Args>
void launch(const LaunchShape &shape, cudaStream_t stream, void (*kernel)(Params...), Args... args)
{
    static_assert(sizeof...(Params) == sizeof...(Args), "number of arguments");
    static_assert((!std::is_reference<Params>::value && ...), "parameters are copied");
    static_assert((std::is_trivially_copyable<Params>::value && ...), "parameters are copied");
    typedef std::tuple<std::decay_t<Params>...> Copies;
    static_assert(sizeof(Copies) <= 4096, "more than 4 KB of arguments");
    submit(shape, stream, reinterpret_cast<const void *>(kernel),
           [kernel, copies = Copies(static_cast<Params>(args)...)] { std::apply(kernel, copies); });
}

} // namespace emu

/* ---- Conversions ---- */
static inline float to_float(bf16_t x)
{
    return emu::float_of((uint32_t)x.bits << 16);
}
static inline bf16_t __float2bfloat16_rn(float x)
{
    const uint32_t bits = emu::bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return {0x7fff};
    }
    return {(uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
static inline float to_float(half_t x)
{
    const uint32_t sign = (uint32_t)(x.bits & 0x8000u) << 16;
    const uint32_t exponent = (x.bits >> 10) & 31u;
    const uint32_t fraction = x.bits & 0x3ffu;
    if (exponent == 0) { /* zero and subnormals: fraction * 2^-24, exact */
        return emu::float_of(sign | emu::bits_of((float)fraction * 0x1p-24f));
    }
    const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    return emu::float_of(sign | wide << 23 | fraction << 13);
}
static inline half_t __float2half_rn(float x)
{
    const uint32_t bits = emu::bits_of(x);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const uint32_t size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) {
        return {0x7fff};
    }
    if (size >= 0x477ff000u) { /* 65520 and above round to infinity */
        return {(uint16_t)(sign | 0x7c00u)};
    }
    if (size <
        0x38800000u) { /* below 2^-14: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded to even */
        const float shifted = emu::float_of(size) + 0.5f;
        return {(uint16_t)(sign | (emu::bits_of(shifted) - emu::bits_of(0.5f)))};
    }
    const uint32_t even = size + 0xfffu + (size >> 13 & 1u);
    return {(uint16_t)(sign | ((even - 0x38000000u) >> 13))};
}

/* ---- Built-in functions of CUDA C. No floating-point atomics: sums have a fixed order. ---- */
static inline void __syncthreads()
{
    emu::block_barrier();
}
static inline void __syncwarp(unsigned = 0xffffffffu)
{
    emu::meet_warp(emu::MEET_SYNC, 0);
}
template <typename T> T __shfl_sync(unsigned, T value, int source)
{
    return emu::exchange(value, source & 31, emu::MEET_SHUFFLE, 0);
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int mask)
{
    return emu::exchange(value, (emu::lane ^ mask) & 31, emu::MEET_SHUFFLE, 1 + mask);
}
template <typename T> T __shfl_down_sync(unsigned, T value, unsigned delta)
{
    const int source = emu::lane + (int)delta;
    return emu::exchange(value, source < 32 ? source : emu::lane, emu::MEET_SHUFFLE,
                         100 + (int)delta);
}
template <typename T> T __shfl_up_sync(unsigned, T value, unsigned delta)
{
    const int source = emu::lane - (int)delta;
    return emu::exchange(value, source >= 0 ? source : emu::lane, emu::MEET_SHUFFLE,
                         200 + (int)delta);
}
static inline unsigned __ballot_sync(unsigned, int said)
{
    emu::Exchange *const own = emu::deposit;
    own->slot[emu::lane][0] = said != 0;
    emu::meet_warp(emu::MEET_BALLOT, 0);
    unsigned bits = 0;
    for (int i = 0; i < emu::LANES; i++) {
        bits |= (unsigned)own->slot[i][0] << i;
    }
    return bits;
}
static inline int __any_sync(unsigned mask, int said)
{
    return __ballot_sync(mask, said) != 0;
}
static inline int __all_sync(unsigned mask, int said)
{
    return __ballot_sync(mask, said) == 0xffffffffu;
}
static inline unsigned __float_as_uint(float x)
{
    return emu::bits_of(x);
}
static inline int __float_as_int(float x)
{
    return (int)emu::bits_of(x);
}
static inline float __uint_as_float(unsigned bits)
{
    return emu::float_of(bits);
}
static inline float __int_as_float(int bits)
{
    return emu::float_of((unsigned)bits);
}
static inline int __popc(unsigned bits)
{
    return __builtin_popcount(bits);
}
static inline int __clz(int bits)
{
    return bits == 0 ? 32 : __builtin_clz((unsigned)bits);
}
static inline int __ffs(int bits)
{
    return __builtin_ffs(bits);
}
static inline unsigned __brev(unsigned bits)
{
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++) {
        reversed |= (bits >> i & 1u) << (31 - i);
    }
    return reversed;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
/* CUDA's overloads of min and max. */
#define EMU_MIN_MAX(type)                                                                          \
    static inline type min(type a, type b)                                                         \
    {                                                                                              \
        return a < b ? a : b;                                                                      \
    }                                                                                              \
    static inline type max(type a, type b)                                                         \
    {                                                                                              \
        return a > b ? a : b;                                                                      \
    }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}
/* Integer atomics, on global and shared memory; threads run in turn, so they are plain. */
template <typename T> T atomicAdd(T *p, T value)
{
    static_assert(std::is_integral<T>::value, "no floating-point atomics: sums have a fixed order");
    return emu::atomic(p, [value](T before) { return (T)(before + value); });
}
template <typename T> T atomicMax(T *p, T value)
{
    return emu::atomic(p, [value](T before) { return before > value ? before : value; });
}
template <typename T> T atomicMin(T *p, T value)
{
    return emu::atomic(p, [value](T before) { return before < value ? before : value; });
}
template <typename T> T atomicOr(T *p, T value)
{
    return emu::atomic(p, [value](T before) { return (T)(before | value); });
}
template <typename T> T atomicExch(T *p, T value)
{
    return emu::atomic(p, [value](T) { return value; });
}
template <typename T> T atomicCAS(T *p, T expected, T value)
{
    return emu::atomic(p, [=](T before) { return before == expected ? value : before; });
}
static inline void __threadfence()
{
}

#endif
