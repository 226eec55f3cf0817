/* A teacher's file that does not fit: the message names tensors, both shapes, the likely cause and the cure. Every cause from
 * a file that is made to have it. */
#include "base/log.h"
#include "models/load.h"
#include "weights_rig.h"

#include <math.h>

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    return 0;
}

/* ---- Networks and files in memory ---- */

typedef struct {
    Params params;
    float *arena[ARENA_COUNT];
} Net;

static Net net_make(const char *model, int classes)
{
    Net net = {0};
    ModelBuild build = {.params = &net.params,
                        .prefix = "teacher.",
                        .trainable = true,
                        .classes = classes,
                        .images = -1,
                        .stem_channels = 3};
    ok(model_build(model, &build));
    params_finish(&net.params);
    for (int a = 0; a < ARENA_COUNT; a++) {
        net.arena[a] = xcalloc(net.params.arena_elems[a] + 1, sizeof(float));
    }
    return net;
}

static void net_free(Net *net)
{
    for (int a = 0; a < ARENA_COUNT; a++) {
        free(net->arena[a]);
    }
    params_free(&net->params);
}

/* The network's tensors, all zero, under the names and shapes of its parameters. */
static WeightsFile *file_make(const char *model, int classes)
{
    Net net = net_make(model, classes);
    WeightsFile *file = xcalloc(1, sizeof *file);
    file->entries = xcalloc((size_t)net.params.count, sizeof *file->entries);
    file->buffers = xcalloc((size_t)net.params.count, sizeof *file->buffers);
    for (int i = 0; i < net.params.count; i++) {
        const Param *p = &net.params.items[i];
        WeightEntry *entry = &file->entries[file->count++];
        *entry = (WeightEntry){.name = xstrdup(p->name + strlen("teacher.")),
                               .type = WEIGHT_F32,
                               .ndim = p->ndim,
                               .count = p->count,
                               .bytes = 4 * p->count};
        for (int d = 0; d < p->ndim; d++) {
            entry->shape[d] = p->shape[d];
        }
        file->buffers[file->buffer_count] = xcalloc(p->count, sizeof(float));
        entry->data = file->buffers[file->buffer_count++];
    }
    net_free(&net);
    return file;
}

static WeightEntry *entry_of(WeightsFile *file, const char *name)
{
    WeightEntry *entry = (WeightEntry *)weights_find(file, name);
    assert_non_null(entry);
    return entry;
}

static void drop(WeightsFile *file, const char *name)
{
    WeightEntry *entry = entry_of(file, name);
    free(entry->name);
    const size_t after = (size_t)(file->entries + file->count - entry - 1);
    memmove(entry, entry + 1, after * sizeof *entry);
    file->count--;
}

/* Every name that begins with `old` begins with `new`. */
static void rename_in(WeightsFile *file, const char *old, const char *new)
{
    for (size_t i = 0; i < file->count; i++) {
        char *name = file->entries[i].name;
        if (strncmp(name, old, strlen(old)) == 0) {
            file->entries[i].name = xformat("%s%s", new, name + strlen(old));
            free(name);
        }
    }
}

/* Loading the file as `model` is refused, with every part in the message; the file is closed. */
static void expect_misfit(WeightsFile *file, const char *model, int classes,
                          const char *const *parts)
{
    Net net = net_make(model, classes);
    Err *err = model_load_weights(&net.params, "teacher.", file, net.arena);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_BAD_DATA);
    for (; *parts != NULL; parts++) {
        if (strstr(err->message, *parts) == NULL) {
            fail_msg("'%s' is not in: %s", *parts, err->message);
        }
    }
    err_free(err);
    net_free(&net);
    weights_close(file);
}
#define MISFIT(file, model, classes, ...)                                                          \
    expect_misfit(file, model, classes, (const char *[]){__VA_ARGS__, NULL})

/* ---- Tests ---- */

static void test_fits(void **state)
{
    (void)state;
    int count = 0;
    const ModelInfo *list = model_list(&count);
    for (int i = 0; i < count; i++) {
        if (list[i].params > 3000000) {
            continue; /* their tables are made by the same code, and take long to fill */
        }
        WeightsFile *file = file_make(list[i].name, 37);
        Net net = net_make(list[i].name, 37);
        ok(model_load_weights(&net.params, "teacher.", file, net.arena));
        int classes = 0;
        assert_ptr_equal(model_recognise(file, &classes), &list[i]);
        assert_int_equal(classes, 37);
        net_free(&net);
        weights_close(file);
    }
}

static void test_classes(void **state)
{
    (void)state;
    MISFIT(file_make("resnet20", 10), "resnet20", 100,
           "the file holds a resnet20 of 10 classes, and 100 are wanted",
           "2 of another shape or type: ", "fc.weight is F32 [10,64], not [100,64]",
           "fc.bias is F32 [10], not [100]");
    /* A network that is not of the zoo, too. */
    WeightsFile *file = file_make("wrn_16_2", 10);
    rename_in(file, "bn1.weight", "bn1.scale");
    MISFIT(file, "wrn_16_2", 100, "1 missing: bn1.weight", "1 unexpected: bn1.scale");
}

static void test_other_network(void **state)
{
    (void)state;
    MISFIT(file_make("wrn_40_1", 100), "wrn_16_2", 100, "the file holds a wrn_40_1 of 100 classes",
           "choose that model");
    WeightsFile *file = file_make("resnet20", 100);
    WeightEntry *entry = entry_of(file, "layer2.0.conv1.weight");
    entry->shape[0] = 31;
    MISFIT(file, "resnet56", 100, "nearest is resnet20 of 100 classes (106 of 107 tensors)",
           "180 missing: layer1.3.conv1.weight");
}

static void test_missing_and_extra(void **state)
{
    (void)state;
    WeightsFile *file = file_make("resnet8", 100);
    drop(file, "layer1.0.bn2.weight");
    MISFIT(file, "resnet8", 100, "1 missing: layer1.0.bn2.weight",
           "nearest is resnet8 of 100 classes (46 of 47 tensors)");
    file = file_make("resnet8", 100);
    entry_of(file, "layer1.0.bn2.weight")->shape[0] = 17;
    MISFIT(file, "resnet8", 100,
           "1 of another shape or type: layer1.0.bn2.weight is F32 [17], not "
           "[16]");
    file = file_make("resnet8", 100);
    entry_of(file, "fc.bias")->type = WEIGHT_I32;
    MISFIT(file, "resnet8", 100, "fc.bias is I32, not a floating-point type");
    WeightsFile *empty = xcalloc(1, sizeof *empty);
    MISFIT(empty, "resnet8", 100, "47 missing: conv1.weight", "and 39 more",
           "choose the model that the file was made with");
}

static void test_renamed(void **state)
{
    (void)state;
    WeightsFile *file = file_make("resnet8", 100);
    rename_in(file, "", "backbone.");
    MISFIT(file, "resnet8", 100, "every name begins with 'backbone.'", "--rename backbone.='");
    file = file_make("resnet8", 100);
    rename_in(file, "fc.", "head.linear.");
    MISFIT(file, "resnet8", 100, "'fc.' has another name in the file", "--rename head.linear.=fc.'",
           "2 missing: fc.weight, fc.bias", "2 unexpected: head.linear.weight, head.linear.bias");
    /* Not the same thing under another name. */
    file = file_make("resnet8", 100);
    rename_in(file, "fc.", "head.");
    entry_of(file, "head.weight")->shape[1] = 65;
    MISFIT(file, "resnet8", 100, "nearest is resnet8");
}

static void test_without_statistics(void **state)
{
    (void)state;
    WeightsFile *file = file_make("resnet8", 100);
    for (size_t i = file->count; i > 0; i--) {
        if (strstr(file->entries[i - 1].name, "running_") != NULL) {
            drop(file, file->entries[i - 1].name);
        }
    }
    MISFIT(file, "resnet8", 100, "lacks the running statistics", "state_dict()", "18 missing: ");
}

static void test_not_finite(void **state)
{
    (void)state;
    WeightsFile *file = file_make("resnet8", 100);
    float *weight = (float *)entry_of(file, "layer2.0.conv1.weight")->data;
    weight[100] = NAN;
    weight[4000] = INFINITY;
    MISFIT(file, "resnet8", 100,
           "tensor 'layer2.0.conv1.weight' holds 2 values that are not finite (of 4608; the first "
           "is element 100: nan)",
           "diverged; choose another");
    file = file_make("resnet8", 100);
    ((float *)entry_of(file, "conv1.weight")->data)[0] = -INFINITY;
    ((float *)entry_of(file, "fc.bias")->data)[99] = NAN;
    MISFIT(file, "resnet8", 100, "tensor 'conv1.weight' holds 1 values", "element 0: -inf",
           "so do 1 other tensors");
}

static void test_unknown_model(void **state)
{
    (void)state;
    Params params = {0};
    ModelBuild build = {.params = &params, .prefix = "", .classes = 10, .images = -1};
    expect_err(model_build("resnet8_x4", &build), EXIT_CONFIG_ERR, "did you mean 'resnet8x4'?");
    expect_err(model_build("wrn16_2", &build), EXIT_CONFIG_ERR, "did you mean 'wrn_16_2'?");
    expect_err(model_build("transformer", &build), EXIT_CONFIG_ERR, "known models:");
    params_free(&params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fits),          cmocka_unit_test(test_classes),
        cmocka_unit_test(test_other_network), cmocka_unit_test(test_missing_and_extra),
        cmocka_unit_test(test_renamed),       cmocka_unit_test(test_without_statistics),
        cmocka_unit_test(test_not_finite),    cmocka_unit_test(test_unknown_model),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
