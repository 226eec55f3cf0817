/* Small files of a run's folder. JSON is composed as text and parsed again before it is written: a mistake in composing
 * shows here, and the file comes out indented. */
#include "train/record_file.h"

#include "base/files.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static Err *make_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? xformat("%.*s", (int)(slash - path), path) : xstrdup(".");
    Err *err = dir_make(dir);
    free(dir);
    return err;
}

Err *record_write(const char *dir, const char *name, const void *data, size_t size)
{
    char *path = path_join(dir, name);
    Err *err = make_folder_of(path);
    if (!err) {
        err = file_write_atomic(path, data, size);
    }
    free(path);
    return err;
}

Err *record_write_json(const char *dir, const char *name, Text *json)
{
    json_error_t why;
    json_t *root = json_loadb(json->text, json->size, JSON_REJECT_DUPLICATES, &why);
    Err *err = NULL;
    if (root) {
        char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(15));
        CHECK(text, "%s/%s could not be encoded", dir, name);
        char *line = xformat("%s\n", text);
        err = record_write(dir, name, line, strlen(line));
        free(line);
        free(text);
    } else {
        err = err_new(EXIT_INTERNAL, "%s/%s is not written: what it should hold is no JSON (%s)",
                      dir, name, why.text);
    }
    json_decref(root);
    text_free(json);
    return err;
}

void record_text(Text *json, const char *key, const char *text)
{
    text_add(json, ",\"%s\":", key);
    if (text) {
        text_json(json, text);
    } else {
        text_puts(json, "null");
    }
}

double record_time(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
