/* cuda_engines.h without cuDNN, for the emulated device: convolutions as plain loops with sums in double, rounded where
 * cuDNN rounds. A run is put into the stream as a host function, so it happens in stream order and can be captured.
 *
 * What it takes is what cuDNN takes on sm_90 (tests/golden/cudnn_sm90.txt); CUDISTILL_EMU_REFUSE="affine,stats,drelu_bn,
 * bias,residual,relu" refuses specs that have one of these, so that their parts run instead. CUDISTILL_EMU_ENGINES says how
 * many engines are proposed (1): more than one makes the backend time them. Each run first fills its workspace with NaN
 * bytes: nothing else may live there. */
#include "backend/cuda_conv.h"
#include "backend/cuda_engines.h"

#include <cuda_runtime_api.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIBRARY_WORKSPACE = 1000, DEVICE_ALIGN = 16 };

struct Engines {
    bool described;
};

struct EngineList {
    CudnnConvSpec spec;
    EngineInfo items[8];
    int count;
};

/* One execution; kept as long as its plan, since a captured one may be replayed. */
typedef struct Job Job;
struct Job {
    CudnnConvSpec spec;
    EngineBindings bound;
    void *workspace;
    size_t workspace_bytes;
    Job *next;
};

struct EnginePlan {
    CudnnConvSpec spec;
    int choice;
    Job **jobs;
};

Err *engines_open(const char *described, Engines **out)
{
    *out = xcalloc(1, sizeof **out);
    (*out)->described = described != NULL;
    return NULL;
}

void engines_close(Engines *engines)
{
    free(engines);
}

void engines_library(char *text, size_t size)
{
    (void)snprintf(text, size, "cuDNN emulated");
}

void engines_device(const Engines *engines, char *text, size_t size)
{
    (void)engines;
    (void)snprintf(text, size, "emulated");
}

bool engines_can_run(const Engines *engines)
{
    return !engines->described;
}

/* ---- What is taken ---- */

/* Whether the list of words separated by commas or colons has it. */
static bool listed(const char *words, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = words; at && *at; at += *at != '\0') {
        const size_t here = strcspn(at, ",:");
        if (here == length && strncmp(at, word, length) == 0) {
            return true;
        }
        at += here;
    }
    return false;
}

static bool refused_by_user(const CudnnConvSpec *s, char reason[ENGINE_REASON_MAX])
{
    const char *words = getenv("CUDISTILL_EMU_REFUSE");
    const struct {
        const char *word;
        bool has;
    } features[] = {{"affine", s->affine}, {"stats", s->stats},       {"drelu_bn", s->drelu_bn},
                    {"bias", s->bias},     {"residual", s->residual}, {"relu", s->relu}};
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++) {
        if (features[i].has && listed(words, features[i].word)) {
            (void)snprintf(reason, ENGINE_REASON_MAX, "CUDISTILL_EMU_REFUSE has %s",
                           features[i].word);
            return true;
        }
    }
    return false;
}

static bool refused_on_sm90(const CudnnConvSpec *s)
{
    const bool half = s->type == DT_F16;
    const bool fused = s->affine || s->stats || s->drelu_bn;
    return (s->drelu_bn && !half) || (s->kind == CUDNN_CONV_WGRAD && s->affine && !half) ||
           (s->kind == CUDNN_CONV_WGRAD && s->affine && !s->affine_relu) ||
           (fused && (s->type == DT_F32 || s->groups > 1));
}

EngineList *engine_list(Engines *engines, const CudnnConvSpec *spec, bool deterministic,
                        char reason[ENGINE_REASON_MAX])
{
    (void)engines;
    (void)deterministic;
    EngineList *list = xcalloc(1, sizeof *list);
    const char *wanted = getenv("CUDISTILL_EMU_ENGINES");
    const int most = (int)(sizeof list->items / sizeof list->items[0]);
    int count = wanted ? (int)strtol(wanted, NULL, 10) : 1;
    list->spec = *spec;
    if (refused_by_user(spec, reason)) {
        count = 0;
    } else if (refused_on_sm90(spec)) {
        (void)snprintf(reason, ENGINE_REASON_MAX, "refused as on sm_90");
        count = 0;
    }
    for (int i = 0; i < count && i < most; i++) {
        EngineInfo *info = &list->items[list->count++];
        info->choice = i;
        (void)snprintf(info->name, sizeof info->name, "loops%d", i);
    }
    return list;
}

int engine_list_count(const EngineList *list)
{
    return list->count;
}

const EngineInfo *engine_list_info(const EngineList *list, int i)
{
    return &list->items[i];
}

void engine_list_free(EngineList *list)
{
    free(list);
}

/* ---- Plans ---- */

static EnginePlan *plan_new(const CudnnConvSpec *spec, int choice)
{
    EnginePlan *plan = xcalloc(1, sizeof *plan);
    *plan = (EnginePlan){*spec, choice, xcalloc(1, sizeof(Job *))};
    return plan;
}

EnginePlan *engine_build(Engines *engines, const EngineList *list, int i,
                         char reason[ENGINE_REASON_MAX])
{
    (void)engines;
    (void)reason;
    return plan_new(&list->spec, list->items[i].choice);
}

EnginePlan *engine_load(Engines *engines, const CudnnConvSpec *spec, int choice, const char *data,
                        size_t size)
{
    char key[CONV_KEY_MAX];
    (void)engines;
    cuda_conv_key(spec, key);
    return strlen(key) == size && memcmp(key, data, size) == 0 ? plan_new(spec, choice) : NULL;
}

char *engine_store(const EnginePlan *plan, size_t *size)
{
    char key[CONV_KEY_MAX];
    cuda_conv_key(&plan->spec, key);
    *size = strlen(key);
    return xstrdup(key);
}

/* F16 affine convolutions give statistics that nobody asked for, as in cuDNN. */
static bool unused_stats(const CudnnConvSpec *s)
{
    return s->kind == CUDNN_CONV_FORWARD && s->affine && !s->stats && s->type == DT_F16;
}

size_t engine_workspace(const EnginePlan *plan)
{
    return engine_align(LIBRARY_WORKSPACE) +
           engine_extra_bytes(&plan->spec, unused_stats(&plan->spec));
}

void engine_free(EnginePlan *plan)
{
    if (!plan) {
        return;
    }
    (void)cudaDeviceSynchronize(); /* jobs may still wait in a stream */
    while (*plan->jobs) {
        Job *job = *plan->jobs;
        *plan->jobs = job->next;
        free(job);
    }
    free((void *)plan->jobs);
    free(plan);
}

/* ---- Loops ---- */

static void *at(const Job *job, Uid uid)
{
    for (int i = 0; i < job->bound.count; i++) {
        if (job->bound.uids[i] == (int64_t)uid) {
            return job->bound.pointers[i];
        }
    }
    return NULL;
}

static size_t x_count(const CudnnConvSpec *s)
{
    return (size_t)s->n * (size_t)s->h * (size_t)s->w * (size_t)s->ic;
}

static size_t y_count(const CudnnConvSpec *s)
{
    return (size_t)s->n * (size_t)s->oh * (size_t)s->ow * (size_t)s->oc;
}

static size_t w_count(const CudnnConvSpec *s)
{
    return (size_t)s->oc * (size_t)s->kernel_h * (size_t)s->kernel_w * (size_t)(s->ic / s->groups);
}

static double *load(DType type, const void *from, size_t count)
{
    double *values = xmalloc((count + 1) * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = dtype_load(type, from, i);
    }
    return values;
}

static void store(DType type, void *to, const double *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        dtype_store(type, to, i, values[i]);
    }
}

static double rounded(DType type, double value)
{
    double place = 0; /* room for any type */
    dtype_store(type, &place, 0, value);
    return dtype_load(type, &place, 0);
}

typedef struct {
    const double *x, *w, *dy;
    double *out;
    const CudnnConvSpec *spec;
} Loops;

/* One input pixel, output pixel and position in the window. x, y: first element of the pixel; k: position. */
typedef void (*Visit)(const Loops *loops, size_t x, size_t y, size_t k);

static void visit_all(const Loops *loops, Visit visit)
{
    const CudnnConvSpec *s = loops->spec;
    for (int p = 0; p < s->n * s->oh * s->ow; p++) {
        const int n = p / (s->oh * s->ow);
        const int top = p / s->ow % s->oh * s->stride - s->pad;
        const int left = p % s->ow * s->stride - s->pad;
        for (int k = 0; k < s->kernel_h * s->kernel_w; k++) {
            const int iy = top + k / s->kernel_w;
            const int ix = left + k % s->kernel_w;
            if (iy >= 0 && iy < s->h && ix >= 0 && ix < s->w) {
                const size_t pixel = ((size_t)n * (size_t)s->h + (size_t)iy) * (size_t)s->w;
                visit(loops, (pixel + (size_t)ix) * (size_t)s->ic, (size_t)p * (size_t)s->oc,
                      (size_t)k);
            }
        }
    }
}

/* Where the weights of output o at position k begin, and where o's group begins in a pixel of x. */
static size_t weights_of(const CudnnConvSpec *s, int o, size_t k)
{
    const size_t window = (size_t)s->kernel_h * (size_t)s->kernel_w;
    return ((size_t)o * window + k) * (size_t)(s->ic / s->groups);
}

static size_t group_of(const CudnnConvSpec *s, int o)
{
    return (size_t)(o / (s->oc / s->groups)) * (size_t)(s->ic / s->groups);
}

/* w here as [position][input][output of the group]: the inner loop then has no sum, and compilers vectorise it. */
static void visit_forward(const Loops *l, size_t x, size_t y, size_t k)
{
    const int inputs = l->spec->ic / l->spec->groups;
    const int outputs = l->spec->oc / l->spec->groups;
    for (int i = 0; i < l->spec->ic; i++) {
        const double *w = l->w + (k * (size_t)l->spec->ic + (size_t)i) * (size_t)outputs;
        double *to = l->out + y + (size_t)(i / inputs * outputs);
        const double from = l->x[x + (size_t)i];
        for (int o = 0; o < outputs; o++) {
            to[o] += from * w[o];
        }
    }
}

static void visit_dgrad(const Loops *l, size_t x, size_t y, size_t k)
{
    for (int o = 0; o < l->spec->oc; o++) {
        const double *w = l->w + weights_of(l->spec, o, k);
        double *to = l->out + x + group_of(l->spec, o);
        const double dy = l->dy[y + (size_t)o];
        for (int i = 0; i < l->spec->ic / l->spec->groups; i++) {
            to[i] += dy * w[i];
        }
    }
}

static void visit_wgrad(const Loops *l, size_t x, size_t y, size_t k)
{
    for (int o = 0; o < l->spec->oc; o++) {
        double *to = l->out + weights_of(l->spec, o, k);
        const double *from = l->x + x + group_of(l->spec, o);
        const double dy = l->dy[y + (size_t)o];
        for (int i = 0; i < l->spec->ic / l->spec->groups; i++) {
            to[i] += dy * from[i];
        }
    }
}

/* ReLU keeps NaN. */
static double relu(double v)
{
    return v < 0 ? 0 : v;
}

static double *load_x(const Job *job)
{
    const CudnnConvSpec *s = &job->spec;
    const DType vector = cudnn_affine_type(s->type);
    double *x = load(s->type, at(job, UID_X), x_count(s));
    for (size_t i = 0; s->affine && i < x_count(s); i++) {
        const size_t c = i % (size_t)s->ic;
        const double v = x[i] * dtype_load(vector, at(job, UID_SCALE), c) +
                         dtype_load(vector, at(job, UID_SHIFT), c);
        x[i] = rounded(s->type, s->affine_relu ? relu(v) : v);
    }
    return x;
}

/* Sums over pixels of a and a*b, fp32. */
static void channel_sums(const double *a, const double *b, size_t count, size_t c, float *sum,
                         float *product_sum)
{
    double *sums = xcalloc(2 * c, sizeof *sums);
    for (size_t i = 0; i < count; i++) {
        sums[i % c] += a[i];
        sums[c + i % c] += a[i] * b[i];
    }
    for (size_t i = 0; i < c; i++) {
        sum[i] = (float)sums[i];
        product_sum[i] = (float)sums[c + i];
    }
    free(sums);
}

/* The weights as visit_forward wants them. */
static double *load_turned_weights(const Job *job)
{
    const CudnnConvSpec *s = &job->spec;
    const int inputs = s->ic / s->groups;
    const int outputs = s->oc / s->groups;
    double *w = load(s->type, at(job, UID_W), w_count(s));
    double *turned = xmalloc((w_count(s) + 1) * sizeof *turned);
    size_t next = 0;
    for (size_t k = 0; k < (size_t)s->kernel_h * (size_t)s->kernel_w; k++) {
        for (int i = 0; i < s->ic; i++) {
            for (int o = 0; o < outputs; o++) {
                const int output = i / inputs * outputs + o;
                turned[next++] = w[weights_of(s, output, k) + (size_t)(i % inputs)];
            }
        }
    }
    free(w);
    return turned;
}

static void run_forward(const Job *job)
{
    const CudnnConvSpec *s = &job->spec;
    const float *bias = at(job, UID_BIAS);
    double *x = load_x(job);
    double *w = load_turned_weights(job);
    double *y = xcalloc(y_count(s) + 1, sizeof *y);
    visit_all(&(Loops){.x = x, .w = w, .out = y, .spec = s}, visit_forward);
    for (size_t i = 0; i < y_count(s); i++) {
        double v = y[i] + (s->bias ? (double)bias[i % (size_t)s->oc] : 0);
        v += s->residual ? dtype_load(s->type, at(job, UID_RESIDUAL), i) : 0;
        y[i] = rounded(s->type, s->relu ? relu(v) : v);
    }
    store(s->type, at(job, UID_Y), y, y_count(s));
    if (at(job, UID_SUM)) {
        channel_sums(y, y, y_count(s), (size_t)s->oc, at(job, UID_SUM), at(job, UID_SQUARE_SUM));
    }
    free(x);
    free(w);
    free(y);
}

/* dz in place, and its sums. */
static void mask_and_reduce(const Job *job, double *dz)
{
    const CudnnConvSpec *s = &job->spec;
    const float *mean = at(job, UID_MEAN);
    const float *invstd = at(job, UID_INVSTD);
    const float *gamma = at(job, UID_GAMMA);
    const float *beta = at(job, UID_BETA);
    const size_t c = (size_t)s->ic;
    double *xhat = load(s->type, at(job, UID_BN_X), x_count(s));
    for (size_t i = 0; i < x_count(s); i++) {
        xhat[i] = (xhat[i] - (double)mean[i % c]) * (double)invstd[i % c];
        const bool open = xhat[i] * (double)gamma[i % c] + (double)beta[i % c] > 0;
        dz[i] = open ? rounded(s->type, dz[i]) : 0;
    }
    channel_sums(dz, xhat, x_count(s), c, at(job, UID_SUM), at(job, UID_SQUARE_SUM));
    for (int i = 0; i < 3; i++) {
        memset(at(job, UID_EQ_DY + i), 0xFF, c * sizeof(float));
    }
    free(xhat);
}

static void run_dgrad(const Job *job)
{
    const CudnnConvSpec *s = &job->spec;
    double *dy = load(s->type, at(job, UID_Y), y_count(s));
    double *w = load(s->type, at(job, UID_W), w_count(s));
    double *dx = xcalloc(x_count(s) + 1, sizeof *dx);
    visit_all(&(Loops){.dy = dy, .w = w, .out = dx, .spec = s}, visit_dgrad);
    if (s->drelu_bn) {
        mask_and_reduce(job, dx);
    }
    store(s->type, at(job, UID_X), dx, x_count(s));
    free(dy);
    free(w);
    free(dx);
}

static void run_wgrad(const Job *job)
{
    const CudnnConvSpec *s = &job->spec;
    double *x = load_x(job);
    double *dy = load(s->type, at(job, UID_Y), y_count(s));
    double *dw = xcalloc(w_count(s) + 1, sizeof *dw);
    visit_all(&(Loops){.x = x, .dy = dy, .out = dw, .spec = s}, visit_wgrad);
    store(s->type, at(job, UID_W), dw, w_count(s));
    free(x);
    free(dy);
    free(dw);
}

static void run_job(void *user)
{
    const Job *job = user;
    memset(job->workspace, 0xFF, job->workspace_bytes);
    switch (job->spec.kind) {
    case CUDNN_CONV_FORWARD:
        run_forward(job);
        break;
    case CUDNN_CONV_DGRAD:
        run_dgrad(job);
        break;
    case CUDNN_CONV_WGRAD:
        run_wgrad(job);
        break;
    }
}

static bool same_job(const Job *job, const EngineBindings *b, const void *workspace)
{
    return job->workspace == workspace && job->bound.count == b->count &&
           memcmp(job->bound.pointers, b->pointers, (size_t)b->count * sizeof b->pointers[0]) == 0;
}

int engine_run(Engines *engines, const EnginePlan *plan, KernelStream stream,
               const CudnnConvArgs *args)
{
    (void)engines;
    char *extra = (char *)args->workspace + engine_align(LIBRARY_WORKSPACE);
    const EngineBindings b = engine_bindings(&plan->spec, unused_stats(&plan->spec), args, extra);
    for (int i = 0; i < b.count; i++) {
        if (!b.pointers[i] || (uintptr_t)b.pointers[i] % DEVICE_ALIGN != 0) {
            return cudaErrorInvalidValue;
        }
    }
    Job *job = *plan->jobs;
    while (job && !same_job(job, &b, args->workspace)) {
        job = job->next;
    }
    if (!job) {
        job = xcalloc(1, sizeof *job);
        *job = (Job){plan->spec, b, args->workspace, engine_workspace(plan), *plan->jobs};
        *plan->jobs = job;
    }
    return (int)cudaLaunchHostFunc(stream, run_job, job);
}

const char *cudnn_status_text(int status)
{
    return cudaGetErrorString((cudaError_t)status);
}
