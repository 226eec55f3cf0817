/* Elementwise kernels, casts, gradient accumulation, gathers, pooling. F32, BF16, F16 unless said; minimum bytes: each
 * input read once, each output written once. Reference loops: host/backend/ref_misc.c. */
#ifndef CUDISTILL_KERNELS_ELEMENTWISE_H
#define CUDISTILL_KERNELS_ELEMENTWISE_H

#include "kernels/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Outputs may be the same memory as an input of the same type. ReLU keeps NaN. */
KernelStatus kernel_relu(KernelStream stream, KernelType type, int64_t count, const void *x,
                         void *y);
KernelStatus kernel_relu_bwd(KernelStream stream, KernelType type, int64_t count, const void *dy,
                             const void *y, void *dx);
KernelStatus kernel_add(KernelStream stream, KernelType type, int64_t count, const void *a,
                        const void *b, bool relu, void *y);
KernelStatus kernel_cast(KernelStream stream, KernelType from, KernelType to, int64_t count,
                         const void *x, void *y);
/* Weights [rows][c] -> [rows][c_out], c_out >= c, padding channels zero, rounded to `to`; and gradients back: fp32 grad
 * [rows][c] = or += the first c of each row of x [rows][c_in]. c_in = c: the flat case. */
KernelStatus kernel_pad_channels(KernelStream stream, KernelType to, int64_t rows, int c, int c_out,
                                 const float *x, void *y);
KernelStatus kernel_grad_accumulate(KernelStream stream, KernelType from, int64_t rows, int c,
                                    int c_in, const void *x, bool add, float *grad);
/* db[c] = or += sum over n, hw of dy; fixed order. workspace: kernel_bias_grad_workspace bytes, 4-byte aligned. */
size_t kernel_bias_grad_workspace(int n, int hw, int c);
KernelStatus kernel_bias_grad(KernelStream stream, KernelType type, int n, int hw, int c,
                              const void *dy, bool add, float *db, void *workspace);
/* y[i] = table[index[i]], rows of row_bytes; an index outside 0 .. table_rows-1 gives a row of 0xFF bytes (NaN). */
KernelStatus kernel_gather(KernelStream stream, int n, int64_t row_bytes, int64_t table_rows,
                           const void *table, const int32_t *index, void *y);

typedef struct {
    KernelType type;
    int n, h, w, c; /* of x */
    int oh, ow;     /* of y */
    int kernel, stride, pad;
} PoolShape;
/* Average divides by kernel^2, padding counted; maximum: index U8 = position in the window, first of ties, NaN wins;
 * kernel <= 16, pad < kernel. The backward kernels gather: each dx element sums its windows in fixed order. Where windows
 * overlap, an element is read once for each of them, from the caches. */
KernelStatus kernel_avgpool(KernelStream stream, PoolShape shape, const void *x, void *y);
KernelStatus kernel_avgpool_bwd(KernelStream stream, PoolShape shape, const void *dy, void *dx);
KernelStatus kernel_maxpool(KernelStream stream, PoolShape shape, const void *x, void *y,
                            uint8_t *index);
KernelStatus kernel_maxpool_bwd(KernelStream stream, PoolShape shape, const void *dy,
                                const uint8_t *index, void *dx);

#ifdef __cplusplus
}
#endif
#endif
