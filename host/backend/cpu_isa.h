/* Private to cpu_loops_*.c: which loops exist on this architecture. */
#ifndef CUDISTILL_BACKEND_CPU_ISA_H
#define CUDISTILL_BACKEND_CPU_ISA_H

#include "backend/cpu.h"

#if defined(__x86_64__)
#define CPU_X86 1
#endif

#ifdef CPU_X86
const CpuLoops *cpu_loops_avx2(DType storage);
const CpuArenaLoops *cpu_arena_avx2(void);
const CpuLoops *cpu_loops_avx512(DType storage, bool native);
const CpuArenaLoops *cpu_arena_avx512(void);
#endif

#endif
