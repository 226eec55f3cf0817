/* Files of a configuration. inih by itself gives handlers no line number, takes an indented line as a continuation, cuts
 * long lines and long section names silently and never reports a section without keys; so the lines reach it through a
 * reader of our own that counts them, follows the sections and replaces each bad line by an empty one after noting the
 * error. */
#include "base/config_hint.h"
#include "base/config_parts.h"
#include "base/files.h"
#include "base/near.h"

#include <ctype.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX_BYTES = 1 << 20, INCLUDE_DEPTH_MAX = 32 };

/* One file being read; `outer` is the file that includes it. */
typedef struct Source {
    const struct Source *outer;
    Config *config;
    const char *path; /* as named by the user or the include */
    char *real_path;  /* canonical, to find cycles */
    const char *next; /* rest of the text */
    int number, depth;
    int line;
    int value_column; /* of the line that inih sees */
    char *section;    /* NULL above the first; of an unknown section: what was written */
    bool section_known;
    bool include_seen;
} Source;

static void load_file(Config *config, const Source *outer, const char *path);

static ConfigPlace place_of(const Source *source)
{
    return (ConfigPlace){.path = source->path, .line = source->line, .source = source->number};
}

__attribute__((format(printf, 3, 4))) static void note(const Source *source, int column,
                                                       const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *message = xvformat(format, args);
    va_end(args);
    const ConfigPlace place = place_of(source);
    config_note(source->config, &place, column, "%s", message);
    free(message);
}

/* Characters before line[bytes], plus one. */
static int column_of(const char *line, size_t bytes)
{
    int column = 1;
    for (size_t i = 0; i < bytes; i++) {
        column += ((unsigned char)line[i] & 0xC0) != 0x80;
    }
    return column;
}

/* ---- Values ---- */

static void load_include(Source *source, const char *value)
{
    if (source->include_seen) {
        note(source, 1, "a second include; one is allowed");
        return;
    }
    source->include_seen = true;
    if (source->depth == INCLUDE_DEPTH_MAX) {
        note(source, 1, "include: more than %d files include one another", INCLUDE_DEPTH_MAX);
        return;
    }
    char *reason = NULL;
    char *path = value[0] != '\0' ? config_resolve_path(value, source->path, &reason) : NULL;
    if (path == NULL || path[0] == '\0') {
        note(source, source->value_column, "include: %s",
             reason != NULL ? reason : "the name of a file is missing");
    } else {
        load_file(source->config, source, path);
    }
    free(reason);
    free(path);
}

/* A key above the first section that is not `include`. */
static void note_homeless(const Source *source, const char *key)
{
    NearMiss near = near_start(key);
    near_offer(&near, "include");
    char *hint =
        near.best != NULL ? near_hint(&near) : config_hint_key(&source->config->table, NULL, key);
    note(source, 1, "'%s' stands before the first [section]%s", key, hint);
    free(hint);
}

/* The section itself was reported. A key of somebody else's section has its own answer; the others are passed over. */
static void note_foreign_key(const Source *source, const char *key)
{
    char *whole = xformat("%s.%s", source->section, key);
    char *hint = config_hint_key(&source->config->table, NULL, whole);
    if (hint[0] != '\0') {
        note(source, 1, "unknown key '%s' in [%s]%s", key, source->section, hint);
    }
    free(hint);
    free(whole);
}

static int on_value(void *user, const char *section, const char *key, const char *value)
{
    (void)section; /* inih cuts long names; ours is whole */
    Source *source = user;
    Config *config = source->config;
    if (source->section == NULL) {
        if (strcmp(key, "include") == 0) {
            load_include(source, value);
        } else {
            note_homeless(source, key);
        }
        return 1;
    }
    if (!source->section_known) {
        note_foreign_key(source, key);
        return 1;
    }
    if (strcmp(key, "include") == 0 &&
        config_key_index(&config->table, source->section, key) == config->table.key_count) {
        note(source, 1, "include must stand above the first [section]");
        return 1;
    }
    char *origin = xformat("%s:%d", source->path, source->line);
    ConfigPlace place = place_of(source);
    place.origin = origin;
    place.column = source->value_column;
    config_assign(config, &place, source->section, key, value);
    free(origin);
    return 1;
}

/* ---- Lines ---- */

static void see_section(const Source *source)
{
    Config *config = source->config;
    size_t i = 0;
    while (i < config->section_count && strcmp(config->sections[i].name, source->section) != 0) {
        i++;
    }
    if (i == config->section_count) {
        config->sections = xgrow(config->sections, &config->section_capacity,
                                 config->section_count + 1, sizeof *config->sections);
        config->sections[config->section_count++] =
            (ConfigSectionSeen){.name = xstrdup(source->section)};
    }
    ConfigSectionSeen *seen = &config->sections[i];
    free(seen->place);
    seen->place = xformat("%s:%d:1", source->path, source->line);
    seen->order = config->order;
}

/* Keeps `name` as the section of the following lines; an unknown one goes on as what was certainly meant. */
static void open_section(Source *source, char *name)
{
    const ConfigTable *table = &source->config->table;
    free(source->section);
    source->section = name;
    source->section_known = config_has_section(table, name);
    if (!source->section_known) {
        const char *meant = NULL;
        char *hint = config_hint_section(table, name, &meant);
        /* A suite's file and a run's are easily taken for each other. */
        const char *kind = strcmp(name, "suite") == 0
                               ? ": this is a suite, which 'cudistill suite FILE' runs"
                           : config_has_section(table, "suite")
                               ? ": a suite names configurations; 'cudistill train FILE' runs one"
                               : hint;
        note(source, 1, "unknown section [%s]%s", name, kind);
        free(hint);
        if (meant != NULL) {
            source->section = xstrdup(meant);
            source->section_known = true;
            free(name);
        }
    }
    if (source->section_known) {
        see_section(source);
    }
}

static void enter_section(Source *source, const char *line)
{
    const char *close = strchr(line, ']');
    char *name = close != NULL ? xformat("%.*s", (int)(close - line - 1), line + 1)
                               : config_trimmed(line + 1, line + strlen(line));
    char *trimmed = config_trimmed(name, name + strlen(name));
    const char *rest = close != NULL ? close + 1 : "";
    rest += strspn(rest, " \t");
    if (close == NULL) {
        note(source, column_of(line, strlen(line)), "']' is missing: write [%s]", trimmed);
    } else if (name[0] == '[') {
        note(source, 1, "one pair of brackets: write [%s]", trimmed + strspn(trimmed, "["));
    } else if (strcmp(name, trimmed) != 0) {
        note(source, 1, "no spaces inside the brackets: write [%s]", trimmed);
    } else if (*rest == '#' || *rest == ';') {
        note(source, column_of(line, (size_t)(rest - line)),
             "a comment behind [%s]; comments go on lines of their own", name);
    } else if (*rest != '\0') {
        note(source, column_of(line, (size_t)(rest - line)),
             "nothing may follow [%s] on its line; put '%s' on the next one", name, rest);
    }
    char *section = xstrdup(trimmed + strspn(trimmed, "["));
    free(name);
    free(trimmed);
    open_section(source, section);
}

/* True when every character of the line is text. */
static bool check_characters(const Source *source, const char *line)
{
    const size_t valid = config_utf8_length(line);
    if (line[valid] != '\0') {
        note(source, column_of(line, valid), "byte 0x%02X is not UTF-8: save the file as UTF-8",
             (unsigned)(unsigned char)line[valid]);
        return false;
    }
    /* inih skips a mark in line 1 of its own accord, and would see another line than this one. */
    if (strncmp(line, "\xEF\xBB\xBF", 3) == 0) {
        note(source, 1,
             "a byte-order mark: one may stand at the very beginning of a file, nowhere else");
        return false;
    }
    for (const char *at = line; *at != '\0'; at++) {
        const unsigned char c = (unsigned char)*at;
        if (c == '\r') {
            note(source, column_of(line, (size_t)(at - line)),
                 "a carriage return inside the line: save the file with Unix or Windows line ends");
            return false;
        }
        if ((c < 0x20 && c != '\t') || c == 0x7F) {
            note(source, column_of(line, (size_t)(at - line)),
                 "control character 0x%02X in the line", (unsigned)c);
            return false;
        }
    }
    return true;
}

/* A line `key = value`: true when inih may see it. */
static bool check_pair(Source *source, const char *line)
{
    const size_t name_length = strcspn(line, "=:");
    if (line[name_length] != '=' || name_length == 0) {
        char *hint = config_hint_line(line);
        note(source, 1, "expected 'key = value', '[section]' or a comment%s", hint);
        free(hint);
        return false;
    }
    const char *value = line + name_length + 1;
    value += strspn(value, " \t");
    source->value_column = column_of(line, (size_t)(value - line));
    /* Without a space before it, too: the resolved configuration writes one. */
    if (*value == ';' || config_has_inline_comment(line)) {
        note(source, column_of(line, strcspn(line, ";")),
             "a comment behind a value; comments go on lines of their own");
        return false;
    }
    const char *tab = strchr(value, '\t');
    if (tab != NULL && tab[strspn(tab, " \t")] != '\0') {
        note(source, column_of(line, (size_t)(tab - line)), "a tab inside the value; use spaces");
        return false;
    }
    return true;
}

/* True when inih may see the line. */
static bool check_line(Source *source, const char *line, size_t limit)
{
    const char *start = line + strspn(line, " \t\f\v");
    if (!check_characters(source, line) || *start == '\0' || *start == '#' || *start == ';') {
        return false;
    }
    if (strlen(line) > limit) {
        note(source, 1, "the line has %zu bytes, at most %zu are allowed", strlen(line), limit);
        return false;
    }
    if (start > line) {
        note(source, 1, "the line is indented; begin it in the first column");
        return false;
    }
    if (*line == '[') {
        enter_section(source, line);
        return false;
    }
    return check_pair(source, line);
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
    source->config->order++;
    if (length > 0 && line[length - 1] == '\r') {
        line[length - 1] = '\0';
    }
    const size_t room = (size_t)size - 2;
    const bool good = check_line(source, line, room < CONFIG_LINE_MAX ? room : CONFIG_LINE_MAX);
    (void)snprintf(buffer, (size_t)size, "%s\n", good ? line : "");
    free(line);
    return buffer;
}

/* ---- Files ---- */

static bool find_cycle(const Source *source, const char *real_path)
{
    for (const Source *at = source; at != NULL; at = at->outer) {
        if (strcmp(at->real_path, real_path) == 0) {
            return true;
        }
    }
    return false;
}

/* The line of the first NUL byte. */
static Err *locate_nul(const char *path, int *line)
{
    FileMap map;
    TRY(file_map(path, &map));
    const char *nul = memchr(map.data, '\0', map.size);
    *line = 1;
    for (const char *at = (const char *)map.data; nul != NULL && at < nul; at++) {
        *line += *at == '\n';
    }
    file_unmap(&map);
    return nul != NULL ? NULL : err_new(EXIT_BAD_DATA, "no NUL byte");
}

/* Why a file could not be read, at the include that names it, or in it, or about it. */
static void note_unreadable(Config *config, const Source *outer, const char *path, Err *err)
{
    ConfigPlace place = {.path = path};
    if (err->code == EXIT_BAD_DATA) {
        Err *lost = locate_nul(path, &place.line);
        if (lost == NULL) {
            config_note(config, &place, 0,
                        "a NUL byte: the file is not plain text (UTF-16? save it as UTF-8)");
        } else {
            config_note(config, &place, 0, "%s", err->message);
        }
        err_free(lost);
        return;
    }
    char *hint = err->code == EXIT_NO_INPUT ? config_hint_file(path) : xstrdup("");
    if (outer != NULL) {
        note(outer, outer->value_column, "include: %s%s", err->message, hint);
    } else {
        config_note(config, &place, 0, "%s%s", err->message, hint);
        config->code = err->code;
        config->empty = true;
    }
    free(hint);
}

static void read_lines(Config *config, const Source *outer, const char *path, const char *text,
                       char *real_path)
{
    const bool has_bom = strncmp(text, "\xEF\xBB\xBF", 3) == 0;
    Source source = {.outer = outer,
                     .config = config,
                     .path = path,
                     .real_path = real_path,
                     .next = text + (has_bom ? 3 : 0),
                     .depth = outer != NULL ? outer->depth + 1 : 0,
                     .number = config->file_count++};
    const int result = ini_parse_stream(next_line, &source, on_value, &source);
    CHECK(result == 0, "inih stopped in line %d of '%s', which had passed our checks", result,
          path);
    free(source.section);
}

static void load_file(Config *config, const Source *outer, const char *path)
{
    char *text = NULL;
    Err *err = file_read_text(path, FILE_MAX_BYTES, &text);
    if (err != NULL) {
        note_unreadable(config, outer, path, err);
        err_free(err);
        return;
    }
    char *real_path = realpath(path, NULL);
    if (real_path == NULL) {
        real_path = xstrdup(path);
    }
    if (find_cycle(outer, real_path)) {
        note(outer, outer->value_column,
             "include: '%s' is being read already; it would include itself", path);
    } else {
        read_lines(config, outer, path, text, real_path);
    }
    free(real_path);
    free(text);
}

void config_read_file(Config *config, const char *path)
{
    load_file(config, NULL, path);
}
