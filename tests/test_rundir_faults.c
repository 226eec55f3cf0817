/* How runs that fail say so: the manifest of each kind of end, drift as a table, folders that may not be used, disks that
 * are full. A run that must die by a signal or work under a limit is a process of its own: this program again, with
 * "run DIR" as arguments. */
#include "base/log.h"
#include "run_files.h"
#include "train/checkpoint.h"
#include "train/signals.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char ERROR_FILE[] = "errors/rank-000.json";

/* ---- Ends ---- */

static void a_failed_run_says_why(void **state)
{
    const Fixture *f = *state;
    const char *const wild[] = {"optim.lr=1e6",          "optim.weight_decay=1e6",
                                "train.max_nonfinite=2", "schedule.kind=constant",
                                "train.precision=fp32",  NULL};
    assert_code(run_in(f, "wild", RESUME_AUTO, wild, NULL), EXIT_NOT_FINITE, "in a row");
    assert_status(f, "wild", "failed", EXIT_NOT_FINITE);
    json_t *error = read_json(f, "wild", ERROR_FILE);
    assert_int_equal(number_at(error, "code"), EXIT_NOT_FINITE);
    assert_non_null(strstr(text_at(error, "message"), "lower optim.lr"));
    assert_true(number_at(error, "step") >= 2);
    assert_int_equal(number_at(error, "epoch"), 1);
    json_decref(error);
    char *prom = read_text(f, "wild", RUN_PROMETHEUS);
    assert_non_null(strstr(prom, "cudistill_up{run=\"run\"} 0\n"));
    free(prom);
}

/* What went wrong before step 1 is in the manifest too, and a later success takes the error away. */
static void a_wrong_teacher_fails_the_run(void **state)
{
    const Fixture *f = *state;
    const char *extra[] = {"distill.method=kd",        "teacher.model=resnet8", f->teacher,
                           "teacher.expect_top1=99.9", "train.max_steps=1",     NULL};
    assert_code(run_in(f, "teach", RESUME_AUTO, extra, NULL), EXIT_TEACHER, "expected 99.90");
    assert_status(f, "teach", "failed", EXIT_TEACHER);
    assert_true(has_file(f, "teach", ERROR_FILE));
    assert_true(has_file(f, "teach", RUN_TEACHER_LOGITS)); /* to look into */
    extra[3] = "teacher.expect_top1=99.9";
    extra[4] = "teacher.tolerance=99";
    assert_fine(run_in(f, "teach", RESUME_AUTO, extra, NULL));
    assert_status(f, "teach", "finished", 0);
    assert_false(has_file(f, "teach", ERROR_FILE));
}

static void a_time_limit_preempts(void **state)
{
    const Fixture *f = *state;
    const char *const brief[] = {"train.time_limit=2s", "schedule.epochs=5000", NULL};
    Err *err = run_in(f, "brief", RESUME_AUTO, brief, NULL);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_PREEMPTED);
    err_free(err);
    assert_status(f, "brief", "preempted", EXIT_PREEMPTED);
    assert_false(has_file(f, "brief", ERROR_FILE));
}

/* ---- Processes ---- */

static int child_main(const char *dir)
{
    Fixture here = {.teacher = NULL};
    (void)snprintf(here.dir, sizeof here.dir, "%s", dir);
    signals_install();
    const char *const long_run[] = {"schedule.epochs=5000", "log.every_s=0", "checkpoint.every=3",
                                    NULL};
    Err *err = run_in(&here, "child", RESUME_AUTO, long_run, NULL);
    const int code = err ? (int)err->code : 0;
    err_free(err);
    return code;
}

static pid_t start_child(const Fixture *f)
{
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)execl("/proc/self/exe", "test_rundir_faults", "run", f->dir, (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* Until the newest checkpoint appears, at most 60 s. */
static void await_checkpoint(const Fixture *f)
{
    const double end = now_s() + 60.0;
    while (!has_file(f, "child", "checkpoints/latest/state.json")) {
        assert_true(now_s() < end);
        (void)usleep(20000);
    }
}

static int end_child(pid_t pid, int signal_number)
{
    assert_int_equal(kill(pid, signal_number), 0);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* SIGKILL leaves no time to say anything: "running" stays. SIGINT does, and the history tells of the resume. */
static void signals_show_in_the_manifest(void **state)
{
    const Fixture *f = *state;
    pid_t pid = start_child(f);
    await_checkpoint(f);
    int status = end_child(pid, SIGKILL);
    assert_true(WIFSIGNALED(status));
    assert_status(f, "child", "running", -1);
    char *latest = run_path(f, "child", "checkpoints/latest");
    assert_int_equal(unlink(latest), 0); /* the resumed process makes it anew */
    free(latest);
    pid = start_child(f);
    await_checkpoint(f);
    status = end_child(pid, SIGINT);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_INTERRUPTED);
    assert_status(f, "child", "interrupted", EXIT_INTERRUPTED);
    json_t *m = read_json(f, "child", RUN_MANIFEST);
    assert_int_equal(json_array_size(member(m, "resumes")), 1);
    json_decref(m);
}

static void a_second_process_is_refused(void **state)
{
    const Fixture *f = *state;
    const char *const one[] = {"train.max_steps=1", NULL};
    assert_fine(run_in(f, "locked", RESUME_AUTO, one, NULL));
    char *dir = run_path(f, "locked", "");
    int fd = -1;
    assert_fine(run_lock(dir, &fd));
    assert_code(run_in(f, "locked", RESUME_AUTO, one, NULL), EXIT_CANT_CREATE, "in use");
    run_unlock(fd);
    free(dir);
    assert_status(f, "locked", "finished", 0);
}

/* ---- Drift ---- */

static Err *run_allowing(const Fixture *f, const char *const *extra, const char *const *allow,
                         size_t count)
{
    const char *overrides[MAX_OVERRIDES];
    size_t n = 0;
    for (int i = 0; i < COMMON; i++) {
        if (!replaced(common[i], extra)) {
            overrides[n++] = common[i];
        }
    }
    char *out = xformat("run.out=%s/drift", f->dir);
    overrides[n++] = out;
    for (int i = 0; extra[i]; i++) {
        overrides[n++] = extra[i];
    }
    Settings settings;
    Err *err = settings_load(NULL, overrides, n, &settings);
    if (!err) {
        settings.allow_drift = allow;
        settings.n_allow_drift = count;
        err = train_run(&settings, RESUME_MUST, NULL);
        settings_free(&settings);
    }
    free(out);
    return err;
}

static void all_differences_are_shown(void **state)
{
    const Fixture *f = *state;
    assert_fine(run_in(f, "drift", RESUME_AUTO, (const char *[]){"train.max_steps=2", NULL}, NULL));
    char *before = read_text(f, "drift", RUN_MANIFEST);
    const char *const changed[] = {"optim.lr=0.07", "augment.flip=false",
                                   "data.options=classes=4,train=301,test=120", "train.max_steps=3",
                                   NULL};
    Err *err = run_in(f, "drift", RESUME_AUTO, changed, NULL);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    static const char *const parts[] = {
        "\n  optim.lr = '0.05'",
        "  now '0.07'\n",
        "\n  augment.flip = 'true'",
        "  now 'false'\n",
        "\n  data.options = 'classes=4,train=300,test=120'",
        "\n  data (the training set's hash) = '",
        "--allow-drift data.options --allow-drift augment.flip --allow-drift optim.lr "
        "--allow-drift data"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (!strstr(err->message, parts[i])) {
            fail_msg("'%s' is not in '%s'", parts[i], err->message);
        }
    }
    err_free(err);
    char *after = read_text(f, "drift", RUN_MANIFEST);
    assert_string_equal(before, after); /* a refused resume changes nothing */
    free(before);
    free(after);
}

static void named_differences_are_allowed(void **state)
{
    const Fixture *f = *state;
    const char *const changed[] = {"optim.lr=0.07", "augment.flip=false", "train.max_steps=4",
                                   NULL};
    const char *const one[] = {"optim.lr"};
    Err *err = run_allowing(f, changed, one, 1);
    assert_non_null(err);
    assert_null(strstr(err->message, "optim.lr"));
    assert_code(err, EXIT_CONFIG_ERR, "augment.flip");
    const char *const wrong[] = {"optim.lrr"};
    assert_code(run_allowing(f, changed, wrong, 1), EXIT_USAGE_ERR, "optim.lr'");
    const char *const both[] = {"augment.flip", "optim.lr"};
    assert_fine(run_allowing(f, changed, both, 2));
    json_t *root = read_json(f, "drift", "checkpoints/latest/state.json");
    const json_t *lr = json_object_get(member(root, "config"), "optim.lr");
    assert_string_equal(json_string_value(lr), "0.07"); /* from now on these are the run's */
    json_decref(root);
}

/* ---- Folders ---- */

static Err *run_default(const char *name, Resume resume, const char *steps)
{
    const char *overrides[MAX_OVERRIDES];
    size_t n = 0;
    for (int i = 0; i < COMMON; i++) {
        overrides[n++] = common[i];
    }
    char *run_name = xformat("run.name=%s", name);
    overrides[n++] = run_name;
    overrides[n++] = "run.project=shelf";
    overrides[n++] = steps;
    Settings settings;
    Err *err = settings_load(NULL, overrides, n, &settings);
    if (!err) {
        err = train_run(&settings, resume, NULL);
        settings_free(&settings);
    }
    free(run_name);
    return err;
}

/* Where the program chose the folder's name it chooses another; nothing is ever overwritten. */
static void never_takes_the_next_name(void **state)
{
    const Fixture *f = *state;
    char *home = getcwd(NULL, 0);
    assert_int_equal(chdir(f->dir), 0);
    assert_fine(run_default("again", RESUME_AUTO, "train.max_steps=1"));
    assert_fine(run_default("again", RESUME_NEVER, "train.max_steps=1"));
    assert_fine(run_default("again", RESUME_NEVER, "train.max_steps=2"));
    assert_int_equal(chdir(home), 0);
    free(home);
    static const char *const folders[] = {"runs/shelf/again-s1", "runs/shelf/again-s1-2",
                                          "runs/shelf/again-s1-3"};
    for (int i = 0; i < 3; i++) {
        assert_status(f, folders[i], "finished", 0);
    }
    assert_false(has_file(f, "runs/shelf/again-s1-4", ""));
    /* Its configuration goes on in the folder that was chosen. */
    char *config = run_path(f, folders[2], RUN_CONFIG);
    const char *const more[] = {"train.max_steps=3"};
    Settings settings;
    assert_fine(settings_load(config, more, 1, &settings));
    RunResult result;
    assert_fine(train_run(&settings, RESUME_MUST, &result));
    assert_int_equal(result.steps, 3);
    settings_free(&settings);
    free(config);
}

static void a_folder_that_cannot_be_made(void **state)
{
    const Fixture *f = *state;
    char *file = run_path(f, "", "plain-file");
    assert_fine(file_write_atomic(file, "x", 1));
    assert_code(run_in(f, "plain-file/run", RESUME_AUTO, NULL, NULL), EXIT_CANT_CREATE,
                "plain-file");
    free(file);
}

/* As another user, where this one is allowed everything. */
static void a_folder_that_may_not_be_written(void **state)
{
    const Fixture *f = *state;
    const char *const one[] = {"train.max_steps=1", NULL};
    char *dir = run_path(f, "", "sealed");
    assert_fine(dir_make(dir));
    assert_int_equal(chmod(f->dir, 0755), 0);
    assert_int_equal(chmod(dir, 0555), 0);
    const bool root = geteuid() == 0;
    if (root) {
        assert_int_equal(seteuid(65534), 0);
    }
    Err *err = run_in(f, "sealed", RESUME_AUTO, one, NULL);
    if (root) {
        assert_int_equal(seteuid(0), 0);
    }
    assert_int_equal(chmod(dir, 0755), 0);
    assert_non_null(err);
    assert_true(err->code == EXIT_CANT_CREATE || err->code == EXIT_NOT_PERMITTED);
    assert_non_null(strstr(err->message, "sealed"));
    err_free(err);
    free(dir);
}

/* ---- Disks ---- */

/* No file may grow beyond the limit any more: write gives an error, as on a full disk. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_last_checkpoint_that_cannot_be_written(void **state)
{
    const Fixture *f = *state;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_fine(
        run_in(f, "full-disk", RESUME_AUTO, (const char *[]){"train.max_steps=4", NULL}, NULL));
    limit_files(60000); /* the records fit, the weights (300 kB) do not */
    Err *err =
        run_in(f, "full-disk", RESUME_MUST, (const char *[]){"train.max_steps=7", NULL}, NULL);
    limit_files(RLIM_INFINITY);
    assert_code(err, EXIT_IO, "older ones are untouched");
    assert_status(f, "full-disk", "failed", EXIT_IO);
    char *root = run_path(f, "full-disk", "checkpoints");
    char *newest = NULL;
    assert_fine(checkpoint_newest(root, &newest));
    assert_non_null(strstr(newest, "step-000000004"));
    assert_fine(checkpoint_verify(newest));
    free(newest);
    free(root);
    RunResult result;
    assert_fine(
        run_in(f, "full-disk", RESUME_MUST, (const char *[]){"train.max_steps=7", NULL}, &result));
    assert_int_equal(result.steps, 7);
    assert_status(f, "full-disk", "finished", 0);
}

/* Folders stand where files should: nothing of it can be written, and the run goes on. */
static void records_that_cannot_be_written(void **state)
{
    const Fixture *f = *state;
    const char *extra[] = {"train.max_steps=2", "log.every_s=0", NULL};
    assert_fine(run_in(f, "blocked", RESUME_AUTO, extra, NULL));
    static const char *const names[] = {RUN_PROMETHEUS, RUN_MANIFEST, RUN_STUDENT_LOGITS};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = run_path(f, "blocked", names[i]);
        char *inside = path_join(path, "x");
        assert_int_equal(unlink(path), 0);
        assert_fine(dir_make(inside));
        free(inside);
        free(path);
    }
    extra[0] = "train.max_steps=9";
    RunResult result;
    assert_fine(run_in(f, "blocked", RESUME_MUST, extra, &result));
    assert_int_equal(result.steps, 9);
    long steps[16];
    assert_true(events_of(f, "blocked", "step", steps, 16) >= 4);
}

/* ---- Data and networks ---- */

static void wrong_inputs_are_named(void **state)
{
    const Fixture *f = *state;
    const char *const classes[] = {"distill.method=kd", "teacher.model=resnet8", f->teacher,
                                   "data.options=classes=5,train=300,test=120", NULL};
    assert_code(run_in(f, "classes", RESUME_AUTO, classes, NULL), EXIT_BAD_DATA, "fc.weight");
    const char *const model[] = {"student.model=resnet9", NULL};
    assert_code(run_in(f, "model", RESUME_AUTO, model, NULL), EXIT_CONFIG_ERR, "resnet9");
    const char *const absent[] = {"data.kind=cifar100", "data.root=/nowhere/cifar",
                                  "data.options=", NULL};
    assert_code(run_in(f, "absent", RESUME_AUTO, absent, NULL), EXIT_NO_INPUT, "/nowhere/cifar");
    char *dir = run_path(f, "", "short");
    char *file = path_join(dir, "train.bin");
    char *root = xformat("data.root=%s", dir);
    assert_fine(dir_make(dir));
    char *bytes = xcalloc(1, 3074 * 7 + 100);
    assert_fine(file_write_atomic(file, bytes, 3074 * 7 + 100));
    const char *const cut[] = {"data.kind=cifar100", root, "data.options=", NULL};
    assert_code(run_in(f, "cut", RESUME_AUTO, cut, NULL), EXIT_BAD_DATA, "train.bin");
    free(bytes);
    free(root);
    free(file);
    free(dir);
    static const char *const names[] = {"classes", "model", "absent", "cut"};
    for (size_t i = 0; i < 4; i++) {
        assert_false(has_file(f, names[i], "")); /* nothing was made */
    }
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "run") == 0) {
        return child_main(argv[2]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_run_says_why),
        cmocka_unit_test(a_wrong_teacher_fails_the_run),
        cmocka_unit_test(a_time_limit_preempts),
        cmocka_unit_test(signals_show_in_the_manifest),
        cmocka_unit_test(a_second_process_is_refused),
        cmocka_unit_test(all_differences_are_shown),
        cmocka_unit_test(named_differences_are_allowed),
        cmocka_unit_test(never_takes_the_next_name),
        cmocka_unit_test(a_folder_that_cannot_be_made),
        cmocka_unit_test(a_folder_that_may_not_be_written),
        cmocka_unit_test(a_last_checkpoint_that_cannot_be_written),
        cmocka_unit_test(records_that_cannot_be_written),
        cmocka_unit_test(wrong_inputs_are_named),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
