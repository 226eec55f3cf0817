/* Configuration drift at a resume. Values are compared as text in one spelling, the one that state.json holds. */
#include "train/drift.h"

#include "base/files.h"
#include "base/log.h"
#include "base/near.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

/* ---- Keys and values ---- */

/* Keys and whole sections that name places, limits and reports: they may change between the parts of a run. */
static bool decides_result(const Config *config, const ConfigKey *row)
{
    static const char *const free_sections[] = {"eval", "log", "checkpoint", "dist", "report"};
    static const char *const free_keys[][2] = {
        {"run", "name"},          {"run", "out"},          {"run", "project"},
        {"run", "tags"},          {"run", "notes"},        {"data", "root"},
        {"data", "workers"},      {"data", "resident"},    {"teacher", "weights"},
        {"teacher", "memo"},      {"teacher", "memo_dir"}, {"teacher", "memo_mib"},
        {"teacher", "tolerance"}, {"student", "weights"},  {"teacher", "expect_top1"},
        {"train", "max_steps"},   {"train", "capture"},    {"train", "max_nonfinite"},
        {"train", "time_limit"}};
    for (size_t i = 0; i < sizeof free_sections / sizeof free_sections[0]; i++) {
        if (strcmp(row->section, free_sections[i]) == 0) {
            return false;
        }
    }
    for (size_t i = 0; i < sizeof free_keys / sizeof free_keys[0]; i++) {
        if (strcmp(row->section, free_keys[i][0]) == 0 && strcmp(row->key, free_keys[i][1]) == 0) {
            return false;
        }
    }
    if (strcmp(row->section, "schedule") == 0 && strcmp(row->key, "epochs") == 0) {
        /* These two rates do not depend on the end: a run may be made longer. */
        const char *kind = config_str(config, "schedule", "kind");
        return strcmp(kind, "constant") != 0 && strcmp(kind, "multistep") != 0;
    }
    return true;
}

/* The fewest digits that read back as the same double. */
static char *double_text(double value)
{
    char *text = NULL;
    for (int digits = 6; digits <= 17; digits++) {
        free(text);
        text = xformat("%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    return text;
}

/* Appends `item` to the list *text and frees it. */
static void append_item(char **text, char *item)
{
    char *longer = xformat("%s%s%s", *text, (*text)[0] ? ", " : "", item);
    free(*text);
    free(item);
    *text = longer;
}

static char *list_text(const Config *config, const ConfigKey *row)
{
    char *text = xstrdup("");
    size_t count;
    if (row->type == CONFIG_INTS) {
        const int64_t *values = config_ints(config, row->section, row->key, &count);
        for (size_t i = 0; i < count; i++) {
            append_item(&text, xformat("%lld", (long long)values[i]));
        }
    } else {
        const double *values = config_floats(config, row->section, row->key, &count);
        for (size_t i = 0; i < count; i++) {
            append_item(&text, double_text(values[i]));
        }
    }
    return text;
}

/* JSON holds UTF-8 only: other text is represented by its hash. */
static char *portable_text(const char *text)
{
    json_t *probe = json_string(text);
    char hash[33];
    hash_hex(text, strlen(text), hash);
    char *result = xstrdup(probe ? text : hash);
    json_decref(probe);
    return result;
}

char *setting_text(const Config *config, const ConfigKey *row)
{
    if (!config_has(config, row->section, row->key)) {
        return xstrdup("");
    }
    switch (row->type) {
    case CONFIG_BOOL:
        return xstrdup(config_bool(config, row->section, row->key) ? "true" : "false");
    case CONFIG_INT:
        return xformat("%lld", (long long)config_int(config, row->section, row->key));
    case CONFIG_FLOAT:
        return double_text(config_float(config, row->section, row->key));
    case CONFIG_INTS:
    case CONFIG_FLOATS:
        return list_text(config, row);
    case CONFIG_STRING:
    case CONFIG_PATH:
    case CONFIG_ENUM:
        break;
    }
    return portable_text(config_str(config, row->section, row->key));
}

json_t *drift_config_json(const Config *config)
{
    json_t *object = json_object();
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    for (size_t i = 0; i < count; i++) {
        if (decides_result(config, &rows[i])) {
            char *key = xformat("%s.%s", rows[i].section, rows[i].key);
            char *value = setting_text(config, &rows[i]);
            CHECK(json_object_set_new(object, key, json_string(value)) == 0,
                  "state.json: %s could not be added", key);
            free(key);
            free(value);
        }
    }
    return object;
}

/* ---- Comparison ---- */

void drift_add(Drift **list, size_t *count, const char *key, const char *what, const char *then,
               const char *now)
{
    *list = xrealloc(*list, (*count + 1) * sizeof **list);
    (*list)[(*count)++] =
        (Drift){.key = xstrdup(key), .what = what, .then = xstrdup(then), .now = xstrdup(now)};
}

void drift_free(Drift *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free((char *)list[i].key);
        free((char *)list[i].then);
        free((char *)list[i].now);
    }
    free(list);
}

void drift_compare(const Config *config, const json_t *before, Drift **list, size_t *count)
{
    *list = NULL;
    *count = 0;
    size_t n_rows;
    const ConfigKey *rows = settings_schema(&n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        if (!decides_result(config, &rows[i])) {
            continue;
        }
        char *key = xformat("%s.%s", rows[i].section, rows[i].key);
        char *now = setting_text(config, &rows[i]);
        const char *then = json_string_value(json_object_get(before, key));
        if (then ? strcmp(then, now) != 0 : config_is_set(config, rows[i].section, rows[i].key)) {
            drift_add(list, count, key, "", then ? then : "(no such key)", now);
        }
        free(now);
        free(key);
    }
}

/* ---- Judgement ---- */

/* What --allow-drift takes besides keys. */
static const char ALLOW_DATA[] = "data";

static Err *unknown_name(const char *name, char *const *keys, size_t count)
{
    NearMiss near = near_start(name);
    near_offer(&near, ALLOW_DATA);
    for (size_t i = 0; i < count; i++) {
        near_offer(&near, keys[i]);
    }
    char *hint = near_hint(&near);
    Err *err =
        err_new(EXIT_USAGE_ERR, "--allow-drift %s: neither a key of the configuration nor 'data'%s",
                name, hint);
    free(hint);
    return err;
}

Err *drift_check_names(const Settings *settings)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    char **keys = xmalloc(count * sizeof *keys);
    for (size_t i = 0; i < count; i++) {
        keys[i] = xformat("%s.%s", rows[i].section, rows[i].key);
    }
    Err *err = NULL;
    for (size_t a = 0; a < settings->n_allow_drift && !err; a++) {
        const char *name = settings->allow_drift[a];
        bool known = strcmp(name, ALLOW_DATA) == 0;
        for (size_t i = 0; i < count && !known; i++) {
            known = strcmp(name, keys[i]) == 0;
        }
        err = known ? NULL : unknown_name(name, keys, count);
    }
    names_free(keys, count);
    return err;
}

static bool allowed(const Settings *settings, const char *key)
{
    for (size_t i = 0; i < settings->n_allow_drift; i++) {
        if (strcmp(settings->allow_drift[i], key) == 0) {
            return true;
        }
    }
    return false;
}

/* "optim.lr = '0.05'", the left column of the table. Caller frees. */
static char *begun_with(const Drift *drift)
{
    return xformat("%s%s%s = '%s'", drift->key, drift->what[0] ? " " : "", drift->what,
                   drift->then);
}

static size_t column_width(const Settings *settings, const Drift *drifts, size_t count)
{
    size_t width = 0;
    for (size_t i = 0; i < count; i++) {
        char *left = begun_with(&drifts[i]);
        const size_t size = strlen(left);
        width = !allowed(settings, drifts[i].key) && size > width && size <= 60 ? size : width;
        free(left);
    }
    return width;
}

Err *drift_judge(const Settings *settings, const Drift *drifts, size_t count)
{
    const int width = (int)column_width(settings, drifts, count);
    Text table = {0};
    Text options = {0};
    for (size_t i = 0; i < count; i++) {
        char *left = begun_with(&drifts[i]);
        if (allowed(settings, drifts[i].key)) {
            log_warn("%s was begun with %s, and goes on with '%s', as --allow-drift says",
                     settings->out, left, drifts[i].now);
        } else {
            text_add(&table, "\n  %-*s  now '%s'", width, left, drifts[i].now);
            text_add(&options, " --allow-drift %s", drifts[i].key);
        }
        free(left);
    }
    Err *err = table.size > 0
                   ? err_new(EXIT_CONFIG_ERR,
                             "%s was begun with other values:%s\ngive the old values back, choose "
                             "another run.out, remove the folder, or let the run go on with the "
                             "new ones:%s",
                             settings->out, table.text, options.text)
                   : NULL;
    text_free(&options);
    text_free(&table);
    return err;
}
