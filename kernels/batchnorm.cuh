/* What the forward and the backward batch norm kernels share: how a tensor is cut, the coefficients, the second kernel of
 * every reduction. */
#ifndef CUDISTILL_KERNELS_BATCHNORM_CUH
#define CUDISTILL_KERNELS_BATCHNORM_CUH

#include "kernels/kernel.cuh"

#include "kernels/batchnorm.h"
#include "kernels/chunk.cuh"

/* Blocks of coef. */
enum { COEF_MEAN, COEF_INVSTD, COEF_SCALE, COEF_SHIFT };

/* x*scale + shift, in the same operations wherever it is computed: masks that are made again must agree. */
DEVICE float affine(float x, float scale, float shift)
{
    return fmaf(x, scale, shift);
}

static inline bool shape_is_good(const BnShape &shape)
{
    return shape.n >= 0 && shape.hw > 0 && shape.c > 0;
}

static inline int64_t pixels_of(const BnShape &shape)
{
    return (int64_t)shape.n * shape.hw;
}

/* ---- Reductions ---- */
typedef struct {
    Columns columns;
    int64_t block_rows;
    int n, hw;
    const float *rows_valid;
} SumShape;

static inline SumShape sum_shape(const BnShape &shape, bool packed)
{
    SumShape sum = {};
    sum.columns = columns_of(pixels_of(shape), shape.c, packed);
    sum.block_rows = sum_split(sum.columns).rows;
    sum.n = shape.n;
    sum.hw = shape.hw;
    sum.rows_valid = shape.rows_valid;
    return sum;
}

/* sums = {first, second (* invstd where coef is given), count} from the partials of a kernel that ran over sum_split blocks. */
KernelStatus bn_launch_sums(KernelStream stream, const SumShape &shape, const float *partials,
                            const float *coef, float *sums);

/* ---- Elementwise passes ---- */
typedef struct {
    Columns columns;
    int n, hw;
    const float *rows_valid;
} PassShape;

static inline PassShape pass_shape(const BnShape &shape, bool packed)
{
    PassShape pass = {};
    pass.columns = columns_of(pixels_of(shape), shape.c, packed);
    pass.n = shape.n;
    pass.hw = shape.hw;
    pass.rows_valid = shape.rows_valid;
    return pass;
}

static inline dim3 pass_grid(const Columns &columns, int unroll)
{
    return column_grid(stream_blocks(columns.rows, columns.per_block, unroll, columns.tiles),
                       columns);
}

/* Bit masks belong to one pixel: rows of several pixels cannot serve them. */
static inline bool packs_fit(bool bits, int c)
{
    return !bits || c % CHUNK == 0;
}

#endif
