/* What all kernel launchers share. A launcher is a plain C function: pointers into device memory, sizes, a stream; it
 * picks its own grid, neither allocates nor waits, and returns a status: 0, or the cudaError_t of the launch. Only host
 * code turns a status into a message; nothing here exits or prints.
 *
 * Every launcher may be captured. What changes from step to step is read from device memory, never passed by value.
 * Results do not depend on the schedule: sums have a fixed order, there are no floating-point atomics. Nothing waits
 * for another block of its grid, so no launch can stall under a concurrent all-reduce.
 *
 * Images are N H W C. No alignment beyond the element is needed; 16-byte alignment is faster. */
#ifndef CUDISTILL_KERNELS_LAUNCH_H
#define CUDISTILL_KERNELS_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers of DType (graph/tensor.h); storage only, all arithmetic is fp32. */
typedef enum {
    KERNEL_F32 = 0,
    KERNEL_BF16 = 1,
    KERNEL_F16 = 2,
    KERNEL_I32 = 4,
    KERNEL_U8 = 5
} KernelType;

typedef struct CUstream_st *KernelStream; /* cudaStream_t */
typedef int KernelStatus;                 /* cudaError_t; 0 = launched */

/* Status of arguments that a launcher cannot take (cudaErrorInvalidValue). */
enum { KERNEL_BAD_ARGUMENT = 1 };

#ifdef __cplusplus
}
#endif
#endif
