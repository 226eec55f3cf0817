/* Column, flat and arena loops for AVX2 with FMA. */
#include "backend/cpu.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "cpu_isa.h"

#ifdef CPU_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define V __m256
#define VL 8
#define V_SET1(x) _mm256_set1_ps(x)
#define V_ADD(a, b) _mm256_add_ps(a, b)
#define V_SUB(a, b) _mm256_sub_ps(a, b)
#define V_MUL(a, b) _mm256_mul_ps(a, b)
#define V_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define V_RELU(a) _mm256_max_ps(_mm256_setzero_ps(), a)
#define V_KEEP_POSITIVE(y, v) _mm256_and_ps(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_GT_OQ), v)
#define V_IF_ABOVE(a, b, x, y)                                                                     \
    _mm256_blendv_ps(                                                                              \
        y, x, _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLE_UQ), _mm256_cmp_ps(b, b, _CMP_ORD_Q)))
#define V_KEEP_EQUAL(a, b, v) _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ), v)
#define V_LOAD_U8(p)                                                                               \
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
#define V_LOAD(p) _mm256_loadu_ps(p)
#define V_STORE(p, v) _mm256_storeu_ps(p, v)

static inline __attribute__((always_inline)) TARGET __m256 load_bf16(const bf16 *p)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline __attribute__((always_inline)) TARGET void store_bf16(bf16 *p, __m256 v)
{
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i half =
        _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7FFF));
    const __m256i round = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i wide = _mm256_blendv_epi8(round, quiet, nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(packed));
}

#define LOOPS_ISA "avx2"
#include "cpu_loops_types.inc"

const CpuLoops *cpu_loops_avx2(DType storage)
{
    return storage == DT_F32 ? &F32_LOOPS : &BF16_LOOPS;
}

const CpuArenaLoops *cpu_arena_avx2(void)
{
    return &ARENA_LOOPS;
}

#endif
