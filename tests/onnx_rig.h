/* Networks with weights of their own, exported and compared with ONNX Runtime. One translation unit each: test_onnx.c,
 * check_onnx.c. */
#ifndef CUDISTILL_TESTS_ONNX_RIG_H
#define CUDISTILL_TESTS_ONNX_RIG_H

#include "backend/exec.h"
#include "base/files.h"
#include "models/load.h"
#include "models/models.h"
#include "models/onnx.h"
#include "python.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PYTHON_MODULES "onnx, onnxruntime, numpy"

enum {
    IMAGES = 5,
    GROUP_PARAMETERS = 40000000,
    TWO_VARIANTS = 5000000, /* networks of more parameters are exported in one way only */
    CIFAR_SIZE = 32,
    SMALL_PARAMETERS = 12000000 /* test_onnx.c: fewer; check_onnx.c: the others */
};
static const float MEAN[3] = {0.5071f, 0.4867f, 0.4408f};
static const float STD[3] = {0.2675f, 0.2565f, 0.2761f};

static void no_error(Err *err)
{
    if (err) {
        print_error("%s\n", err->message);
    }
    assert_null(err);
}

static char *folder_new(void)
{
    char name[] = "/tmp/cudistill-onnx-XXXXXX";
    assert_non_null(mkdtemp(name));
    return xstrdup(name);
}

static void folder_free(char *folder)
{
    no_error(dir_remove(folder));
    free(folder);
}

/* ---- A network with weights, and its logits by the backend ---- */

typedef struct {
    Params params;
    Graph graph;
    ModelBuild build;
    float *arena[ARENA_COUNT];
} Net;

/* size 0: no graph. */
static void net_make(Net *net, const char *model, int classes, int size, int images)
{
    *net = (Net){0};
    net->build = (ModelBuild){.params = &net->params,
                              .prefix = "",
                              .bn = BN_EVAL,
                              .classes = classes,
                              .images = -1,
                              .stem_channels = 3};
    memcpy(net->build.mean, MEAN, sizeof MEAN);
    memcpy(net->build.std, STD, sizeof STD);
    if (size > 0) {
        graph_init(&net->graph, &net->params, images, DT_F32);
        net->build.graph = &net->graph;
        net->build.images = graph_input(&net->graph, "images", DT_U8, images, size, size, 3, true);
    }
    no_error(model_build(model, &net->build));
    params_finish(&net->params);
    if (size > 0) {
        graph_output(&net->graph, net->build.logits, "logits");
    }
    static const Arena used[] = {ARENA_FROZEN, ARENA_STATE};
    for (int i = 0; i < 2; i++) {
        net->arena[used[i]] = xaligned(net->params.arena_elems[used[i]] * sizeof(float) + 64);
    }
}

static void net_free(Net *net)
{
    for (int i = 0; i < ARENA_COUNT; i++) {
        free(net->arena[i]);
    }
    graph_free(&net->graph);
    params_free(&net->params);
}

/* Nothing may be left at what initialisation gives: a batch norm that is exported wrong must show. The last one of a residual
 * block is small, so that a hundred blocks neither vanish nor blow up. */
static void net_randomise(Net *net)
{
    params_init(&net->params, "", 3, net->arena);
    uint32_t random = 17;
    for (int i = 0; i < net->params.count; i++) {
        const Param *const p = &net->params.items[i];
        const bool last = strstr(p->name, ".bn2.") || strstr(p->name, ".bn3.");
        float *const values = net->arena[p->arena] + p->offset;
        for (size_t k = 0; k < p->count; k++) {
            random = random * 1664525U + 1013904223U;
            const float unit = (float)(random >> 8) / (float)(1 << 24); /* 0..1 */
            switch (p->role) {
            case ROLE_BN_WEIGHT:
                values[k] = (last ? 0.25f : 1.0f) * (0.8f + 0.4f * unit);
                break;
            case ROLE_BN_BIAS:
            case ROLE_BIAS:
            case ROLE_RUNNING_MEAN:
                values[k] = 0.4f * unit - 0.2f;
                break;
            case ROLE_RUNNING_VAR:
                values[k] = 0.7f + 0.6f * unit;
                break;
            case ROLE_LINEAR_WEIGHT:
                values[k] *= 20.0f;
                break;
            case ROLE_CONV_WEIGHT:
                break;
            }
        }
    }
}

/* The network's parameters as a file would hold them. The entries keep the data. */
static WeightsFile net_weights(const ModelEntries *entries)
{
    WeightsFile file = {.entries = xcalloc(entries->count, sizeof *file.entries),
                        .count = entries->count};
    for (size_t i = 0; i < entries->count; i++) {
        const SafeTensor *const tensor = &entries->tensors[i];
        WeightEntry *const entry = &file.entries[i];
        *entry = (WeightEntry){.name = (char *)tensor->name,
                               .type = tensor->type,
                               .ndim = tensor->ndim,
                               .count = 1,
                               .data = tensor->data};
        memcpy(entry->shape, tensor->shape, sizeof entry->shape);
        for (int k = 0; k < tensor->ndim; k++) {
            entry->count *= (size_t)tensor->shape[k];
        }
        entry->bytes = entry->count * weight_type_size(entry->type);
    }
    return file;
}

static float *net_logits(const Net *net, Backend *backend, const uint8_t *images, int count)
{
    Exec *exec;
    no_error(exec_open(backend, &net->graph, &(ExecOptions){0}, &exec));
    exec_bind(exec, ARENA_FROZEN, net->arena[ARENA_FROZEN]);
    exec_bind(exec, ARENA_STATE, net->arena[ARENA_STATE]);
    exec_refresh(exec, false);
    const size_t image = tensor_bytes(&net->graph.tensors[net->build.images]) / (size_t)count;
    const size_t classes = (size_t)net->build.classes;
    float *const logits = xmalloc((size_t)count * classes * sizeof *logits);
    exec_write(exec, "images", images, (size_t)count * image);
    exec_run(exec, &(ExecRun){.rows = count, .scale = 1.0f});
    exec_read(exec, "logits", logits, (size_t)count * classes * sizeof *logits);
    exec_close(exec);
    return logits;
}

static uint8_t *images_new(int count, int size)
{
    const size_t bytes = (size_t)count * (size_t)size * (size_t)size * 3;
    uint8_t *const images = xmalloc(bytes);
    uint32_t random = 5;
    for (size_t i = 0; i < bytes; i++) {
        random = random * 1664525U + 1013904223U;
        images[i] = (uint8_t)(random >> 24);
    }
    return images;
}

static void put_file(const char *folder, const char *name, const void *data, size_t size)
{
    char *const path = path_join(folder, name);
    no_error(file_write_atomic(path, data, size));
    free(path);
}

static int run_python(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *const arguments = xvformat(format, args);
    va_end(args);
    char *const script = xformat("tests/test_onnx.py %s", arguments);
    FILE *const stream = python_open(script);
    assert_non_null(stream);
    char line[256];
    while (fgets(line, sizeof line, stream)) {
        printf("# %s", line);
    }
    (void)fflush(stdout);
    free(script);
    free(arguments);
    return python_close(stream);
}

static Backend *backend_new(void)
{
    Backend *backend;
    no_error(backend_open("cpu", &(BackendOptions){.threads = 2, .deterministic = true}, &backend));
    return backend;
}

/* ---- The zoo ---- */

/* FOLDER/MODEL.VARIANT.onnx. */
static void export_variant(const char *folder, const WeightsFile *weights, const char *model,
                           const char *variant, OnnxExport what)
{
    char *const name = xformat("%s.%s.onnx", model, variant);
    char *const path = path_join(folder, name);
    what.own_moments = true;
    memcpy(what.mean, MEAN, sizeof MEAN);
    memcpy(what.std, STD, sizeof STD);
    what.weights = "caf\xe9.safetensors";
    what.hash = "00ff";
    OnnxWritten written;
    no_error(onnx_export(path, weights, &what, &written));
    assert_string_equal(written.model, model);
    FileMap map;
    no_error(file_map(path, &map));
    assert_int_equal(map.size, written.bytes);
    file_unmap(&map);
    free(path);
    free(name);
}

static void make_case(const char *folder, Backend *backend, const ModelInfo *info)
{
    const bool small = info->input_size == CIFAR_SIZE;
    const int count = small ? IMAGES : 1;
    const int classes = small ? 10 : info->classes;
    Net net;
    net_make(&net, info->name, classes, info->input_size, count);
    net_randomise(&net);
    ModelEntries entries = model_save_entries(&net.params, "", net.arena, 9);
    WeightsFile weights = net_weights(&entries);
    const OnnxExport plain = {.opset = ONNX_OPSET_DEFAULT};
    const OnnxExport folded = {
        .model = info->name, .opset = ONNX_OPSET_MIN, .bytes = true, .fold = true};
    const OnnxExport single = {.batch = 1,
                               .opset = ONNX_OPSET_MAX,
                               .bytes = true,
                               .fold = info->params >= SMALL_PARAMETERS};
    export_variant(folder, &weights, info->name, "bytes", small ? folded : single);
    if (small && info->params <= TWO_VARIANTS) {
        export_variant(folder, &weights, info->name, "float", plain);
    }
    free(weights.entries);
    model_entries_free(&entries);
    uint8_t *const images = images_new(count, info->input_size);
    float *const logits = net_logits(&net, backend, images, count);
    char *const pixels = xformat("%s.images", info->name);
    char *const expected = xformat("%s.logits", info->name);
    put_file(folder, pixels, images, tensor_bytes(&net.graph.tensors[net.build.images]));
    put_file(folder, expected, logits, (size_t)(count * classes) * sizeof *logits);
    free(expected);
    free(pixels);
    free(logits);
    free(images);
    net_free(&net);
}

/* The networks of so many parameters. */
static void check_zoo(size_t least, size_t most)
{
    Backend *const backend = backend_new();
    int count;
    const ModelInfo *const models = model_list(&count);
    size_t parameters = 0;
    char *folder = NULL;
    /* Python is slow to start, and the files of all networks together are large: some at a time. */
    for (int i = 0; i <= count; i++) {
        if (folder && (i == count || parameters >= GROUP_PARAMETERS)) {
            assert_int_equal(run_python("zoo '%s'", folder), 0);
            folder_free(folder);
            folder = NULL;
            parameters = 0;
        }
        if (i < count && models[i].params >= least && models[i].params < most) {
            folder = folder ? folder : folder_new();
            make_case(folder, backend, &models[i]);
            parameters += models[i].params;
        }
    }
    backend_close(backend);
}

#endif
