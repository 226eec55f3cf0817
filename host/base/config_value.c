/* Parsers of configuration values: strict where the C library is lenient (no hexadecimal, no "inf", no trailing
 * text, no empty list elements). Each returns NULL or the reason why not, without a place: the caller knows it. */
#include "base/config_value.h"

#include "base/files.h"
#include "base/near.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *config_trimmed(const char *begin, const char *end)
{
    while (begin < end && isspace((unsigned char)*begin)) {
        begin++;
    }
    while (end > begin && isspace((unsigned char)end[-1])) {
        end--;
    }
    return xformat("%.*s", (int)(end - begin), begin);
}

static char *parse_bool(const char *text, int64_t *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = (int64_t)(i % 2);
            return NULL;
        }
    }
    return xformat("'%s' is not true, false, yes, no, on or off", text);
}

static char *check_range(const ConfigKey *row, double value, const char *text)
{
    const bool limited = row->min != 0 || row->max != 0;
    if (limited && (value < row->min || value > row->max)) {
        if (row->max >= HUGE_VAL) {
            return xformat("%s is too small; at least %g is allowed", text, row->min);
        }
        return xformat("%s is out of range; allowed: %g to %g", text, row->min, row->max);
    }
    return NULL;
}

static char *parse_int(const ConfigKey *row, const char *text, int64_t *out)
{
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    const bool whole = digits[0] != '\0' && digits[strspn(digits, "0123456789")] == '\0';
    errno = 0;
    const long long value = whole ? strtoll(text, NULL, 10) : 0;
    if (!whole) {
        return xformat("'%s' is not a whole number%s", text,
                       strchr(text, '#') != NULL ? " (comments go on lines of their own)" : "");
    }
    if (errno == ERANGE) {
        return xformat("%s does not fit into 64 bits", text);
    }
    *out = value;
    return check_range(row, (double)value, text);
}

static char *parse_float(const ConfigKey *row, const char *text, double *out)
{
    /* strtod alone would also take hexadecimal, "inf" and "nan". */
    char *end = NULL;
    const bool plain = text[0] != '\0' && text[strspn(text, "0123456789+-.eE")] == '\0';
    const double value = plain ? strtod(text, &end) : 0;
    if (!plain || *end != '\0') {
        const char *hint = strchr(text, '/') != NULL   ? " (write the result, as 1.25e-3)"
                           : strchr(text, '#') != NULL ? " (comments go on lines of their own)"
                                                       : "";
        return xformat("'%s' is not a number%s", text, hint);
    }
    if (!isfinite(value)) {
        return xformat("%s is too large for a number", text);
    }
    *out = value;
    return check_range(row, value, text);
}

static char *parse_enum(const ConfigKey *row, const char *text, int64_t *out)
{
    NearMiss near = near_start(text);
    char *names = xstrdup(row->names);
    char *rest = names;
    int64_t index = 0;
    for (char *name = strsep(&rest, "|"); name != NULL; name = strsep(&rest, "|")) {
        if (strcmp(name, text) == 0) {
            free(names);
            *out = index;
            return NULL;
        }
        near_offer(&near, name);
        index++;
    }
    char *hint = near_hint(&near);
    char *reason = xformat("'%s' is none of %s%s", text, row->names, hint);
    free(hint);
    free(names);
    return reason;
}

static char *parse_list(const ConfigKey *row, ConfigSlot *slot)
{
    const char *at = slot->text;
    size_t ints_capacity = 0;
    size_t floats_capacity = 0;
    while (slot->text[0] != '\0') {
        const char *comma = strchr(at, ',');
        char *item = config_trimmed(at, comma != NULL ? comma : at + strlen(at));
        char *reason = NULL;
        if (item[0] == '\0') {
            reason = xformat("element %zu of the list is empty", slot->count + 1);
        } else if (row->type == CONFIG_INTS) {
            slot->ints = xgrow(slot->ints, &ints_capacity, slot->count + 1, sizeof *slot->ints);
            reason = parse_int(row, item, &slot->ints[slot->count]);
        } else {
            slot->floats =
                xgrow(slot->floats, &floats_capacity, slot->count + 1, sizeof *slot->floats);
            reason = parse_float(row, item, &slot->floats[slot->count]);
        }
        free(item);
        if (reason != NULL) {
            return reason;
        }
        slot->count++;
        if (comma == NULL) {
            break;
        }
        at = comma + 1;
    }
    return NULL;
}

/* Replaces each ${NAME}; NULL and *reason when one is not set or not closed. */
static char *expand_env(const char *text, char **reason)
{
    char *result = xstrdup("");
    const char *at = text;
    for (;;) {
        const char *open = strstr(at, "${");
        if (open == NULL) {
            break;
        }
        const char *close = strchr(open, '}');
        char *name = close != NULL ? xformat("%.*s", (int)(close - open - 2), open + 2) : NULL;
        const char *value = name != NULL ? getenv(name) : NULL;
        if (value == NULL) {
            *reason = name != NULL ? xformat("environment variable %s is not set", name)
                                   : xstrdup("'${' without '}'");
            free(name);
            free(result);
            return NULL;
        }
        char *longer = xformat("%s%.*s%s", result, (int)(open - at), at, value);
        free(name);
        free(result);
        result = longer;
        at = close + 1;
    }
    char *whole = xformat("%s%s", result, at);
    free(result);
    return whole;
}

static char *folder_of(const char *path)
{
    const char *slash = path != NULL ? strrchr(path, '/') : NULL;
    return slash != NULL ? xformat("%.*s", (int)(slash - path) + 1, path) : xstrdup("");
}

char *config_resolve_path(const char *text, const char *origin_path, char **reason)
{
    if (text[0] == '~') {
        *reason = xstrdup("'~' is not replaced here; write ${HOME}");
        return NULL;
    }
    char *expanded = expand_env(text, reason);
    if (expanded == NULL || expanded[0] == '\0') {
        return expanded;
    }
    char *folder = folder_of(origin_path);
    char *joined = path_join(folder, expanded);
    free(folder);
    free(expanded);
    return joined;
}

char *config_absolute_path(const char *path)
{
    if (path[0] == '/' || path[0] == '\0') {
        return xstrdup(path);
    }
    char *here = getcwd(NULL, 0);
    char *joined = here != NULL ? path_join(here, path) : xstrdup(path);
    free(here);
    return joined;
}

/* The line of the resolved configuration must be readable again. */
static char *parse_path(const ConfigKey *row, ConfigSlot *slot, const char *origin_path)
{
    char *reason = NULL;
    char *path = config_resolve_path(slot->text, origin_path, &reason);
    if (path == NULL) {
        return reason;
    }
    free(slot->text);
    slot->text = path;
    char *absolute = config_absolute_path(path);
    const size_t length = strlen(row->key) + strlen(" = ") + strlen(absolute);
    if (length > CONFIG_LINE_MAX) {
        reason =
            xformat("the path is too long (%zu bytes with its key, %d are allowed); use a shorter "
                    "one or a symbolic link",
                    length, CONFIG_LINE_MAX);
    } else if (strstr(absolute, " ;") != NULL) {
        reason = xstrdup("a path in a configuration cannot hold ' ;'");
    }
    free(absolute);
    return reason;
}

char *config_slot_parse(const ConfigKey *row, ConfigSlot *slot, const char *origin_path)
{
    const bool number = row->type == CONFIG_INT || row->type == CONFIG_FLOAT;
    if (number && slot->text[0] == '\0' && row->fallback != NULL && row->fallback[0] == '\0') {
        return NULL;
    }
    switch (row->type) {
    case CONFIG_STRING:
        return strstr(slot->text, "${") != NULL
                   ? xstrdup("environment variables are replaced in paths only")
                   : NULL;
    case CONFIG_PATH:
        return parse_path(row, slot, origin_path);
    case CONFIG_INTS:
    case CONFIG_FLOATS:
        return parse_list(row, slot);
    case CONFIG_FLOAT:
        slot->floats = xcalloc(1, sizeof *slot->floats);
        slot->count = 1;
        return parse_float(row, slot->text, slot->floats);
    case CONFIG_BOOL:
    case CONFIG_INT:
    case CONFIG_ENUM:
        break;
    }
    slot->ints = xcalloc(1, sizeof *slot->ints);
    slot->count = 1;
    return row->type == CONFIG_BOOL  ? parse_bool(slot->text, slot->ints)
           : row->type == CONFIG_INT ? parse_int(row, slot->text, slot->ints)
                                     : parse_enum(row, slot->text, slot->ints);
}

void config_slot_free(ConfigSlot *slot)
{
    free(slot->text);
    free(slot->origin);
    free(slot->ints);
    free(slot->floats);
    *slot = (ConfigSlot){0};
}
