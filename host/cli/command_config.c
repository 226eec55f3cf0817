/* `cudistill config`: configurations checked, shown, explained and compared. Nothing but the files themselves is read: no
 * data, no weights, no device. */
#include "cli/commands.h"

#include "base/files.h"
#include "base/log.h"
#include "base/near.h"
#include "base/text.h"
#include "train/rundir.h"
#include "train/settings.h"
#include "train/settings_names.h"
#include "train/suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX_BYTES = 1 << 20 };

/* Of a run's folder: the configuration in it. Caller frees. */
static char *config_path(const char *name)
{
    return path_is_dir(name) ? path_join(name, RUN_CONFIG) : xstrdup(name);
}

static Err *load(const char *name, const Args *args, Settings *out)
{
    size_t count = 0;
    const char *const *sets = args != NULL ? args_all(args, "set", &count) : NULL;
    char *path = config_path(name);
    Err *err = settings_load(path, sets, count, out);
    free(path);
    return err;
}

/* ---- check ---- */

/* A file that has a section [suite]. One that cannot be read is none; whoever loads it says why. */
static bool is_suite(const char *path)
{
    char *text = NULL;
    Err *err = file_read_text(path, FILE_MAX_BYTES, &text);
    bool found = false;
    for (const char *line = text; line != NULL && !found; line = strchr(line, '\n')) {
        line += *line == '\n';
        found = strncmp(line, "[suite]", 7) == 0;
    }
    err_free(err);
    free(text);
    return found;
}

/* Both errors as one, with the code of the first; either may be NULL. */
static Err *join(Err *first, Err *second)
{
    if (first == NULL || second == NULL) {
        return first != NULL ? first : second;
    }
    Err *both = err_new(first->code, "%s\n%s", first->message, second->message);
    err_free(first);
    err_free(second);
    return both;
}

/* The configurations that a suite names, relative to its file. Their teacher's weights come from the suite's own teacher
 * where it has one. */
static Err *check_members(const char *path, const char *names, bool taught)
{
    static const char *const weights[] = {"teacher.weights=of-the-suite"};
    const char *slash = strrchr(path, '/');
    char *dir = slash != NULL ? xformat("%.*s", (int)(slash - path), path) : xstrdup(".");
    char *list = xstrdup(names);
    char *save = NULL;
    Err *err = NULL;
    for (char *name = strtok_r(list, ", \t", &save); name != NULL;
         name = strtok_r(NULL, ", \t", &save)) {
        char *member = path_join(dir, name);
        Settings settings;
        Err *own = settings_load(member, weights, taught, &settings);
        if (own == NULL) {
            settings_free(&settings);
        }
        err = join(err, own);
        free(member);
    }
    free(list);
    free(dir);
    return err;
}

static Err *check_suite(const char *path)
{
    size_t count;
    const ConfigKey *keys = suite_keys(&count);
    Config *config;
    TRY(config_load(keys, count, path, NULL, 0, &config));
    const bool taught = config_has(config, "suite", "teacher");
    const char *runs = config_str(config, "suite", "runs");
    Err *err = taught ? check_members(path, config_str(config, "suite", "teacher"), false) : NULL;
    err = join(err, check_members(path, runs, taught));
    if (err == NULL) {
        printf("ok: %s: suite of %s\n", path, runs);
    }
    config_free(config);
    return err;
}

static void warn_absent(const char *what, const char *path)
{
    if (path != NULL && !path_exists(path)) {
        log_warn("%s: '%s' is not there yet (a relative path starts at the folder of the file it "
                 "stands in)",
                 what, path);
    }
}

/* One line: what the run would be. */
static void summarize(const char *path, const Settings *s)
{
    const Config *c = s->config;
    const bool distils = s->objective.method != METHOD_NONE;
    char *data = config_value_text(c, "data", "kind");
    printf("ok: %s: %s%s%s on %s, %s, %d epochs of batch %d, lr %g %s, seed %llu, to %s\n", path,
           distils ? s->teacher_model : "", distils ? " -> " : "", s->student_model, data,
           distils ? config_str(c, "distill", "method") : "no teacher", s->schedule.epochs,
           s->batch, s->schedule.lr, config_str(c, "schedule", "kind"), (unsigned long long)s->seed,
           s->out);
    free(data);
    if (config_has(c, "data", "root")) {
        warn_absent("data.root", config_str(c, "data", "root"));
    }
    warn_absent("teacher.weights", s->teacher_weights);
    warn_absent("student.weights", s->student_weights);
}

static Err *check_one(const char *name, const Args *args)
{
    char *path = config_path(name);
    Err *err = NULL;
    if (is_suite(path)) {
        err = check_suite(path);
    } else {
        Settings settings;
        err = load(name, args, &settings);
        if (err == NULL) {
            summarize(path, &settings);
            settings_free(&settings);
        }
    }
    free(path);
    return err;
}

static Err *run_check(const Args *args)
{
    Err *err = NULL;
    for (size_t i = 0; i < args_count(args); i++) {
        err = join(err, check_one(args_at(args, i), args));
    }
    return err;
}

/* ---- show ---- */

static void json_key(Text *out, const Config *config, const ConfigKey *row, const char *separator)
{
    char *name = xformat("%s.%s", row->section, row->key);
    char *value = config_value_text(config, row->section, row->key);
    text_puts(out, separator);
    text_json(out, name);
    text_puts(out, ":{\"value\":");
    text_json(out, value);
    text_puts(out, ",\"origin\":");
    text_json(out, config_origin(config, row->section, row->key));
    text_puts(out, "}");
    free(value);
    free(name);
}

static char *config_json(const Config *config, bool given)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    Text text = {0};
    text_puts(&text, "{");
    for (size_t i = 0; i < count; i++) {
        if (!given || config_is_set(config, rows[i].section, rows[i].key)) {
            json_key(&text, config, &rows[i], text.size > 1 ? ",\n " : "");
        }
    }
    text_puts(&text, "}\n");
    return text.text;
}

/* What files and command line gave, as a configuration. */
static char *given_text(const Config *config, bool origins)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    Text text = {0};
    const char *section = "";
    for (size_t i = 0; i < count; i++) {
        if (!config_is_set(config, rows[i].section, rows[i].key)) {
            continue;
        }
        if (strcmp(section, rows[i].section) != 0) {
            section = rows[i].section;
            text_add(&text, "%s[%s]\n", text.size > 0 ? "\n" : "", section);
        }
        char *value = config_value_text(config, section, rows[i].key);
        if (origins) {
            text_add(&text, "# %s\n", config_origin(config, section, rows[i].key));
        }
        text_add(&text, "%s =%s%s\n", rows[i].key, value[0] != '\0' ? " " : "", value);
        free(value);
    }
    return text.text != NULL ? text.text : xstrdup("");
}

static Err *run_show(const Args *args)
{
    Settings settings;
    TRY(load(args_at(args, 0), args, &settings));
    const bool origins = args_flag(args, "origin");
    const bool given = args_flag(args, "given");
    char *text = args_flag(args, "json") ? config_json(settings.config, given)
                 : given                 ? given_text(settings.config, origins)
                                         : config_text(settings.config, origins);
    fputs(text, stdout);
    free(text);
    settings_free(&settings);
    return NULL;
}

/* ---- keys ---- */

static const char *type_name(ConfigType type)
{
    static const char *const names[] = {
        [CONFIG_BOOL] = "bool",   [CONFIG_INT] = "int",       [CONFIG_INTS] = "ints",
        [CONFIG_FLOAT] = "float", [CONFIG_FLOATS] = "floats", [CONFIG_STRING] = "text",
        [CONFIG_PATH] = "path",   [CONFIG_ENUM] = "choice"};
    return names[type];
}

/* "0..1", "sgd|adamw" or "". Caller frees. */
static char *range_text(const ConfigKey *row)
{
    if (row->type == CONFIG_ENUM) {
        return xstrdup(row->names);
    }
    return row->min != 0 || row->max != 0 ? xformat("%.10g..%.10g", row->min, row->max)
                                          : xstrdup("");
}

static void print_keys(const ConfigKey *rows, size_t count, const char *section)
{
    printf("%-28s %-7s %-22s %-32s %s\n", "key", "type", "default", "range", "help");
    for (size_t i = 0; i < count; i++) {
        if (section == NULL || strcmp(rows[i].section, section) == 0) {
            char *name = xformat("%s.%s", rows[i].section, rows[i].key);
            char *range = range_text(&rows[i]);
            printf("%-28s %-7s %-22s %-32s %s\n", name, type_name(rows[i].type),
                   rows[i].fallback == NULL ? "(must be given)" : rows[i].fallback, range,
                   rows[i].help);
            free(range);
            free(name);
        }
    }
}

static void json_names(Text *out, const ConfigKey *row)
{
    static const char *const labels[NAMES_COUNT] = {"RepDistiller", "mdistiller", "timm", "common"};
    for (int i = 0; i < NAMES_COUNT; i++) {
        const char *name = settings_name(row->section, row->key, (NameOrigin)i);
        if (name != NULL) {
            text_add(out, ",\"%s\":", labels[i]);
            text_json(out, name);
        }
    }
}

static void print_keys_json(const ConfigKey *rows, size_t count, const char *section)
{
    Text text = {0};
    for (size_t i = 0; i < count; i++) {
        const ConfigKey *row = &rows[i];
        if (section != NULL && strcmp(row->section, section) != 0) {
            continue;
        }
        text_puts(&text, text.size > 0 ? ",\n " : "[");
        text_add(&text, "{\"key\":\"%s.%s\",\"type\":\"%s\",\"default\":", row->section, row->key,
                 type_name(row->type));
        text_json(&text, row->fallback != NULL ? row->fallback : "");
        if (row->type == CONFIG_ENUM) {
            text_puts(&text, ",\"choices\":");
            text_json(&text, row->names);
        } else if (row->min != 0 || row->max != 0) {
            text_json_number(&text, "min", row->min);
            text_json_number(&text, "max", row->max);
        }
        text_puts(&text, ",\"help\":");
        text_json(&text, row->help);
        json_names(&text, row);
        text_puts(&text, "}");
    }
    printf("%s]\n", text.text);
    text_free(&text);
}

static Err *check_section(const ConfigKey *rows, size_t count, const char *section)
{
    NearMiss near = near_start(section);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rows[i].section, section) == 0) {
            return NULL;
        }
        near_offer(&near, rows[i].section);
    }
    char *hint = near_hint(&near);
    Err *err = err_new(EXIT_USAGE_ERR, "config keys: there is no section [%s]%s", section, hint);
    free(hint);
    return err;
}

static Err *run_keys(const Args *args)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    const char *section = args_count(args) > 0 ? args_at(args, 0) : NULL;
    if (section != NULL) {
        TRY(check_section(rows, count, section));
    }
    if (args_flag(args, "json")) {
        print_keys_json(rows, count, section);
    } else {
        print_keys(rows, count, section);
    }
    return NULL;
}

/* ---- diff ---- */

static void print_difference(const ConfigKey *row, const Config *a, const Config *b,
                             const char *left, const char *right)
{
    const size_t m = strlen(left);
    const size_t n = strlen(right);
    const int width = (int)(m > n ? m : n);
    printf("%s.%s\n  - %-*s  %s\n  + %-*s  %s\n", row->section, row->key, width, left,
           config_origin(a, row->section, row->key), width, right,
           config_origin(b, row->section, row->key));
}

/* A pair of values and their origins as a member of an object. */
static void json_difference(Text *out, const ConfigKey *row, const Config *a, const Config *b,
                            const char *left, const char *right)
{
    text_add(out, "%s\"%s.%s\":{\"a\":", out->size > 0 ? ",\n " : "{", row->section, row->key);
    text_json(out, left);
    text_puts(out, ",\"a_origin\":");
    text_json(out, config_origin(a, row->section, row->key));
    text_puts(out, ",\"b\":");
    text_json(out, right);
    text_puts(out, ",\"b_origin\":");
    text_json(out, config_origin(b, row->section, row->key));
    text_puts(out, "}");
}

static void compare(const Config *a, const Config *b, bool json)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    size_t different = 0;
    Text object = {0};
    for (size_t i = 0; i < count; i++) {
        char *left = config_value_text(a, rows[i].section, rows[i].key);
        char *right = config_value_text(b, rows[i].section, rows[i].key);
        const bool differs = strcmp(left, right) != 0;
        different += differs;
        if (differs && json) {
            json_difference(&object, &rows[i], a, b, left, right);
        } else if (differs) {
            print_difference(&rows[i], a, b, left, right);
        }
        free(left);
        free(right);
    }
    if (json) {
        printf("%s}\n", object.text != NULL ? object.text : "{");
    } else if (different > 0) {
        printf("%zu value%s\n", different, different == 1 ? " differs" : "s differ");
    }
    text_free(&object);
}

static Err *run_diff(const Args *args)
{
    Settings a;
    Settings b;
    TRY(load(args_at(args, 0), NULL, &a));
    Err *err = load(args_at(args, 1), NULL, &b);
    if (err == NULL) {
        compare(a.config, b.config, args_flag(args, "json"));
        settings_free(&b);
    }
    settings_free(&a);
    return err;
}

/* ---- Tables ---- */

#define SET_OPTION                                                                                 \
    {                                                                                              \
        .name = "set", .letter = 's', .kind = ARG_SETTING, .many = true,                           \
        .metavar = "SECTION.KEY=VALUE", .help = "set a configuration key"                          \
    }

static const ArgOption check_options[] = {SET_OPTION};
static const char *const check_examples[] = {
    "cudistill config check my.ini", "cudistill config check my.ini --set optim.lr=0.1",
    "cudistill config check configs/quickstart.ini configs/quickstart/*.ini", NULL};
static const Command command_check = {
    .name = "check",
    .arguments = "CONFIG.ini...",
    .argument_kind = ARG_FILE,
    .min_arguments = 1,
    .max_arguments = -1,
    .summary = "report all mistakes of a configuration",
    .details = "Every mistake is reported with its line and, where it can be told, what was meant; "
               "the exit code is then 78. Data and weights are not opened. Of a suite "
               "the configurations that it names are checked, too.",
    .options = check_options,
    .option_count = sizeof check_options / sizeof check_options[0],
    .examples = check_examples,
    .run = run_check};

static const ArgOption show_options[] = {
    SET_OPTION,
    {.name = "origin",
     .letter = 'o',
     .kind = ARG_FLAG,
     .help = "with the file and line, or the option, that gave each value"},
    {.name = "given", .letter = 'g', .kind = ARG_FLAG, .help = "without the defaults"},
    {.name = "json", .kind = ARG_FLAG, .help = "as one JSON object, with origins"},
};
static const char *const show_examples[] = {"cudistill config show my.ini --origin",
                                            "cudistill config show my.ini --given > short.ini",
                                            "cudistill config show runs/run-s1 --json", NULL};
static const Command command_show = {
    .name = "show",
    .arguments = "CONFIG.ini",
    .argument_kind = ARG_FILE,
    .min_arguments = 1,
    .max_arguments = 1,
    .summary = "print every value as a run would see it",
    .details = "What is printed is a configuration again: includes resolved, paths absolute. A "
               "run's folder stands for the configuration in it.",
    .options = show_options,
    .option_count = sizeof show_options / sizeof show_options[0],
    .examples = show_examples,
    .run = run_show};

static const ArgOption keys_options[] = {
    {.name = "json", .kind = ARG_FLAG, .help = "as a JSON array, with names in other programs"}};
static const char *const keys_examples[] = {"cudistill config keys", "cudistill config keys optim",
                                            NULL};
static const Command command_keys = {.name = "keys",
                                     .arguments = "[SECTION]",
                                     .argument_kind = ARG_TOPIC,
                                     .max_arguments = 1,
                                     .summary =
                                         "list the keys with type, default, range and meaning",
                                     .options = keys_options,
                                     .option_count = sizeof keys_options / sizeof keys_options[0],
                                     .examples = keys_examples,
                                     .run = run_keys};

static const ArgOption diff_options[] = {
    {.name = "json", .kind = ARG_FLAG, .help = "as a JSON object"}};
static const char *const diff_examples[] = {"cudistill config diff a.ini b.ini",
                                            "cudistill config diff runs/kd-s1 my.ini", NULL};
static const Command command_diff = {
    .name = "diff",
    .arguments = "A B",
    .argument_kind = ARG_FILE,
    .min_arguments = 2,
    .max_arguments = 2,
    .summary = "print the values that differ, with their origins",
    .details = "Prints nothing where all values are equal; the exit code is 0 either way. A run's "
               "folder stands for the configuration in it.",
    .options = diff_options,
    .option_count = sizeof diff_options / sizeof diff_options[0],
    .examples = diff_examples,
    .run = run_diff};

static const Command *const commands[] = {&command_check, &command_show, &command_keys,
                                          &command_diff, NULL};

const Command command_config = {.name = "config",
                                .arguments = "",
                                .summary = "check, show, explain and compare configurations",
                                .commands = commands};
