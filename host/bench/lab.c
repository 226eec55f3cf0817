/* Plans and prepares a graph of one node directly on the backend's table, fills inputs and parameters with plausible values,
 * and runs it. */
#include "bench/lab.h"

#include "base/plugin.h"
#include "base/rng.h"
#include "kernels/distill.h"

#include <stdlib.h>
#include <string.h>

enum { NORMALS = 65521, SEED = 1, KERNEL_BUFFERS = 9, ALIGNMENT = 256 };

typedef KernelStatus (*DistillKernel)(KernelStream, const DistillSpec *, const DistillLaunch *,
                                      DistillForm);
typedef size_t (*DistillWorkspace)(const DistillSpec *, int, int);

struct BenchLab {
    Backend *backend;
    BenchProblem problem;
    Plan *plan;
    Step step;
    bool prepared;
    RunArgs args;
    void *owned[ARENA_COUNT + 1]; /* the last: momentum */
    /* The kernel itself, for logits of 16 bits */
    DistillKernel kernel;
    DistillSpec spec;
    DistillLaunch launch;
    void *buffers[KERNEL_BUFFERS];
};

/* ---- Values ---- */

static double *normals(void)
{
    double *values = xmalloc(NORMALS * sizeof *values);
    Rng rng = rng_make(SEED, 0, 0, RNG_TEST);
    for (int i = 0; i < NORMALS; i++) {
        values[i] = rng_normal(&rng);
    }
    return values;
}

static size_t common_divisor(size_t a, size_t b)
{
    while (b > 0) {
        const size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* i -> i * stride mod n visits every index once. */
static size_t permuting_stride(size_t n)
{
    size_t stride = n * 5 / 8 + 1;
    while (common_divisor(stride, n) != 1) {
        stride++;
    }
    return stride;
}

static void fill_order(const Tensor *t, void *data)
{
    const size_t n = tensor_elems(t);
    const size_t stride = permuting_stride(n);
    for (size_t i = 0; i < n; i++) {
        dtype_store(t->dtype, data, i, (double)(i * stride % n));
    }
}

/* Whole numbers below what the name allows. */
static void fill_integers(const Graph *g, const Tensor *t, void *data)
{
    const int logits = graph_find_tensor(g, "z");
    const int table = graph_find_tensor(g, "table");
    uint32_t bound = t->dtype == DT_U8 ? 256 : 100;
    if (strcmp(t->name, "labels") == 0 && logits >= 0) {
        bound = (uint32_t)g->tensors[logits].c;
    } else if (strcmp(t->name, "index") == 0) {
        bound = (uint32_t)g->tensors[table].n;
    } else if (strcmp(t->name, "cursor") == 0) {
        bound = 1;
    }
    Rng rng = rng_make(SEED, 1, 0, RNG_TEST);
    for (size_t i = 0; i < tensor_elems(t); i++) {
        dtype_store(t->dtype, data, i, (double)rng_below(&rng, bound));
    }
}

/* Logits are as wide as a trained network's; coefficients keep activations as they are. */
static double float_value(const Tensor *t, size_t i, double normal)
{
    static const double hyper[HYPER_COUNT] = {[HYPER_LR] = 1e-4,
                                              [HYPER_MOMENTUM] = 0.9,
                                              [HYPER_WEIGHT_DECAY] = 1e-4,
                                              [HYPER_GRAD_SCALE] = 1};
    if (strcmp(t->name, "hyper") == 0) {
        return hyper[i];
    }
    if (strcmp(t->name, "coef") == 0) {
        const size_t block = i / ((size_t)t->c / 4);
        return block == 1 || block == 2 ? 1 : 0.01 * normal;
    }
    if (strcmp(t->name, "z") == 0 || strcmp(t->name, "t") == 0) {
        return 3 * normal;
    }
    if (strcmp(t->name, "theta") == 0) {
        return i == 0 ? -12 : -11;
    }
    return normal;
}

static void fill_tensor(const Graph *g, const Tensor *t, const double *normal, void *data)
{
    if (strcmp(t->name, "order") == 0) {
        fill_order(t, data);
        return;
    }
    if (t->dtype == DT_U8 || t->dtype == DT_I32) {
        fill_integers(g, t, data);
        return;
    }
    const size_t elems = tensor_elems(t);
    for (size_t i = 0; i < elems; i++) {
        dtype_store(t->dtype, data, i, float_value(t, i, normal[i % NORMALS]));
    }
    if (strcmp(t->name, "sums") == 0) {
        dtype_store(t->dtype, data, elems - 1, g->batch);
    } else if (strcmp(t->name, "rows_valid") == 0) {
        dtype_store(t->dtype, data, 0, g->batch);
    } else if (strcmp(t->name, "scale") == 0) {
        dtype_store(t->dtype, data, 0, 1.0 / g->batch);
    }
}

static void send(Backend *backend, void *to, const void *from, size_t bytes)
{
    backend->upload(backend, QUEUE_COMPUTE, to, from, bytes);
    backend->sync(backend, QUEUE_COMPUTE);
}

static void fill_inputs(BenchLab *lab, const double *normal)
{
    const Graph *g = &lab->problem.graph;
    for (int t = 0; t < g->n_tensors; t++) {
        const Placement *at = &lab->plan->at[t];
        if (g->tensors[t].kind != TENSOR_INPUT || at->arena == ARENA_NONE) {
            continue;
        }
        void *data = xmalloc(at->bytes + 1);
        fill_tensor(g, &g->tensors[t], normal, data);
        send(lab->backend, (char *)lab->args.arena[at->arena] + at->offset, data, at->bytes);
        free(data);
    }
}

/* Weights and gradients as in training; momentum stays zero. */
static void fill_parameters(BenchLab *lab, const double *normal)
{
    static const Arena arenas[] = {ARENA_WEIGHT, ARENA_GRAD};
    const size_t elems = lab->problem.params.arena_elems[ARENA_WEIGHT];
    float *data = xmalloc((elems + 1) * sizeof *data);
    for (size_t i = 0; i < elems; i++) {
        data[i] = (float)(0.05 * normal[i % NORMALS]);
    }
    for (int a = 0; a < 2; a++) {
        if (lab->args.arena[arenas[a]]) {
            send(lab->backend, lab->args.arena[arenas[a]], data, elems * sizeof *data);
        }
    }
    free(data);
}

/* ---- A graph of one node ---- */

static Err *out_of_memory(const BenchLab *lab, size_t bytes)
{
    return err_new(EXIT_DEVICE_MEMORY, "%s: out of memory: %.1f MiB more are needed",
                   lab->backend->name, (double)bytes / 0x1p20);
}

static Err *allocate(BenchLab *lab)
{
    Backend *backend = lab->backend;
    for (int a = 0; a <= ARENA_COUNT; a++) {
        size_t bytes =
            a < ARENA_COUNT ? lab->plan->arena_bytes[a] : lab->plan->arena_bytes[ARENA_WEIGHT];
        bytes = a == ARENA_WORKSPACE ? lab->step.workspace : bytes;
        if (bytes == 0) {
            continue;
        }
        lab->owned[a] = backend->alloc(backend, MEM_DEVICE, bytes);
        if (!lab->owned[a]) {
            return out_of_memory(lab, bytes);
        }
        if (a < ARENA_COUNT) {
            lab->args.arena[a] = lab->owned[a];
        }
    }
    lab->args.moment = lab->owned[ARENA_COUNT];
    return NULL;
}

static Err *open_graph(BenchLab *lab, const double *normal)
{
    Backend *backend = lab->backend;
    lab->plan = plan_build(&lab->problem.graph, NULL);
    lab->step =
        (Step){.graph = &lab->problem.graph, .plan = lab->plan, .node = lab->plan->steps[0].node};
    CHECK(lab->plan->n_steps == 1, "a problem of %d steps", lab->plan->n_steps);
    TRY(backend->prepare(backend, &lab->step));
    lab->prepared = true;
    TRY(allocate(lab));
    lab->args.rows = lab->problem.graph.batch;
    fill_inputs(lab, normal);
    fill_parameters(lab, normal);
    if (lab->step.packs) {
        backend->pack(backend, QUEUE_COMPUTE, &lab->step, &lab->args);
    }
    return NULL;
}

/* ---- The loss kernel itself ---- */

static Err *find_kernel(const char *name, void *function, size_t size)
{
    void *symbol = NULL;
    TRY(plugin_symbol(CUDA_PART, CUDA_PART_VARIABLE, name, &symbol));
    memcpy(function, &symbol, size); /* C has no cast from an object to a function */
    return NULL;
}

static Err *kernel_buffer(BenchLab *lab, int index, size_t bytes, void **out)
{
    lab->buffers[index] = lab->backend->alloc(lab->backend, MEM_DEVICE, bytes + ALIGNMENT);
    *out = lab->buffers[index];
    return *out ? NULL : out_of_memory(lab, bytes);
}

/* A tensor of the problem in the type of the logits, filled. */
static Err *kernel_input(BenchLab *lab, const char *name, DType dtype, int index,
                         const double *normal, const void **out)
{
    const Graph *g = &lab->problem.graph;
    const int id = graph_find_tensor(g, name);
    *out = NULL;
    if (id < 0) {
        return NULL;
    }
    Tensor t = g->tensors[id];
    t.dtype = dtype;
    void *memory = NULL;
    TRY(kernel_buffer(lab, index, tensor_bytes(&t), &memory));
    void *data = xmalloc(tensor_bytes(&t) + 1);
    fill_tensor(g, &t, normal, data);
    send(lab->backend, memory, data, tensor_bytes(&t));
    free(data);
    *out = memory;
    return NULL;
}

static Err *open_kernel(BenchLab *lab, const BenchPoint *point, const double *normal)
{
    if (strcmp(lab->backend->name, "cuda") != 0) {
        return err_new(EXIT_USAGE_ERR,
                       "%s: the logits of %s are fp32 in graphs; 16-bit logits need "
                       "--device cuda",
                       lab->backend->name, point->op->name);
    }
    DistillWorkspace workspace;
    TRY(find_kernel("kernel_distill", &lab->kernel, sizeof lab->kernel));
    TRY(find_kernel("kernel_distill_workspace", &workspace, sizeof workspace));
    const int rows = point->value[0];
    const int classes = point->value[1];
    DistillLaunch *launch = &lab->launch;
    lab->spec = problem_distill_spec(point);
    launch->n = rows;
    launch->classes = classes;
    launch->z_type = launch->t_type = launch->dz_type = (KernelType)point->dtype;
    const void *input[5];
    static const struct {
        const char *name;
        bool logits;
        DType dtype;
    } inputs[5] = {{"z", true, DT_F32},
                   {"t", true, DT_F32},
                   {"labels", false, DT_I32},
                   {"theta", false, DT_F32},
                   {"scale", false, DT_F32}};
    for (int i = 0; i < 5; i++) {
        TRY(kernel_input(lab, inputs[i].name, inputs[i].logits ? point->dtype : inputs[i].dtype, i,
                         normal, &input[i]));
    }
    launch->z = input[0];
    launch->t = input[1];
    launch->labels = input[2];
    launch->theta = input[3];
    launch->scale = input[4];
    void *results = NULL;
    const size_t dz_bytes = (size_t)rows * (size_t)classes * dtype_size(point->dtype);
    TRY(kernel_buffer(lab, 5, dz_bytes, &launch->dz));
    TRY(kernel_buffer(lab, 6, ((size_t)rows * ROW_FIELDS + SUM_FIELDS) * sizeof(float), &results));
    launch->rows = results;
    launch->sums = launch->rows + (size_t)rows * ROW_FIELDS;
    void *counter = NULL; /* zeroed, as all memory of a backend */
    TRY(kernel_buffer(lab, 8, sizeof *launch->counter, &counter));
    launch->counter = counter;
    return kernel_buffer(lab, 7, workspace(&lab->spec, rows, classes), &launch->workspace);
}

/* ---- Life ---- */

Err *lab_open(Backend *backend, const BenchPoint *point, BenchLab **out)
{
    *out = NULL;
    BenchLab *lab = xcalloc(1, sizeof *lab);
    lab->backend = backend;
    problem_build(point, &lab->problem);
    double *normal = normals();
    const bool graph = !point->op->wide_logits || point->dtype == DT_F32;
    Err *err = graph ? open_graph(lab, normal) : open_kernel(lab, point, normal);
    free(normal);
    if (err) {
        lab_close(lab);
        return err;
    }
    backend->sync(backend, QUEUE_COMPUTE);
    *out = lab;
    return NULL;
}

void lab_close(BenchLab *lab)
{
    if (!lab) {
        return;
    }
    Backend *backend = lab->backend;
    backend->sync(backend, QUEUE_COMPUTE);
    if (lab->prepared) {
        backend->release(backend, &lab->step);
    }
    for (int a = 0; a <= ARENA_COUNT; a++) {
        if (lab->owned[a]) {
            backend->free(backend, MEM_DEVICE, lab->owned[a]);
        }
    }
    for (int i = 0; i < KERNEL_BUFFERS; i++) {
        if (lab->buffers[i]) {
            backend->free(backend, MEM_DEVICE, lab->buffers[i]);
        }
    }
    if (lab->plan) {
        plan_free(lab->plan);
    }
    problem_free(&lab->problem);
    free(lab);
}

void lab_submit(BenchLab *lab)
{
    Backend *backend = lab->backend;
    if (!lab->kernel) {
        backend->run(backend, QUEUE_COMPUTE, &lab->step, &lab->args);
        return;
    }
    const KernelStatus status = lab->kernel(backend->native_queue(backend, QUEUE_COMPUTE),
                                            &lab->spec, &lab->launch, DISTILL_AUTO);
    CHECK(status == 0, "kernel_distill: CUDA error %d", status);
}

const BenchProblem *lab_problem(const BenchLab *lab)
{
    return &lab->problem;
}

bool lab_read(BenchLab *lab, const char *tensor, double *values, size_t elems)
{
    const Graph *g = &lab->problem.graph;
    const int id = graph_find_tensor(g, tensor);
    if (id < 0) {
        return false;
    }
    const DType dtype = lab->kernel ? (DType)lab->launch.dz_type : g->tensors[id].dtype;
    const void *at = lab->kernel ? lab->launch.dz : step_address(&lab->step, &lab->args, id);
    CHECK(elems <= tensor_elems(&g->tensors[id]), "%zu elements of %s", elems, tensor);
    void *data = xmalloc(elems * dtype_size(dtype) + 1);
    lab->backend->download(lab->backend, QUEUE_COMPUTE, data, at, elems * dtype_size(dtype));
    lab->backend->sync(lab->backend, QUEUE_COMPUTE);
    for (size_t i = 0; i < elems; i++) {
        values[i] = dtype_load(dtype, data, i);
    }
    free(data);
    return true;
}
