/* Column, flat and arena loops in plain C with 16-byte vectors, for any processor; and the choice
 * of instruction set. */
#include "backend/cpu.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "cpu_isa.h"

typedef float V __attribute__((vector_size(16)));
typedef int32_t Bits __attribute__((vector_size(16)));
#define TARGET
#define VL 4
#define V_SET1(x) ((V){(x), (x), (x), (x)})
#define V_ADD(a, b) ((a) + (b))
#define V_SUB(a, b) ((a) - (b))
#define V_MUL(a, b) ((a) * (b))
#define V_FMA(a, b, c) ((a) * (b) + (c))
#define V_RELU(a) clear_where((a), (a) <= V_SET1(0.0f))
#define V_KEEP_POSITIVE(y, v) clear_where((v), ~((y) > V_SET1(0.0f)))
#define V_IF_ABOVE(a, b, x, y) select_bits(~((a) <= (b)) & ((b) == (b)), (x), (y))
#define V_KEEP_EQUAL(a, b, v) clear_where((v), (a) != (b))
#define V_LOAD_U8(p) ((V){(float)(p)[0], (float)(p)[1], (float)(p)[2], (float)(p)[3]})
#define V_LOAD(p) load_f32(p)
#define V_STORE(p, v) store_f32(p, v)

static inline V clear_where(V v, Bits mask)
{
    return (V)((Bits)v & ~mask);
}

static inline V select_bits(Bits mask, V yes, V no)
{
    return (V)(((Bits)yes & mask) | ((Bits)no & ~mask));
}

static inline V load_f32(const float *p)
{
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store_f32(float *p, V v)
{
    memcpy(p, &v, sizeof v);
}

static inline V load_bf16(const bf16 *p)
{
    return (V){bf16_to_float(p[0]), bf16_to_float(p[1]), bf16_to_float(p[2]), bf16_to_float(p[3])};
}

static inline void store_bf16(bf16 *p, V v)
{
    for (int i = 0; i < VL; i++) {
        p[i] = bf16_from_float(v[i]);
    }
}

#define LOOPS_ISA "base"
#include "cpu_loops_types.inc"

const CpuLoops *cpu_loops(CpuIsa isa, DType storage)
{
    CHECK(storage == DT_F32 || storage == DT_BF16, "cpu loops store f32 or bf16, not %s",
          dtype_name(storage));
#ifdef CPU_X86
    if (isa >= CPU_AVX512) {
        return cpu_loops_avx512(storage, isa == CPU_AVX512_BF16);
    }
    if (isa == CPU_AVX2) {
        return cpu_loops_avx2(storage);
    }
#else
    (void)isa;
#endif
    return storage == DT_F32 ? &F32_LOOPS : &BF16_LOOPS;
}

const CpuArenaLoops *cpu_arena_loops(CpuIsa isa)
{
#ifdef CPU_X86
    if (isa >= CPU_AVX512) {
        return cpu_arena_avx512();
    }
    if (isa == CPU_AVX2) {
        return cpu_arena_avx2();
    }
#else
    (void)isa;
#endif
    return &ARENA_LOOPS;
}

static CpuIsa isa_of_machine(void)
{
#ifdef CPU_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq");
    if (avx512) {
        return __builtin_cpu_supports("avx512bf16") ? CPU_AVX512_BF16 : CPU_AVX512;
    }
    return avx2 ? CPU_AVX2 : CPU_BASE;
#else
    return CPU_BASE;
#endif
}

static const char *const ISA_NAMES[CPU_ISA_COUNT] = {"base", "avx2", "avx512_core",
                                                     "avx512_core_bf16"};

const char *cpu_isa_name(CpuIsa isa)
{
    return ISA_NAMES[isa];
}

Err *cpu_isa_detect(const char *cap, CpuIsa *out)
{
    *out = isa_of_machine();
    if (!cap) {
        return NULL;
    }
    for (int i = 0; i < CPU_ISA_COUNT; i++) {
        if (strcmp(cap, ISA_NAMES[i]) == 0) {
            *out = *out < (CpuIsa)i ? *out : (CpuIsa)i;
            return NULL;
        }
    }
    return err_new(EXIT_CONFIG_ERR,
                   "unknown instruction set '%s': use base, avx2, avx512_core or avx512_core_bf16",
                   cap);
}
