/* Suggestions for mistaken sections, keys, lines, variables and files. A key is looked for, in this order: in its section
 * as other programs spell it, in its section as a near miss, in other sections, among the names of other programs, and as a
 * near miss anywhere. */
#include "base/config_hint.h"

#include "base/config_value.h"
#include "base/files.h"
#include "base/near.h"
#include "base/text.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

extern char **environ;

enum { NAME_MAX_BYTES = 64 };

/* ---- The table ---- */

size_t config_key_index(const ConfigTable *table, const char *section, const char *key)
{
    size_t i = 0;
    while (i < table->key_count &&
           (strcmp(table->keys[i].section, section) != 0 || strcmp(table->keys[i].key, key) != 0)) {
        i++;
    }
    return i;
}

bool config_has_section(const ConfigTable *table, const char *section)
{
    for (size_t i = 0; i < table->key_count; i++) {
        if (strcmp(table->keys[i].section, section) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_in(const ConfigKey *row, const char *section)
{
    return section != NULL && strcmp(row->section, section) == 0;
}

/* ---- Names of other programs ---- */

typedef struct {
    const ConfigNames *row;
    const char *origin; /* NULL: of no program in particular */
    char name[NAME_MAX_BYTES];
    int rank; /* lower is better */
} Foreign;

enum { RANK_EXACT, RANK_FOLDED, RANK_TAIL, RANK_NONE = 1000, RANK_ELSEWHERE = 10 };

static const char *without_dashes(const char *text)
{
    return text + strspn(text, "-");
}

static int rank_name(const char *word, const char *name)
{
    const char *dot = strrchr(name, '.');
    return strcmp(word, name) == 0                   ? RANK_EXACT
           : near_same(word, name)                   ? RANK_FOLDED
           : dot != NULL && near_same(word, dot + 1) ? RANK_TAIL
                                                     : RANK_NONE;
}

/* Compares `word` with each of the names "a|b" of one column. */
static void offer_names(Foreign *best, const ConfigNames *row, const char *names,
                        const char *origin, const char *word, int penalty)
{
    for (const char *at = names; at != NULL;) {
        const size_t length = strcspn(at, "|");
        Foreign found = {.row = row, .origin = origin};
        if (length < sizeof found.name) {
            memcpy(found.name, at, length);
            const char *bare = without_dashes(found.name);
            memmove(found.name, bare, strlen(bare) + 1);
            found.rank = rank_name(word, found.name) + penalty;
            if (found.rank < best->rank) {
                *best = found;
            }
        }
        at = at[length] == '|' ? at + length + 1 : NULL;
    }
}

/* best.row is NULL where no program has the word. `section`: where it was written, preferred; or NULL. */
static Foreign find_foreign(const ConfigTable *table, const char *section, const char *written)
{
    const char *word = without_dashes(written);
    Foreign best = {.rank = RANK_NONE};
    for (size_t i = 0; i < table->name_count; i++) {
        const ConfigNames *row = &table->names[i];
        const bool here = section != NULL && strcmp(row->section, section) == 0;
        for (int k = 0; k < CONFIG_NAME_ORIGINS; k++) {
            offer_names(&best, row, row->names[k], table->origins[k], word,
                        here ? 0 : RANK_ELSEWHERE);
        }
    }
    return best;
}

static char *foreign_hint(const Foreign *foreign)
{
    return foreign->origin != NULL
               ? xformat("; %s's %s is %s.%s here", foreign->origin, foreign->name,
                         foreign->row->section, foreign->row->key)
               : xformat("; did you mean '%s.%s'?", foreign->row->section, foreign->row->key);
}

/* ---- Keys ---- */

/* Near misses inside the section: NEAR_NEVER where it has none. */
static NearMiss near_in_section(const ConfigTable *table, const char *section, const char *key)
{
    NearMiss near = near_start(key);
    for (size_t i = 0; i < table->key_count; i++) {
        if (is_in(&table->keys[i], section)) {
            near_offer(&near, table->keys[i].key);
        }
    }
    return near;
}

static bool is_sure(const NearMiss *near, const char *key)
{
    const size_t slips = strlen(key) < 5 ? 1 : 2;
    return near->best != NULL && near->best_cost < (slips + 1) * NEAR_SLIP;
}

/* " [a], [b] or [c]": all sections that have the key, or NULL. */
static char *other_sections(const ConfigTable *table, const char *key)
{
    size_t count = 0;
    for (size_t i = 0; i < table->key_count; i++) {
        count += near_same(table->keys[i].key, key);
    }
    if (count == 0) {
        return NULL;
    }
    Text text = {0};
    size_t written = 0;
    for (size_t i = 0; i < table->key_count; i++) {
        if (near_same(table->keys[i].key, key)) {
            written++;
            text_add(&text, "%s[%s]",
                     written == 1       ? " "
                     : written == count ? " or "
                                        : ", ",
                     table->keys[i].section);
        }
    }
    return text.text;
}

/* The key with the nearest name in any section, or "". Of a dotted key both parts count. */
static char *near_anywhere(const ConfigTable *table, const char *key)
{
    const ConfigKey *best = NULL;
    size_t best_cost = NEAR_NEVER;
    const char *dot = strchr(key, '.');
    for (size_t i = 0; i < table->key_count; i++) {
        const ConfigKey *row = &table->keys[i];
        size_t cost = near_cost(dot != NULL ? dot + 1 : key, row->key);
        if (dot != NULL) {
            char *section = xformat("%.*s", (int)(dot - key), key);
            const size_t apart = near_cost(section, row->section);
            cost += apart < NEAR_NEVER ? apart : 2 * NEAR_SLIP;
            free(section);
        }
        if (cost < best_cost) {
            best = row;
            best_cost = cost;
        }
    }
    return best != NULL ? xformat("; did you mean '%s.%s'?", best->section, best->key)
                        : xstrdup("");
}

/* A dotted key in a file: "optim.lr = 0.1". */
static char *dotted_hint(const ConfigTable *table, const char *key)
{
    const char *dot = strchr(key, '.');
    if (dot == NULL) {
        return NULL;
    }
    char *section = xformat("%.*s", (int)(dot - key), key);
    const size_t index = config_key_index(table, section, dot + 1);
    free(section);
    return index < table->key_count ? xformat("; write '%s' below [%s]", table->keys[index].key,
                                              table->keys[index].section)
                                    : NULL;
}

char *config_hint_key(const ConfigTable *table, const char *section, const char *key)
{
    const Foreign foreign = find_foreign(table, section, key);
    const NearMiss near = near_in_section(table, section, without_dashes(key));
    if (near.best != NULL && near.best_cost == 0) {
        return near_hint(&near);
    }
    if (foreign.rank < RANK_ELSEWHERE) {
        return foreign_hint(&foreign);
    }
    char *sections = other_sections(table, key);
    if (is_sure(&near, key)) {
        char *both = sections != NULL ? xformat("; did you mean '%s'? '%s' belongs to%s", near.best,
                                                key, sections)
                                      : near_hint(&near);
        free(sections);
        return both;
    }
    char *hint =
        sections != NULL ? xformat("; it belongs to%s", sections) : dotted_hint(table, key);
    free(sections);
    if (hint == NULL && foreign.row != NULL) {
        hint = foreign_hint(&foreign);
    }
    if (hint == NULL && near.best != NULL) {
        hint = near_hint(&near);
    }
    return hint != NULL ? hint : near_anywhere(table, key);
}

/* ---- Sections ---- */

/* "; mdistiller's SOLVER is spread over [optim], [schedule] and [train] here", or NULL. */
static char *foreign_section(const ConfigTable *table, const char *section)
{
    const size_t length = strlen(section);
    Text found = {0};
    const char *origin = NULL;
    for (size_t i = 0; i < table->name_count; i++) {
        for (int k = 0; k < CONFIG_NAME_ORIGINS; k++) {
            const char *name = table->names[i].names[k];
            const bool dotted =
                name != NULL && strncasecmp(name, section, length) == 0 && name[length] == '.';
            const bool new_one =
                found.text == NULL || strstr(found.text, table->names[i].section) == NULL;
            if (dotted && new_one) {
                origin = table->origins[k];
                text_add(&found, "%s[%s]", found.text != NULL ? ", " : "", table->names[i].section);
            }
        }
    }
    char *hint = origin != NULL
                     ? xformat("; what %s has in %s is in %s here", origin, section, found.text)
                     : NULL;
    text_free(&found);
    return hint;
}

char *config_hint_section(const ConfigTable *table, const char *section, const char **meant)
{
    *meant = NULL;
    NearMiss near = near_start(section);
    for (size_t i = 0; i < table->key_count; i++) {
        near_offer(&near, table->keys[i].section);
    }
    if (near.best != NULL && near.best_cost == 0) {
        *meant = near.best;
        return near_hint(&near);
    }
    char *hint = foreign_section(table, section);
    if (hint != NULL) {
        return hint;
    }
    if (near.best != NULL) {
        *meant = is_sure(&near, section) ? near.best : NULL;
        return near_hint(&near);
    }
    char *key = other_sections(table, section);
    hint = key != NULL ? xformat("; '%s' is a key of%s", section, key) : xstrdup("");
    free(key);
    return hint;
}

/* ---- Lines ---- */

static bool is_name(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)text[i]) && strchr("_-.", text[i]) == NULL) {
            return false;
        }
    }
    return length > 0;
}

char *config_hint_line(const char *line)
{
    const char *start = without_dashes(line);
    const size_t length = strcspn(start, "=: \t");
    const char *value = start + length;
    value += strspn(value, "=: \t");
    if (!is_name(start, length)) {
        return xstrdup("");
    }
    if (*value != '\0') {
        return xformat("; write '%.*s = %s'", (int)length, start, value);
    }
    return start[length] == ':' ? xformat("; a section is written [%.*s]", (int)length, start)
                                : xstrdup("");
}

/* ---- Variables and files ---- */

char *config_hint_env(const char *name)
{
    size_t best_cost = NEAR_NEVER;
    char *best = NULL;
    for (char **at = environ; at != NULL && *at != NULL; at++) {
        char *candidate = xformat("%.*s", (int)strcspn(*at, "="), *at);
        const size_t cost = near_cost(name, candidate);
        /* Many variables begin with the name of a program that is a variable itself: no abbreviations. */
        const size_t n = strlen(name);
        const size_t m = strlen(candidate);
        const bool begins = strncmp(name, candidate, n < m ? n : m) == 0;
        if (cost < best_cost && !begins) {
            best_cost = cost;
            free(best);
            best = xstrdup(candidate);
        }
        free(candidate);
    }
    char *hint = best != NULL ? xformat("; did you mean ${%s}?", best) : xstrdup("");
    free(best);
    return hint;
}

char *config_hint_file(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash == NULL ? xstrdup(".") : xformat("%.*s", (int)(slash - path) + 1, path);
    char **names = NULL;
    size_t count = 0;
    Err *err = dir_list(dir, &names, &count);
    free(dir);
    if (err != NULL) {
        err_free(err);
        return xstrdup("");
    }
    NearMiss near = near_start(slash != NULL ? slash + 1 : path);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], near.word) != 0) { /* a folder in place of a file */
            near_offer(&near, names[i]);
        }
    }
    char *hint = near_hint(&near);
    names_free(names, count);
    return hint;
}
