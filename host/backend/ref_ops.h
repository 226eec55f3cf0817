/* Private to the ref backend: the loops that define the ops. A loop sees every input as doubles
 * and writes every output as doubles; ref.c converts from and to the storage types, adds to
 * gradients, and owns the memory. Inputs are copies of the loop's own, one for every slot: it may
 * overwrite them, and nothing overlaps. Pure: no state, any thread. */
#ifndef CUDISTILL_BACKEND_REF_OPS_H
#define CUDISTILL_BACKEND_REF_OPS_H

#include "backend/backend.h"

typedef struct {
    const Graph *graph;
    const Node *node;
    double *in[NODE_MAX_IN];   /* NULL = absent */
    double *out[NODE_MAX_OUT]; /* NULL = absent */
} RefOp;

typedef void (*RefLoop)(const RefOp *op);

static inline const Tensor *ref_in(const RefOp *op, int slot)
{
    return &op->graph->tensors[op->node->in[slot]];
}
static inline const Tensor *ref_out(const RefOp *op, int slot)
{
    return &op->graph->tensors[op->node->out[slot]];
}
/* Valid rows of a batch of n: the value of input `slot`, or n where that is absent. */
int ref_rows_valid(const RefOp *op, int slot, int n);

void ref_conv(const RefOp *op);
void ref_conv_dgrad(const RefOp *op);
void ref_conv_wgrad(const RefOp *op);
void ref_bias_grad(const RefOp *op);
void ref_linear(const RefOp *op);
void ref_linear_dgrad(const RefOp *op);
void ref_linear_wgrad(const RefOp *op);

void ref_bn_stats(const RefOp *op);
void ref_bn_finalize(const RefOp *op);
void ref_bn_running(const RefOp *op);
void ref_bn_infer(const RefOp *op);
void ref_bn_apply(const RefOp *op);
void ref_bn_reduce(const RefOp *op);
void ref_bn_dparam(const RefOp *op);
void ref_bn_dx(const RefOp *op);
void ref_fold_bn(const RefOp *op);

void ref_image(const RefOp *op);
void ref_relu(const RefOp *op);
void ref_relu_bwd(const RefOp *op);
void ref_add(const RefOp *op);
void ref_cast(const RefOp *op);
void ref_avgpool(const RefOp *op);
void ref_avgpool_bwd(const RefOp *op);
void ref_maxpool(const RefOp *op);
void ref_maxpool_bwd(const RefOp *op);

/* Ops that work on arenas or have a contract of their own take the step itself. */
void ref_distill(const Step *step, const RunArgs *args, void *scratch);
void ref_grad_norm(const Step *step, const RunArgs *args);
void ref_sgd(const Step *step, const RunArgs *args);
void ref_loss_scale(const Step *step, const RunArgs *args);
void ref_gather(const Step *step, const RunArgs *args);
void ref_views(const Step *step, const RunArgs *args);

/* Parts of batch norm that fused forms are made of. rows: valid images of x. */
/* x = what BN_APPLY of it stores, in place. */
void ref_affine(const Tensor *x, double *values, const double *coef, int rows, bool relu);
/* sums of BN_STATS. */
void ref_sums(const Tensor *x, const double *values, int rows, double *sums);
/* What BN_APPLY with x and coef stores as element i before its ReLU. */
double ref_affine_at(const Tensor *x, const double *values, const double *coef, size_t i);
/* sums of BN_REDUCE; dz as it is stored, zero beyond the valid rows. */
void ref_gradient_sums(const Tensor *x, const double *dz, const double *values, const double *coef,
                       int rows, double *sums);

/* Element 0 of input `slot`, `absent` where there is none. */
double ref_scalar(const Step *step, const RunArgs *args, int slot, double absent);

double ref_round(DType dtype, double value); /* what a store and a load make of it */

#endif
