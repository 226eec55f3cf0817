/* The program with streams that are closed: training does not need them, a command whose result is what it prints does.
 * The program is $CUDISTILL, else build/cudistill. */
#include "base/err.h"
#include "base/files.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MOST_ARGUMENTS = 40 };

typedef struct {
    const char *program;
    char dir[64];
} Fixture;

typedef enum {
    TO_NULL,
    TO_CLOSED, /* the descriptor is not open at all: `>&-` */
    TO_BROKEN, /* a pipe that nobody reads */
    TO_FULL,   /* a disk without room */
    TO_FILE    /* DIR/out */
} Stream;

static void point(int descriptor, Stream to, const char *dir)
{
    int ends[2] = {-1, -1};
    char path[96];
    (void)snprintf(path, sizeof path, "%s/out", dir);
    switch (to) {
    case TO_CLOSED:
        (void)close(descriptor);
        return;
    case TO_BROKEN:
        if (pipe(ends) != 0 || close(ends[0]) != 0) {
            _exit(101);
        }
        break;
    case TO_FULL:
        ends[1] = open("/dev/full", O_WRONLY);
        break;
    case TO_FILE:
        ends[1] = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        break;
    case TO_NULL:
        ends[1] = open("/dev/null", O_RDWR);
        break;
    }
    if (dup2(ends[1], descriptor) < 0) {
        _exit(102);
    }
    (void)close(ends[1]);
}

static int exit_code(const Fixture *f, const char *const *arguments, Stream out, Stream err)
{
    char *argv[MOST_ARGUMENTS] = {xstrdup(f->program)};
    for (int i = 0; arguments[i]; i++) {
        argv[i + 1] = xstrdup(arguments[i]);
    }
    (void)fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        point(STDIN_FILENO, out == TO_CLOSED ? TO_CLOSED : TO_NULL, f->dir);
        point(STDOUT_FILENO, out, f->dir);
        point(STDERR_FILENO, err, f->dir);
        (void)execv(f->program, argv);
        _exit(103);
    }
    for (int i = 0; argv[i]; i++) {
        free(argv[i]);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static char *file_in(const Fixture *f, const char *name)
{
    char *path = path_join(f->dir, name);
    char *text = NULL;
    Err *err = file_read_text(path, 1 << 20, &text);
    if (err) {
        fail_msg("%s", err->message);
    }
    free(path);
    return text;
}

/* A run of a few steps, in DIR/name. */
static int train(const Fixture *f, const char *name, const char *flag, Stream out, Stream err)
{
    char *config = path_join(f->dir, "tiny.ini");
    char *folder = xformat("%s/%s", f->dir, name);
    const char *const arguments[] = {"train", config, "--out", folder, flag, NULL};
    const int code = exit_code(f, arguments, out, err);
    free(config);
    free(folder);
    return code;
}

/* The run is whole: everything that it wrote is what it should be, and no stream's words are in it. */
static void assert_trained(const Fixture *f, const char *name)
{
    char *log_name = xformat("%s/log.txt", name);
    char *log = file_in(f, log_name);
    assert_non_null(strstr(log, "epoch 1/1  train loss"));
    char *manifest_name = xformat("%s/manifest.json", name);
    char *manifest = file_in(f, manifest_name);
    json_t *object = json_loads(manifest, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(object, "status")), "finished");
    json_decref(object);
    char *metrics_name = xformat("%s/metrics.jsonl", name);
    char *metrics = file_in(f, metrics_name);
    char *rest = NULL;
    for (char *line = strtok_r(metrics, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        object = json_loads(line, 0, NULL);
        assert_true(json_is_object(object));
        json_decref(object);
    }
    char *weights_name = xformat("%s/%s/student_last.safetensors", f->dir, name);
    const char *const inspect[] = {"eval",    weights_name, "--model",
                                   "resnet8", "--data",     "synthetic:classes=4,train=40,test=8",
                                   NULL};
    assert_int_equal(exit_code(f, inspect, TO_NULL, TO_NULL), EXIT_OK);
    free(weights_name);
    free(metrics);
    free(metrics_name);
    free(manifest);
    free(manifest_name);
    free(log);
    free(log_name);
}

static void training_goes_on(void **state)
{
    const Fixture *f = *state;
    static const struct {
        const char *name;
        Stream out, err;
    } cases[] = {{"closed", TO_CLOSED, TO_CLOSED},
                 {"broken", TO_BROKEN, TO_BROKEN},
                 {"full", TO_FULL, TO_FULL},
                 {"silent", TO_FILE, TO_CLOSED}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(train(f, cases[i].name, NULL, cases[i].out, cases[i].err), EXIT_OK);
        assert_trained(f, cases[i].name);
    }
    char *table = file_in(f, "out"); /* of "silent" */
    assert_non_null(strstr(table, "last top-1"));
    assert_non_null(strstr(table, "next"));
    free(table);
    assert_int_equal(train(f, "json-broken", "--json", TO_BROKEN, TO_NULL), EXIT_OK);
    assert_trained(f, "json-broken");
}

static void json_ends_with_the_result(void **state)
{
    const Fixture *f = *state;
    assert_int_equal(train(f, "json", "--json", TO_FILE, TO_CLOSED), EXIT_OK);
    char *text = file_in(f, "out");
    char *rest = NULL;
    char last[32] = "";
    int epochs = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        assert_true(json_is_object(object));
        (void)snprintf(last, sizeof last, "%s",
                       json_string_value(json_object_get(object, "event")));
        epochs += strcmp(last, "epoch") == 0;
        json_decref(object);
    }
    assert_string_equal(last, "result");
    assert_int_equal(epochs, 1);
    free(text);
}

/* Where the text is the result, its loss is an error. */
static void a_lost_result_is_an_error(void **state)
{
    const Fixture *f = *state;
    static const char *const models[] = {"models", NULL};
    assert_int_equal(exit_code(f, models, TO_FILE, TO_NULL), EXIT_OK);
    assert_int_equal(exit_code(f, models, TO_CLOSED, TO_NULL), EXIT_IO);
    assert_int_equal(exit_code(f, models, TO_FULL, TO_CLOSED), EXIT_IO);
}

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    const char *program = getenv("CUDISTILL");
    f->program = program && program[0] ? program : "build/cudistill";
    if (access(f->program, X_OK) != 0) {
        (void)fprintf(stderr, "no program '%s': build first, and run from the tree's root\n",
                      f->program);
        free(f);
        return -1;
    }
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/cudistill-streams-XXXXXX");
    (void)signal(SIGPIPE, SIG_DFL); /* the program must not need it ignored by who starts it */
    static const char config[] = "[data]\nkind = synthetic\noptions = classes=4,train=40,test=8\n"
                                 "[student]\nmodel = resnet8\n"
                                 "[train]\nbatch = 16\n[eval]\nbatch = 8\n"
                                 "[schedule]\nepochs = 1\n[dist]\ndevice = cpu\nthreads = 1\n"
                                 "[log]\nevery_s = 0\n";
    if (!mkdtemp(f->dir)) {
        free(f);
        return -1;
    }
    char *path = path_join(f->dir, "tiny.ini");
    assert_null(file_write_atomic(path, config, strlen(config)));
    free(path);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;
    if (f) {
        err_free(dir_remove(f->dir));
    }
    free(f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_goes_on),
        cmocka_unit_test(json_ends_with_the_result),
        cmocka_unit_test(a_lost_result_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
