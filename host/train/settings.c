/* From a loaded configuration to Settings. The table of keys is in settings_keys.c. */
#include "train/settings.h"

#include "base/duration.h"
#include "base/near.h"
#include "train/settings_check.h"
#include "train/settings_names.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const precision_names[] = {"auto", "fp32", "bf16", "fp16"};

const char *precision_name(Precision precision)
{
    return precision_names[precision];
}

Err *precision_parse(const char *text, Precision *out)
{
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, precision_names[i]) == 0) {
            *out = (Precision)i;
            return NULL;
        }
    }
    return err_new(EXIT_USAGE_ERR, "unknown precision '%s': use auto, fp32, bf16 or fp16", text);
}

static const char *text_or_null(const Config *config, const char *section, const char *key)
{
    return config_has(config, section, key) ? config_str(config, section, key) : NULL;
}

/* Three values per colour channel; an empty list leaves `out` as it is. */
static void read_channels(Config *config, const char *section, const char *key, float out[3])
{
    size_t count;
    const double *values = config_floats(config, section, key, &count);
    if (count == 1) {
        config_fault(config, section, key,
                     "%s.%s needs 3 values (red, green, blue), got 1; for three equal ones write "
                     "%g, %g, %g",
                     section, key, values[0], values[0], values[0]);
    } else if (count != 0 && count != 3) {
        config_fault(config, section, key, "%s.%s needs 3 values (red, green, blue), got %zu",
                     section, key, count);
    }
    for (int i = 0; i < 3 && count == 3; i++) {
        out[i] = (float)values[i];
    }
}

static void read_networks(Config *config, Settings *s)
{
    s->teacher_model = text_or_null(config, "teacher", "model");
    s->teacher_weights = text_or_null(config, "teacher", "weights");
    s->expect_top1 = config_has(config, "teacher", "expect_top1")
                         ? config_float(config, "teacher", "expect_top1")
                         : -1.0;
    s->tolerance = config_float(config, "teacher", "tolerance");
    s->teacher_precision = (Precision)config_enum(config, "teacher", "precision");
    s->memo = (Switch)config_enum(config, "teacher", "memo");
    s->memo_mib = (long)config_int(config, "teacher", "memo_mib");
    s->memo_batch = (int)config_int(config, "teacher", "memo_batch");
    s->student_model = config_str(config, "student", "model");
    s->student_weights = text_or_null(config, "student", "weights");
    read_channels(config, "augment", "mean", s->mean);
    read_channels(config, "augment", "std", s->std);
    memcpy(s->teacher_mean, s->mean, sizeof s->mean);
    memcpy(s->teacher_std, s->std, sizeof s->std);
    read_channels(config, "teacher", "mean", s->teacher_mean);
    read_channels(config, "teacher", "std", s->teacher_std);
}

static void read_objective(const Config *config, ObjectiveConfig *o)
{
    static const ObjectiveMethod methods[] = {METHOD_NONE, METHOD_KD, METHOD_ENERGY_KD};
    *o = (ObjectiveConfig){
        .method = methods[config_enum(config, "distill", "method")],
        .ce_weight = (float)config_float(config, "distill", "ce_weight"),
        .kd_weight = (float)config_float(config, "distill", "kd_weight"),
        .temperature = (float)config_float(config, "distill", "temperature"),
        .label_smoothing = (float)config_float(config, "distill", "label_smoothing"),
        .energy_temperature = (float)config_float(config, "energy_kd", "energy_temperature"),
        .r_low = config_float(config, "energy_kd", "r_low"),
        .r_high = config_float(config, "energy_kd", "r_high"),
        .t_low_energy = (float)config_float(config, "energy_kd", "t_low_energy"),
        .t_mid = (float)config_float(config, "energy_kd", "t_mid"),
        .t_high_energy = (float)config_float(config, "energy_kd", "t_high_energy"),
    };
}

static void read_milestones(Config *config, Schedule *schedule)
{
    size_t count;
    const int64_t *milestones = config_ints(config, "schedule", "milestones", &count);
    if (count > SCHEDULE_MAX_MILESTONES) {
        config_fault(config, "schedule", "milestones",
                     "schedule.milestones has %zu values, at most %d are possible", count,
                     SCHEDULE_MAX_MILESTONES);
        return;
    }
    schedule->n_milestones = (int)count;
    for (size_t i = 0; i < count; i++) {
        schedule->milestones[i] = (int)milestones[i];
        if (i > 0 && milestones[i] <= milestones[i - 1]) {
            config_fault(config, "schedule", "milestones",
                         "schedule.milestones must rise: %d comes after %d", (int)milestones[i],
                         (int)milestones[i - 1]);
            return;
        }
    }
}

static void read_schedule(Config *config, Schedule *schedule)
{
    *schedule = (Schedule){.kind = (ScheduleKind)config_enum(config, "schedule", "kind"),
                           .lr = config_float(config, "optim", "lr"),
                           .min_lr = config_float(config, "schedule", "min_lr"),
                           .epochs = (int)config_int(config, "schedule", "epochs"),
                           .gamma = config_float(config, "schedule", "gamma"),
                           .warmup_epochs = (int)config_int(config, "schedule", "warmup_epochs"),
                           .warmup_start = config_float(config, "schedule", "warmup_start"),
                           .per_step = config_bool(config, "schedule", "per_step")};
    read_milestones(config, schedule);
}

/* "kind:root" or "synthetic:options": what dataset_open takes. The text lives as long as the Settings. */
static char *dataset_of(const Config *config)
{
    const char *kind = config_str(config, "data", "kind");
    const char *options = config_str(config, "data", "options");
    if (strcmp(kind, "synthetic") == 0) {
        return options[0] ? xformat("synthetic:%s", options) : xstrdup("synthetic");
    }
    if (strcmp(kind, "shape") == 0) {
        return xformat(SHAPE_PREFIX "%s", options);
    }
    return xformat("%s:%s", kind, config_str(config, "data", "root"));
}

/* Reads augment.mean as read_networks left it: cutout's colour. */
static void read_policy(const Config *config, Settings *s)
{
    s->policy = (PolicySpec){.kind = (PolicyKind)config_enum(config, "augment", "policy"),
                             .n = (int)config_int(config, "augment", "randaug_n"),
                             .m = config_float(config, "augment", "randaug_m"),
                             .mstd = config_float(config, "augment", "randaug_mstd"),
                             .inc = config_bool(config, "augment", "randaug_inc"),
                             .cutout = (int)config_int(config, "augment", "cutout"),
                             .cutout_prob = config_float(config, "augment", "cutout_prob")};
    for (int c = 0; c < 3; c++) {
        s->policy.cutout_fill[c] = (uint8_t)lrint(255.0 * (double)s->mean[c]);
    }
}

ViewSpec settings_view(const Settings *settings)
{
    return (ViewSpec){.crop = {.pad = settings->padding, .flip = settings->flip},
                      .policy = settings->policy};
}

static void read_training(const Config *config, Settings *s)
{
    s->workers = (int)config_int(config, "data", "workers");
    s->resident = (Switch)config_enum(config, "data", "resident");
    s->long_tail = (LongTail){.factor = config_float(config, "data", "imbalance"),
                              .seed = (uint32_t)config_int(config, "data", "imbalance_seed")};
    s->capture = (Switch)config_enum(config, "train", "capture");
    s->padding = (int)config_int(config, "augment", "padding");
    s->flip = config_bool(config, "augment", "flip");
    s->momentum = config_float(config, "optim", "momentum");
    s->dampening = config_float(config, "optim", "dampening");
    s->weight_decay = config_float(config, "optim", "weight_decay");
    s->clip_grad = config_float(config, "optim", "clip_grad");
    s->nesterov = config_bool(config, "optim", "nesterov");
    s->decay_norm_bias = config_bool(config, "optim", "decay_norm_bias");
    s->batch = (int)config_int(config, "train", "batch");
    s->precision = (Precision)config_enum(config, "train", "precision");
    s->max_steps = (long)config_int(config, "train", "max_steps");
    s->max_nonfinite = (int)config_int(config, "train", "max_nonfinite");
    s->eval_batch = (int)config_int(config, "eval", "batch");
    s->eval_every = (int)config_int(config, "eval", "every");
    s->device = config_str(config, "dist", "device");
    s->threads = (int)config_int(config, "dist", "threads");
    s->checkpoint_every = (long)config_int(config, "checkpoint", "every");
    s->keep_last = (int)config_int(config, "checkpoint", "keep_last");
    s->max_save_failures = (int)config_int(config, "checkpoint", "max_failures");
    s->log_every_s = config_float(config, "log", "every_s");
    s->skip_zscore = config_float(config, "train", "skip_zscore");
    s->log_tensorboard = config_bool(config, "log", "tensorboard");
    s->log_images = config_bool(config, "log", "images");
    s->log_histograms = config_bool(config, "log", "histograms");
    s->log_prometheus = config_bool(config, "log", "prometheus");
    s->log_predictions = config_bool(config, "log", "predictions");
    s->report_auto = config_bool(config, "report", "auto");
}

/* "dynamic" (0) or a number of at least 1. */
static void read_loss_scale(Config *config, Settings *s)
{
    const char *text = config_str(config, "optim", "loss_scale");
    s->loss_scale = 0.0;
    if (strcmp(text, "dynamic") == 0) {
        return;
    }
    char *end;
    const bool plain = text[0] != '\0' && text[strspn(text, "0123456789.eE+")] == '\0';
    const double value = strtod(text, &end);
    if (!plain || *end != '\0' || !(value >= 1.0 && value <= 0x1p24)) {
        NearMiss near = near_start(text);
        near_offer(&near, "dynamic");
        char *hint = near_hint(&near);
        config_fault(config, "optim", "loss_scale",
                     "optim.loss_scale = %s: use dynamic, or a number from 1 to 2^24 (16777216)%s",
                     text, hint);
        free(hint);
        return;
    }
    s->loss_scale = value;
}

/* Seconds of "90s", "15m", "23h50m", "1d". */
static void read_time_limit(Config *config, Settings *s)
{
    const char *text = config_str(config, "train", "time_limit");
    s->time_limit_s = 0.0;
    if (text[0] != '\0' && !duration_parse(text, &s->time_limit_s)) {
        config_fault(config, "train", "time_limit",
                     "train.time_limit = %s: use 90s, 15m, 12h, 1.5h or 23h50m, ten years at most",
                     text);
    }
}

/* Beside the run's folder unless a place was given: runs of one folder share what they know of a teacher. */
static char *memo_dir_of(const Config *config, const char *out)
{
    if (config_has(config, "teacher", "memo_dir")) {
        return xstrdup(config_str(config, "teacher", "memo_dir"));
    }
    size_t length = strlen(out);
    while (length > 1 && out[length - 1] == '/') {
        length--;
    }
    while (length > 0 && out[length - 1] != '/') {
        length--;
    }
    return xformat("%.*smemo", (int)length, out);
}

/* Everything but what the checks have to refuse. */
static void fill(Config *config, Settings *out)
{
    out->config = config;
    out->seed = (uint64_t)config_int(config, "run", "seed");
    out->deterministic = config_bool(config, "run", "deterministic");
    out->name = config_str(config, "run", "name");
    out->project = config_str(config, "run", "project");
    out->tags = config_str(config, "run", "tags");
    out->notes = config_str(config, "run", "notes");
    out->out = config_has(config, "run", "out")
                   ? xstrdup(config_str(config, "run", "out"))
                   : xformat("runs/%s%s%s-s%llu", out->project, out->project[0] ? "/" : "",
                             out->name, (unsigned long long)out->seed);
    out->memo_dir = memo_dir_of(config, out->out);
    out->dataset = dataset_of(config);
    read_training(config, out);
    read_objective(config, &out->objective);
    read_networks(config, out);
    read_policy(config, out);
    read_loss_scale(config, out);
    read_time_limit(config, out);
    read_schedule(config, &out->schedule);
}

Err *settings_read(const char *path, const ConfigOverride *overrides, size_t n_overrides,
                   Settings *out)
{
    memset(out, 0, sizeof *out);
    const ConfigTable table = settings_table();
    Config *config = config_read(&table, path, overrides, n_overrides);
    fill(config, out);
    settings_check(config, out);
    Err *err = config_errors(config);
    if (err) {
        settings_free(out);
        return err;
    }
    if (out->objective.method == METHOD_NONE) {
        out->teacher_model = NULL; /* nobody would look at it */
        out->teacher_weights = NULL;
    }
    return NULL;
}

Err *settings_load(const char *path, const char *const *overrides, size_t n_overrides,
                   Settings *out)
{
    ConfigOverride *sets = xcalloc(n_overrides + 1, sizeof *sets);
    for (size_t i = 0; i < n_overrides; i++) {
        sets[i] = (ConfigOverride){overrides[i], "--set"};
    }
    Err *err = settings_read(path, sets, n_overrides, out);
    free(sets);
    return err;
}

void settings_free(Settings *settings)
{
    free((char *)settings->out);
    free((char *)settings->memo_dir);
    free((char *)settings->dataset);
    config_free(settings->config);
    memset(settings, 0, sizeof *settings);
}
