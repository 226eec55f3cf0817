/* Long-tailed sets: NumPy's generator by its published numbers and by NumPy itself, the totals of the literature, the new
 * set's contents, the command that writes the indices, and training: counts, dry runs, refusals at a resume. Set
 * CUDISTILL_PYTHON to a Python with NumPy; without it, and without CIFAR-100, those tests are skipped. */
#include "data/longtail.h"

#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/commands.h"
#include "data/cifar.h"
#include "io/npy.h"
#include "train/dry_run.h"
#include "train_rig.h"

#include "command_rig.h"
#include "python.h"

#include <jansson.h>

typedef struct {
    double factor;
    uint32_t seed;
    uint32_t cifar100; /* images of CIFAR-100-LT; 0 = not known */
} Case;

static const Case cases[] = {{10, 0, 19573},
                             {20, 0, 15907},
                             {50, 0, 12608},
                             {100, 0, 10847},
                             {200, 0, 9502},
                             {100, 1, 10847},
                             {100, 4294967295U, 10847},
                             {2.5, 12345, 0},
                             {500, 7, 0}};
enum { CASES = sizeof cases / sizeof cases[0] };

/* A set of one-pixel images; image i shows i. Labels are scattered. */
static Dataset *small_set(int classes, uint32_t count, bool even)
{
    Dataset *set = dataset_new("dots", "made here", SPLIT_TRAIN, count, classes, 1, 1);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t scattered = (uint32_t)((uint64_t)i * 7919 % count);
        const uint32_t label = scattered % (uint32_t)classes;
        set->labels[i] = (int32_t)(even || i % 3 == 0 ? label : label / 2);
        for (int b = 0; b < 3; b++) {
            set->images[3 * i + (uint32_t)b] = (uint8_t)(i >> (8 * b));
        }
    }
    dataset_seal(set);
    return set;
}

static void the_generator_is_numpys(void **state)
{
    (void)state;
    /* The first outputs for seed 5489, of the generator's authors, and the 10000th, of the C++ standard. */
    Mt19937 generator;
    mt19937_seed(&generator, 5489);
    assert_int_equal(mt19937_next(&generator), 3499211612U);
    assert_int_equal(mt19937_next(&generator), 581869302U);
    for (int i = 2; i < 9999; i++) {
        (void)mt19937_next(&generator);
    }
    assert_int_equal(mt19937_next(&generator), 4123659995U);

    static const uint32_t first[] = {90, 254, 283, 445, 461, 15, 316, 489};
    static const uint32_t second[] = {277, 307, 436, 88, 261, 57, 413, 459};
    uint32_t items[500];
    mt19937_seed(&generator, 0);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 500; i++) {
            items[i] = i;
        }
        mt19937_shuffle(&generator, items, 500);
        assert_memory_equal(items, round == 0 ? first : second, sizeof first);
        bool seen[500] = {false};
        for (int i = 0; i < 500; i++) {
            assert_false(seen[items[i]]);
            seen[items[i]] = true;
        }
    }
}

static void totals_are_the_literatures(void **state)
{
    (void)state;
    uint32_t counts[100];
    for (int k = 0; k < CASES; k++) {
        const LongTail how = {.factor = cases[k].factor, .seed = cases[k].seed};
        assert_fine(longtail_counts(&how, 500, 100, counts));
        uint32_t total = 0;
        for (int c = 0; c < 100; c++) {
            total += counts[c];
            assert_true(c == 0 || counts[c] <= counts[c - 1]);
        }
        assert_int_equal(counts[0], 500);
        assert_int_equal(counts[99], (uint32_t)(500 / how.factor));
        if (cases[k].cifar100 > 0) {
            assert_int_equal(total, cases[k].cifar100);
        }
    }
    /* CIFAR-10-LT at 100, class by class, as papers print it. */
    static const uint32_t ten[] = {5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50};
    assert_fine(longtail_counts(&(LongTail){.factor = 100}, 5000, 10, counts));
    assert_memory_equal(counts, ten, sizeof ten);
    /* One class has nothing to be smaller than. */
    assert_fine(longtail_counts(&(LongTail){.factor = 100}, 40, 1, counts));
    assert_int_equal(counts[0], 40);
    assert_code(longtail_counts(&(LongTail){.factor = 501}, 500, 100, counts), EXIT_CONFIG_ERR,
                "class 99 without an image");
}

/* One line of the oracle; -1 for the end of a case. */
static long next_index(FILE *stream)
{
    char line[64];
    if (fgets(line, sizeof line, stream) == NULL) {
        fail_msg("tests/test_longtail.py ended early");
    }
    return strcmp(line, "end\n") == 0 ? -1 : strtol(line, NULL, 10);
}

/* All cases of a set against NumPy. */
static void compare_with_numpy(const Dataset *set)
{
    char *dir = rig_dir();
    assert_non_null(dir);
    char *labels = path_join(dir, "labels");
    write_plain(labels, set->labels, set->count * sizeof *set->labels);
    Text command = {0};
    text_add(&command, "tests/test_longtail.py '%s' %d", labels, set->classes);
    for (int k = 0; k < CASES; k++) {
        text_add(&command, " %.17g:%u", cases[k].factor, cases[k].seed);
    }
    FILE *stream = python_open(command.text);
    assert_non_null(stream);
    for (int k = 0; k < CASES; k++) {
        const LongTail how = {.factor = cases[k].factor, .seed = cases[k].seed};
        uint32_t *indices;
        uint32_t count;
        assert_fine(longtail_indices(set, &how, &indices, &count));
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(next_index(stream), indices[i]);
        }
        assert_int_equal(next_index(stream), -1);
        free(indices);
    }
    assert_int_equal(python_close(stream), 0);
    text_free(&command);
    free(labels);
    assert_fine(dir_remove(dir));
    free(dir);
}

static void indices_are_numpys(void **state)
{
    (void)state;
    if (!python_has("numpy")) {
        python_skip("numpy");
        skip();
    }
    static const struct {
        int classes;
        uint32_t count;
        bool even;
    } sets[] = {{100, 50000, true}, {10, 50000, true}, {7, 9000, false}};
    for (int s = 0; s < 3; s++) {
        Dataset *set = small_set(sets[s].classes, sets[s].count, sets[s].even);
        compare_with_numpy(set);
        dataset_close(set);
    }
}

static void the_new_set_holds_the_chosen_images(void **state)
{
    (void)state;
    Dataset *set = small_set(10, 2000, true);
    const LongTail how = {.factor = 20, .seed = 3};
    Dataset *tail;
    assert_fine(longtail_make(set, &how, &tail));
    uint32_t *indices;
    uint32_t count;
    assert_fine(longtail_indices(set, &how, &indices, &count));
    assert_int_equal(tail->count, count);
    assert_string_equal(tail->name, "dots-lt");
    assert_non_null(strstr(tail->source, "made here"));
    assert_non_null(strstr(tail->source, "imbalance 20, seed 3"));
    assert_string_equal(tail->class_names[9], set->class_names[9]);
    uint32_t sizes[10] = {0};
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *image = dataset_image(tail, i);
        assert_int_equal(image[0] + 256 * image[1], indices[i]);
        assert_int_equal(tail->labels[i], set->labels[indices[i]]);
        assert_true(i == 0 || tail->labels[i] >= tail->labels[i - 1]);
        sizes[tail->labels[i]]++;
    }
    uint32_t wanted[10];
    assert_fine(longtail_counts(&how, 200, 10, wanted));
    assert_memory_equal(sizes, wanted, sizeof sizes);

    Dataset *again;
    assert_fine(longtail_make(set, &how, &again));
    assert_string_equal(again->hash, tail->hash);
    assert_string_not_equal(tail->hash, set->hash);
    dataset_close(again);
    assert_fine(longtail_make(set, &(LongTail){.factor = 20, .seed = 4}, &again));
    assert_int_equal(again->count, tail->count);
    assert_string_not_equal(again->hash, tail->hash);
    dataset_close(again);
    free(indices);
    dataset_close(tail);
    dataset_close(set);
}

static void a_class_keeps_no_more_than_it_has(void **state)
{
    (void)state;
    Dataset *set = small_set(4, 90, true);
    for (uint32_t i = 0; i < set->count; i++) {
        set->labels[i] = i < 80 ? 0 : i < 85 ? 2 : 3; /* class 1 has none */
    }
    Dataset *tail;
    assert_fine(longtail_make(set, &(LongTail){.factor = 8}, &tail));
    uint32_t sizes[4] = {0};
    for (uint32_t i = 0; i < tail->count; i++) {
        sizes[tail->labels[i]]++;
    }
    assert_int_equal(sizes[0], 80);
    assert_int_equal(sizes[1], 0);
    assert_int_equal(sizes[2], 5);
    assert_int_equal(sizes[3], 5);
    dataset_close(tail);
    dataset_close(set);
}

/* ---- The literature's pictures ---- */

static void keep_warning(void *context, LogLevel level, const char *text)
{
    if (level == LOG_WARN) {
        text_add(context, "%s\n", text);
    }
}

/* A folder with zeroed records, of the right number and labels. */
static char *zero_cifar(const char *dir)
{
    char *folder = path_join(dir, "zero");
    assert_fine(dir_make(folder));
    for (int split = 0; split < 2; split++) {
        const size_t count = split == 0 ? CIFAR_TRAIN_COUNT : CIFAR_TEST_COUNT;
        const size_t record = cifar_record_size(CIFAR_100);
        uint8_t *data = xcalloc(count, record);
        for (size_t i = 0; i < count; i++) {
            data[i * record + 1] = (uint8_t)(i % 100);
        }
        char *path = path_join(folder, split == 0 ? "train.bin" : "test.bin");
        write_plain(path, data, count * record);
        free(path);
        free(data);
    }
    return folder;
}

static void another_order_is_warned_of(void **state)
{
    (void)state;
    assert_true(cifar_md5_train(CIFAR_100, "6172C7755CFE09B2FE270C85CEBC1B15"));
    assert_false(cifar_md5_train(CIFAR_100, "22321c04514c83b966379a484e1ce88d"));
    assert_false(cifar_md5_train(CIFAR_10, "6172c7755cfe09b2fe270c85cebc1b15"));
    char *dir = rig_dir();
    assert_non_null(dir);
    char *folder = zero_cifar(dir);
    char *spec = xformat("cifar100:%s", folder);
    Dataset *set;
    assert_fine(dataset_open(spec, SPLIT_TRAIN, &set));
    const LongTail how = {.factor = 100};
    Text warnings = {0};
    log_set_sink(keep_warning, &warnings);
    log_set_level(LOG_WARN);
    assert_fine(longtail_apply(&(LongTail){0}, &set));
    assert_string_equal(set->name, "cifar100");
    assert_null(warnings.text);
    Err *err = longtail_apply(&how, &set);
    log_set_sink(NULL, NULL);
    log_set_level(LOG_ERROR);
    assert_fine(err);
    assert_string_equal(set->name, "cifar100-lt");
    assert_int_equal(set->count, 10847);
    assert_non_null(warnings.text);
    assert_non_null(strstr(warnings.text, "the record order is not the official archive's: other "
                                          "pictures than the literature's CIFAR-100-LT"));
    assert_non_null(strstr(warnings.text, "cifar-100-binary.tar.gz"));
    text_free(&warnings);
    dataset_close(set);

    CifarOrder order;
    assert_fine(cifar_order(CIFAR_10, folder, &order)); /* its unpacked files are not known */
    assert_int_equal(order, CIFAR_ORDER_UNKNOWN);
    char *file = path_join(folder, "test.bin");
    assert_fine(cifar_order(CIFAR_100, file, &order)); /* as a repacked archive */
    assert_int_equal(order, CIFAR_ORDER_UNKNOWN);
    assert_code(cifar_order(CIFAR_100, "/tmp/no-such-archive.tar.gz", &order), EXIT_NO_INPUT,
                "no-such-archive");
    free(file);
    free(spec);
    free(folder);
    assert_fine(dir_remove(dir));
    free(dir);
}

static void the_real_set_is_cut_as_numpy_cuts_it(void **state)
{
    (void)state;
    const char *shared = getenv("CUDISTILL_DATA");
    char *unpack = xformat("%s/cifar100/unpack", shared ? shared : "../shared/data");
    char *dir = rig_dir();
    assert_non_null(dir);
    char *command = xformat("'%s' '%s' '%s' >/dev/null 2>&1", python_name(), unpack, dir);
    const bool present = path_exists(unpack) && system(command) == 0;
    if (present) {
        char *spec = xformat("cifar100:%s", dir);
        Dataset *set;
        assert_fine(dataset_open(spec, SPLIT_TRAIN, &set));
        if (python_has("numpy")) {
            compare_with_numpy(set);
        }
        Dataset *tail;
        assert_fine(longtail_make(set, &(LongTail){.factor = 100}, &tail));
        assert_int_equal(tail->count, 10847);
        assert_string_equal(tail->class_names[99], "worm");
        dataset_close(tail);
        dataset_close(set);
        free(spec);
    }
    free(command);
    assert_fine(dir_remove(dir));
    free(dir);
    if (!present) {
        print_message("skipped: %s is absent or failed (set CUDISTILL_DATA)\n", unpack);
        free(unpack);
        skip();
    }
    free(unpack);
}

/* ---- The command ---- */

static void the_command_writes_the_indices(void **state)
{
    const Fixture *f = *state;
    static const char spec[] = "synthetic:classes=4,train=300,test=20";
    char *text = path_join(f->dir, "lt.txt");
    char *npy = path_join(f->dir, "lt.npy");
    char *said;
    assert_fine(command_run(
        &command_data,
        (const char *[]){"make-lt", spec, "-o", text, "--imbalance", "10", "--seed", "5", NULL},
        &said));
    /* 75 x 10^(-i/3) */
    assert_non_null(strstr(said, "    0     75     75  "));
    assert_non_null(strstr(said, "    1     34     75  "));
    assert_non_null(strstr(said, "    2     16     75  "));
    assert_non_null(strstr(said, "    3      7     75  "));
    assert_non_null(strstr(said, "total    132    300  largest class 75, smallest 7"));
    free(said);
    assert_fine(command_run(
        &command_data,
        (const char *[]){"make-lt", spec, "--output", npy, "--imbalance=10", "--seed=5", NULL},
        NULL));

    Dataset *set;
    assert_fine(dataset_open(spec, SPLIT_TRAIN, &set));
    uint32_t *indices;
    uint32_t count;
    assert_fine(longtail_indices(set, &(LongTail){.factor = 10, .seed = 5}, &indices, &count));
    assert_int_equal(count, 132);
    WeightsFile *file;
    assert_fine(npy_open(npy, &file));
    assert_int_equal(file->entries[0].type, WEIGHT_I64);
    assert_int_equal(file->entries[0].count, count);
    char *lines;
    assert_fine(file_read_text(text, 100000, &lines));
    char *at = lines;
    for (uint32_t i = 0; i < count; i++) {
        int64_t value;
        memcpy(&value, (const char *)file->entries[0].data + i * sizeof value, sizeof value);
        assert_int_equal(value, indices[i]);
        assert_int_equal(strtol(at, &at, 10), indices[i]);
    }
    assert_string_equal(at, "\n");
    free(lines);
    weights_close(file);
    free(indices);
    dataset_close(set);
    free(npy);
    free(text);
}

static void the_command_refuses(void **state)
{
    const Fixture *f = *state;
    static const char spec[] = "synthetic:classes=4,train=300,test=20";
    char *other = path_join(f->dir, "lt.csv");
    char *text = path_join(f->dir, "none.txt");
    const struct {
        const char *out, *factor;
        ExitCode code;
        const char *part;
    } wrong[] = {{other, "10", EXIT_USAGE_ERR, ".txt or .npy"},
                 {text, "1", EXIT_USAGE_ERR, "above 1"},
                 {text, "0.01", EXIT_USAGE_ERR, "--imbalance"},
                 {text, "76", EXIT_CONFIG_ERR, "class 3 without an image"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_code(command_run(&command_data,
                                (const char *[]){"make-lt", spec, "-o", wrong[i].out, "--imbalance",
                                                 wrong[i].factor, NULL},
                                NULL),
                    wrong[i].code, wrong[i].part);
        assert_false(path_exists(wrong[i].out));
    }
    free(text);
    free(other);
}

static void the_command_speaks_of_the_order(void **state)
{
    const Fixture *f = *state;
    char *folder = zero_cifar(f->dir);
    char *spec = xformat("cifar100:%s", folder);
    char *out = path_join(f->dir, "cifar.txt");
    char *said;
    assert_fine(
        command_run(&command_data, (const char *[]){"make-lt", spec, "-o", out, NULL}, &said));
    assert_non_null(strstr(said, "total  10847  50000  largest class 500, smallest 5"));
    assert_non_null(strstr(said, "not the official archive's"));
    free(said);
    free(out);
    free(spec);
    assert_fine(dir_remove(folder));
    free(folder);
}

/* ---- Training ---- */

/* The run says what it was trained on. */
static void check_manifest(const Fixture *f)
{
    char *path = xformat("%s/tail/manifest.json", f->dir);
    json_t *manifest = json_load_file(path, 0, NULL);
    assert_non_null(manifest);
    const char *name;
    const char *source;
    int train;
    int test;
    assert_int_equal(json_unpack(manifest, "{s:{s:s, s:s, s:i, s:i}}", "dataset", "name", &name,
                                 "source", &source, "train", &train, "test", &test),
                     0);
    assert_string_equal(name, "synthetic-lt");
    assert_non_null(strstr(source, "imbalance 10, seed 0"));
    assert_int_equal(train, 132);
    assert_int_equal(test, 120);
    json_decref(manifest);
    free(path);
}

static void a_run_trains_on_the_long_tail(void **state)
{
    const Fixture *f = *state;
    const char *tail[] = {"data.imbalance=10", NULL, NULL};
    RunResult result;
    assert_fine(run_in(f, "whole", RESUME_AUTO, tail, &result));
    assert_int_equal(result.steps, 2 * 5); /* 132 images in batches of 32 */
    /* In parts: the second one makes the same set again, to the bit. */
    tail[1] = "train.max_steps=7";
    assert_fine(run_in(f, "tail", RESUME_AUTO, tail, &result));
    assert_int_equal(result.steps, 7);
    tail[1] = NULL;
    assert_fine(run_in(f, "tail", RESUME_MUST, tail, &result));
    assert_int_equal(result.steps, 10);
    char whole[33];
    char parts[33];
    weights_hash(f, "whole", whole);
    weights_hash(f, "tail", parts);
    assert_string_equal(parts, whole);
    check_manifest(f);

    /* Another tail, or none, is another training set. */
    static const struct {
        const char *sets[2];
        const char *then, *now;
    } others[] = {
        {{"data.imbalance=20", NULL}, "data.imbalance = '10'", "now '20'"},
        {{"data.imbalance=10", "data.imbalance_seed=1"}, "data.imbalance_seed = '0'", "now '1'"},
        {{NULL, NULL}, "data.imbalance = '10'", "now '0'"}};
    for (int i = 0; i < 3; i++) {
        const char *const other[] = {others[i].sets[0], others[i].sets[1], NULL};
        Err *err = run_in(f, "tail", RESUME_MUST, other, &result);
        assert_non_null(err);
        assert_int_equal(err->code, EXIT_CONFIG_ERR);
        assert_non_null(strstr(err->message, others[i].then));
        assert_non_null(strstr(err->message, others[i].now));
        assert_non_null(strstr(err->message, "the training set's hash"));
        err_free(err);
    }
}

/* Settings of the common overrides and `extra` that are good. */
static void planned(const char *const *extra, DryRunReport *report)
{
    Settings settings;
    size_t count = 0;
    while (extra[count]) {
        count++;
    }
    assert_fine(settings_load(NULL, extra, count, &settings));
    assert_fine(dry_run(&settings, NULL, report));
    settings_free(&settings);
}

static void a_dry_run_knows_the_size(void **state)
{
    (void)state;
    DryRunReport report;
    planned((const char *[]){"data.kind=cifar100", "data.root=/nowhere", "data.imbalance=100",
                             "student.model=resnet8", "dist.device=cpu", NULL},
            &report);
    assert_int_equal(report.train_count, 10847);
    assert_int_equal(report.test_count, 10000);
    assert_int_equal(report.steps_per_epoch, 170);
    planned((const char *[]){"data.kind=cifar10", "data.root=/nowhere", "data.imbalance=100",
                             "student.model=resnet8", "dist.device=cpu", NULL},
            &report);
    assert_int_equal(report.train_count, 12406);
    planned((const char *[]){"data.options=classes=4,train=300,test=20", "data.imbalance=10",
                             "student.model=resnet8", "dist.device=cpu", NULL},
            &report);
    assert_int_equal(report.train_count, 132);
}

static void the_configuration_is_checked(void **state)
{
    (void)state;
    static const struct {
        const char *sets[3];
        const char *part;
    } wrong[] = {{{"data.imbalance=0.01", NULL, NULL}, "inverse mean 100 here"},
                 {{"data.imbalance=-1", NULL, NULL}, "data.imbalance"},
                 {{"data.imbalance_seed=4294967296", NULL, NULL}, "data.imbalance_seed"},
                 {{"data.kind=shape", "data.imbalance=10", NULL}, "data.kind = shape has none"},
                 {{"data.imb_factor=10", NULL, NULL}, "data.imbalance"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        Settings settings;
        assert_code(settings_load(NULL, wrong[i].sets, wrong[i].sets[1] ? 2 : 1, &settings),
                    EXIT_CONFIG_ERR, wrong[i].part);
    }
    static const char *const files[] = {"configs/cifar100_lt/none/wrn_16_2.ini",
                                        "configs/cifar100_lt/kd/wrn_16_2__resnet20.ini"};
    assert_int_equal(setenv("CIFAR100_ROOT", "/nowhere", 1), 0);
    assert_int_equal(setenv("WRN_16_2_WEIGHTS", "/nowhere/t.safetensors", 1), 0);
    for (int i = 0; i < 2; i++) {
        Settings settings;
        assert_fine(settings_load(files[i], NULL, 0, &settings));
        assert_true(longtail_wanted(&settings.long_tail));
        assert_float_equal(settings.long_tail.factor, 100, 0);
        assert_int_equal(settings.long_tail.seed, 0);
        settings_free(&settings);
    }
}

static int open_folder(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/cudistill-longtail-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    *state = f;
    return 0;
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_generator_is_numpys),
        cmocka_unit_test(totals_are_the_literatures),
        cmocka_unit_test(indices_are_numpys),
        cmocka_unit_test(the_new_set_holds_the_chosen_images),
        cmocka_unit_test(a_class_keeps_no_more_than_it_has),
        cmocka_unit_test(another_order_is_warned_of),
        cmocka_unit_test(the_real_set_is_cut_as_numpy_cuts_it),
        cmocka_unit_test(the_command_writes_the_indices),
        cmocka_unit_test(the_command_refuses),
        cmocka_unit_test(the_command_speaks_of_the_order),
        cmocka_unit_test(a_run_trains_on_the_long_tail),
        cmocka_unit_test(a_dry_run_knows_the_size),
        cmocka_unit_test(the_configuration_is_checked),
    };
    return cmocka_run_group_tests(tests, open_folder, close_fixture);
}
