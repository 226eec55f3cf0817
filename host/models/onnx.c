/* From a weight file to an ONNX file: which network it is, its graph for inference, batch norm folded where wanted. */
#include "models/onnx.h"

#include "base/files.h"
#include "graph/fusion.h"
#include "models/load.h"
#include "models/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of pixels scaled to 0..1. */
static const float CIFAR100_MEAN[3] = {0.5071f, 0.4867f, 0.4408f};
static const float CIFAR100_STD[3] = {0.2675f, 0.2565f, 0.2761f};
static const float IMAGENET_MEAN[3] = {0.485f, 0.456f, 0.406f};
static const float IMAGENET_STD[3] = {0.229f, 0.224f, 0.225f};
enum { CIFAR_SIZE = 32 };

typedef struct {
    Params params;
    Graph graph;
    float *arena[ARENA_COUNT];
} Net;

static void net_free(Net *net)
{
    graph_free(&net->graph);
    params_free(&net->params);
    for (int i = 0; i < ARENA_COUNT; i++) {
        free(net->arena[i]);
    }
}

/* The network and its classes by the file's tensors. With a name given that they do not fit, the name's own classes: loading
 * then says what differs. */
static Err *choose_network(const WeightsFile *weights, const char *model, OnnxWritten *out)
{
    const ModelInfo *const in_file = model_recognise(weights, &out->classes);
    if (!model) {
        out->model = in_file ? in_file->name : NULL;
        return in_file
                   ? NULL
                   : err_new(EXIT_BAD_DATA,
                             "its tensors are not those of any network that is known: name one "
                             "with --model to see what differs ('cudistill models' lists them)");
    }
    const ModelInfo *const named = model_find(model);
    if (named && named != in_file) {
        out->classes = named->classes;
    }
    out->model = named ? named->name : model;
    return NULL;
}

static void choose_input(const OnnxExport *what, OnnxWritten *out)
{
    const ModelInfo *const info = model_find(out->model);
    const int made_for = info ? info->input_size : CIFAR_SIZE;
    const bool cifar = made_for == CIFAR_SIZE;
    out->size = what->own_size ? what->size : made_for;
    const float *const mean = cifar ? CIFAR100_MEAN : IMAGENET_MEAN;
    const float *const std = cifar ? CIFAR100_STD : IMAGENET_STD;
    memcpy(out->mean, what->own_moments ? what->mean : mean, sizeof out->mean);
    memcpy(out->std, what->own_moments ? what->std : std, sizeof out->std);
}

static Err *build_net(Net *net, const OnnxExport *what, const OnnxWritten *chosen)
{
    Graph *const g = &net->graph;
    graph_init(g, &net->params, what->batch > 0 ? what->batch : 1, DT_F32);
    const int images = graph_input(g, "images", what->bytes ? DT_U8 : DT_F32, g->batch,
                                   chosen->size, chosen->size, 3, true);
    ModelBuild build = {.params = &net->params,
                        .graph = g,
                        .prefix = "",
                        .bn = BN_EVAL,
                        .classes = chosen->classes,
                        .images = what->bytes ? images : -1,
                        .x = images,
                        .stem_channels = 3};
    memcpy(build.mean, chosen->mean, sizeof build.mean);
    memcpy(build.std, chosen->std, sizeof build.std);
    TRY(model_build(chosen->model, &build));
    graph_output(g, build.logits, "logits");
    params_finish(&net->params);
    return NULL;
}

static Err *load_net(Net *net, const WeightsFile *weights)
{
    static const Arena used[] = {ARENA_FROZEN, ARENA_STATE};
    for (int i = 0; i < 2; i++) {
        const size_t bytes = net->params.arena_elems[used[i]] * sizeof(float);
        net->arena[used[i]] = xaligned(bytes > 0 ? bytes : sizeof(float));
    }
    return model_load_weights(&net->params, "", weights, net->arena);
}

static void fold_batch_norm(Graph *g)
{
    int formed;
    do {
        FuseCandidate *candidates;
        const int count = fusion_candidates(g, 1U << FUSE_FOLD_BN, &candidates);
        bool *const all = xmalloc((size_t)count + 1);
        memset(all, true, (size_t)count + 1);
        formed = count > 0 ? fusion_apply(g, candidates, all, count) : 0;
        free(all);
        free(candidates);
    } while (formed > 0);
}

static Err *write_net(const char *path, const Net *net, const OnnxExport *what,
                      OnnxWritten *written)
{
    char classes[16];
    char mean[64];
    char std[64];
    (void)snprintf(classes, sizeof classes, "%d", written->classes);
    const float *m = written->mean;
    (void)snprintf(mean, sizeof mean, "%.9g,%.9g,%.9g", (double)m[0], (double)m[1], (double)m[2]);
    m = written->std;
    (void)snprintf(std, sizeof std, "%.9g,%.9g,%.9g", (double)m[0], (double)m[1], (double)m[2]);
    const char *const input = what->bytes ? "uint8 pixels, NCHW, normalised in the graph"
                                          : "float32, NCHW, (pixel / 255 - mean) / std";
    const char *const metadata[] = {"model",       written->model,
                                    "classes",     classes,
                                    "mean",        mean,
                                    "std",         std,
                                    "input",       input,
                                    "weights",     what->weights ? what->weights : "",
                                    "source_hash", what->hash ? what->hash : "",
                                    NULL};
    const OnnxOptions options = {.name = written->model,
                                 .opset = what->opset,
                                 .dynamic = what->batch == 0,
                                 .metadata = metadata};
    uint8_t *bytes;
    TRY(onnx_encode(&net->graph, net->arena, &options, &bytes, &written->bytes));
    Err *const err = file_write_atomic(path, bytes, written->bytes);
    free(bytes);
    return err;
}

Err *onnx_export(const char *path, const WeightsFile *weights, const OnnxExport *what,
                 OnnxWritten *written)
{
    *written = (OnnxWritten){0};
    TRY(choose_network(weights, what->model, written));
    choose_input(what, written);
    Net net = {0};
    Err *err = build_net(&net, what, written);
    if (!err) {
        err = load_net(&net, weights);
    }
    if (!err) {
        if (what->fold) {
            fold_batch_norm(&net.graph);
        }
        err = write_net(path, &net, what, written);
    }
    net_free(&net);
    return err;
}
