/* Column, flat and arena loops for AVX-512, with the bf16 conversions done by integer arithmetic
 * or, where the CPU has them, by its own instructions. */
#include "backend/cpu.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "cpu_isa.h"

#ifdef CPU_X86
#include <immintrin.h>

#define PLAIN __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define NATIVE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")))
#define V __m512
#define VL 16
#define V_SET1(x) _mm512_set1_ps(x)
#define V_ADD(a, b) _mm512_add_ps(a, b)
#define V_SUB(a, b) _mm512_sub_ps(a, b)
#define V_MUL(a, b) _mm512_mul_ps(a, b)
#define V_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define V_RELU(a) _mm512_max_ps(_mm512_setzero_ps(), a)
#define V_KEEP_POSITIVE(y, v)                                                                      \
    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_GT_OQ), v)
#define V_IF_ABOVE(a, b, x, y)                                                                     \
    _mm512_mask_blend_ps(                                                                          \
        (__mmask16)(_mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ) & _mm512_cmp_ps_mask(b, b, _CMP_ORD_Q)), \
        y, x)
#define V_KEEP_EQUAL(a, b, v) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), v)
#define V_LOAD_U8(p)                                                                               \
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#define V_LOAD(p) _mm512_loadu_ps(p)
#define V_STORE(p, v) _mm512_storeu_ps(p, v)

static inline __attribute__((always_inline)) PLAIN __m512 load_bf16(const bf16 *p)
{
    const __m512i wide =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline __attribute__((always_inline)) PLAIN void store_bf16(bf16 *p, __m512 v)
{
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
    const __m512i round = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(round, nan, quiet)));
}

static inline __attribute__((always_inline)) NATIVE void store_bf16_native(bf16 *p, __m512 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh(v));
}

#define TARGET PLAIN
#define LOOPS_ISA "avx512"
#include "cpu_loops_types.inc"

/* bf16 once more, with the CPU's own conversion. */
#undef TARGET
#define TARGET NATIVE
#define NAME(x) native_##x
#define E_STORE(p, v) store_bf16_native(p, v)
#include "cpu_loops.inc"
static const CpuLoops NATIVE_LOOPS = LOOPS_TABLE("avx512_bf16 bf16");

const CpuLoops *cpu_loops_avx512(DType storage, bool native)
{
    if (storage == DT_F32) {
        return &F32_LOOPS;
    }
    return native ? &NATIVE_LOOPS : &BF16_LOOPS;
}

const CpuArenaLoops *cpu_arena_avx512(void)
{
    return &ARENA_LOOPS;
}

#endif
