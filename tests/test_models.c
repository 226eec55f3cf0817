/* host/models without a backend: published counts of every network, names and shapes of every
 * tensor against PyTorch modules (tests/zoo_torch.py) and a published checkpoint, multiply-adds,
 * and errors a user can meet. */
#include "base/files.h"
#include "base/half.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "io/weights.h"
#include "models/load.h"
#include "models/models.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "python.h"

/* Tensors with and without num_batches_tracked, and trainable parameters, as published
 * (torchvision, RepDistiller); tensors 0 = not published. */
static const struct {
    const char *name;
    int tensors, without;
    size_t params;
} published[] = {
    {"resnet8", 56, 47, 83892},        {"resnet14", 0, 0, 181108},
    {"resnet20", 128, 107, 278324},    {"resnet32", 200, 167, 472756},
    {"resnet44", 0, 0, 667188},        {"resnet56", 344, 287, 861620},
    {"resnet110", 668, 557, 1736564},  {"resnet8x4", 62, 52, 1233540},
    {"resnet32x4", 206, 172, 7433860}, {"wrn_16_1", 0, 0, 180916},
    {"wrn_16_2", 83, 70, 703284},      {"wrn_40_1", 226, 189, 569780},
    {"wrn_40_2", 227, 190, 2255156},   {"vgg8", 37, 32, 3965028},
    {"vgg11", 0, 0, 9277284},          {"vgg13", 72, 62, 9462180},
    {"vgg16", 0, 0, 14774436},         {"vgg19", 0, 0, 20086692},
    {"resnet18", 122, 102, 11689512},  {"resnet34", 218, 182, 21797672},
    {"resnet50", 320, 267, 25557032},  {"resnet101", 626, 522, 44549160},
    {"resnet152", 932, 777, 60192808},
};
enum { PUBLISHED = sizeof published / sizeof published[0] };

/* Multiply-adds in millions with the digits they are published with. */
static const struct {
    const char *name;
    double macs, digit;
} published_macs[] = {
    {"resnet8", 12.5, 0.1},   {"resnet20", 40.8, 0.1},   {"resnet32", 69.1, 0.1},
    {"resnet56", 125.8, 0.1}, {"resnet110", 253.2, 0.1}, {"resnet8x4", 177, 1},
    {"resnet32x4", 1083, 1},  {"wrn_16_2", 101, 1},      {"wrn_40_1", 83.3, 0.1},
    {"wrn_40_2", 327.6, 0.1}, {"vgg8", 96, 1},           {"vgg13", 285, 1},
    {"resnet18", 1814, 1},    {"resnet34", 3664, 1},     {"resnet50", 4089, 1},
};

static void no_error(Err *err)
{
    if (err) {
        print_error("%s\n", err->message);
    }
    assert_null(err);
}

/* Parameters of one network, finished. */
static Params register_net(const char *model, const char *prefix, int classes)
{
    Params params = {0};
    ModelBuild build = {.params = &params,
                        .prefix = prefix,
                        .trainable = true,
                        .classes = classes,
                        .images = -1,
                        .stem_channels = 3};
    no_error(model_build(model, &build));
    assert_int_equal(build.logits, -1);
    params_finish(&params);
    return params;
}

/* A network on float images of size x size; the caller frees both. */
static ModelBuild graph_net(const char *model, Params *params, Graph *graph, int size, BnMode bn)
{
    const ModelInfo *info = model_find(model);
    graph_init(graph, params, 2, DT_F32);
    ModelBuild build = {.params = params,
                        .graph = graph,
                        .prefix = "net.",
                        .trainable = bn == BN_TRAIN,
                        .bn = bn,
                        .classes = info->classes,
                        .mean = {0.5f, 0.5f, 0.5f},
                        .std = {0.25f, 0.25f, 0.25f},
                        .stem_channels = 3};
    build.images = graph_input(graph, "images", DT_U8, 2, size, size, 3, true);
    no_error(model_build(model, &build));
    return build;
}

static void test_counts(void **state)
{
    (void)state;
    int count = 0;
    const ModelInfo *list = model_list(&count);
    assert_int_equal(count, PUBLISHED);
    for (int i = 0; i < PUBLISHED; ++i) {
        const ModelInfo *info = model_find(published[i].name);
        assert_non_null(info);
        assert_true(info >= list && info < list + count);
        Params params = register_net(info->name, "student.", info->classes);
        int batch_norms = 0;
        for (int k = 0; k < params.count; ++k) {
            batch_norms += params.items[k].role == ROLE_RUNNING_MEAN;
        }
        assert_int_equal(params_count(&params, "student."), published[i].params);
        assert_int_equal(info->params, published[i].params);
        if (published[i].tensors > 0) {
            assert_int_equal(params.count, published[i].without);
            assert_int_equal(params.count + batch_norms, published[i].tensors);
        }
        params_free(&params);
    }
    Params ten = register_net("resnet20", "", 10);
    assert_int_equal(params_count(&ten, ""), 278324 - 90 * 65);
    params_free(&ten);
}

static void test_names(void **state)
{
    (void)state;
    assert_ptr_equal(model_find("WRN-16-2"), model_find("wrn_16_2"));
    assert_ptr_equal(model_find("ResNet8x4"), model_find("resnet8x4"));
    assert_null(model_find("resnet8x"));
    assert_null(model_find("resnet"));
    assert_null(model_find(""));

    Params params = {0};
    ModelBuild build = {
        .params = &params, .prefix = "", .classes = 100, .images = -1, .stem_channels = 3};
    Err *err = model_build("resnet8x5", &build);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    assert_non_null(strstr(err->message, "did you mean 'resnet8x4'"));
    assert_non_null(strstr(err->message, "wrn_40_2"));
    err_free(err);
    build.classes = 1;
    err = model_build("resnet20", &build);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    err_free(err);
    assert_int_equal(params.count, 0);
    params_free(&params);
}

static void test_image_size(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        int h, w;
        bool good;
    } cases[] = {{"resnet20", 32, 32, true}, {"resnet20", 8, 8, true},
                 {"resnet20", 7, 7, false},  {"resnet20", 32, 24, false},
                 {"resnet18", 32, 32, true}, {"resnet18", 31, 31, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        Params params = {0};
        Graph graph;
        graph_init(&graph, &params, 2, DT_F32);
        ModelBuild build = {.params = &params,
                            .graph = &graph,
                            .prefix = "",
                            .classes = 10,
                            .bn = BN_EVAL,
                            .images = -1,
                            .stem_channels = 3};
        build.x = graph_input(&graph, "x", DT_F32, 2, cases[i].h, cases[i].w, 3, true);
        Err *err = model_build(cases[i].model, &build);
        assert_int_equal(err == NULL, cases[i].good);
        if (err) {
            assert_int_equal(err->code, EXIT_CONFIG_ERR);
        } else {
            const Tensor *logits = &graph.tensors[build.logits];
            assert_int_equal(logits->n, 2);
            assert_int_equal(logits->h * logits->w, 1);
            assert_int_equal(logits->c, 10);
        }
        err_free(err);
        graph_free(&graph);
        params_free(&params);
    }
}

/* Every network: the graph is valid in training and inference, the second build registers nothing,
 * taps have the widths of the definitions, and multiply-adds agree with the table and with what is
 * published. */
static void test_graphs(void **state)
{
    (void)state;
    int count = 0;
    const ModelInfo *list = model_list(&count);
    for (int i = 0; i < count; ++i) {
        const ModelInfo *info = &list[i];
        Params params = {0};
        Graph train;
        Graph eval;
        const ModelBuild a = graph_net(info->name, &params, &train, info->input_size, BN_TRAIN);
        const int registered = params.count;
        const ModelBuild b = graph_net(info->name, &params, &eval, info->input_size, BN_EVAL);
        assert_int_equal(params.count, registered);
        params_finish(&params);
        const Graph *graphs[] = {&train, &eval};
        for (int k = 0; k < 2; ++k) {
            char *fault = graph_validate(graphs[k]);
            if (fault) {
                fail_msg("%s: %s", info->name, fault);
            }
        }
        int norms = 0;
        for (int k = 0; k < train.n_nodes; ++k) {
            if (train.nodes[k].op == OP_BN_RUNNING) {
                assert_true(train.nodes[k].attr.bn.eps == 1e-5f);
                assert_true(train.nodes[k].attr.bn.momentum == 0.1f);
                ++norms;
            }
        }
        for (int k = 0; k < params.count; ++k) {
            norms -= params.items[k].role == ROLE_RUNNING_VAR;
        }
        assert_int_equal(norms, 0);
        assert_int_equal(a.n_taps, b.n_taps);
        const Tensor *pooled = &eval.tensors[b.taps[b.n_taps - 1]];
        assert_int_equal(pooled->h, 1);
        assert_int_equal(pooled->w, 1);
        const Tensor *last = &eval.tensors[b.taps[b.n_taps - 2]];
        assert_int_equal(last->c, pooled->c);
        const double macs = model_macs(&eval, "net.") * 1e-6;
        if (macs < info->macs - 0.051 || macs > info->macs + 0.051) {
            fail_msg("%s: %.3f M multiply-adds, the table says %.3f", info->name, macs, info->macs);
        }
        assert_true(model_macs(&train, "net.") * 1e-6 == macs);
        assert_true(model_macs(&eval, "other.") == 0.0);
        for (size_t k = 0; k < sizeof published_macs / sizeof published_macs[0]; ++k) {
            const double off = macs - published_macs[k].macs;
            if (strcmp(published_macs[k].name, info->name) == 0) {
                assert_true(off < 0.51 * published_macs[k].digit &&
                            off > -0.51 * published_macs[k].digit);
            }
        }
        graph_free(&train);
        graph_free(&eval);
        params_free(&params);
    }
}

/* Two networks in one Params, one trained and one not. */
static void test_two_networks(void **state)
{
    (void)state;
    Params params = {0};
    ModelBuild student = {.params = &params,
                          .prefix = "student.",
                          .trainable = true,
                          .classes = 100,
                          .images = -1,
                          .stem_channels = 3};
    ModelBuild teacher = {
        .params = &params, .prefix = "teacher.", .classes = 100, .images = -1, .stem_channels = 3};
    no_error(model_build("resnet8", &student));
    no_error(model_build("wrn_16_2", &teacher));
    params_finish(&params);
    assert_int_equal(params_count(&params, "student."), 83892);
    assert_int_equal(params_count(&params, "teacher."), 703284);
    for (int i = 0; i < params.count; ++i) {
        const Param *p = &params.items[i];
        const bool statistic = p->role == ROLE_RUNNING_MEAN || p->role == ROLE_RUNNING_VAR;
        const Arena wanted = p->name[0] == 's' ? ARENA_WEIGHT : ARENA_FROZEN;
        assert_int_equal(p->arena, statistic ? ARENA_STATE : wanted);
    }
    params_free(&params);
}

/* Of drawn values; `largest` in magnitude. */
typedef struct {
    double mean, variance, largest;
} Spread;

static Spread param_spread(const Params *params, float *const arena[], const char *name)
{
    const int index = params_find(params, name);
    assert_true(index >= 0);
    const Param *p = &params->items[index];
    const float *x = arena[p->arena] + p->offset;
    Spread s = {0};
    double squares = 0.0;
    for (size_t i = 0; i < p->count; ++i) {
        s.mean += x[i];
        squares += (double)x[i] * x[i];
        const double size = x[i] < 0 ? -x[i] : x[i];
        s.largest = size > s.largest ? size : s.largest;
    }
    s.mean /= (double)p->count;
    s.variance = squares / (double)p->count - s.mean * s.mean;
    return s;
}

/* Variance within 5 of its own standard errors: sqrt(2/n) of the variance for a normal, sqrt(0.8/n)
 * for a uniform. */
static void assert_variance(double got, double want, double n)
{
    const double off = (got - want) / want;
    if (off * off > 25.0 * 2.0 / n) {
        fail_msg("variance %g, expected %g of %g draws", got, want, n);
    }
}

static void test_init(void **state)
{
    (void)state;
    static const struct {
        const char *model, *conv, *linear;
        double conv_variance, conv_count, linear_variance, linear_count, bias_bound;
        bool uniform;
    } cases[] = {
        {"resnet8x4", "layer3.0.conv2.weight", "fc", 2.0 / (9 * 256), 9.0 * 256 * 256,
         1.0 / (3 * 256), 25600, 1.0 / 16, true},
        {"wrn_16_2", "block3.layer.0.convShortcut.weight", "fc", 2.0 / 128, 128.0 * 64,
         1.0 / (3 * 128), 12800, 0, true},
        {"vgg8", "block4.0.weight", "classifier", 2.0 / (9 * 512), 9.0 * 512 * 512, 1e-4, 51200, 0,
         false},
        {"resnet18", "conv1.weight", "fc", 2.0 / (49 * 64), 49.0 * 64 * 3, 1.0 / (3 * 512), 512000,
         0.044194174, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        Params params = register_net(cases[i].model, "", model_find(cases[i].model)->classes);
        float *arena[ARENA_COUNT] = {0};
        arena[ARENA_WEIGHT] = xcalloc(params.arena_elems[ARENA_WEIGHT], sizeof(float));
        arena[ARENA_STATE] = xcalloc(params.arena_elems[ARENA_STATE], sizeof(float));
        params_init(&params, "", 7, arena);
        const Spread conv = param_spread(&params, arena, cases[i].conv);
        assert_variance(conv.variance, cases[i].conv_variance, cases[i].conv_count);
        char name[64];
        (void)snprintf(name, sizeof name, "%s.weight", cases[i].linear);
        const Spread weight = param_spread(&params, arena, name);
        assert_variance(weight.variance, cases[i].linear_variance, cases[i].linear_count);
        /* A uniform stays within sqrt(3) deviations, a normal of this many draws does not. */
        assert_int_equal(weight.largest * weight.largest <= 3.0001 * cases[i].linear_variance,
                         cases[i].uniform);
        (void)snprintf(name, sizeof name, "%s.bias", cases[i].linear);
        const Spread bias = param_spread(&params, arena, name);
        assert_true(bias.largest <= cases[i].bias_bound &&
                    bias.largest >= 0.9 * cases[i].bias_bound);
        for (int k = 0; k < params.count; ++k) {
            const Param *p = &params.items[k];
            if (p->role == ROLE_BN_WEIGHT || p->role == ROLE_RUNNING_VAR) {
                assert_true(arena[p->arena][p->offset] == 1.0f);
            }
            if (p->role == ROLE_BN_BIAS || p->role == ROLE_RUNNING_MEAN) {
                assert_true(arena[p->arena][p->offset] == 0.0f);
            }
        }
        free(arena[ARENA_WEIGHT]);
        free(arena[ARENA_STATE]);
        params_free(&params);
    }
}

/* Names, shapes and order of every network's state_dict, num_batches_tracked after each running
 * variance. */
static void test_keys_torch(void **state)
{
    (void)state;
    if (!python_has("torch")) {
        python_skip("torch");
        skip();
    }
    FILE *keys = python_open("tests/zoo_torch.py keys");
    char model[64] = "";
    Params params = {0};
    int next = 0;
    int models_seen = 0;
    char line[256];
    while (fgets(line, sizeof line, keys)) {
        char name[64];
        char key[PARAM_NAME_MAX];
        int d[4] = {0};
        const int fields =
            sscanf(line, "%63s %119s %d %d %d %d", name, key, &d[0], &d[1], &d[2], &d[3]);
        assert_true(fields >= 2);
        if (strcmp(name, model) != 0) {
            assert_int_equal(next, params.count);
            params_free(&params);
            (void)snprintf(model, sizeof model, "%s", name);
            params = register_net(model, "", model_find(model)->classes);
            next = 0;
            ++models_seen;
        }
        if (strstr(key, "num_batches_tracked")) {
            assert_int_equal(params.items[next - 1].role, ROLE_RUNNING_VAR);
            continue;
        }
        assert_true(next < params.count);
        const Param *p = &params.items[next++];
        assert_string_equal(p->name, key);
        assert_int_equal(p->ndim, fields - 2);
        for (int i = 0; i < p->ndim; ++i) {
            assert_int_equal(p->shape[i], d[i]);
        }
    }
    assert_int_equal(next, params.count);
    assert_int_equal(models_seen, PUBLISHED);
    params_free(&params);
    assert_int_equal(python_close(keys), 0);
}

/* ---- Weights ---- */

static void arenas_make(const Params *params, float *arena[ARENA_COUNT], float value)
{
    static const Arena used[] = {ARENA_WEIGHT, ARENA_FROZEN, ARENA_STATE};
    for (int i = 0; i < 3; ++i) {
        const size_t n = params->arena_elems[used[i]];
        arena[used[i]] = xmalloc((n + 1) * sizeof(float));
        for (size_t k = 0; k < n; ++k) {
            arena[used[i]][k] = value;
        }
    }
}

static void arenas_free(float *arena[ARENA_COUNT])
{
    for (int i = 0; i < ARENA_COUNT; ++i) {
        free(arena[i]);
    }
}

static bool params_equal(const Params *params, float *const a[ARENA_COUNT],
                         float *const b[ARENA_COUNT])
{
    for (int i = 0; i < params->count; ++i) {
        const Param *p = &params->items[i];
        if (memcmp(a[p->arena] + p->offset, b[p->arena] + p->offset, p->count * sizeof(float)) !=
            0) {
            return false;
        }
    }
    return true;
}

/* A network of drawn weights, saved to a file in a temporary folder and opened. */
typedef struct {
    Params params;
    float *arena[ARENA_COUNT];
    char folder[32];
    char *path;
    WeightsFile *file;
} Saved;

static void saved_make(const char *model, const char *prefix, Saved *saved)
{
    *saved = (Saved){.params = register_net(model, prefix, 10), .folder = "/tmp/models_XXXXXX"};
    arenas_make(&saved->params, saved->arena, 0.0f);
    params_init(&saved->params, prefix, 3, saved->arena);
    for (size_t i = 0; i < saved->params.arena_elems[ARENA_STATE]; ++i) {
        saved->arena[ARENA_STATE][i] =
            1.0f + 0.001f * (float)i; /* running statistics that differ everywhere */
    }
    assert_non_null(mkdtemp(saved->folder));
    saved->path = path_join(saved->folder, "net.safetensors");
    ModelEntries entries = model_save_entries(&saved->params, prefix, saved->arena, 391);
    no_error(safetensors_write(saved->path, entries.tensors, entries.count, NULL));
    model_entries_free(&entries);
    no_error(weights_open(saved->path, &saved->file));
}

static void saved_free(Saved *saved)
{
    weights_close(saved->file);
    free(saved->path);
    no_error(dir_remove(saved->folder));
    arenas_free(saved->arena);
    params_free(&saved->params);
}

static WeightEntry *entry_of(const WeightsFile *file, const char *name)
{
    WeightEntry *entry = (WeightEntry *)weights_find(file, name);
    assert_non_null(entry);
    return entry;
}

static void test_round_trip(void **state)
{
    (void)state;
    Saved saved;
    saved_make("vgg8", "student.", &saved);
    assert_int_equal(saved.file->count, 37);
    assert_null(weights_find(saved.file, "student.classifier.bias"));
    int64_t batches = 0;
    const WeightEntry *counter = entry_of(saved.file, "block2.1.num_batches_tracked");
    assert_int_equal(counter->type, WEIGHT_I64);
    assert_int_equal(counter->ndim, 0);
    memcpy(&batches, counter->data, sizeof batches);
    assert_int_equal(batches, 391);

    /* O,I,Kh,Kw in the file, O,Kh,Kw,I in the arena, by the definition of both. */
    const Param *p = &saved.params.items[params_find(&saved.params, "student.block1.0.weight")];
    const WeightEntry *entry = entry_of(saved.file, "block1.0.weight");
    float *flat = xmalloc(p->count * sizeof *flat);
    weights_to_float(entry, flat);
    for (int o = 0; o < 128; o += 5) {
        for (int i = 0; i < 64; ++i) {
            for (int k = 0; k < 9; ++k) {
                const float stored =
                    saved.arena[ARENA_WEIGHT][p->offset + (size_t)((o * 9 + k) * 64 + i)];
                assert_true(flat[(o * 64 + i) * 9 + k] == stored);
            }
        }
    }
    free(flat);

    float *again[ARENA_COUNT] = {0};
    arenas_make(&saved.params, again, -1.0f);
    no_error(model_load_weights(&saved.params, "student.", saved.file, again));
    assert_true(params_equal(&saved.params, saved.arena, again));
    int classes = 0;
    assert_ptr_equal(model_recognise(saved.file, &classes), model_find("vgg8"));
    assert_int_equal(classes, 10);
    arenas_free(again);
    saved_free(&saved);
}

/* Momentum: only the trainable arena, no running statistics, no counters. */
static void test_one_arena(void **state)
{
    (void)state;
    Saved saved;
    saved_make("resnet8", "", &saved);
    float *moment[ARENA_COUNT] = {0};
    moment[ARENA_WEIGHT] = saved.arena[ARENA_WEIGHT];
    ModelEntries entries = model_save_entries(&saved.params, "", moment, 0);
    int trainable = 0;
    for (int i = 0; i < saved.params.count; ++i) {
        trainable += saved.params.items[i].trainable;
    }
    assert_int_equal(entries.count, trainable);
    assert_string_equal(entries.tensors[0].name, "conv1.weight");
    model_entries_free(&entries);

    float *read[ARENA_COUNT] = {0};
    const size_t bytes = saved.params.arena_elems[ARENA_WEIGHT] * sizeof(float);
    read[ARENA_WEIGHT] = xcalloc(1, bytes);
    no_error(model_load_weights(&saved.params, "", saved.file, read));
    for (int i = 0; i < saved.params.count; ++i) {
        const Param *p = &saved.params.items[i];
        if (p->trainable) {
            assert_memory_equal(read[ARENA_WEIGHT] + p->offset,
                                saved.arena[ARENA_WEIGHT] + p->offset, p->count * sizeof(float));
        }
    }
    arenas_free(read);
    saved_free(&saved);
}

/* A file in bfloat16 and one tensor in double: values that both hold exactly arrive exactly. */
static void test_types(void **state)
{
    (void)state;
    Saved saved;
    saved_make("resnet8", "", &saved);
    WeightEntry *entry = entry_of(saved.file, "layer1.0.bn1.weight");
    WeightEntry *bias = entry_of(saved.file, "layer1.0.bn1.bias");
    bf16 half[16];
    double wide[16];
    for (int i = 0; i < 16; ++i) {
        half[i] = bf16_from_float(0.5f + (float)i);
        wide[i] = 0.25 - i;
    }
    const WeightEntry kept[2] = {*entry, *bias};
    entry->type = WEIGHT_BF16;
    entry->bytes = sizeof half;
    entry->data = half;
    bias->type = WEIGHT_F64;
    bias->bytes = sizeof wide;
    bias->data = wide;
    no_error(model_load_weights(&saved.params, "", saved.file, saved.arena));
    const Param *p = &saved.params.items[params_find(&saved.params, "layer1.0.bn1.weight")];
    for (int i = 0; i < 16; ++i) {
        assert_true(saved.arena[ARENA_WEIGHT][p[0].offset + (size_t)i] == 0.5f + (float)i);
        assert_true(saved.arena[ARENA_WEIGHT][p[1].offset + (size_t)i] == 0.25f - (float)i);
    }
    *entry = kept[0];
    *bias = kept[1];
    saved_free(&saved);
}

static void assert_refused(const Saved *saved, const char *const *words)
{
    float *untouched[ARENA_COUNT] = {0};
    float *read[ARENA_COUNT] = {0};
    arenas_make(&saved->params, untouched, -1.0f);
    arenas_make(&saved->params, read, -1.0f);
    Err *err = model_load_weights(&saved->params, "", saved->file, read);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_BAD_DATA);
    for (; *words; ++words) {
        if (!strstr(err->message, *words)) {
            fail_msg("no '%s' in: %s", *words, err->message);
        }
    }
    err_free(err);
    assert_true(params_equal(&saved->params, untouched, read));
    arenas_free(untouched);
    arenas_free(read);
}

static void test_refusals(void **state)
{
    (void)state;
    Saved saved;
    saved_make("resnet8", "", &saved);
    WeightEntry *entry = entry_of(saved.file, "fc.weight");
    char *name = entry->name;

    char other[] = "head.weight";
    entry->name = other;
    assert_refused(&saved,
                   (const char *[]){"1 missing: fc.weight", "1 unexpected: head.weight", NULL});
    entry->name = name;

    entry->shape[0] = 64;
    entry->shape[1] = 10;
    assert_refused(&saved, (const char *[]){"fc.weight is F32 [64,10], not [10,64]", NULL});
    entry->shape[0] = 10;
    entry->shape[1] = 64;

    entry->type = WEIGHT_I32;
    assert_refused(&saved, (const char *[]){"fc.weight is I32", NULL});
    entry->type = WEIGHT_F32;

    /* Values that are not finite, or not in fp32. Not the first tensor, so that writing too early
     * would show. */
    const void *data = entry->data;
    float *bad = xmalloc(entry->bytes);
    memcpy(bad, data, entry->bytes);
    bad[3] = NAN;
    bad[640 - 1] = -INFINITY;
    entry->data = bad;
    assert_refused(&saved,
                   (const char *[]){"'fc.weight' holds 2 values that are not finite", NULL});
    entry->data = data;
    free(bad);
    WeightEntry *variance = entry_of(saved.file, "layer1.0.bn1.running_var");
    const WeightEntry kept_variance = *variance;
    double wide[16] = {1, 1e39};
    variance->type = WEIGHT_F64;
    variance->bytes = sizeof wide;
    variance->data = wide;
    assert_refused(&saved, (const char *[]){"running_var' holds 1 values", NULL});
    *variance = kept_variance;

    /* A longer network: the file's own kind and classes are named, long lists are cut. */
    Params kept = saved.params;
    float *arena[ARENA_COUNT];
    memcpy(arena, saved.arena, sizeof arena);
    saved.params = register_net("resnet20", "", 100);
    assert_refused(&saved, (const char *[]){"resnet8 of 10 classes", "60 missing: ", " and 52 more",
                                            "fc.bias is F32 [10], not [100]", NULL});
    params_free(&saved.params);
    saved.params = kept;
    saved_free(&saved);
}

/* The authors' checkpoint of Energy KD: every tensor found, nothing left over. */
static void test_checkpoint(void **state)
{
    (void)state;
    const char *data = getenv("CUDISTILL_DATA");
    char *path = path_join(data ? data : "../shared/data", "checkpoints/wrn_16_2_energykd.pth");
    if (!path_exists(path)) {
        printf("skipped: no %s (set CUDISTILL_DATA)\n", path);
        free(path);
        skip();
    }
    WeightsFile *file = NULL;
    no_error(weights_open(path, &file));
    int classes = 0;
    assert_ptr_equal(model_recognise(file, &classes), model_find("wrn_16_2"));
    assert_int_equal(classes, 100);
    Params params = register_net("wrn_16_2", "teacher.", 100);
    /* state_dict's order, counters left out. */
    int next = 0;
    for (size_t i = 0; i < file->count; ++i) {
        if (!strstr(file->entries[i].name, "num_batches_tracked")) {
            assert_string_equal(params.items[next++].name + strlen("teacher."),
                                file->entries[i].name);
        }
    }
    assert_int_equal(next, params.count);
    float *arena[ARENA_COUNT] = {0};
    arenas_make(&params, arena, -1.0f);
    no_error(model_load_weights(&params, "teacher.", file, arena));
    for (int i = 0; i < params.count; ++i) {
        const Param *p = &params.items[i];
        if (p->role == ROLE_RUNNING_VAR) {
            for (size_t k = 0; k < p->count; ++k) {
                assert_true(arena[p->arena][p->offset + k] >= 0.0f);
            }
        }
    }
    arenas_free(arena);
    params_free(&params);
    weights_close(file);
    free(path);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_image_size),   cmocka_unit_test(test_graphs),
        cmocka_unit_test(test_two_networks), cmocka_unit_test(test_init),
        cmocka_unit_test(test_keys_torch),   cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_one_arena),    cmocka_unit_test(test_types),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
