/* The table of the model zoo and what works on any of its networks: look-up by name, building with
 * the checks that a user's choice needs, counting multiply-adds. */
#include "models/models.h"

#include "base/near.h"
#include "models/build.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { CIFAR_SIZE = 32, CIFAR_CLASSES = 100, IMAGENET_SIZE = 224, IMAGENET_CLASSES = 1000 };

#define RESNET_CIFAR "CIFAR ResNet (basic blocks)"
#define RESNET_X4 "CIFAR ResNet (basic blocks), four times as wide"
#define WRN "CIFAR wide ResNet (pre-activation)"
#define VGG "CIFAR VGG with batch norm"
#define RESNET_BASIC "ImageNet ResNet (basic blocks)"
#define RESNET_BOTTLENECK "ImageNet ResNet v1.5 (bottlenecks)"
#define CIFAR(name, family, params, macs, build, ...)                                              \
    {                                                                                              \
        name, family, CIFAR_SIZE, params, CIFAR_CLASSES, macs, build,                              \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define IMAGENET(name, family, params, macs, ...)                                                  \
    {                                                                                              \
        name, family, IMAGENET_SIZE, params, IMAGENET_CLASSES, macs, resnet_imagenet_build,        \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }

static const ModelInfo models[] = {
    CIFAR("resnet8", RESNET_CIFAR, 83892, 12.5, resnet_cifar_build, 1, 16, 16, 32, 64),
    CIFAR("resnet14", RESNET_CIFAR, 181108, 26.7, resnet_cifar_build, 2, 16, 16, 32, 64),
    CIFAR("resnet20", RESNET_CIFAR, 278324, 40.8, resnet_cifar_build, 3, 16, 16, 32, 64),
    CIFAR("resnet32", RESNET_CIFAR, 472756, 69.1, resnet_cifar_build, 5, 16, 16, 32, 64),
    CIFAR("resnet44", RESNET_CIFAR, 667188, 97.4, resnet_cifar_build, 7, 16, 16, 32, 64),
    CIFAR("resnet56", RESNET_CIFAR, 861620, 125.8, resnet_cifar_build, 9, 16, 16, 32, 64),
    CIFAR("resnet110", RESNET_CIFAR, 1736564, 253.2, resnet_cifar_build, 18, 16, 16, 32, 64),
    CIFAR("resnet8x4", RESNET_X4, 1233540, 177.1, resnet_cifar_build, 1, 32, 64, 128, 256),
    CIFAR("resnet32x4", RESNET_X4, 7433860, 1083.0, resnet_cifar_build, 5, 32, 64, 128, 256),
    CIFAR("wrn_16_1", WRN, 180916, 26.7, wrn_build, 16, 1),
    CIFAR("wrn_16_2", WRN, 703284, 101.1, wrn_build, 16, 2),
    CIFAR("wrn_40_1", WRN, 569780, 83.3, wrn_build, 40, 1),
    CIFAR("wrn_40_2", WRN, 2255156, 327.6, wrn_build, 40, 2),
    CIFAR("vgg8", VGG, 3965028, 96.2, vgg_build, 1, 1, 1, 1, 1),
    CIFAR("vgg11", VGG, 9277284, 209.4, vgg_build, 1, 1, 2, 2, 2),
    CIFAR("vgg13", VGG, 9462180, 284.9, vgg_build, 2, 2, 2, 2, 2),
    CIFAR("vgg16", VGG, 14774436, 398.2, vgg_build, 2, 2, 3, 3, 3),
    CIFAR("vgg19", VGG, 20086692, 511.4, vgg_build, 2, 2, 4, 4, 4),
    IMAGENET("resnet18", RESNET_BASIC, 11689512, 1814.1, 0, 2, 2, 2, 2),
    IMAGENET("resnet34", RESNET_BASIC, 21797672, 3663.8, 0, 3, 4, 6, 3),
    IMAGENET("resnet50", RESNET_BOTTLENECK, 25557032, 4089.2, 1, 3, 4, 6, 3),
    IMAGENET("resnet101", RESNET_BOTTLENECK, 44549160, 7801.4, 1, 3, 4, 23, 3),
    IMAGENET("resnet152", RESNET_BOTTLENECK, 60192808, 11513.6, 1, 3, 8, 36, 3),
};
enum { MODEL_COUNT = sizeof models / sizeof models[0] };

const ModelInfo *model_list(int *count)
{
    *count = MODEL_COUNT;
    return models;
}

static char folded(char c)
{
    return c == '-' ? '_' : (char)tolower((unsigned char)c);
}

static bool same_folded(const char *a, const char *b)
{
    while (*a && folded(*a) == folded(*b)) {
        ++a;
        ++b;
    }
    return folded(*a) == folded(*b);
}

const ModelInfo *model_find(const char *name)
{
    for (int i = 0; i < MODEL_COUNT; ++i) {
        if (strcmp(models[i].name, name) == 0) {
            return &models[i];
        }
    }
    for (int i = 0; i < MODEL_COUNT; ++i) {
        if (same_folded(models[i].name, name)) {
            return &models[i];
        }
    }
    return NULL;
}

static Err *unknown_model(const char *name)
{
    NearMiss near = near_start(name);
    char *known = xstrdup("");
    for (int i = 0; i < MODEL_COUNT; ++i) {
        near_offer(&near, models[i].name);
        char *longer = xformat("%s %s", known, models[i].name);
        free(known);
        known = longer;
    }
    char *hint = near_hint(&near);
    Err *err = err_new(EXIT_CONFIG_ERR, "unknown model '%s'%s\nknown models:%s", name, hint, known);
    free(hint);
    free(known);
    return err;
}

/* The smallest side that leaves every stage at least one pixel of its own. */
static int smallest_input(const ModelInfo *info)
{
    return info->input_size == IMAGENET_SIZE ? 32 : 8;
}

static Err *check_images(const ModelInfo *info, const ModelBuild *build)
{
    const Tensor *images = &build->graph->tensors[build->images < 0 ? build->x : build->images];
    if (images->h != images->w || images->h < smallest_input(info)) {
        return err_new(EXIT_CONFIG_ERR,
                       "model %s takes square images of at least %d pixels a side (made for %d), "
                       "not %d x %d; resize the "
                       "data",
                       info->name, smallest_input(info), info->input_size, images->h, images->w);
    }
    return NULL;
}

Err *model_build(const char *name, ModelBuild *build)
{
    const ModelInfo *info = model_find(name);
    if (!info) {
        return unknown_model(name);
    }
    if (build->classes < 2) {
        return err_new(EXIT_CONFIG_ERR, "model %s needs at least 2 classes, not %d", info->name,
                       build->classes);
    }
    if (build->graph) {
        TRY(check_images(info, build));
    }
    build->logits = -1;
    build->n_taps = 0;
    info->build(build, info->layout);
    return NULL;
}

double model_macs(const Graph *graph, const char *prefix)
{
    double macs = 0.0;
    for (int i = 0; i < graph->n_nodes; ++i) {
        const Node *node = &graph->nodes[i];
        if ((node->op != OP_CONV && node->op != OP_LINEAR) ||
            strncmp(node->name, prefix, strlen(prefix)) != 0) {
            continue;
        }
        /* Every weight is used once for every position of the output; the weight tensor is
         * [O,Kh,Kw,I]. */
        const Tensor *y = &graph->tensors[node->out[0]];
        macs += (double)y->h * y->w * (double)tensor_elems(&graph->tensors[node->in[1]]);
    }
    return macs;
}
