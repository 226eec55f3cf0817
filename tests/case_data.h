/* Data for the op cases, a function of (case, slot, seed): the same values for every backend and
 * type. */
#ifndef CUDISTILL_TESTS_CASE_DATA_H
#define CUDISTILL_TESTS_CASE_DATA_H

#include "base/half.h"
#include "cases.h"

#include <stdlib.h>

typedef enum {
    DATA_NORMAL,   /* normal values */
    DATA_INTEGER,  /* small integers: sums are exact */
    DATA_MAGNITUDE /* DATA_NORMAL whose terms all add: gives the sum of absolute terms */
} DataMode;

enum { CASE_SLOT_PARAM = 100, CASE_SLOT_GRAD = 200, CASE_SLOT_MOMENT = 300 };

/* Slot of the graph's input "in<slot>", -1 for other tensors. */
static inline int case_slot(const Tensor *t)
{
    const bool given = t->kind == TENSOR_INPUT || t->kind == TENSOR_SHARED;
    return given && strncmp(t->name, "in", 2) == 0 ? (int)strtol(t->name + 2, NULL, 10) : -1;
}

static inline double case_draw(Rng *rng, DataMode mode)
{
    return mode == DATA_INTEGER ? (double)rng_below(rng, 5) - 2 : rng_normal(rng);
}

/* Sums that belong to a mean and a variance; count as after a whole batch. */
static inline void case_moment_sums(const OpCase *c, Rng *rng, double *v)
{
    const double count = (double)c->n * c->h * c->w;
    for (int i = 0; i < c->c; i++) {
        const double mean = rng_normal(rng);
        const double var = 0.5 + 1.5 * (double)rng_uniform(rng);
        v[i] = count * mean;
        v[c->c + i] = count * (var + mean * mean);
    }
    v[2 * c->c] = count;
}

/* mean, 1/std, scale, shift: blocks of C. Magnitude: -|mean|, so that x - mean adds. */
static inline void case_coef(const OpCase *c, Rng *rng, DataMode mode, double *v)
{
    for (int i = 0; i < 4 * c->c; i++) {
        const bool invstd = i / c->c == 1;
        v[i] = case_draw(rng, mode);
        if (invstd) {
            v[i] = mode == DATA_INTEGER ? 1 + (double)rng_below(rng, 2) : 0.5 + fabs(v[i]);
        }
        if (mode == DATA_MAGNITUDE) {
            v[i] = i < c->c ? -fabs(v[i]) : fabs(v[i]);
        }
    }
}

/* Sums of the backward pass; magnitude: negative, because bn_dx subtracts them. */
static inline void case_gradient_sums(const OpCase *c, Rng *rng, DataMode mode, double *v)
{
    const int rows = c->rows ? c->rows : c->n;
    const double count = (double)rows * c->h * c->w;
    for (int i = 0; i < 2 * c->c; i++) {
        v[i] = (mode == DATA_INTEGER ? 1 : sqrt(count)) * case_draw(rng, mode);
        if (mode == DATA_MAGNITUDE) {
            v[i] = c->op == OP_BN_DX ? -fabs(v[i]) : fabs(v[i]);
        }
    }
    v[2 * c->c] = count;
}

/* Positions inside the window that also lie inside the image. */
static inline void case_pool_index(const OpCase *c, Rng *rng, const Tensor *t, double *v)
{
    for (size_t i = 0; i < tensor_elems(t); i++) {
        const int ox = (int)(i / (size_t)t->c % (size_t)t->w);
        const int oy = (int)(i / (size_t)t->c / (size_t)t->w % (size_t)t->h);
        int iy = -1;
        int ix = -1;
        while (iy < 0 || iy >= c->h || ix < 0 || ix >= c->w) {
            v[i] = (double)rng_below(rng, (uint32_t)(c->k * c->k));
            iy = oy * c->stride - c->pad + (int)v[i] / c->k;
            ix = ox * c->stride - c->pad + (int)v[i] % c->k;
        }
    }
}

static inline void case_distill_values(const OpCase *c, int slot, Rng *rng, const Tensor *t,
                                       double *v)
{
    const size_t elems = tensor_elems(t);
    for (size_t i = 0; i < elems; i++) {
        const double u = (double)rng_uniform(rng);
        switch (slot) {
        case DISTILL_IN_Z:
        case DISTILL_IN_T:
            v[i] = 3 * rng_normal(rng);
            break;
        case DISTILL_IN_LABELS:
        case DISTILL_IN_TARGET_CLASS:
            v[i] = (double)rng_below(rng, (uint32_t)c->c);
            break;
        case DISTILL_IN_THETA: /* energies at T = 2 of 100 logits of deviation 3 lie about -11.5 */
            v[i] = i == 0 ? -12 : -11;
            break;
        case DISTILL_IN_ROW_PARAMS:
            v[i] = i % 2 == 0 ? u : 1 + 4 * u;
            break;
        case DISTILL_IN_TARGET_KIND: /* every pair of kinds */
            v[i] = (double)(i % 2 == 0 ? i / 2 % 4 : (i / 2 / 4 + 1) % 4);
            break;
        case DISTILL_IN_TARGET_WEIGHT:
            v[i] = 0.2 + u;
            break;
        case DISTILL_IN_SPARSE_INDEX: /* distinct */
            v[i] = (double)((i * 7 + i / CASE_SPARSE_K) % (size_t)c->c);
            break;
        case DISTILL_IN_SPARSE_VALUE:
            v[i] = u / CASE_SPARSE_K;
            break;
        default: /* DISTILL_IN_DENSE; a distribution is not required */
            v[i] = 2 * u / c->c;
            break;
        }
    }
}

static inline void case_hyper(const OpCase *c, double *v)
{
    v[HYPER_LR] = 0.1;
    v[HYPER_MOMENTUM] = 0.9;
    v[HYPER_DAMPENING] = 0;
    v[HYPER_NESTEROV] = 1;
    v[HYPER_WEIGHT_DECAY] = 5e-4;
    v[HYPER_GRAD_SCALE] = 0.5;
    v[HYPER_CLIP_NORM] = 3;
    v[HYPER_FIRST] = 0;
    /* stats say a norm of 0.5 * 20, a quarter of it where the loss was scaled by 4 */
    v[HYPER_SKIP_NORM] = c->form & C_OVERFLOW ? 9 : c->form & C_STATS ? 11 : 0;
}

static inline void case_loss_scale(const OpCase *c, int slot, double *v)
{
    if (c->op == OP_LOSS_SCALE && slot == 0) {
        v[0] = 400;
        v[1] = c->form & C_OVERFLOW ? 2 : 0;
    } else {
        v[0] = ldexp(1, c->op == OP_LOSS_SCALE ? c->w : 2);
        v[1] = c->k;
    }
}

/* Set, labels, order and cursor of VIEWS; table and indices of GATHER. */
static inline void case_rows_values(const OpCase *c, int slot, Rng *rng, DataMode mode,
                                    const Tensor *t, double *v)
{
    const double cursor[4] = {3, 1, 123457, 9};
    const bool gather = c->op == OP_GATHER;
    for (size_t i = 0; i < tensor_elems(t); i++) {
        switch (slot) {
        case 0:
            v[i] = gather ? case_draw(rng, mode) : (double)rng_below(rng, 256);
            break;
        case 1:
            v[i] = (double)rng_below(rng, gather ? (uint32_t)c->o : 100);
            break;
        case 2: /* a permutation: backwards */
            v[i] = (double)(c->o - 1) - (double)i;
            break;
        default:
            v[i] = cursor[i];
            break;
        }
    }
}

/* Where the coefficients of a batch norm enter the node. */
static inline bool case_is_coef(const OpCase *c, int slot)
{
    switch (c->op) {
    case OP_BN_APPLY:
        return slot == 1;
    case OP_BN_REDUCE:
    case OP_BN_DX:
    case OP_CONV_WGRAD:
        return slot == 2;
    case OP_CONV_DGRAD:
        return slot == 3;
    default:
        return c->op == OP_CONV && slot == 4;
    }
}

/* Values of input `slot` of the case's node, malloc'ed. */
static inline double *case_input_values(const OpCase *c, int slot, const Tensor *t, DataMode mode,
                                        uint64_t seed)
{
    const size_t elems = tensor_elems(t);
    double *v = calloc(elems + 1, sizeof *v);
    Rng rng = rng_make(seed, (uint32_t)slot, 0, RNG_TEST);
    const bool mask = (slot == 1 && c->op == OP_RELU_BWD) ||
                      (slot == 5 && (c->op == OP_BN_REDUCE || c->op == OP_BN_DX));
    const bool bits = slot == 6 && (c->op == OP_BN_REDUCE || c->op == OP_BN_DX);
    const bool padded = (c->form & C_PADDED) && slot == 0;
    if (t->kind == TENSOR_SHARED || c->op == OP_LOSS_SCALE) {
        case_loss_scale(c, slot, v);
    } else if (c->op == OP_GATHER || c->op == OP_VIEWS) {
        case_rows_values(c, slot, &rng, mode, t, v);
    } else if (c->op == OP_DISTILL) {
        case_distill_values(c, slot, &rng, t, v);
    } else if (c->op == OP_SGD && slot == 0) {
        case_hyper(c, v);
    } else if (c->op == OP_SGD) {
        v[0] = 400;
        v[1] = 0;
    } else if (c->op == OP_BN_FINALIZE || c->op == OP_BN_RUNNING) {
        case_moment_sums(c, &rng, v);
    } else if (case_is_coef(c, slot)) {
        case_coef(c, &rng, mode, v);
    } else if (c->op == OP_BN_DPARAM || (c->op == OP_BN_DX && slot == 3)) {
        case_gradient_sums(c, &rng, mode, v);
    } else if (c->op == OP_MAXPOOL_BWD && slot == 1) {
        case_pool_index(c, &rng, t, v);
    } else {
        for (size_t i = 0; i < elems; i++) {
            v[i] = c->op == OP_IMAGE || bits ? (double)rng_below(&rng, 256) : case_draw(&rng, mode);
            v[i] = bits && mode == DATA_MAGNITUDE ? 255 : v[i];
            v[i] = mode == DATA_MAGNITUDE ? fabs(v[i]) : v[i];
            v[i] = !mask ? v[i] : mode == DATA_MAGNITUDE ? 1 : fmax(v[i], 0);
            v[i] = padded && i % (size_t)c->c >= 3 ? 0 : v[i];
        }
    }
    for (size_t i = 0; i < elems; i++) {
        v[i] = (double)(float)v[i];
    }
    return v;
}

/* Values of a parameter, its gradient or its momentum. 16-bit graphs get weights that 16 bits
 * hold, so that a backend which keeps packed 16-bit weights computes from the same numbers. */
static inline double *case_param_values(const CaseNet *net, int param, int slot, DataMode mode,
                                        DType act, uint64_t seed)
{
    const Param *p = &net->params.items[param];
    double *v = calloc(p->count + 1, sizeof *v);
    Rng rng = rng_make(seed, (uint32_t)(slot + param), 0, RNG_TEST);
    for (size_t i = 0; i < p->count; i++) {
        v[i] = case_draw(&rng, mode);
        if (slot == CASE_SLOT_PARAM && p->role == ROLE_RUNNING_VAR) {
            v[i] = 0.5 + fabs(v[i]);
        }
        v[i] = mode == DATA_MAGNITUDE ? fabs(v[i]) : v[i];
        const float value = (float)v[i];
        v[i] = act == DT_BF16 || act == DT_F16 ? (double)bf16_to_float(bf16_from_float(value))
                                               : (double)value;
    }
    return v;
}

#endif
