/* The loaded configuration: defaults, files and overrides one after the other into the slots of the key table, all errors
 * collected, values read and written. Reading of files is in config_file.c, of values in config_value.c, suggestions in
 * config_hint.c. */
#include "base/config.h"

#include "base/config_hint.h"
#include "base/config_parts.h"
#include "base/near.h"
#include "base/text.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 49, ERRORS_MAX = 50 };

#define SET_ORIGIN "--set"

/* ---- Errors ---- */

static void add_fault(Config *config, int order, char *text)
{
    config->faults = xgrow(config->faults, &config->fault_capacity, config->fault_count + 1,
                           sizeof *config->faults);
    config->faults[config->fault_count] = (ConfigFault){text, order, config->fault_count};
    config->fault_count++;
}

static char *place_text(const ConfigPlace *place, int column)
{
    if (place->path == NULL) {
        return xstrdup(place->shown);
    }
    return column > 0        ? xformat("%s:%d:%d", place->path, place->line, column)
           : place->line > 0 ? xformat("%s:%d", place->path, place->line)
                             : xstrdup(place->path);
}

void config_note(Config *config, const ConfigPlace *place, int column, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *message = xvformat(format, args);
    va_end(args);
    char *where = place_text(place, column);
    add_fault(config, config->order, xformat("%s: %s", where, message));
    free(where);
    free(message);
}

static const ConfigSlot *slot_of(const Config *config, const char *section, const char *key)
{
    const size_t index = config_key_index(&config->table, section, key);
    CHECK(index < config->table.key_count, "the key table has no %s.%s", section, key);
    return &config->slots[index];
}

static const ConfigSectionSeen *seen_section(const Config *config, const char *section)
{
    for (size_t i = 0; i < config->section_count; i++) {
        if (strcmp(config->sections[i].name, section) == 0) {
            return &config->sections[i];
        }
    }
    return NULL;
}

void config_fault(Config *config, const char *section, const char *key, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *message = xvformat(format, args);
    va_end(args);
    const ConfigSlot *slot = slot_of(config, section, key);
    const ConfigSectionSeen *seen = seen_section(config, section);
    const char *place = slot->place != NULL ? slot->place
                        : seen != NULL      ? seen->place
                                            : config->path;
    int order = config->order;
    if (place != config->path) {
        order = slot->place != NULL ? slot->order : seen->order;
    }
    add_fault(config, order, place != NULL ? xformat("%s: %s", place, message) : xstrdup(message));
    free(message);
}

bool config_refused(const Config *config, const char *section, const char *key)
{
    for (size_t i = 0; key == NULL && i < config->table.key_count; i++) {
        if (strcmp(config->table.keys[i].section, section) == 0 && config->slots[i].refused) {
            return true;
        }
    }
    return key != NULL && slot_of(config, section, key)->refused;
}

static int compare_faults(const void *a, const void *b)
{
    const ConfigFault *p = a;
    const ConfigFault *q = b;
    if (p->order != q->order) {
        return p->order < q->order ? -1 : 1;
    }
    return p->index < q->index ? -1 : p->index > q->index;
}

Err *config_errors(const Config *config)
{
    const size_t count = config->fault_count;
    if (count == 0) {
        return NULL;
    }
    ConfigFault *sorted = xmalloc(count * sizeof *sorted);
    memcpy(sorted, config->faults, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_faults);
    Text text = {0};
    for (size_t i = 0; i < count && i < ERRORS_MAX; i++) {
        text_add(&text, "%s\n", sorted[i].text);
    }
    if (count > ERRORS_MAX) {
        text_add(&text, "and %zu more\n", count - ERRORS_MAX);
    }
    text_add(&text, "%zu error%s, nothing was started.", count, count == 1 ? "" : "s");
    Err *err = err_new(config->code, "%s", text.text);
    text_free(&text);
    free(sorted);
    return err;
}

/* ---- Values into slots ---- */

static void refuse_repetition(Config *config, const ConfigPlace *place, const ConfigSlot *old,
                              const char *section, const char *key)
{
    if (place->source == CONFIG_SOURCE_SET) {
        config_note(config, place, 0, "%s.%s is given twice", section, key);
    } else {
        config_note(config, place, 1, "'%s' is given twice in [%s]; first in line %d", key, section,
                    old->line);
    }
}

static void keep_slot(ConfigSlot *old, ConfigSlot *slot, char *reason, Config *config,
                      const ConfigPlace *place, const ConfigKey *row)
{
    if (reason == NULL) {
        config_slot_free(old);
        *old = *slot;
        return;
    }
    config_note(config, place, place->column, "%s.%s: %s", row->section, row->key, reason);
    free(reason);
    /* Place, origin and order of what was refused: later checks speak of it, and a second line is still a repetition. */
    free(old->place);
    free(old->origin);
    old->place = slot->place;
    old->origin = slot->origin;
    old->source = slot->source;
    old->line = slot->line;
    old->order = slot->order;
    old->refused = true;
    slot->place = NULL;
    slot->origin = NULL;
    config_slot_free(slot);
}

void config_assign(Config *config, const ConfigPlace *place, const char *section, const char *key,
                   const char *text)
{
    const size_t index = config_key_index(&config->table, section, key);
    if (index == config->table.key_count) {
        char *hint = config_hint_key(&config->table, section, key);
        config_note(config, place, 1, "unknown key '%s' in [%s]%s", key, section, hint);
        free(hint);
        return;
    }
    ConfigSlot *old = &config->slots[index];
    /* Of the command line, --set and a flag may give the same key: the later one counts. */
    const bool repeated =
        place->source != CONFIG_SOURCE_DEFAULT && old->source == place->source &&
        (place->source != CONFIG_SOURCE_SET || strcmp(old->origin, place->origin) == 0);
    if (repeated) {
        refuse_repetition(config, place, old, section, key);
        return;
    }
    ConfigSlot slot = {
        .text = config_trimmed(text, text + strlen(text)),
        .origin = xstrdup(place->origin),
        .place = place->source == CONFIG_SOURCE_DEFAULT ? NULL : place_text(place, place->column),
        .source = place->source,
        .line = place->line,
        .order = config->order};
    char *reason =
        config_slot_parse(&config->table, &config->table.keys[index], &slot, place->path);
    keep_slot(old, &slot, reason, config, place, &config->table.keys[index]);
}

bool config_has_inline_comment(const char *line)
{
    for (const char *at = strchr(line, ';'); at != NULL; at = strchr(at + 1, ';')) {
        if (at > line && isspace((unsigned char)at[-1])) {
            return true;
        }
    }
    return false;
}

/* ---- Defaults and overrides ---- */

static void load_defaults(Config *config)
{
    const ConfigPlace place = {
        .shown = "default", .origin = "default", .source = CONFIG_SOURCE_DEFAULT};
    const ConfigTable *table = &config->table;
    for (size_t i = 0; i < table->key_count; i++) {
        const ConfigKey *row = &table->keys[i];
        CHECK(config_key_index(table, row->section, row->key) == i,
              "the key table holds %s.%s twice", row->section, row->key);
        CHECK(strlen(row->section) <= NAME_MAX_BYTES && strlen(row->key) <= NAME_MAX_BYTES,
              "a name of the key table is too long: %s.%s", row->section, row->key);
        config->slots[i].source = CONFIG_SOURCE_DEFAULT;
        if (row->fallback != NULL) {
            config_assign(config, &place, row->section, row->key, row->fallback);
            CHECK(config->fault_count == 0, "a default of the key table: %s",
                  config->faults[0].text);
        }
    }
}

/* For "lr=0.1": "; did you mean optim.lr=0.1?", all sections that have the key, or NULL. */
static char *sections_hint(const ConfigTable *table, const char *key, const char *value)
{
    Text text = {0};
    for (size_t i = 0; i < table->key_count; i++) {
        if (near_same(table->keys[i].key, key)) {
            text_add(&text, "%s%s.%s=%s", text.size == 0 ? "; did you mean " : " or ",
                     table->keys[i].section, table->keys[i].key, value);
        }
    }
    if (text.size > 0) {
        text_puts(&text, "?");
    }
    return text.text;
}

/* "lr=0.1", "optim.lr 0.1" and "optim.lr: 0.1". */
static void note_shape(Config *config, const ConfigPlace *place, const char *text)
{
    const size_t length = strcspn(text, "=: \t");
    char *name = xformat("%.*s", (int)length, text);
    const char *value = text + length;
    value += strspn(value, "=: \t");
    const char *dot = strchr(name, '.');
    char *section = dot != NULL ? xformat("%.*s", (int)(dot - name), name) : xstrdup("");
    char *hint = NULL;
    if (dot == NULL) {
        hint = sections_hint(&config->table, name, value[0] != '\0' ? value : "VALUE");
    } else if (config_key_index(&config->table, section, dot + 1) < config->table.key_count) {
        hint = xformat("; write %s=%s", name, value[0] != '\0' ? value : "VALUE");
    }
    if (hint == NULL) {
        hint = config_hint_key(&config->table, NULL, name);
    }
    config_note(config, place, 0, "expected section.key=value%s", hint);
    free(hint);
    free(section);
    free(name);
}

static void assign_override(Config *config, ConfigPlace *place, const char *section,
                            const char *key, const char *value)
{
    if (!config_has_section(&config->table, section)) {
        const char *meant = NULL;
        char *whole = xformat("%s.%s", section, key);
        char *hint = config_hint_key(&config->table, NULL, whole);
        if (hint[0] == '\0') {
            free(hint);
            hint = config_hint_section(&config->table, section, &meant);
        }
        config_note(config, place, 0, "unknown section [%s]%s", section, hint);
        free(hint);
        free(whole);
    } else if (strlen(key) + strlen(" = ") + strlen(value) > CONFIG_LINE_MAX) {
        config_note(config, place, 0, "the value is too long (a line holds %d bytes)",
                    CONFIG_LINE_MAX);
    } else if (value[strspn(value, " ")] == ';' || config_has_inline_comment(value)) {
        config_note(config, place, 0, "a value cannot begin with ';' or hold ' ;'");
    } else {
        config_assign(config, place, section, key, value);
    }
}

/* What is no text goes to the terminal as question marks. */
static void make_printable(char *text)
{
    if (!config_is_text(text)) {
        for (char *at = text; *at != '\0'; at++) {
            const unsigned char c = (unsigned char)*at;
            *at = c < 0x20 || c > 0x7E ? '?' : *at;
        }
    }
}

static void load_override(Config *config, const ConfigOverride *override)
{
    config->order++;
    const char *text = override->text;
    const char *equals = strchr(text, '=');
    const char *dot = strchr(text, '.');
    /* A flag is shown as it was given, not as the setting that it stands for. */
    char *shown = strcmp(override->origin, SET_ORIGIN) != 0 && equals != NULL
                      ? xformat("%s %s", override->origin, equals + 1)
                      : xformat("%s %s", override->origin, text);
    make_printable(shown);
    ConfigPlace place = {.shown = shown, .origin = override->origin, .source = CONFIG_SOURCE_SET};
    if (!config_is_text(text)) {
        config_note(config, &place, 0, "a setting is UTF-8 without control characters");
    } else if (equals == NULL || dot == NULL || dot > equals) {
        note_shape(config, &place, text);
    } else {
        char *section = config_trimmed(text, dot);
        char *key = config_trimmed(dot + 1, equals);
        assign_override(config, &place, section, key, equals + 1);
        free(section);
        free(key);
    }
    free(shown);
}

static void check_required(Config *config)
{
    for (size_t i = 0; i < config->table.key_count; i++) {
        const ConfigSlot *slot = &config->slots[i];
        if (slot->text == NULL && slot->source == CONFIG_SOURCE_DEFAULT) {
            const ConfigKey *row = &config->table.keys[i];
            config_fault(config, row->section, row->key, "%s.%s must be given", row->section,
                         row->key);
        }
    }
}

/* ---- Life cycle ---- */

static void fill(Config *config, const char *path, const ConfigOverride *overrides,
                 size_t override_count)
{
    config->slots = xcalloc(config->table.key_count, sizeof *config->slots);
    config->path = path != NULL ? xstrdup(path) : NULL;
    config->code = EXIT_CONFIG_ERR;
    load_defaults(config);
    if (path != NULL) {
        config_read_file(config, path);
    }
    for (size_t i = 0; i < override_count; i++) {
        load_override(config, &overrides[i]);
    }
    if (!config->empty) {
        config->order++;
        check_required(config);
    }
}

Config *config_read(const ConfigTable *table, const char *path, const ConfigOverride *overrides,
                    size_t override_count)
{
    Config *config = xcalloc(1, sizeof *config);
    config->table = *table;
    fill(config, path, overrides, override_count);
    return config;
}

Err *config_load(const ConfigKey *keys, size_t key_count, const char *path,
                 const char *const *overrides, size_t override_count, Config **out)
{
    *out = NULL;
    ConfigOverride *sets = xcalloc(override_count + 1, sizeof *sets);
    for (size_t i = 0; i < override_count; i++) {
        sets[i] = (ConfigOverride){overrides[i], SET_ORIGIN};
    }
    Config *config = xcalloc(1, sizeof *config);
    config->table = (ConfigTable){.keys = keys, .key_count = key_count};
    fill(config, path, sets, override_count);
    free(sets);
    Err *err = config_errors(config);
    if (err != NULL) {
        config_free(config);
        return err;
    }
    *out = config;
    return NULL;
}

void config_free(Config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < config->table.key_count; i++) {
        config_slot_free(&config->slots[i]);
    }
    for (size_t i = 0; i < config->fault_count; i++) {
        free(config->faults[i].text);
    }
    for (size_t i = 0; i < config->section_count; i++) {
        free(config->sections[i].name);
        free(config->sections[i].place);
    }
    free(config->slots);
    free(config->faults);
    free(config->sections);
    free(config->path);
    free(config);
}

/* ---- Reading ---- */

static ConfigType type_of(const Config *config, const ConfigSlot *slot)
{
    return config->table.keys[slot - config->slots].type;
}

static const ConfigSlot *typed_slot(const Config *config, const char *section, const char *key,
                                    ConfigType type)
{
    const ConfigSlot *slot = slot_of(config, section, key);
    const ConfigType actual = type_of(config, slot);
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
    const ConfigType type = type_of(config, slot);
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
    return slot_of(config, section, key)->source != CONFIG_SOURCE_DEFAULT;
}

ConfigSource config_source(const Config *config, const char *section, const char *key)
{
    const int source = slot_of(config, section, key)->source;
    return source == CONFIG_SOURCE_DEFAULT ? CONFIG_FROM_DEFAULT
           : source == CONFIG_SOURCE_SET   ? CONFIG_FROM_OVERRIDE
           : source == 0                   ? CONFIG_FROM_FILE
                                           : CONFIG_FROM_INCLUDE;
}

const char *config_origin(const Config *config, const char *section, const char *key)
{
    return slot_of(config, section, key)->origin;
}

/* ---- Writing ---- */

char *config_value_text(const Config *config, const char *section, const char *key)
{
    const ConfigSlot *slot = slot_of(config, section, key);
    return type_of(config, slot) == CONFIG_PATH ? config_absolute_path(slot->text)
                                                : xstrdup(slot->text);
}

void config_leave_out(Config *config, const char *section, const char *key)
{
    for (size_t i = 0; i < config->table.key_count; i++) {
        const ConfigKey *row = &config->table.keys[i];
        if (strcmp(row->section, section) == 0 && (key == NULL || strcmp(row->key, key) == 0)) {
            config->slots[i].left_out = true;
        }
    }
}

/* Nothing of a section whose keys are all left out. */
static void write_section(const Config *config, const char *section, bool origins, Text *out)
{
    bool open = false;
    for (size_t i = 0; i < config->table.key_count; i++) {
        const ConfigKey *row = &config->table.keys[i];
        if (strcmp(row->section, section) != 0 || config->slots[i].left_out) {
            continue;
        }
        if (!open) {
            text_add(out, "%s[%s]\n", out->size > 0 ? "\n" : "", section);
            open = true;
        }
        if (origins) {
            text_add(out, "# %s\n", config->slots[i].origin);
        }
        char *value = config_value_text(config, section, row->key);
        text_add(out, value[0] != '\0' ? "%s = %s\n" : "%s =%s\n", row->key, value);
        free(value);
    }
}

char *config_text(const Config *config, bool origins)
{
    Text text = {0};
    for (size_t i = 0; i < config->table.key_count; i++) {
        const char *section = config->table.keys[i].section;
        /* Sections in the order of their first key; each key below its section wherever it stands in the table. */
        size_t first = 0;
        while (strcmp(config->table.keys[first].section, section) != 0) {
            first++;
        }
        if (first == i) {
            write_section(config, section, origins, &text);
        }
    }
    return text.text != NULL ? text.text : xstrdup("");
}
