/* Parsers of configuration values: strict where the C library is lenient (no hexadecimal, no "inf", no trailing
 * text, no empty list elements). Each returns NULL or the reason why not and, where it
 * can be told, what to write instead; without a place: the caller knows it. */
#include "base/config_value.h"

#include "base/config_hint.h"
#include "base/files.h"
#include "base/near.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
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

/* As RFC 3629 has it: no surrogates, nothing longer than it need be. */
size_t config_utf8_length(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t i = 0;
    while (at[i] != '\0') {
        const unsigned char c = at[i];
        const size_t more = c < 0x80   ? 0
                            : c < 0xC2 ? 9
                            : c < 0xE0 ? 1
                            : c < 0xF0 ? 2
                            : c < 0xF5 ? 3
                                       : 9;
        size_t k = 1;
        while (more < 9 && k <= more && (at[i + k] & 0xC0) == 0x80) {
            k++;
        }
        const bool bad = more == 9 || k <= more || (c == 0xE0 && at[i + 1] < 0xA0) ||
                         (c == 0xED && at[i + 1] > 0x9F) || (c == 0xF0 && at[i + 1] < 0x90) ||
                         (c == 0xF4 && at[i + 1] > 0x8F);
        if (bad) {
            return i;
        }
        i += more + 1;
    }
    return i;
}

bool config_is_text(const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7F) {
            return false;
        }
    }
    return text[config_utf8_length(text)] == '\0';
}

/* ---- What a refused value probably means ---- */

/* "; leave it empty" for a word that means nothing. */
static char *nothing_hint(const ConfigKey *row, const char *text)
{
    static const char *const words[] = {"none", "null", "nil", "nan", "n/a"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            return row->fallback != NULL && row->fallback[0] != '\0'
                       ? xformat("; leave the line out for the default, %s", row->fallback)
                       : xstrdup("; leave the line out");
        }
    }
    return NULL;
}

static bool is_quoted(const char *text)
{
    const size_t length = strlen(text);
    return length >= 2 && (text[0] == '"' || text[0] == '\'') && text[length - 1] == text[0];
}

/* For what holds no number at all, or one with something around it. */
static char *text_hint(const ConfigKey *row, const char *text)
{
    if (text[0] == '\0') {
        return row->fallback != NULL && row->fallback[0] != '\0'
                   ? xformat("; leave the line out for the default, %s", row->fallback)
                   : xstrdup("");
    }
    if (is_quoted(text)) {
        return xformat("; write %.*s without quotes", (int)strlen(text) - 2, text + 1);
    }
    if (strchr(text, '#') != NULL) {
        return xstrdup(" (comments go on lines of their own)");
    }
    if (text[0] == '=') {
        return xstrdup("; one '=' is enough");
    }
    for (const char *at = text; *at != '\0'; at++) {
        if ((unsigned char)*at >= 0x80) {
            return xstrdup("; it holds a character that is no plain digit, sign or point");
        }
    }
    return nothing_hint(row, text);
}

/* "0.1/512": the result. */
static char *arithmetic_hint(const char *text)
{
    char *end;
    const double left = strtod(text, &end);
    end += strspn(end, " ");
    if (end == text || *end == '\0' || strchr("/*", *end) == NULL) {
        return NULL;
    }
    char *stop;
    const char *rest = end + 1;
    const double right = strtod(rest, &stop);
    if (stop == rest || stop[strspn(stop, " ")] != '\0' || *rest == *end) {
        return xstrdup("; no arithmetic: write the result");
    }
    const double value = *end == '/' ? left / right : left * right;
    return isfinite(value) ? xformat("; no arithmetic: write %.12g", value)
                           : xstrdup("; no arithmetic: write the result");
}

/* A number with something behind it: "64M", "10%", "150 180", "1_000". */
static char *tail_hint(const char *text)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end == '\0') {
        return NULL;
    }
    const int length = (int)(end - text);
    const char *rest = end + strspn(end, " ");
    if (strcmp(rest, "%") == 0) {
        return xformat("; no percent sign: write %.*s, or %.12g for the share", length, text,
                       value / 100);
    }
    if (isdigit((unsigned char)*rest)) {
        return xstrdup("; commas go between the elements of a list");
    }
    if (*rest == '_' || *rest == ',') {
        return xstrdup("; digits follow one another, with a point before the decimals");
    }
    if (isalpha((unsigned char)*rest)) {
        return xformat("; no unit behind a number: write %.*s, or what it stands for in full",
                       length, text);
    }
    return NULL;
}

/* What was probably meant by a value that is no number. */
static char *number_hint(const ConfigKey *row, const char *text)
{
    char *hint = text_hint(row, text);
    if (hint == NULL && strncasecmp(text + strspn(text, "+-"), "0x", 2) == 0) {
        hint = xstrdup("; write it in decimal");
    }
    if (hint == NULL && strpbrk(text, "[](){}") != NULL) {
        hint = xstrdup("; write it without brackets");
    }
    if (hint == NULL) {
        hint = arithmetic_hint(text);
    }
    if (hint == NULL) {
        hint = tail_hint(text);
    }
    return hint != NULL ? hint : xstrdup("");
}

/* "1e3" and "64.0" are whole numbers written as others. */
static char *whole_hint(const ConfigKey *row, const char *text)
{
    char *end;
    const double value = strtod(text, &end);
    const bool plain = text[0] != '\0' && text[strspn(text, "0123456789+-.eE")] == '\0';
    if (plain && *end == '\0' && fabs(value) < 1e15 && value == floor(value)) {
        return xformat("; write %.0f", value);
    }
    return number_hint(row, text);
}

/* ---- Parsers ---- */

/* 0 or 1 for the six words, else -1. */
static int bool_of(const char *text)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i]) == 0) {
            return (int)(i % 2);
        }
    }
    return -1;
}

/* What a value that is no bool means, or NULL. */
static const char *bool_meant(const char *text)
{
    static const char *const words[][2] = {
        {"1", "true"},       {"0", "false"},        {"y", "yes"},       {"n", "no"},
        {"t", "true"},       {"f", "false"},        {"enable", "true"}, {"disable", "false"},
        {"enabled", "true"}, {"disabled", "false"}, {"none", "false"},  {"null", "false"},
        {"true", "true"},    {"false", "false"},    {"yes", "yes"},     {"no", "no"},
        {"on", "on"},        {"off", "off"},        {"never", "false"}, {"always", "true"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcasecmp(text, words[i][0]) == 0) {
            return words[i][1];
        }
    }
    NearMiss near = near_start(text);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strlen(words[i][0]) > 2) {
            near_offer(&near, words[i][0]);
        }
    }
    return near.best != NULL && bool_of(near.best) >= 0 ? near.best : NULL;
}

static char *parse_bool(const ConfigKey *row, const char *text, int64_t *out)
{
    const int value = bool_of(text);
    if (value >= 0) {
        *out = value;
        return NULL;
    }
    const char *meant = bool_meant(text);
    char *hint = meant != NULL ? xformat("; write %s", meant) : text_hint(row, text);
    char *reason =
        xformat("'%s' is not true, false, yes, no, on or off%s", text, hint != NULL ? hint : "");
    free(hint);
    return reason;
}

static char *check_range(const ConfigKey *row, double value, const char *text)
{
    const bool limited = row->min != 0 || row->max != 0;
    if (limited && (value < row->min || value > row->max)) {
        if (row->max >= HUGE_VAL) {
            return xformat("%s is too small; at least %.15g is allowed", text, row->min);
        }
        return xformat("%s is out of range; allowed: %.15g to %.15g", text, row->min, row->max);
    }
    return NULL;
}

static char *parse_int(const ConfigKey *row, const char *text, int64_t *out)
{
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    const bool whole = digits[0] != '\0' && digits[strspn(digits, "0123456789")] == '\0';
    if (!whole) {
        char *hint = whole_hint(row, text);
        char *reason = text[0] != '\0' ? xformat("'%s' is not a whole number%s", text, hint)
                                       : xformat("a whole number is missing%s", hint);
        free(hint);
        return reason;
    }
    errno = 0;
    const long long value = strtoll(text, NULL, 10);
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
        char *hint = number_hint(row, text);
        char *reason = text[0] != '\0' ? xformat("'%s' is not a number%s", text, hint)
                                       : xformat("a number is missing%s", hint);
        free(hint);
        return reason;
    }
    if (!isfinite(value)) {
        return xformat("%s is too large for a number", text);
    }
    *out = value;
    return check_range(row, value, text);
}

/* Position of `name` among "a|b|c", or -1. */
static int64_t choice_index(const char *choices, const char *name)
{
    const size_t length = strlen(name);
    int64_t index = 0;
    for (const char *at = choices;; index++) {
        const size_t size = strcspn(at, "|");
        if (size == length && strncmp(at, name, length) == 0) {
            return index;
        }
        if (at[size] == '\0') {
            return -1;
        }
        at += size + 1;
    }
}

/* Another word for a choice of the row, a near miss, or what text_hint says. */
static char *enum_hint(const ConfigTable *table, const ConfigKey *row, const char *text)
{
    char *bare = is_quoted(text) ? xformat("%.*s", (int)strlen(text) - 2, text + 1) : xstrdup(text);
    for (size_t i = 0; i < table->word_count; i++) {
        if (near_same(bare, table->words[i].word) &&
            choice_index(row->names, table->words[i].choice) >= 0) {
            free(bare);
            return xformat("; did you mean '%s'?", table->words[i].choice);
        }
    }
    char *names = xstrdup(row->names);
    char *rest = names;
    NearMiss near = near_start(bare);
    for (char *name = strsep(&rest, "|"); name != NULL; name = strsep(&rest, "|")) {
        near_offer(&near, name);
    }
    char *hint = near.best != NULL ? near_hint(&near) : text_hint(row, text);
    free(names);
    free(bare);
    return hint != NULL ? hint : xstrdup("");
}

static char *parse_enum(const ConfigTable *table, const ConfigKey *row, const char *text,
                        int64_t *out)
{
    const int64_t index = choice_index(row->names, text);
    if (index >= 0) {
        *out = index;
        return NULL;
    }
    char *hint = enum_hint(table, row, text);
    char *reason = xformat("'%s' is none of %s%s", text, row->names, hint);
    free(hint);
    return reason;
}

static char *parse_element(const ConfigKey *row, ConfigSlot *slot, const char *item,
                           size_t *capacity)
{
    if (item[0] == '\0') {
        return xformat("element %zu of the list is empty", slot->count + 1);
    }
    if (row->type == CONFIG_INTS) {
        slot->ints = xgrow(slot->ints, capacity, slot->count + 1, sizeof *slot->ints);
        return parse_int(row, item, &slot->ints[slot->count]);
    }
    slot->floats = xgrow(slot->floats, capacity, slot->count + 1, sizeof *slot->floats);
    return parse_float(row, item, &slot->floats[slot->count]);
}

static char *parse_list(const ConfigKey *row, ConfigSlot *slot)
{
    const char *text = slot->text;
    const size_t length = strlen(text);
    if (length >= 2 && strchr("[({", text[0]) != NULL && strchr("])}", text[length - 1]) != NULL) {
        return xformat("a list has no brackets; write %.*s", (int)length - 2, text + 1);
    }
    const char *at = text;
    size_t capacity = 0;
    while (text[0] != '\0') {
        const char *comma = strchr(at, ',');
        char *item = config_trimmed(at, comma != NULL ? comma : at + strlen(at));
        char *reason = parse_element(row, slot, item, &capacity);
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

/* Text that stands between quotes, or carries a comment, would be taken for what it is not. */
static char *check_text(const char *text)
{
    if (is_quoted(text)) {
        return xformat("quotes would be part of the text; write %.*s without them",
                       (int)strlen(text) - 2, text + 1);
    }
    return strstr(text, " # ") != NULL
               ? xstrdup("' # ' inside a value; comments go on lines of their own")
               : NULL;
}

/* ---- Paths ---- */

static char *unset_reason(const char *name)
{
    char *hint = config_hint_env(name);
    char *reason = name[0] != '\0' ? xformat("environment variable %s is not set%s", name, hint)
                                   : xstrdup("'${}' without a name");
    free(hint);
    return reason;
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
            *reason = name != NULL ? unset_reason(name) : xstrdup("'${' without '}'");
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
    char *reason = check_text(slot->text);
    if (reason != NULL) {
        return reason;
    }
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
    } else if (strstr(absolute, " ;") != NULL || strstr(absolute, " # ") != NULL ||
               strstr(absolute, "${") != NULL) {
        reason = xstrdup("a path in a configuration cannot hold ' ;', ' # ' or '${'");
    } else if (!config_is_text(absolute)) {
        reason = xstrdup("a path in a configuration is UTF-8 without control characters");
    }
    free(absolute);
    return reason;
}

static char *parse_string(const ConfigSlot *slot)
{
    return strstr(slot->text, "${") != NULL
               ? xstrdup("environment variables are replaced in paths only")
               : check_text(slot->text);
}

char *config_slot_parse(const ConfigTable *table, const ConfigKey *row, ConfigSlot *slot,
                        const char *origin_path)
{
    /* As the resolved configuration will write it, with the spaces that this line may have done without. Paths: below. */
    const size_t length = strlen(row->key) + strlen(" = ") + strlen(slot->text);
    if (row->type != CONFIG_PATH && length > CONFIG_LINE_MAX) {
        return xformat("the value is too long (%zu bytes as '%s = VALUE', a line holds %d)", length,
                       row->key, CONFIG_LINE_MAX);
    }
    const bool number = row->type == CONFIG_INT || row->type == CONFIG_FLOAT;
    if (number && slot->text[0] == '\0' && row->fallback != NULL && row->fallback[0] == '\0') {
        return NULL;
    }
    switch (row->type) {
    case CONFIG_STRING:
        return parse_string(slot);
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
    return row->type == CONFIG_BOOL  ? parse_bool(row, slot->text, slot->ints)
           : row->type == CONFIG_INT ? parse_int(row, slot->text, slot->ints)
                                     : parse_enum(table, row, slot->text, slot->ints);
}

void config_slot_free(ConfigSlot *slot)
{
    free(slot->text);
    free(slot->origin);
    free(slot->place);
    free(slot->ints);
    free(slot->floats);
    *slot = (ConfigSlot){0};
}
