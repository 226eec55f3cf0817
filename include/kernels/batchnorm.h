/* Batch norm as small kernels (graph.h OP_BN_*): sums by a first kernel into partials and by a second, one block for 8
 * channels, into the result, in fixed order; then one elementwise pass. Reference loops: host/backend/ref_norm.c.
 *
 * Minimum bytes, E = n*hw*c elements of the storage type: stats E read; apply E read (2E with residual), E written (+ E/8
 * bytes of mask); reduce 2E read (+E dy2, +E y or + mask bits), E written where dz is asked for; dx 2E read (+E y or mask
 * bits), E written.
 *
 * `sums` is F32 [2c+1], `coef` F32 [4c] (mean, invstd, scale, shift): see graph.h. rows_valid: F32 [1] in device memory;
 * NULL = n. hw = pixels of an image. */
#ifndef CUDISTILL_KERNELS_BATCHNORM_H
#define CUDISTILL_KERNELS_BATCHNORM_H

#include "kernels/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    KernelType type; /* of x, y, dy, dz, dx: F32, BF16, F16 */
    int n, hw, c;
    const float *rows_valid;
} BnShape;

/* Bytes of scratch for stats and reduce; 4-byte aligned. The cut into partial sums depends on the shape and on whether
 * pointers are aligned to 16 bytes, not on the device. */
size_t kernel_bn_workspace(int n, int hw, int c);
KernelStatus kernel_bn_stats(KernelStream stream, BnShape shape, const void *x, float *sums,
                             void *workspace);
KernelStatus kernel_bn_finalize(KernelStream stream, int c, const float *sums, const float *gamma,
                                const float *beta, float eps, float *coef);
/* In place; see OP_BN_RUNNING for what is not finite. */
KernelStatus kernel_bn_running(KernelStream stream, int c, const float *sums, float momentum,
                               float *running_mean, float *running_var);
KernelStatus kernel_bn_infer(KernelStream stream, int c, const float *gamma, const float *beta,
                             const float *mean, const float *var, float eps, float *coef);
/* y = x*scale + shift (+ residual) (relu). mask (NULL = none): U8 [n][hw][(c+7)/8]. y may be x or residual. */
KernelStatus kernel_bn_apply(KernelStream stream, BnShape shape, const void *x, const float *coef,
                             const void *residual, bool relu, void *y, uint8_t *mask);

/* Where a backward kernel takes the ReLU mask from. */
typedef enum { BN_MASK_NONE, BN_MASK_OUTPUT /* y > 0 */, BN_MASK_BITS, BN_MASK_REMAKE } BnMask;
typedef struct {
    BnMask kind;
    const void *y;       /* OUTPUT */
    const uint8_t *bits; /* BITS */
} BnMaskSource;
/* dz NULL = not stored; dy2 NULL = none. dz may be dy or dy2. The second sum is added up as dz*(x - mean) in fp32, over
 * at most 256 rows, then in double. */
KernelStatus kernel_bn_reduce(KernelStream stream, BnShape shape, const void *dy, const void *dy2,
                              const void *x, const float *coef, BnMaskSource mask, void *dz,
                              float *sums, void *workspace);
/* dgamma, dbeta: F32 [c], either may be NULL; add: += */
KernelStatus kernel_bn_dparam(KernelStream stream, int c, const float *sums, float *dgamma,
                              float *dbeta, bool add);
/* frozen: dx = scale*dz', sums not read. dx may be dz, x or y. */
KernelStatus kernel_bn_dx(KernelStream stream, BnShape shape, const void *dz, const void *x,
                          const float *coef, const float *sums, BnMaskSource mask, bool frozen,
                          void *dx);
/* OP_FOLD_BN on OHWI weights [o][per_o = taps*i], fp32: w_out = w*scale[o], b_out[o] = (bias - mean)*scale + beta, with
 * scale = gamma/sqrt(var + eps). bias NULL = zero. w_out may be w. */
KernelStatus kernel_fold_bn(KernelStream stream, int o, int64_t per_o, const float *w,
                            const float *bias, const float *gamma, const float *beta,
                            const float *mean, const float *var, float eps, float *w_out,
                            float *b_out);

#ifdef __cplusplus
}
#endif
#endif
