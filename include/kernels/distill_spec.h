/* The row contract of the distillation op (OP_DISTILL): what one row of student and teacher logits is asked for.
 * Methods are configuration of this structure. Source of every formula: Hinton et al. 2015 and the papers named
 * beside each form; notation z, t = student and teacher logits, p, q = softmax(z/Ts), softmax(t/Tt),
 * p1, q1 = the same at temperature 1, y = label, u = target distribution of the cross entropy.
 *
 *   loss_i = sum_k a_k(i) * factor_k * form_k(q, p)  +  b(i) * CE(u_i, p1)
 *   dz     = scale * d(sum_i loss_i)/dz,  zero for rows >= rows_valid
 *
 * `scale` and `rows_valid` are read from device memory; the host sets scale = loss_scale / (valid rows of the phase
 * over all ranks), so ranks and micro-batches are summed, never averaged. Everything is computed in fp32 (fp64 in
 * double graphs) whatever the storage type of the logits. */
#ifndef CUDISTILL_KERNELS_DISTILL_SPEC_H
#define CUDISTILL_KERNELS_DISTILL_SPEC_H

#include <stdbool.h>

enum { DISTILL_MAX_TERMS = 8, DISTILL_MAX_TARGETS = 2 };

typedef enum {
    FORM_KL,  /* KL(q || p) */
    FORM_DKD, /* alpha * TCKD + beta * NCKD (Zhao et al. 2022): binary part and non-target part */
    FORM_NKD /* -q1_y log p1_y + gamma * factor * CE(q^, p^), p^, q^ over the non-target classes at Ts, Tt (Yang et al.
                 2023); gradient q1_y (p1 - e_y) on all k + gamma * T (p^_k - q^_k) on k != y. `factor` does not
                 multiply the target part. The ordinary CE is not included: that is b. */
} TermForm;

typedef enum {
    SOURCE_CONST, /* value */
    SOURCE_ROW,   /* column `column` of the row-parameter input (F32 [n, columns]) */
    SOURCE_BAND, /* temperatures only: band[0..2] by teacher energy < theta[0] | between | > theta[1] */
    SOURCE_WSL /* weights only: value * (1 - exp(-CE_s / CE_t)), detached (Zhou et al. 2021); value where CE_t = 0 */
} ValueSource;

typedef struct {
    ValueSource source;
    float value;
    int column;
    float band[3]; /* low, middle, high energy */
} RowValue;

typedef enum {
    EDIT_NONE,
    EDIT_SWAP, /* where argmax t != y: exchange t[argmax] and t[y] (KA, probability shift; Wen et al. 2019) */
    EDIT_SMOOTH /* where argmax t != y: q = 1-delta on y, delta/(C-1) elsewhere (KA, label-smoothing form) */
} RowEdit;

typedef enum {
    FACTOR_NONE, /* 1 */
    FACTOR_TSTT  /* Ts * Tt, i.e. T^2 when equal */
} TermFactor;

typedef struct {
    TermForm form;
    TermFactor factor;
    RowValue weight; /* a */
    RowValue ts, tt; /* temperatures, > 0 */
    bool
        zscore; /* LSKD: z and t replaced by (x - mean)/(sd + 1e-7), sd unbiased (C-1); Sun et al. 2024. For the whole
                        term, NKD's target part included; after the edit */
    int topk; /* 0 = all classes; else q is restricted to the teacher's k most probable classes (KL only), after the
                        edit, lowest index of ties */
    bool
        topk_renorm; /* both distributions renormalised over those classes; else p over all, q as it is */
    RowEdit edit;
    float edit_delta;
    float alpha, beta, gamma; /* DKD: alpha, beta; NKD: gamma */
} DistillTerm;

/* What a row's target component is; the kind is chosen per row (input TARGET_KIND) or is TARGET_CLASS on `labels`. */
typedef enum {
    TARGET_NONE = 0,
    TARGET_CLASS =
        1, /* 1-smoothing on the class + smoothing/C on every class (PyTorch's label smoothing) */
    TARGET_SPARSE =
        2, /* k (index, probability) pairs, the rest spread evenly over the other C-k classes */
    TARGET_DENSE = 3 /* C probabilities */
} TargetKind;

typedef struct {
    int n_terms;
    DistillTerm terms[DISTILL_MAX_TERMS];
    RowValue ce_weight;       /* b; SOURCE_CONST or SOURCE_ROW */
    float smoothing;          /* of TARGET_CLASS components */
    int sparse_k;             /* pairs per component of TARGET_SPARSE rows */
    bool sparse_renorm;       /* no rest: the k probabilities are divided by their sum */
    float energy_temperature; /* E = -T log sum exp(t/T), its own temperature */
    bool statistics_only;     /* exports and sums, no dz */
    bool dz_add;              /* dz += instead of dz = */
} DistillSpec;

/* Input slots of OP_DISTILL (-1 where absent). n = rows, C = classes, K = sparse_k. */
enum {
    DISTILL_IN_Z, /* [n,1,1,C] student logits (absent only in statistics_only mode over the teacher) */
    DISTILL_IN_T,      /* [n,1,1,C] teacher logits, or absent (no terms) */
    DISTILL_IN_LABELS, /* I32 [n] */
    DISTILL_IN_ROWS_VALID, /* F32 [1]; rows at and beyond it have zero dz, zero exports, no share in the sums */
    DISTILL_IN_SCALE,      /* F32 [1] */
    DISTILL_IN_THETA,      /* F32 [2] energy thresholds, for SOURCE_BAND */
    DISTILL_IN_ROW_PARAMS, /* F32 [n,1,1,columns] */
    DISTILL_IN_TARGET_KIND, /* I32 [n,1,1,2]; absent: one TARGET_CLASS component on labels, weight 1 */
    DISTILL_IN_TARGET_WEIGHT, /* F32 [n,1,1,2] */
    DISTILL_IN_TARGET_CLASS,  /* I32 [n,1,1,2] */
    DISTILL_IN_SPARSE_INDEX,  /* I32 [n,1,1,2K] */
    DISTILL_IN_SPARSE_VALUE,  /* F32 [n,1,1,2K] */
    DISTILL_IN_DENSE,         /* F32 [n,1,1,2C] */
    DISTILL_IN_LOSS_SCALE,    /* F32 [2], graph.h OP_LOSS_SCALE: element 0 multiplies `scale` */
    DISTILL_IN_COUNT
};

/* Output slots. */
enum { DISTILL_OUT_DZ, DISTILL_OUT_ROWS, DISTILL_OUT_SUMS, DISTILL_OUT_COUNT };

/* Columns of the row exports, F32 [n,1,1,ROW_FIELDS]. Without a teacher its columns are 0; without z, the student's. */
enum {
    ROW_LOSS, /* loss_i, unscaled */
    ROW_CE,   /* CE(u, p1), before b */
    ROW_CE_S, /* -log p1_y */
    ROW_CE_T, /* -log q1_y */
    ROW_PMAX, /* max p1 */
    ROW_QMAX, /* max q1 */
    ROW_SARG, /* argmax z (lowest index of ties), as a float; a row with NaN or +inf has none: -1, and rank C;
                 a row with fewer than two finite logits may have none */
    ROW_TARG, /* argmax t */
    ROW_SRANK, /* classes k with z_k > z_y, plus those k < y with z_k = z_y: top-5 right when < 5 and SARG >= 0 */
    ROW_TRANK,  /* the same of t */
    ROW_ENERGY, /* of t */
    ROW_COS,    /* cosine of (z, t), denominator at least 1e-12 */
    ROW_T0,     /* student temperature of term 0 */
    ROW_A0,     /* weight of term 0 */
    ROW_TERM,   /* 8 columns: factor_k * form_k (NKD: all of it), before a_k */
    ROW_DT =
        ROW_TERM +
        DISTILL_MAX_TERMS, /* 8 columns: d(factor*form)/dT with Ts and Tt moving together (d/dTs + d/dTt);
                                              FORM_KL only without top-k; 0 otherwise */
    ROW_FIELDS = ROW_DT + DISTILL_MAX_TERMS + 2
};

/* Sums over the valid rows in row order, F32 [1,1,1,SUM_FIELDS] (F64 in double graphs). A row without a prediction
 * agrees with nothing; it, and a row whose -log p1_y is not finite, is right in none of TOP1, TOP5, TTOP1 and TTOP5,
 * however few the classes. */
enum {
    SUM_ROWS,
    SUM_LOSS,
    SUM_CE,   /* b * CE(u, p1) */
    SUM_TOP1, /* student right */
    SUM_TOP5,
    SUM_TTOP1, /* teacher right */
    SUM_TTOP5,
    SUM_AGREE, /* argmax z = argmax t */
    SUM_ENERGY,
    SUM_CE_S, /* -log p1_y: the validation loss */
    SUM_CE_T,
    SUM_TERM, /* 8: a_k * factor_k * form_k */
    SUM_NONFINITE =
        SUM_TERM + DISTILL_MAX_TERMS, /* rows whose loss (without z: energy) is not finite */
    SUM_FIELDS
};

#endif
