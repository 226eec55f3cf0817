/* Convolution plans by spec: one table for a process, which of a convolution's engines is taken (the first that works, or
 * the fastest of the first few), choices that travel with a run, and the plan cache on disk. */
#include "backend/cuda_conv.h"
#include "backend/cuda_engines.h"
#include "backend/cuda_plan_cache.h"

#include "base/files.h"
#include "base/log.h"

#include <cuda_runtime_api.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TIMED_CANDIDATES = 8, /* plans that are timed */
    TIMED_COMPILED = 2,   /* of them, compiled at run time */
    TIMED_RUNS = 5,
    FEWEST_CHANNELS = 8, /* of vectors: fused operations load that many values at once */
    TEXT_MAX = 400
};

struct CudnnPlan {
    CudnnConvSpec spec;
    bool deterministic;
    bool timed;
    EnginePlan *engine; /* NULL: there is none, and `reason` says why */
    EngineInfo info;
    char reason[ENGINE_REASON_MAX];
};

struct CudnnContext {
    Engines *engines;
    PlanCache *cache;
    char library[64];
    CudnnPlan **plans;
    int n_plans;
    size_t plan_capacity;
    CudnnCounts counts;
    cudaStream_t
        timing; /* NULL until something is timed; outlives the handle, which remembers it */
};

size_t cudnn_plan_workspace(const CudnnPlan *plan)
{
    return engine_workspace(plan->engine);
}

const char *cudnn_plan_name(const CudnnPlan *plan)
{
    return plan->info.name;
}

int cudnn_plan_run(CudnnContext *context, const CudnnPlan *plan, KernelStream stream,
                   const CudnnConvArgs *args)
{
    return engine_run(context->engines, plan->engine, stream, args);
}

static void adopt(CudnnPlan *plan, EnginePlan *engine, const EngineInfo *info)
{
    engine_free(plan->engine);
    plan->engine = engine;
    plan->info = *info;
}

static EnginePlan *build(CudnnContext *context, const EngineList *list, int i,
                         char reason[ENGINE_REASON_MAX])
{
    const double begin = now_s();
    EnginePlan *engine = engine_build(context->engines, list, i, reason);
    if (engine_list_info(list, i)->compiled) {
        context->counts.compile_s += now_s() - begin;
    }
    return engine;
}

/* ---- Timing ---- */

/* Device memory that stands for every tensor: what is timed is the engine, not its results. */
typedef struct {
    char *memory;
    cudaStream_t stream; /* the context's */
    cudaEvent_t begin, end;
} TimingMemory;

static size_t largest_tensor(const CudnnConvSpec *s)
{
    const size_t x = (size_t)s->n * (size_t)s->h * (size_t)s->w * (size_t)s->ic;
    const size_t y = (size_t)s->n * (size_t)s->oh * (size_t)s->ow * (size_t)s->oc;
    const size_t w =
        (size_t)s->oc * (size_t)s->kernel_h * (size_t)s->kernel_w * (size_t)(s->ic / s->groups);
    const size_t vector = (size_t)(s->ic > s->oc ? s->ic : s->oc) * sizeof(float);
    size_t most = x > y ? x : y;
    most = (most > w ? most : w) * dtype_size(s->type);
    return engine_align(most > vector ? most : vector);
}

/* Seconds of the fastest of a few runs; negative when it does not run. */
static double time_runs(CudnnContext *context, const EnginePlan *engine, const CudnnConvSpec *spec,
                        const TimingMemory *timing)
{
    enum { X, W, Y, OUT, OTHER, VECTORS, SUM, SQUARE_SUM, WORKSPACE };
    const size_t size = largest_tensor(spec);
    char *at[WORKSPACE + 1];
    for (size_t i = 0; i <= WORKSPACE; i++) {
        at[i] = timing->memory + i * size;
    }
    const float *vectors = (const float *)(const void *)at[VECTORS];
    const CudnnConvArgs args = {.x = at[X],
                                .w = at[W],
                                .y = at[Y],
                                .out = at[OUT],
                                .bias = vectors,
                                .residual = at[OTHER],
                                .scale = vectors,
                                .shift = vectors,
                                .mean = vectors,
                                .invstd = vectors,
                                .gamma = vectors,
                                .beta = vectors,
                                .bn_x = at[OTHER],
                                .sum = (float *)(void *)at[SUM],
                                .square_sum = (float *)(void *)at[SQUARE_SUM],
                                .workspace = at[WORKSPACE]};
    double best = -1;
    for (int run = 0; run <= TIMED_RUNS; run++) {
        float ms = 0;
        if (cudaEventRecord(timing->begin, timing->stream) != cudaSuccess ||
            engine_run(context->engines, engine, timing->stream, &args) != 0 ||
            cudaEventRecord(timing->end, timing->stream) != cudaSuccess ||
            cudaEventSynchronize(timing->end) != cudaSuccess ||
            cudaEventElapsedTime(&ms, timing->begin, timing->end) != cudaSuccess) {
            return -1;
        }
        const double seconds = 1e-3 * (double)ms;
        best = run > 0 && (best < 0 || seconds < best) ? seconds : best; /* the first warms up */
    }
    return best;
}

static bool timing_open(CudnnContext *context, TimingMemory *timing, size_t bytes)
{
    *timing = (TimingMemory){0};
    if (!context->timing &&
        cudaStreamCreateWithFlags(&context->timing, cudaStreamNonBlocking) != cudaSuccess) {
        context->timing = NULL;
        return false;
    }
    timing->stream = context->timing;
    return cudaMalloc((void **)&timing->memory, bytes) == cudaSuccess &&
           cudaMemsetAsync(timing->memory, 0, bytes, timing->stream) == cudaSuccess &&
           cudaEventCreateWithFlags(&timing->begin, cudaEventDefault) == cudaSuccess &&
           cudaEventCreateWithFlags(&timing->end, cudaEventDefault) == cudaSuccess;
}

static void timing_close(TimingMemory *timing)
{
    if (timing->begin) {
        (void)cudaEventDestroy(timing->begin);
    }
    if (timing->end) {
        (void)cudaEventDestroy(timing->end);
    }
    if (timing->memory) {
        (void)cudaFree(timing->memory);
    }
    (void)cudaGetLastError(); /* memory that is out here is no failure of what comes next */
}

static double time_engine(CudnnContext *context, const EnginePlan *engine,
                          const CudnnConvSpec *spec)
{
    TimingMemory timing;
    const size_t bytes = 8 * largest_tensor(spec) + engine_align(engine_workspace(engine) + 1);
    const double seconds =
        timing_open(context, &timing, bytes) ? time_runs(context, engine, spec, &timing) : -1;
    timing_close(&timing);
    return seconds;
}

/* ---- Choosing ---- */

/* Takes the engine numbered `choice`; false when there is none or it does not work. */
static bool take_choice(CudnnContext *context, CudnnPlan *plan, const EngineList *list, int choice)
{
    for (int i = 0; i < engine_list_count(list); i++) {
        if (engine_list_info(list, i)->choice == choice) {
            EnginePlan *engine = build(context, list, i, plan->reason);
            if (engine) {
                adopt(plan, engine, engine_list_info(list, i));
            }
            return engine != NULL;
        }
    }
    return false;
}

static void take_first(CudnnContext *context, CudnnPlan *plan, const EngineList *list)
{
    for (int i = 0; i < engine_list_count(list) && !plan->engine; i++) {
        EnginePlan *engine = build(context, list, i, plan->reason);
        if (engine) {
            adopt(plan, engine, engine_list_info(list, i));
        }
    }
}

/* Keeps what the plan has where nothing can be timed; never builds that one again. */
static void take_fastest(CudnnContext *context, CudnnPlan *plan, const EngineList *list)
{
    char key[CONV_KEY_MAX];
    char reason[ENGINE_REASON_MAX];
    EnginePlan *first = plan->engine;
    const EngineInfo first_info = plan->info;
    double best = -1;
    int timed = 0;
    int compiled = 0;
    plan->engine = NULL;
    cuda_conv_key(&plan->spec, key);
    for (int i = 0; i < engine_list_count(list) && timed < TIMED_CANDIDATES; i++) {
        const EngineInfo *info = engine_list_info(list, i);
        const bool is_first = first && info->choice == first_info.choice;
        if (info->compiled && compiled == TIMED_COMPILED) {
            continue;
        }
        EnginePlan *engine = is_first ? first : build(context, list, i, reason);
        if (!engine) {
            continue;
        }
        const double seconds = time_engine(context, engine, &plan->spec);
        log_debug("%s: %s: %.1f us", key, info->name, seconds * 1e6);
        timed++;
        compiled += info->compiled;
        if (seconds >= 0 && (best < 0 || seconds < best)) {
            best = seconds;
            adopt(plan, engine, info);
            first = is_first ? NULL : first;
        } else if (!is_first) {
            engine_free(engine);
        }
    }
    if (plan->engine) {
        engine_free(first);
    } else {
        adopt(plan, first, &first_info);
    }
}

/* ---- Plan cache ---- */

/* Timed and untimed plans are kept apart, so that a run which times nothing is the same with and without the cache. */
static char *plan_key(const CudnnPlan *plan, bool timed)
{
    char key[CONV_KEY_MAX];
    cuda_conv_key(&plan->spec, key);
    return xformat("%s%s%s", key, plan->deterministic ? " deterministic" : "",
                   timed ? " timed" : "");
}

/* choice: the one wanted, -1 = whichever is there. */
static bool load_plan(CudnnContext *context, CudnnPlan *plan, bool timed, int choice)
{
    char *key = plan_key(plan, timed);
    const PlanEntry *entry = plan_cache_get(context->cache, key);
    free(key);
    if (!entry || (choice >= 0 && entry->choice != choice)) {
        return false;
    }
    EnginePlan *engine =
        engine_load(context->engines, &plan->spec, entry->choice, entry->data, entry->size);
    if (!engine) {
        log_debug("plan cache: %s is not taken by %s", entry->key, context->library);
        return false;
    }
    EngineInfo info = {.choice = entry->choice};
    (void)snprintf(info.name, sizeof info.name, "%s", entry->name);
    adopt(plan, engine, &info);
    plan->timed = timed;
    context->counts.loaded++;
    return true;
}

static void store_plan(CudnnContext *context, const CudnnPlan *plan)
{
    size_t size = 0;
    char *data = engine_store(plan->engine, &size);
    if (!data) {
        return;
    }
    char *key = plan_key(plan, plan->timed);
    plan_cache_put(context->cache,
                   &(PlanEntry){key, plan->info.choice, plan->info.name, data, size});
    free(key);
    free(data);
}

/* ---- Plans ---- */

static CudnnPlan *plan_of(CudnnContext *context, const CudnnConvSpec *spec, bool deterministic)
{
    for (int i = 0; i < context->n_plans; i++) {
        CudnnPlan *plan = context->plans[i];
        if (plan->deterministic == deterministic && cuda_conv_same(&plan->spec, spec)) {
            return plan;
        }
    }
    CudnnPlan *plan = xcalloc(1, sizeof *plan);
    plan->spec = *spec;
    plan->deterministic = deterministic;
    context->plans = xgrow((void *)context->plans, &context->plan_capacity,
                           (size_t)context->n_plans + 1, sizeof *context->plans);
    context->plans[context->n_plans++] = plan;
    return plan;
}

/* Vectors of a channel count that is no multiple of 8 do not all begin at 16 bytes. */
static bool vectors_fit(const CudnnConvSpec *spec)
{
    return !((spec->affine || spec->drelu_bn) && spec->ic % FEWEST_CHANNELS != 0) &&
           !(spec->stats && spec->oc % FEWEST_CHANNELS != 0);
}

static void count_plan(CudnnContext *context, const CudnnPlan *plan)
{
    context->counts.plans += plan->engine != NULL;
    context->counts.compiled += plan->engine && plan->info.compiled;
}

/* The first engine that works; asked once. */
static void plan_untimed(CudnnContext *context, CudnnPlan *plan)
{
    if (plan->engine || plan->reason[0]) {
        return;
    }
    if (!vectors_fit(&plan->spec)) {
        (void)snprintf(plan->reason, sizeof plan->reason, "channels are not a multiple of %d",
                       FEWEST_CHANNELS);
        return;
    }
    if (!load_plan(context, plan, false, -1)) {
        EngineList *list =
            engine_list(context->engines, &plan->spec, plan->deterministic, plan->reason);
        take_first(context, plan, list);
        engine_list_free(list);
        if (plan->engine) {
            store_plan(context, plan);
        }
    }
    count_plan(context, plan);
}

/* Replaces what plan_untimed took by the run's choice, or by the fastest, which becomes the choice. */
static void plan_timed(CudnnContext *context, CudnnPlan *plan, Choices *choices)
{
    char key[CONV_KEY_MAX];
    char ignored[ENGINE_REASON_MAX];
    cuda_conv_key(&plan->spec, key);
    char *choice_key = xformat("%s %s", context->library, key);
    const int choice = choices_get(choices, choice_key);
    if ((choice < 0 || choice != plan->info.choice) && !load_plan(context, plan, true, choice)) {
        EngineList *list = engine_list(context->engines, &plan->spec, plan->deterministic, ignored);
        if ((choice < 0 || !take_choice(context, plan, list, choice)) &&
            engine_list_count(list) > 1) {
            take_fastest(context, plan, list);
        }
        engine_list_free(list);
        plan->timed = true;
        store_plan(context, plan);
    }
    plan->timed = true;
    if (choice != plan->info.choice) {
        choices_put(choices, choice_key, plan->info.choice);
    }
    free(choice_key);
}

Err *cudnn_plan_make(CudnnContext *context, const CudnnConvSpec *spec, Choices *choices,
                     bool deterministic, CudnnPlan **out)
{
    CudnnPlan *plan = plan_of(context, spec, deterministic);
    plan_untimed(context, plan);
    if (!plan->engine) {
        char key[CONV_KEY_MAX];
        cuda_conv_key(spec, key);
        return err_new(EXIT_CONFIG_ERR, "%s has no convolution %s%s: %s", context->library, key,
                       deterministic ? " that is deterministic" : "", plan->reason);
    }
    if (choices && !deterministic && !plan->timed && engines_can_run(context->engines)) {
        plan_timed(context, plan, choices);
    }
    *out = plan;
    return NULL;
}

bool cudnn_supports(CudnnContext *context, const CudnnConvSpec *spec, bool deterministic)
{
    CudnnPlan *plan = plan_of(context, spec, deterministic);
    plan_untimed(context, plan);
    return plan->engine != NULL;
}

/* ---- Context ---- */

static PlanCache *open_cache(const CudnnContext *context, const char *folder)
{
    char device[TEXT_MAX];
    char hash[33];
    engines_device(context->engines, device, sizeof device);
    hash_hex(device, strlen(device), hash);
    char *file = xformat("%s %.16s.plans", context->library, hash);
    for (char *c = file; *c; c++) {
        *c = *c == ' ' ? '-' : *c;
    }
    PlanCache *cache = plan_cache_open(folder, file);
    free(file);
    return cache;
}

Err *cudnn_context_open(const char *described, const char *plan_cache, CudnnContext **out)
{
    CudnnContext *context = xcalloc(1, sizeof *context);
    *out = NULL;
    Err *err = engines_open(described, &context->engines);
    if (err) {
        free(context);
        return err;
    }
    engines_library(context->library, sizeof context->library);
    context->cache = open_cache(context, plan_cache);
    *out = context;
    return NULL;
}

void cudnn_context_close(CudnnContext *context)
{
    if (!context) {
        return;
    }
    plan_cache_close(context->cache);
    for (int i = 0; i < context->n_plans; i++) {
        engine_free(context->plans[i]->engine);
        free(context->plans[i]);
    }
    free((void *)context->plans);
    engines_close(context->engines);
    if (context->timing) {
        (void)cudaStreamDestroy(context->timing);
    }
    free(context);
}

void cudnn_context_describe(const CudnnContext *context, char *text, size_t size)
{
    (void)snprintf(text, size, "%s", context->library);
}

CudnnCounts cudnn_context_counts(const CudnnContext *context)
{
    return context->counts;
}
