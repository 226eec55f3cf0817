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
/* 16 independent sums cover the latency of two units of 4 to 6 cycles. */
#define PEAK_SUMS(X)                                                                               \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

__attribute__((target("avx512f,avx512bf16"))) static inline double peak_avx512_bf16(long rounds)
{
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80);
#define DECLARE(i)                                                                                 \
    __m512 a##i = _mm512_set1_ps((float)(i));                                                      \
    __asm__ volatile("" : "+v"(a##i));
#define STEP(i) a##i = _mm512_dpbf16_ps(a##i, x, x);
#define KEEP(i) __asm__ volatile("" : : "v"(a##i));
    PEAK_SUMS(DECLARE)
    for (long k = 0; k < rounds; k++) {
        PEAK_SUMS(STEP)
        __asm__ volatile("" : "+v"(x));
    }
    PEAK_SUMS(KEEP)
#undef STEP
    return (double)rounds * 16 * 64;
}

__attribute__((target("avx512f"))) static inline double peak_avx512_fma(long rounds)
{
    __m512 x = _mm512_set1_ps(0.5f);
#define STEP(i) a##i = _mm512_fmadd_ps(x, x, a##i);
    PEAK_SUMS(DECLARE)
    for (long k = 0; k < rounds; k++) {
        PEAK_SUMS(STEP)
        __asm__ volatile("" : "+v"(x));
    }
    PEAK_SUMS(KEEP)
#undef STEP
#undef DECLARE
#undef KEEP
    return (double)rounds * 16 * 32;
}

/* 12 sums: AVX2 has 16 registers. */
__attribute__((target("avx2,fma"))) static inline double peak_avx2_fma(long rounds)
{
    __m256 x = _mm256_set1_ps(0.5f);
#define PEAK_FEW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define DECLARE(i)                                                                                 \
    __m256 a##i = _mm256_set1_ps((float)(i));                                                      \
    __asm__ volatile("" : "+x"(a##i));
#define STEP(i) a##i = _mm256_fmadd_ps(x, x, a##i);
#define KEEP(i) __asm__ volatile("" : : "x"(a##i));
    PEAK_FEW(DECLARE)
    for (long k = 0; k < rounds; k++) {
        PEAK_FEW(STEP)
        __asm__ volatile("" : "+x"(x));
    }
    PEAK_FEW(KEEP)
#undef STEP
#undef DECLARE
#undef KEEP
    return (double)rounds * 12 * 16;
}

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
