/* Strict INI: reads files through inih, checks every line and value against the caller's key table, collects all
 * errors. inih by itself gives handlers no line number, takes an indented line as a continuation, cuts long lines
 * and long section names silently and never reports a section without keys; so the lines reach it through a
 * reader of our own that counts them and replaces each bad line by an empty one after noting the error. */
#include "base/config.h"

#include "base/config_value.h"
#include "base/files.h"
#include "base/near.h"

#include <ctype.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 49, FILE_MAX_BYTES = 1 << 20, ERRORS_MAX = 50 };

enum { SOURCE_DEFAULT = -1, SOURCE_SET = -2 };

struct Config {
    const ConfigKey *keys;
    size_t key_count;
    ConfigSlot *slots;
};

/* Errors of one load, and what is shared between the files of one load. */
typedef struct {
    Config *config;
    char *errors; /* lines joined by '\n'; NULL while there is none */
    int error_count;
    ExitCode code; /* of the first error */
    int file_count;
} Load;

/* One file being read; `outer` is the file that includes it. */
typedef struct Source {
    const struct Source *outer;
    Load *load;
    const char *path; /* as named by the user or the include */
    char *real_path;  /* canonical, to find cycles */
    const char *next; /* rest of the text */
    int number;
    int line;
    bool in_section;
    bool section_known;
    bool include_seen;
} Source;

/* Where a value stands: for messages, for its origin, for relative paths. */
typedef struct {
    const char *place; /* "FILE:LINE" or "--set section.key=value" */
    const char *origin;
    const char *path; /* file, or NULL */
    int source;
    int line;
} Place;

/* ---- Errors ---- */

__attribute__((format(printf, 3, 4))) static void note(Load *load, const char *place,
                                                       const char *format, ...)
{
    load->error_count++;
    if (load->error_count > ERRORS_MAX) {
        return;
    }
    va_list args;
    va_start(args, format);
    char *message = xvformat(format, args);
    va_end(args);
    char *all = xformat("%s%s%s: %s", load->errors != NULL ? load->errors : "",
                        load->errors != NULL ? "\n" : "", place, message);
    free(message);
    free(load->errors);
    load->errors = all;
}

__attribute__((format(printf, 2, 3))) static void note_line(const Source *source,
                                                            const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *message = xvformat(format, args);
    va_end(args);
    char *place = xformat("%s:%d", source->path, source->line);
    note(source->load, place, "%s", message);
    free(place);
    free(message);
}

/* ---- The table ---- */

static bool section_exists(const Config *config, const char *section)
{
    for (size_t i = 0; i < config->key_count; i++) {
        if (strcmp(config->keys[i].section, section) == 0) {
            return true;
        }
    }
    return false;
}

/* key_count when absent. */
static size_t key_index(const Config *config, const char *section, const char *key)
{
    size_t i = 0;
    while (i < config->key_count && (strcmp(config->keys[i].section, section) != 0 ||
                                     strcmp(config->keys[i].key, key) != 0)) {
        i++;
    }
    return i;
}

static void note_unknown_section(Load *load, const char *place, const char *section)
{
    NearMiss near = near_start(section);
    for (size_t i = 0; i < load->config->key_count; i++) {
        near_offer(&near, load->config->keys[i].section);
    }
    char *hint = near_hint(&near);
    note(load, place, "unknown section [%s]%s", section, hint);
    free(hint);
}

static void note_unknown_key(Load *load, const char *place, const char *section, const char *key)
{
    NearMiss near = near_start(key);
    const char *elsewhere = NULL;
    for (size_t i = 0; i < load->config->key_count; i++) {
        const ConfigKey *row = &load->config->keys[i];
        if (strcmp(row->section, section) == 0) {
            near_offer(&near, row->key);
        } else if (strcmp(row->key, key) == 0) {
            elsewhere = row->section;
        }
    }
    char *hint = near.best == NULL && elsewhere != NULL ? xformat("; it belongs to [%s]", elsewhere)
                                                        : near_hint(&near);
    note(load, place, "unknown key '%s' in [%s]%s", key, section, hint);
    free(hint);
}

/* Puts `text` into the slot of section.key, or notes why not; then the slot keeps what it had. */
static void assign(Load *load, const Place *place, const char *section, const char *key,
                   const char *text)
{
    Config *config = load->config;
    const size_t index = key_index(config, section, key);
    if (index == config->key_count) {
        note_unknown_key(load, place->place, section, key);
        return;
    }
    ConfigSlot *old = &config->slots[index];
    if (old->source == place->source && place->source == SOURCE_SET) {
        note(load, place->place, "%s.%s is given twice", section, key);
        return;
    }
    if (old->source == place->source && place->source != SOURCE_DEFAULT) {
        note(load, place->place, "'%s' is given twice in [%s]; first in line %d", key, section,
             old->line);
        return;
    }
    ConfigSlot slot = {.text = config_trimmed(text, text + strlen(text)),
                       .origin = xstrdup(place->origin),
                       .source = place->source,
                       .line = place->line};
    char *reason = config_slot_parse(&config->keys[index], &slot, place->path);
    if (reason == NULL) {
        config_slot_free(old);
        *old = slot;
        return;
    }
    note(load, place->place, "%s.%s: %s", section, key, reason);
    free(reason);
    config_slot_free(&slot);
    /* A second line with this key is still a repetition. */
    old->source = place->source;
    old->line = place->line;
}

/* ---- Files ---- */

static void load_file(Load *load, const Source *outer, const char *path);

static void load_include(Source *source, const char *value)
{
    if (source->include_seen) {
        note_line(source, "a second include; one is allowed");
        return;
    }
    source->include_seen = true;
    char *reason = NULL;
    char *path = config_resolve_path(value, source->path, &reason);
    if (path == NULL) {
        note_line(source, "include: %s", reason);
        free(reason);
        return;
    }
    load_file(source->load, source, path);
    free(path);
}

static int on_value(void *user, const char *section, const char *key, const char *value)
{
    Source *source = user;
    if (!source->in_section) {
        if (strcmp(key, "include") == 0) {
            load_include(source, value);
        } else {
            note_line(source, "'%s' stands before the first [section]", key);
        }
        return 1;
    }
    if (!source->section_known) {
        return 1; /* the section's own line was reported */
    }
    if (strcmp(key, "include") == 0 &&
        key_index(source->load->config, section, key) == source->load->config->key_count) {
        note_line(source, "include must stand above the first [section]");
        return 1;
    }
    char *origin = xformat("%s:%d", source->path, source->line);
    const Place place = {.place = origin,
                         .origin = origin,
                         .path = source->path,
                         .source = source->number,
                         .line = source->line};
    assign(source->load, &place, section, key, value);
    free(origin);
    return 1;
}

static void enter_section(Source *source, const char *line)
{
    source->in_section = true;
    source->section_known = false;
    const char *close = strchr(line, ']');
    if (close == NULL) {
        note_line(source, "']' is missing");
        return;
    }
    const char *rest = close + 1;
    rest += strspn(rest, " \t\r");
    if (*rest != '\0') {
        note_line(source, "nothing may follow [section] on its line");
        return;
    }
    char *name = xformat("%.*s", (int)(close - line - 1), line + 1);
    source->section_known = section_exists(source->load->config, name);
    if (!source->section_known) {
        char *place = xformat("%s:%d", source->path, source->line);
        note_unknown_section(source->load, place, name);
        free(place);
    }
    free(name);
}

static bool has_inline_comment(const char *line)
{
    for (const char *at = strchr(line, ';'); at != NULL; at = strchr(at + 1, ';')) {
        if (at > line && isspace((unsigned char)at[-1])) {
            return true;
        }
    }
    return false;
}

/* True when inih may see the line. */
static bool check_line(Source *source, const char *line, size_t limit)
{
    const char *start = line + strspn(line, " \t\r\f\v");
    if (*start == '\0' || *start == '#' || *start == ';') {
        return false;
    }
    if (strlen(line) > limit) {
        note_line(source, "the line has %zu bytes, at most %zu are allowed", strlen(line), limit);
        return false;
    }
    if (start > line) {
        note_line(source, "the line is indented; begin it in the first column");
        return false;
    }
    if (*line == '[') {
        enter_section(source, line);
        return source->section_known;
    }
    const size_t name_length = strcspn(line, "=:");
    if (line[name_length] != '=' || name_length == 0) {
        note_line(source, "expected 'key = value', '[section]' or a comment");
        return false;
    }
    if (has_inline_comment(line)) {
        note_line(source, "a comment behind a value; comments go on lines of their own");
        return false;
    }
    return true;
}

/* fgets for inih: one line of the text, empty where the line is a comment or an error was noted. */
static char *next_line(char *buffer, int size, void *stream)
{
    Source *source = stream;
    if (*source->next == '\0') {
        return NULL;
    }
    const size_t length = strcspn(source->next, "\n");
    char *line = xformat("%.*s", (int)length, source->next);
    source->next += length + (source->next[length] == '\n');
    source->line++;
    const size_t used = strlen(line);
    if (used > 0 && line[used - 1] == '\r') {
        line[used - 1] = '\0';
    }
    const size_t room = (size_t)size - 2;
    const bool good = check_line(source, line, room < CONFIG_LINE_MAX ? room : CONFIG_LINE_MAX);
    (void)snprintf(buffer, (size_t)size, "%s\n", good ? line : "");
    free(line);
    return buffer;
}

static bool find_cycle(const Source *source, const char *real_path)
{
    for (const Source *at = source; at != NULL; at = at->outer) {
        if (strcmp(at->real_path, real_path) == 0) {
            return true;
        }
    }
    return false;
}

static void load_file(Load *load, const Source *outer, const char *path)
{
    char *text = NULL;
    Err *err = file_read_text(path, FILE_MAX_BYTES, &text);
    if (err != NULL) {
        char *place = outer != NULL ? xformat("%s:%d", outer->path, outer->line) : xstrdup(path);
        note(load, place, "%s%s", outer != NULL ? "include: " : "", err->message);
        free(place);
        if (load->error_count == 1 && outer == NULL) {
            load->code = err->code;
        }
        err_free(err);
        return;
    }
    char *real_path = realpath(path, NULL);
    if (real_path == NULL) {
        real_path = xstrdup(path);
    }
    if (find_cycle(outer, real_path)) {
        note_line(outer, "include: '%s' is being read already; it would include itself", path);
    } else {
        const bool has_bom = strncmp(text, "\xEF\xBB\xBF", 3) == 0;
        Source source = {.outer = outer,
                         .load = load,
                         .path = path,
                         .real_path = real_path,
                         .next = text + (has_bom ? 3 : 0),
                         .number = load->file_count++};
        const int result = ini_parse_stream(next_line, &source, on_value, &source);
        CHECK(result == 0, "inih stopped in line %d of '%s', which had passed our checks", result,
              path);
    }
    free(real_path);
    free(text);
}

/* ---- Defaults and overrides ---- */

static void load_defaults(Load *load)
{
    const Place place = {.place = "default", .origin = "default", .source = SOURCE_DEFAULT};
    const Config *config = load->config;
    for (size_t i = 0; i < config->key_count; i++) {
        const ConfigKey *row = &config->keys[i];
        CHECK(key_index(config, row->section, row->key) == i, "the key table holds %s.%s twice",
              row->section, row->key);
        CHECK(strlen(row->section) <= NAME_MAX_BYTES && strlen(row->key) <= NAME_MAX_BYTES,
              "a name of the key table is too long: %s.%s", row->section, row->key);
        config->slots[i].source = SOURCE_DEFAULT;
        if (row->fallback != NULL) {
            assign(load, &place, row->section, row->key, row->fallback);
            CHECK(load->error_count == 0, "a default of the key table: %s", load->errors);
        }
    }
}

static void load_override(Load *load, const char *override)
{
    char *shown = xformat("--set %s", override);
    const char *equals = strchr(override, '=');
    const char *dot = strchr(override, '.');
    if (equals == NULL || dot == NULL || dot > equals) {
        note(load, shown, "expected section.key=value");
        free(shown);
        return;
    }
    char *section = config_trimmed(override, dot);
    char *key = config_trimmed(dot + 1, equals);
    const Place place = {.place = shown, .origin = "--set", .source = SOURCE_SET};
    if (!section_exists(load->config, section)) {
        note_unknown_section(load, shown, section);
    } else if (strlen(key) + strlen(" = ") + strlen(equals + 1) > CONFIG_LINE_MAX) {
        note(load, shown, "the value is too long (a line holds %d bytes)", CONFIG_LINE_MAX);
    } else if (strchr(equals, '\n') != NULL || has_inline_comment(equals + 1)) {
        note(load, shown, "a value holds neither a line break nor ' ;'");
    } else {
        assign(load, &place, section, key, equals + 1);
    }
    free(section);
    free(key);
    free(shown);
}

static void check_required(Load *load, const char *path)
{
    for (size_t i = 0; i < load->config->key_count; i++) {
        const ConfigSlot *slot = &load->config->slots[i];
        if (slot->text == NULL && slot->source == SOURCE_DEFAULT) {
            note(load, path != NULL ? path : "--set", "%s.%s must be given",
                 load->config->keys[i].section, load->config->keys[i].key);
        }
    }
}

Err *config_load(const ConfigKey *keys, size_t key_count, const char *path,
                 const char *const *overrides, size_t override_count, Config **out)
{
    *out = NULL;
    Config *config = xcalloc(1, sizeof *config);
    config->keys = keys;
    config->key_count = key_count;
    config->slots = xcalloc(key_count, sizeof *config->slots);
    Load load = {.config = config, .code = EXIT_CONFIG_ERR};
    load_defaults(&load);
    if (path != NULL) {
        load_file(&load, NULL, path);
    }
    for (size_t i = 0; i < override_count; i++) {
        load_override(&load, overrides[i]);
    }
    if (load.code == EXIT_CONFIG_ERR) {
        check_required(&load, path);
    }
    if (load.error_count == 0) {
        *out = config;
        return NULL;
    }
    config_free(config);
    const int more = load.error_count - ERRORS_MAX;
    Err *err = more > 0 ? err_new(load.code, "%s\nand %d more errors", load.errors, more)
                        : err_new(load.code, "%s", load.errors);
    free(load.errors);
    return err;
}

void config_free(Config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < config->key_count; i++) {
        config_slot_free(&config->slots[i]);
    }
    free(config->slots);
    free(config);
}

/* ---- Reading ---- */

static const ConfigSlot *slot_of(const Config *config, const char *section, const char *key)
{
    const size_t index = key_index(config, section, key);
    CHECK(index < config->key_count, "the key table has no %s.%s", section, key);
    return &config->slots[index];
}

static const ConfigSlot *typed_slot(const Config *config, const char *section, const char *key,
                                    ConfigType type)
{
    const ConfigSlot *slot = slot_of(config, section, key);
    const ConfigType actual = config->keys[slot - config->slots].type;
    CHECK(actual == type, "%s.%s is of type %d, read as type %d", section, key, (int)actual,
          (int)type);
    const bool list = type == CONFIG_INTS || type == CONFIG_FLOATS;
    CHECK(list || slot->count == 1, "%s.%s has no value; ask config_has first", section, key);
    return slot;
}

bool config_bool(const Config *config, const char *section, const char *key)
{
    return typed_slot(config, section, key, CONFIG_BOOL)->ints[0] != 0;
}

int64_t config_int(const Config *config, const char *section, const char *key)
{
    return typed_slot(config, section, key, CONFIG_INT)->ints[0];
}

double config_float(const Config *config, const char *section, const char *key)
{
    return typed_slot(config, section, key, CONFIG_FLOAT)->floats[0];
}

const char *config_str(const Config *config, const char *section, const char *key)
{
    const ConfigSlot *slot = slot_of(config, section, key);
    const ConfigType type = config->keys[slot - config->slots].type;
    CHECK(type == CONFIG_STRING || type == CONFIG_PATH || type == CONFIG_ENUM,
          "%s.%s is of type %d, read as text", section, key, (int)type);
    return slot->text;
}

int config_enum(const Config *config, const char *section, const char *key)
{
    return (int)typed_slot(config, section, key, CONFIG_ENUM)->ints[0];
}

const int64_t *config_ints(const Config *config, const char *section, const char *key,
                           size_t *count)
{
    const ConfigSlot *slot = typed_slot(config, section, key, CONFIG_INTS);
    *count = slot->count;
    return slot->ints;
}

const double *config_floats(const Config *config, const char *section, const char *key,
                            size_t *count)
{
    const ConfigSlot *slot = typed_slot(config, section, key, CONFIG_FLOATS);
    *count = slot->count;
    return slot->floats;
}

bool config_has(const Config *config, const char *section, const char *key)
{
    return slot_of(config, section, key)->text[0] != '\0';
}

bool config_is_set(const Config *config, const char *section, const char *key)
{
    return slot_of(config, section, key)->source != SOURCE_DEFAULT;
}

const char *config_origin(const Config *config, const char *section, const char *key)
{
    return slot_of(config, section, key)->origin;
}

static void write_key(const Config *config, size_t index, bool origins, FILE *out)
{
    const ConfigKey *row = &config->keys[index];
    const ConfigSlot *slot = &config->slots[index];
    if (origins) {
        (void)fprintf(out, "# %s\n", slot->origin);
    }
    char *value = row->type == CONFIG_PATH ? config_absolute_path(slot->text) : xstrdup(slot->text);
    (void)fprintf(out, value[0] != '\0' ? "%s = %s\n" : "%s =%s\n", row->key, value);
    free(value);
}

char *config_text(const Config *config, bool origins)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    CHECK(out != NULL, "no memory for the text of the configuration");
    for (size_t i = 0; i < config->key_count; i++) {
        const char *section = config->keys[i].section;
        /* Sections in the order of their first key; each key below its section wherever it stands in the table. */
        size_t first = 0;
        while (strcmp(config->keys[first].section, section) != 0) {
            first++;
        }
        if (first != i) {
            continue;
        }
        (void)fprintf(out, "%s[%s]\n", i > 0 ? "\n" : "", section);
        for (size_t k = i; k < config->key_count; k++) {
            if (strcmp(config->keys[k].section, section) == 0) {
                write_key(config, k, origins, out);
            }
        }
    }
    CHECK(fclose(out) == 0, "no memory for the text of the configuration");
    return text;
}
