/* Augmentation policies in whole runs: the same weights for any number of workers and after resuming, pictures on record
 * that are the batch's own, what `auto` chooses beside a policy, and settings that contradict one. */
#include "base/log.h"
#include "base/rng.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "io/png.h"
#include "train/rundir.h"
#include "train/samples.h"
#include "train_rig.h"

#include <jansson.h>

#define DATA "classes=4,train=76,test=40"

/* Energy KD, whose thresholds come from a pass over the training pictures. */
static Err *distil(const Fixture *f, const char *name, const char *const *extra, RunResult *result)
{
    const char *const base[] = {"data.options=classes=4,train=76,test=40",
                                "schedule.epochs=2",
                                "distill.method=energy_kd",
                                "teacher.model=resnet8",
                                f->teacher,
                                "augment.policy=randaugment_timm",
                                "augment.cutout=8",
                                "eval.batch=16",
                                "data.workers=0"};
    const char *overrides[MAX_OVERRIDES] = {NULL};
    int count = 0;
    for (size_t i = 0; i < sizeof base / sizeof base[0]; i++) {
        if (!replaced(base[i], extra)) {
            overrides[count++] = base[i];
        }
    }
    for (int i = 0; extra && extra[i]; i++) {
        overrides[count++] = extra[i];
    }
    return run_in(f, name, RESUME_AUTO, overrides, result);
}

static void expect_weights(const Fixture *f, const char *a, const char *b, bool same)
{
    char first[33];
    char second[33];
    weights_hash(f, a, first);
    weights_hash(f, b, second);
    assert_int_equal(strcmp(first, second) == 0, same);
}

static void workers_and_resuming_change_nothing(void **state)
{
    const Fixture *f = *state;
    RunResult result;
    assert_fine(distil(f, "none", NULL, &result));
    assert_false(result.resident);
    assert_fine(distil(f, "one", (const char *[]){"data.workers=1", NULL}, NULL));
    expect_weights(f, "none", "one", true);
    const char *const stops[] = {"train.max_steps=2", "train.max_steps=4", "train.max_steps=0"};
    for (int i = 0; i < 3; i++) { /* an epoch has 3 steps */
        const char *const extra[] = {stops[i], "data.workers=3", NULL};
        assert_fine(distil(f, "parts", extra, NULL));
    }
    expect_weights(f, "none", "parts", true);
    const char *const other[] = {"augment.cutout_prob=0.5", NULL};
    assert_fine(distil(f, "other", other, NULL));
    expect_weights(f, "none", "other", false);
}

static void every_policy_trains(void **state)
{
    const Fixture *f = *state;
    static const char *const policies[] = {
        "augment.policy=none", "augment.policy=autoaugment_imagenet",
        "augment.policy=autoaugment_cifar10", "augment.policy=randaugment_torchvision"};
    for (int i = 0; i < 4; i++) {
        const char *const extra[] = {policies[i], "train.max_steps=2", "eval.every=1000", NULL};
        char *name = xformat("policy%d", i);
        assert_fine(distil(f, name, extra, NULL));
        if (i > 0) {
            expect_weights(f, "policy0", name, false);
        }
        free(name);
    }
}

static uint8_t *read_png(const Fixture *f, const char *name, int *height, int *width)
{
    char *path = xformat("%s/%s/%s", f->dir, name, RUN_SAMPLES_PNG);
    FileMap map;
    assert_fine(file_map(path, &map));
    uint8_t *rgb = NULL;
    assert_fine(png_decode(map.data, map.size, 1 << 24, &rgb, height, width));
    file_unmap(&map);
    free(path);
    return rgb;
}

static json_t *read_list(const Fixture *f, const char *name)
{
    char *path = xformat("%s/%s/%s", f->dir, name, RUN_SAMPLES_JSON);
    json_t *root = json_load_file(path, 0, NULL);
    free(path);
    assert_non_null(root);
    return root;
}

/* The grid holds the first rows of the loader's first batches. */
static void check_grid(const Fixture *f, const char *name, const LoaderConfig *config,
                       const Dataset *train)
{
    Loader *loader = NULL;
    assert_fine(loader_open(train, config, &loader));
    const Batch *batch = loader_next(loader);
    int height = 0;
    int width = 0;
    uint8_t *grid = read_png(f, name, &height, &width);
    json_t *root = read_list(f, name);
    const size_t row_bytes = (size_t)train->width * 3;
    for (int i = 0; i < SAMPLES_MAX; i++) {
        const json_t *picture = json_array_get(json_object_get(root, "pictures"), (size_t)i);
        assert_int_equal(json_integer_value(json_object_get(picture, "sample")), batch->ids[i]);
        assert_non_null(json_string_value(json_object_get(picture, "policy")));
        const int top = i / SAMPLES_COLUMNS * (train->height + SAMPLES_GAP);
        const int left = i % SAMPLES_COLUMNS * (train->width + SAMPLES_GAP);
        for (int y = 0; y < train->height; y++) {
            const size_t at = (size_t)(top + y) * (size_t)width + (size_t)left;
            assert_memory_equal(grid + 3 * at,
                                batch->images + (size_t)i * dataset_image_size(train) +
                                    (size_t)y * row_bytes,
                                row_bytes);
        }
    }
    json_decref(root);
    free(grid);
    loader_release(loader, batch);
    loader_close(loader);
}

static void pictures_on_record_are_the_batch(void **state)
{
    const Fixture *f = *state;
    const char *const extra[] = {"augment.mean=0.2,0.4,0.6", "train.max_steps=1", NULL};
    assert_fine(distil(f, "pictures", extra, NULL));
    Dataset *train = NULL;
    assert_fine(dataset_open("synthetic:" DATA, SPLIT_TRAIN, &train));
    const LoaderConfig config = {.batch = 32,
                                 .seed = 1,
                                 .augment = {.pad = 4, .flip = true},
                                 .policy = {.kind = POLICY_RANDAUGMENT_TIMM,
                                            .n = 2,
                                            .m = 9,
                                            .mstd = 0.5,
                                            .inc = true,
                                            .cutout = 8,
                                            .cutout_prob = 1,
                                            .cutout_fill = {51, 102, 153}},
                                 .shuffle = true};
    check_grid(f, "pictures", &config, train);
    dataset_close(train);
}

/* Few views, so that `auto` would write a memo without the policy. */
static void auto_goes_without_the_memo(void **state)
{
    const Fixture *f = *state;
    for (int i = 0; i < 2; i++) {
        const char *const extra[] = {"augment.padding=0",
                                     "augment.flip=false",
                                     i == 0 ? "augment.policy=none"
                                            : "augment.policy=randaugment_timm",
                                     "augment.cutout=0",
                                     "train.max_steps=1",
                                     NULL};
        char *memo = path_join(f->dir, "memo");
        assert_fine(distil(f, i == 0 ? "with" : "without", extra, NULL));
        assert_int_equal(path_exists(memo), i == 0);
        if (i == 0) {
            assert_fine(dir_remove(memo));
        }
        free(memo);
    }
}

static void contradictions_are_refused(void **state)
{
    const Fixture *f = *state;
    static const struct {
        const char *a, *b, *part;
    } cases[] = {
        {"teacher.memo=on", "augment.cutout=0",
         "teacher.memo = on does not go with augment.policy"},
        {"teacher.memo=on", "augment.policy=none",
         "teacher.memo = on does not go with augment.cutout"},
        {"data.resident=on", "augment.cutout=0",
         "data.resident = on does not go with augment.policy"},
        {"augment.randaug_m=11", "augment.cutout=0", "0 to 10"},
        {"augment.randaug_m=8.5", "augment.policy=randaugment_torchvision", "whole"},
        {"augment.randaug_inc=true", "augment.policy=randaugment_torchvision",
         "augment.randaug_inc has no effect"},
        {"augment.randaug_n=3", "augment.policy=autoaugment_cifar10",
         "augment.randaug_n has no effect"},
        {"augment.cutout_prob=0.5", "augment.cutout=0", "augment.cutout_prob has no effect"},
        {"augment.policy=autoaugment", "augment.cutout=0", "augment.policy"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const extra[] = {cases[i].a, cases[i].b, NULL};
        assert_code(distil(f, "refused", extra, NULL), EXIT_CONFIG_ERR, cases[i].part);
    }
    char *folder = path_join(f->dir, "refused");
    assert_false(path_exists(folder));
    free(folder);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workers_and_resuming_change_nothing),
        cmocka_unit_test(every_policy_trains),
        cmocka_unit_test(pictures_on_record_are_the_batch),
        cmocka_unit_test(auto_goes_without_the_memo),
        cmocka_unit_test(contradictions_are_refused),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
