/* What the CPU can do at most, measured: multiply-adds from registers alone with the widest unit it
 * has for a type, and reading a large array. The limits that bench programs compare with. */
#ifndef CUDISTILL_BENCH_PEAK_H
#define CUDISTILL_BENCH_PEAK_H

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct {
    const char *unit;   /* "amx_bf16", "avx512_bf16", "avx512_fma", "avx2_fma", "plain" */
    double gflop_per_s; /* all threads together */
} Peak;

typedef double (*PeakLoop)(long rounds); /* returns the flops of one thread */

static inline double peak_plain(long rounds)
{
    float a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (long k = 0; k < rounds; k++) {
        for (int i = 0; i < 8; i++) {
            a[i] = a[i] * 0.999f + 0.5f;
        }
        __asm__ volatile("" : : "r"(a) : "memory");
    }
    return (double)rounds * 16;
}

#if defined(__x86_64__)
/* Sums that do not depend on each other. 16 cover the latency of two units of 4 to 6 cycles; AVX2
 * has registers for 12. */
#define PEAK_12(X, ...)                                                                            \
    X(0, __VA_ARGS__);                                                                             \
    X(1, __VA_ARGS__);                                                                             \
    X(2, __VA_ARGS__);                                                                             \
    X(3, __VA_ARGS__);                                                                             \
    X(4, __VA_ARGS__);                                                                             \
    X(5, __VA_ARGS__);                                                                             \
    X(6, __VA_ARGS__);                                                                             \
    X(7, __VA_ARGS__);                                                                             \
    X(8, __VA_ARGS__);                                                                             \
    X(9, __VA_ARGS__);                                                                             \
    X(10, __VA_ARGS__);                                                                            \
    X(11, __VA_ARGS__)
#define PEAK_16(X, ...)                                                                            \
    PEAK_12(X, __VA_ARGS__);                                                                       \
    X(12, __VA_ARGS__);                                                                            \
    X(13, __VA_ARGS__);                                                                            \
    X(14, __VA_ARGS__);                                                                            \
    X(15, __VA_ARGS__)
#define PEAK_DECLARE(i, Sum, spread, where)                                                        \
    Sum a##i = spread((float)(i));                                                                 \
    __asm__ volatile("" : "+" where(a##i))
#define PEAK_STEP(i, next) a##i = next(a##i, x)
#define PEAK_KEEP(i, where) __asm__ volatile("" : : where(a##i))

/* Defines a loop of `count` sums (SUMS is PEAK_count), each a vector from spread(float), onto which
 * next(sum, x) adds `flops` of work; x is a Factor, `factor` at first. where: the constraint of the
 * registers. */
#define PEAK_LOOP(name, isa, SUMS, count, Sum, spread, Factor, factor, next, flops, where)         \
    __attribute__((target(isa))) static inline double name(long rounds)                            \
    {                                                                                              \
        Factor x = factor;                                                                         \
        SUMS(PEAK_DECLARE, Sum, spread, where);                                                    \
        for (long k = 0; k < rounds; k++) {                                                        \
            SUMS(PEAK_STEP, next);                                                                 \
            __asm__ volatile("" : "+" where(x));                                                   \
        }                                                                                          \
        SUMS(PEAK_KEEP, where);                                                                    \
        return (double)rounds * (count) * (flops);                                                 \
    }

#define PEAK_PAIRS_512(sum, x) _mm512_dpbf16_ps(sum, x, x)
#define PEAK_FMA_512(sum, x) _mm512_fmadd_ps(x, x, sum)
#define PEAK_FMA_256(sum, x) _mm256_fmadd_ps(x, x, sum)
PEAK_LOOP(peak_avx512_bf16, "avx512f,avx512bf16", PEAK_16, 16, __m512, _mm512_set1_ps, __m512bh,
          (__m512bh)_mm512_set1_epi32(0x3f803f80), PEAK_PAIRS_512, 64, "v")
PEAK_LOOP(peak_avx512_fma, "avx512f", PEAK_16, 16, __m512, _mm512_set1_ps, __m512,
          _mm512_set1_ps(0.5f), PEAK_FMA_512, 32, "v")
PEAK_LOOP(peak_avx2_fma, "avx2,fma", PEAK_12, 12, __m256, _mm256_set1_ps, __m256,
          _mm256_set1_ps(0.5f), PEAK_FMA_256, 16, "x")

/* Four tiles of sums, two of each factor: 16 rows x 64 bytes each. */
__attribute__((target("amx-tile,amx-bf16"))) static inline double peak_amx_bf16(long rounds)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = 64;
        config.rows[i] = 16;
    }
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (long k = 0; k < rounds; k++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return (double)rounds * 4 * 16 * 16 * 32 * 2;
}

/* AMX needs the system's permission for its register state. */
static inline bool peak_has_amx(void)
{
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    const bool there = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
    return there && syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* ARCH_REQ_XCOMP_PERM, XTILEDATA */
}
#endif

static inline double peak_rate(PeakLoop loop, int threads)
{
    double best = 0;
    const long rounds =
        1L << 17; /* well below a time slice, so that some of many repeats are undisturbed */
    for (int repeat = 0; repeat < 200; repeat++) {
        double flops = 0;
        const double begin = now_s();
#pragma omp parallel num_threads(threads) reduction(+ : flops)
        {
            flops += loop(rounds);
        }
        const double rate = flops / (now_s() - begin) / 1e9;
        best = rate > best ? rate : best;
    }
    return best;
}

/* The widest unit for products of bf16 (`half`) or fp32. */
static inline Peak peak_measure(bool half, int threads)
{
    Peak peak = {"plain", 0};
    PeakLoop loop = peak_plain;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (half && peak_has_amx()) {
        peak.unit = "amx_bf16";
        loop = peak_amx_bf16;
    } else if (half && __builtin_cpu_supports("avx512bf16")) {
        peak.unit = "avx512_bf16";
        loop = peak_avx512_bf16;
    } else if (__builtin_cpu_supports("avx512f")) {
        peak.unit = "avx512_fma";
        loop = peak_avx512_fma;
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        peak.unit = "avx2_fma";
        loop = peak_avx2_fma;
    }
#else
    (void)half;
#endif
    peak.gflop_per_s = peak_rate(loop, threads);
    return peak;
}

/* Reading `bytes` of memory, all threads together, in GB/s: best of a few passes. */
static inline double peak_read(size_t bytes, int threads)
{
    const long count = (long)(bytes / sizeof(uint64_t));
    uint64_t *memory = xaligned((size_t)count * sizeof *memory);
    double best = 0;
    memset(memory, 1, (size_t)count * sizeof *memory);
    for (int repeat = 0; repeat < 20; repeat++) {
        uint64_t sum = 0;
        const double begin = now_s();
#pragma omp parallel for simd num_threads(threads) reduction(+ : sum) schedule(static)
        for (long i = 0; i < count; i++) {
            sum += memory[i];
        }
        const double rate = (double)bytes / (now_s() - begin) / 1e9;
        best = sum && rate > best ? rate : best;
    }
    free(memory);
    return best;
}

#endif
