/* cuBLASLt for the classifier. Only host/backend/cuda_cublas.c includes cuBLAS headers. Row-major matrices; under emulation
 * tests/emu/cublas_by_ref.c defines the same functions.
 *
 * Sums in fp32, without TF32. Life cycle: a plan is freed before its context. Thread rules: one thread. A described device
 * has no library handle: plans then have the workspace that a real one may use at most, and cannot run. */
#ifndef CUDISTILL_BACKEND_CUDA_CUBLAS_H
#define CUDISTILL_BACKEND_CUDA_CUBLAS_H

#include "backend/backend.h"
#include "kernels/launch.h"

typedef struct CublasContext CublasContext;
typedef struct CublasPlan CublasPlan;

typedef struct {
    int m, n, k;       /* C [m][n] = A [m][k] * B [k][n] */
    bool a_transposed; /* stored [k][m] */
    bool b_transposed; /* stored [n][k] */
    DType in;          /* of A and B: F32, BF16, F16; C is F32 */
    bool bias;         /* fp32 [n], added to every row */
} CublasSpec;

/* EXIT_NO_DEVICE with the library's reason. */
Err *cublas_context_open(bool described, CublasContext **out);
void cublas_context_close(CublasContext *context); /* accepts NULL */
/* deterministic: no reduction scheme whose order of additions may vary. EXIT_CONFIG_ERR when there is no algorithm. */
Err *cublas_plan_make(CublasContext *context, const CublasSpec *spec, bool deterministic,
                      CublasPlan **out);
size_t cublas_plan_workspace(const CublasPlan *plan);
/* Addresses are 16-byte aligned. add: C += (then no bias). cublasStatus_t; text by cublas_status_text. */
int cublas_plan_run(CublasContext *context, const CublasPlan *plan, KernelStream stream,
                    const void *a, const void *b, const float *bias, bool add, float *c,
                    void *workspace);
void cublas_plan_free(CublasPlan *plan); /* accepts NULL */
const char *cublas_status_text(int status);

#endif
