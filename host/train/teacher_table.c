/* Fills the teacher's table before an epoch: from the memo what it has, the rest by the teacher's inference graph. The
 * memo's key ends with a fingerprint, the hash of the logits of one probe batch: whatever else may change the bits (a
 * timed choice, another processor) then leads to another file and never to a mixture. */
#include "train/teacher_table.h"

#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "distill/memo.h"
#include "train/signals.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define VIEW_KNOWN UINT32_MAX /* in the memo */

/* The share of the teacher's passes that one run must save before `auto` writes a memo to the disk. */
#define LEAST_SAVED 0.25

struct TeacherTable {
    Backend *backend;
    const Dataset *dataset;
    AugmentSpec augment;
    uint64_t seed;
    Exec *exec;
    Memo *memo;
    uint32_t batch;
    uint32_t tail; /* images of an epoch's last, smaller batch that are computed in one; 0 = none */
    size_t row_bytes;          /* logits of one sample */
    uint8_t *images;           /* [batch], like the next two in memory that the device reads */
    uint8_t *logits;           /* [batch] rows */
    uint8_t *table;            /* [count] rows */
    uint32_t *order;           /* [count] */
    uint32_t *missing, *views; /* [count]: samples that the memo lacks, and their views */
};

/* ---- The teacher over one batch ---- */

/* One batch of `rows` rows. Row i is sample samples[i] in view views[i]; rows from `count` on repeat the last. */
static void compute(TeacherTable *t, uint32_t rows, uint32_t count, const uint32_t *samples,
                    const uint32_t *views)
{
    const size_t image_bytes = dataset_image_size(t->dataset);
#pragma omp parallel for schedule(static)
    for (uint32_t i = 0; i < rows; i++) {
        const uint32_t k = i < count ? i : count - 1;
        augment_apply(t->augment, augment_view_at(t->augment, (int)views[k]),
                      dataset_image(t->dataset, samples[k]), t->dataset->height, t->dataset->width,
                      t->images + i * image_bytes);
    }
    exec_write(t->exec, "images", t->images, rows * image_bytes);
    exec_run(t->exec, &(ExecRun){.rows = (int)rows, .scale = 1.0f});
    exec_read(t->exec, "logits", t->logits, rows * t->row_bytes);
}

/* Hash of the logits of the first samples as they are; *placeless: they come out the same in another order. */
static void probe(TeacherTable *t, char hash[33], bool *placeless)
{
    uint32_t *samples = xmalloc(2 * t->batch * sizeof *samples);
    uint32_t *views = samples + t->batch;
    const AugmentView identity = augment_identity(t->augment);
    for (uint32_t i = 0; i < t->batch; i++) {
        samples[i] = i % t->dataset->count;
        views[i] = (uint32_t)augment_view_index(t->augment, identity);
    }
    compute(t, t->batch, t->batch, samples, views);
    hash_hex(t->logits, t->batch * t->row_bytes, hash);
    uint8_t *straight = xmalloc(t->batch * t->row_bytes);
    memcpy(straight, t->logits, t->batch * t->row_bytes);
    for (uint32_t i = 0; i < t->batch; i++) {
        samples[i] = (t->batch - 1 - i) % t->dataset->count;
    }
    compute(t, t->batch, t->batch, samples, views);
    *placeless = true;
    for (uint32_t i = 0; i < t->batch; i++) {
        *placeless &= memcmp(t->logits + i * t->row_bytes,
                             straight + (t->batch - 1 - i) * t->row_bytes, t->row_bytes) == 0;
    }
    free(straight);
    free(samples);
}

/* ---- Opening ---- */

static uint64_t memo_limit(const Settings *s)
{
    return (uint64_t)s->memo_mib << 20;
}

/* Whether `auto` means on; else why not. */
static const char *why_not(const Run *run)
{
    const Settings *s = run->settings;
    if (!policy_is_none(&s->policy)) {
        return "augment.policy and augment.cutout make new pictures in every epoch";
    }
    const double views = augment_view_count((AugmentSpec){.pad = s->padding, .flip = s->flip});
    const double epochs = s->schedule.epochs;
    const double distinct = views * (1.0 - pow(1.0 - 1.0 / views, epochs));
    if (1.0 - distinct / epochs < LEAST_SAVED) {
        return "few views come up again in so few epochs";
    }
    const uint64_t bytes = memo_full_bytes(run->train_set->count, (uint32_t)views,
                                           (size_t)run->train_set->classes * sizeof(float));
    if (bytes > memo_limit(s)) {
        return "all views would take more than teacher.memo_mib";
    }
    struct statvfs disk;
    if (statvfs(s->out, &disk) == 0 && (uint64_t)disk.f_bavail * disk.f_frsize < 2 * bytes) {
        return "all views would take more than half of the free space";
    }
    return NULL;
}

static Err *open_fill_graph(const Run *run, TeacherTable *t)
{
    Graph g;
    TRY(nets_logits_graph(&run->params, &run->teacher, TEACHER_PREFIX, run->train_set->classes,
                          run->train_set->height, (int)t->batch, &g));
    const int ladder[1] = {(int)t->tail};
    const ExecOptions options = {
        .ladder = ladder, .ladder_count = t->tail > 0, .plan_only = run->dry};
    Err *err = exec_open(run->backend, &g, &options, &t->exec);
    graph_free(&g);
    if (!err && !run->dry) {
        store_bind(&run->store, t->exec);
        exec_refresh(t->exec, false);
    }
    return err;
}

static Err *take_memory(TeacherTable *t)
{
    const uint32_t count = t->dataset->count;
    Backend *b = t->backend;
    t->order = xmalloc(3 * count * sizeof *t->order);
    t->missing = t->order + count;
    t->views = t->missing + count;
    t->images = b->alloc(b, MEM_HOST, t->batch * dataset_image_size(t->dataset));
    t->logits = b->alloc(b, MEM_HOST, t->batch * t->row_bytes);
    t->table = b->alloc(b, MEM_HOST, count * t->row_bytes);
    return t->images && t->logits && t->table
               ? NULL
               : err_new(EXIT_DEVICE_MEMORY,
                         "no host memory for the teacher's table (%zu MiB): set teacher.memo = off",
                         count * t->row_bytes >> 20);
}

/* Everything that decides the bits of a record, for people too. */
static char *key_text(const Run *run, const TeacherTable *t, const char *fingerprint)
{
    const NetSpec *n = &run->teacher;
    DeviceInfo info;
    run->backend->info(run->backend, &info);
    return xformat(
        "teacher %s\nweights %s\nactivations %s\nbatch norm folded\nmean %a %a %a\nstd %a %a %a\n"
        "padding %d\nflip %d\ndata %s\nbackend %s\ndevice %s\nlibrary %s\nthreads %d\n"
        "logits f32 %d\nbatch %u\nfingerprint %s\n",
        n->model, run->state.teacher_hash, dtype_name(n->act), (double)n->mean[0],
        (double)n->mean[1], (double)n->mean[2], (double)n->std[0], (double)n->std[1],
        (double)n->std[2], t->augment.pad, t->augment.flip, t->dataset->hash, run->backend->name,
        info.name, info.library, info.threads, t->dataset->classes, t->batch, fingerprint);
}

static Err *open_memo(const Run *run, TeacherTable *t, const char *fingerprint)
{
    const Settings *s = run->settings;
    char *key = key_text(run, t, fingerprint);
    const MemoConfig config = {.dir = s->memo_dir,
                               .key = key,
                               .samples = t->dataset->count,
                               .views = (uint32_t)augment_view_count(t->augment),
                               .record_bytes = t->row_bytes,
                               .max_bytes = memo_limit(s)};
    Err *err = memo_open(&config, &t->memo);
    free(key);
    return err;
}

static Err *open_table(const Run *run, TeacherTable *t, bool *placeless)
{
    TRY(take_memory(t));
    TRY(open_fill_graph(run, t));
    char fingerprint[33];
    probe(t, fingerprint, placeless);
    return open_memo(run, t, fingerprint);
}

static void say_opened(const TeacherTable *t, bool placeless)
{
    const MemoStats stats = memo_stats(t->memo);
    log_info("teacher's memo %s: %llu records%s", memo_path(t->memo),
             (unsigned long long)stats.stored, stats.writable ? "" : ", read only");
    if (!placeless) {
        log_warn("here a sample's logits depend on its place in the batch: with teacher.memo = on "
                 "results differ in the last bits from those with off");
    }
}

static TeacherTable *new_table(const Run *run)
{
    const Settings *s = run->settings;
    TeacherTable *t = xcalloc(1, sizeof *t);
    t->backend = run->backend;
    t->dataset = run->train_set;
    t->augment = (AugmentSpec){.pad = s->padding, .flip = s->flip};
    t->seed = s->seed;
    t->batch = (uint32_t)(s->memo_batch > 0 ? s->memo_batch : s->batch);
    t->tail = t->batch == (uint32_t)s->batch ? t->dataset->count % t->batch : 0;
    t->row_bytes = (size_t)t->dataset->classes * sizeof(float);
    return t;
}

bool teacher_table_wanted(const Run *run)
{
    const Settings *s = run->settings;
    if (!s->teacher_model || s->memo == SWITCH_OFF) {
        return false;
    }
    const char *reason = s->memo == SWITCH_AUTO ? why_not(run) : NULL;
    if (reason) {
        log_debug("teacher.memo = auto: off, %s", reason);
    }
    return !reason;
}

Err *teacher_table_plan(const Run *run, Exec **fill)
{
    TeacherTable *t = new_table(run);
    Err *err = open_fill_graph(run, t);
    *fill = t->exec;
    t->exec = NULL;
    teacher_table_close(t);
    return err;
}

Err *teacher_table_open(const Run *run, TeacherTable **out)
{
    *out = NULL;
    if (!teacher_table_wanted(run)) {
        return NULL;
    }
    TeacherTable *t = new_table(run);
    bool placeless = true;
    Err *err = open_table(run, t, &placeless);
    if (run->settings->memo == SWITCH_AUTO && (err || !placeless)) {
        log_warn("teacher.memo = auto: off, %s",
                 err ? err->message : "a sample's logits depend on its place in the batch here");
        err_free(err);
        teacher_table_close(t);
        return NULL;
    }
    if (err) {
        teacher_table_close(t);
        return err;
    }
    say_opened(t, placeless);
    *out = t;
    return NULL;
}

void teacher_table_close(TeacherTable *table)
{
    if (!table) {
        return;
    }
    void *const memory[] = {table->images, table->logits, table->table};
    exec_close(table->exec);
    for (int i = 0; i < 3; i++) {
        if (memory[i]) {
            table->backend->free(table->backend, MEM_HOST, memory[i]);
        }
    }
    memo_close(table->memo);
    free(table->order);
    free(table);
}

/* ---- Filling ---- */

static uint32_t view_of(const TeacherTable *t, uint32_t epoch, uint32_t sample)
{
    const AugmentView drawn = augment_view(t->seed, epoch, sample, t->augment);
    return (uint32_t)augment_view_index(t->augment, drawn);
}

/* Copies what the memo has and lists the rest; gives the length of that list. */
static uint32_t look_up(TeacherTable *t, uint32_t epoch, uint32_t position)
{
    uint32_t missing = 0;
    const uint32_t end = t->dataset->count - t->tail;
    uint32_t *views = t->views;
#pragma omp parallel for schedule(static)
    for (uint32_t i = position; i < end; i++) {
        const uint32_t sample = t->order[i];
        const uint32_t view = view_of(t, epoch, sample);
        const bool known = memo_get(t->memo, sample, view, t->table + sample * t->row_bytes);
        views[i] = known ? VIEW_KNOWN : view;
    }
    for (uint32_t i = position; i < end; i++) {
        if (views[i] != VIEW_KNOWN) { /* the list never overtakes what it is made from */
            t->missing[missing] = t->order[i];
            t->views[missing++] = views[i];
        }
    }
    return missing;
}

static void keep(TeacherTable *t, uint32_t count, const uint32_t *samples)
{
    for (uint32_t i = 0; i < count; i++) {
        memcpy(t->table + samples[i] * t->row_bytes, t->logits + i * t->row_bytes, t->row_bytes);
    }
}

/* The epoch's last batch is smaller, and logits may depend on that: these few are computed as the step would have, and
 * neither taken from the memo nor put into it. */
static void compute_tail(TeacherTable *t, uint32_t epoch)
{
    const uint32_t *samples = t->order + t->dataset->count - t->tail;
    for (uint32_t i = 0; i < t->tail; i++) {
        t->views[i] = view_of(t, epoch, samples[i]);
    }
    compute(t, t->tail, t->tail, samples, t->views);
    keep(t, t->tail, samples);
}

TableFill teacher_table_fill(TeacherTable *table, Exec *step, uint32_t epoch, uint32_t position,
                             double until)
{
    const double begin = now_s();
    const uint32_t count = table->dataset->count;
    rng_permutation(table->seed, epoch, table->order, count);
    const uint32_t missing = look_up(table, epoch, position);
    TableFill fill = {.known = (long)(count - table->tail - position) - (long)missing};
    for (uint32_t at = 0; at < missing && !fill.stopped; at += table->batch) {
        const uint32_t left = missing - at;
        const uint32_t rows = left < table->batch ? left : table->batch;
        compute(table, table->batch, rows, table->missing + at, table->views + at);
        keep(table, rows, table->missing + at);
        memo_put(table->memo, rows, table->missing + at, table->views + at, table->logits);
        fill.computed += rows;
        fill.stopped = (signals_pending() != 0 || now_s() >= until) && at + rows < missing;
    }
    if (!fill.stopped && table->tail > 0) {
        compute_tail(table, epoch);
        fill.computed += table->tail;
    }
    if (!fill.stopped) {
        exec_write(step, "teacher_table", table->table, count * table->row_bytes);
        exec_sync(step);
    }
    fill.seconds = now_s() - begin;
    return fill;
}
