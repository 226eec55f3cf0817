/* The configuration keys of a run: every shipped file is valid, what contradicts is refused with the cure, and the values
 * arrive where they belong. */
#include "base/files.h"
#include "train/settings.h"
#include "train/settings_names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text);
    const size_t m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Loads every run's configuration below `dir`; suites are lists of runs and have a table of their own. */
static int load_all(const char *dir)
{
    char **names;
    size_t count;
    int loaded = 0;
    assert_null(dir_list(dir, &names, &count));
    for (size_t i = 0; i < count; i++) {
        char *path = path_join(dir, names[i]);
        char *text = NULL;
        if (path_is_dir(path)) {
            loaded += load_all(path);
        } else if (ends_with(path, ".ini") && !file_read_text(path, 1 << 20, &text) &&
                   !strstr(text, "[suite]")) {
            Settings settings;
            Err *err = settings_load(path, NULL, 0, &settings);
            if (err) {
                fail_msg("%s", err->message);
            }
            settings_free(&settings);
            loaded++;
        }
        free(text);
        free(path);
    }
    names_free(names, count);
    return loaded;
}

static void shipped_configurations_are_valid(void **state)
{
    (void)state;
    setenv("CIFAR100_ROOT", "/nowhere", 1);
    setenv("WRN_16_2_WEIGHTS", "/nowhere.pth", 1);
    setenv("RESNET32X4_WEIGHTS", "/nowhere.pth", 1);
    assert_true(load_all("configs") >= 10);
}

static void refused(const char *const *overrides, const char *part)
{
    size_t count = 0;
    while (overrides[count]) {
        count++;
    }
    Settings settings;
    Err *err = settings_load(NULL, overrides, count, &settings);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    if (!strstr(err->message, part)) {
        fail_msg("'%s' is not in '%s'", part, err->message);
    }
    err_free(err);
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    refused((const char *[]){"distill.method=kd", NULL}, "needs a teacher");
    refused((const char *[]){"data.kind=cifar100", NULL}, "data.root is missing");
    refused((const char *[]){"schedule.epochs=5", "schedule.warmup_epochs=5", NULL},
            "must be below");
    refused((const char *[]){"schedule.milestones=5,3", NULL}, "must rise: 3 comes after 5");
    refused((const char *[]){"optim.nesterov=true", "optim.momentum=0", NULL},
            "optim.nesterov needs");
    refused((const char *[]){"augment.mean=0.5,0.5", NULL}, "needs 3 values");
    refused((const char *[]){"distill.temprature=4", NULL}, "did you mean 'temperature'");
    refused((const char *[]){"train.batch=0", NULL}, "train.batch");
    refused((const char *[]){"optim.loss_scale=0.5", NULL}, "optim.loss_scale");
    refused((const char *[]){"optim.loss_scale=1e9", NULL}, "optim.loss_scale");
    refused((const char *[]){"optim.loss_scale=128x", NULL}, "optim.loss_scale");
    refused((const char *[]){"teacher.memo=maybe", NULL}, "teacher.memo");
    refused((const char *[]){"student.model=resnet21", NULL}, "did you mean 'resnet20'?");
    refused((const char *[]){"data.options=classes=x", NULL}, "data.options");
    refused((const char *[]){"run.name=a/b", NULL}, "a name without '/'");
    refused((const char *[]){"run.project=../x", NULL}, "below runs/");
    refused((const char *[]){"schedule.kind=cosine", "schedule.min_lr=1", NULL}, "would rise");
    refused((const char *[]){"train.time_limit=0x10s", NULL}, "train.time_limit");
    refused((const char *[]){"distill.method=kd", "teacher.model=resnet8", "teacher.weights=x",
                             "distill.ce_weight=0", "distill.kd_weight=0", NULL},
            "nothing to learn from");
    refused((const char *[]){"distill.method=energy_kd", "teacher.model=resnet8",
                             "teacher.weights=x", "energy_kd.r_low=0.5", "energy_kd.r_high=0.5",
                             NULL},
            "leave no middle");
}

static void values_arrive(void **state)
{
    (void)state;
    const char *const overrides[] = {
        "distill.method=energy_kd", "teacher.model=resnet8",    "teacher.weights=t.pth",
        "energy_kd.t_low_energy=2", "energy_kd.r_high=0.3",     "teacher.mean=0.1,0.2,0.3",
        "schedule.kind=cosine",     "schedule.warmup_epochs=1", "run.seed=7",
        "train.precision=fp32"};
    Settings s;
    assert_null(settings_load(NULL, overrides, sizeof overrides / sizeof overrides[0], &s));
    assert_int_equal(s.objective.method, METHOD_ENERGY_KD);
    assert_float_equal(s.objective.t_low_energy, 2.0, 0.0);
    assert_float_equal(s.objective.r_high, 0.3, 0.0);
    assert_float_equal(s.objective.r_low, 0.2, 0.0);
    assert_float_equal(s.teacher_mean[1], 0.2f, 0.0);
    assert_float_equal(s.mean[1], 0.4867f, 0.0);
    assert_float_equal(s.teacher_std[2], 0.2761f, 0.0); /* not given: the student's */
    assert_int_equal(s.schedule.kind, SCHEDULE_COSINE);
    assert_int_equal(s.precision, PRECISION_FP32);
    assert_string_equal(s.out, "runs/run-s7");
    assert_true(s.expect_top1 < 0);
    assert_true(s.loss_scale == 0.0); /* dynamic */
    assert_string_equal(s.memo_dir, "runs/memo");
    assert_true(s.memo == SWITCH_AUTO && s.resident == SWITCH_AUTO && s.capture == SWITCH_AUTO);
    settings_free(&s);
}

static void switches_arrive(void **state)
{
    (void)state;
    static const struct {
        const char *out, *memo_dir;
    } places[] = {
        {"run.out=/a/b/c", "/a/b/memo"}, {"run.out=/a/b/c/", "/a/b/memo"}, {"run.out=/c", "/memo"}};
    for (int i = 0; i < 3; i++) {
        const char *const overrides[] = {places[i].out,           "teacher.memo=on",
                                         "data.resident=off",     "train.capture=off",
                                         "optim.loss_scale=1024", "teacher.memo_batch=512"};
        Settings s;
        assert_null(settings_load(NULL, overrides, sizeof overrides / sizeof overrides[0], &s));
        assert_string_equal(s.memo_dir, places[i].memo_dir);
        assert_true(s.memo == SWITCH_ON && s.resident == SWITCH_OFF && s.capture == SWITCH_OFF);
        assert_true(s.loss_scale == 1024.0 && s.memo_batch == 512);
        settings_free(&s);
    }
    Settings s;
    assert_null(settings_load(NULL, (const char *[]){"teacher.memo_dir=/x/y"}, 1, &s));
    assert_string_equal(s.memo_dir, "/x/y");
    settings_free(&s);
}

static void write_text(const char *dir, const char *name, const char *text)
{
    char *path = path_join(dir, name);
    assert_null(file_write_atomic(path, text, strlen(text)));
    free(path);
}

/* A base file may serve several methods; a section that has no effect is an error only where it was meant to have one. The
 * resolved text leaves it out, and loads again. */
static void sections_of_other_methods(void **state)
{
    (void)state;
    const char *root = getenv("TMPDIR");
    char *dir = xformat("%s/cudistill-XXXXXX", root ? root : "/tmp");
    assert_non_null(mkdtemp(dir));
    write_text(dir, "base.ini",
               "[teacher]\nmodel = resnet8\nweights = t.pth\n[energy_kd]\nr_low = 0.3\n");
    write_text(dir, "kd.ini", "include = base.ini\n[distill]\nmethod = kd\n");
    write_text(dir, "both.ini", "[energy_kd]\n[distill]\nmethod = none\n[energy_kd]\nt_mid = 3\n");
    char *path = path_join(dir, "kd.ini");
    Settings s;
    assert_null(settings_load(path, NULL, 0, &s));
    char *text = config_text(s.config, true);
    assert_null(strstr(text, "energy_kd]"));
    write_text(dir, "resolved.ini", text);
    free(text);
    settings_free(&s);
    free(path);
    path = path_join(dir, "resolved.ini");
    assert_null(settings_load(path, NULL, 0, &s));
    assert_int_equal(s.objective.method, METHOD_KD);
    settings_free(&s);
    free(path);
    path = path_join(dir, "both.ini");
    Err *err = settings_load(path, NULL, 0, &s);
    assert_non_null(err);
    assert_non_null(strstr(err->message, "both.ini:5:9: energy_kd.t_mid has no effect"));
    err_free(err);
    free(path);
    refused((const char *[]){"energy_kd.t_mid=3", NULL}, "set distill.method = energy_kd");
    assert_null(dir_remove(dir));
    free(dir);
}

/* Every foreign name leads to a key that exists, and no program has one name for two keys. */
static void names_fit_the_keys(void **state)
{
    (void)state;
    size_t count;
    size_t n_keys;
    const ConfigNames *rows = settings_names(&count);
    const ConfigKey *keys = settings_schema(&n_keys);
    for (size_t i = 0; i < count; i++) {
        size_t k = 0;
        while (k < n_keys && (strcmp(keys[k].section, rows[i].section) != 0 ||
                              strcmp(keys[k].key, rows[i].key) != 0)) {
            k++;
        }
        if (k == n_keys) {
            fail_msg("there is no key %s.%s", rows[i].section, rows[i].key);
        }
        for (int program = 0; program < NAMES_COUNT; program++) {
            const char *name = rows[i].names[program];
            assert_ptr_equal(settings_name(rows[i].section, rows[i].key, (NameOrigin)program),
                             name);
            for (size_t j = 0; name && j < i; j++) {
                const char *other = rows[j].names[program];
                const size_t n = strcspn(name, "|");
                if (other && strcspn(other, "|") == n && strncmp(name, other, n) == 0) {
                    fail_msg("%.*s stands for %s.%s and %s.%s", (int)n, name, rows[i].section,
                             rows[i].key, rows[j].section, rows[j].key);
                }
            }
        }
    }
    const ConfigTable table = settings_table();
    for (size_t i = 0; i < table.word_count; i++) {
        size_t k = 0;
        while (k < n_keys &&
               !(keys[k].type == CONFIG_ENUM && strstr(keys[k].names, table.words[i].choice))) {
            k++;
        }
        assert_true(k < n_keys);
    }
    for (size_t k = 0; k < n_keys; k++) {
        assert_true(strlen(keys[k].help) > 0);
    }
    assert_string_equal(settings_name("distill", "temperature", NAMES_REPDISTILLER), "--kd_T");
    assert_null(settings_name("distill", "temperature", NAMES_TIMM));
    assert_string_equal(names_origin(NAMES_MDISTILLER), "mdistiller");
    assert_null(names_origin(NAMES_COMMON));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shipped_configurations_are_valid),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(values_arrive),
        cmocka_unit_test(switches_arrive),
        cmocka_unit_test(sections_of_other_methods),
        cmocka_unit_test(names_fit_the_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
