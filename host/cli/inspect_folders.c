/* Folders: a checkpoint, several of them, a run. MANIFEST and state.json are read as train/ writes them; a JSON document
 * that is shown whole is parsed first, so that what is printed is JSON again. */
#include "cli/inspect.h"

#include "train/checkpoint.h"
#include "train/rundir.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { JSON_MAX_BYTES = 64 << 20, KEY_WIDTH = 18 };

static Err *read_json(const char *dir, const char *name, json_t **out)
{
    char *path = path_join(dir, name);
    char *text = NULL;
    *out = NULL;
    Err *err = file_read_text(path, JSON_MAX_BYTES, &text);
    if (err == NULL) {
        json_error_t error;
        *out = json_loads(text, JSON_REJECT_DUPLICATES, &error);
        if (*out == NULL || !json_is_object(*out)) {
            err = err_new(EXIT_BAD_DATA, "'%s', line %d, column %d: %s; the file is damaged", path,
                          error.line, error.column,
                          *out == NULL ? error.text : "it is not an object");
            json_decref(*out);
            *out = NULL;
        }
    }
    free(text);
    free(path);
    return err;
}

/* "  key  value" for a plain value; objects, lists and null are left out. */
static void add_value(const char *key, const json_t *value, Text *out)
{
    if (json_is_object(value) || json_is_array(value) || json_is_null(value)) {
        return;
    }
    text_puts(out, "  ");
    Text name = {0};
    inspect_text(&name, key);
    text_add(out, "%-*s ", KEY_WIDTH, name.text);
    text_free(&name);
    if (json_is_string(value)) {
        inspect_text(out, json_string_value(value));
    } else {
        char *text = json_dumps(
            value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(json_real_value(value) > 1e6 ? 13 : 6));
        text_puts(out, text != NULL ? text : "?");
        free(text);
    }
    text_puts(out, "\n");
}

static void add_object(const json_t *object, Text *out)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)object, key, value)
    {
        add_value(key, value, out);
    }
}

/* `,"key":{...}` */
static void add_json(const char *key, const json_t *value, Text *out)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(17));
    text_add(out, ",\"%s\":%s", key, text != NULL ? text : "null");
    free(text);
}

static void add_kind(const char *path, const char *kind, const char *words, InspectOptions options,
                     Text *out)
{
    if (options.json) {
        text_puts(out, "{\"path\":");
        text_json(out, path);
        text_add(out, ",\"kind\":\"%s\"", kind);
    } else {
        text_add(out, "%s: %s\n", path, words);
    }
}

static size_t size_of(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    struct stat info;
    const bool known = stat(path, &info) == 0 && S_ISREG(info.st_mode);
    free(path);
    return known ? (size_t)info.st_size : 0;
}

/* ---- A checkpoint ---- */

/* One file of the checkpoint with its hash. */
static Err *add_file(const char *dir, const char *name, InspectOptions options, bool first,
                     Text *out)
{
    char *path = path_join(dir, name);
    char hash[33];
    Err *err = file_hash_hex(path, hash);
    free(path);
    TRY(err);
    if (options.json) {
        text_puts(out, first ? "{\"name\":" : ",{\"name\":");
        text_json(out, name);
        text_add(out, ",\"bytes\":%zu,\"xxh3\":\"%s\"}", size_of(dir, name), hash);
    } else {
        text_add(out, "  %s %12zu  ", hash, size_of(dir, name));
        inspect_text(out, name);
        text_puts(out, "\n");
    }
    return NULL;
}

static Err *add_files(const char *dir, InspectOptions options, Text *out)
{
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(dir, &names, &count));
    text_puts(out, options.json ? ",\"files\":[" : "");
    Err *err = NULL;
    for (size_t i = 0; i < count && err == NULL; i++) {
        err = add_file(dir, names[i], options, i == 0, out);
    }
    names_free(names, count);
    text_puts(out, options.json ? "]" : "");
    return err;
}

static Err *add_student(const char *dir, InspectOptions options, Text *out)
{
    char *path = path_join(dir, "model.safetensors");
    WeightsFile *file = NULL;
    Err *err = path_exists(path) ? weights_open(path, &file) : NULL;
    if (file != NULL) {
        text_puts(out, options.json ? ",\"weights\":" : "");
        inspect_weights(path, "safetensors", "safetensors", file, options, out);
        out->size -= options.json; /* its line end */
    }
    weights_close(file);
    free(path);
    return err;
}

Err *inspect_checkpoint(const char *path, InspectOptions options, Text *out)
{
    TRY(checkpoint_verify(path));
    add_kind(path, "checkpoint", "a checkpoint; all files are as its MANIFEST says", options, out);
    json_t *state = NULL;
    TRY(read_json(path, "state.json", &state));
    if (options.json) {
        add_json("state", state, out);
    } else {
        add_object(state, out);
    }
    json_decref(state);
    TRY(add_files(path, options, out));
    TRY(add_student(path, options, out));
    text_puts(out, options.json ? "}\n" : "");
    return NULL;
}

/* ---- A folder of checkpoints ---- */

static void add_checkpoint(const char *dir, const char *name, InspectOptions options, bool first,
                           Text *out)
{
    char *path = path_join(dir, name);
    Err *err = checkpoint_verify(path);
    if (options.json) {
        text_puts(out, first ? "{\"name\":" : ",{\"name\":");
        text_json(out, name);
        text_add(out, ",\"whole\":%s,\"message\":", err == NULL ? "true" : "false");
        text_json(out, err == NULL ? "" : err->message);
        text_puts(out, "}");
    } else {
        text_puts(out, "  ");
        inspect_text(out, name);
        text_puts(out, err == NULL ? "  whole\n" : "  damaged: ");
        if (err != NULL) {
            inspect_text(out, err->message);
            text_puts(out, "\n");
        }
    }
    err_free(err);
    free(path);
}

Err *inspect_checkpoints(const char *path, InspectOptions options, Text *out)
{
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(path, &names, &count));
    add_kind(path, "checkpoints", "checkpoints", options, out);
    text_puts(out, options.json ? ",\"checkpoints\":[" : "");
    bool first = true;
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], "step-", 5) == 0) {
            add_checkpoint(path, names[i], options, first, out);
            first = false;
        }
    }
    names_free(names, count);
    text_puts(out, options.json ? "]}\n" : "");
    return NULL;
}

/* ---- A run ---- */

static void add_names(const char *path, char **names, size_t count, InspectOptions options,
                      Text *out)
{
    text_puts(out, options.json ? ",\"files\":[" : "files\n");
    for (size_t i = 0; i < count; i++) {
        char *file = path_join(path, names[i]);
        const bool folder = path_is_dir(file);
        free(file);
        if (options.json) {
            text_puts(out, i > 0 ? ",{\"name\":" : "{\"name\":");
            text_json(out, names[i]);
            text_add(out, ",\"folder\":%s,\"bytes\":%zu}", folder ? "true" : "false",
                     size_of(path, names[i]));
            continue;
        }
        text_puts(out, "  ");
        if (folder) {
            text_add(out, "%12s  ", "folder");
        } else {
            text_add(out, "%12zu  ", size_of(path, names[i]));
        }
        inspect_text(out, names[i]);
        text_puts(out, "\n");
    }
    text_puts(out, options.json ? "]" : "");
}

static void add_manifest(const json_t *manifest, InspectOptions options, Text *out)
{
    if (options.json) {
        add_json("manifest", manifest, out);
        return;
    }
    static const char *const parts[] = {"dataset", "result"};
    add_object(manifest, out);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const json_t *part = json_object_get(manifest, parts[i]);
        if (json_is_object(part)) {
            text_add(out, "%s\n", parts[i]);
            add_object(part, out);
        }
    }
}

Err *inspect_run(const char *path, InspectOptions options, Text *out)
{
    json_t *manifest = NULL;
    TRY(read_json(path, RUN_MANIFEST, &manifest));
    char **names = NULL;
    size_t count = 0;
    Err *err = dir_list(path, &names, &count);
    if (err == NULL) {
        add_kind(path, "run", "the folder of a run", options, out);
        add_manifest(manifest, options, out);
        add_names(path, names, count, options, out);
        text_puts(out, options.json ? "}\n" : "");
    }
    names_free(names, count);
    json_decref(manifest);
    return err;
}
