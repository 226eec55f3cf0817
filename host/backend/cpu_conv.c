/* Convolution nodes on the CPU: the shape of a node, the ways to compute it (oneDNN's, our own
 * Winograd form), and the choice between them by timing at prepare. The choice is remembered by a
 * key that holds all of the shape, so equal nodes are timed once and a resumed run computes as
 * before. */
#include "backend/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/log.h"

enum { TIMED_RUNS = 6 };

typedef struct {
    ConvShape shape;
    DnnlConv *dnnl;
    Winograd *winograd;
    WinogradGrad *winograd_grad;
    ConvParts *parts;
} CpuConv; /* one of the four is set */

static const char *const KIND_NAMES[] = {"conv_fwd", "conv_dgrad", "conv_wgrad"};

static ConvShape shape_of(const Step *step)
{
    const Node *node = step_node(step);
    const ConvAttr *a = &node->attr.conv;
    ConvShape s = {.kernel_h = a->kernel_h,
                   .kernel_w = a->kernel_w,
                   .stride = a->stride,
                   .pad = a->pad,
                   .groups = a->groups};
    const Tensor *x = NULL;
    const Tensor *y = NULL;
    if (node->op == OP_CONV) {
        s.kind = CONV_FORWARD;
        x = cpu_in(step, 0);
        y = cpu_out(step, 0);
        s.bias = cpu_in(step, 2) != NULL;
        s.residual = cpu_in(step, 3) != NULL;
        s.relu = a->relu;
    } else if (node->op == OP_CONV_DGRAD) {
        s.kind = CONV_DGRAD;
        x = cpu_out(step, 0);
        y = cpu_in(step, 0);
    } else {
        s.kind = CONV_WGRAD;
        x = cpu_in(step, 0);
        y = cpu_in(step, 1);
    }
    s.weight_ic = (s.kind == CONV_WGRAD ? cpu_out(step, 0) : cpu_in(step, 1))->c;
    s.act = x->dtype;
    s.n = x->n;
    s.h = x->h;
    s.w = x->w;
    s.ic = x->c;
    s.oh = y->h;
    s.ow = y->w;
    s.oc = y->c;
    return s;
}

static char *shape_key(const ConvShape *s, const Cpu *cpu)
{
    return xformat("%s %s n%d %dx%dx%d-%dx%dx%d k%dx%d s%d p%d g%d w%d%s%s%s t%d %s",
                   KIND_NAMES[s->kind], dtype_name(s->act), s->n, s->h, s->w, s->ic, s->oh, s->ow,
                   s->oc, s->kernel_h, s->kernel_w, s->stride, s->pad, s->groups, s->weight_ic,
                   s->bias ? " bias" : "", s->residual ? " residual" : "", s->relu ? " relu" : "",
                   cpu->threads, cpu_isa_name(cpu->isa));
}

static void conv_close(CpuConv *conv)
{
    cpu_dnnl_conv_close(conv->dnnl);
    cpu_winograd_close(conv->winograd);
    cpu_winograd_grad_close(conv->winograd_grad);
    cpu_conv_parts_close(conv->parts);
    conv->parts = NULL;
    conv->dnnl = NULL;
    conv->winograd = NULL;
    conv->winograd_grad = NULL;
}

static bool winograd_fits(const Cpu *cpu, const ConvShape *shape)
{
    return cpu_winograd_supports(cpu->isa, shape) ||
           cpu_winograd_grad_supports(cpu->isa, shape, cpu->threads);
}

static Err *conv_open(CpuConv *conv, const Cpu *cpu, int choice)
{
    if (choice == CHOICE_WINOGRAD && conv->shape.kind == CONV_WGRAD) {
        conv->winograd_grad = cpu_winograd_grad_open(&conv->shape, cpu->threads);
        return NULL;
    }
    if (choice == CHOICE_WINOGRAD) {
        conv->winograd = cpu_winograd_open(&conv->shape, cpu->threads);
        return NULL;
    }
    if (cpu_conv_parts_fit(&conv->shape, cpu->threads)) {
        return cpu_conv_parts_open(cpu->dnnl, &conv->shape, choice, cpu->threads, &conv->parts);
    }
    return cpu_dnnl_conv_open(cpu->dnnl, &conv->shape, choice, &conv->dnnl);
}

static size_t conv_workspace(const CpuConv *conv)
{
    if (conv->winograd_grad) {
        return cpu_winograd_grad_workspace(conv->winograd_grad);
    }
    if (conv->parts) {
        return cpu_conv_parts_workspace(conv->parts);
    }
    return conv->winograd ? cpu_winograd_workspace(conv->winograd)
                          : cpu_dnnl_conv_workspace(conv->dnnl);
}

static void conv_run(const CpuConv *conv, const ConvArgs *args)
{
    if (conv->winograd) {
        cpu_winograd_run(conv->winograd, args);
    } else if (conv->winograd_grad) {
        cpu_winograd_grad_run(conv->winograd_grad, args);
    } else if (conv->parts) {
        cpu_conv_parts_run(conv->parts, args);
    } else {
        cpu_dnnl_conv_run(conv->dnnl, args);
    }
}

/* Memory that stands for a node's tensors while ways are timed. It is mapped, not taken from the
 * heap, which would keep it: a timing must not cost the run that follows any memory. */
typedef struct {
    void *base;
    size_t bytes;
    float *weights, *bias;
    void *x, *y, *residual, *workspace;
} TimingMemory;

static void *take(char **next, size_t bytes)
{
    void *at = *next;
    *next += cpu_lines(bytes);
    return at;
}

/* NULL base where the system has none. */
static TimingMemory timing_memory(const ConvShape *s, size_t workspace)
{
    const size_t x_bytes =
        (size_t)s->n * (size_t)s->h * (size_t)s->w * (size_t)s->ic * dtype_size(s->act);
    const size_t y_bytes =
        (size_t)s->n * (size_t)s->oh * (size_t)s->ow * (size_t)s->oc * dtype_size(s->act);
    const size_t filter = (size_t)s->kernel_h * (size_t)s->kernel_w * (size_t)(s->ic / s->groups);
    const size_t weight_bytes = filter * (size_t)s->oc * sizeof(float);
    const size_t bias_bytes = (size_t)s->oc * sizeof(float);
    TimingMemory m = {.bytes =
                          x_bytes + 2 * y_bytes + weight_bytes + bias_bytes + workspace + 6 * 64};
    m.base = mmap(NULL, m.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m.base == MAP_FAILED) {
        m.base = NULL;
        return m;
    }
    char *next = m.base;
    m.x = take(&next, x_bytes);
    m.y = take(&next, y_bytes);
    m.residual = take(&next, y_bytes);
    m.weights = take(&next, weight_bytes);
    m.bias = take(&next, bias_bytes);
    m.workspace = take(&next, workspace);
    return m;
}

/* Processor seconds of all threads: unlike the clock on the wall these do not grow while another
 * process holds a core, so the choice is the same on a busy machine. All ways divide their work
 * evenly, so less of it is also sooner. */
static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Best of a few runs, in processor seconds; infinite where this way cannot be had. */
static double time_choice(const CpuConv *like, const Cpu *cpu, int choice)
{
    CpuConv conv = {.shape = like->shape};
    Err *err = conv_open(&conv, cpu, choice);
    if (err) {
        err_free(err);
        return 1e30;
    }
    double best = 1e30;
    const TimingMemory memory = timing_memory(&conv.shape, conv_workspace(&conv));
    if (memory.base) {
        const ConvArgs args = {.x = memory.x,
                               .y = memory.y,
                               .bias = memory.bias,
                               .residual = memory.residual,
                               .grad = memory.weights,
                               .workspace = memory.workspace};
        conv_run(&conv, &args);
        for (int i = 0; i < TIMED_RUNS; i++) {
            const double begin = cpu_seconds();
            conv_run(&conv, &args);
            const double seconds = cpu_seconds() - begin;
            best = seconds < best ? seconds : best;
        }
        munmap(memory.base, memory.bytes);
    }
    log_debug("%s %dx%dx%d-%d: way %d (%s) %.0f us", KIND_NAMES[conv.shape.kind], conv.shape.h,
              conv.shape.w, conv.shape.ic, conv.shape.oc, choice,
              conv.dnnl    ? cpu_dnnl_conv_name(conv.dnnl)
              : conv.parts ? "oneDNN, one part a thread"
                           : "winograd",
              best * 1e6);
    conv_close(&conv);
    return best;
}

static int time_choices(const CpuConv *conv, const Cpu *cpu, int dnnl_ways)
{
    int best = 0;
    double best_s = 1e30;
    for (int way = 0; way <= dnnl_ways; way++) {
        if (way == dnnl_ways && !winograd_fits(cpu, &conv->shape)) {
            continue;
        }
        const int choice = way == dnnl_ways ? CHOICE_WINOGRAD : way;
        const double seconds = time_choice(conv, cpu, choice);
        if (seconds < best_s) {
            best_s = seconds;
            best = choice;
        }
    }
    return best;
}

static bool choice_is_valid(const CpuConv *conv, const Cpu *cpu, int choice, int dnnl_ways)
{
    if (choice == CHOICE_WINOGRAD) {
        return winograd_fits(cpu, &conv->shape);
    }
    return choice >= 0 && choice < dnnl_ways;
}

static int choose(const Backend *backend, const CpuConv *conv, const Cpu *cpu, int dnnl_ways)
{
    if (backend->deterministic) {
        /* Nothing timed, so the same everywhere. Winograd where it can: timed, it won at all
         * shapes of wrn_16_2 and resnet20 but a few of 16 channels (Zen 5, one thread, 2026-11). */
        return winograd_fits(cpu, &conv->shape) ? CHOICE_WINOGRAD : 0;
    }
    if (!backend->choices) {
        return 0;
    }
    char *key = shape_key(&conv->shape, cpu);
    int choice = choices_get(backend->choices, key);
    if (!choice_is_valid(conv, cpu, choice, dnnl_ways)) {
        const bool single = dnnl_ways == 1 && !winograd_fits(cpu, &conv->shape);
        choice = single ? 0 : time_choices(conv, cpu, dnnl_ways);
        choices_put(backend->choices, key, choice);
    }
    free(key);
    return choice;
}

static void run_forward(CpuStep *own, const Step *step, const RunArgs *args)
{
    const ConvArgs conv = {.x = cpu_in_at(step, args, 0),
                           .bias = cpu_in_at(step, args, 2),
                           .residual = cpu_in_at(step, args, 3),
                           .y = cpu_out_at(step, args, 0),
                           .workspace = args->arena[ARENA_WORKSPACE]};
    conv_run(own->own, &conv);
}

static void run_dgrad(CpuStep *own, const Step *step, const RunArgs *args)
{
    const ConvArgs conv = {.y = cpu_in_at(step, args, 0),
                           .x = cpu_out_at(step, args, 0),
                           .workspace = args->arena[ARENA_WORKSPACE]};
    conv_run(own->own, &conv);
}

static void run_wgrad(CpuStep *own, const Step *step, const RunArgs *args)
{
    const ConvArgs conv = {.x = cpu_in_at(step, args, 0),
                           .y = cpu_in_at(step, args, 1),
                           .grad = cpu_out_at(step, args, 0),
                           .add = cpu_adds(step, args),
                           .workspace = args->arena[ARENA_WORKSPACE]};
    conv_run(own->own, &conv);
}

static void pack(CpuStep *own, const Step *step, const RunArgs *args)
{
    CpuConv *conv = own->own;
    const float *weights = cpu_in_at(step, args, 1);
    if (conv->winograd) {
        cpu_winograd_pack(conv->winograd, weights);
    } else {
        cpu_dnnl_conv_pack(conv->dnnl, weights);
    }
}

static void release(CpuStep *own)
{
    if (own->own) {
        conv_close(own->own);
    }
    free(own->own);
}

Err *cpu_prepare_conv(Backend *backend, Step *step, CpuStep *own)
{
    CpuConv *conv = xcalloc(1, sizeof *conv);
    conv->shape = shape_of(step);
    own->own = conv;
    own->release = release;
    TRY(cpu_check_storage(step, conv->shape.act));
    const int ways = cpu_dnnl_conv_candidates(own->cpu->dnnl, &conv->shape);
    if (ways == 0) {
        return err_new(EXIT_NO_DEVICE,
                       "%s: oneDNN has no convolution for this shape in %s; try precision fp32",
                       step_node(step)->name, dtype_name(conv->shape.act));
    }
    Err *err = conv_open(conv, own->cpu, choose(backend, conv, own->cpu, ways));
    if (err) {
        return err_context(err, "%s", step_node(step)->name);
    }
    step->workspace = conv_workspace(conv);
    step->packs = conv->shape.kind != CONV_WGRAD;
    own->pack = step->packs ? pack : NULL;
    own->run = conv->shape.kind == CONV_FORWARD ? run_forward
               : conv->shape.kind == CONV_DGRAD ? run_dgrad
                                                : run_wgrad;
    return NULL;
}
