/* Input and output errors, on the program itself: `cudistill train tests/configs/faults.ini` runs with tests/faults/shim.c
 * preloaded, which lets the n-th write, fsync, rename, open for writing, mkdir or link below the run's folder fail. For
 * every n, error and kind the run must end with 0 (it got over it), 73 or 74; what is left must be whole: each checkpoint
 * verifies, each file under its final name parses; and a run without faults in the same folder must end with the weights
 * of a run that nobody disturbed, byte for byte.
 *
 * tests/check_faults.c tries every n, tests/test_faults.c a few. The program is $CUDISTILL, else build/cudistill; run from
 * the tree's root. */
#ifndef CUDISTILL_TESTS_FAULTS_RIG_H
#define CUDISTILL_TESTS_FAULTS_RIG_H

#include "base/files.h"
#include "base/log.h"
#include "faults/shim.h"
#include "io/events.h"
#include "io/npy.h"
#include "io/safetensors.h"
#include "train/checkpoint.h"

#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { FAULT_WORKERS = 2, FAULT_CODES = 128, FAULT_TEXT = 4096 };
#define FAULT_CONFIG "tests/configs/faults.ini"
#define FAULT_CHOSEN "write,fsync,rename,open,mkdir,link,truncate"
static const double FAULT_LIMIT_S = 60.0;

typedef struct {
    char dir[64]; /* removed at the end */
    char *program;
    char *shim;
    char *reference; /* the run that nobody disturbed */
    long calls;      /* of a run without faults */
} FaultFixture;

typedef struct {
    const char *error;
    const char *kind; /* once, always */
} FaultCase;

/* What the workers report, in shared memory. */
typedef struct {
    _Atomic long trials, codes[FAULT_CODES], same, warned, not_reached;
    _Atomic int bad;
    char text[FAULT_WORKERS][FAULT_TEXT]; /* the first failure of each */
} FaultTotals;

/* ---- Runs ---- */

typedef struct {
    const FaultCase *fault; /* NULL: none */
    long at;
    const char *count; /* file for the shim's counts, or NULL */
} FaultPlan;

static inline void fault_environment(const FaultFixture *f, const char *out, const FaultPlan *plan)
{
    /* Else the program would start itself again with it. */
    (void)setenv("OMP_WAIT_POLICY", "passive", 1);
    if (plan == NULL) {
        return;
    }
    char at[32];
    (void)snprintf(at, sizeof at, "%ld", plan->at);
    (void)setenv("LD_PRELOAD", f->shim, 1);
    (void)setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 0);
    (void)setenv("FAULTS_ROOT", out, 1);
    (void)setenv("FAULTS_CALLS", FAULT_CHOSEN, 1);
    (void)setenv("FAULTS_AT", at, 1);
    if (plan->fault != NULL) {
        (void)setenv("FAULTS_KIND", plan->fault->kind, 1);
        (void)setenv("FAULTS_ERROR", plan->fault->error, 1);
    }
    if (plan->count != NULL) {
        (void)setenv("FAULTS_COUNT", plan->count, 1);
    }
}

/* Exit code of `train` into `out`, its output in out.log; -1: killed after the limit, -2: by a signal. */
static inline int fault_run(const FaultFixture *f, const char *out, const FaultPlan *plan)
{
    char *set_out = xformat("run.out=%s", out);
    char *log = xformat("%s.log", out);
    (void)fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        const int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
        (void)dup2(fd, STDOUT_FILENO);
        (void)dup2(fd, STDERR_FILENO);
        fault_environment(f, out, plan);
        (void)execl(f->program, f->program, "train", "--set", set_out, FAULT_CONFIG, (char *)NULL);
        _exit(127);
    }
    free(log);
    free(set_out);
    const double end = now_s() + FAULT_LIMIT_S;
    int status = 0;
    pid_t got = waitpid(pid, &status, WNOHANG);
    while (got == 0 && now_s() < end) {
        (void)usleep(1000);
        got = waitpid(pid, &status, WNOHANG);
    }
    if (got != pid) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, &status, 0);
        return -1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
}

/* ---- What is left; each returns NULL or the reason, which the caller frees ---- */

static inline char *fault_reason(Err *err, const char *path)
{
    if (err == NULL) {
        return NULL;
    }
    char *reason = xformat("%s: %s", path, err->message);
    err_free(err);
    return reason;
}

static inline bool ends_with(const char *text, const char *tail)
{
    const size_t length = strlen(text);
    const size_t tail_length = strlen(tail);
    return length >= tail_length && strcmp(text + length - tail_length, tail) == 0;
}

static inline void ignore_event(void *context, const EventValue *value)
{
    (void)context;
    (void)value;
}

/* Lines of records: each is JSON. A torn line is only the work of a kill, and there was none. */
static inline char *check_json_lines(const char *path)
{
    char *text = NULL;
    char *reason = fault_reason(file_read_text(path, 1 << 24, &text), path);
    char *rest = NULL;
    for (char *line = reason == NULL ? strtok_r(text, "\n", &rest) : NULL; line != NULL && !reason;
         line = strtok_r(NULL, "\n", &rest)) {
        json_t *object = json_loads(line, 0, NULL);
        if (object == NULL) {
            reason = xformat("%s: no JSON: %s", path, line);
        }
        json_decref(object);
    }
    free(text);
    return reason;
}

/* Tables that grow line by line may still be empty. */
static inline char *check_text_end(const char *path, const char *end)
{
    char *text = NULL;
    char *reason = fault_reason(file_read_text(path, 1 << 24, &text), path);
    const bool may_be_empty = ends_with(path, ".csv");
    if (reason == NULL && !ends_with(text, end) && !(may_be_empty && text[0] == '\0')) {
        reason = xformat("%s does not end with '%s'", path, end);
    }
    free(text);
    return reason;
}

/* Whole file in memory, through `read`. */
static inline char *check_bytes(const char *path, const char *head, const char *tail,
                                size_t tail_size)
{
    FileMap map = {0};
    char *reason = fault_reason(file_map(path, &map), path);
    if (reason == NULL &&
        (map.size < strlen(head) + tail_size || memcmp(map.data, head, strlen(head)) != 0 ||
         memcmp(map.data + map.size - tail_size, tail, tail_size) != 0)) {
        reason = xformat("%s is not whole (%zu bytes)", path, map.size);
    }
    file_unmap(&map);
    return reason;
}

static inline char *check_events(const char *path)
{
    FileMap map = {0};
    EventsSummary summary;
    char *reason = fault_reason(file_map(path, &map), path);
    if (reason == NULL) {
        reason = fault_reason(events_read(map.data, map.size, ignore_event, NULL, &summary), path);
    }
    file_unmap(&map);
    return reason;
}

static inline char *check_weights(const char *path)
{
    WeightsFile *file = NULL;
    Err *err = ends_with(path, ".npy") ? npy_open(path, &file) : safetensors_open(path, &file);
    weights_close(file);
    return fault_reason(err, path);
}

static inline char *check_file(const char *path)
{
    if (strstr(path, ".tmp-") != NULL) {
        return NULL; /* not a final name */
    }
    if (ends_with(path, ".safetensors") || ends_with(path, ".npy")) {
        return check_weights(path);
    }
    if (ends_with(path, ".json")) {
        json_error_t error;
        json_t *root = json_load_file(path, 0, &error);
        char *reason = root == NULL ? xformat("%s: %s", path, error.text) : NULL;
        json_decref(root);
        return reason;
    }
    if (ends_with(path, ".jsonl")) {
        return check_json_lines(path);
    }
    if (ends_with(path, ".html")) {
        return check_text_end(path, "</html>\n");
    }
    if (ends_with(path, ".ini") || ends_with(path, ".tsv") || ends_with(path, ".csv") ||
        ends_with(path, ".prom")) {
        return check_text_end(path, "\n");
    }
    if (ends_with(path, ".png")) {
        return check_bytes(path, "\x89PNG\r\n", "IEND\xae\x42\x60\x82", 8);
    }
    return strstr(path, "events.out.tfevents.") != NULL ? check_events(path) : NULL;
}

/* nftw has no context. */
static char *fault_walk_reason;

static inline int fault_visit(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)walk;
    if (type == FTW_F && fault_walk_reason == NULL) {
        fault_walk_reason = check_file(path);
    }
    return fault_walk_reason != NULL;
}

/* Everything under a final name is whole. */
static inline char *check_left(const char *out)
{
    char *root = path_join(out, "checkpoints");
    char **names = NULL;
    size_t count = 0;
    char *reason = path_is_dir(root) ? fault_reason(dir_list(root, &names, &count), root) : NULL;
    for (size_t i = 0; i < count && reason == NULL; i++) {
        if (strncmp(names[i], "step-", 5) == 0) {
            char *path = path_join(root, names[i]);
            reason = fault_reason(checkpoint_verify(path), path);
            free(path);
        }
    }
    names_free(names, count);
    free(root);
    if (reason == NULL) {
        fault_walk_reason = NULL;
        (void)nftw(out, fault_visit, 16, FTW_PHYS);
        reason = fault_walk_reason;
    }
    return reason;
}

static inline char *check_same_file(const char *a_dir, const char *b_dir, const char *name)
{
    char *a = path_join(a_dir, name);
    char *b = path_join(b_dir, name);
    FileMap left = {0};
    FileMap right = {0};
    char *reason = fault_reason(file_map(a, &left), a);
    if (reason == NULL) {
        reason = fault_reason(file_map(b, &right), b);
    }
    if (reason == NULL && (left.size == 0 || left.size != right.size ||
                           memcmp(left.data, right.data, left.size) != 0)) {
        reason = xformat("%s is not what %s is", b, a);
    }
    file_unmap(&left);
    file_unmap(&right);
    free(b);
    free(a);
    return reason;
}

/* Whether the program's output in out.log holds the text. */
static inline bool fault_said(const char *out, const char *what)
{
    char *log = xformat("%s.log", out);
    char *text = NULL;
    err_free(file_read_text(log, 1 << 20, &text));
    const bool said = text != NULL && strstr(text, what) != NULL;
    free(text);
    free(log);
    return said;
}

/* The best weights of an epoch that is over cannot be had again: when they could not be written, that must have been said. */
static inline char *check_same_run(const FaultFixture *f, const char *out)
{
    static const char *const names[] = {"student_last.safetensors",
                                        "checkpoints/latest/model.safetensors",
                                        "checkpoints/latest/momentum.safetensors"};
    static const char best[] = "student_best.safetensors";
    char *reason = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && reason == NULL; i++) {
        reason = check_same_file(f->reference, out, names[i]);
    }
    if (reason == NULL && !fault_said(out, best)) {
        reason = check_same_file(f->reference, out, best);
    }
    return reason;
}

/* Whatever could not be written before, the table of epochs has its head once. */
static inline char *check_csv_head(const char *out)
{
    char *path = path_join(out, "epochs.csv");
    char *text = NULL;
    char *reason = NULL;
    if (path_exists(path)) {
        reason = fault_reason(file_read_text(path, 1 << 20, &text), path);
    }
    if (text != NULL && text[0] != '\0' &&
        (strncmp(text, "epoch,", 6) != 0 || strstr(text + 6, "epoch,") != NULL)) {
        reason = xformat("%s has no head, or two:\n%s", path, text);
    }
    free(text);
    free(path);
    return reason;
}

/* ---- Trials ---- */

/* Reads what the shim counted; zeros when it left nothing. */
static inline void read_counts(const char *path, long *total, long *failed)
{
    FaultCounts counts;
    memset(&counts, 0, sizeof counts);
    FILE *file = fopen(path, "rb");
    if (file != NULL) {
        (void)!fread(&counts, sizeof counts, 1, file);
        (void)fclose(file);
    }
    *total = counts.total;
    *failed = counts.failed;
}

static inline char *fault_trial(const FaultFixture *f, const FaultCase *fault, long at,
                                const char *out, FaultTotals *totals)
{
    char *count = xformat("%s.count", out);
    (void)unlink(count);
    const int code = fault_run(f, out, &(FaultPlan){fault, at, count});
    long total = 0;
    long failed = 0;
    read_counts(count, &total, &failed);
    free(count);
    totals->trials++;
    if (failed == 0) {
        totals->not_reached++;
    }
    if (code != 0 && code != EXIT_CANT_CREATE && code != EXIT_IO) {
        return xformat("exit code %d", code);
    }
    totals->codes[code]++;
    char *reason = path_exists(out) ? check_left(out) : NULL;
    if (reason != NULL) {
        return reason;
    }
    /* Whoever leaves with 0 after a fault that mattered has said so; the next run puts it right. */
    char *early = code == 0 ? check_same_run(f, out) : NULL;
    if (code == 0 && early == NULL) {
        totals->same++;
    } else if (code == 0) {
        const bool said = fault_said(out, "cannot");
        totals->warned += said;
        reason = said ? NULL : xformat("left with 0 and no word, although %s", early);
    }
    const bool all_done = code == 0 && early == NULL;
    free(early);
    if (reason != NULL || all_done) {
        return reason;
    }
    const int again = fault_run(f, out, NULL);
    reason = again != 0 ? xformat("a run without faults afterwards leaves with %d", again)
                        : check_left(out);
    if (reason == NULL) {
        reason = check_csv_head(out);
    }
    return reason != NULL ? reason : check_same_run(f, out);
}

static inline void fault_worker(const FaultFixture *f, const FaultCase *fault, long stride,
                                int worker, FaultTotals *totals)
{
    char *out = xformat("%s/trial-%d", f->dir, worker);
    char *log = xformat("%s.log", out);
    for (long at = worker * stride; at < f->calls; at += stride * FAULT_WORKERS) {
        err_free(dir_remove(out));
        (void)unlink(log);
        char *reason = fault_trial(f, fault, at, out, totals);
        if (reason != NULL && totals->bad++ == 0) {
            char *text = NULL;
            err_free(file_read_text(log, 1 << 20, &text));
            (void)snprintf(totals->text[worker], FAULT_TEXT, "%s %s at call %ld: %s\n%s",
                           fault->error, fault->kind, at, reason, text != NULL ? text : "");
            free(text);
        }
        free(reason);
    }
    free(log);
    free(out);
}

/* Calls 0, stride, 2 stride, ...: every one in a run of its own. */
static inline void fault_sweep(const FaultFixture *f, const FaultCase *fault, long stride)
{
    FaultTotals *totals =
        mmap(NULL, sizeof *totals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(totals != MAP_FAILED);
    const double begin = now_s();
    (void)fflush(NULL);
    pid_t workers[FAULT_WORKERS];
    for (int w = 0; w < FAULT_WORKERS; w++) {
        workers[w] = fork();
        if (workers[w] == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            fault_worker(f, fault, stride, w, totals);
            _exit(0);
        }
    }
    for (int w = 0; w < FAULT_WORKERS; w++) {
        int status = 0;
        (void)waitpid(workers[w], &status, 0);
        assert_int_equal(status, 0);
    }
    print_message("%s %s: %ld runs of %ld calls; %ld left with 0 and the right weights, %ld with 0 "
                  "and a warning, %ld with 73, %ld with 74; all others %d; %.0f s\n",
                  fault->error, fault->kind, (long)totals->trials, f->calls, (long)totals->same,
                  (long)totals->warned, (long)totals->codes[EXIT_CANT_CREATE],
                  (long)totals->codes[EXIT_IO], (int)totals->bad, now_s() - begin);
    for (int w = 0; w < FAULT_WORKERS; w++) {
        if (totals->text[w][0] != '\0') {
            print_error("%s\n", totals->text[w]);
        }
    }
    const int bad = totals->bad;
    const long missed = totals->not_reached;
    (void)munmap(totals, sizeof *totals);
    assert_int_equal(bad, 0);
    /* Runs differ by a call or two: progress lines depend on time. */
    assert_in_range(missed, 0, 8);
}

/* ---- Fixture ---- */

/* The shim lies beside this program. Caller frees. */
static inline char *shim_path(void)
{
    char self[PATH_BYTES];
    const ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
    if (size <= 0) {
        return xstrdup("");
    }
    self[size] = '\0';
    *strrchr(self, '/') = '\0';
    return path_join(self, "faults/shim.so");
}

static inline int fault_setup(void **state)
{
    FaultFixture *f = xcalloc(1, sizeof *f);
    *state = f;
    const char *program = getenv("CUDISTILL");
    f->program = xstrdup(program != NULL && program[0] != '\0' ? program : "build/cudistill");
    f->shim = shim_path();
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/check_faults_XXXXXX");
    if (access(f->program, X_OK) != 0 || !path_exists(f->shim) || !path_exists(FAULT_CONFIG) ||
        mkdtemp(f->dir) == NULL) {
        (void)fprintf(stderr,
                      "no program '%s', no '%s' or no " FAULT_CONFIG " here: build first, "
                      "and run from the tree's root\n",
                      f->program, f->shim);
        return -1;
    }
    f->reference = path_join(f->dir, "reference");
    char *count = path_join(f->dir, "count");
    const int code = fault_run(f, f->reference, &(FaultPlan){NULL, -1, count});
    long failed = 0;
    read_counts(count, &f->calls, &failed);
    free(count);
    char *left = check_left(f->reference);
    if (code != 0 || f->calls < 100 || failed != 0 || left != NULL) {
        (void)fprintf(stderr, "the undisturbed run: exit code %d, %ld calls, %s\n", code, f->calls,
                      left != NULL ? left : "");
        return -1;
    }
    free(left);
    return 0;
}

static inline int fault_teardown(void **state)
{
    FaultFixture *f = *state;
    Err *err = dir_remove(f->dir);
    free(f->reference);
    free(f->shim);
    free(f->program);
    free(f);
    return err != NULL;
}

#endif
