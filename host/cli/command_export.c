/* `cudistill export`. */
#include "cli/commands.h"

#include "base/files.h"
#include "cli/triple.h"
#include "models/models.h"
#include "models/onnx.h"
#include "train/rundir.h"
#include "train/settings.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BATCH = 1 << 20, MAX_SIDE = 1 << 14, MANIFEST_BYTES = 16 << 20 };

/* What the source of the weights says, owned; then the options go over it. */
typedef struct {
    char *weights; /* path of the file */
    char hash[33]; /* of its contents */
    Settings settings;
    OnnxExport what;
} Source;

static void source_free(Source *source)
{
    settings_free(&source->settings);
    free(source->weights);
}

/* Side of the run's pictures; 0 when its manifest does not say. */
static int manifest_size(const char *run)
{
    char *const path = path_join(run, RUN_MANIFEST);
    char *text = NULL;
    Err *const err = file_read_text(path, MANIFEST_BYTES, &text);
    json_t *const root = err ? NULL : json_loads(text, 0, NULL);
    const json_int_t size =
        json_integer_value(json_object_get(json_object_get(root, "dataset"), "size"));
    json_decref(root);
    free(text);
    free(path);
    err_free(err);
    return size > 0 && size <= MAX_SIDE ? (int)size : 0;
}

static Err *source_of_run(const char *run, bool last, Source *source)
{
    char *const config = path_join(run, RUN_CONFIG);
    Err *err = path_exists(config)
                   ? settings_load(config, NULL, 0, &source->settings)
                   : err_new(EXIT_NO_INPUT,
                             "%s: a folder without %s: name a run's folder or a weight file", run,
                             RUN_CONFIG);
    free(config);
    TRY(err);
    source->weights =
        path_join(run, last ? "student_last.safetensors" : "student_best.safetensors");
    if (!path_exists(source->weights)) {
        return err_new(EXIT_NO_INPUT, "%s is not there: %s", source->weights,
                       last
                           ? "it is written when the run has finished; --best takes the best so far"
                           : "it is written after the first evaluation");
    }
    source->what.model = source->settings.student_model;
    source->what.own_moments = true;
    memcpy(source->what.mean, source->settings.mean, sizeof source->what.mean);
    memcpy(source->what.std, source->settings.std, sizeof source->what.std);
    source->what.size = manifest_size(run);
    source->what.own_size = source->what.size > 0;
    return NULL;
}

static Err *read_batch(const Args *args, int *batch)
{
    const char *const text = args_text(args, "batch", "dynamic");
    if (strcmp(text, "dynamic") == 0) {
        *batch = 0;
        return NULL;
    }
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < 1 || value > MAX_BATCH) {
        return err_new(EXIT_USAGE_ERR, "--batch '%s': a number from 1 to %d, or dynamic, is needed",
                       text, MAX_BATCH);
    }
    *batch = (int)value;
    return NULL;
}

static Err *read_options(const Args *args, OnnxExport *what)
{
    what->model = args_text(args, "model", what->model);
    what->opset = (int)args_int(args, "opset", ONNX_OPSET_DEFAULT);
    what->bytes = args_choice(args, "input", 0) == 1;
    what->fold = args_flag(args, "fold");
    if (args_given(args, "size")) {
        what->own_size = true;
        what->size = (int)args_int(args, "size", 0);
    }
    TRY(read_batch(args, &what->batch));
    if (args_given(args, "mean") != args_given(args, "std")) {
        return err_new(EXIT_USAGE_ERR, "--mean and --std belong together: give both or neither");
    }
    what->own_moments = what->own_moments || args_given(args, "mean");
    TRY(args_triple(args, "mean", 0.0f, what->mean));
    return args_triple(args, "std", 1e-6f, what->std);
}

static const char *base_name(const char *path)
{
    const char *const slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void print_written(const char *path, const OnnxExport *what, const OnnxWritten *w)
{
    char batch[16] = "batch";
    if (what->batch > 0) {
        (void)snprintf(batch, sizeof batch, "%d", what->batch);
    }
    printf("%s  %s  images [%s,3,%d,%d] %s -> logits [%s,%d]  %.1f MB\n", path, w->model, batch,
           w->size, w->size, what->bytes ? "uint8" : "float32", batch, w->classes,
           (double)w->bytes * 1e-6);
    printf("%s: (pixel / 255 - mean) / std, mean %g,%g,%g, std %g,%g,%g\n",
           what->bytes ? "normalised in the graph" : "normalise before", (double)w->mean[0],
           (double)w->mean[1], (double)w->mean[2], (double)w->std[0], (double)w->std[1],
           (double)w->std[2]);
}

static Err *export_source(const char *path, Source *source)
{
    TRY(file_hash_hex(source->weights, source->hash));
    source->what.hash = source->hash;
    source->what.weights = base_name(source->weights);
    WeightsFile *weights;
    TRY(weights_open(source->weights, &weights));
    OnnxWritten written;
    Err *const err = onnx_export(path, weights, &source->what, &written);
    weights_close(weights);
    TRY(err_context(err, "%s", source->weights));
    print_written(path, &source->what, &written);
    return NULL;
}

static Err *run(const Args *args)
{
    const char *const path = args_text(args, "onnx", NULL);
    if (!path) {
        return err_new(
            EXIT_USAGE_ERR,
            "export: --onnx is missing; usage: cudistill export WEIGHTS|RUN --onnx OUT.onnx");
    }
    const char *const from = args_at(args, 0);
    const bool last = args_flag(args, "last");
    const bool best = args_flag(args, "best");
    Source source = {0};
    Err *err = NULL;
    if (best && last) {
        err = err_new(EXIT_USAGE_ERR, "export: --best and --last exclude each other");
    } else if (path_is_dir(from)) {
        err = source_of_run(from, last, &source);
    } else if (best || last) {
        err = err_new(EXIT_USAGE_ERR, "--%s is for the folder of a run, and '%s' is none",
                      best ? "best" : "last", from);
    } else {
        source.weights = xstrdup(from);
    }
    if (!err) {
        err = read_options(args, &source.what);
    }
    if (!err) {
        err = export_source(path, &source);
    }
    source_free(&source);
    return err;
}

static const ArgOption options[] = {
    {.name = "onnx",
     .kind = ARG_FILE,
     .metavar = "OUT.onnx",
     .help = "where to write; a file that is there is replaced"},
    {.name = "model",
     .kind = ARG_MODEL,
     .metavar = "NAME",
     .help = "network (the one that the tensors are those of)"},
    {.name = "best", .kind = ARG_FLAG, .help = "of a run: the best weights (default)"},
    {.name = "last", .kind = ARG_FLAG, .help = "of a run: the weights of its end"},
    {.name = "batch",
     .kind = ARG_TEXT,
     .metavar = "N|dynamic",
     .help = "images of one call (dynamic: any number)"},
    {.name = "opset",
     .kind = ARG_INT,
     .metavar = "N",
     .min = ONNX_OPSET_MIN,
     .max = ONNX_OPSET_MAX,
     .help = "version of ONNX's operators (17)"},
    {.name = "input",
     .kind = ARG_CHOICE,
     .choices = "float|uint8",
     .help = "float: normalised images; uint8: pixels, which the graph normalises (float)"},
    {.name = "fold",
     .kind = ARG_FLAG,
     .help = "fold batch norm into the convolutions before it (kept as it is)"},
    {.name = "size",
     .kind = ARG_INT,
     .metavar = "PIXELS",
     .min = 1,
     .max = MAX_SIDE,
     .help = "side of the images (the run's, or what the network is made for: 32 or 224)"},
    {.name = "mean",
     .kind = ARG_TEXT,
     .metavar = "R,G,B",
     .help = "normalisation (the run's; CIFAR-100's at 32 pixels, else ImageNet's)"},
    {.name = "std", .kind = ARG_TEXT, .metavar = "R,G,B", .help = "normalisation, as --mean"},
};
static const char *const examples[] = {
    "cudistill export runs/first --onnx student.onnx",
    "cudistill export runs/first --last --onnx student.onnx --input uint8 --fold",
    "cudistill export wrn_16_2.pth --onnx wrn_16_2.onnx --batch 1", NULL};

const Command command_export = {
    .name = "export",
    .arguments = "WEIGHTS|RUN",
    .argument_kind = ARG_FILE,
    .min_arguments = 1,
    .max_arguments = 1,
    .summary = "a network as an ONNX file",
    .details = "From a weight file (safetensors, .pth) or the folder of a run, which also says the "
               "network, its images and their normalisation. Input \"images\", output \"logits\", "
               "NCHW; the tensors keep their names.",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run};
