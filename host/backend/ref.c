/* The ref backend: naive loops in double that define every op. A step converts its inputs to
 * double in the workspace, runs the loop, and rounds each output once at the store; "fp32 on
 * ref" therefore means fp32 storage, and a double graph runs in double throughout. Memory is the
 * host's. */
#include "backend/distill_rows.h"
#include "backend/queues.h"
#include "base/half.h"
#include "ref_ops.h"

#include <stdlib.h>
#include <string.h>

double ref_load(DType dtype, const void *base, size_t i)
{
    switch (dtype) {
    case DT_F32:
        return ((const float *)base)[i];
    case DT_BF16:
        return bf16_to_float(((const bf16 *)base)[i]);
    case DT_F16:
        return fp16_to_float(((const fp16 *)base)[i]);
    case DT_F64:
        return ((const double *)base)[i];
    case DT_I32:
        return ((const int32_t *)base)[i];
    case DT_U8:
        return ((const uint8_t *)base)[i];
    case DT_COUNT:
        break;
    }
    CHECK(false, "dtype %d", (int)dtype);
    return 0;
}

void ref_store(DType dtype, void *base, size_t i, double value)
{
    switch (dtype) {
    case DT_F32:
        ((float *)base)[i] = (float)value;
        return;
    case DT_BF16:
        ((bf16 *)base)[i] = bf16_from_float((float)value);
        return;
    case DT_F16:
        ((fp16 *)base)[i] = fp16_from_float((float)value);
        return;
    case DT_F64:
        ((double *)base)[i] = value;
        return;
    case DT_I32:
        ((int32_t *)base)[i] = (int32_t)value;
        return;
    case DT_U8:
        ((uint8_t *)base)[i] = (uint8_t)value;
        return;
    case DT_COUNT:
        break;
    }
    CHECK(false, "dtype %d", (int)dtype);
}

double ref_round(DType dtype, double value)
{
    double stored;
    ref_store(dtype, &stored, 0, value);
    return ref_load(dtype, &stored, 0);
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
        out[i] = ref_load(t->dtype, base, i);
    }
}

static void store_tensor(const Tensor *t, void *base, const double *values, bool add)
{
    const size_t elems = tensor_elems(t);
    for (size_t i = 0; i < elems; i++) {
        ref_store(t->dtype, base, i, values[i] + (add ? ref_load(t->dtype, base, i) : 0));
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
    default:
        run_loop(step, args);
    }
}

/* ---- The table ---- */

typedef struct {
    Queues *queues;
} RefState;

static Queues *queues_of(Backend *backend)
{
    return ((RefState *)backend->state)->queues;
}

typedef struct {
    const Step *step;
    RunArgs args;
} RunTask;

typedef struct {
    void *dst;
    const void *src;
    size_t bytes;
    int byte;
    void *owned; /* freed afterwards */
} MoveTask;

static void task_run(void *context, const void *data)
{
    (void)context;
    const RunTask *task = data;
    run_step(task->step, &task->args);
}

static void task_copy(void *context, const void *data)
{
    (void)context;
    const MoveTask *task = data;
    memcpy(task->dst, task->src, task->bytes);
    free(task->owned);
}

static void task_fill(void *context, const void *data)
{
    (void)context;
    const MoveTask *task = data;
    memset(task->dst, task->byte, task->bytes);
}

static void ref_close(Backend *backend)
{
    queues_close(queues_of(backend));
    free(backend->state);
}

static void ref_info(Backend *backend, DeviceInfo *info)
{
    (void)backend;
    *info = (DeviceInfo){.name = "host", .library = "reference loops", .threads = 1};
}

static void *ref_alloc(Backend *backend, MemKind kind, size_t bytes)
{
    (void)backend;
    (void)kind;
    if (bytes > SIZE_MAX - 64) {
        return NULL;
    }
    const size_t rounded = bytes == 0 ? 64 : (bytes + 63) / 64 * 64;
    void *memory = aligned_alloc(64, rounded);
    return memory ? memset(memory, 0, rounded) : NULL;
}

static void ref_free(Backend *backend, MemKind kind, void *memory)
{
    (void)backend;
    (void)kind;
    free(memory);
}

/* Copies the source at once, so that the caller may reuse it in both queue modes. */
static void ref_upload(Backend *backend, Queue queue, void *dst, const void *src, size_t bytes)
{
    MoveTask task = {.dst = dst, .src = src, .bytes = bytes};
    task.owned = xmalloc(bytes > 0 ? bytes : 1);
    memcpy(task.owned, src, bytes);
    task.src = task.owned;
    queues_submit(queues_of(backend), (int)queue, task_copy, NULL, &task, (int)sizeof task);
}

static void ref_download(Backend *backend, Queue queue, void *dst, const void *src, size_t bytes)
{
    const MoveTask task = {.dst = dst, .src = src, .bytes = bytes};
    queues_submit(queues_of(backend), (int)queue, task_copy, NULL, &task, (int)sizeof task);
}

static void ref_fill(Backend *backend, Queue queue, void *dst, int byte, size_t bytes)
{
    const MoveTask task = {.dst = dst, .byte = byte, .bytes = bytes};
    queues_submit(queues_of(backend), (int)queue, task_fill, NULL, &task, (int)sizeof task);
}

static bool ref_accepts(Backend *backend, const FuseCandidate *candidate)
{
    (void)backend;
    (void)candidate;
    return true;
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
    if (node->op == OP_SGD || node->op == OP_GRAD_NORM) {
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
    queues_submit(queues_of(backend), (int)queue, task_run, NULL, &task, (int)sizeof task);
}

static int ref_event(Backend *backend)
{
    return queues_event(queues_of(backend));
}

static void ref_record(Backend *backend, Queue queue, int event)
{
    queues_record(queues_of(backend), (int)queue, event);
}

static void ref_wait(Backend *backend, Queue queue, int event)
{
    queues_wait(queues_of(backend), (int)queue, event);
}

static void ref_sync(Backend *backend, Queue queue)
{
    queues_sync(queues_of(backend), (int)queue);
}

Err *backend_open_ref(const BackendOptions *options, Backend *backend)
{
    RefState *state = xcalloc(1, sizeof *state);
    state->queues = queues_open(QUEUE_COUNT, options->queue_threads, options->delay_seed);
    backend->name = "ref";
    backend->state = state;
    backend->close = ref_close;
    backend->info = ref_info;
    backend->alloc = ref_alloc;
    backend->free = ref_free;
    backend->upload = ref_upload;
    backend->download = ref_download;
    backend->fill = ref_fill;
    backend->accepts = ref_accepts;
    backend->prepare = ref_prepare;
    backend->release = ref_release;
    backend->pack = ref_pack;
    backend->run = ref_run;
    backend->event = ref_event;
    backend->record = ref_record;
    backend->wait = ref_wait;
    backend->sync = ref_sync;
    return NULL;
}
