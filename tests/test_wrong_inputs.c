/* What the program does with inputs that are wrong, as a user meets it: `cudistill train` must leave with the right exit
 * code and a message that names the place and the cure, and leave nothing behind that was not there before.
 *
 * The program is $CUDISTILL, else build/cudistill; run from the tree's root. */
#include "base/files.h"
#include "base/log.h"
#include "data/cifar.h"
#include "io/safetensors.h"
#include "train/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { SETS_MAX = 8, PARTS_MAX = 3, TEXT_MAX = 1 << 20 };
#define CONFIG "tests/configs/faults.ini"

typedef struct {
    char dir[64]; /* removed at the end */
    char *program;
    char *teacher; /* weights of a resnet8 of 4 classes */
} Fixture;

/* One start of the program. */
typedef struct {
    const char *config;         /* NULL: CONFIG */
    const char *sets[SETS_MAX]; /* values of --set */
    const char *out;            /* NULL: DIR/out, which must not be there afterwards */
    void (*prepare)(void);      /* in the child, before the program */
} Start;

static void assert_ok(Err *err)
{
    if (err != NULL) {
        fail_msg("%s", err->message);
    }
}

static char *in_dir(const Fixture *f, const char *name)
{
    return path_join(f->dir, name);
}

/* ---- Starting the program ---- */

static _Noreturn void run_child(const Fixture *f, const Start *start, const char *out,
                                const char *log)
{
    const int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    (void)dup2(fd, STDOUT_FILENO);
    (void)dup2(fd, STDERR_FILENO);
    (void)close(fd);
    (void)setenv("OMP_WAIT_POLICY", "passive", 1);
    if (start->prepare != NULL) {
        start->prepare();
    }
    const char *words[2 * SETS_MAX + 6] = {f->program, "train", "--set", out};
    size_t count = 4;
    for (size_t i = 0; i < SETS_MAX && start->sets[i] != NULL; i++) {
        words[count++] = "--set";
        words[count++] = start->sets[i];
    }
    words[count] = start->config != NULL ? start->config : CONFIG;
    /* exec wants its words without const and does not write to them. */
    (void)execv(f->program, (char *const *)words);
    _exit(127);
}

/* Exit code; *text = all it said. */
static int run(const Fixture *f, const Start *start, char **text)
{
    char *log = in_dir(f, "log");
    char *out =
        start->out != NULL ? xformat("run.out=%s", start->out) : xformat("run.out=%s/out", f->dir);
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        run_child(f, start, out, log);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_ok(file_read_text(log, TEXT_MAX, text));
    assert_int_equal(unlink(log), 0);
    free(out);
    free(log);
    if (!WIFEXITED(status)) {
        fail_msg("signal %d; it said: %s", WTERMSIG(status), *text);
    }
    return WEXITSTATUS(status);
}

static char *listing(const Fixture *f)
{
    char *command = xformat("ls -AlR --time-style=+ '%s'", f->dir);
    FILE *list = popen(command, "r");
    assert_non_null(list);
    char *text = NULL;
    size_t size = 0;
    assert_true(getdelim(&text, &size, '\0', list) > 0);
    assert_int_equal(pclose(list), 0);
    free(command);
    return text;
}

/* The program must leave with `code`, say each of `parts`, and leave no file behind. */
static void expect(const Fixture *f, const Start *start, int code,
                   const char *const parts[PARTS_MAX])
{
    char *before = listing(f);
    char *text = NULL;
    const int found = run(f, start, &text);
    if (found != code) {
        fail_msg("left with %d in place of %d: %s", found, code, text);
    }
    for (size_t i = 0; i < PARTS_MAX && parts[i] != NULL; i++) {
        if (strstr(text, parts[i]) == NULL) {
            fail_msg("nothing of '%s' in: %s", parts[i], text);
        }
    }
    char *after = listing(f);
    if (strcmp(before, after) != 0) {
        fail_msg("it left something behind: before\n%s\nafter\n%s", before, after);
    }
    free(after);
    free(text);
    free(before);
}
#define PARTS(...) ((const char *const[PARTS_MAX]){__VA_ARGS__})

/* ---- Missing ---- */

static void test_missing_config(void **state)
{
    const Fixture *f = *state;
    char *config = in_dir(f, "none.ini");
    expect(f, &(Start){.config = config}, EXIT_NO_INPUT, PARTS("none.ini", "check the path"));
    free(config);
}

static void test_missing_weights(void **state)
{
    const Fixture *f = *state;
    char *weights = xformat("teacher.weights=%s/none.pth", f->dir);
    expect(f, &(Start){.sets = {weights, "teacher.model=resnet8", "distill.method=kd"}},
           EXIT_NO_INPUT, PARTS("none.pth", "check the path"));
    free(weights);
    char *student = xformat("student.weights=%s/none.safetensors", f->dir);
    expect(f, &(Start){.sets = {student}}, EXIT_NO_INPUT,
           PARTS("none.safetensors", "check the path"));
    free(student);
}

static void test_missing_data(void **state)
{
    const Fixture *f = *state;
    char *root = xformat("data.root=%s/none", f->dir);
    expect(f, &(Start){.sets = {root, "data.kind=cifar100"}}, EXIT_NO_INPUT,
           PARTS("none", "get https://", "cifar-100-binary.tar.gz"));
    free(root);
    expect(f, &(Start){.sets = {"data.kind=cifar100"}}, EXIT_CONFIG_ERR,
           PARTS("data.root", "cifar100"));
}

/* ---- Data ---- */

/* A split of black pictures of class 0 without taking space; one byte differs. */
static void make_split(const char *folder, const char *name, off_t size, off_t at, uint8_t byte)
{
    char *path = path_join(folder, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    assert_int_equal(close(fd), 0);
    free(path);
}

static void expect_bad_cifar(const Fixture *f, off_t size, off_t at, uint8_t byte,
                             const char *const parts[PARTS_MAX])
{
    char *folder = in_dir(f, "cifar-100-binary");
    assert_ok(dir_make(folder));
    const off_t record = (off_t)cifar_record_size(CIFAR_100);
    make_split(folder, "train.bin", size, at, byte);
    make_split(folder, "test.bin", record * CIFAR_TEST_COUNT, 0, 0);
    char *root = xformat("data.root=%s", f->dir);
    expect(f, &(Start){.sets = {root, "data.kind=cifar100"}}, EXIT_BAD_DATA, parts);
    free(root);
    assert_ok(dir_remove(folder));
    free(folder);
}

static void test_bad_data(void **state)
{
    const Fixture *f = *state;
    const off_t record = (off_t)cifar_record_size(CIFAR_100);
    const off_t whole = record * CIFAR_TRAIN_COUNT;
    expect_bad_cifar(f, whole - 100, 0, 0, PARTS("train.bin", "cut short", "get https://"));
    expect_bad_cifar(f, whole + record, 0, 0, PARTS("train.bin", "not this set's"));
    expect_bad_cifar(f, whole, 1000 * record + 1, 100,
                     PARTS("record 1000", "label 100, must be below 100", "get https://"));
}

static void test_bad_archive(void **state)
{
    const Fixture *f = *state;
    char *path = in_dir(f, "cifar-100-binary.tar.gz");
    static const char gzip[] = "\x1f\x8b\x08\0\0\0\0\0\0\x03nothing of this is deflated";
    assert_ok(file_write_atomic(path, gzip, sizeof gzip));
    char *root = xformat("data.root=%s", path);
    expect(f, &(Start){.sets = {root, "data.kind=cifar100"}}, EXIT_BAD_DATA,
           PARTS("cifar-100-binary.tar.gz", "download it again"));
    free(root);
    assert_int_equal(unlink(path), 0);
    free(path);
}

/* ---- Weights ---- */

/* Expects the refusal of `path` as the teacher's weights. */
static void expect_bad_teacher(const Fixture *f, const char *path, const char *classes,
                               const char *const parts[PARTS_MAX])
{
    char *weights = xformat("teacher.weights=%s", path);
    char *data = xformat("data.options=classes=%s,train=48,test=16", classes);
    const Start start = {.sets = {weights, data, "teacher.model=resnet8", "distill.method=kd"}};
    expect(f, &start, EXIT_BAD_DATA, parts);
    free(data);
    free(weights);
}

typedef enum { DROP, ADD, RESHAPE, NOT_A_NUMBER, INFINITE } Change;

/* The teacher's file with one change at its tensor number `index`. Caller frees the path, whose file it removes. */
static char *changed_teacher(const Fixture *f, Change change, const char *name)
{
    WeightsFile *file = NULL;
    assert_ok(safetensors_open(f->teacher, &file));
    SafeTensor *tensors = xcalloc(file->count + 1, sizeof *tensors);
    size_t count = 0;
    float *copy = NULL;
    static const float extra[2] = {1, 2};
    for (size_t i = 0; i < file->count; i++) {
        const WeightEntry *entry = &file->entries[i];
        SafeTensor *to = &tensors[count];
        const bool meant = strcmp(entry->name, name) == 0;
        if (meant && change == DROP) {
            continue;
        }
        *to = (SafeTensor){
            .name = entry->name, .type = entry->type, .ndim = entry->ndim, .data = entry->data};
        memcpy(to->shape, entry->shape, sizeof to->shape);
        if (meant && change == RESHAPE) {
            to->ndim = 1;
            to->shape[0] = (int64_t)entry->count;
        }
        if (meant && (change == NOT_A_NUMBER || change == INFINITE)) {
            assert_int_equal(entry->type, WEIGHT_F32);
            copy = xmalloc(entry->bytes);
            memcpy(copy, entry->data, entry->bytes);
            copy[entry->count - 1] = change == INFINITE ? INFINITY : NAN;
            to->data = copy;
        }
        count++;
    }
    if (change == ADD) {
        tensors[count++] =
            (SafeTensor){.name = name, .type = WEIGHT_F32, .ndim = 1, .shape = {2}, .data = extra};
    }
    char *path = in_dir(f, "changed.safetensors");
    assert_ok(safetensors_write(path, tensors, count, NULL));
    free(copy);
    free(tensors);
    weights_close(file);
    return path;
}

static void expect_bad_change(const Fixture *f, Change change, const char *name,
                              const char *const parts[PARTS_MAX])
{
    char *path = changed_teacher(f, change, name);
    expect_bad_teacher(f, path, "4", parts);
    assert_int_equal(unlink(path), 0);
    free(path);
}

static void test_other_tensors(void **state)
{
    const Fixture *f = *state;
    expect_bad_change(f, DROP, "conv1.weight", PARTS("changed.safetensors", "conv1.weight"));
    expect_bad_change(f, ADD, "conv99.weight", PARTS("changed.safetensors", "conv99.weight"));
    expect_bad_change(f, RESHAPE, "conv1.weight",
                      PARTS("changed.safetensors", "conv1.weight", "432"));
}

static void test_not_finite(void **state)
{
    const Fixture *f = *state;
    expect_bad_change(f, NOT_A_NUMBER, "fc.weight", PARTS("changed.safetensors", "fc.weight"));
    expect_bad_change(f, INFINITE, "bn1.bias", PARTS("changed.safetensors", "bn1.bias"));
}

static void test_class_count(void **state)
{
    const Fixture *f = *state;
    expect_bad_teacher(f, f->teacher, "10", PARTS("teacher.safetensors", "fc.", "10"));
}

static void test_malformed_weights(void **state)
{
    const Fixture *f = *state;
    FileMap map;
    assert_ok(file_map(f->teacher, &map));
    char *path = in_dir(f, "bad.safetensors");
    assert_ok(file_write_atomic(path, map.data, map.size - 4));
    file_unmap(&map);
    expect_bad_teacher(f, path, "4", PARTS("bad.safetensors", "truncated"));
    static const char hole[] = "\x40\0\0\0\0\0\0\0"
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}"
                               "            abcdefgh";
    assert_ok(file_write_atomic(path, hole, 8 + 64 + 8));
    expect_bad_teacher(f, path, "4", PARTS("bad.safetensors", "hole"));
    assert_int_equal(unlink(path), 0);
    free(path);

    path = in_dir(f, "bad.pth");
    static const char cut[] = "PK\3\4 no more of it";
    assert_ok(file_write_atomic(path, cut, sizeof cut - 1));
    expect_bad_teacher(f, path, "4", PARTS("bad.pth"));
    static const char pickle[] = "\x80\x02"
                                 "cposix\nsystem\nX\4\0\0\0true\x85R.";
    assert_ok(file_write_atomic(path, pickle, sizeof pickle - 1));
    expect_bad_teacher(f, path, "4", PARTS("bad.pth", "torch.save"));
    assert_int_equal(unlink(path), 0);
    free(path);
}

/* ---- Configuration ---- */

static void test_unknown_model(void **state)
{
    const Fixture *f = *state;
    expect(f, &(Start){.sets = {"student.model=resnet21"}}, EXIT_CONFIG_ERR,
           PARTS("resnet21", "resnet20"));
    expect(f,
           &(Start){
               .sets = {"teacher.model=wrn_41_2", "distill.method=kd", "teacher.weights=none.pth"}},
           EXIT_CONFIG_ERR, PARTS("wrn_41_2", "wrn_40_2"));
}

static void test_config_errors(void **state)
{
    const Fixture *f = *state;
    char *path = in_dir(f, "bad.ini");
    static const char text[] = "[train]\nbtach = 64\n[schedule]\nepochs = many\n";
    assert_ok(file_write_atomic(path, text, sizeof text - 1));
    expect(f, &(Start){.config = path}, EXIT_CONFIG_ERR,
           PARTS("bad.ini:2", "did you mean 'batch'", "bad.ini:4"));
    assert_int_equal(unlink(path), 0);
    free(path);
}

/* ---- Output ---- */

static void test_unwritable(void **state)
{
    const Fixture *f = *state;
    char *below = xformat("%s/out", f->teacher);
    expect(f, &(Start){.out = below}, EXIT_CANT_CREATE,
           PARTS("teacher.safetensors", "a part of the path is a file"));
    free(below);
    expect(f, &(Start){.out = "/proc/cudistill"}, EXIT_CANT_CREATE, PARTS("/proc/cudistill"));
}

static void test_second_process(void **state)
{
    const Fixture *f = *state;
    char *out = in_dir(f, "taken");
    int fd = -1;
    assert_ok(run_lock(out, &fd));
    char *pid = xformat("%d", (int)getpid());
    expect(f, &(Start){.out = out}, EXIT_CANT_CREATE, PARTS("taken", pid));
    free(pid);
    run_unlock(fd);
    assert_ok(dir_remove(out));
    free(out);
}

/* The parent's view of the file system does not change. */
static bool own_mounts(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static const char *mount_point; /* for the children that mount */

static void mount_or_leave(unsigned long flags, const char *options)
{
    if (!own_mounts() || mount("none", mount_point, "tmpfs", flags, options) != 0) {
        _exit(126);
    }
}

static void mount_read_only(void)
{
    mount_or_leave(MS_RDONLY, "size=1m");
}

static void mount_small(void)
{
    mount_or_leave(0, "size=64k");
}

/* Whether this process may mount at all. */
static bool may_mount(void)
{
    const pid_t pid = fork();
    if (pid == 0) {
        mount_read_only();
        _exit(0);
    }
    int status = 0;
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Runs into DIR/disk/out, where the child has mounted a file system of its own. */
static void expect_on_mount(const Fixture *f, void (*prepare)(void), int code,
                            const char *const parts[PARTS_MAX])
{
    char *point = in_dir(f, "disk");
    assert_ok(dir_make(point));
    mount_point = point;
    const bool may = may_mount();
    if (may) {
        char *out = path_join(point, "out");
        expect(f, &(Start){.out = out, .prepare = prepare}, code, parts);
        free(out);
    }
    assert_ok(dir_remove(point));
    free(point);
    if (!may) {
        print_message("skipped: mounting needs a namespace of its own (unshare -m)\n");
        skip();
    }
}

static void test_read_only(void **state)
{
    expect_on_mount(*state, mount_read_only, EXIT_CANT_CREATE,
                    PARTS("disk/out", "Read-only file system", "writable"));
}

static void test_full_disk(void **state)
{
    expect_on_mount(*state, mount_small, EXIT_IO, PARTS("disk/out", "free some space"));
}

static void limit_file_size(void)
{
    const struct rlimit limit = {40000, 40000};
    (void)setrlimit(RLIMIT_FSIZE, &limit);
}

/* Files that may not grow: every checkpoint fails, and what was written of them is removed. */
static void test_file_size_limit(void **state)
{
    const Fixture *f = *state;
    char *out = in_dir(f, "limited");
    char *text = NULL;
    assert_int_equal(run(f, &(Start){.out = out, .prepare = limit_file_size}, &text), EXIT_IO);
    assert_non_null(strstr(text, "File too large"));
    free(text);
    char *root = path_join(out, "checkpoints");
    char **names = NULL;
    size_t count = 0;
    if (path_is_dir(root)) {
        assert_ok(dir_list(root, &names, &count));
    }
    assert_int_equal(count, 0);
    names_free(names, count);
    free(root);
    assert_ok(dir_list(out, &names, &count));
    for (size_t i = 0; i < count; i++) {
        assert_null(strstr(names[i], "tmp"));
        assert_null(strstr(names[i], ".safetensors"));
    }
    names_free(names, count);
    assert_ok(dir_remove(out));
    free(out);
}

/* ---- Fixture ---- */

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    *state = f;
    const char *program = getenv("CUDISTILL");
    f->program = xstrdup(program != NULL && program[0] != '\0' ? program : "build/cudistill");
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/test_wrong_inputs_XXXXXX");
    if (access(f->program, X_OK) != 0 || !path_exists(CONFIG) || mkdtemp(f->dir) == NULL) {
        (void)fprintf(stderr,
                      "no program '%s', or no %s here: build first, and run from the tree's root\n",
                      f->program, CONFIG);
        return -1;
    }
    /* A run of a tenth of a second makes the teacher. */
    char *text = NULL;
    const int code = run(f, &(Start){.sets = {"schedule.epochs=1"}}, &text);
    if (code != 0) {
        (void)fprintf(stderr, "%s", text);
        return -1;
    }
    free(text);
    char *out = in_dir(f, "out");
    char *weights = path_join(out, "student_last.safetensors");
    f->teacher = in_dir(f, "teacher.safetensors");
    const bool moved = rename(weights, f->teacher) == 0;
    Err *err = dir_remove(out);
    free(weights);
    free(out);
    return moved && err == NULL ? 0 : -1;
}

static int teardown(void **state)
{
    Fixture *f = *state;
    Err *err = dir_remove(f->dir);
    free(f->teacher);
    free(f->program);
    free(f);
    return err != NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_config),    cmocka_unit_test(test_missing_weights),
        cmocka_unit_test(test_missing_data),      cmocka_unit_test(test_bad_data),
        cmocka_unit_test(test_bad_archive),       cmocka_unit_test(test_other_tensors),
        cmocka_unit_test(test_not_finite),        cmocka_unit_test(test_class_count),
        cmocka_unit_test(test_malformed_weights), cmocka_unit_test(test_unknown_model),
        cmocka_unit_test(test_config_errors),     cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_second_process),    cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_full_disk),         cmocka_unit_test(test_file_size_limit),
    };
    return cmocka_run_group_tests_name("wrong inputs", tests, setup, teardown);
}
