/* The cpu backend: its table, and the way from a node to the file that computes it. Work
 * runs on the calling thread and its OpenMP team, or, where queues are threads (tests), on the
 * queue's thread and a team of its own. */
#include "backend/cpu.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/distill_rows.h"

int cpu_width(int channels, int *repeat)
{
    int common = channels;
    for (int other = CPU_BLOCK; other != 0;) {
        const int rest = common % other;
        common = other;
        other = rest;
    }
    *repeat = CPU_BLOCK / common;
    return *repeat * channels;
}

Range cpu_part(long count, long grain, int index, int parts)
{
    const long grains = (count + grain - 1) / grain;
    const long begin = grains * index / parts * grain;
    const long end = grains * (index + 1) / parts * grain;
    return (Range){begin < count ? begin : count, end < count ? end : count};
}

Err *cpu_check_storage(const Step *step, DType type)
{
    if (type == DT_F32 || type == DT_BF16) {
        return NULL;
    }
    return err_new(EXIT_CONFIG_ERR,
                   "%s: the cpu backend stores activations as fp32 or bf16, not %s: set precision",
                   step_node(step)->name, dtype_name(type));
}

/* --- distillation: rows in cpu_distill*.c --- */

static float scalar_at(const Step *step, const RunArgs *args, int slot, float absent)
{
    const float *value = cpu_in_at(step, args, slot);
    return value ? *value : absent;
}

static void run_distill(CpuStep *own, const Step *step, const RunArgs *args)
{
    (void)own;
    const Node *node = step_node(step);
    const Tensor *z = cpu_in(step, DISTILL_IN_Z);
    const Tensor *logits = z ? z : cpu_in(step, DISTILL_IN_T);
    const Tensor *columns = cpu_in(step, DISTILL_IN_ROW_PARAMS);
    const Tensor *dz = cpu_out(step, DISTILL_OUT_DZ);
    const DistillArgs rows = {
        .spec = &step->graph->specs[node->attr.distill],
        .n = logits->n,
        .classes = logits->c,
        .logits = logits->dtype,
        .dz_type = dz ? dz->dtype : DT_F32,
        .z = cpu_in_at(step, args, DISTILL_IN_Z),
        .t = cpu_in_at(step, args, DISTILL_IN_T),
        .dz = cpu_out_at(step, args, DISTILL_OUT_DZ),
        .labels = cpu_in_at(step, args, DISTILL_IN_LABELS),
        .theta = cpu_in_at(step, args, DISTILL_IN_THETA),
        .row_params = cpu_in_at(step, args, DISTILL_IN_ROW_PARAMS),
        .columns = columns ? columns->c : 0,
        .target_kind = cpu_in_at(step, args, DISTILL_IN_TARGET_KIND),
        .target_weight = cpu_in_at(step, args, DISTILL_IN_TARGET_WEIGHT),
        .target_class = cpu_in_at(step, args, DISTILL_IN_TARGET_CLASS),
        .sparse_index = cpu_in_at(step, args, DISTILL_IN_SPARSE_INDEX),
        .sparse_value = cpu_in_at(step, args, DISTILL_IN_SPARSE_VALUE),
        .dense = cpu_in_at(step, args, DISTILL_IN_DENSE),
        .rows_valid = (int)scalar_at(step, args, DISTILL_IN_ROWS_VALID, (float)logits->n),
        .scale = (double)scalar_at(step, args, DISTILL_IN_SCALE, 1.0f) *
                 (double)scalar_at(step, args, DISTILL_IN_LOSS_SCALE, 1.0f),
        .rows = cpu_out_at(step, args, DISTILL_OUT_ROWS),
        .sums = cpu_out_at(step, args, DISTILL_OUT_SUMS),
        .stat_type = DT_F32,
    };
    distill_rows_cpu(&rows, args->arena[ARENA_WORKSPACE]);
}

Err *cpu_prepare_distill(Step *step, CpuStep *own)
{
    const Tensor *z = cpu_in(step, DISTILL_IN_Z);
    const Tensor *t = cpu_in(step, DISTILL_IN_T);
    const Tensor *logits = z ? z : t;
    if (z && t && z->dtype != t->dtype) {
        return err_new(EXIT_CONFIG_ERR, "%s: logits are %s for the student, %s for the teacher",
                       step_node(step)->name, dtype_name(z->dtype), dtype_name(t->dtype));
    }
    if (logits->dtype != DT_F32 && logits->dtype != DT_BF16) {
        return err_new(EXIT_CONFIG_ERR, "%s: the cpu backend takes logits in fp32 or bf16, not %s",
                       step_node(step)->name, dtype_name(logits->dtype));
    }
    step->workspace = distill_cpu_scratch(logits->n, logits->c, own->cpu->threads);
    own->run = run_distill;
    return NULL;
}

/* --- steps --- */

/* Forms that the backend does not accept: oneDNN has no such prologue or epilogue. */
static bool is_refused_form(const Node *node)
{
    switch (node->op) {
    case OP_CONV:
        return node->in[4] >= 0 || node->out[1] >= 0;
    case OP_CONV_DGRAD:
    case OP_CONV_WGRAD:
        return node->in[2] >= 0;
    case OP_BN_APPLY:
        return node->out[1] >= 0;
    case OP_BN_REDUCE:
    case OP_BN_DX:
        return node->in[6] >= 0 || node->attr.bn.remask;
    default:
        return false;
    }
}

static Err *prepare_op(Backend *backend, Step *step, CpuStep *own)
{
    switch (step_node(step)->op) {
    case OP_CONV:
    case OP_CONV_DGRAD:
    case OP_CONV_WGRAD:
        return cpu_prepare_conv(backend, step, own);
    case OP_BN_STATS:
    case OP_BN_FINALIZE:
    case OP_BN_RUNNING:
    case OP_BN_INFER:
    case OP_BN_APPLY:
    case OP_BN_REDUCE:
    case OP_BN_DPARAM:
    case OP_BN_DX:
        return cpu_prepare_bn(step, own);
    case OP_IMAGE:
    case OP_RELU:
    case OP_RELU_BWD:
    case OP_ADD:
    case OP_CAST:
    case OP_BIAS_GRAD:
        return cpu_prepare_elementwise(step, own);
    case OP_AVGPOOL:
    case OP_AVGPOOL_BWD:
    case OP_MAXPOOL:
    case OP_MAXPOOL_BWD:
        return cpu_prepare_pool(step, own);
    case OP_LINEAR:
    case OP_LINEAR_DGRAD:
    case OP_LINEAR_WGRAD:
        return cpu_prepare_linear(step, own);
    case OP_FOLD_BN:
    case OP_GRAD_NORM:
    case OP_SGD:
    case OP_LOSS_SCALE:
        return cpu_prepare_param(step, own);
    case OP_GATHER:
    case OP_VIEWS:
        return cpu_prepare_rows(step, own);
    case OP_DISTILL:
        return cpu_prepare_distill(step, own);
    default:
        return err_new(EXIT_INTERNAL, "the cpu backend has no code for op %s",
                       op_name(step_node(step)->op));
    }
}

static void release(Backend *backend, Step *step)
{
    (void)backend;
    CpuStep *own = step->priv;
    if (own && own->release) {
        own->release(own);
    }
    free(own);
    step->priv = NULL;
}

static Err *prepare(Backend *backend, Step *step)
{
    if (step->graph->math != DT_F32) {
        return err_new(EXIT_CONFIG_ERR,
                       "%s: the cpu backend computes in fp32, not %s: use the ref backend",
                       step_node(step)->name, dtype_name(step->graph->math));
    }
    if (is_refused_form(step_node(step))) {
        return err_new(EXIT_CONFIG_ERR, "%s: the cpu backend does not take this fused form",
                       step_node(step)->name);
    }
    CpuStep *own = xcalloc(1, sizeof *own);
    own->cpu = backend->state;
    step->priv = own;
    Err *err = prepare_op(backend, step, own);
    if (err) {
        release(backend, step);
    }
    return err;
}

typedef struct {
    const Step *step;
    RunArgs args;
    bool pack;
} RunTask;

static void task_run(void *context, const void *data)
{
    const Cpu *cpu = context;
    const RunTask *task = data;
    CpuStep *own = task->step->priv;
    omp_set_num_threads(cpu->threads); /* the queue's thread may be new */
    if (task->pack) {
        own->pack(own, task->step, &task->args);
    } else {
        own->run(own, task->step, &task->args);
    }
}

static void run(Backend *backend, Queue queue, const Step *step, const RunArgs *args)
{
    const RunTask task = {.step = step, .args = *args};
    host_device_submit(backend, queue, task_run, backend->state, &task, sizeof task);
}

static void pack(Backend *backend, Queue queue, const Step *step, const RunArgs *args)
{
    const RunTask task = {.step = step, .args = *args, .pack = true};
    host_device_submit(backend, queue, task_run, backend->state, &task, sizeof task);
}

/* --- the backend itself --- */

static bool accepts(Backend *backend, const FuseCandidate *candidate)
{
    (void)backend;
    switch (candidate->pattern) {
    case FUSE_CONV_STATS:
    case FUSE_AFFINE_CONV:
    case FUSE_DGRAD_BN:
    case FUSE_BIT_MASK:
        return false;
    default:
        return candidate->dtype == DT_F32 || candidate->dtype == DT_BF16;
    }
}

static void processor_name(char *name, size_t size)
{
    snprintf(name, size, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file)) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && value) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(name, size, "%.*s", (int)size - 1, value + 2);
            break;
        }
    }
    if (file) {
        fclose(file);
    }
}

static void info(Backend *backend, DeviceInfo *out)
{
    const Cpu *cpu = backend->state;
    *out = (DeviceInfo){.threads = cpu->threads,
                        .bf16 = cpu_dnnl_bf16_native() && cpu->isa == CPU_AVX512_BF16};
    processor_name(out->name, sizeof out->name);
    cpu_dnnl_describe(out->library, sizeof out->library);
}

static void close_cpu(Backend *backend)
{
    Cpu *cpu = backend->state;
    host_device_close(backend);
    cpu_dnnl_close(cpu->dnnl);
    free(cpu);
}

/* The size of a team as it really comes: a limit of the environment may make it smaller than asked
 * for. */
static int team_size(int wanted)
{
    int size = 1;
    omp_set_dynamic(0);
    omp_set_num_threads(wanted);
#pragma omp parallel
    {
#pragma omp single
        size = omp_get_num_threads();
    }
    omp_set_num_threads(size);
    return size;
}

Err *backend_open_cpu(const BackendOptions *options, Backend *backend)
{
    Cpu *cpu = xcalloc(1, sizeof *cpu);
    Err *err = cpu_isa_detect(options->isa, &cpu->isa);
    if (!err) {
        err = cpu_dnnl_open(options->isa, &cpu->dnnl);
    }
    if (err) {
        free(cpu);
        return err;
    }
    cpu->threads = team_size(options->threads > 0 ? options->threads : omp_get_max_threads());
    host_device_open(options, cpu, backend);
    backend->name = "cpu";
    backend->close = close_cpu;
    backend->info = info;
    backend->accepts = accepts;
    backend->prepare = prepare;
    backend->release = release;
    backend->pack = pack;
    backend->run = run;
    return NULL;
}
