/* The ref backend: naive loops in double that define every op. A step converts its inputs to
 * double in the workspace, runs the loop, and rounds each output once at the store; "fp32 on
 * ref" therefore means fp32 storage, and a double graph runs in double throughout. */
#include "backend/distill_rows.h"
#include "backend/host_device.h"
#include "ref_ops.h"

#include <stdlib.h>
#include <string.h>

double ref_round(DType dtype, double value)
{
    double stored;
    dtype_store(dtype, &stored, 0, value);
    return dtype_load(dtype, &stored, 0);
}

int ref_rows_valid(const RefOp *op, int slot, int n)
{
    if (slot >= op->node->n_in || !op->in[slot]) {
        return n;
    }
    const double rows = op->in[slot][0];
    return rows < 0 ? 0 : rows > n ? n : (int)rows;
}

static const RefLoop ref_loops[OP_COUNT] = {
    [OP_IMAGE] = ref_image,
    [OP_CONV] = ref_conv,
    [OP_CONV_DGRAD] = ref_conv_dgrad,
    [OP_CONV_WGRAD] = ref_conv_wgrad,
    [OP_BIAS_GRAD] = ref_bias_grad,
    [OP_BN_STATS] = ref_bn_stats,
    [OP_BN_FINALIZE] = ref_bn_finalize,
    [OP_BN_RUNNING] = ref_bn_running,
    [OP_BN_INFER] = ref_bn_infer,
    [OP_BN_APPLY] = ref_bn_apply,
    [OP_BN_REDUCE] = ref_bn_reduce,
    [OP_BN_DPARAM] = ref_bn_dparam,
    [OP_BN_DX] = ref_bn_dx,
    [OP_RELU] = ref_relu,
    [OP_RELU_BWD] = ref_relu_bwd,
    [OP_ADD] = ref_add,
    [OP_AVGPOOL] = ref_avgpool,
    [OP_AVGPOOL_BWD] = ref_avgpool_bwd,
    [OP_MAXPOOL] = ref_maxpool,
    [OP_MAXPOOL_BWD] = ref_maxpool_bwd,
    [OP_LINEAR] = ref_linear,
    [OP_LINEAR_DGRAD] = ref_linear_dgrad,
    [OP_LINEAR_WGRAD] = ref_linear_wgrad,
    [OP_CAST] = ref_cast,
    [OP_FOLD_BN] = ref_fold_bn,
};

static void load_tensor(const Tensor *t, const void *base, double *out)
{
    const size_t elems = tensor_elems(t);
    for (size_t i = 0; i < elems; i++) {
        out[i] = dtype_load(t->dtype, base, i);
    }
}

static void store_tensor(const Tensor *t, void *base, const double *values, bool add)
{
    const size_t elems = tensor_elems(t);
    for (size_t i = 0; i < elems; i++) {
        dtype_store(t->dtype, base, i, values[i] + (add ? dtype_load(t->dtype, base, i) : 0));
    }
}

static void run_loop(const Step *step, const RunArgs *args)
{
    const Node *node = step_node(step);
    const Tensor *tensors = step->graph->tensors;
    RefOp op = {.graph = step->graph, .node = node};
    double *next = args->arena[ARENA_WORKSPACE];
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i] >= 0) {
            load_tensor(&tensors[node->in[i]], step_address(step, args, node->in[i]), next);
            op.in[i] = next;
            next += tensor_elems(&tensors[node->in[i]]);
        }
    }
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] >= 0) {
            op.out[i] = next;
            next += tensor_elems(&tensors[node->out[i]]);
        }
    }
    ref_loops[node->op](&op);
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] >= 0) {
            const Tensor *t = &tensors[node->out[i]];
            const bool add = t->kind == TENSOR_GRAD && (node->accumulate || args->grad_add);
            store_tensor(t, step_address(step, args, node->out[i]), op.out[i], add);
        }
    }
}

static void run_step(const Step *step, const RunArgs *args)
{
    switch (step_node(step)->op) {
    case OP_DISTILL:
        ref_distill(step, args, args->arena[ARENA_WORKSPACE]);
        return;
    case OP_GRAD_NORM:
        ref_grad_norm(step, args);
        return;
    case OP_SGD:
        ref_sgd(step, args);
        return;
    case OP_LOSS_SCALE:
        ref_loss_scale(step, args);
        return;
    case OP_GATHER:
        ref_gather(step, args);
        return;
    case OP_VIEWS:
        ref_views(step, args);
        return;
    default:
        run_loop(step, args);
    }
}

/* ---- The table ---- */

typedef struct {
    const Step *step;
    RunArgs args;
} RunTask;

static void task_run(void *context, const void *data)
{
    (void)context;
    const RunTask *task = data;
    run_step(task->step, &task->args);
}

static void ref_close(Backend *backend)
{
    host_device_close(backend);
    free(backend->state);
}

static void ref_info(Backend *backend, DeviceInfo *info)
{
    (void)backend;
    *info = (DeviceInfo){.name = "host", .library = "reference loops", .threads = 1};
}

static bool ref_accepts(Backend *backend, const FuseCandidate *candidate)
{
    (void)backend;
    (void)candidate;
    return true;
}

/* Ops that work on the storage itself and need no workspace. */
static bool works_in_place(Op op)
{
    return op == OP_SGD || op == OP_GRAD_NORM || op == OP_LOSS_SCALE || op == OP_GATHER ||
           op == OP_VIEWS;
}

static Err *ref_prepare(Backend *backend, Step *step)
{
    (void)backend;
    const Node *node = step_node(step);
    const Tensor *tensors = step->graph->tensors;
    if (node->op == OP_DISTILL) {
        const int logits =
            node->in[DISTILL_IN_Z] >= 0 ? node->in[DISTILL_IN_Z] : node->in[DISTILL_IN_T];
        step->workspace = distill_ref_scratch(tensors[logits].c);
        return NULL;
    }
    if (works_in_place(node->op)) {
        return NULL;
    }
    if (!ref_loops[node->op]) {
        return err_new(EXIT_INTERNAL, "ref has no loop for op %s", op_name(node->op));
    }
    size_t elems = 0;
    for (int i = 0; i < node->n_in; i++) {
        elems += node->in[i] >= 0 ? tensor_elems(&tensors[node->in[i]]) : 0;
    }
    for (int i = 0; i < node->n_out; i++) {
        elems += node->out[i] >= 0 ? tensor_elems(&tensors[node->out[i]]) : 0;
    }
    step->workspace = elems * sizeof(double);
    return NULL;
}

static void ref_release(Backend *backend, Step *step)
{
    (void)backend;
    (void)step;
}

static void ref_pack(Backend *backend, Queue queue, const Step *step, const RunArgs *args)
{
    (void)backend;
    (void)queue;
    (void)step;
    (void)args;
}

static void ref_run(Backend *backend, Queue queue, const Step *step, const RunArgs *args)
{
    const RunTask task = {step, *args};
    host_device_submit(backend, queue, task_run, NULL, &task, sizeof task);
}

Err *backend_open_ref(const BackendOptions *options, Backend *backend)
{
    host_device_open(options, xcalloc(1, sizeof(HostDevice)), backend);
    backend->name = "ref";
    backend->close = ref_close;
    backend->info = ref_info;
    backend->accepts = ref_accepts;
    backend->prepare = ref_prepare;
    backend->release = ref_release;
    backend->pack = ref_pack;
    backend->run = ref_run;
    return NULL;
}
