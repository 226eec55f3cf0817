/* What of a run goes to TensorBoard, and under which names. */
#include "train/board.h"

#include "base/files.h"
#include "train/rundir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const phase_tags[METER_PHASES] = {"phase/data", "phase/teacher", "phase/student",
                                                     "phase/update"};

/* ---- HParams ---- */

typedef struct {
    EventsHparam *items;
    size_t count, capacity;
} Hparams;

/* Takes the name over. */
static EventsHparam *add(Hparams *out, char *name)
{
    out->items = xgrow(out->items, &out->capacity, out->count + 1, sizeof *out->items);
    EventsHparam *item = &out->items[out->count++];
    *item = (EventsHparam){.name = name};
    return item;
}

static void add_setting(Hparams *out, const Config *config, const ConfigKey *row)
{
    const char *section = row->section;
    const char *key = row->key;
    /* Paths differ between machines, lists are no number. */
    if (row->type == CONFIG_PATH || row->type == CONFIG_INTS || row->type == CONFIG_FLOATS ||
        !config_is_set(config, section, key) || !config_has(config, section, key) ||
        strcmp(section, "log") == 0) {
        return;
    }
    EventsHparam *item = add(out, xformat("%s.%s", section, key));
    switch (row->type) {
    case CONFIG_BOOL:
        item->text = config_bool(config, section, key) ? "true" : "false";
        break;
    case CONFIG_INT:
        item->number = (double)config_int(config, section, key);
        break;
    case CONFIG_FLOAT:
        item->number = config_float(config, section, key);
        break;
    default:
        item->text = config_str(config, section, key);
        break;
    }
}

static Err *begin_session(Events *events, const Run *run)
{
    const Settings *s = run->settings;
    Hparams params = {0};
    add(&params, xstrdup("method"))->text = config_str(s->config, "distill", "method");
    add(&params, xstrdup("student"))->text = s->student_model;
    add(&params, xstrdup("teacher"))->text = s->teacher_model ? s->teacher_model : "none";
    add(&params, xstrdup("seed"))->number = (double)s->seed;
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    for (size_t i = 0; i < count; i++) {
        add_setting(&params, s->config, &rows[i]);
    }
    Err *err = events_session_start(events, s->name, params.items, params.count);
    for (size_t i = 0; i < params.count; i++) {
        free((char *)params.items[i].name);
    }
    free(params.items);
    return err;
}

Err *board_open(const Run *run, Events **out)
{
    *out = NULL;
    char *dir = path_join(run->settings->out, RUN_EVENTS);
    Err *err = run->resumed ? NULL : dir_remove(dir);
    if (!err) {
        err = events_open(dir, run->resumed ? run->state.step : -1, out);
    }
    free(dir);
    if (!err && !run->resumed) {
        err = begin_session(*out, run);
    }
    return err;
}

/* ---- Scalars ---- */

typedef struct {
    const char *tag;
    double value;
} Scalar;

static Err *put_scalars(Events *events, long step, const Scalar *scalars, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        TRY(events_scalar(events, scalars[i].tag, step, scalars[i].value));
    }
    return NULL;
}

static Err *put_parts(Events *events, const Run *run, double rows)
{
    ObjectivePart parts[OBJECTIVE_MAX_PARTS];
    const int count = objective_parts(&run->objective.spec, parts);
    for (int i = 0; i < count; i++) {
        char tag[64];
        (void)snprintf(tag, sizeof tag, "train/loss_%s", parts[i].name);
        TRY(events_scalar(events, tag, run->landed, run->interval.sums[parts[i].sum] / rows));
    }
    return NULL;
}

Err *board_step(Events *events, const Run *run)
{
    const Meter *m = &run->interval;
    const double rows = m->sums[SUM_ROWS];
    const bool teacher = run->settings->teacher_model != NULL;
    const Scalar scalars[] = {
        {"train/loss", m->sums[SUM_LOSS] / rows},
        {"train/top1", 100.0 * m->sums[SUM_TOP1] / rows},
        {"train/lr", run->lr},
        {"train/images_per_s", m->seconds > 0.0 ? rows / m->seconds : 0.0},
        {"train/teacher_top1", 100.0 * m->sums[SUM_TTOP1] / rows},
        {"train/agreement", 100.0 * m->sums[SUM_AGREE] / rows},
    };
    enum { OF_TEACHER = 2, ALL = sizeof scalars / sizeof scalars[0] };
    TRY(put_scalars(events, run->landed, scalars, teacher ? ALL : ALL - OF_TEACHER));
    TRY(put_parts(events, run, rows));
    double shares[METER_PHASES];
    if (meter_phases(m, shares)) {
        for (int i = 0; i < METER_PHASES; i++) {
            TRY(events_scalar(events, phase_tags[i], run->landed, shares[i]));
        }
    }
    return NULL;
}

Err *board_epoch(Events *events, const Run *run, const EpochRecord *record)
{
    const Scalar trained[] = {{"epoch/train_loss", record->train_loss},
                              {"epoch/train_top1", record->train_top1},
                              {"epoch/images_per_s", record->images_per_s}};
    TRY(put_scalars(events, record->step, trained, sizeof trained / sizeof trained[0]));
    if (record->eval_top1 < 0.0) {
        return NULL;
    }
    const Scalar evaluated[] = {{"eval/top1", record->eval_top1},
                                {"eval/top5", record->eval_top5},
                                {"eval/loss", record->eval_loss}};
    TRY(put_scalars(events, record->step, evaluated, sizeof evaluated / sizeof evaluated[0]));
    return run->state.teacher_top1 >= 0.0
               ? events_scalar(events, "eval/teacher_top1", record->step, run->state.teacher_top1)
               : NULL;
}

/* ---- Weights ---- */

static Err *put_weights(Events *events, const Run *run, const Param *param, const float *weights,
                        float *chosen)
{
    const size_t stride = (param->count + BOARD_MAX_VALUES - 1) / BOARD_MAX_VALUES;
    const float *values = weights + param->offset;
    size_t count = 0;
    for (size_t i = 0; i < param->count; i += stride) {
        chosen[count++] = values[i];
    }
    char *tag = xformat("weights/%s", param->name + strlen(STUDENT_PREFIX));
    Err *err = events_histogram(events, tag, run->state.step, chosen, count);
    free(tag);
    return err;
}

Err *board_weights(Events *events, const Run *run)
{
    Backend *b = run->backend;
    const size_t bytes = run->params.arena_elems[ARENA_WEIGHT] * sizeof(float);
    float *weights = xmalloc(bytes + 1);
    float *chosen = xmalloc(BOARD_MAX_VALUES * sizeof *chosen);
    b->download(b, QUEUE_COMPUTE, weights, run->store.arena[ARENA_WEIGHT], bytes);
    b->sync(b, QUEUE_COMPUTE);
    Err *err = NULL;
    for (int i = 0; i < run->params.count && !err; i++) {
        const Param *param = &run->params.items[i];
        if (param->arena == ARENA_WEIGHT &&
            strncmp(param->name, STUDENT_PREFIX, strlen(STUDENT_PREFIX)) == 0) {
            err = put_weights(events, run, param, weights, chosen);
        }
    }
    free(chosen);
    free(weights);
    return err;
}
