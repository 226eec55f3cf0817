/* Modules of convolutional networks: the one place where a network's parameters get their PyTorch
 * names and initial values and its nodes are appended. Parameters are found again by name, so that
 * building a second graph of the same network costs no bookkeeping in the families. */
#include "models/build.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const float BN_EPS = 1e-5f;
static const float BN_MOMENTUM = 0.1f;

typedef struct {
    char text[PARAM_NAME_MAX];
} Name;

static Name full_name(const ModelBuild *build, const char *path, const char *leaf)
{
    Name name;
    const int n = snprintf(name.text, sizeof name.text, "%s%s%s", build->prefix, path, leaf);
    CHECK(n >= 0 && (size_t)n < sizeof name.text,
          "the name %s%s%s is longer than %d bytes; use a shorter prefix", build->prefix, path,
          leaf, PARAM_NAME_MAX - 1);
    return name;
}

typedef struct {
    ParamRole role;
    int ndim;
    int shape[4];
    InitKind init;
    double scale;
} ParamSpec;

/* module + "." + leaf, registered now or by an earlier build. */
static int find_or_add(const ModelBuild *build, const char *module, const char *leaf,
                       const ParamSpec *spec)
{
    char name[PARAM_NAME_MAX];
    const int n = snprintf(name, sizeof name, "%s.%s", module, leaf);
    CHECK(n >= 0 && (size_t)n < sizeof name,
          "the name %s.%s is longer than %d bytes; use a shorter prefix", module, leaf,
          PARAM_NAME_MAX - 1);
    const int found = params_find(build->params, name);
    if (found < 0) {
        return params_add(build->params, name, spec->role, spec->ndim, spec->shape,
                          build->trainable, spec->init, spec->scale);
    }
    const Param *param = &build->params->items[found];
    bool same = param->role == spec->role && param->ndim == spec->ndim;
    for (int i = 0; same && i < spec->ndim; ++i) {
        same = param->shape[i] == spec->shape[i];
    }
    CHECK(same, "%s was registered with another shape: two networks share the prefix '%s'", name,
          build->prefix);
    return found;
}

static ParamSpec vector_spec(ParamRole role, int count, InitKind init, double scale)
{
    return (ParamSpec){.role = role, .ndim = 1, .shape = {count}, .init = init, .scale = scale};
}

Feature build_input(const ModelBuild *build)
{
    Feature x = {.id = -1, .c = 3};
    if (build->graph) {
        x.id = build->images < 0
                   ? build->x
                   : graph_image(build->graph, full_name(build, "", "image").text, build->images,
                                 build->stem_channels, build->mean, build->std);
    }
    return x;
}

int build_input_size(const ModelBuild *build)
{
    if (!build->graph) {
        return 0;
    }
    return build->graph->tensors[build->images < 0 ? build->x : build->images].h;
}

Feature build_conv(const ModelBuild *build, const char *path, const char *leaf, Feature x, int out,
                   int kernel, int stride, bool bias)
{
    const Name name = full_name(build, path, leaf);
    const ParamSpec weight = {.role = ROLE_CONV_WEIGHT,
                              .ndim = 4,
                              .shape = {out, x.c, kernel, kernel},
                              .init = INIT_NORMAL,
                              .scale = sqrt(2.0 / ((double)kernel * kernel * out))};
    const int w = find_or_add(build, name.text, "weight", &weight);
    int b = -1;
    if (bias) {
        const ParamSpec spec = vector_spec(ROLE_BIAS, out, INIT_ZERO, 0.0);
        b = find_or_add(build, name.text, "bias", &spec);
    }
    Feature y = {.id = -1, .c = out};
    if (build->graph) {
        y.id = graph_conv(build->graph, name.text, x.id, w, b, stride, kernel / 2, 1);
    }
    return y;
}

Feature build_bn(const ModelBuild *build, const char *path, const char *leaf, Feature x)
{
    const Name name = full_name(build, path, leaf);
    static const struct {
        const char *leaf;
        ParamRole role;
        InitKind init;
    } parts[] = {{"weight", ROLE_BN_WEIGHT, INIT_ONE},
                 {"bias", ROLE_BN_BIAS, INIT_ZERO},
                 {"running_mean", ROLE_RUNNING_MEAN, INIT_ZERO},
                 {"running_var", ROLE_RUNNING_VAR, INIT_ONE}};
    int first = -1;
    for (int i = 0; i < 4; ++i) {
        const ParamSpec spec = vector_spec(parts[i].role, x.c, parts[i].init, 0.0);
        const int param = find_or_add(build, name.text, parts[i].leaf, &spec);
        first = i == 0 ? param : first;
        CHECK(param == first + i, "%s.%s is parameter %d, not %d: not registered in one go",
              name.text, parts[i].leaf, param, first + i);
    }
    Feature y = {.id = -1, .c = x.c};
    if (build->graph) {
        y.id = graph_bn(build->graph, name.text, x.id, first, build->bn, BN_EPS, BN_MOMENTUM);
    }
    return y;
}

Feature build_relu(const ModelBuild *build, const char *path, const char *leaf, Feature x)
{
    if (build->graph) {
        x.id = graph_relu(build->graph, full_name(build, path, leaf).text, x.id);
    }
    return x;
}

Feature build_add(const ModelBuild *build, const char *path, const char *leaf, Feature a, Feature b)
{
    CHECK(a.c == b.c, "%s%s adds %d channels to %d", path, leaf, b.c, a.c);
    if (build->graph) {
        a.id = graph_add(build->graph, full_name(build, path, leaf).text, a.id, b.id);
    }
    return a;
}

Feature build_maxpool(const ModelBuild *build, const char *leaf, Feature x, int kernel, int stride,
                      int pad)
{
    if (build->graph) {
        x.id =
            graph_maxpool(build->graph, full_name(build, "", leaf).text, x.id, kernel, stride, pad);
    }
    return x;
}

Feature build_global_pool(const ModelBuild *build, const char *leaf, Feature x)
{
    if (build->graph) {
        const int side = build->graph->tensors[x.id].h;
        x.id = graph_avgpool(build->graph, full_name(build, "", leaf).text, x.id, side, side, 0);
    }
    return x;
}

void build_classifier(ModelBuild *build, const char *leaf, Feature x, LinearInit init)
{
    const Name name = full_name(build, "", leaf);
    const double bound = 1.0 / sqrt((double)x.c);
    const bool small = init == LINEAR_SMALL;
    const ParamSpec weight = {.role = ROLE_LINEAR_WEIGHT,
                              .ndim = 2,
                              .shape = {build->classes, x.c},
                              .init = small ? INIT_NORMAL : INIT_UNIFORM,
                              .scale = small ? 0.01 : bound};
    const ParamSpec bias = vector_spec(ROLE_BIAS, build->classes,
                                       init == LINEAR_DEFAULT ? INIT_UNIFORM : INIT_ZERO, bound);
    const int w = find_or_add(build, name.text, "weight", &weight);
    const int b = find_or_add(build, name.text, "bias", &bias);
    build->logits = build->graph ? graph_linear(build->graph, name.text, x.id, w, b) : -1;
}

void build_tap(ModelBuild *build, Feature x)
{
    CHECK(build->n_taps < MODEL_MAX_TAPS, "more than %d taps", MODEL_MAX_TAPS);
    build->taps[build->n_taps++] = x.id;
}
