/* The table of configuration keys and its translation into Settings. Checks that need two keys at once are here; checks
 * of one key are in its row. */
#include "train/settings.h"

#include "base/duration.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NONE 0, 0
static const ConfigKey schema[] = {
    {"run", "name", CONFIG_STRING, "run", NONE, NULL, "name of the run, used in tables"},
    {"run", "out", CONFIG_PATH, "", NONE, NULL, "folder of the run; empty: runs/NAME-sSEED"},
    {"run", "seed", CONFIG_INT, "1", 0, 4294967295.0, NULL,
     "seed of initialisation, order and augmentation"},
    {"run", "deterministic", CONFIG_BOOL, "true", NONE, NULL,
     "same bits at the same number of threads"},
    {"run", "project", CONFIG_STRING, "", NONE, NULL,
     "folder of related runs: runs/PROJECT/NAME-sSEED where run.out is empty"},
    {"run", "tags", CONFIG_STRING, "", NONE, NULL, "words for the manifest, with commas"},
    {"run", "notes", CONFIG_STRING, "", NONE, NULL, "a sentence for the manifest and the report"},

    {"data", "kind", CONFIG_ENUM, "synthetic", NONE, "synthetic|cifar10|cifar100|shape",
     "which data set; shape: a size without images, for --dry-run"},
    {"data", "root", CONFIG_PATH, "", NONE, NULL, "folder or .tar.gz of the CIFAR binary version"},
    {"data", "options", CONFIG_STRING, "", NONE, NULL,
     "key=value pairs; synthetic: classes, train, test, seed; shape: size, classes, train, test"},
    {"data", "workers", CONFIG_INT, "-1", -1, 256, NULL,
     "loader threads; 0 = in the main thread, -1 = by cores"},
    {"data", "resident", CONFIG_ENUM, "auto", NONE, "auto|on|off",
     "training set on the device, augmented there; auto: on cuda, up to 4 GiB"},

    {"augment", "padding", CONFIG_INT, "4", 0, 127, NULL,
     "zero padding of the random crop, pixels; 0 = no crop"},
    {"augment", "flip", CONFIG_BOOL, "true", NONE, NULL,
     "mirror left to right with probability 1/2"},
    {"augment", "mean", CONFIG_FLOATS, "0.5071, 0.4867, 0.4408", 0, 1, NULL,
     "per channel, of images in 0..1"},
    {"augment", "std", CONFIG_FLOATS, "0.2675, 0.2565, 0.2761", 1e-6, 10, NULL,
     "per channel, of images in 0..1"},

    {"teacher", "model", CONFIG_STRING, "", NONE, NULL, "network; empty: no teacher"},
    {"teacher", "weights", CONFIG_PATH, "", NONE, NULL, "safetensors or .pth"},
    {"teacher", "expect_top1", CONFIG_FLOAT, "", 0, 100, NULL,
     "percent on the test set, asserted before step 1"},
    {"teacher", "tolerance", CONFIG_FLOAT, "0.2", 0, 100, NULL,
     "allowed distance from expect_top1, points"},
    {"teacher", "mean", CONFIG_FLOATS, "", 0, 1, NULL,
     "the teacher's own normalisation; empty: augment.mean"},
    {"teacher", "std", CONFIG_FLOATS, "", 1e-6, 10, NULL,
     "the teacher's own normalisation; empty: augment.std"},
    {"teacher", "precision", CONFIG_ENUM, "auto", NONE, "auto|fp32|bf16|fp16",
     "auto: as train.precision"},
    {"teacher", "memo", CONFIG_ENUM, "auto", NONE, "auto|on|off",
     "keep the teacher's logits of every view on disk; auto: where a run of so many epochs saves a "
     "quarter of the teacher's passes and all views fit"},
    {"teacher", "memo_dir", CONFIG_PATH, "", NONE, NULL,
     "folder of the memos; empty: memo beside run.out"},
    {"teacher", "memo_mib", CONFIG_INT, "4096", 1, 1e9, NULL, "limit of one memo's file, MiB"},
    {"teacher", "memo_batch", CONFIG_INT, "0", 0, 1048576, NULL,
     "images of a pass that fills the memo; 0 = train.batch, which gives the same bits as no memo"},

    {"student", "model", CONFIG_STRING, "resnet20", NONE, NULL, "network"},
    {"student", "weights", CONFIG_PATH, "", NONE, NULL,
     "initial weights; empty: drawn from the seed"},

    {"distill", "method", CONFIG_ENUM, "none", NONE, "none|kd|energy_kd", "objective"},
    {"distill", "temperature", CONFIG_FLOAT, "4", 0.01, 1000, NULL,
     "T of both softmaxes (KD.TEMPERATURE, -T)"},
    {"distill", "ce_weight", CONFIG_FLOAT, "0.1", 0, 1e6, NULL,
     "weight of the cross entropy (gamma, -r)"},
    {"distill", "kd_weight", CONFIG_FLOAT, "0.9", 0, 1e6, NULL,
     "weight of T^2 KL(teacher||student) (alpha, -a)"},
    {"distill", "label_smoothing", CONFIG_FLOAT, "0", 0, 0.999, NULL,
     "of the cross entropy, PyTorch's form"},

    {"energy_kd", "energy_temperature", CONFIG_FLOAT, "4", 0.01, 1000, NULL,
     "T of E = -T log sum exp(t/T)"},
    {"energy_kd", "r_low", CONFIG_FLOAT, "0.2", 0, 1, NULL,
     "share of the training set below the lower threshold"},
    {"energy_kd", "r_high", CONFIG_FLOAT, "0.2", 0, 1, NULL,
     "share of the training set above the upper threshold"},
    {"energy_kd", "t_low_energy", CONFIG_FLOAT, "6", 0.01, 1000, NULL,
     "T of certain samples; paper's abstract 6, released code 2 (UNSURE which made the published "
     "tables)"},
    {"energy_kd", "t_mid", CONFIG_FLOAT, "4", 0.01, 1000, NULL, "T between the thresholds"},
    {"energy_kd", "t_high_energy", CONFIG_FLOAT, "2", 0.01, 1000, NULL,
     "T of uncertain samples; paper's abstract 2, released code 6"},

    {"optim", "kind", CONFIG_ENUM, "sgd", NONE, "sgd", "optimizer, PyTorch's form"},
    {"optim", "lr", CONFIG_FLOAT, "0.05", 0, 1e6, NULL, "peak learning rate (SOLVER.LR, --lr)"},
    {"optim", "momentum", CONFIG_FLOAT, "0.9", 0, 1, NULL, ""},
    {"optim", "dampening", CONFIG_FLOAT, "0", 0, 1, NULL, ""},
    {"optim", "nesterov", CONFIG_BOOL, "false", NONE, NULL, ""},
    {"optim", "weight_decay", CONFIG_FLOAT, "5e-4", 0, 1e6, NULL, ""},
    {"optim", "decay_norm_bias", CONFIG_BOOL, "true", NONE, NULL,
     "decay batch-norm parameters and biases too"},
    {"optim", "clip_grad", CONFIG_FLOAT, "0", 0, 1e9, NULL,
     "limit of the gradient's norm; 0 = off"},
    {"optim", "loss_scale", CONFIG_STRING, "dynamic", NONE, NULL,
     "dynamic: for fp16 as PyTorch's GradScaler, else none; or a constant"},

    {"schedule", "kind", CONFIG_ENUM, "multistep", NONE, "constant|multistep|cosine|linear", ""},
    {"schedule", "epochs", CONFIG_INT, "240", 1, 1000000, NULL, ""},
    {"schedule", "milestones", CONFIG_INTS, "150, 180, 210", 1, 1000000, NULL,
     "multistep: epochs after which lr falls"},
    {"schedule", "gamma", CONFIG_FLOAT, "0.1", 0, 1, NULL, "multistep: factor"},
    {"schedule", "warmup_epochs", CONFIG_INT, "0", 0, 1000000, NULL, "linear warm-up, per step"},
    {"schedule", "warmup_start", CONFIG_FLOAT, "0", 0, 1e6, NULL,
     "learning rate at the start of the warm-up"},
    {"schedule", "min_lr", CONFIG_FLOAT, "0", 0, 1e6, NULL, "end of cosine and linear"},
    {"schedule", "per_step", CONFIG_BOOL, "true", NONE, NULL,
     "cosine and linear move every step, not every epoch"},

    {"train", "batch", CONFIG_INT, "64", 1, 1048576, NULL, "images of a step"},
    {"train", "precision", CONFIG_ENUM, "auto", NONE, "auto|fp32|bf16|fp16",
     "activations; weights stay fp32"},
    {"train", "capture", CONFIG_ENUM, "auto", NONE, "auto|on|off",
     "record a step once and replay it; auto: where the device can"},
    {"train", "max_steps", CONFIG_INT, "0", 0, 1e15, NULL,
     "end after so many steps; 0 = all epochs"},
    {"train", "max_nonfinite", CONFIG_INT, "10", 1, 1e9, NULL,
     "skipped updates in a row that end the run (79); with a dynamic loss scale: at its lowest"},

    {"train", "skip_zscore", CONFIG_FLOAT, "0", 0, 1000, NULL,
     "skip an update whose gradient norm is so many standard deviations above its recent mean; 0 = "
     "never"},
    {"train", "time_limit", CONFIG_STRING, "", NONE, NULL,
     "as 90s, 12h or 23h50m: then a checkpoint and exit 75; empty: none"},

    {"eval", "batch", CONFIG_INT, "256", 1, 1048576, NULL, "images of an evaluation step"},
    {"eval", "every", CONFIG_INT, "1", 1, 1000000, NULL,
     "epochs between evaluations; the last one always"},

    {"dist", "device", CONFIG_ENUM, "auto", NONE, "auto|cpu|ref|cuda",
     "backend; auto: cuda where there is a GPU, else cpu"},
    {"dist", "threads", CONFIG_INT, "0", 0, 4096, NULL,
     "compute threads; 0 = OMP_NUM_THREADS, else cores less loader workers"},

    {"checkpoint", "every", CONFIG_INT, "0", 0, 1e15, NULL,
     "steps between checkpoints; 0 = every epoch"},
    {"checkpoint", "keep_last", CONFIG_INT, "3", 1, 1000000, NULL, "newest checkpoints that stay"},
    {"checkpoint", "max_failures", CONFIG_INT, "3", 1, 1000000, NULL,
     "failed saves in a row that end the run (74)"},

    {"log", "every_s", CONFIG_FLOAT, "10", 0, 1e9, NULL, "seconds between progress lines"},
    {"log", "tensorboard", CONFIG_BOOL, "true", NONE, NULL, "event files in the folder tb"},
    {"log", "images", CONFIG_BOOL, "true", NONE, NULL,
     "a grid of augmented training pictures with the teacher's opinion"},
    {"log", "histograms", CONFIG_BOOL, "true", NONE, NULL,
     "the student's weights to TensorBoard, every epoch"},
    {"log", "prometheus", CONFIG_BOOL, "true", NONE, NULL, "status.prom for a text-file collector"},
    {"log", "predictions", CONFIG_BOOL, "true", NONE, NULL,
     "logits of the test set, for the report"},

    {"report", "auto", CONFIG_BOOL, "true", NONE, NULL, "report.html at the end of the run"},
};
#undef NONE

const ConfigKey *settings_schema(size_t *count)
{
    *count = sizeof schema / sizeof schema[0];
    return schema;
}

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
static Err *read_channels(const Config *config, const char *section, const char *key, float out[3])
{
    size_t count;
    const double *values = config_floats(config, section, key, &count);
    if (count == 0) {
        return NULL;
    }
    if (count != 3) {
        return err_new(EXIT_CONFIG_ERR, "%s: %s.%s needs 3 values (red, green, blue), got %zu",
                       config_origin(config, section, key), section, key, count);
    }
    for (int i = 0; i < 3; i++) {
        out[i] = (float)values[i];
    }
    return NULL;
}

static Err *read_networks(const Config *config, Settings *s)
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
    TRY(read_channels(config, "augment", "mean", s->mean));
    TRY(read_channels(config, "augment", "std", s->std));
    memcpy(s->teacher_mean, s->mean, sizeof s->mean);
    memcpy(s->teacher_std, s->std, sizeof s->std);
    TRY(read_channels(config, "teacher", "mean", s->teacher_mean));
    return read_channels(config, "teacher", "std", s->teacher_std);
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

static Err *read_schedule(const Config *config, Schedule *schedule)
{
    size_t count;
    const int64_t *milestones = config_ints(config, "schedule", "milestones", &count);
    if (count > SCHEDULE_MAX_MILESTONES) {
        return err_new(
            EXIT_CONFIG_ERR, "%s: schedule.milestones has %zu values, at most %d are possible",
            config_origin(config, "schedule", "milestones"), count, SCHEDULE_MAX_MILESTONES);
    }
    *schedule = (Schedule){.kind = (ScheduleKind)config_enum(config, "schedule", "kind"),
                           .lr = config_float(config, "optim", "lr"),
                           .min_lr = config_float(config, "schedule", "min_lr"),
                           .epochs = (int)config_int(config, "schedule", "epochs"),
                           .n_milestones = (int)count,
                           .gamma = config_float(config, "schedule", "gamma"),
                           .warmup_epochs = (int)config_int(config, "schedule", "warmup_epochs"),
                           .warmup_start = config_float(config, "schedule", "warmup_start"),
                           .per_step = config_bool(config, "schedule", "per_step")};
    for (size_t i = 0; i < count; i++) {
        schedule->milestones[i] = (int)milestones[i];
        if (i > 0 && milestones[i] <= milestones[i - 1]) {
            return err_new(EXIT_CONFIG_ERR, "%s: schedule.milestones must rise: %d comes after %d",
                           config_origin(config, "schedule", "milestones"), (int)milestones[i],
                           (int)milestones[i - 1]);
        }
    }
    return NULL;
}

/* "kind:root" or "synthetic:options": what dataset_open takes. The text lives as long as the Settings. */
static Err *read_dataset(const Config *config, Settings *s)
{
    const char *kind = config_str(config, "data", "kind");
    const char *root = config_str(config, "data", "root");
    const char *options = config_str(config, "data", "options");
    if (strcmp(kind, "synthetic") == 0) {
        s->dataset = options[0] ? xformat("synthetic:%s", options) : xstrdup("synthetic");
        return NULL;
    }
    if (strcmp(kind, "shape") == 0) {
        s->dataset = xformat(SHAPE_PREFIX "%s", options);
        return NULL;
    }
    if (!root[0]) {
        return err_new(EXIT_CONFIG_ERR,
                       "data.root is missing: data.kind = %s needs the folder or .tar.gz of the "
                       "binary version (--set data.root=PATH)",
                       kind);
    }
    s->dataset = xformat("%s:%s", kind, root);
    return NULL;
}

static void read_training(const Config *config, Settings *s)
{
    s->workers = (int)config_int(config, "data", "workers");
    s->resident = (Switch)config_enum(config, "data", "resident");
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
static Err *read_loss_scale(const Config *config, Settings *s)
{
    const char *text = config_str(config, "optim", "loss_scale");
    if (strcmp(text, "dynamic") == 0) {
        s->loss_scale = 0.0;
        return NULL;
    }
    char *end;
    s->loss_scale = strtod(text, &end);
    if (end == text || *end != '\0' || !(s->loss_scale >= 1.0 && s->loss_scale <= 0x1p24)) {
        return err_new(EXIT_CONFIG_ERR,
                       "%s: optim.loss_scale = %s: use dynamic, or a number from 1 to 2^24",
                       config_origin(config, "optim", "loss_scale"), text);
    }
    return NULL;
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

/* Seconds of "90s", "15m", "23h50m", "1d". */
static Err *read_time_limit(const Config *config, Settings *s)
{
    const char *text = config_str(config, "train", "time_limit");
    s->time_limit_s = 0.0;
    if (text[0] && !duration_parse(text, &s->time_limit_s)) {
        return err_new(EXIT_CONFIG_ERR, "%s: train.time_limit = %s: use 90s, 15m, 12h or 23h50m",
                       config_origin(config, "train", "time_limit"), text);
    }
    return NULL;
}

static Err *check_together(const Config *config, const Settings *s)
{
    const bool distils = s->objective.method != METHOD_NONE;
    if (distils && (!s->teacher_model || !s->teacher_weights)) {
        return err_new(EXIT_CONFIG_ERR,
                       "%s: distill.method = %s needs a teacher: set teacher.model and "
                       "teacher.weights",
                       config_origin(config, "distill", "method"),
                       config_str(config, "distill", "method"));
    }
    if (s->schedule.warmup_epochs >= s->schedule.epochs) {
        return err_new(EXIT_CONFIG_ERR,
                       "%s: schedule.warmup_epochs = %d must be below schedule.epochs = %d",
                       config_origin(config, "schedule", "warmup_epochs"),
                       s->schedule.warmup_epochs, s->schedule.epochs);
    }
    if (s->nesterov && (s->momentum <= 0 || s->dampening != 0)) {
        return err_new(EXIT_CONFIG_ERR,
                       "%s: optim.nesterov needs optim.momentum above 0 and optim.dampening 0",
                       config_origin(config, "optim", "nesterov"));
    }
    return NULL;
}

Err *settings_load(const char *path, const char *const *overrides, size_t n_overrides,
                   Settings *out)
{
    memset(out, 0, sizeof *out);
    Config *config;
    TRY(config_load(schema, sizeof schema / sizeof schema[0], path, overrides, n_overrides,
                    &config));
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
    read_training(config, out);
    read_objective(config, &out->objective);
    Err *err = read_networks(config, out);
    if (!err) {
        err = read_loss_scale(config, out);
    }
    if (!err) {
        err = read_time_limit(config, out);
    }
    if (!err) {
        err = read_schedule(config, &out->schedule);
    }
    if (!err) {
        err = read_dataset(config, out);
    }
    if (!err) {
        err = check_together(config, out);
    }
    if (!err && out->objective.method == METHOD_NONE) {
        out->teacher_model = NULL; /* nobody would look at it */
        out->teacher_weights = NULL;
    }
    if (err) {
        settings_free(out);
    }
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
