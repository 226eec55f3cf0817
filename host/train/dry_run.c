/* Plans a run and adds up its memory and its files by owner. Sizes come from the same plans and prepared steps that a run would use;
 * what only use brings about (16-bit shadows of the parameters on GPUs) is counted by rule. */
#include "train/dry_run.h"

#include "base/files.h"
#include "base/log.h"
#include "data/augment.h"
#include "data/cifar.h"
#include "distill/memo.h"
#include "models/models.h"
#include "train/shape.h"
#include "train/teacher_table.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DESCRIBE_VARIABLE "CUDISTILL_DESCRIBE"
enum { DESCRIBE_MAX_BYTES = 1 << 20 };

/* ---- The data's shape ---- */

static Dataset *bare_set(const DataShape *shape, Split split)
{
    Dataset *set = xcalloc(1, sizeof *set);
    set->name = xstrdup("shape");
    set->source = xstrdup("a size without images");
    set->split = split;
    set->count = (uint32_t)(split == SPLIT_TRAIN ? shape->train : shape->test);
    set->classes = (int)shape->classes;
    set->height = set->width = (int)shape->size;
    set->channels = 3;
    set->class_names = xcalloc((size_t)shape->classes, sizeof *set->class_names);
    return set;
}

/* All classes of CIFAR are of one size. */
static Err *shorten(const LongTail *how, DataShape *shape)
{
    if (!longtail_wanted(how)) {
        return NULL;
    }
    uint32_t *counts = xcalloc((size_t)shape->classes, sizeof *counts);
    Err *err = longtail_counts(how, (uint32_t)(shape->train / shape->classes), (int)shape->classes,
                               counts);
    shape->train = 0;
    for (long c = 0; c < shape->classes && !err; c++) {
        shape->train += counts[c];
    }
    free(counts);
    return err;
}

/* CIFAR's sizes are known; drawn sets are drawn, which touches no disk; other sizes are told. */
static Err *open_sets(const Settings *s, Dataset **train_set, Dataset **test_set)
{
    DataShape shape;
    if (strncmp(s->dataset, SHAPE_PREFIX, strlen(SHAPE_PREFIX)) == 0) {
        TRY(shape_parse(s->dataset + strlen(SHAPE_PREFIX), &shape));
    } else if (strncmp(s->dataset, "cifar", 5) == 0) {
        shape = (DataShape){.size = CIFAR_SIDE,
                            .classes = strncmp(s->dataset, "cifar100", 8) == 0 ? 100 : 10,
                            .train = CIFAR_TRAIN_COUNT,
                            .test = CIFAR_TEST_COUNT};
        TRY(shorten(&s->long_tail, &shape));
    } else {
        TRY(dataset_open(s->dataset, SPLIT_TRAIN, train_set));
        TRY(longtail_apply(&s->long_tail, train_set));
        return dataset_open(s->dataset, SPLIT_TEST, test_set);
    }
    *train_set = bare_set(&shape, SPLIT_TRAIN);
    *test_set = bare_set(&shape, SPLIT_TEST);
    return NULL;
}

/* ---- Memory by owner ---- */

static void add(DryRunReport *r, const char *owner, size_t bytes)
{
    CHECK(r->n_owners < DRY_RUN_MAX_OWNERS, "more owners than %d", DRY_RUN_MAX_OWNERS);
    r->owners[r->n_owners++] = (MemoryOwner){owner, bytes};
    r->total += bytes;
}

static size_t largest(const Run *run, Arena arena)
{
    const Exec *const execs[] = {run->step, run->update, run->eval};
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        const size_t own = exec_bytes(execs[i], arena);
        bytes = own > bytes ? own : bytes;
    }
    return bytes;
}

static size_t sum(const Run *run, Arena arena)
{
    return exec_bytes(run->step, arena) + exec_bytes(run->update, arena) +
           exec_bytes(run->eval, arena);
}

static void add_parameters(DryRunReport *r, const Run *run)
{
    const size_t *elems = run->params.arena_elems;
    add(r, "student weights (fp32)", elems[ARENA_WEIGHT] * sizeof(float));
    add(r, "student gradients", elems[ARENA_WEIGHT] * sizeof(float));
    add(r, "momentum", elems[ARENA_WEIGHT] * sizeof(float));
    add(r, "teacher weights (fp32)", elems[ARENA_FROZEN] * sizeof(float));
    add(r, "batch norm's running statistics", elems[ARENA_STATE] * sizeof(float));
}

/* Shadows of whole parameter arenas, as backend/cuda.h describes them: where activations have 16 bits. */
static size_t shadow_bytes(const Run *run)
{
    const size_t *elems = run->params.arena_elems;
    const size_t student = dtype_size(run->student.act);
    const size_t teacher = dtype_size(run->teacher.act);
    if (strcmp(run->backend->name, "cuda") != 0) {
        return 0;
    }
    return (student == 2 ? elems[ARENA_WEIGHT] * student : 0) +
           (run->teacher.model && teacher == 2 ? elems[ARENA_FROZEN] * teacher : 0);
}

static void add_data(DryRunReport *r, const Run *run)
{
    const Dataset *set = run->train_set;
    const size_t resident =
        run->wiring.resident
            ? set->count * (dataset_image_size(set) + 2 * sizeof(int32_t)) /* labels and order */
            : 0;
    const size_t table = run->wiring.table ? set->count * (size_t)set->classes * sizeof(float) : 0;
    const size_t inputs = sum(run, ARENA_IO);
    CHECK(inputs >= resident + table, "inputs of %zu bytes hold less than the set and the table",
          inputs);
    add(r, "resident training set", resident);
    add(r, "teacher's table", table);
    add(r, "batches and scalars", inputs - resident - table + SHARED_BYTES);
}

static Err *add_memory(DryRunReport *r, const Run *run)
{
    add_parameters(r, run);
    add(r, "activations and their gradients", largest(run, ARENA_ACT));
    add(r, "folded weights, outputs", sum(run, ARENA_PERSIST));
    add(r, "workspace of a step (library, staging)", largest(run, ARENA_WORKSPACE));
    add_data(r, run);
    Exec *fill = NULL;
    if (run->wiring.table) {
        TRY(teacher_table_plan(run, &fill));
        add(r, "teacher's pass that fills the table",
            exec_bytes(fill, ARENA_ACT) + exec_bytes(fill, ARENA_PERSIST) +
                exec_bytes(fill, ARENA_WORKSPACE) + exec_bytes(fill, ARENA_IO));
    }
    r->packed_known = run->backend->step_bytes != NULL;
    add(r, "16-bit copies of parameters", shadow_bytes(run));
    if (r->packed_known) {
        add(r, "packed weights, constants of steps", run->backend->step_bytes(run->backend));
    }
    exec_close(fill);
    return NULL;
}

/* ---- Disk by owner ---- */

static void add_disk(DryRunReport *r, const char *owner, double bytes)
{
    CHECK(r->n_disk < DRY_RUN_MAX_OWNERS, "more owners than %d", DRY_RUN_MAX_OWNERS);
    r->disk[r->n_disk++] = (MemoryOwner){owner, (size_t)bytes};
    r->disk_total += (size_t)bytes;
}

/* Distinct views that the epochs will show of all samples, with a record each. */
static double memo_bytes(const Run *run, double epochs)
{
    const Settings *s = run->settings;
    const Dataset *set = run->train_set;
    const double views = augment_view_count((AugmentSpec){.pad = s->padding, .flip = s->flip});
    const double shown = views * (1.0 - pow(1.0 - 1.0 / views, epochs));
    const double entries = set->count * views;
    const double index = (double)memo_full_bytes(set->count, (uint32_t)views, 0) -
                         entries * sizeof(uint64_t); /* each record's checksum */
    const double full =
        (double)memo_full_bytes(set->count, (uint32_t)views, (size_t)set->classes * sizeof(float));
    const double bytes = index + (full - index) * shown / views;
    const double limit = (double)s->memo_mib * 0x1p20;
    return bytes < limit ? bytes : limit;
}

static void add_files(DryRunReport *r, const Run *run)
{
    const Settings *s = run->settings;
    const Dataset *test = run->test_set;
    const size_t *elems = run->params.arena_elems;
    const double epochs = ceil((double)r->steps / (double)r->steps_per_epoch);
    const double momentum = (double)elems[ARENA_WEIGHT] * sizeof(float);
    const double weights = momentum + (double)elems[ARENA_STATE] * sizeof(float);
    /* The newest, the best one if it is older, and the next one while it is written. */
    const long every = s->checkpoint_every > 0 ? s->checkpoint_every : r->steps_per_epoch;
    const long saves = (r->steps + every - 1) / every;
    const long kept = s->keep_last < saves ? s->keep_last : saves;
    add_disk(r, "checkpoints (those kept, the best, one being written)",
             (double)(kept + 2) * (weights + momentum));
    add_disk(r, "weights, last and best", 2.0 * weights);
    if (s->log_predictions) {
        const double networks = run->teacher.model ? 2.0 : 1.0;
        add_disk(r, "predictions of the test set",
                 (double)test->count *
                     (networks * test->classes * sizeof(uint16_t) + sizeof(int32_t)));
    }
    add_disk(r, "teacher's memo", run->wiring.table ? memo_bytes(run, epochs) : 0.0);
    r->out = s->out;
    r->memo_dir = s->memo_dir;
}

/* ---- The report ---- */

static void describe_net(char *text, size_t size, const Run *run, const NetSpec *net,
                         const char *prefix)
{
    snprintf(text, size, "%s %s, %zu parameters", net->model, dtype_name(net->act),
             params_count(&run->params, prefix));
}

static Err *make_report(const Run *run, DryRunReport *r)
{
    const Settings *s = run->settings;
    const uint32_t batch = (uint32_t)s->batch;
    *r = (DryRunReport){.train_count = run->train_set->count,
                        .test_count = run->test_set->count,
                        .size = run->train_set->height,
                        .classes = run->train_set->classes,
                        .steps_per_epoch = (run->train_set->count + batch - 1) / batch,
                        .last_batch = (int)(run->train_set->count % batch),
                        .resident = run->wiring.resident,
                        .table = run->wiring.table,
                        .captured = run->capture};
    r->steps = r->steps_per_epoch * s->schedule.epochs;
    r->steps = s->max_steps > 0 && s->max_steps < r->steps ? s->max_steps : r->steps;
    memcpy(r->formula, run->objective.formula, sizeof r->formula);
    DeviceInfo info;
    run->backend->info(run->backend, &info);
    snprintf(r->device, sizeof r->device, "%s: %s, %s", run->backend->name, info.name,
             info.library);
    describe_net(r->student, sizeof r->student, run, &run->student, STUDENT_PREFIX);
    if (run->teacher.model) {
        describe_net(r->teacher, sizeof r->teacher, run, &run->teacher, TEACHER_PREFIX);
    }
    add_files(r, run);
    return add_memory(r, run);
}

Err *dry_run(const Settings *settings, const char *describe, DryRunReport *out)
{
    const char *path = describe ? describe : getenv(DESCRIBE_VARIABLE);
    const bool gpu = strcmp(settings->device, "cuda") == 0 || strcmp(settings->device, "auto") == 0;
    Settings described = *settings;
    char *device = NULL;
    if (path && path[0] && gpu) {
        TRY(file_read_text(path, DESCRIBE_MAX_BYTES, &device));
        described.device = "cuda";
    }
    Dataset *train_set = NULL;
    Dataset *test_set = NULL;
    Run run = {.lock_fd = -1};
    Err *err = open_sets(settings, &train_set, &test_set);
    if (err) {
        dataset_close(train_set);
        free(device);
        return err;
    }
    err = run_plan(&described, train_set, test_set, device, &run);
    if (!err) {
        err = make_report(&run, out);
    }
    run_close(&run);
    free(device);
    return err;
}

static json_t *owners_json(const MemoryOwner *owners, int count)
{
    json_t *object = json_object();
    for (int i = 0; i < count; i++) {
        CHECK(json_object_set_new(object, owners[i].owner,
                                  json_integer((json_int_t)owners[i].bytes)) == 0,
              "owner %d", i);
    }
    return object;
}

static void print_json(const DryRunReport *r)
{
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:i, s:b, s:b, s:b, s:o, s:I, s:b, s:s, s:o, s:I}",
        "device", r->device, "student", r->student, "teacher", r->teacher, "loss", r->formula,
        "steps_per_epoch", (json_int_t)r->steps_per_epoch, "steps", (json_int_t)r->steps,
        "last_batch", r->last_batch, "resident", r->resident, "table", r->table, "captured",
        r->captured, "device_bytes", owners_json(r->owners, r->n_owners), "total_bytes",
        (json_int_t)r->total, "packed_known", r->packed_known, "out", r->out, "disk_bytes",
        owners_json(r->disk, r->n_disk), "disk_total_bytes", (json_int_t)r->disk_total);
    CHECK(root, "the report could not be made");
    char *text = json_dumps(root, JSON_COMPACT);
    puts(text);
    free(text);
    json_decref(root);
}

static void print_owners(const MemoryOwner *owners, int count)
{
    for (int i = 0; i < count; i++) {
        if (owners[i].bytes > 0) {
            printf("%12.1f  %s\n", (double)owners[i].bytes / 0x1p20, owners[i].owner);
        }
    }
}

void dry_run_print(const DryRunReport *r, bool json)
{
    if (json) {
        print_json(r);
        return;
    }
    printf("data      %u training and %u test images of %d x %d, %d classes\n", r->train_count,
           r->test_count, r->size, r->size, r->classes);
    printf("student   %s\n", r->student);
    if (r->teacher[0]) {
        printf("teacher   %s%s\n", r->teacher, r->table ? ", through the memo" : "");
    }
    printf("%s\n", r->formula);
    printf("steps     %ld an epoch", r->steps_per_epoch);
    if (r->last_batch > 0) {
        printf(" (the last one of %d images)", r->last_batch);
    }
    printf(", %ld in all\ndevice    %s%s\n\ndevice memory, MiB\n", r->steps, r->device,
           r->captured ? ", steps recorded" : "");
    print_owners(r->owners, r->n_owners);
    printf("%12.1f  in all%s\n", (double)r->total / 0x1p20,
           r->packed_known ? ", without the libraries' own context"
                           : ", without packed weights, which this backend does not count");
    printf("\ndisk, MiB, in %s%s%s\n", r->out, r->table ? " and " : "",
           r->table ? r->memo_dir : "");
    print_owners(r->disk, r->n_disk);
    printf("%12.1f  in all, and some for logs and pictures\n", (double)r->disk_total / 0x1p20);
}
