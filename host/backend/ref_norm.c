/* Definitions of the batch norm nodes. Sums are [sum, sum of squares | sum dz, sum dz*xhat,
 * count], coefficients are [mean, 1/sqrt(var+eps), scale, shift], each a block of C (graph.h). */
#include "ref_ops.h"

#include <math.h>
#include <string.h>

/* Blocks of a coefficient or sums vector. */
enum { COEF_MEAN, COEF_INVSTD, COEF_SCALE, COEF_SHIFT };

static size_t row_elems(const Tensor *t)
{
    return (size_t)t->h * (size_t)t->w * (size_t)t->c;
}

void ref_sums(const Tensor *x, const double *values, int rows, double *sums)
{
    const size_t c = (size_t)x->c;
    const size_t valid = (size_t)rows * row_elems(x);
    memset(sums, 0, (2 * c + 1) * sizeof(double));
    for (size_t i = 0; i < valid; i++) {
        const double v = values[i];
        sums[i % c] += v;
        sums[c + i % c] += v * v;
    }
    const size_t positions = valid / c; /* whole: valid is a multiple of c */
    sums[2 * c] = (double)positions;
}

void ref_bn_stats(const RefOp *op)
{
    const Tensor *x = ref_in(op, 0);
    ref_sums(x, op->in[0], ref_rows_valid(op, 1, x->n), op->out[0]);
}

/* Mean and biased variance from sums; no rows at all count as zeros. */
static void moments(const double *sums, size_t c, size_t i, double *mean, double *var)
{
    const double count = sums[2 * c];
    *mean = count > 0 ? sums[i] / count : 0;
    *var = count > 0 ? fmax(sums[c + i] / count - *mean * *mean, 0) : 0;
}

static void coefficients(double *coef, size_t c, size_t i, double mean, double var, double eps,
                         double gamma, double beta)
{
    const double invstd = 1 / sqrt(var + eps);
    coef[COEF_MEAN * c + i] = mean;
    coef[COEF_INVSTD * c + i] = invstd;
    coef[COEF_SCALE * c + i] = gamma * invstd;
    coef[COEF_SHIFT * c + i] = beta - mean * gamma * invstd;
}

void ref_bn_finalize(const RefOp *op)
{
    const size_t c = (size_t)ref_in(op, 1)->c;
    for (size_t i = 0; i < c; i++) {
        double mean;
        double var;
        moments(op->in[0], c, i, &mean, &var);
        coefficients(op->out[0], c, i, mean, var, op->node->attr.bn.eps, op->in[1][i],
                     op->in[2][i]);
    }
}

void ref_bn_running(const RefOp *op)
{
    const size_t c = (size_t)ref_in(op, 1)->c;
    const double momentum = op->node->attr.bn.momentum;
    const double count = op->in[0][2 * c];
    for (size_t i = 0; i < c; i++) {
        double mean;
        double var;
        moments(op->in[0], c, i, &mean, &var);
        op->out[0][i] = op->in[1][i];
        op->out[1][i] = op->in[2][i];
        /* `moments` hides a NaN in the variance, so the sums themselves are looked at. */
        if (!(count >= 1) || !isfinite(op->in[0][i]) || !isfinite(op->in[0][c + i])) {
            continue;
        }
        const double unbiased = count > 1 ? var * count / (count - 1) : var;
        op->out[0][i] = (1 - momentum) * op->in[1][i] + momentum * mean;
        op->out[1][i] = (1 - momentum) * op->in[2][i] + momentum * unbiased;
    }
}

void ref_bn_infer(const RefOp *op)
{
    const size_t c = (size_t)ref_in(op, 0)->c;
    for (size_t i = 0; i < c; i++) {
        coefficients(op->out[0], c, i, op->in[2][i], op->in[3][i], op->node->attr.bn.eps,
                     op->in[0][i], op->in[1][i]);
    }
}

static double affine(const Tensor *x, const double *values, const double *coef, size_t i)
{
    const size_t c = (size_t)x->c;
    return values[i] * coef[COEF_SCALE * c + i % c] + coef[COEF_SHIFT * c + i % c];
}

double ref_affine_at(const Tensor *x, const double *values, const double *coef, size_t i)
{
    return ref_round(x->dtype, affine(x, values, coef, i));
}

void ref_affine(const Tensor *x, double *values, const double *coef, int rows, bool relu)
{
    const size_t valid = (size_t)rows * row_elems(x);
    for (size_t i = 0; i < tensor_elems(x); i++) {
        const double y = i < valid ? ref_affine_at(x, values, coef, i) : 0;
        values[i] = relu && y < 0 ? 0 : y;
    }
}

/* Bit c % 8 of byte c / 8 of a pixel. */
static size_t mask_byte(size_t i, size_t c)
{
    return i / c * ((c + 7) / 8) + i % c / 8;
}

void ref_bn_apply(const RefOp *op)
{
    const Tensor *x = ref_in(op, 0);
    const size_t c = (size_t)x->c;
    const size_t valid = (size_t)ref_rows_valid(op, 3, x->n) * row_elems(x);
    if (op->out[1]) {
        memset(op->out[1], 0, tensor_elems(ref_out(op, 1)) * sizeof(double));
    }
    for (size_t i = 0; i < tensor_elems(x); i++) {
        double y = 0;
        if (i < valid) {
            y = affine(x, op->in[0], op->in[1], i) + (op->in[2] ? op->in[2][i] : 0);
            y = op->node->attr.bn.relu && y < 0 ? 0 : y;
        }
        op->out[0][i] = y;
        if (op->out[1] && ref_round(x->dtype, y) > 0) {
            op->out[1][mask_byte(i, c)] += 1 << (i % c % 8);
        }
    }
}

/* Whether the ReLU behind the batch norm with input x was open at element i: by its output (slot 5)
 * or its bits (slot 6), by computing it again, or always. */
static bool is_open(const RefOp *op, const Tensor *x, const double *values, const double *coef,
                    size_t i)
{
    const size_t c = (size_t)x->c;
    if (op->in[5]) {
        return op->in[5][i] > 0;
    }
    if (op->in[6]) {
        return ((int)op->in[6][mask_byte(i, c)] >> (i % c % 8) & 1) != 0;
    }
    return !op->node->attr.bn.remask || ref_affine_at(x, values, coef, i) > 0;
}

static double xhat(const double *x, const double *coef, size_t c, size_t i)
{
    return (x[i] - coef[COEF_MEAN * c + i % c]) * coef[COEF_INVSTD * c + i % c];
}

void ref_gradient_sums(const Tensor *x, const double *dz, const double *values, const double *coef,
                       int rows, double *sums)
{
    const size_t c = (size_t)x->c;
    const size_t valid = (size_t)rows * row_elems(x);
    memset(sums, 0, (2 * c + 1) * sizeof(double));
    for (size_t i = 0; i < valid; i++) {
        sums[i % c] += dz[i];
        sums[c + i % c] += dz[i] * xhat(values, coef, c, i);
    }
    const size_t positions = valid / c; /* whole: valid is a multiple of c */
    sums[2 * c] = (double)positions;
}

void ref_bn_reduce(const RefOp *op)
{
    const Tensor *x = ref_in(op, 1);
    const int rows = ref_rows_valid(op, 3, x->n);
    const size_t valid = (size_t)rows * row_elems(x);
    double *dz = op->out[1] ? op->out[1] : op->in[0];
    for (size_t i = 0; i < tensor_elems(x); i++) {
        const bool open = i < valid && is_open(op, x, op->in[1], op->in[2], i);
        const double sum = op->in[0][i] + (op->in[4] ? op->in[4][i] : 0);
        dz[i] = open ? sum : 0;
        if (op->out[1]) {
            dz[i] = ref_round(x->dtype, dz[i]); /* the sums are of dz as others will read it */
        }
    }
    ref_gradient_sums(x, dz, op->in[1], op->in[2], rows, op->out[0]);
}

void ref_bn_dparam(const RefOp *op)
{
    const size_t c = (size_t)(ref_in(op, 0)->c / 2);
    for (size_t i = 0; i < c; i++) {
        if (op->out[0]) {
            op->out[0][i] = op->in[0][c + i];
        }
        if (op->out[1]) {
            op->out[1][i] = op->in[0][i];
        }
    }
}

void ref_bn_dx(const RefOp *op)
{
    const Tensor *dz = ref_in(op, 0);
    const size_t c = (size_t)dz->c;
    const size_t valid = (size_t)ref_rows_valid(op, 4, dz->n) * row_elems(dz);
    const double *scale = op->in[2] + COEF_SCALE * c;
    const double *sums = op->in[3];
    const bool frozen = op->node->attr.bn.frozen;
    for (size_t i = 0; i < tensor_elems(dz); i++) {
        double dx = 0;
        if (i < valid) {
            dx = is_open(op, ref_in(op, 1), op->in[1], op->in[2], i) ? op->in[0][i] : 0;
            if (!frozen) {
                const double count = sums[2 * c];
                dx -= sums[i % c] / count +
                      xhat(op->in[1], op->in[2], c, i) * sums[c + i % c] / count;
            }
            dx *= scale[i % c];
        }
        op->out[0][i] = dx;
    }
}

void ref_fold_bn(const RefOp *op)
{
    const size_t outputs = (size_t)ref_in(op, 2)->c;
    const size_t fan_in = tensor_elems(ref_in(op, 0)) / outputs;
    for (size_t o = 0; o < outputs; o++) {
        const double scale = op->in[2][o] / sqrt(op->in[5][o] + op->node->attr.bn.eps);
        for (size_t i = 0; i < fan_in; i++) {
            op->out[0][o * fan_in + i] = op->in[0][o * fan_in + i] * scale;
        }
        op->out[1][o] = ((op->in[1] ? op->in[1][o] : 0) - op->in[4][o]) * scale + op->in[3][o];
    }
}
