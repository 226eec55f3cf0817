/* Configuration: values, precedence, origins, and the exact text of every complaint. */
#include "base/config.h"
#include "base/err.h"
#include "base/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const ConfigKey KEYS[] = {
    {"run", "name", CONFIG_STRING, "default", 0, 0, NULL, "name of the run"},
    {"run", "seed", CONFIG_INT, "1", 0, 1e15, NULL, "seed"},
    {"data", "root", CONFIG_PATH, "", 0, 0, NULL, "folder of the data"},
    {"data", "flip", CONFIG_BOOL, "true", 0, 0, NULL, "mirror at random"},
    {"data", "mean", CONFIG_FLOATS, "0.5, 0.25,0.125", -10, 10, NULL, "mean of each channel"},
    {"optim", "kind", CONFIG_ENUM, "sgd", 0, 0, "sgd|adamw|lars", "optimizer"},
    {"optim", "lr", CONFIG_FLOAT, "0.1", 0, 10, NULL, "learning rate"},
    {"schedule", "epochs", CONFIG_INT, "12", 1, 100000, NULL, "epochs"},
    {"schedule", "milestones", CONFIG_INTS, "", 1, 1e6, NULL, "epochs of decay"},
    {"distill", "temperature", CONFIG_FLOAT, "4", 0.01, 1000, NULL, "T"},
    {"teacher", "expect_top1", CONFIG_FLOAT, "", 0, 100, NULL, "percent"},
};
enum { KEY_COUNT = sizeof KEYS / sizeof KEYS[0] };

static char *dir;
static char *file_path;

static int setup(void **state)
{
    (void)state;
    const char *root = getenv("TMPDIR");
    dir = xformat("%s/cudistill-XXXXXX", root != NULL ? root : "/tmp");
    if (mkdtemp(dir) == NULL) {
        return 1;
    }
    file_path = path_join(dir, "my.ini");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    Err *err = dir_remove(dir);
    free(file_path);
    free(dir);
    return err != NULL;
}

static void write_named(const char *name, const char *text)
{
    char *path = path_join(dir, name);
    Err *err = file_write_atomic(path, text, strlen(text));
    free(path);
    assert_null(err);
}

static Config *load(const char *text, const char *const *sets, size_t set_count)
{
    write_named("my.ini", text);
    Config *config = NULL;
    Err *err = config_load(KEYS, KEY_COUNT, file_path, sets, set_count, &config);
    if (err != NULL) {
        fail_msg("%s", err->message);
    }
    return config;
}

static char *with_footer(const char *text)
{
    size_t count = 1;
    for (const char *at = text; *at != '\0'; at++) {
        count += *at == '\n';
    }
    return xformat("%s\n%zu error%s, nothing was started.", text, count, count == 1 ? "" : "s");
}

/* `want` holds @ where the folder stands in the message; the last line, with the number of errors, is added here. */
static void expect_messages(const char *text, const char *const *sets, size_t set_count,
                            const char *want)
{
    write_named("my.ini", text);
    Config *config = NULL;
    Err *err = config_load(KEYS, KEY_COUNT, file_path, sets, set_count, &config);
    assert_non_null(err);
    assert_null(config);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    char *expected = xstrdup("");
    for (const char *at = want; *at != '\0'; at++) {
        char *longer =
            *at == '@' ? xformat("%s%s/", expected, dir) : xformat("%s%c", expected, *at);
        free(expected);
        expected = longer;
    }
    char *whole = with_footer(expected);
    assert_string_equal(err->message, whole);
    free(whole);
    free(expected);
    err_free(err);
}

static void test_defaults(void **state)
{
    (void)state;
    Config *config = NULL;
    assert_null(config_load(KEYS, KEY_COUNT, NULL, NULL, 0, &config));
    assert_string_equal(config_str(config, "run", "name"), "default");
    assert_int_equal(config_int(config, "run", "seed"), 1);
    assert_true(config_bool(config, "data", "flip"));
    assert_int_equal(config_enum(config, "optim", "kind"), 0);
    assert_true(config_float(config, "optim", "lr") == 0.1);
    size_t count = 0;
    const double *mean = config_floats(config, "data", "mean", &count);
    assert_int_equal(count, 3);
    assert_true(mean[0] == 0.5 && mean[1] == 0.25 && mean[2] == 0.125);
    (void)config_ints(config, "schedule", "milestones", &count);
    assert_int_equal(count, 0);
    assert_false(config_has(config, "schedule", "milestones"));
    assert_false(config_has(config, "teacher", "expect_top1"));
    assert_false(config_has(config, "data", "root"));
    assert_false(config_is_set(config, "run", "seed"));
    assert_string_equal(config_origin(config, "run", "seed"), "default");
    config_free(config);
    config_free(NULL);
}

static void test_values(void **state)
{
    (void)state;
    Config *config =
        load("\xEF\xBB\xBF# comment\r\n"
             "; another, a very long one: .........................................."
             "........................................................................"
             "........................................................................\r\n"
             "   # an indented comment is fine\n"
             "[run]  \r\n"
             "name = a name: with = signs; and more\r\n"
             "seed=-0\n"
             "\n"
             "[data]\n"
             "root = sets/cifar\n"
             "flip = off\n"
             "mean = 1e-1,-2,.5\n"
             "[optim]\n"
             "kind = adamw\n"
             "lr = 1e-4\n"
             "[schedule]\n"
             "milestones = 5 , 9\n"
             "[data]\n"
             "[teacher]\n"
             "expect_top1 = 75.53",
             NULL, 0);
    assert_string_equal(config_str(config, "run", "name"), "a name: with = signs; and more");
    assert_int_equal(config_int(config, "run", "seed"), 0);
    char *root = path_join(dir, "sets/cifar");
    assert_string_equal(config_str(config, "data", "root"), root);
    free(root);
    assert_false(config_bool(config, "data", "flip"));
    size_t count = 0;
    const double *mean = config_floats(config, "data", "mean", &count);
    assert_int_equal(count, 3);
    assert_true(mean[0] == 0.1 && mean[1] == -2.0 && mean[2] == 0.5);
    assert_int_equal(config_enum(config, "optim", "kind"), 1);
    assert_string_equal(config_str(config, "optim", "kind"), "adamw");
    assert_true(config_float(config, "optim", "lr") == 1e-4);
    const int64_t *milestones = config_ints(config, "schedule", "milestones", &count);
    assert_int_equal(count, 2);
    assert_int_equal(milestones[0], 5);
    assert_int_equal(milestones[1], 9);
    assert_true(config_has(config, "teacher", "expect_top1"));
    assert_true(config_float(config, "teacher", "expect_top1") == 75.53);
    assert_true(config_is_set(config, "optim", "lr"));
    char *origin = xformat("%s:14", file_path);
    assert_string_equal(config_origin(config, "optim", "lr"), origin);
    free(origin);
    config_free(config);
}

static void test_precedence(void **state)
{
    (void)state;
    char *base_dir = path_join(dir, "base");
    assert_null(dir_make(base_dir));
    write_named("base/base.ini",
                "include = root.ini\n[optim]\nlr = 0.2\nkind = lars\n[data]\nroot = here\n");
    write_named("base/root.ini", "[optim]\nlr = 0.3\n[schedule]\nepochs = 7\n[run]\nseed = 5\n");
    const char *const sets[] = {"run.seed=9", "data.mean = 1,2 "};
    Config *config = load("# top\ninclude = base/base.ini\n[optim]\nlr = 0.4\n", sets, 2);
    assert_true(config_float(config, "optim", "lr") == 0.4);
    assert_int_equal(config_enum(config, "optim", "kind"), 2);
    assert_int_equal(config_int(config, "schedule", "epochs"), 7);
    assert_int_equal(config_int(config, "run", "seed"), 9);
    assert_string_equal(config_origin(config, "run", "seed"), "--set");
    assert_true(config_is_set(config, "run", "seed"));
    /* A path belongs to the folder of the file in which it stands. */
    char *root = path_join(base_dir, "here");
    assert_string_equal(config_str(config, "data", "root"), root);
    char *origin = xformat("%s/base.ini:4", base_dir);
    assert_string_equal(config_origin(config, "optim", "kind"), origin);
    free(origin);
    free(root);
    free(base_dir);
    config_free(config);
}

static void test_environment(void **state)
{
    (void)state;
    assert_int_equal(setenv("CUDISTILL_TEST_ROOT", "/abs/olute", 1), 0);
    Config *config =
        load("[data]\nroot = ${CUDISTILL_TEST_ROOT}/x${CUDISTILL_TEST_ROOT}\n", NULL, 0);
    assert_string_equal(config_str(config, "data", "root"), "/abs/olute/x/abs/olute");
    config_free(config);
    assert_int_equal(unsetenv("CUDISTILL_TEST_ROOT"), 0);
    expect_messages("[data]\nroot = ${CUDISTILL_TEST_ROOT}/x\n[run]\nname = ${HOME}\n", NULL, 0,
                    "@my.ini:2:8: data.root: environment variable CUDISTILL_TEST_ROOT is not set\n"
                    "@my.ini:4:8: run.name: environment variables are replaced in paths only");
    expect_messages("[data]\nroot = ${X\n", NULL, 0, "@my.ini:2:8: data.root: '${' without '}'");
    expect_messages("[data]\nroot = ~/x\n", NULL, 0,
                    "@my.ini:2:8: data.root: '~' is not replaced here; write ${HOME}");
}

/* All in one file, all reported, each with its line. */
static void test_all_errors(void **state)
{
    (void)state;
    const char *const sets[] = {"optim.lr=fast", "optm.lr=1", "seed=3", "run.seed=1", "run.seed=2"};
    expect_messages(
        "seed = 3\n"
        "[distill]\n"
        "temprature = 4\n"
        "temperature = 4\n"
        "temperature = 5\n"
        "[distil]\n"
        "anything = 1\n"
        "[optim]\n"
        "lr = 0.1/512\n"
        "kind = adam\n"
        " epochs = 100\n"
        "epochs = 100\n"
        "[schedule]\n"
        "epochs = 0\n"
        "milestones = 5,,9\n"
        "no value\n"
        "epochs: 3\n"
        "[data\n"
        "[data] flip = on\n"
        "[data]\n"
        "flip = maybe\n"
        "mean = 0.5, 11\n"
        "include = other.ini\n"
        "xyzzy = 1\n"
        "[run]\n"
        "name = a ; comment\n"
        "seed = 12 # comment\n",
        sets, 5,
        "@my.ini:1:1: 'seed' stands before the first [section]; it belongs to [run]\n"
        "@my.ini:3:1: unknown key 'temprature' in [distill]; did you mean 'temperature'?\n"
        "@my.ini:5:1: 'temperature' is given twice in [distill]; first in line 4\n"
        "@my.ini:6:1: unknown section [distil]; did you mean 'distill'?\n"
        "@my.ini:7:1: unknown key 'anything' in [distill]\n"
        "@my.ini:9:6: optim.lr: '0.1/512' is not a number; no arithmetic: write 0.0001953125\n"
        "@my.ini:10:8: optim.kind: 'adam' is none of sgd|adamw|lars; did you mean 'adamw'?\n"
        "@my.ini:11:1: the line is indented; begin it in the first column\n"
        "@my.ini:12:1: unknown key 'epochs' in [optim]; it belongs to [schedule]\n"
        "@my.ini:14:10: schedule.epochs: 0 is out of range; allowed: 1 to 100000\n"
        "@my.ini:15:14: schedule.milestones: element 2 of the list is empty\n"
        "@my.ini:16:1: expected 'key = value', '[section]' or a comment; write 'no = value'\n"
        "@my.ini:17:1: expected 'key = value', '[section]' or a comment; write 'epochs = 3'\n"
        "@my.ini:18:6: ']' is missing: write [data]\n"
        "@my.ini:19:8: nothing may follow [data] on its line; put 'flip = on' on the next one\n"
        "@my.ini:21:8: data.flip: 'maybe' is not true, false, yes, no, on or off\n"
        "@my.ini:22:8: data.mean: 11 is out of range; allowed: -10 to 10\n"
        "@my.ini:23:1: include must stand above the first [section]\n"
        "@my.ini:24:1: unknown key 'xyzzy' in [data]\n"
        "@my.ini:26:10: a comment behind a value; comments go on lines of their own\n"
        "@my.ini:27:8: run.seed: '12 # comment' is not a whole number (comments go on lines of "
        "their own)\n"
        "--set optim.lr=fast: optim.lr: 'fast' is not a number\n"
        "--set optm.lr=1: unknown section [optm]; did you mean 'optim.lr'?\n"
        "--set seed=3: expected section.key=value; did you mean run.seed=3?\n"
        "--set run.seed=2: run.seed is given twice");
}

static void assert_refused(const char *key, const char *const *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *set = xformat("%s=%s", key, values[i]);
        const char *const sets[] = {set};
        Config *config = NULL;
        Err *err = config_load(KEYS, KEY_COUNT, NULL, sets, 1, &config);
        assert_non_null(err);
        err_free(err);
        free(set);
    }
}

static void test_numbers(void **state)
{
    (void)state;
    static const char *const bad[] = {"0x10",  "inf", "nan", "1e",  "",
                                      "1e999", "1 2", "--1", "1,2", "."};
    assert_refused("optim.lr", bad, sizeof bad / sizeof bad[0]);
    static const char *const bad_ints[] = {"1.0", "1e3", "0x1", "", "+", "99999999999999999999",
                                           "-1"};
    assert_refused("run.seed", bad_ints, sizeof bad_ints / sizeof bad_ints[0]);
}

static void test_lines(void **state)
{
    (void)state;
    char text[300] = "[run]\nname = ";
    const size_t begin = strlen("[run]\n");
    /* 198 bytes pass, 199 do not: neither is cut. */
    memset(text + strlen(text), 'x', 198 - strlen("name = "));
    Config *config = load(text, NULL, 0);
    assert_int_equal(strlen(config_str(config, "run", "name")), 198 - strlen("name = "));
    config_free(config);
    text[begin + 198] = 'x';
    expect_messages(text, NULL, 0, "@my.ini:2:1: the line has 199 bytes, at most 198 are allowed");
    char section[80] = "[";
    memset(section + 1, 's', 60);
    memcpy(section + 61, "]\n", 3);
    char *want = xformat("@my.ini:1:1: unknown section %.*s", 62, section);
    expect_messages(section, NULL, 0, want);
    free(want);
}

static void test_include_errors(void **state)
{
    (void)state;
    write_named("a.ini", "include = my.ini\n");
    expect_messages(
        "include = a.ini\n", NULL, 0,
        "@a.ini:1:11: include: '@my.ini' is being read already; it would include itself");
    expect_messages(
        "include = my.ini\n", NULL, 0,
        "@my.ini:1:11: include: '@my.ini' is being read already; it would include itself");
    expect_messages("include = none.ini\n", NULL, 0,
                    "@my.ini:1:11: include: cannot open '@none.ini': No such file or directory "
                    "(check the path)");
    write_named("b.ini", "[run]\nseed = x\n");
    write_named("c.ini", "");
    expect_messages("include = b.ini\ninclude = c.ini\n", NULL, 0,
                    "@b.ini:2:8: run.seed: 'x' is not a whole number\n"
                    "@my.ini:2:1: a second include; one is allowed");
    Config *config = NULL;
    Err *err = config_load(KEYS, KEY_COUNT, "/nonexistent/x.ini", NULL, 0, &config);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_NO_INPUT);
    err_free(err);
}

static void test_required(void **state)
{
    (void)state;
    const ConfigKey keys[] = {{"student", "model", CONFIG_STRING, NULL, 0, 0, NULL, ""},
                              {"train", "batch", CONFIG_INT, NULL, 1, 1000, NULL, ""}};
    Config *config = NULL;
    const char *const one[] = {"train.batch=0"};
    Err *err = config_load(keys, 2, NULL, one, 1, &config);
    assert_non_null(err);
    assert_string_equal(err->message,
                        "--set train.batch=0: train.batch: 0 is out of range; allowed: 1 to 1000\n"
                        "student.model must be given\n"
                        "2 errors, nothing was started.");
    err_free(err);
    const char *const two[] = {"train.batch=8", "student.model=resnet20"};
    assert_null(config_load(keys, 2, NULL, two, 2, &config));
    assert_int_equal(config_int(config, "train", "batch"), 8);
    config_free(config);
}

/* A flag and --set: the later one counts, each is shown as it was given; twice the same is a repetition. */
static void test_origins(void **state)
{
    (void)state;
    const ConfigTable table = {.keys = KEYS, .key_count = KEY_COUNT};
    const ConfigOverride good[] = {{"run.seed=1", "--set"}, {"run.seed=2", "--seed"}};
    write_named("my.ini", "[run]\nseed = 5\nname = x\n");
    write_named("outer.ini", "include = my.ini\n");
    Config *config = config_read(&table, file_path, good, 2);
    assert_null(config_errors(config));
    assert_int_equal(config_int(config, "run", "seed"), 2);
    assert_string_equal(config_origin(config, "run", "seed"), "--seed");
    assert_int_equal(config_source(config, "run", "seed"), CONFIG_FROM_OVERRIDE);
    assert_int_equal(config_source(config, "run", "name"), CONFIG_FROM_FILE);
    assert_int_equal(config_source(config, "optim", "lr"), CONFIG_FROM_DEFAULT);
    config_free(config);
    char *outer = path_join(dir, "outer.ini");
    config = config_read(&table, outer, NULL, 0);
    assert_int_equal(config_source(config, "run", "name"), CONFIG_FROM_INCLUDE);
    config_free(config);
    free(outer);
    const ConfigOverride bad[] = {
        {"run.seed=x", "--seed"}, {"run.seed=2", "--seed"}, {"run.name=a\tb", "--name"}};
    config = config_read(&table, NULL, bad, 3);
    Err *err = config_errors(config);
    assert_string_equal(err->message, "--seed x: run.seed: 'x' is not a whole number\n"
                                      "--seed 2: run.seed is given twice\n"
                                      "--name a?b: a setting is UTF-8 without control characters\n"
                                      "3 errors, nothing was started.");
    err_free(err);
    config_free(config);
}

/* Faults of the caller stand where they belong: at the value, at the section's line, at the file. */
static void test_faults(void **state)
{
    (void)state;
    const ConfigTable table = {.keys = KEYS, .key_count = KEY_COUNT};
    write_named("my.ini", "[optim]\nkind = sdg\n\n[run]\nseed = 5\n[data]\n");
    Config *config = config_read(&table, file_path, NULL, 0);
    assert_true(config_refused(config, "optim", "kind"));
    assert_true(config_refused(config, "optim", NULL));
    assert_false(config_refused(config, "optim", "lr"));
    assert_int_equal(config_enum(config, "optim", "kind"), 0); /* the default */
    config_fault(config, "distill", "temperature", "of nowhere");
    config_fault(config, "data", "root", "of the section");
    config_fault(config, "run", "seed", "of %d", 5);
    Err *err = config_errors(config);
    char *want = xformat("%s:2:8: optim.kind: 'sdg' is none of sgd|adamw|lars; did you mean "
                         "'sgd'?\n%s:5:8: of 5\n%s:6:1: of the section\n%s: of nowhere\n"
                         "4 errors, nothing was started.",
                         file_path, file_path, file_path, file_path);
    assert_string_equal(err->message, want);
    free(want);
    err_free(err);
    config_free(config);
}

/* What the resolved text could not carry is refused when it is given. */
static void test_reloadable(void **state)
{
    (void)state;
    static const char *const sets[] = {"run.name=;x",        "run.name=a ;b",  "run.name=a # b",
                                       "run.name=a\xff",     "run.name=\"a\"", "data.root=a # b",
                                       "data.root=${ROOTS}", "data.root=a\x01"};
    for (int i = 0; i < 2; i++) {
        (void)setenv("ROOTS", i == 0 ? "/x ;y" : "${HOME}", 1);
        for (size_t k = 0; k < sizeof sets / sizeof sets[0]; k++) {
            Config *config = NULL;
            Err *err = config_load(KEYS, KEY_COUNT, NULL, &sets[k], 1, &config);
            if (err == NULL) {
                fail_msg("%s was taken", sets[k]);
            }
            err_free(err);
        }
    }
    (void)unsetenv("ROOTS");
}

/* The resolved text, loaded again from another folder, gives the same values and the same text. */
static void test_resolved(void **state)
{
    (void)state;
    const char *const sets[] = {"run.seed=77"};
    Config *config =
        load("[data]\nroot = sub/data\nmean = 1, 2\n[schedule]\nmilestones = 3,4\n", sets, 1);
    char *text = config_text(config, false);
    char *with_origins = config_text(config, true);
    char *want = xformat("[run]\nname = default\nseed = 77\n\n"
                         "[data]\nroot = %s/sub/data\nflip = true\nmean = 1, 2\n\n"
                         "[optim]\nkind = sgd\nlr = 0.1\n\n"
                         "[schedule]\nepochs = 12\nmilestones = 3,4\n\n"
                         "[distill]\ntemperature = 4\n\n"
                         "[teacher]\nexpect_top1 =\n",
                         dir);
    assert_string_equal(text, want);
    free(want);
    assert_non_null(strstr(with_origins, "# --set\nseed = 77\n"));
    assert_non_null(strstr(with_origins, "# default\nflip = true\n"));
    char *origin = xformat("# %s:2\nroot = ", file_path);
    assert_non_null(strstr(with_origins, origin));
    free(origin);
    config_free(config);

    char *other = path_join(dir, "other");
    assert_null(dir_make(other));
    write_named("other/resolved.ini", with_origins);
    char *resolved = path_join(other, "resolved.ini");
    assert_null(config_load(KEYS, KEY_COUNT, resolved, NULL, 0, &config));
    char *again = config_text(config, false);
    assert_string_equal(again, text);
    config_free(config);
    free(again);
    free(resolved);
    free(other);
    free(with_origins);
    free(text);
}

/* Many errors: a count instead of the rest; a binary file: no crash. */
static void test_garbage(void **state)
{
    (void)state;
    char *text = xmalloc(60 * 4 + 1);
    for (int i = 0; i < 60; i++) {
        memcpy(text + (size_t)i * 4, "bad\n", 4);
    }
    text[240] = '\0';
    write_named("my.ini", text);
    Config *config = NULL;
    Err *err = config_load(KEYS, KEY_COUNT, file_path, NULL, 0, &config);
    assert_non_null(err);
    assert_non_null(strstr(err->message, "\nand 10 more\n60 errors, nothing was started."));
    err_free(err);
    free(text);
    uint8_t bytes[4096];
    for (uint32_t round = 0; round < 200; round++) {
        for (size_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = (uint8_t)("[]=;#\n\r \tadlmnoprt.\xff"
                                     [(i * 2654435761u + round * 40503u * (i + 1)) >> 7 & 15u]);
        }
        assert_null(file_write_atomic(file_path, bytes, sizeof bytes));
        err = config_load(KEYS, KEY_COUNT, file_path, NULL, 0, &config);
        config_free(err == NULL ? config : NULL);
        err_free(err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),   cmocka_unit_test(test_values),
        cmocka_unit_test(test_precedence), cmocka_unit_test(test_environment),
        cmocka_unit_test(test_all_errors), cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_lines),      cmocka_unit_test(test_include_errors),
        cmocka_unit_test(test_required),   cmocka_unit_test(test_resolved),
        cmocka_unit_test(test_garbage),    cmocka_unit_test(test_origins),
        cmocka_unit_test(test_faults),     cmocka_unit_test(test_reloadable),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
