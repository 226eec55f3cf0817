/* What a row of the key table cannot say: keys that need each other, keys that exclude each other, names of networks. */
#include "train/settings_check.h"

#include "base/near.h"
#include "data/synthetic.h"
#include "models/models.h"
#include "train/shape.h"

#include <stdlib.h>
#include <string.h>

static void check_name(Config *config, const Settings *s)
{
    if (s->name[0] == '\0' || strchr(s->name, '/') != NULL) {
        config_fault(config, "run", "name",
                     "run.name = '%s': a name without '/' is needed; it becomes a folder's name",
                     s->name);
    }
    if (s->project[0] == '/' || strstr(s->project, "..") != NULL) {
        config_fault(config, "run", "project",
                     "run.project = '%s': a folder below runs/ is needed; any other place goes "
                     "into run.out",
                     s->project);
    }
}

static void check_model(Config *config, const char *section)
{
    const char *name = config_str(config, section, "model");
    const bool is_teacher = strcmp(section, "teacher") == 0;
    if (model_find(name) != NULL || (is_teacher && name[0] == '\0')) {
        return;
    }
    int count;
    const ModelInfo *models = model_list(&count);
    NearMiss near = near_start(name);
    for (int i = 0; i < count; i++) {
        near_offer(&near, models[i].name);
    }
    char *hint = near.best != NULL ? near_hint(&near) : xstrdup("; 'cudistill models' lists them");
    config_fault(config, section, "model", "%s.model: unknown model '%s'%s", section, name, hint);
    free(hint);
}

static void check_data(Config *config)
{
    if (config_refused(config, "data", NULL)) {
        return;
    }
    const char *kind = config_str(config, "data", "kind");
    const char *options = config_str(config, "data", "options");
    Err *err = NULL;
    if (strcmp(kind, "synthetic") == 0) {
        SyntheticConfig parsed;
        err = synthetic_parse(options, &parsed);
    } else if (strcmp(kind, "shape") == 0) {
        DataShape parsed;
        err = shape_parse(options, &parsed);
    } else if (!config_has(config, "data", "root")) {
        config_fault(config, "data", "kind",
                     "data.root is missing: data.kind = %s needs the folder or .tar.gz of the "
                     "binary version (root = PATH below [data], or --set data.root=PATH)",
                     kind);
    }
    if (err != NULL) {
        config_fault(config, "data", "options", "data.options: %s", err->message);
        err_free(err);
    }
}

static void check_long_tail(Config *config, const LongTail *how)
{
    if (config_refused(config, "data", "imbalance")) {
        return;
    }
    if (how->factor > 0 && how->factor < 1) {
        config_fault(config, "data", "imbalance",
                     "data.imbalance = %g: it is the largest class over the smallest, 1 at least; "
                     "programs that write the inverse mean %.4g here",
                     how->factor, 1 / how->factor);
    } else if (longtail_wanted(how) && !config_refused(config, "data", "kind") &&
               strcmp(config_str(config, "data", "kind"), "shape") == 0) {
        config_fault(config, "data", "imbalance",
                     "data.imbalance = %g needs images to choose from, data.kind = shape has none: "
                     "give the number that remains as train=N in data.options",
                     how->factor);
    }
}

static void check_teacher(Config *config, const Settings *s)
{
    if (s->objective.method == METHOD_NONE || config_refused(config, "distill", "method") ||
        config_refused(config, "teacher", NULL)) {
        return;
    }
    const bool model = s->teacher_model == NULL;
    const bool weights = s->teacher_weights == NULL;
    if (model || weights) {
        config_fault(config, "distill", "method", "distill.method = %s needs a teacher: set %s%s%s",
                     config_str(config, "distill", "method"), model ? "teacher.model" : "",
                     model && weights ? " and " : "", weights ? "teacher.weights" : "");
    }
}

static bool is_refused(const Config *config, const char *section, const char *a, const char *b)
{
    return config_refused(config, section, a) || config_refused(config, section, b);
}

static void check_schedule(Config *config, const Schedule *schedule)
{
    if (!is_refused(config, "schedule", "warmup_epochs", "epochs") &&
        schedule->warmup_epochs >= schedule->epochs) {
        config_fault(config, "schedule",
                     config_is_set(config, "schedule", "warmup_epochs") ? "warmup_epochs"
                                                                        : "epochs",
                     "schedule.warmup_epochs = %d must be below schedule.epochs = %d",
                     schedule->warmup_epochs, schedule->epochs);
    }
    const bool falls = schedule->kind == SCHEDULE_COSINE || schedule->kind == SCHEDULE_LINEAR;
    if (falls && !config_refused(config, "schedule", "min_lr") &&
        !config_refused(config, "optim", "lr") && schedule->min_lr > schedule->lr) {
        config_fault(config, "schedule", "min_lr",
                     "schedule.min_lr = %g is above optim.lr = %g: the learning rate would rise",
                     schedule->min_lr, schedule->lr);
    }
}

static void check_optim(Config *config, const Settings *s)
{
    if (s->nesterov && !is_refused(config, "optim", "momentum", "dampening") &&
        (s->momentum <= 0 || s->dampening != 0)) {
        config_fault(config, "optim", "nesterov",
                     "optim.nesterov needs optim.momentum above 0 and optim.dampening 0");
    }
}

static void check_loss(Config *config, const Settings *s)
{
    const ObjectiveConfig *o = &s->objective;
    if (o->method != METHOD_NONE && o->ce_weight == 0 && o->kd_weight == 0 &&
        !is_refused(config, "distill", "ce_weight", "kd_weight")) {
        config_fault(config, "distill", "ce_weight",
                     "distill.ce_weight and distill.kd_weight are both 0: there is nothing to "
                     "learn from");
    }
    if (o->method == METHOD_ENERGY_KD && o->r_low + o->r_high >= 1 &&
        !is_refused(config, "energy_kd", "r_low", "r_high")) {
        config_fault(config, "energy_kd", "r_low",
                     "energy_kd.r_low = %g and energy_kd.r_high = %g leave no middle: their sum "
                     "must be below 1",
                     o->r_low, o->r_high);
    }
}

/* A section of a method that is not chosen. A base file may serve several methods, so what it sets is passed over; what
 * stands in the file itself or on the command line was meant to have an effect. */
static void check_method_section(Config *config, const char *method)
{
    const char *chosen = config_str(config, "distill", "method");
    if (strcmp(chosen, method) == 0 || config_refused(config, "distill", "method")) {
        return;
    }
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    for (size_t i = 0; i < count; i++) {
        const ConfigSource source = strcmp(rows[i].section, method) == 0
                                        ? config_source(config, method, rows[i].key)
                                        : CONFIG_FROM_DEFAULT;
        if ((source == CONFIG_FROM_FILE || source == CONFIG_FROM_OVERRIDE) &&
            !config_refused(config, method, rows[i].key)) {
            config_fault(config, method, rows[i].key,
                         "%s.%s has no effect, distill.method is %s: set distill.method = %s, or "
                         "take the line out",
                         method, rows[i].key, chosen, method);
        }
    }
    config_leave_out(config, method, NULL);
}

/* A key that stands in the file itself or on the command line, with nobody to look at it. */
static void check_effect(Config *config, const char *key, bool read, const char *reader)
{
    const ConfigSource source = config_source(config, "augment", key);
    if (!read && (source == CONFIG_FROM_FILE || source == CONFIG_FROM_OVERRIDE) &&
        !config_refused(config, "augment", key)) {
        config_fault(config, "augment", key,
                     "augment.%s has no effect without %s: set that, or take the line out", key,
                     reader);
    }
    if (!read) {
        config_leave_out(config, "augment", key);
    }
}

/* Views that have no number cannot be kept by number, nor be made where there are crop and flip only. */
static void check_numbered(Config *config, const Settings *s, const char *cause)
{
    if (s->memo == SWITCH_ON && s->objective.method != METHOD_NONE) {
        config_fault(config, "teacher", "memo",
                     "teacher.memo = on does not go with augment.%s: the memo keeps the teacher's "
                     "logits of every crop and flip, and these pictures are new in every epoch; "
                     "use teacher.memo = auto or off",
                     cause);
    }
    if (s->resident == SWITCH_ON) {
        config_fault(config, "data", "resident",
                     "data.resident = on does not go with augment.%s: a resident set is cropped "
                     "and flipped on the device, policies are the loader's; use data.resident = "
                     "auto or off",
                     cause);
    }
}

static void check_policy(Config *config, const Settings *s)
{
    if (config_refused(config, "augment", "policy")) {
        return;
    }
    const PolicySpec *policy = &s->policy;
    const bool timm = policy->kind == POLICY_RANDAUGMENT_TIMM;
    const bool random = timm || policy->kind == POLICY_RANDAUGMENT_TORCHVISION;
    const char *key = NULL;
    Err *err = policy_check(policy, &key);
    if (err != NULL && !config_refused(config, "augment", key)) {
        config_fault(config, "augment", key, "%s", err->message);
    }
    err_free(err);
    check_effect(config, "randaug_n", random, "a RandAugment in augment.policy");
    check_effect(config, "randaug_m", random, "a RandAugment in augment.policy");
    check_effect(config, "randaug_mstd", timm, "augment.policy = randaugment_timm");
    check_effect(config, "randaug_inc", timm, "augment.policy = randaugment_timm");
    check_effect(config, "cutout_prob", policy->cutout > 0, "augment.cutout");
    if (!policy_is_none(policy)) {
        check_numbered(config, s, policy->kind != POLICY_NONE ? "policy" : "cutout");
    }
}

void settings_check(Config *config, const Settings *settings)
{
    check_name(config, settings);
    check_data(config);
    check_long_tail(config, &settings->long_tail);
    check_policy(config, settings);
    check_model(config, "teacher");
    check_model(config, "student");
    check_teacher(config, settings);
    check_method_section(config, "energy_kd");
    check_loss(config, settings);
    check_optim(config, settings);
    check_schedule(config, &settings->schedule);
}
