/* `cudistill inspect`: what a file is, by its content, and what is in it. */
#include "cli/commands.h"

#include "cli/inspect.h"
#include "io/npy.h"
#include "train/rundir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void inspect_text(Text *out, const char *text)
{
    Text whole = {0};
    text_utf8(&whole, text);
    for (size_t i = 0; i < whole.size; i++) {
        const unsigned char c = (unsigned char)whole.text[i];
        /* U+0080 to U+009F are control characters, too: C2 80 to C2 9F. */
        const bool c1 = c == 0xC2 && (unsigned char)whole.text[i + 1] < 0xA0;
        if (c < 0x20 || c == 0x7F || c1) {
            text_puts(out, "?");
            i += c1;
        } else {
            text_bytes(out, whole.text + i, 1);
        }
    }
    text_puts(out, "");
    text_free(&whole);
}

/* ---- What it is ---- */

static bool has_file(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    const bool there = path_exists(path);
    free(path);
    return there;
}

static Err *folder_holds(const char *dir, const char *begin, const char *end, bool *result)
{
    char **names = NULL;
    size_t count = 0;
    *result = false;
    TRY(dir_list(dir, &names, &count));
    for (size_t i = 0; i < count && !*result; i++) {
        const size_t length = strlen(names[i]);
        *result = strncmp(names[i], begin, strlen(begin)) == 0 && length >= strlen(end) &&
                  strcmp(names[i] + length - strlen(end), end) == 0;
    }
    names_free(names, count);
    return NULL;
}

static Err *inspect_folder(const char *path, InspectOptions options, Text *out)
{
    if (has_file(path, "MANIFEST")) {
        return inspect_checkpoint(path, options, out);
    }
    if (has_file(path, RUN_MANIFEST)) {
        return inspect_run(path, options, out);
    }
    bool checkpoints = false;
    bool arrays = false;
    TRY(folder_holds(path, "step-", "", &checkpoints));
    if (checkpoints) {
        return inspect_checkpoints(path, options, out);
    }
    TRY(folder_holds(path, "", ".npy", &arrays));
    if (arrays) {
        return inspect_arrays(path, options, out);
    }
    return err_new(EXIT_BAD_DATA,
                   "the folder '%s' is neither a run nor a checkpoint nor a folder "
                   "of .npy files; name a file in it",
                   path);
}

/* The first record of an event file is its version: a length, a checksum, an Event with its wall time (field 1) first. */
static bool is_events(const FileMap *map)
{
    enum { HEAD = 12, VERSION_WITHIN = 128 };
    static const char version[] = "brain.Event:";
    const size_t size = map->size < VERSION_WITHIN ? map->size : VERSION_WITHIN;
    return size > HEAD && map->data[HEAD] == 0x09 &&
           memmem(map->data, size, version, sizeof version - 1) != NULL;
}

/* A ModelProto begins with its IR version (field 1, a small number), then the producer or an import. */
static bool is_onnx(const FileMap *map)
{
    static const uint8_t next[] = {0x12, 0x1A, 0x22, 0x3A, 0x42};
    return map->size > 3 && map->data[0] == 0x08 && map->data[1] > 0 && map->data[1] < 32 &&
           memchr(next, map->data[2], sizeof next) != NULL;
}

static void add_onnx(const char *path, InspectOptions options, Text *out)
{
    if (!options.json) {
        text_add(out, "%s: ONNX model; look at it with netron, or onnx.load in Python\n", path);
        return;
    }
    text_puts(out, "{\"path\":");
    text_json(out, path);
    text_puts(out, ",\"kind\":\"onnx\"}\n");
}

static Err *inspect_map(const char *path, const FileMap *map, InspectOptions options, Text *out)
{
    if (is_events(map)) {
        return inspect_events(path, map, options, out);
    }
    const WeightsKind kind = weights_kind(map->data, map->size);
    if (kind == WEIGHTS_UNKNOWN) {
        if (is_onnx(map)) {
            add_onnx(path, options, out);
            return NULL;
        }
        return err_new(EXIT_BAD_DATA,
                       "'%s' does not begin as safetensors, .pth, .npy, TensorBoard events or ONNX "
                       "does; it is damaged or of another kind",
                       path);
    }
    WeightsFile *file = NULL;
    TRY(kind == WEIGHTS_NPY ? npy_open_memory(path, map->data, map->size, &file)
                            : weights_open_memory(path, map->data, map->size, &file));
    if (kind == WEIGHTS_PTH) {
        inspect_weights(path, "pth",
                        map->data[0] == 'P' ? ".pth (torch 1.6 and later), read as data"
                                            : ".pth (before torch 1.6), read as data",
                        file, options, out);
    } else {
        const char *name = kind == WEIGHTS_NPY ? "npy" : "safetensors";
        inspect_weights(path, name, name, file, options, out);
    }
    weights_close(file);
    return NULL;
}

Err *inspect_path(const char *path, InspectOptions options, Text *out)
{
    if (path_is_dir(path)) {
        return inspect_folder(path, options, out);
    }
    FileMap map;
    TRY(file_map(path, &map));
    Err *err = inspect_map(path, &map, options, out);
    file_unmap(&map);
    return err;
}

/* ---- The command ---- */

static Err *run(const Args *args)
{
    const InspectOptions options = {.json = args_flag(args, "json"),
                                    .stats = args_flag(args, "stats")};
    for (size_t i = 0; i < args_count(args); i++) {
        Text out = {0};
        Err *err = inspect_path(args_at(args, i), options, &out);
        if (err == NULL && out.size > 0 &&
            (fwrite(out.text, 1, out.size, stdout) != out.size || fflush(stdout) != 0) &&
            errno != EPIPE) {
            err = err_new(EXIT_IO, "cannot write to standard output: %s", strerror(errno));
        }
        text_free(&out);
        TRY(err);
    }
    return NULL;
}

static const ArgOption options_table[] = {
    {.name = "stats",
     .kind = ARG_FLAG,
     .help = "of each tensor the least, greatest and mean value, and how many are not finite"},
    {.name = "json", .kind = ARG_FLAG, .help = "one JSON object a file, on a line"},
};
static const char *const examples[] = {
    "cudistill inspect teacher.pth --stats", "cudistill inspect runs/quick/checkpoints/latest",
    "cudistill inspect runs/quick/tb/events.out.tfevents.*",
    "cudistill inspect student.safetensors --json | jq .model", NULL};

const Command command_inspect = {
    .name = "inspect",
    .arguments = "FILE...",
    .argument_kind = ARG_FILE,
    .min_arguments = 1,
    .max_arguments = -1,
    .summary = "what is in a file: weights, checkpoint, run, events",
    .details = "Safetensors, .pth of any age, .npy, TensorBoard events, the folder of a run, of "
               "its checkpoints, or of .npy files; content decides, not the name. Of weights, each "
               "tensor, the sums, and the network that has exactly these tensors. Of a "
               "checkpoint, every file is compared with its MANIFEST.\n\nA .pth is a pickle: it is "
               "read as data, nothing in it is run.",
    .options = options_table,
    .option_count = sizeof options_table / sizeof options_table[0],
    .examples = examples,
    .run = run};
