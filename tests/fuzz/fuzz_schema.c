/* What the targets of configuration share. */
#include "fuzz_schema.h"

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define NONE 0, 0
const ConfigKey fuzz_schema[] = {
    {"run", "name", CONFIG_STRING, "run", NONE, NULL, "a text"},
    {"run", "out", CONFIG_PATH, "", NONE, NULL, "a path"},
    {"run", "on", CONFIG_BOOL, "true", NONE, NULL, "a switch"},
    {"run", "seed", CONFIG_INT, "1", 0, 4294967295.0, NULL, "a whole number with limits"},
    {"run", "any", CONFIG_INT, "", NONE, NULL, "an optional whole number"},
    {"data", "kind", CONFIG_ENUM, "a", NONE, "a|bc|def", "a choice"},
    {"data", "rate", CONFIG_FLOAT, "0.1", 0, 1, NULL, "a number with limits"},
    {"data", "free", CONFIG_FLOAT, "", NONE, NULL, "an optional number"},
    {"data", "steps", CONFIG_INTS, "", 0, 100, NULL, "whole numbers"},
    {"data", "mean", CONFIG_FLOATS, "0.5, 1e-1", NONE, NULL, "numbers"},
};
const size_t fuzz_schema_size = sizeof fuzz_schema / sizeof fuzz_schema[0];

static void check_list(const Config *a, const Config *b, const ConfigKey *row)
{
    size_t left_count = 0;
    size_t right_count = 0;
    const bool ints = row->type == CONFIG_INTS;
    const void *left = ints ? (const void *)config_ints(a, row->section, row->key, &left_count)
                            : (const void *)config_floats(a, row->section, row->key, &left_count);
    const void *right = ints ? (const void *)config_ints(b, row->section, row->key, &right_count)
                             : (const void *)config_floats(b, row->section, row->key, &right_count);
    FUZZ_CHECK(left_count == right_count &&
                   (left_count == 0 || memcmp(left, right, 8 * left_count) == 0),
               "%s.%s is another list after a reload", row->section, row->key);
}

static void check_key(const Config *a, const Config *b, const ConfigKey *row)
{
    const char *section = row->section;
    const char *key = row->key;
    const bool has = config_has(a, section, key);
    FUZZ_CHECK(has == config_has(b, section, key), "%s.%s has a value only once", section, key);
    bool same = true;
    switch (row->type) {
    case CONFIG_BOOL:
        same = config_bool(a, section, key) == config_bool(b, section, key);
        break;
    case CONFIG_INT:
        same = !has || config_int(a, section, key) == config_int(b, section, key);
        break;
    case CONFIG_FLOAT:
        same = !has || config_float(a, section, key) == config_float(b, section, key);
        break;
    case CONFIG_ENUM:
        same = config_enum(a, section, key) == config_enum(b, section, key);
        break;
    case CONFIG_STRING:
        same = strcmp(config_str(a, section, key), config_str(b, section, key)) == 0;
        break;
    case CONFIG_PATH: /* becomes absolute; the text says whether it is the same */
        break;
    case CONFIG_INTS:
    case CONFIG_FLOATS:
        check_list(a, b, row);
        break;
    }
    FUZZ_CHECK(same, "%s.%s has another value after a reload", section, key);
}

static void reload(const Config *config, const ConfigKey *keys, size_t count, bool origins)
{
    char *text = config_text(config, origins);
    fuzz_file_add("resolved.ini", text, strlen(text));
    Config *again = NULL;
    Err *err = config_load(keys, count, "resolved.ini", NULL, 0, &again);
    FUZZ_CHECK(err == NULL, "the text\n%sis refused: %s", text, err->message);
    for (size_t i = 0; i < count; i++) {
        check_key(config, again, &keys[i]);
    }
    char *plain = config_text(config, false);
    char *second = config_text(again, false);
    FUZZ_CHECK(strcmp(plain, second) == 0, "the text\n%sbecame\n%s", plain, second);
    free(second);
    free(plain);
    config_free(again);
    fuzz_files_clear();
    free(text);
}

void fuzz_check_reload(const Config *config, const ConfigKey *keys, size_t count)
{
    fuzz_files_clear();
    reload(config, keys, count, false);
    reload(config, keys, count, true);
}

void fuzz_check_settings_reload(const Settings *settings)
{
    char *text = config_text(settings->config, true);
    char *plain = config_text(settings->config, false);
    fuzz_files_clear();
    fuzz_file_add("resolved.ini", text, strlen(text));
    Settings again;
    fuzz_ok(settings_load("resolved.ini", NULL, 0, &again));
    char *second = config_text(again.config, false);
    FUZZ_CHECK(strcmp(plain, second) == 0, "the text\n%sbecame\n%s", plain, second);
    free(second);
    settings_free(&again);
    free(plain);
    free(text);
}

/* Number of errors that the message's last line states. */
static size_t stated_errors(const char *message)
{
    const char *last = strrchr(message, '\n');
    FUZZ_CHECK(last != NULL, "one line only: %s", message);
    char *rest = NULL;
    const unsigned long count = strtoul(last + 1, &rest, 10);
    FUZZ_CHECK(strcmp(rest, count == 1 ? " error, nothing was started."
                                       : " errors, nothing was started.") == 0,
               "the last line: %s", last + 1);
    return count;
}

void fuzz_check_config_error(const Err *err)
{
    static const char *const places[] = {"input.ini", "other.ini", "--set ", "and "};
    const size_t stated = stated_errors(err->message);
    const char *last = strrchr(err->message, '\n');
    size_t lines = 0;
    for (const char *line = err->message; line <= last; line = strchr(line, '\n') + 1) {
        bool known = false;
        for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
            known = known || strncmp(line, places[i], strlen(places[i])) == 0;
        }
        FUZZ_CHECK(known, "a line names no place: %s", line);
        lines++;
    }
    FUZZ_CHECK(lines == stated || (lines == 51 && stated > 50), "%zu lines for %zu errors:\n%s",
               lines, stated, err->message);
}
