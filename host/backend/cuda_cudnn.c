/* Convolutions as cuDNN operation graphs: descriptors of tensors and operations, a graph for a spec, the engines that cuDNN
 * proposes for it, the plan made of one of them, and its execution. The only file that includes cudnn.h.
 *
 * Types inside a graph: what leaves a main loop is fp32, and so is everything up to the rounding of a stored tensor; the
 * virtual tensor that enters a main loop has the activations' type, which is what cuDNN wants and what storing it would
 * have rounded to. */
#include "backend/cuda_engines.h"

#include "base/files.h"

#include <cuda_runtime_api.h>
#include <cudnn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef cudnnBackendDescriptor_t Desc;

enum {
    MAX_OPS = 8,
    MAX_CANDIDATES = 64, /* of one heuristic mode */
    STATS_CHOICE = 1000, /* added to a candidate's number: of the graph with unused statistics */
    KNOBS_MAX = 48,
    NOTES_MAX = 16,
    OLDEST_CUDNN = 90800, /* takes descriptions of devices */
    ALIGNMENT = 16        /* bytes, of every tensor */
};

struct Engines {
    cudnnHandle_t handle; /* NULL: a described device */
    Desc device;
    char identity[400]; /* of the device */
};

struct EnginePlan {
    CudnnConvSpec spec;
    Desc plan;
    size_t library_workspace;
    bool unused_stats;
};

/* ---- Descriptors ---- */

/* Makes descriptors, owns them, and remembers the first failure; later calls then do nothing. */
typedef struct {
    Desc *made;
    int n_made;
    size_t capacity;
    bool failed;
    char reason[ENGINE_REASON_MAX];
    cudnnDataType_t io;
    int64_t next_virtual;
    Desc ops[MAX_OPS];
    int n_ops;
} Maker;

static void last_reason(char *reason, cudnnStatus_t status)
{
    char text[ENGINE_REASON_MAX] = "";
    cudnnGetLastErrorString(text, sizeof text);
    (void)snprintf(reason, ENGINE_REASON_MAX, "%s: %.300s", cudnnGetErrorString(status), text);
    for (char *c = reason; *c; c++) {
        *c = *c == '\n' ? ' ' : *c;
    }
}

static void note_failure(Maker *m, cudnnStatus_t status)
{
    if (status != CUDNN_STATUS_SUCCESS && !m->failed) {
        m->failed = true;
        last_reason(m->reason, status);
    }
}

static Desc desc_make(Maker *m, cudnnBackendDescriptorType_t type)
{
    Desc desc = NULL;
    note_failure(m, cudnnBackendCreateDescriptor(type, &desc));
    m->made = xgrow(m->made, &m->capacity, (size_t)m->n_made + 1, sizeof(Desc));
    m->made[m->n_made++] = desc;
    return desc;
}

static void desc_set(Maker *m, Desc desc, cudnnBackendAttributeName_t name,
                     cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (!m->failed) {
        note_failure(m, cudnnBackendSetAttribute(desc, name, type, count, values));
    }
}

static void desc_set_desc(Maker *m, Desc desc, cudnnBackendAttributeName_t name, Desc value)
{
    desc_set(m, desc, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void desc_finish(Maker *m, Desc desc)
{
    if (!m->failed) {
        note_failure(m, cudnnBackendFinalize(desc));
    }
}

static void maker_free(Maker *m)
{
    for (int i = m->n_made - 1; i >= 0; i--) {
        if (m->made[i]) {
            (void)cudnnBackendDestroyDescriptor(m->made[i]);
        }
    }
    free(m->made);
}

static cudnnDataType_t data_type(DType type)
{
    return type == DT_F16    ? CUDNN_DATA_HALF
           : type == DT_BF16 ? CUDNN_DATA_BFLOAT16
                             : CUDNN_DATA_FLOAT;
}

/* ---- Tensors and operations ---- */

typedef struct {
    int64_t n, c, h, w;
} Shape;

static Desc tensor(Maker *m, int64_t uid, cudnnDataType_t type, Shape s)
{
    Desc desc = desc_make(m, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const int64_t dims[4] = {s.n, s.c, s.h, s.w};
    const int64_t strides[4] = {s.c * s.h * s.w, 1, s.w * s.c, s.c};
    const int64_t align = ALIGNMENT;
    const bool is_virtual = uid >= UID_VIRTUAL;
    desc_set(m, desc, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    desc_set(m, desc, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    desc_set(m, desc, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    desc_set(m, desc, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    desc_set(m, desc, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    desc_set(m, desc, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    desc_finish(m, desc);
    return desc;
}

static Desc virtual_tensor(Maker *m, cudnnDataType_t type, Shape s)
{
    return tensor(m, UID_VIRTUAL + m->next_virtual++, type, s);
}

static Desc channels(Maker *m, Uid uid, cudnnDataType_t type, int64_t c)
{
    return tensor(m, uid, type, (Shape){1, c, 1, 1});
}

static void add_op(Maker *m, Desc op)
{
    desc_finish(m, op);
    CHECK(m->n_ops < MAX_OPS, "a graph of more than %d operations", MAX_OPS);
    m->ops[m->n_ops++] = op;
}

static Desc convolution(Maker *m, const CudnnConvSpec *spec)
{
    Desc desc = desc_make(m, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t dims = 2;
    const int64_t pad[2] = {spec->pad, spec->pad};
    const int64_t stride[2] = {spec->stride, spec->stride};
    const int64_t dilation[2] = {1, 1};
    desc_set(m, desc, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    desc_set(m, desc, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    desc_set(m, desc, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    desc_set(m, desc, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    desc_set(m, desc, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    desc_set(m, desc, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilation);
    desc_set(m, desc, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    desc_finish(m, desc);
    return desc;
}

/* One of the three directions; x, w, y as in the spec, whichever of them is computed. */
static void convolve(Maker *m, const CudnnConvSpec *spec, Desc x, Desc w, Desc y)
{
    static const struct {
        cudnnBackendDescriptorType_t op;
        cudnnBackendAttributeName_t x, w, y, conv, alpha, beta;
    } names[] = {
        [CUDNN_CONV_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
        [CUDNN_CONV_DGRAD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
        [CUDNN_CONV_WGRAD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
    };
    const float alpha = 1.0f;
    const float beta = 0.0f;
    Desc op = desc_make(m, names[spec->kind].op);
    desc_set_desc(m, op, names[spec->kind].x, x);
    desc_set_desc(m, op, names[spec->kind].w, w);
    desc_set_desc(m, op, names[spec->kind].y, y);
    desc_set_desc(m, op, names[spec->kind].conv, convolution(m, spec));
    desc_set(m, op, names[spec->kind].alpha, CUDNN_TYPE_FLOAT, 1, &alpha);
    desc_set(m, op, names[spec->kind].beta, CUDNN_TYPE_FLOAT, 1, &beta);
    add_op(m, op);
}

/* y = mode(x, b); b NULL for functions of one argument. RELU_BWD: y = x where b > 0. */
static void pointwise(Maker *m, cudnnPointwiseMode_t mode, Desc x, Desc b, Desc y)
{
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;
    Desc function = desc_make(m, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    desc_set(m, function, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    desc_set(m, function, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &math);
    desc_finish(m, function);
    Desc op = desc_make(m, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, function);
    if (mode == CUDNN_POINTWISE_RELU_BWD) {
        desc_set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_DYDESC, x);
        desc_set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, b);
        desc_set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_DXDESC, y);
    } else {
        desc_set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
        if (b) {
            desc_set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
        }
        desc_set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    }
    add_op(m, op);
}

static void generate_stats(Maker *m, Desc y, int64_t c)
{
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;
    const cudnnGenStatsMode_t mode = CUDNN_GENSTATS_SUM_SQSUM;
    Desc op = desc_make(m, CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR);
    desc_set(m, op, CUDNN_ATTR_OPERATION_GENSTATS_MODE, CUDNN_TYPE_GENSTATS_MODE, 1, &mode);
    desc_set(m, op, CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &math);
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_GENSTATS_XDESC, y);
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC,
                  channels(m, UID_SUM, CUDNN_DATA_FLOAT, c));
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC,
                  channels(m, UID_SQUARE_SUM, CUDNN_DATA_FLOAT, c));
    add_op(m, op);
}

/* x*scale + shift, with ReLU: what enters the main loop. */
static Desc affine(Maker *m, const CudnnConvSpec *spec, Desc x, Shape s)
{
    const cudnnDataType_t vector = data_type(cudnn_affine_type(spec->type));
    Desc scaled = virtual_tensor(m, CUDNN_DATA_FLOAT, s);
    Desc shifted = virtual_tensor(m, spec->affine_relu ? CUDNN_DATA_FLOAT : m->io, s);
    pointwise(m, CUDNN_POINTWISE_MUL, x, channels(m, UID_SCALE, vector, s.c), scaled);
    pointwise(m, CUDNN_POINTWISE_ADD, scaled, channels(m, UID_SHIFT, vector, s.c), shifted);
    if (!spec->affine_relu) {
        return shifted;
    }
    Desc rectified = virtual_tensor(m, m->io, s);
    pointwise(m, CUDNN_POINTWISE_RELU_FWD, shifted, NULL, rectified);
    return rectified;
}

/* y = relu(conv + bias + residual); the parts that the spec asks for. */
static void forward_graph(Maker *m, const CudnnConvSpec *spec, Desc x, Desc w, Shape s, bool stats)
{
    int left = spec->bias + spec->residual + spec->relu;
    Desc y = left ? virtual_tensor(m, CUDNN_DATA_FLOAT, s) : tensor(m, UID_Y, m->io, s);
    convolve(m, spec, x, w, y);
    for (int part = 0; part < 3; part++) {
        const bool wanted = part == 0 ? spec->bias : part == 1 ? spec->residual : spec->relu;
        if (!wanted) {
            continue;
        }
        Desc next = --left ? virtual_tensor(m, CUDNN_DATA_FLOAT, s) : tensor(m, UID_Y, m->io, s);
        Desc operand = part == 0   ? channels(m, UID_BIAS, CUDNN_DATA_FLOAT, s.c)
                       : part == 1 ? tensor(m, UID_RESIDUAL, m->io, s)
                                   : NULL;
        pointwise(m, operand ? CUDNN_POINTWISE_ADD : CUDNN_POINTWISE_RELU_FWD, y, operand, next);
        y = next;
    }
    if (stats) {
        generate_stats(m, y, s.c);
    }
}

/* dz = dx where (x - mean)*invstd*gamma + beta > 0, and its sums. Engines know this chain of operations and no other.
 * DBN_SCALE is the sum of dz*(x - mean)*invstd, DBN_BIAS the sum of dz. */
static void dgrad_bn_graph(Maker *m, const CudnnConvSpec *spec, Desc w, Desc y, Shape s)
{
    const cudnnDataType_t fp32 = CUDNN_DATA_FLOAT;
    static const struct {
        cudnnBackendAttributeName_t name;
        Uid uid;
    } outputs[] = {{CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DBN_SCALE_DESC, UID_SQUARE_SUM},
                   {CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DBN_BIAS_DESC, UID_SUM},
                   {CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_DY_SCALE_DESC, UID_EQ_DY},
                   {CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_X_SCALE_DESC, UID_EQ_X},
                   {CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_BIAS, UID_EQ_BIAS}};
    Desc dx = virtual_tensor(m, fp32, s);
    Desc bn_x = tensor(m, UID_BN_X, m->io, s);
    Desc mean = channels(m, UID_MEAN, fp32, s.c);
    Desc invstd = channels(m, UID_INVSTD, fp32, s.c);
    Desc gamma = channels(m, UID_GAMMA, fp32, s.c);
    Desc centred = virtual_tensor(m, fp32, s);
    Desc normal = virtual_tensor(m, fp32, s);
    Desc scaled = virtual_tensor(m, fp32, s);
    Desc bn_y = virtual_tensor(m, fp32, s);
    Desc dz = tensor(m, UID_X, m->io, s);
    convolve(m, spec, dx, w, y);
    pointwise(m, CUDNN_POINTWISE_SUB, bn_x, mean, centred);
    pointwise(m, CUDNN_POINTWISE_MUL, centred, invstd, normal);
    pointwise(m, CUDNN_POINTWISE_MUL, normal, gamma, scaled);
    pointwise(m, CUDNN_POINTWISE_ADD, scaled, channels(m, UID_BETA, fp32, s.c), bn_y);
    pointwise(m, CUDNN_POINTWISE_RELU_BWD, dx, bn_y, dz);
    Desc op = desc_make(m, CUDNN_BACKEND_OPERATION_BN_BWD_WEIGHTS_DESCRIPTOR);
    desc_set(m, op, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &fp32);
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_X_DESC, bn_x);
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DY_DESC, dz);
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_MEAN_DESC, mean);
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_INVSTD_DESC, invstd);
    desc_set_desc(m, op, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_BN_SCALE_DESC, gamma);
    for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++) {
        desc_set_desc(m, op, outputs[i].name, channels(m, outputs[i].uid, fp32, s.c));
    }
    add_op(m, op);
}

/* The whole graph; stats: with statistics of y, wanted or not. */
static Desc spec_graph(Maker *m, const CudnnConvSpec *spec, bool stats)
{
    const Shape xs = {spec->n, spec->ic, spec->h, spec->w};
    const Shape ws = {spec->oc, spec->ic / spec->groups, spec->kernel_h, spec->kernel_w};
    const Shape ys = {spec->n, spec->oc, spec->oh, spec->ow};
    m->io = data_type(spec->type);
    Desc w = tensor(m, UID_W, m->io, ws);
    if (spec->kind == CUDNN_CONV_DGRAD && spec->drelu_bn) {
        dgrad_bn_graph(m, spec, w, tensor(m, UID_Y, m->io, ys), xs);
    } else {
        Desc x = tensor(m, UID_X, m->io, xs);
        Desc entering = spec->affine ? affine(m, spec, x, xs) : x;
        if (spec->kind == CUDNN_CONV_FORWARD) {
            forward_graph(m, spec, entering, w, ys, stats);
        } else {
            convolve(m, spec, entering, w, tensor(m, UID_Y, m->io, ys));
        }
    }
    Desc graph = desc_make(m, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    desc_set(m, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, m->n_ops,
             m->ops);
    desc_finish(m, graph);
    return graph;
}

/* ---- Candidates ---- */

typedef struct {
    Desc config;
    EngineInfo info;
} Candidate;

struct EngineList {
    Maker maker;
    CudnnConvSpec spec;
    bool deterministic;
    Candidate *items;
    int count;
    size_t capacity;
};

typedef struct {
    Desc engine;
    int64_t index;
    bool compiled, admitted;
} Engine;

/* What cuDNN notes of the engine, and whether we take it. */
static Engine engine_of(Maker *m, Desc config, DType type, bool deterministic)
{
    Engine e = {.engine = desc_make(m, CUDNN_BACKEND_ENGINE_DESCRIPTOR), .admitted = true};
    int64_t count = 0;
    cudnnBackendBehaviorNote_t behavior[NOTES_MAX];
    cudnnBackendNumericalNote_t numerical[NOTES_MAX];
    if (cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 1, &count, &e.engine) != CUDNN_STATUS_SUCCESS ||
        cudnnBackendGetAttribute(e.engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                                 &count, &e.index) != CUDNN_STATUS_SUCCESS) {
        e.admitted = false;
        return e;
    }
    count = 0;
    (void)cudnnBackendGetAttribute(e.engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
                                   CUDNN_TYPE_BEHAVIOR_NOTE, NOTES_MAX, &count, behavior);
    for (int i = 0; i < count; i++) {
        e.compiled = e.compiled || behavior[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
    }
    count = 0;
    (void)cudnnBackendGetAttribute(e.engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                   CUDNN_TYPE_NUMERICAL_NOTE, NOTES_MAX, &count, numerical);
    for (int i = 0; i < count; i++) {
        const cudnnBackendNumericalNote_t note = numerical[i];
        const bool tf32 = type == DT_F32 && (note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE ||
                                             note == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS);
        const bool loose = note == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
                           note == CUDNN_NUMERICAL_NOTE_FFT;
        const bool varies = deterministic && note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
        e.admitted = e.admitted && !tf32 && !loose && !varies;
    }
    return e;
}

/* "eng62 k2=4 k13=0, precompiled" */
static void config_name(Maker *m, Desc config, const Engine *engine, char name[ENGINE_NAME_MAX])
{
    Desc knobs[KNOBS_MAX];
    int64_t count = 0;
    for (int i = 0; i < KNOBS_MAX; i++) {
        knobs[i] = desc_make(m, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    }
    (void)cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, KNOBS_MAX, &count, knobs);
    int used = snprintf(name, ENGINE_NAME_MAX, "eng%lld", (long long)engine->index);
    for (int i = 0; i < count && used < ENGINE_NAME_MAX - 40; i++) {
        cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
        int64_t value = 0;
        int64_t got = 0;
        (void)cudnnBackendGetAttribute(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE,
                                       CUDNN_TYPE_KNOB_TYPE, 1, &got, &type);
        (void)cudnnBackendGetAttribute(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE,
                                       CUDNN_TYPE_INT64, 1, &got, &value);
        used += snprintf(name + used, (size_t)(ENGINE_NAME_MAX - used), " k%d=%lld", (int)type,
                         (long long)value);
    }
    (void)snprintf(name + used, (size_t)(ENGINE_NAME_MAX - used), ", %s",
                   engine->compiled ? "compiled" : "precompiled");
}

/* Appends what one heuristic proposes for the graph. */
static void propose(const Engines *engines, EngineList *all, Desc graph,
                    cudnnBackendHeurMode_t mode, int *next)
{
    Maker *m = &all->maker;
    Desc results[MAX_CANDIDATES];
    int64_t count = 0;
    Desc heuristic = desc_make(m, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    desc_set_desc(m, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    desc_set(m, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    desc_set_desc(m, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, engines->device);
    desc_finish(m, heuristic);
    if (m->failed) {
        return;
    }
    for (int i = 0; i < MAX_CANDIDATES; i++) {
        results[i] = desc_make(m, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    }
    note_failure(m, cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                             CUDNN_TYPE_BACKEND_DESCRIPTOR, MAX_CANDIDATES, &count,
                                             results));
    for (int i = 0; i < count; i++, (*next)++) {
        const Engine engine = engine_of(m, results[i], all->spec.type, all->deterministic);
        if (!engine.admitted) {
            continue;
        }
        all->items = xgrow(all->items, &all->capacity, (size_t)all->count + 1, sizeof *all->items);
        Candidate *candidate = &all->items[all->count++];
        *candidate = (Candidate){results[i], {*next, engine.compiled, ""}};
        config_name(m, results[i], &engine, candidate->info.name);
    }
}

/* Of one form of the graph: with or without statistics. */
static void propose_form(const Engines *engines, EngineList *all, bool stats)
{
    Maker *m = &all->maker;
    int next = stats && !all->spec.stats ? STATS_CHOICE : 0;
    m->failed = false;
    m->n_ops = 0;
    Desc graph = spec_graph(m, &all->spec, stats);
    if (!m->failed) {
        propose(engines, all, graph, CUDNN_HEUR_MODE_A, &next);
        m->failed =
            false; /* a heuristic that knows nothing of the graph does not speak for the other */
        propose(engines, all, graph, CUDNN_HEUR_MODE_FALLBACK, &next);
    }
}

/* A forward convolution with affine input: engines that exist ahead of time all give statistics, so that form is asked
 * first where there are any (F16), and last elsewhere. */
EngineList *engine_list(Engines *engines, const CudnnConvSpec *spec, bool deterministic,
                        char reason[ENGINE_REASON_MAX])
{
    EngineList *all = xcalloc(1, sizeof *all);
    const bool either = spec->kind == CUDNN_CONV_FORWARD && spec->affine && !spec->stats &&
                        !spec->bias && !spec->residual && !spec->relu;
    const bool first = spec->stats || (either && spec->type == DT_F16);
    all->spec = *spec;
    all->deterministic = deterministic;
    propose_form(engines, all, first);
    if (either) {
        propose_form(engines, all, !first);
    }
    (void)snprintf(reason, ENGINE_REASON_MAX, "%s",
                   all->maker.failed ? all->maker.reason : "no engine is proposed");
    return all;
}

int engine_list_count(const EngineList *list)
{
    return list->count;
}

const EngineInfo *engine_list_info(const EngineList *list, int i)
{
    return &list->items[i].info;
}

void engine_list_free(EngineList *list)
{
    maker_free(&list->maker);
    free(list->items);
    free(list);
}

/* ---- Plans ---- */

static cudnnStatus_t on_device(const Engines *engines, Desc plan)
{
    return cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                    CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engines->device);
}

/* Takes over the descriptor, which is finished here. */
static EnginePlan *plan_finish(const Engines *engines, const CudnnConvSpec *spec, int choice,
                               Desc desc, cudnnStatus_t status, char reason[ENGINE_REASON_MAX])
{
    status = status == CUDNN_STATUS_SUCCESS ? on_device(engines, desc) : status;
    status = status == CUDNN_STATUS_SUCCESS ? cudnnBackendFinalize(desc) : status;
    if (status != CUDNN_STATUS_SUCCESS) {
        last_reason(reason, status);
        (void)cudnnBackendDestroyDescriptor(desc);
        return NULL;
    }
    int64_t bytes = 0;
    int64_t count = 0;
    (void)cudnnBackendGetAttribute(desc, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                   1, &count, &bytes);
    EnginePlan *plan = xcalloc(1, sizeof *plan);
    *plan = (EnginePlan){*spec, desc, bytes > 0 ? (size_t)bytes : 0, choice >= STATS_CHOICE};
    return plan;
}

EnginePlan *engine_build(Engines *engines, const EngineList *list, int i,
                         char reason[ENGINE_REASON_MAX])
{
    const Candidate *candidate = &list->items[i];
    Desc desc = NULL;
    cudnnStatus_t status =
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &desc);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = cudnnBackendSetAttribute(desc, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &candidate->config);
    }
    return plan_finish(engines, &list->spec, candidate->info.choice, desc, status, reason);
}

EnginePlan *engine_load(Engines *engines, const CudnnConvSpec *spec, int choice, const char *data,
                        size_t size)
{
    char reason[ENGINE_REASON_MAX];
    Desc desc = NULL;
    cudnnStatus_t status =
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &desc);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = cudnnBackendSetAttribute(desc, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                                          CUDNN_TYPE_CHAR, (int64_t)size, data);
    }
    return plan_finish(engines, spec, choice, desc, status, reason);
}

char *engine_store(const EnginePlan *plan, size_t *size)
{
    int64_t bytes = 0;
    if (cudnnBackendGetAttribute(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                                 CUDNN_TYPE_CHAR, 0, &bytes, NULL) != CUDNN_STATUS_SUCCESS ||
        bytes <= 0) {
        return NULL;
    }
    char *data = xmalloc((size_t)bytes);
    if (cudnnBackendGetAttribute(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                                 CUDNN_TYPE_CHAR, bytes, &bytes, data) != CUDNN_STATUS_SUCCESS) {
        free(data);
        return NULL;
    }
    *size = (size_t)bytes;
    return data;
}

void engine_free(EnginePlan *plan)
{
    if (plan) {
        (void)cudnnBackendDestroyDescriptor(plan->plan);
    }
    free(plan);
}

size_t engine_workspace(const EnginePlan *plan)
{
    return engine_align(plan->library_workspace) +
           engine_extra_bytes(&plan->spec, plan->unused_stats);
}

/* ---- Execution ---- */

int engine_run(Engines *engines, const EnginePlan *plan, KernelStream stream,
               const CudnnConvArgs *args)
{
    char *extra = (char *)args->workspace + engine_align(plan->library_workspace);
    EngineBindings b = engine_bindings(&plan->spec, plan->unused_stats, args, extra);
    Desc pack = NULL;
    cudnnStatus_t status = cudnnSetStream(engines->handle, stream);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    }
    if (status != CUDNN_STATUS_SUCCESS) {
        return status;
    }
    status = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
                                      b.count, b.uids);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                          CUDNN_TYPE_VOID_PTR, b.count, b.pointers);
    }
    if (status == CUDNN_STATUS_SUCCESS) {
        status = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                          CUDNN_TYPE_VOID_PTR, 1, &args->workspace);
    }
    if (status == CUDNN_STATUS_SUCCESS) {
        status = cudnnBackendFinalize(pack);
    }
    if (status == CUDNN_STATUS_SUCCESS) {
        status = cudnnBackendExecute(engines->handle, plan->plan, pack);
    }
    (void)cudnnBackendDestroyDescriptor(pack);
    return status;
}

const char *cudnn_status_text(int status)
{
    return cudnnGetErrorString((cudnnStatus_t)status);
}

/* ---- The library and its device ---- */

void engines_library(char *text, size_t size)
{
    const size_t version = cudnnGetVersion();
    (void)snprintf(text, size, "cuDNN %zu.%zu.%zu", version / 10000, version / 100 % 100,
                   version % 100);
}

void engines_device(const Engines *engines, char *text, size_t size)
{
    (void)snprintf(text, size, "%s", engines->identity);
}

bool engines_can_run(const Engines *engines)
{
    return engines->handle != NULL;
}

static Err *describe_device(Engines *engines, const char *json)
{
    char reason[ENGINE_REASON_MAX];
    char hash[33];
    size_t size = strlen(json);
    while (size > 0 && json[size - 1] == '\n') {
        size--;
    }
    cudnnStatus_t status =
        cudnnBackendSetAttribute(engines->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                 CUDNN_TYPE_CHAR, (int64_t)size, json);
    status = status == CUDNN_STATUS_SUCCESS ? cudnnBackendFinalize(engines->device) : status;
    if (status != CUDNN_STATUS_SUCCESS) {
        last_reason(reason, status);
        return err_new(EXIT_CONFIG_ERR, "cuDNN does not take the description of the device: %s",
                       reason);
    }
    hash_hex(json, size, hash);
    (void)snprintf(engines->identity, sizeof engines->identity, "described %s", hash);
    return NULL;
}

/* The current device, through a handle. */
static Err *take_device(Engines *engines)
{
    char reason[ENGINE_REASON_MAX];
    struct cudaDeviceProp prop;
    int device = 0;
    int driver = 0;
    cudnnStatus_t status = cudnnCreate(&engines->handle);
    if (status != CUDNN_STATUS_SUCCESS) {
        engines->handle = NULL;
        last_reason(reason, status);
        return err_new(
            EXIT_NO_DEVICE,
            "cuDNN does not open the device: %s; check that its version suits the driver", reason);
    }
    status = cudnnBackendSetAttribute(engines->device, CUDNN_ATTR_DEVICEPROP_HANDLE,
                                      CUDNN_TYPE_HANDLE, 1, &engines->handle);
    status = status == CUDNN_STATUS_SUCCESS ? cudnnBackendFinalize(engines->device) : status;
    if (status != CUDNN_STATUS_SUCCESS) {
        last_reason(reason, status);
        return err_new(EXIT_NO_DEVICE, "cuDNN does not describe the device: %s", reason);
    }
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaGetDeviceProperties(&prop, device) != cudaSuccess ||
        cudaDriverGetVersion(&driver) != cudaSuccess) {
        return err_new(EXIT_NO_DEVICE, "CUDA does not describe the device: %s",
                       cudaGetErrorString(cudaGetLastError()));
    }
    (void)snprintf(engines->identity, sizeof engines->identity, "%s sm_%d%d, %d units, driver %d",
                   prop.name, prop.major, prop.minor, prop.multiProcessorCount, driver);
    return NULL;
}

Err *engines_open(const char *described, Engines **out)
{
    char library[32];
    *out = NULL;
    engines_library(library, sizeof library);
    if (cudnnGetVersion() < OLDEST_CUDNN) {
        return err_new(EXIT_NO_DEVICE,
                       "%s is too old: put the folder of libcudnn.so.9 of 9.8 or newer first in "
                       "LD_LIBRARY_PATH",
                       library);
    }
    Engines *engines = xcalloc(1, sizeof *engines);
    const cudnnStatus_t status =
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &engines->device);
    Err *err =
        status == CUDNN_STATUS_SUCCESS
            ? (described ? describe_device(engines, described) : take_device(engines))
            : err_new(EXIT_NO_DEVICE, "cuDNN does not start: %s", cudnnGetErrorString(status));
    if (err) {
        engines_close(engines);
        return err;
    }
    *out = engines;
    return NULL;
}

void engines_close(Engines *engines)
{
    if (!engines) {
        return;
    }
    if (engines->device) {
        (void)cudnnBackendDestroyDescriptor(engines->device);
    }
    if (engines->handle) {
        (void)cudnnDestroy(engines->handle);
    }
    free(engines);
}
