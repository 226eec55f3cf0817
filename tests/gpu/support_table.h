/* The table of what cuDNN takes on a device: patterns by types by shapes, one line each, as a text to compare. */
#ifndef CUDISTILL_TESTS_SUPPORT_TABLE_H
#define CUDISTILL_TESTS_SUPPORT_TABLE_H

#include "plans.h"

typedef struct {
    const char *name;
    int n, size, ic, oc, kernel, stride, groups;
} TableShape;

static const TableShape table_shapes[] = {
    {"ImageNet stem, 3 channels", 256, 224, 3, 64, 7, 2, 1},
    {"ImageNet stem, 4 channels", 256, 224, 4, 64, 7, 2, 1},
    {"ImageNet stem, 8 channels", 256, 224, 8, 64, 7, 2, 1},
    {"bottleneck 3x3", 256, 56, 64, 64, 3, 1, 1},
    {"bottleneck 1x1 out", 256, 56, 64, 256, 1, 1, 1},
    {"bottleneck 3x3, stride 2", 256, 56, 128, 128, 3, 2, 1},
    {"shortcut 1x1, stride 2", 256, 56, 256, 512, 1, 2, 1},
    {"last 3x3", 256, 7, 512, 512, 3, 1, 1},
    {"CIFAR stem, 4 channels", 64, 32, 4, 16, 3, 1, 1},
    {"CIFAR 3x3, 16 channels", 64, 32, 16, 16, 3, 1, 1},
    {"CIFAR 3x3, stride 2", 64, 32, 32, 64, 3, 2, 1},
    {"116 channels", 64, 14, 116, 116, 1, 1, 1},
    {"3 groups", 64, 14, 240, 240, 1, 1, 3},
    {"depthwise 3x3", 64, 28, 64, 64, 3, 1, 64},
};

typedef struct {
    const char *name;
    CudnnConvKind kind;
    bool bias, residual, relu, affine, affine_relu, stats, drelu_bn;
} TablePattern;

static const TablePattern table_patterns[] = {
    {.name = "fwd"},
    {.name = "fwd+bias", .bias = true},
    {.name = "fwd+bias+relu", .bias = true, .relu = true},
    {.name = "fwd+bias+residual+relu", .bias = true, .residual = true, .relu = true},
    {.name = "fwd+stats", .stats = true},
    {.name = "affine+relu+fwd+stats", .affine = true, .affine_relu = true, .stats = true},
    {.name = "affine+relu+fwd", .affine = true, .affine_relu = true},
    {.name = "affine+fwd+stats", .affine = true, .stats = true},
    {.name = "dgrad", .kind = CUDNN_CONV_DGRAD},
    {.name = "dgrad+drelu+bn", .kind = CUDNN_CONV_DGRAD, .drelu_bn = true},
    {.name = "wgrad", .kind = CUDNN_CONV_WGRAD},
    {.name = "affine+relu+wgrad", .kind = CUDNN_CONV_WGRAD, .affine = true, .affine_relu = true},
    {.name = "affine+wgrad", .kind = CUDNN_CONV_WGRAD, .affine = true},
};

static inline CudnnConvSpec table_spec(const TableShape *s, const TablePattern *p, DType type)
{
    const int pad = s->kernel / 2;
    const int out = (s->size + 2 * pad - s->kernel) / s->stride + 1;
    return (CudnnConvSpec){.kind = p->kind,
                           .type = type,
                           .n = s->n,
                           .h = s->size,
                           .w = s->size,
                           .ic = s->ic,
                           .oh = out,
                           .ow = out,
                           .oc = s->oc,
                           .kernel_h = s->kernel,
                           .kernel_w = s->kernel,
                           .stride = s->stride,
                           .pad = pad,
                           .groups = s->groups,
                           .bias = p->bias,
                           .residual = p->residual,
                           .relu = p->relu,
                           .affine = p->affine,
                           .affine_relu = p->affine_relu,
                           .stats = p->stats,
                           .drelu_bn = p->drelu_bn};
}

/* "fp16 fwd+bias+relu | bottleneck 3x3 | yes eng7 compiled, 0.0 MB". Knobs are left out: they change the speed alone. */
static inline void table_line(FILE *out, CudnnContext *cudnn, const TableShape *s,
                              const TablePattern *p, DType type)
{
    const CudnnConvSpec spec = table_spec(s, p, type);
    CudnnPlan *plan = NULL;
    fprintf(out, "%s %s | %s | ", dtype_name(type), p->name, s->name);
    Err *err = cudnn_plan_make(cudnn, &spec, NULL, false, &plan);
    if (err) {
        fprintf(out, "no\n");
        err_free(err);
        return;
    }
    const char *name = cudnn_plan_name(plan);
    const char *kind = strrchr(name, ',');
    fprintf(out, "yes %.*s%s, %.1f MB\n", (int)strcspn(name, " ,"), name, kind ? kind + 1 : "",
            (double)cudnn_plan_workspace(plan) / 1e6);
}

/* Its first line names the library's version. Caller frees. */
static inline char *table_text(CudnnContext *cudnn)
{
    static const DType types[] = {DT_F16, DT_BF16, DT_F32};
    char *text = NULL;
    size_t size = 0;
    char library[64];
    FILE *out = open_memstream(&text, &size);
    CHECK(out, "out of memory");
    cudnn_context_describe(cudnn, library, sizeof library);
    fprintf(out, "%s on sm_90 (tests/golden/h200.json)\n", library);
    for (int t = 0; t < 3; t++) {
        for (size_t p = 0; p < sizeof table_patterns / sizeof table_patterns[0]; p++) {
            for (size_t s = 0; s < sizeof table_shapes / sizeof table_shapes[0]; s++) {
                table_line(out, cudnn, &table_shapes[s], &table_patterns[p], types[t]);
            }
        }
    }
    fclose(out);
    return text;
}

#endif
