/* The table of operations and what a point of its axes means. The graphs are in problem_graphs.c. */
#include "bench/problems.h"

#include "base/near.h"
#include "problem_graphs.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    F32 = 1u << DT_F32,
    HALVES = 1u << DT_BF16 | 1u << DT_F16,
    BYTES = 1u << DT_U8,
    FLOATS = F32 | HALVES
};

#define AXIS_IMAGES(batch, side, channels)                                                         \
    {"B", "images", batch, NULL, 1}, {"H", "height and width", side, NULL, 1},                     \
    {                                                                                              \
        "C", "channels", channels, NULL, 1                                                         \
    }
#define AXIS_CONV                                                                                  \
    {"B", "images", "64", NULL, 1}, {"H", "height and width of x", "32", NULL, 1},                 \
        {"C", "channels of x", "64", NULL, 1}, {"O", "channels of y", "64", NULL, 1},              \
        {"K", "kernel side, odd; padding K/2", "3", NULL, 1},                                      \
    {                                                                                              \
        "S", "stride", "1", NULL, 1                                                                \
    }

static const BenchOp ops[] = {
    {.name = "distill",
     .help = "the fused loss: loss, exports and the gradient of the student's logits",
     .formula = "3*B*C*s (ce: 2*B*C*s): student's and teacher's logits read, gradient written",
     .axes = {{"B", "rows", "64,1024", NULL, 1},
              {"C", "classes", "100,1000", NULL, 2},
              {"method", "what is minimised", "kd", DISTILL_METHODS, 0}},
     .dtypes = FLOATS,
     .wide_logits = true,
     .build = problem_distill},
    {.name = "sgd",
     .help = "momentum SGD with weight decay over a flat arena",
     .formula = "20*P: weight and momentum read and written, gradient read",
     .axes = {{"P", "parameters", "1000000,25000000", NULL, 1}},
     .dtypes = F32,
     .build = problem_sgd},
    {.name = "grad_norm",
     .help = "sum of squares and count of non-finite gradients",
     .formula = "4*P",
     .axes = {{"P", "parameters", "1000000,25000000", NULL, 1}},
     .dtypes = F32,
     .build = problem_grad_norm},
    {.name = "bn_stats",
     .help = "batch norm: sums and sums of squares by channel",
     .formula = "E*s, E = B*H*H*C",
     .axes = {AXIS_IMAGES("64", "32", "64")},
     .dtypes = FLOATS,
     .build = problem_bn_stats},
    {.name = "bn_apply",
     .help = "batch norm: normalise",
     .formula = "2*E*s",
     .axes = {AXIS_IMAGES("64", "32", "64")},
     .dtypes = FLOATS,
     .build = problem_bn_apply},
    {.name = "bn_apply_add_relu",
     .help = "batch norm: normalise, add the residual, ReLU",
     .formula = "3*E*s",
     .axes = {AXIS_IMAGES("64", "32", "64")},
     .dtypes = FLOATS,
     .build = problem_bn_apply_add_relu},
    {.name = "bn_reduce",
     .help = "batch norm backward: sums of dy and dy*xhat by channel",
     .formula = "2*E*s",
     .axes = {AXIS_IMAGES("64", "32", "64")},
     .dtypes = FLOATS,
     .build = problem_bn_reduce},
    {.name = "bn_dx",
     .help = "batch norm backward: gradient of x",
     .formula = "3*E*s",
     .axes = {AXIS_IMAGES("64", "32", "64")},
     .dtypes = FLOATS,
     .build = problem_bn_dx},
    {.name = "image",
     .help = "bytes to normalised activations, padding channels zero",
     .formula = "B*H*H*(3 + C*s)",
     .axes = {{"B", "images", "64,256", NULL, 1},
              {"H", "height and width", "32,224", NULL, 1},
              {"C", "channels of the result", "4", NULL, 3}},
     .dtypes = FLOATS,
     .build = problem_image},
    {.name = "views",
     .help = "gather, pad-4 crop and flip of a resident data set",
     .formula = "6*B*H*H: each pixel read and written",
     .axes = {{"B", "images", "64,256", NULL, 1},
              {"H", "height and width", "32", NULL, 1},
              {"N", "images in the set", "10000", NULL, 1}},
     .dtypes = BYTES,
     .wrong = problem_wrong_views,
     .build = problem_views},
    {.name = "relu",
     .help = "max(x, 0)",
     .formula = "2*E*s",
     .axes = {AXIS_IMAGES("64", "32", "64")},
     .dtypes = FLOATS,
     .build = problem_relu},
    {.name = "add",
     .help = "a + b",
     .formula = "3*E*s",
     .axes = {AXIS_IMAGES("64", "32", "64")},
     .dtypes = FLOATS,
     .build = problem_add},
    {.name = "avgpool",
     .help = "average pooling",
     .formula = "(B*H*H*C + B*Y*Y*C)*s, Y = (H - K)/S + 1",
     .axes = {AXIS_IMAGES("64", "8", "256"),
              {"K", "window side", "8", NULL, 1},
              {"S", "stride", "1", NULL, 1}},
     .dtypes = FLOATS,
     .wrong = problem_wrong_pool,
     .build = problem_avgpool},
    {.name = "maxpool",
     .help = "maximum pooling with the position in the window",
     .formula = "B*H*H*C*s + B*Y*Y*C*(s + 1), Y = (H + 2*((K-1)/2) - K)/S + 1",
     .axes = {AXIS_IMAGES("64", "112", "64"),
              {"K", "window side, at most 15", "3", NULL, 1},
              {"S", "stride", "2", NULL, 1}},
     .dtypes = FLOATS,
     .wrong = problem_wrong_maxpool,
     .build = problem_maxpool},
    {.name = "linear",
     .help = "classifier with bias; fp32 logits",
     .formula = "(B*I + I*O)*s + 4*B*O; 2*B*I*O operations",
     .axes = {{"B", "rows", "64,256", NULL, 1},
              {"I", "inputs", "2048", NULL, 1},
              {"O", "outputs", "1000", NULL, 1}},
     .dtypes = FLOATS,
     .build = problem_linear},
    {.name = "conv",
     .help = "convolution",
     .formula = "(B*H*H*C + K*K*C*O + B*Y*Y*O)*s; 2*B*Y*Y*O*K*K*C operations",
     .axes = {AXIS_CONV},
     .dtypes = FLOATS,
     .wrong = problem_wrong_conv,
     .build = problem_conv},
    {.name = "conv_dgrad",
     .help = "gradient of a convolution's input",
     .formula = "as conv",
     .axes = {AXIS_CONV},
     .dtypes = FLOATS,
     .wrong = problem_wrong_conv,
     .build = problem_conv_dgrad},
    {.name = "conv_wgrad",
     .help = "gradient of a convolution's weights, fp32",
     .formula = "(B*H*H*C + B*Y*Y*O)*s + 4*K*K*C*O; operations as conv",
     .axes = {AXIS_CONV},
     .dtypes = FLOATS,
     .wrong = problem_wrong_conv,
     .build = problem_conv_wgrad},
    {.name = "gather",
     .help = "rows of a table by index (memoised logits)",
     .formula = "2*B*C*s",
     .axes = {{"B", "rows", "64,1024", NULL, 1},
              {"C", "elements of a row", "100", NULL, 1},
              {"R", "rows of the table", "50000", NULL, 1}},
     .dtypes = FLOATS,
     .build = problem_gather},
    {.name = "cast",
     .help = "--dtype to fp32 (fp32: to bf16)",
     .formula = "E*(s + 4) (fp32: E*6)",
     .axes = {AXIS_IMAGES("64", "32", "64")},
     .dtypes = FLOATS,
     .build = problem_cast},
};
enum { OP_TABLE_COUNT = sizeof ops / sizeof ops[0] };

const char *problem_dtype(DType dtype)
{
    return dtype == DT_F32 ? "fp32" : dtype == DT_F16 ? "fp16" : dtype_name(dtype);
}

const BenchOp *problem_list(int *count)
{
    *count = OP_TABLE_COUNT;
    return ops;
}

Err *problem_find(const char *name, const BenchOp **out)
{
    NearMiss near = near_start(name);
    for (int i = 0; i < OP_TABLE_COUNT; i++) {
        near_offer(&near, ops[i].name);
        if (strcmp(ops[i].name, name) == 0) {
            *out = &ops[i];
            return NULL;
        }
    }
    char *hint = near_hint(&near);
    Err *err =
        err_new(EXIT_USAGE_ERR, "there is no op '%s'%s ('cudistill bench op --list' shows them)",
                name, hint);
    free(hint);
    return err;
}

int problem_axes(const BenchOp *op)
{
    int count = 0;
    while (count < BENCH_MAX_AXES && op->axes[count].name) {
        count++;
    }
    return count;
}

/* ---- Axes ---- */

/* Position of text[0..length) among "a|b|c", or -1. */
static int find_choice(const char *choices, const char *text, size_t length)
{
    int at = 0;
    for (const char *c = choices; *c;) {
        const size_t span = strcspn(c, "|");
        if (span == length && strncmp(c, text, length) == 0) {
            return at;
        }
        at++;
        c += span + (c[span] == '|');
    }
    return -1;
}

static bool parse_value(const BenchAxis *axis, const char *text, size_t length, int *out)
{
    if (axis->choices) {
        *out = find_choice(axis->choices, text, length);
        return *out >= 0;
    }
    char *end = NULL;
    const long value = length > 0 && text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : -1;
    if (value < axis->least || value > INT_MAX || end != text + length) {
        return false;
    }
    *out = (int)value;
    return true;
}

Err *axis_parse(const BenchOp *op, int axis, const char *text, AxisValues *out)
{
    const BenchAxis *a = &op->axes[axis];
    out->count = 0;
    for (const char *at = text;; at++) {
        const size_t length = strcspn(at, ",");
        int value = 0;
        if (!parse_value(a, at, length, &value)) {
            if (a->choices) {
                return err_new(EXIT_USAGE_ERR, "--axis %s=%s: op %s takes %s there, with commas",
                               a->name, text, op->name, a->choices);
            }
            return err_new(EXIT_USAGE_ERR,
                           "--axis %s=%s: whole numbers from %d to %d with commas are needed (%s), "
                           "as %s=%s",
                           a->name, text, a->least, INT_MAX, a->help, a->name, a->fallback);
        }
        if (out->count == BENCH_MAX_VALUES) {
            return err_new(EXIT_USAGE_ERR, "--axis %s: at most %d values", a->name,
                           BENCH_MAX_VALUES);
        }
        out->values[out->count++] = value;
        at += length;
        if (*at == '\0') {
            return NULL;
        }
    }
}

void axis_text(const BenchAxis *axis, int value, char *out, size_t size)
{
    if (!axis->choices) {
        snprintf(out, size, "%d", value);
        return;
    }
    const char *c = axis->choices;
    for (int i = 0; i < value; i++) {
        c += strcspn(c, "|") + 1;
    }
    snprintf(out, size, "%.*s", (int)strcspn(c, "|"), c);
}

int problem_points(const BenchOp *op, const AxisValues *values)
{
    int count = 1;
    for (int a = 0; a < problem_axes(op); a++) {
        count *= values[a].count;
    }
    return count;
}

BenchPoint problem_point(const BenchOp *op, const AxisValues *values, int index, DType dtype)
{
    BenchPoint point = {.op = op, .dtype = dtype};
    for (int a = problem_axes(op) - 1; a >= 0; a--) {
        point.value[a] = values[a].values[index % values[a].count];
        index /= values[a].count;
    }
    return point;
}

void problem_build(const BenchPoint *point, BenchProblem *out)
{
    memset(out, 0, sizeof *out);
    point->op->build(point, out);
    out->node = out->graph.n_nodes - 1;
    char *wrong = graph_validate(&out->graph);
    CHECK(!wrong, "bench op %s: %s", point->op->name, wrong);
}

void problem_free(BenchProblem *problem)
{
    graph_free(&problem->graph);
    params_free(&problem->params);
}
