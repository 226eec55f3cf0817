/* The wiring is train/nets.h's and the memory train/store.h's, so what is timed is what a training runs. Everything that the
 * device reads from the host during a step lies in memory of its own that never changes, so that steps can be submitted
 * without waiting for those before. */
#include "step_rig.h"

#include "base/log.h"
#include "base/plugin.h"
#include "base/rng.h"
#include "models/models.h"
#include "train/feed.h"
#include "train/nets.h"
#include "train/store.h"

#include <stdlib.h>
#include <string.h>

enum { SMALL_BATCHES = 16, LARGE_BATCHES = 4, LARGE_SIZE = 64, SMALL_PAD = 4, BATCHES = 16 };

#define FIRST_LOSS_SCALE 65536.0f /* as PyTorch's GradScaler */

/* Read by the device. */
typedef struct {
    ExecScalars step, update;
    float hyper[2][HYPER_COUNT]; /* of step 0, of later ones */
    int32_t cursor[BATCHES][CURSOR_FIELDS];
    float loss_scale[LOSS_SCALE_FIELDS];
} HostMemory;

struct StepRig {
    RigOptions options;
    Backend *backend;
    Choices choices;
    Params params;
    Store store;
    Exec *step, *update;
    void *shared;
    HostMemory *memory;
    uint8_t *
        images; /* [batches][batch], in memory that the device reads; NULL where they lie on the device */
    int32_t *labels;
    int size, classes, batches;
    bool capture, resident;
    int recording; /* -1: none yet */
    double flops;
    size_t device_used; /* before the backend was opened */
};

/* ---- The device's own count of its memory ---- */

static size_t device_used(const RigOptions *o)
{
    typedef int (*MemGetInfo)(size_t *, size_t *);
    void *symbol = NULL;
    size_t free_bytes = 0;
    size_t total = 0;
    if (strcmp(o->device, "cuda") != 0) {
        return 0;
    }
    Err *err = plugin_symbol(CUDA_PART, CUDA_PART_VARIABLE, "cudaMemGetInfo", &symbol);
    if (err) {
        err_free(err);
        return 0;
    }
    MemGetInfo mem_get_info;
    memcpy(&mem_get_info, &symbol,
           sizeof mem_get_info); /* C has no cast from an object to a function */
    return mem_get_info(&free_bytes, &total) == 0 ? total - free_bytes : 0;
}

/* ---- Networks and graphs ---- */

static DistillSpec loss_spec(bool teacher)
{
    const RowValue temperature = {.source = SOURCE_CONST, .value = 4.0f};
    DistillSpec spec = {.n_terms = teacher, .energy_temperature = 1.0f};
    spec.ce_weight = (RowValue){.source = SOURCE_CONST, .value = teacher ? 0.1f : 1.0f};
    if (teacher) {
        spec.terms[0] = (DistillTerm){.form = FORM_KL,
                                      .factor = FACTOR_TSTT,
                                      .ts = temperature,
                                      .tt = temperature,
                                      .weight = {.source = SOURCE_CONST, .value = 0.9f}};
    }
    return spec;
}

static NetSpec net_of(const char *model, DType act)
{
    return (NetSpec){
        .model = model, .act = act, .mean = {0.5f, 0.5f, 0.5f}, .std = {0.3f, 0.3f, 0.3f}};
}

/* Images and classes are those that the networks are made for. */
static Err *settle_shape(StepRig *rig)
{
    const char *const names[] = {rig->options.student, rig->options.teacher};
    for (int i = 0; i < 2; i++) {
        const ModelInfo *info = names[i] ? model_find(names[i]) : NULL;
        if (names[i] && !info) {
            return err_new(EXIT_USAGE_ERR, "no network '%s'", names[i]);
        }
        if (info && rig->size && (rig->size != info->input_size || rig->classes != info->classes)) {
            return err_new(EXIT_USAGE_ERR, "%s and %s are not made for the same images", names[0],
                           names[1]);
        }
        rig->size = info ? info->input_size : rig->size;
        rig->classes = info ? info->classes : rig->classes;
    }
    rig->batches = rig->size > LARGE_SIZE ? LARGE_BATCHES : SMALL_BATCHES;
    return NULL;
}

static bool scaled(const StepRig *rig)
{
    return rig->options.act == DT_F16;
}

static Err *step_graph(StepRig *rig, const NetSpec *teacher, const NetSpec *student, Graph *out)
{
    const RigOptions *o = &rig->options;
    if (!o->student) {
        return nets_logits_graph(&rig->params, teacher, TEACHER_PREFIX, rig->classes, rig->size,
                                 o->batch, out);
    }
    const DistillSpec spec = loss_spec(o->teacher != NULL);
    const StepGraph wiring = {
        .teacher = teacher,
        .student = student,
        .classes = rig->classes,
        .size = rig->size,
        .batch = o->batch,
        .spec = &spec,
        .bn = BN_TRAIN,
        .backward = true,
        .loss_scale = scaled(rig),
        .resident = rig->resident,
        .views = {.pad = rig->size > LARGE_SIZE ? 0 : SMALL_PAD, .flip = true},
        .samples = rig->batches * o->batch};
    return nets_train_graph(&rig->params, &wiring, out);
}

static Err *open_graphs(StepRig *rig)
{
    const RigOptions *o = &rig->options;
    const NetSpec teacher = net_of(o->teacher, o->act);
    const NetSpec student = net_of(o->student, o->act);
    const ExecOptions options = {.time_steps = o->time_steps};
    Graph g;
    TRY(nets_register(&rig->params, &teacher, &student, rig->classes));
    TRY(store_open(rig->backend, &rig->params, true, &rig->store));
    store_init(&rig->store, STUDENT_PREFIX, 1);
    store_init(&rig->store, TEACHER_PREFIX, 2);
    TRY(step_graph(rig, &teacher, &student, &g));
    rig->flops = 2.0 * ((o->student ? 3.0 * model_macs(&g, STUDENT_PREFIX) : 0.0) +
                        model_macs(&g, TEACHER_PREFIX));
    Err *err = exec_open(rig->backend, &g, &options, &rig->step);
    graph_free(&g);
    if (err || !o->student) {
        return err;
    }
    nets_update_graph(&rig->params, o->act, true,
                      scaled(rig) ? LOSS_SCALE_DYNAMIC : LOSS_SCALE_NONE, &g);
    err = exec_open(rig->backend, &g, &options, &rig->update);
    graph_free(&g);
    return err;
}

/* ---- Memory that steps read ---- */

static Err *take_host(StepRig *rig, size_t bytes, void **out)
{
    *out = rig->backend->alloc(rig->backend, MEM_HOST, bytes);
    return *out ? NULL
                : err_new(EXIT_DEVICE_MEMORY, "no memory for %zu MiB of images", bytes >> 20);
}

static void fill_memory(StepRig *rig)
{
    HostMemory *m = rig->memory;
    for (int i = 0; i < 2; i++) {
        m->hyper[i][HYPER_LR] = 0.01f;
        m->hyper[i][HYPER_MOMENTUM] = 0.9f;
        m->hyper[i][HYPER_WEIGHT_DECAY] = 5e-4f;
        m->hyper[i][HYPER_GRAD_SCALE] = 1.0f;
        m->hyper[i][HYPER_FIRST] = i == 0 ? 1.0f : 0.0f;
    }
    for (int i = 0; i < rig->batches; i++) {
        m->cursor[i][1] = i * rig->options.batch;
        m->cursor[i][2] = 3; /* seed */
    }
    m->loss_scale[0] = FIRST_LOSS_SCALE;
}

static Err *make_images(StepRig *rig)
{
    const size_t count = (size_t)rig->batches * (size_t)rig->options.batch;
    const size_t pixels = count * (size_t)rig->size * (size_t)rig->size * 3;
    void *memory = NULL;
    TRY(take_host(rig, pixels, &memory));
    rig->images = memory;
    TRY(take_host(rig, count * sizeof *rig->labels, &memory));
    rig->labels = memory;
    Rng rng = rng_make(3, 0, 0, RNG_TEST);
    for (size_t i = 0; i < pixels; i++) {
        rig->images[i] = (uint8_t)rng_below(&rng, 256);
    }
    for (size_t i = 0; i < count; i++) {
        rig->labels[i] = (int32_t)rng_below(&rng, (uint32_t)rig->classes);
    }
    return NULL;
}

static void free_images(StepRig *rig)
{
    void *const all[] = {rig->images, rig->labels};
    for (int i = 0; i < 2; i++) {
        if (all[i]) {
            rig->backend->free(rig->backend, MEM_HOST, all[i]);
        }
    }
    rig->images = NULL;
    rig->labels = NULL;
}

static size_t batch_bytes(const StepRig *rig)
{
    return (size_t)rig->options.batch * (size_t)rig->size * (size_t)rig->size * 3;
}

/* Puts the images on the device. */
static void upload_set(StepRig *rig)
{
    const size_t count = (size_t)rig->batches * (size_t)rig->options.batch;
    if (!rig->options.student) {
        exec_write(rig->step, "images", rig->images, batch_bytes(rig));
        exec_sync(rig->step);
        return;
    }
    int32_t *order = xmalloc(count * sizeof *order);
    for (size_t i = 0; i < count; i++) {
        order[i] = (int32_t)i;
    }
    exec_write(rig->step, "set_images", rig->images, batch_bytes(rig) * (size_t)rig->batches);
    exec_write(rig->step, "set_labels", rig->labels, count * sizeof *rig->labels);
    exec_write(rig->step, "order", order, count * sizeof *order);
    exec_sync(rig->step);
    free(order);
}

static Err *open_memory(StepRig *rig)
{
    Backend *b = rig->backend;
    Exec *const execs[] = {rig->step, rig->update};
    void *memory = NULL;
    TRY(take_host(rig, sizeof *rig->memory, &memory));
    rig->memory = memory;
    fill_memory(rig);
    rig->shared = b->alloc(b, MEM_DEVICE, SHARED_BYTES);
    if (!rig->shared) {
        return err_new(EXIT_DEVICE_MEMORY, "no device memory for the loss scale");
    }
    b->upload(b, QUEUE_COMPUTE, rig->shared, rig->memory->loss_scale,
              sizeof rig->memory->loss_scale);
    for (int i = 0; i < 2 && execs[i]; i++) {
        store_bind(&rig->store, execs[i]);
        exec_bind(execs[i], ARENA_SHARED, rig->shared);
    }
    exec_refresh(rig->step, false);
    TRY(make_images(rig));
    if (rig->resident) {
        upload_set(rig);
        free_images(rig);
    }
    exec_sync(rig->step);
    return NULL;
}

/* ---- Opening ---- */

static Err *open_all(StepRig *rig)
{
    const RigOptions *o = &rig->options;
    const BackendOptions backend = {
        .threads = o->threads, .choices = &rig->choices, .deterministic = o->deterministic};
    TRY(settle_shape(rig));
    rig->device_used = device_used(o);
    TRY(backend_open(o->device, &backend, &rig->backend));
    const bool records = rig->backend->capture_begin != NULL;
    if (o->capture == RIG_ON && (!records || o->time_steps)) {
        return err_new(EXIT_USAGE_ERR, "steps cannot be recorded %s",
                       records ? "and timed by node" : "by this device");
    }
    rig->capture = records && !o->time_steps && o->capture != RIG_OFF;
    rig->resident =
        o->resident == RIG_ON || (o->resident == RIG_AUTO && strcmp(o->device, "cuda") == 0);
    TRY(open_graphs(rig));
    return open_memory(rig);
}

Err *step_rig_open(const RigOptions *options, StepRig **out)
{
    StepRig *rig = xcalloc(1, sizeof *rig);
    rig->options = *options;
    rig->recording = -1;
    Err *err = open_all(rig);
    if (err) {
        step_rig_close(rig);
        rig = NULL;
    }
    *out = rig;
    return err;
}

void step_rig_close(StepRig *rig)
{
    if (!rig) {
        return;
    }
    Backend *b = rig->backend;
    if (b) {
        b->sync(b, QUEUE_COMPUTE);
        if (rig->recording >= 0) {
            b->capture_free(b, rig->recording);
        }
        free_images(rig);
        if (rig->memory) {
            b->free(b, MEM_HOST, rig->memory);
        }
        if (rig->shared) {
            b->free(b, MEM_DEVICE, rig->shared);
        }
    }
    exec_close(rig->step);
    exec_close(rig->update);
    store_close(&rig->store);
    backend_close(b);
    choices_free(&rig->choices);
    params_free(&rig->params);
    free(rig);
}

/* ---- Steps ---- */

/* The batch of a step: uploads, which are no part of a recording since they differ from step to step. */
static void give_batch(StepRig *rig, long index)
{
    const size_t at = (size_t)(index % rig->batches);
    const size_t rows = (size_t)rig->options.batch;
    if (!rig->resident) {
        exec_write(rig->step, "images", rig->images + at * batch_bytes(rig), batch_bytes(rig));
        if (rig->options.student) {
            exec_write(rig->step, "labels", rig->labels + at * rows, rows * sizeof *rig->labels);
        }
    } else if (rig->options.student) {
        exec_write(rig->step, "cursor", rig->memory->cursor[at], sizeof rig->memory->cursor[at]);
    }
}

static void enqueue(StepRig *rig, bool first)
{
    HostMemory *m = rig->memory;
    exec_run(rig->step, &(ExecRun){.rows = rig->options.batch,
                                   .bn_update = true,
                                   .scale = 1.0f / (float)rig->options.batch,
                                   .scalars = &m->step});
    if (rig->update) {
        exec_write(rig->update, "hyper", m->hyper[!first], sizeof m->hyper[0]);
        exec_run(rig->update, &(ExecRun){.rows = 1, .scalars = &m->update});
        exec_refresh(rig->step, true);
    }
}

void step_rig_run(StepRig *rig, long index)
{
    Backend *b = rig->backend;
    give_batch(rig, index);
    if (!rig->capture || index == 0) {
        enqueue(rig, index == 0);
        return;
    }
    if (rig->recording < 0) {
        b->capture_begin(b, QUEUE_COMPUTE);
        enqueue(rig, false);
        rig->recording = b->capture_end(b, QUEUE_COMPUTE);
    }
    b->replay(b, QUEUE_COMPUTE, rig->recording);
}

void step_rig_sync(StepRig *rig)
{
    exec_sync(rig->step);
}

/* ---- What it is ---- */

double step_rig_loss(StepRig *rig)
{
    if (rig->options.student) {
        float sums[SUM_FIELDS];
        exec_read(rig->step, "sums", sums, sizeof sums);
        return (double)sums[SUM_LOSS] / (double)sums[SUM_ROWS];
    }
    const size_t count = (size_t)rig->options.batch * (size_t)rig->classes;
    float *logits = xmalloc(count * sizeof *logits);
    double sum = 0.0;
    exec_read(rig->step, "logits", logits, count * sizeof *logits);
    for (size_t i = 0; i < count; i++) {
        sum += (double)logits[i];
    }
    free(logits);
    return sum / (double)count;
}

double step_rig_loss_scale(StepRig *rig)
{
    float scale[LOSS_SCALE_FIELDS] = {0};
    if (scaled(rig) && rig->update) {
        rig->backend->download(rig->backend, QUEUE_COMPUTE, scale, rig->shared, sizeof scale);
        rig->backend->sync(rig->backend, QUEUE_COMPUTE);
    }
    return (double)scale[0];
}

static size_t of_both(const StepRig *rig, Arena arena)
{
    return exec_bytes(rig->step, arena) + (rig->update ? exec_bytes(rig->update, arena) : 0);
}

/* As backend/cuda.h describes them: whole parameter arenas. */
static size_t copy_bytes(const StepRig *rig)
{
    const size_t *elems = rig->params.arena_elems;
    const size_t element = dtype_size(rig->options.act);
    const bool copied = element == 2 && strcmp(rig->backend->name, "cuda") == 0;
    return copied ? (elems[ARENA_WEIGHT] + elems[ARENA_FROZEN]) * element : 0;
}

RigMemory step_rig_memory(const StepRig *rig)
{
    const size_t *elems = rig->params.arena_elems;
    const size_t trained = elems[ARENA_WEIGHT] * sizeof(float);
    const size_t used = device_used(&rig->options);
    return (RigMemory){.parameters = trained + elems[ARENA_FROZEN] * sizeof(float),
                       .gradients = trained,
                       .momentum = trained,
                       .state = elems[ARENA_STATE] * sizeof(float),
                       .activations = of_both(rig, ARENA_ACT),
                       .persistent = of_both(rig, ARENA_PERSIST),
                       .inputs = of_both(rig, ARENA_IO),
                       .workspace = of_both(rig, ARENA_WORKSPACE),
                       .copies = copy_bytes(rig),
                       .prepared =
                           rig->backend->step_bytes ? rig->backend->step_bytes(rig->backend) : 0,
                       .device_growth = used > rig->device_used ? used - rig->device_used : 0};
}

double step_rig_flops(const StepRig *rig)
{
    return rig->flops;
}

int step_rig_size(const StepRig *rig)
{
    return rig->size;
}

bool step_rig_captured(const StepRig *rig)
{
    return rig->capture;
}

bool step_rig_resident(const StepRig *rig)
{
    return rig->resident;
}

void step_rig_info(const StepRig *rig, DeviceInfo *info)
{
    rig->backend->info(rig->backend, info);
}

const Exec *step_rig_exec(const StepRig *rig, int which)
{
    return which == 0 ? rig->step : rig->update;
}
