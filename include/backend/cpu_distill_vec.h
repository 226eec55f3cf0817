/* The inner loops of the cpu form of OP_DISTILL over one row: fp32 in, partial sums of at most 1024
 * elements in fp32 vector lanes, totals in double. A sum of n terms is therefore off by at most
 * (1024/lanes + log2 lanes) eps times the sum of absolute values, whatever n is, plus what each
 * term is off by.
 *
 * One table per instruction set, compiled from the same source; lanes and so the last bits differ
 * between the tables, never between runs, threads or row counts. All functions are pure and
 * thread-safe. */
#ifndef CUDISTILL_BACKEND_CPU_DISTILL_VEC_H
#define CUDISTILL_BACKEND_CPU_DISTILL_VEC_H

#include "graph/tensor.h"

/* Sums over k of one pair of rows, with u = (z - z0) * z_inv, v = (t - t0) * t_inv, es and et their
 * exponentials. */
typedef struct {
    double et_w;  /* et (v - u) */
    double et_v;  /* et v */
    double et_vw; /* et v (v - u) */
    double es_u;  /* es u */
} PairSums;

typedef struct {
    const float *x; /* logits */
    float x0;       /* subtracted from them */
    float inv;      /* 1 / temperature */
    const float *e; /* exponentials */
} RowView;

typedef struct {
    const char *name; /* "avx512_core", "avx2" or "portable" */
    /* y = x as floats. */
    void (*widen_bf16)(float *y, const uint16_t *x, int n);
    void (*narrow_bf16)(uint16_t *y, const float *x, int n);
    /* sums = {x y, x x, y y}. */
    void (*dot)(const float *x, const float *y, int n, double sums[3]);
    float (*max)(const float *x, int n); /* skips NaN; -inf when there is nothing else */
    /* Elements above `value`, and those before index `at` that equal it, not counting index
     * `at`. */
    int (*rank)(const float *x, int n, int at, float value);
    /* Lowest index that holds `value`; n when none does. */
    int (*find)(const float *x, int n, float value);
    double (*sum)(const float *x, int n, float x0);     /* x - x0 */
    double (*squares)(const float *x, int n, float x0); /* (x - x0)^2 */
    /* e = mask * exp((x - x0) * inv); returns its sum. Arguments <= 0; results below 2^-126 are 0;
     * relative error below 1.5 * 2^-24 (1.37 in test_distill) + |argument| * 1.5 * 2^-24 (the
     * rounding of the argument). NaN stays. */
    double (*exp)(float *e, const float *x, const float *mask, int n, float x0, float inv);
    /* y = e^2, or e^4 when `four`; returns its sum. */
    double (*power)(float *y, const float *e, int n, bool four);
    void (*pair)(const RowView *s, const RowView *t, int n, PairSums *sums);
    /* sums = {d, d (x - x0)}: a dense target. */
    void (*dense)(const float *d, const float *x, int n, float x0, double sums[2]);
    void (*fill)(float *g, int n, float c);                /* g = c */
    void (*add)(float *g, const float *x, int n, float a); /* g += a x */
    /* g += a x + b y */
    void (*add2)(float *g, const float *x, const float *y, int n, float a, float b);
    void (*add_shifted)(float *g, const float *x, int n, float a, float x0); /* g += a (x - x0) */
    void (*scale)(float *y, const float *x, int n, float a, bool add); /* y = a x, or y += a x */
} DistillVec;

/* The best table of this processor, or the best one at or below `isa` ("avx512_core...", "avx2",
 * "portable"; NULL = best). */
const DistillVec *distill_vec(const char *isa);

#endif
