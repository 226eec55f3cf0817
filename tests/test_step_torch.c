/* Whole training steps against PyTorch: a teacher in inference with folded batch norm, a student in
 * training, the distillation loss, the gradient and the optimizer, wired by the functions that the
 * training loop uses. After every step loss, logits, energies, all gradients, weights, momentum and
 * running statistics are compared with PyTorch in double, over steps that build on one another, a
 * smaller batch among them.
 *
 * Measure and bound: e = L2 distance from PyTorch in double, per tensor; E = the same of PyTorch in
 * fp32, at least r*N, where N is the double tensor's norm and r the usual E/N of tensors of its kind
 * (root of the mean square): one tensor of PyTorch may be exact by luck. fp32 must hold e <= 3*E.
 * Double has 29 bits more, and both sides round: e <= 2^-29 * 12*E. bf16 is compared in the first
 * step, with PyTorch's bf16 autocast in the place of fp32: e <= 2*E, and 3*E for Winograd's form,
 * which rounds sums of four pixels. Batches are such that no derivative hangs on a rounding
 * (test_step_torch.py). */
#include "backend/cpu.h"
#include "backend/exec.h"
#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "distill/objective.h"
#include "train/nets.h"
#include "train/store.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "torch_stream.h"

enum { CLASSES = 100, VARIANTS = 8, KIND_BYTES = 8 };

static const float pixel_mean[3] = {0.5071f, 0.4867f, 0.4408f};
static const float pixel_std[3] = {0.2675f, 0.2565f, 0.2761f};

typedef struct {
    const char *student, *teacher; /* teacher NULL = none */
    int size, batch, last;         /* pixels; rows, and rows of the step before the last one */
    int rung;                      /* of the ladder, for `last` rows */
    int steps;
    ObjectiveConfig objective;
    float lr, momentum, dampening, weight_decay, clip;
    bool nesterov, decay_norm_bias;
} Case;

/* How one program variant computes, and what it is held against. */
typedef struct {
    const char *label, *backend;
    DType act;
    double factor;   /* of E */
    bool half;       /* E is bf16 autocast's; first step only */
    const char *isa; /* cap for the backend's own loops */
    int way;         /* of convolutions, where it is one that they have; 0 = the first */
} Kind;

static const Kind kinds[VARIANTS] = {
    {.label = "ref f64", .backend = "ref", .act = DT_F64, .factor = 12 * 0x1p-29},
    {.label = "ref fp32", .backend = "ref", .act = DT_F32, .factor = 3},
    {.label = "cpu fp32", .backend = "cpu", .act = DT_F32, .factor = 3},
    {.label = "cpu fp32 avx2", .backend = "cpu", .act = DT_F32, .factor = 3, .isa = "avx2"},
    {.label = "cpu bf16", .backend = "cpu", .act = DT_BF16, .factor = 2, .half = true},
    {.label = "cpu bf16 winograd",
     .backend = "cpu",
     .act = DT_BF16,
     .factor = 3,
     .half = true,
     .way = CHOICE_WINOGRAD},
    {.label = "cuda fp32", .backend = "cuda", .act = DT_F32, .factor = 3},
    {.label = "cuda bf16", .backend = "cuda", .act = DT_BF16, .factor = 2, .half = true}};

/* One tensor of one step: distances and norm. */
typedef struct {
    char name[RECORD_NAME_BYTES];
    double error[VARIANTS];
    double fp32, bf16, norm;
} Entry;

typedef struct {
    const Case *c;
    Backend *backend; /* NULL: this variant is not to be had here */
    Choices choices;
    Store store;
    Exec *step, *update;
} Variant;

typedef struct {
    const Case *c;
    Params params;
    Variant variants[VARIANTS];
    FILE *python;
    Entry *entries; /* of the step */
    size_t n_entries, capacity;
    double used[VARIANTS]; /* largest share of the bound so far */
    char used_by[VARIANTS][RECORD_NAME_BYTES];
} Bench;

static void no_error(Err *err)
{
    if (err) {
        print_error("%s\n", err->message);
    }
    assert_null(err);
}

/* ---- Building ---- */

static Backend *open_backend(const Kind *kind, Choices *choices)
{
    Backend *backend = NULL;
    const BackendOptions options = {
        .threads = 2, .isa = kind->isa, .choices = kind->way ? choices : NULL};
    if (strcmp(kind->backend, "cuda") == 0) {
        const char *wanted = getenv("CUDISTILL_TEST_BACKEND");
        if (!wanted || strcmp(wanted, "cuda") != 0) {
            return NULL; /* a long test on the emulated device: only where it is asked for */
        }
        Err *err = backend_open(kind->backend, &options, &backend);
        if (err) {
            print_message("%s: %s left out\n", err->message, kind->label);
            err_free(err);
            return NULL;
        }
    } else {
        no_error(backend_open(kind->backend, &options, &backend));
    }
    DeviceInfo info;
    backend->info(backend, &info);
    if (kind->act == DT_BF16 && !info.bf16) {
        print_message("no bf16 on this processor: %s left out\n", kind->label);
        backend_close(backend);
        return NULL;
    }
    return backend;
}

static NetSpec net_spec(const char *model, DType act)
{
    NetSpec net = {.model = model, .act = act};
    memcpy(net.mean, pixel_mean, sizeof net.mean);
    memcpy(net.std, pixel_std, sizeof net.std);
    return net;
}

/* Batch norms and biases that do something: weights and variances around 1, the rest around 0. */
static void randomise_vectors(Store *store)
{
    const Params *params = store->params;
    Backend *b = store->backend;
    for (int p = 0; p < params->count; p++) {
        const Param *param = &params->items[p];
        if (param->ndim != 1) {
            continue;
        }
        const bool positive = param->role == ROLE_BN_WEIGHT || param->role == ROLE_RUNNING_VAR;
        Rng rng = rng_make(1, 0, (uint64_t)p, RNG_TEST);
        float *values = xmalloc(param->count * sizeof *values);
        for (size_t i = 0; i < param->count; i++) {
            const float u = rng_uniform(&rng);
            values[i] = positive ? 0.6f + 0.8f * u : 0.4f * u - 0.2f;
        }
        char *base = store->arena[param->arena];
        b->upload(b, QUEUE_COMPUTE, base + param->offset * sizeof *values, values,
                  param->count * sizeof *values);
        b->sync(b, QUEUE_COMPUTE);
        free(values);
    }
}

static char *weights_path(const char *folder, const char *net)
{
    return xformat("%s/%s.safetensors", folder, net);
}

/* Initial weights of both networks as files, which the variants and PyTorch read. */
static void write_weights(const Bench *bench, const char *folder)
{
    Store store;
    no_error(store_open(bench->variants[0].backend, &bench->params, false, &store));
    store_init(&store, "", 7);
    randomise_vectors(&store);
    const char *const metadata[] = {"format", "pt", NULL};
    char *student = weights_path(folder, "student");
    char *teacher = weights_path(folder, "teacher");
    no_error(store_save(&store, STUDENT_PREFIX, student, metadata, 0));
    if (bench->c->teacher) {
        no_error(store_save(&store, TEACHER_PREFIX, teacher, metadata, 0));
    }
    free(student);
    free(teacher);
    store_close(&store);
}

static const Arena value_arenas[] = {ARENA_WEIGHT, ARENA_FROZEN, ARENA_STATE};

/* The same values in a store of doubles: train/store.h loads fp32 only. */
static void widen(const Store *from, Store *to)
{
    Backend *b = from->backend;
    const Params *params = from->params;
    *to = (Store){.backend = b, .params = params, .real_size = sizeof(double)};
    for (int a = 0; a < 3; a++) {
        const size_t elems = params->arena_elems[value_arenas[a]];
        float *narrow = xcalloc(elems + 1, sizeof *narrow);
        double *wide = xcalloc(elems + 1, sizeof *wide);
        b->download(b, QUEUE_COMPUTE, narrow, from->arena[value_arenas[a]], elems * sizeof *narrow);
        b->sync(b, QUEUE_COMPUTE);
        for (size_t i = 0; i < elems; i++) {
            wide[i] = (double)narrow[i];
        }
        void *base = b->alloc(b, MEM_DEVICE, (elems + 1) * sizeof *wide);
        assert_non_null(base);
        b->upload(b, QUEUE_COMPUTE, base, wide, elems * sizeof *wide);
        b->sync(b, QUEUE_COMPUTE);
        to->arena[value_arenas[a]] = base;
        free(narrow);
        free(wide);
    }
    const size_t trained = (params->arena_elems[ARENA_WEIGHT] + 1) * sizeof(double);
    to->arena[ARENA_GRAD] = b->alloc(b, MEM_DEVICE, trained);
    to->moment = b->alloc(b, MEM_DEVICE, trained);
    assert_true(to->arena[ARENA_GRAD] && to->moment);
}

static void open_store(const Bench *bench, Variant *v, bool wide, const char *folder)
{
    Store *store = &v->store;
    no_error(store_open(v->backend, &bench->params, true, store));
    char *student = weights_path(folder, "student");
    char *teacher = weights_path(folder, "teacher");
    no_error(store_load(store, STUDENT_PREFIX, student, NULL));
    if (bench->c->teacher) {
        no_error(store_load(store, TEACHER_PREFIX, teacher, NULL));
    }
    free(student);
    free(teacher);
    if (wide) {
        Store narrow = *store;
        widen(&narrow, store);
        store_close(&narrow);
    }
    /* What was never written must not be read: NaN. Elements between parameters stay zero: flat kernels and reductions
     * go over them. */
    for (int p = 0; p < bench->params.count; p++) {
        const Param *param = &bench->params.items[p];
        const size_t first = param->offset * store->real_size;
        const size_t bytes = param->count * store->real_size;
        if (param->arena == ARENA_WEIGHT) {
            char *grad = store->arena[ARENA_GRAD];
            char *moment = store->moment;
            v->backend->fill(v->backend, QUEUE_COMPUTE, grad + first, 0xFF, bytes);
            v->backend->fill(v->backend, QUEUE_COMPUTE, moment + first, 0xFF, bytes);
        }
    }
}

static void open_exec(const Variant *v, Graph *g, int rung, Exec **exec)
{
    const ExecOptions options = {
        .ladder = &rung, .ladder_count = rung > 0, .poison = true, .check_plan = true};
    no_error(exec_open(v->backend, g, &options, exec));
    graph_free(g);
    store_bind(&v->store, *exec);
}

/* The choices of a first opening name the convolutions; the second has them changed. A convolution
 * without that way gets a timed one. */
static void open_step(Variant *v, Graph *g, int way)
{
    if (way) {
        Graph copy = graph_copy(g);
        open_exec(v, &copy, v->c->rung, &v->step);
        exec_close(v->step);
        for (int i = 0; i < v->choices.count; i++) {
            v->choices.values[i] = way;
        }
    }
    open_exec(v, g, v->c->rung, &v->step);
    int forced = 0;
    for (int i = 0; i < v->choices.count; i++) {
        forced += v->choices.values[i] == way;
    }
    assert_true(!way || forced > 0);
}

static void open_variant(Bench *bench, int index, const char *folder)
{
    const Case *c = bench->c;
    Variant *v = &bench->variants[index];
    const DType act = kinds[index].act;
    v->c = c;
    open_store(bench, v, act == DT_F64, folder);
    Objective objective;
    no_error(objective_make(&c->objective, &objective));
    const NetSpec student = net_spec(c->student, act);
    const NetSpec teacher = net_spec(c->teacher, act);
    Graph g;
    const StepGraph wiring = {.teacher = &teacher,
                              .student = &student,
                              .classes = CLASSES,
                              .size = c->size,
                              .batch = c->batch,
                              .spec = &objective.spec,
                              .bn = BN_TRAIN,
                              .backward = true};
    no_error(nets_train_graph(&bench->params, &wiring, &g));
    for (int n = 0; n < g.n_nodes; n++) {
        if (g.nodes[n].op == OP_DISTILL) {
            const int t = g.nodes[n].in[DISTILL_IN_T];
            graph_output(&g, g.nodes[n].in[DISTILL_IN_Z], "z");
            if (t >= 0) {
                graph_output(&g, t, "t");
            }
        }
    }
    open_step(v, &g, kinds[index].way);
    nets_update_graph(&bench->params, act, c->decay_norm_bias, LOSS_SCALE_NONE, &g);
    open_exec(v, &g, 0, &v->update);
    exec_refresh(v->step, false);
}

static void close_variant(Variant *v)
{
    exec_close(v->step);
    exec_close(v->update);
    store_close(&v->store);
    if (v->backend) {
        backend_close(v->backend);
    }
    choices_free(&v->choices);
}

static void ask_python(const Peer *peer, const Case *c)
{
    const ObjectiveConfig *o = &c->objective;
    static const char *const methods[] = {"none", "kd", "energy_kd"};
    (void)fprintf(
        peer->requests,
        "student=%s teacher=%s method=%s size=%d batch=%d last=%d steps=%d nesterov=%d "
        "decay_norm_bias=%d lr=%.9g momentum=%.9g dampening=%.9g weight_decay=%.9g clip=%.9g ",
        c->student, c->teacher ? c->teacher : "none", methods[o->method], c->size, c->batch,
        c->last, c->steps, c->nesterov, c->decay_norm_bias, (double)c->lr, (double)c->momentum,
        (double)c->dampening, (double)c->weight_decay, (double)c->clip);
    (void)fprintf(peer->requests,
                  "ce_weight=%.9g kd_weight=%.9g temperature=%.9g label_smoothing=%.9g "
                  "energy_temperature=%.9g t_low_energy=%.9g t_mid=%.9g t_high_energy=%.9g\n",
                  (double)o->ce_weight, (double)o->kd_weight, (double)o->temperature,
                  (double)o->label_smoothing, (double)o->energy_temperature,
                  (double)o->t_low_energy, (double)o->t_mid, (double)o->t_high_energy);
    (void)fflush(peer->requests);
}

/* ---- Stepping ---- */

static void write_thetas(Bench *bench)
{
    Record theta = read_record(bench->python);
    while (strcmp(theta.name, "theta") != 0) { /* what an earlier case left, which failed */
        free(theta.values);
        theta = read_record(bench->python);
    }
    const float values[2] = {(float)theta.values[0], (float)theta.values[1]};
    for (int i = 0; i < VARIANTS && bench->c->objective.method == METHOD_ENERGY_KD; i++) {
        if (bench->variants[i].step) {
            exec_write(bench->variants[i].step, "theta", values, sizeof values);
        }
    }
    free(theta.values);
}

static void step_variant(Variant *v, const uint8_t *images, const int32_t *labels, int rows,
                         bool first)
{
    const Case *c = v->c;
    exec_write(v->step, "images", images, (size_t)rows * (size_t)(c->size * c->size * 3));
    exec_write(v->step, "labels", labels, (size_t)rows * sizeof *labels);
    exec_run(v->step, &(ExecRun){.rows = rows, .bn_update = true, .scale = 1.0f / (float)rows});
    const float hyper[HYPER_COUNT] = {[HYPER_LR] = c->lr,
                                      [HYPER_MOMENTUM] = c->momentum,
                                      [HYPER_DAMPENING] = c->dampening,
                                      [HYPER_NESTEROV] = c->nesterov ? 1.0f : 0.0f,
                                      [HYPER_WEIGHT_DECAY] = c->weight_decay,
                                      [HYPER_GRAD_SCALE] = 1.0f,
                                      [HYPER_CLIP_NORM] = c->clip,
                                      [HYPER_FIRST] = first ? 1.0f : 0.0f};
    exec_write(v->update, "hyper", hyper, sizeof hyper);
    exec_run(v->update, &(ExecRun){.rows = 1});
    exec_refresh(v->step, true);
    exec_sync(v->step);
}

static int step_all(Bench *bench, int step)
{
    const Record images = expect_record(bench->python, "images");
    const Record labels = expect_record(bench->python, "labels");
    const int rows = (int)labels.count;
    assert_int_equal(rows, step == bench->c->steps - 2 ? bench->c->last : bench->c->batch);
    uint8_t *bytes = xmalloc((size_t)images.count);
    int32_t *classes = xmalloc((size_t)rows * sizeof *classes);
    for (int64_t i = 0; i < images.count; i++) {
        bytes[i] = (uint8_t)images.values[i];
    }
    for (int i = 0; i < rows; i++) {
        classes[i] = (int32_t)labels.values[i];
    }
    for (int i = 0; i < VARIANTS; i++) {
        if (bench->variants[i].backend && !(kinds[i].half && step > 0)) {
            step_variant(&bench->variants[i], bytes, classes, rows, step == 0);
        }
    }
    free(bytes);
    free(classes);
    free(images.values);
    free(labels.values);
    return rows;
}

/* ---- Comparing ---- */

static double *to_doubles(const void *raw, size_t size, size_t count, size_t stride)
{
    double *values = xmalloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = size == sizeof(double) ? ((const double *)raw)[i * stride]
                                           : (double)((const float *)raw)[i * stride];
    }
    return values;
}

/* The first rows of an output of g->math's type, or one of its columns. */
static double *take_output(const Variant *v, const char *name, int rows, int columns, int column,
                           size_t count)
{
    const size_t size = v->store.real_size;
    const size_t elems = (size_t)rows * (size_t)columns;
    char *raw = xmalloc(elems * size);
    exec_read(v->step, name, raw, elems * size);
    assert_int_equal(count, column < 0 ? elems : (size_t)rows);
    double *values = column < 0
                         ? to_doubles(raw, size, count, 1)
                         : to_doubles(raw + (size_t)column * size, size, count, (size_t)columns);
    free(raw);
    return values;
}

/* kind: "grad", "weight", "moment" or "state"; param: its name without the student's prefix. */
static double *take_param(const Variant *v, const char *kind, const char *name, size_t count)
{
    char *full = xformat("%s%s", STUDENT_PREFIX, name);
    const Params *params = v->store.params;
    const int index = params_find(params, full);
    if (index < 0) {
        fail_msg("no parameter %s", full);
    }
    free(full);
    const Param *p = &params->items[index];
    assert_int_equal(p->count, count);
    const char *base = strcmp(kind, "moment") == 0 ? v->store.moment
                       : strcmp(kind, "grad") == 0 ? v->store.arena[ARENA_GRAD]
                                                   : v->store.arena[p->arena];
    const size_t size = v->store.real_size;
    char *raw = xmalloc(count * size);
    v->backend->download(v->backend, QUEUE_COMPUTE, raw, base + p->offset * size, count * size);
    v->backend->sync(v->backend, QUEUE_COMPUTE);
    double *values = to_doubles(raw, size, count, 1);
    free(raw);
    return values;
}

static double *take(const Variant *v, const Record *r, int rows)
{
    const size_t count = (size_t)r->count;
    if (strcmp(r->name, "z") == 0 || strcmp(r->name, "t") == 0) {
        return take_output(v, r->name, rows, CLASSES, -1, count);
    }
    if (strcmp(r->name, "loss") == 0 || strcmp(r->name, "energy") == 0) {
        return take_output(v, "rows", rows, ROW_FIELDS, r->name[0] == 'l' ? ROW_LOSS : ROW_ENERGY,
                           count);
    }
    char kind[KIND_BYTES];
    char name[RECORD_NAME_BYTES];
    assert_int_equal(sscanf(r->name, "%7s %127s", kind, name), 2);
    return take_param(v, kind, name, count);
}

static double distance(const double *a, const double *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = a[i] - (b ? b[i] : 0);
        sum += d * d;
    }
    return sqrt(sum);
}

static void add_entry(Bench *bench, const Record *r, int rows, int step)
{
    bench->entries =
        xgrow(bench->entries, &bench->capacity, bench->n_entries + 1, sizeof *bench->entries);
    Entry *e = &bench->entries[bench->n_entries++];
    *e = (Entry){.fp32 = r->fp32, .bf16 = r->bf16};
    e->norm = distance(r->values, NULL, (size_t)r->count);
    memcpy(e->name, r->name, sizeof e->name);
    for (int i = 0; i < VARIANTS; i++) {
        const Variant *v = &bench->variants[i];
        if (v->backend && !(kinds[i].half && step > 0)) {
            double *got = take(v, r, rows);
            e->error[i] = distance(got, r->values, (size_t)r->count);
            free(got);
        }
    }
}

/* The first word of the name. */
static bool same_kind(const Entry *a, const Entry *b)
{
    const size_t length = strcspn(a->name, " ");
    return length == strcspn(b->name, " ") && memcmp(a->name, b->name, length) == 0;
}

/* r of the head comment. */
static double usual_error(const Bench *bench, const Entry *e, bool half)
{
    double sum = 0;
    int count = 0;
    for (size_t i = 0; i < bench->n_entries; i++) {
        const Entry *other = &bench->entries[i];
        const double error = half ? other->bf16 : other->fp32;
        /* Gradients that are 0 but for rounding (a bias before batch norm) say nothing here. */
        if (same_kind(e, other) && error < other->norm) {
            sum += error / other->norm * (error / other->norm);
            count++;
        }
    }
    return count > 0 ? sqrt(sum / count) : 0;
}

/* One number of a row, which its logits decide: errors may cancel there by luck, as they do in the
 * sum over the classes, but need not. This is the share that does not: the logits' error by number. */
static double row_error(const Bench *bench, const Entry *e, bool half)
{
    const char *logits = strcmp(e->name, "loss") == 0     ? "z"
                         : strcmp(e->name, "energy") == 0 ? "t"
                                                          : NULL;
    for (size_t i = 0; logits && i < bench->n_entries; i++) {
        const Entry *other = &bench->entries[i];
        if (strcmp(other->name, logits) == 0) {
            return (half ? other->bf16 : other->fp32) / sqrt(CLASSES);
        }
    }
    return 0;
}

static void judge(Bench *bench, int variant, int step)
{
    const Kind *kind = &kinds[variant];
    for (size_t i = 0; i < bench->n_entries; i++) {
        const Entry *e = &bench->entries[i];
        const double theirs = kind->half ? e->bf16 : e->fp32;
        const double usual = usual_error(bench, e, kind->half) * e->norm;
        const double floor = fmax(usual, row_error(bench, e, kind->half));
        const double bound = kind->factor * fmax(theirs, floor);
        const double share = e->error[variant] / bound;
        if (!(e->error[variant] <= bound)) {
            print_error("%s, step %d, %s: error %.3g, PyTorch's %.3g, bound %.3g, norm %.3g\n",
                        kind->label, step, e->name, e->error[variant], theirs, bound, e->norm);
        }
        if (!(share <= bench->used[variant])) {
            bench->used[variant] = share;
            (void)snprintf(bench->used_by[variant], RECORD_NAME_BYTES, "step %d %.100s", step,
                           e->name);
        }
    }
}

static void compare_step(Bench *bench, int rows, int step)
{
    bench->n_entries = 0;
    for (Record r = read_record(bench->python);; r = read_record(bench->python)) {
        const bool end = strcmp(r.name, "end") == 0;
        if (!end) {
            add_entry(bench, &r, rows, step);
        }
        free(r.values);
        if (end) {
            break;
        }
    }
    for (int i = 0; i < VARIANTS; i++) {
        if (bench->variants[i].backend && !(kinds[i].half && step > 0)) {
            judge(bench, i, step);
        }
    }
}

static void run_case(void **state, const Case *c)
{
    const Peer *peer = *state;
    if (!peer->requests) {
        python_skip("torch with safetensors");
        skip();
    }
    Bench bench = {.c = c, .python = peer->answers};
    for (int i = 0; i < VARIANTS; i++) {
        bench.variants[i].backend = open_backend(&kinds[i], &bench.variants[i].choices);
    }
    const NetSpec student = net_spec(c->student, DT_F32);
    const NetSpec teacher = net_spec(c->teacher, DT_F32);
    no_error(nets_register(&bench.params, &teacher, &student, CLASSES));
    write_weights(&bench, peer->folder);
    ask_python(peer, c);
    for (int i = 0; i < VARIANTS; i++) {
        if (bench.variants[i].backend) {
            open_variant(&bench, i, peer->folder);
        }
    }
    write_thetas(&bench);
    for (int step = 0; step < c->steps; step++) {
        const int rows = step_all(&bench, step);
        compare_step(&bench, rows, step);
    }
    for (int i = 0; i < VARIANTS; i++) {
        if (bench.variants[i].backend) {
            print_message("%s: largest used share %.3f (%s)\n", kinds[i].label, bench.used[i],
                          bench.used_by[i]);
        }
        close_variant(&bench.variants[i]);
    }
    params_free(&bench.params);
    free(bench.entries);
    for (int i = 0; i < VARIANTS; i++) {
        assert_true(bench.used[i] <= 1.0);
    }
}

/* ---- Cases ---- */

static const ObjectiveConfig kd = {.method = METHOD_KD,
                                   .ce_weight = 0.1f,
                                   .kd_weight = 0.9f,
                                   .temperature = 4.0f,
                                   .energy_temperature = 4.0f};

/* The main job: a wide teacher; the last batch fills its rung. */
static void test_kd(void **state)
{
    run_case(state, &(Case){.student = "resnet8",
                            .teacher = "wrn_16_2",
                            .size = 16,
                            .batch = 8,
                            .last = 5,
                            .rung = 5,
                            .steps = 5,
                            .objective = kd,
                            .lr = 0.05f,
                            .momentum = 0.9f,
                            .weight_decay = 5e-4f,
                            .decay_norm_bias = true});
}

/* Clipping, Nesterov, no decay of batch norm and biases; the last batch is masked in its rung. */
static void test_clip_nesterov(void **state)
{
    run_case(state, &(Case){.student = "resnet20",
                            .teacher = "resnet8",
                            .size = 16,
                            .batch = 8,
                            .last = 5,
                            .rung = 6,
                            .steps = 4,
                            .objective = kd,
                            .lr = 0.05f,
                            .momentum = 0.9f,
                            .weight_decay = 1e-2f,
                            .clip = 0.5f,
                            .nesterov = true});
}

/* Downsampling shortcuts; no rung for the last batch: masked in the full graph. Smoothing with KD. */
static void test_downsample(void **state)
{
    ObjectiveConfig objective = kd;
    objective.label_smoothing = 0.1f;
    run_case(state, &(Case){.student = "resnet8x4",
                            .teacher = "resnet8",
                            .size = 16,
                            .batch = 8,
                            .last = 3,
                            .steps = 3,
                            .objective = objective,
                            .lr = 0.02f,
                            .momentum = 0.9f,
                            .dampening = 0.25f,
                            .weight_decay = 5e-4f,
                            .clip = 0.25f,
                            .decay_norm_bias = true});
}

/* Energy KD; a pre-activation network, whose batch norms do not fold. */
static void test_energy_kd(void **state)
{
    ObjectiveConfig objective = kd;
    objective.method = METHOD_ENERGY_KD;
    objective.t_low_energy = 6.0f;
    objective.t_mid = 4.0f;
    objective.t_high_energy = 2.0f;
    run_case(state, &(Case){.student = "wrn_16_1",
                            .teacher = "resnet8",
                            .size = 16,
                            .batch = 12,
                            .last = 7,
                            .rung = 8,
                            .steps = 5,
                            .objective = objective,
                            .lr = 0.05f,
                            .momentum = 0.9f,
                            .weight_decay = 5e-4f,
                            .nesterov = true,
                            .decay_norm_bias = true});
}

/* No teacher; max-pools, and biases before batch norm. */
static void test_smoothing(void **state)
{
    run_case(state, &(Case){.student = "vgg8",
                            .size = 16,
                            .batch = 8,
                            .last = 6,
                            .rung = 6,
                            .steps = 3,
                            .objective = {.method = METHOD_NONE, .label_smoothing = 0.1f},
                            .lr = 0.05f,
                            .momentum = 0.9f,
                            .weight_decay = 5e-4f});
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kd), cmocka_unit_test(test_clip_nesterov),
        cmocka_unit_test(test_downsample), cmocka_unit_test(test_energy_kd),
        cmocka_unit_test(test_smoothing)};
    return cmocka_run_group_tests(tests, peer_open, peer_close);
}
