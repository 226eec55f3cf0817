/* One row of the cpu form of OP_DISTILL at work: its logits, softmaxes and gradient in the scratch
 * of a thread, and the functions by which cpu_distill.c (rows, targets, statistics) uses
 * cpu_distill_terms.c (softmaxes, the forms of a term). Internal to these two files.
 *
 * A softmax is held as one target class apart from the others: exponentials e_k of the non-target
 * classes, taken against the largest non-target logit x0, their sum sn >= 1, and the target's
 * distance d from x0. Then p_y, 1 - p_y, both logarithms and p^ follow without cancellation however
 * confident the row is, and every form's gradient is A es_k - B et_k on the non-target classes plus
 * a number on the target. */
#ifndef CUDISTILL_BACKEND_CPU_DISTILL_TERMS_H
#define CUDISTILL_BACKEND_CPU_DISTILL_TERMS_H

#include "backend/cpu_distill_vec.h"
#include "backend/distill_rows.h"

/* Arrays are padded to whole vectors, so that no loop over them has a remainder. */
enum { DISTILL_PAD = 16 };
typedef enum {
    SLOT_UNIT, /* T = 1 */
    SLOT_ENERGY,
    SLOT_TERM,      /* the term at work */
    SLOT_TERM_UNIT, /* T = 1 of a z-scored row */
    SLOT_COUNT
} DistillSlot;

typedef struct {
    double temperature; /* NaN: slot is empty */
    float inv;          /* 1 / temperature */
    const float *e;     /* non-target exponentials, 0 at the target and in the padding */
    double sn;          /* their sum */
    double log_sn;
    double d;      /* (x_y - x0) / temperature */
    double lse;    /* log-sum-exp over all classes, less x0 / temperature */
    double scale;  /* p_k = scale * e_k */
    double py, np; /* p_y and 1 - p_y */
    double log_py, log_np;
} DistillSoft;

/* A row of logits. x[y] and the padding hold x0, so that they add nothing to sums of x - x0. */
typedef struct {
    float *x;
    float x0;        /* largest non-target logit */
    float xy;        /* target's logit */
    double mean, sd; /* of the row; sd < 0 = not computed yet */
    float *e[SLOT_COUNT];
    DistillSoft soft[SLOT_COUNT];
} DistillNet;

/* Corrections of single classes, for sparse targets and top-k terms: gradient, or target
 * probability, of class index. */
typedef struct {
    int *index;
    double *value;
    int count;
} DistillEntries;

typedef struct {
    const DistillArgs *args;
    const DistillVec *vec;
    int row, c, padded;
    int y; /* target class, 0 without labels */
    bool has_label;
    DistillNet s, t, edited;
    DistillNet *term_t; /* t, or edited */
    bool smooth;        /* the term's q is the smoothed one-hot */
    float *mask;        /* 1 on non-target classes, 0 on the target and the padding */
    float *g;           /* gradient */
    float *work;
    double gy;
    DistillEntries entries;
    DistillEntries target; /* of the cross entropy; every class has target_even besides */
    double target_even;
    const float *dense[DISTILL_MAX_TARGETS];
    double dense_weight[DISTILL_MAX_TARGETS];
    int n_dense;
    double out[ROW_FIELDS];
    double sum[SUM_FIELDS];
} DistillRow;

/* Takes the target out of x and finds x0 (-inf where all others are NaN); forgets softmaxes and
 * deviation. Until distill_net_pad the target's place holds -inf. */
void distill_net_split(const DistillRow *r, DistillNet *net);
/* Puts x0 into the target's place and the padding. */
void distill_net_pad(const DistillRow *r, DistillNet *net);
/* The softmax at a temperature: one at hand, or a power of one at hand, or new exponentials in
 * `slot`. */
const DistillSoft *distill_net_soft(const DistillRow *r, DistillNet *net, double temperature,
                                    DistillSlot slot);
double distill_row_value(const DistillRow *r, const RowValue *v);
/* Adds term `index` to loss, exports, sums and, unless statistics_only, to the gradient. After the
 * statistics. */
void distill_row_term(DistillRow *r, int index);

#endif
