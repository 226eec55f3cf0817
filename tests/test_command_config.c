/* `cudistill config`: what check, show, keys and diff print, with which code they end, how long a check takes. */
#include "command_rig.h"

#include "base/files.h"
#include "base/log.h"
#include "train/settings.h"

#include <jansson.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

enum { TIMED_RUNS = 9 };
#define CHECK_LIMIT_S 0.050

static char *dir;

static int setup(void **state)
{
    (void)state;
    const char *root = getenv("TMPDIR");
    dir = xformat("%s/cudistill-XXXXXX", root ? root : "/tmp");
    (void)setenv("CIFAR100_ROOT", "/nowhere/cifar", 1);
    (void)setenv("WRN_16_2_WEIGHTS", "/nowhere.pth", 1);
    (void)setenv("RESNET32X4_WEIGHTS", "/nowhere.pth", 1);
    return mkdtemp(dir) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    Err *err = dir_remove(dir);
    free(dir);
    return err != NULL;
}

static char *file_with(const char *name, const char *text)
{
    char *path = path_join(dir, name);
    assert_null(file_write_atomic(path, text, strlen(text)));
    return path;
}

/* What `config ARGUMENTS` prints; it must succeed. */
static char *says(const char *const *arguments)
{
    char *said = NULL;
    Err *err = command_run(&command_config, arguments, &said);
    if (err != NULL) {
        fail_msg("%s", err->message);
    }
    return said;
}

static void fails(const char *const *arguments, ExitCode code, const char *const *parts)
{
    char *said = NULL;
    Err *err = command_run(&command_config, arguments, &said);
    assert_non_null(err);
    assert_int_equal(err->code, code);
    for (int i = 0; parts[i] != NULL; i++) {
        if (strstr(err->message, parts[i]) == NULL) {
            fail_msg("'%s' is not in '%s'", parts[i], err->message);
        }
    }
    err_free(err);
    free(said);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void check_says_ok_or_all_mistakes(void **state)
{
    (void)state;
    char *good = file_with("good.ini", "[run]\nname = try\n[schedule]\nepochs = 3\n");
    char *bad = file_with("bad.ini", "[optim]\nlr = fast\nmomentm = 0.9\n");
    char *said = says(WORDS("check", good, "--set", "optim.lr=0.2"));
    char *want = xformat("ok: %s: resnet20 on synthetic, no teacher, 3 epochs of batch 64, lr 0.2 "
                         "multistep, seed 1, to runs/try-s1\n",
                         good);
    assert_string_equal(said, want);
    free(want);
    free(said);
    fails(WORDS("check", good, bad, bad), EXIT_CONFIG_ERR,
          WORDS("bad.ini:2:6: optim.lr: 'fast'", "bad.ini:3:1: unknown key 'momentm'",
                "2 errors, nothing was started.\n"));
    fails(WORDS("check", good, "-s", "optim.lr=fast"), EXIT_CONFIG_ERR,
          WORDS("--set optim.lr=fast: optim.lr: 'fast' is not a number"));
    char *absent = path_join(dir, "god.ini");
    fails(WORDS("check", absent), EXIT_NO_INPUT, WORDS("did you mean 'good.ini'?"));
    fails(WORDS("check"), EXIT_USAGE_ERR, WORDS("CONFIG.ini"));
    free(absent);
    free(bad);
    free(good);
}

/* A suite is checked with the configurations that it names. */
static void suites_are_checked_whole(void **state)
{
    (void)state;
    char *one = file_with("one.ini", "[distill]\nmethod = kd\n[teacher]\nmodel = resnet8\n");
    char *two = file_with("two.ini", "[optim]\nlr = fast\n");
    char *taught = file_with("taught.ini", "[suite]\nteacher = good.ini\nruns = one.ini\n");
    char *good = file_with("good.ini", "");
    char *said = says(WORDS("check", taught));
    assert_non_null(strstr(said, "taught.ini: suite of one.ini\n"));
    free(said);
    char *bad = file_with("bad.ini", "[suite]\nruns = one.ini, two.ini, three.ini\n");
    fails(WORDS("check", bad), EXIT_CONFIG_ERR,
          WORDS("one.ini:2:10: distill.method = kd needs a teacher: set teacher.weights",
                "two.ini:2:6: optim.lr: 'fast'", "three.ini"));
    char *worse = file_with("worse.ini", "[suite]\nrun = one.ini\n");
    fails(WORDS("check", worse), EXIT_CONFIG_ERR,
          WORDS("did you mean 'runs'?", "suite.runs must be given"));
    free(worse);
    free(bad);
    free(good);
    free(taught);
    free(two);
    free(one);
}

/* Number of "ok" lines for all configurations below `folder`, suites too. */
static int check_all(const char *folder)
{
    char **names;
    size_t count;
    int checked = 0;
    assert_null(dir_list(folder, &names, &count));
    for (size_t i = 0; i < count; i++) {
        char *path = path_join(folder, names[i]);
        const char *dot = strrchr(names[i], '.');
        if (path_is_dir(path)) {
            checked += check_all(path);
        } else if (dot != NULL && strcmp(dot, ".ini") == 0) {
            char *said = says(WORDS("check", path));
            assert_memory_equal(said, "ok: ", 4);
            free(said);
            checked++;
        }
        free(path);
    }
    names_free(names, count);
    return checked;
}

static void shipped_configurations_pass(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR); /* data and weights are not there */
    const int count = check_all("configs");
    log_set_level(LOG_INFO);
    print_message("%d configurations and suites are fine\n", count);
    assert_true(count >= 12);
}

static void show_prints_what_loads_again(void **state)
{
    (void)state;
    char *base = file_with("base.ini", "[data]\nroot = set\nkind = cifar100\n[optim]\nlr = 0.3\n");
    char *path = file_with("own.ini", "include = base.ini\n[optim]\nmomentum = 0.8\n");
    char *plain = says(WORDS("show", path));
    char *again = file_with("again.ini", plain);
    char *second = says(WORDS("show", again));
    assert_string_equal(plain, second);
    char *want = xformat("[data]\n# %s:3\nkind = cifar100\n# %s:2\nroot = %s/set\n\n[optim]\n# "
                         "%s:5\nlr = 0.3\n# %s:3\nmomentum = 0.8\n\n[train]\n# --set\nbatch = 8\n",
                         base, base, dir, base, path);
    char *given = says(WORDS("show", path, "--given", "--origin", "-s", "train.batch=8"));
    assert_string_equal(given, want);
    char *json = says(WORDS("show", path, "--json"));
    json_error_t error;
    json_t *root = json_loads(json, 0, &error);
    assert_non_null(root);
    size_t count;
    (void)settings_schema(&count);
    assert_int_equal(json_object_size(root), count);
    const json_t *lr = json_object_get(root, "optim.lr");
    assert_string_equal(json_string_value(json_object_get(lr, "value")), "0.3");
    char *origin = xformat("%s:5", base);
    assert_string_equal(json_string_value(json_object_get(lr, "origin")), origin);
    json_decref(root);
    free(origin);
    free(json);
    free(given);
    free(want);
    free(second);
    free(again);
    free(plain);
    free(path);
    free(base);
}

static void keys_are_listed(void **state)
{
    (void)state;
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    char *said = says(WORDS("keys"));
    for (size_t i = 0; i < count; i++) {
        char *name = xformat("\n%s.%s ", rows[i].section, rows[i].key);
        assert_non_null(strstr(said, name));
        free(name);
    }
    free(said);
    said = says(WORDS("keys", "optim"));
    assert_non_null(strstr(said, "\noptim.lr "));
    assert_null(strstr(said, "schedule."));
    free(said);
    said = says(WORDS("keys", "--json"));
    json_t *root = json_loads(said, 0, NULL);
    assert_int_equal(json_array_size(root), count);
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(root, i);
        assert_non_null(json_string_value(json_object_get(row, "help")));
        if (strcmp(json_string_value(json_object_get(row, "key")), "distill.temperature") == 0) {
            assert_string_equal(json_string_value(json_object_get(row, "RepDistiller")), "--kd_T");
            assert_float_equal(json_real_value(json_object_get(row, "min")), 0.01, 1e-12);
        }
    }
    json_decref(root);
    free(said);
    fails(WORDS("keys", "optm"), EXIT_USAGE_ERR, WORDS("did you mean 'optim'?"));
}

static void differences_have_origins(void **state)
{
    (void)state;
    char *a = file_with("a.ini", "[optim]\nlr = 0.1\n[train]\nbatch = 32\n");
    char *b = file_with("b.ini", "[train]\nbatch = 32\n\n[optim]\nlr = 0.25\nnesterov = true\n");
    char *said = says(WORDS("diff", a, b));
    char *want = xformat("optim.lr\n  - 0.1   %s:2\n  + 0.25  %s:5\noptim.nesterov\n  - false  "
                         "default\n  + true   %s:6\n2 values differ\n",
                         a, b, b);
    assert_string_equal(said, want);
    free(said);
    said = says(WORDS("diff", a, a));
    assert_string_equal(said, "");
    free(said);
    said = says(WORDS("diff", a, b, "--json"));
    json_t *root = json_loads(said, 0, NULL);
    assert_int_equal(json_object_size(root), 2);
    const json_t *lr = json_object_get(root, "optim.lr");
    assert_string_equal(json_string_value(json_object_get(lr, "a")), "0.1");
    assert_string_equal(json_string_value(json_object_get(lr, "b")), "0.25");
    json_decref(root);
    free(said);
    said = says(WORDS("diff", b, b, "--json"));
    assert_string_equal(said, "{}\n");
    free(said);
    /* A folder stands for its config.ini. */
    char *run = path_join(dir, "run");
    assert_null(dir_make(run));
    char *copy = file_with("run/config.ini", "[optim]\nlr = 0.1\n[train]\nbatch = 32\n");
    said = says(WORDS("diff", a, run));
    assert_string_equal(said, "");
    free(said);
    free(copy);
    free(run);
    free(want);
    free(b);
    free(a);
}

typedef struct {
    double wall, processor;
} Seconds;

static Seconds seconds_of(const char *program, const char *path)
{
    struct timespec begin;
    struct timespec end;
    (void)fflush(stdout);
    (void)clock_gettime(CLOCK_MONOTONIC, &begin);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (freopen("/dev/null", "w", stdout) && freopen("/dev/null", "w", stderr)) {
            (void)execl(program, program, "config", "check", path, (char *)NULL);
        }
        _exit(127);
    }
    int status = -1;
    struct rusage used;
    assert_int_equal(wait4(child, &status, 0, &used), child);
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    return (Seconds){.wall = (double)(end.tv_sec - begin.tv_sec) +
                             1e-9 * (double)(end.tv_nsec - begin.tv_nsec),
                     .processor = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                                  1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec)};
}

/* The whole process, of a configuration whose data and weights are not even there. Asserted is the time on the processor,
 * the least of several: the clock on the wall also runs while the machine does other work. */
static void a_check_takes_no_time(void **state)
{
    (void)state;
    const char *program = getenv("CUDISTILL");
    if (program == NULL || access(program, X_OK) != 0) {
        print_message("skipped: CUDISTILL does not name the program\n");
        return;
    }
    Seconds least = {1e9, 1e9};
    for (int i = 0; i < TIMED_RUNS; i++) {
        const Seconds taken = seconds_of(program, "configs/cifar100/kd/resnet32x4__resnet8x4.ini");
        least.wall = taken.wall < least.wall ? taken.wall : least.wall;
        least.processor = taken.processor < least.processor ? taken.processor : least.processor;
    }
    print_message("config check: %.1f ms, %.1f of them on the processor\n", least.wall * 1e3,
                  least.processor * 1e3);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(least.processor < CHECK_LIMIT_S);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_says_ok_or_all_mistakes),
        cmocka_unit_test(suites_are_checked_whole),
        cmocka_unit_test(shipped_configurations_pass),
        cmocka_unit_test(show_prints_what_loads_again),
        cmocka_unit_test(keys_are_listed),
        cmocka_unit_test(differences_have_origins),
        cmocka_unit_test(a_check_takes_no_time),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
