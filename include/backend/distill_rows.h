/* The row loop of OP_DISTILL for the host: one definition in double for `ref`, one vectorised form
 * for `cpu`. Both take plain pointers so that tests can call them directly. NULL = input absent. */
#ifndef CUDISTILL_BACKEND_DISTILL_ROWS_H
#define CUDISTILL_BACKEND_DISTILL_ROWS_H

#include "graph/tensor.h"
#include "kernels/distill_spec.h"

typedef struct {
    const DistillSpec *spec;
    int n, classes;
    DType logits; /* of z and t: F32, BF16, F16, F64 */
    DType dz_type;
    const void *z, *t; /* [n][classes] */
    void *dz;          /* [n][classes], dz_type */
    const int32_t *labels;
    const float *theta;      /* [2] */
    const float *row_params; /* [n][columns] */
    int columns;
    const int32_t *target_kind;  /* [n][2] */
    const float *target_weight;  /* [n][2] */
    const int32_t *target_class; /* [n][2] */
    const int32_t *sparse_index; /* [n][2K] */
    const float *sparse_value;   /* [n][2K] */
    const float *dense;          /* [n][2*classes] */
    int rows_valid;
    double scale;
    void *rows;      /* [n][ROW_FIELDS] of `stat_type`, or NULL */
    void *sums;      /* [SUM_FIELDS] of `stat_type`, or NULL */
    DType stat_type; /* F32 or F64 */
    int threads;     /* cpu: the number its scratch was sized for; 0 = 1 */
} DistillArgs;

/* Ends the process when the arguments contradict the spec (a bug of the caller): fewer than 2
 * classes, a term without a teacher, a form that needs labels without them, columns out of range.
 * Both functions below call it. Labels may be absent where nothing needs them: the columns that
 * compare with the label are then 0. */
void distill_check_args(const DistillArgs *args);

/* Definition: everything in double, straight from the formulas. scratch:
 * distill_ref_scratch(classes) bytes. */
void distill_rows_ref(const DistillArgs *args, void *scratch);
size_t distill_ref_scratch(int classes);
/* Vectorised fp32 over OpenMP threads; deterministic for any thread count (rows are independent;
 * sums run in row order). scratch: distill_cpu_scratch(n, classes, threads) bytes. */
void distill_rows_cpu(const DistillArgs *args, void *scratch);
/* The same with the instruction set capped: "avx512_core...", "avx2", "portable"; NULL = the
 * processor's best. */
void distill_rows_cpu_isa(const DistillArgs *args, void *scratch, const char *isa);
size_t distill_cpu_scratch(int n, int classes, int threads);

#endif
