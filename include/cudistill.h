/* libcudistill_cuda: the fused loss of knowledge distillation between two tensors of logits on an NVIDIA GPU, for programs
 * of any kind (C, C++, ctypes). One pass over student and teacher logits gives the loss of every row, its gradient with
 * respect to the student's logits, and statistics. This header stands alone; link with -lcudistill_cuda and the CUDA
 * runtime.
 *
 *   loss_i = a * T_s T_t * KL( softmax(t_i / T_t) || softmax(z_i / T_s) )  +  b * CE( label_i, softmax(z_i) )
 *   dz     = scale * d(sum_i loss_i) / dz
 *
 * z, t: logits of student and teacher, [n][classes]; sums, never means: pass scale = 1/n for a mean. Computed in fp32
 * whatever the storage type; the same bits in every run.
 *
 *     CudistillLoss loss;
 *     cudistill_loss_init(&loss, sizeof loss);
 *     loss.n = 256, loss.classes = 1000, loss.type = CUDISTILL_BF16;
 *     loss.z = student_logits, loss.t = teacher_logits, loss.labels = labels;
 *     loss.temperature = 4, loss.weight = 0.9f, loss.ce_weight = 0.1f;
 *     loss.scale = one_over_n;
 *     loss.dz = gradient, loss.rows = rows, loss.sums = sums;
 *     cudaMalloc(&loss.workspace, cudistill_workspace(loss.n, loss.classes));
 *     cudaMemset(loss.workspace, 0, cudistill_workspace(loss.n, loss.classes));
 *     const int status = cudistill_loss(&loss, stream);
 *     if (status != CUDISTILL_OK) {
 *         fprintf(stderr, "%s\n", cudistill_status_text(status));
 *     }
 *     cudaMemcpyAsync(host_sums, sums, sizeof host_sums, cudaMemcpyDeviceToHost, stream);
 *     cudaStreamSynchronize(stream);
 *     printf("mean loss %g\n", host_sums[CUDISTILL_SUM_LOSS] / 256);
 *
 * Rules. All pointers are device memory of the current device and must live until the work is done; results are written
 * in the order of the stream. Calls are asynchronous, allocate nothing, may be captured in a CUDA graph and are safe
 * from any thread. A workspace is zeroed once, before its first call, then used for nothing else, and serves one call
 * at a time: calls that share it must follow one another in one stream or graph. dz may not overlap z or t.
 * Nothing here prints or exits. A row with a NaN or +inf logit, or with a label outside 0 .. classes-1, has a NaN loss
 * and gradient and leaves the other rows alone.
 *
 * Versions. Fields are only ever added at the end of the structure, 0 meaning "as before"; `size` tells the library which
 * fields the caller knows, so programs need not be recompiled for a newer library. */
#ifndef CUDISTILL_H
#define CUDISTILL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CUDISTILL_VERSION 100 /* 10000 * major + 100 * minor + patch */

/* Of the library that is loaded. */
int cudistill_version(void);

/* Storage types of logits and gradient. */
enum { CUDISTILL_F32 = 0, CUDISTILL_BF16 = 1, CUDISTILL_F16 = 2 };

/* Forms of the distillation term. */
enum {
    CUDISTILL_KL = 0,  /* Hinton et al. 2015 */
    CUDISTILL_DKD = 1, /* alpha * TCKD + beta * NCKD, decoupled KD (Zhao et al. 2022) */
    CUDISTILL_NKD =
        2, /* normalised KD (Yang et al. 2023): -q_y log p_y at T = 1 + gamma * T_s T_t * CE of the non-target
                          distributions; `t_squared` 0 leaves T_s T_t out */
    CUDISTILL_NONE = 3 /* cross entropy only; t may be NULL */
};

/* Changes to the teacher's row where its prediction is not the label (knowledge adjustment, Wen et al. 2019). */
enum {
    CUDISTILL_EDIT_NONE = 0,
    CUDISTILL_EDIT_SWAP = 1,  /* exchange the logits of prediction and label */
    CUDISTILL_EDIT_SMOOTH = 2 /* 1 - edit_delta on the label, the rest spread evenly */
};

/* Columns of `rows`. */
enum {
    CUDISTILL_ROW_LOSS = 0,
    CUDISTILL_ROW_CE = 1,          /* cross entropy with the (smoothed) label, before ce_weight */
    CUDISTILL_ROW_STUDENT_NLL = 2, /* -log p_label */
    CUDISTILL_ROW_TEACHER_NLL = 3,
    CUDISTILL_ROW_STUDENT_MAX = 4, /* largest probability */
    CUDISTILL_ROW_TEACHER_MAX = 5,
    CUDISTILL_ROW_STUDENT_ARG = 6, /* predicted class; -1 where the row is not finite */
    CUDISTILL_ROW_TEACHER_ARG = 7,
    CUDISTILL_ROW_STUDENT_RANK =
        8, /* classes above the label: 0 = right, below 5 = right in five */
    CUDISTILL_ROW_TEACHER_RANK = 9,
    CUDISTILL_ROW_ENERGY =
        10, /* of the teacher: -Te log sum exp(t / Te), Te = energy_temperature */
    CUDISTILL_ROW_COSINE = 11,      /* of the two rows of logits */
    CUDISTILL_ROW_TEMPERATURE = 12, /* of the student */
    CUDISTILL_ROW_WEIGHT = 13,
    CUDISTILL_ROW_TERM = 14,    /* the distillation term, before `weight` */
    CUDISTILL_ROW_TERM_DT = 22, /* d term / dT, both temperatures moving (KL without top-k) */
    CUDISTILL_ROW_FIELDS = 32
};

/* Elements of `sums`, over all rows. */
enum {
    CUDISTILL_SUM_ROWS = 0,
    CUDISTILL_SUM_LOSS = 1,
    CUDISTILL_SUM_CE = 2, /* with ce_weight */
    CUDISTILL_SUM_TOP1 = 3,
    CUDISTILL_SUM_TOP5 = 4,
    CUDISTILL_SUM_TEACHER_TOP1 = 5,
    CUDISTILL_SUM_TEACHER_TOP5 = 6,
    CUDISTILL_SUM_AGREE = 7, /* equal predictions */
    CUDISTILL_SUM_ENERGY = 8,
    CUDISTILL_SUM_STUDENT_NLL = 9,
    CUDISTILL_SUM_TEACHER_NLL = 10,
    CUDISTILL_SUM_TERM = 11,      /* with `weight` */
    CUDISTILL_SUM_NONFINITE = 19, /* rows whose loss is not finite */
    CUDISTILL_SUM_FIELDS = 20
};

typedef struct {
    size_t size; /* of this structure, as the caller knows it; set by cudistill_loss_init */

    /* Shape: 1 <= n, 2 <= classes <= 262144. */
    int32_t n, classes;
    int32_t type;            /* of z and t */
    int32_t dz_type;         /* -1 (default): as z */
    const void *z, *t;       /* [n][ldz], [n][ldt]; 16-byte aligned rows are faster */
    int64_t ldz, ldt, lddz;  /* elements from row to row; 0: classes */
    const int32_t *labels;   /* [n]; NULL only with CUDISTILL_KL, no edit, ce_weight 0 */
    const float *rows_valid; /* [1]: rows at and beyond it get zeros; NULL: n */
    const float *scale;      /* [1]: of the gradient; NULL: 1 */

    /* Results. */
    void *dz;       /* [n][lddz]; NULL: no gradient */
    int32_t dz_add; /* 1: dz += instead of dz = */
    float *rows;    /* [n][CUDISTILL_ROW_FIELDS], or NULL */
    float *sums;    /* [CUDISTILL_SUM_FIELDS], or NULL */
    void
        *workspace; /* cudistill_workspace bytes, 16-byte aligned, zeroed once; needed for `sums` */

    /* The term. */
    int32_t form;
    int32_t t_squared;         /* 1 (default): times T_s T_t */
    float temperature;         /* of both (default 1) */
    float teacher_temperature; /* 0 (default): as `temperature` */
    float weight;              /* a (default 1) */
    float ce_weight;           /* b (default 0) */
    float label_smoothing;     /* of the cross entropy's target, PyTorch's definition */
    float alpha, beta, gamma;  /* of DKD: alpha 1, beta 8; of NKD: gamma 1.5 */
    int32_t zscore;            /* 1: logits standardised first (Sun et al. 2024) */
    int32_t topk;              /* > 0: KL over the teacher's k most probable classes only */
    int32_t topk_renorm;       /* 1: both distributions renormalised over them */
    int32_t edit;
    float edit_delta;

    /* Values per row: [n][row_columns]; a column index of -1 (default) means the constant above. */
    const float *row_values;
    int32_t row_columns;
    int32_t temperature_column; /* of both, unless the next is given */
    int32_t teacher_temperature_column;
    int32_t weight_column, ce_weight_column;
    int32_t wsl; /* 1: `weight` times 1 - exp(-student_nll / teacher_nll) (Zhou et al. 2021) */

    /* Temperature by the teacher's energy: bands[0] below thresholds[0], bands[2] above thresholds[1], bands[1] between;
     * for both networks, in place of the temperatures above. */
    int32_t use_bands;
    float bands[3];
    const float *thresholds;  /* [2] */
    float energy_temperature; /* (default 1) */
} CudistillLoss;

/* Status codes; a positive status is a cudaError_t. */
enum {
    CUDISTILL_OK = 0,
    CUDISTILL_BAD_SIZE =
        -1, /* `size` is not that of a CudistillLoss, or sets fields this library does not know */
    CUDISTILL_BAD_SHAPE = -2,  /* n, classes or a leading dimension */
    CUDISTILL_BAD_TYPE = -3,   /* type or dz_type */
    CUDISTILL_NO_POINTER = -4, /* something that the options need is NULL */
    CUDISTILL_BAD_OPTION = -5, /* a value out of range */
    CUDISTILL_BAD_MIXTURE = -6 /* options that do not go together */
};

/* One line; for a positive status the CUDA runtime's. Static storage. */
const char *cudistill_status_text(int status);

/* Fills in defaults. size: sizeof(CudistillLoss). CUDISTILL_BAD_SIZE where it is 0, else CUDISTILL_OK. */
int cudistill_loss_init(CudistillLoss *loss, size_t size);

/* Bytes of workspace; 0 for a shape that cannot be. One that is large enough serves smaller shapes too. */
size_t cudistill_workspace(int n, int classes);

/* Launches. stream: a cudaStream_t, NULL: the default stream. On a status other than CUDISTILL_OK nothing has been
 * launched, or the runtime has refused the launch. */
int cudistill_loss(const CudistillLoss *loss, void *stream);

/* out[i] = the value of rank ranks[i] (0 = smallest, NaN last) among the n values values[0], values[stride], ...; exact.
 * For energy thresholds: column CUDISTILL_ROW_ENERGY of rows. ranks is host memory, n_ranks <= 8;
 * workspace: cudistill_select_workspace bytes. */
size_t cudistill_select_workspace(void);
int cudistill_select(const float *values, int64_t n, int64_t stride, const int64_t *ranks,
                     int n_ranks, float *out, void *workspace, void *stream);

#ifdef __cplusplus
}
#endif
#endif
