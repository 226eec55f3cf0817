/* Kill and resume, on the program itself: `cudistill train tests/configs/kill.ini` distils a small network with many
 * checkpoints; it is killed at times uniform over its run, as often as it takes, and started again with --resume auto.
 * In every trial the final weights and momentum must be those of the run that nobody disturbed, bit for bit, the
 * resumed step must be that of the newest checkpoint, and no more than one interval may be done twice. TERM, USR1 and
 * INT must leave a checkpoint of the very step they stopped at.
 *
 * With run.deterministic = true all trials begin from nothing. With false the backend times its choices, so that two
 * runs from nothing may differ, but the parts of one run may not: there all trials begin from one early checkpoint.
 *
 * The program is $CUDISTILL, else build/cudistill; run from the tree's root. */
#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "train/checkpoint.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* EVERY and EPOCHS as in kill.ini. */
enum { TRIALS = 50, MIN_KILLS_AFTER = 40, TIMED_TRIALS = 10, SIGNAL_TRIALS = 5 };
enum { EVERY = 5, EPOCHS = 3, MAX_LAUNCHES = 40 };
static const double LIMIT_S = 60.0;

static const char CONFIG[] = "tests/configs/kill.ini";
/* Columns of epochs.csv that are results and no times: epoch ... train_term1, eval_count. */
enum { RESULT_COLUMNS = 13 };

typedef struct {
    char dir[64]; /* removed at the end */
    char *program;
    char *teacher; /* "teacher.weights=..." */
    Rng rng;
} Fixture;

/* What the trials of a test have in common. */
typedef struct {
    const char *deterministic; /* "run.deterministic=..." */
    char *start;               /* folder that every trial begins as a copy of; NULL: from nothing */
    char *reference;           /* the run that nobody disturbed */
    double full_s;             /* its duration */
} Mode;

static void assert_ok(Err *err)
{
    if (err != NULL) {
        fail_msg("%s", err->message);
    }
}

/* ---- Processes ---- */

static void show_log(const char *path)
{
    char *text = NULL;
    if (file_read_text(path, 1 << 20, &text) == NULL) {
        (void)fprintf(stderr, "---- %s\n%s----\n", path, text);
    }
    free(text);
}

/* Starts `train` into `out`; its output goes to out.log. mode NULL: without a teacher. */
static pid_t launch(const Fixture *f, const Mode *mode, const char *out)
{
    char *set_out = xformat("run.out=%s", out);
    char *log = xformat("%s.log", out);
    const char *const plain[] = {f->program, "train", "--set", set_out, CONFIG, NULL};
    const char *const distil[] = {f->program, "train",
                                  "--resume", "auto",
                                  "--set",    set_out,
                                  "--set",    "teacher.model=resnet8",
                                  "--set",    f->teacher,
                                  "--set",    "distill.method=energy_kd",
                                  "--set",    mode != NULL ? mode->deterministic : "",
                                  CONFIG,     NULL};
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        /* Stopping this check stops what it started. */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        const int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        (void)dup2(fd, STDOUT_FILENO);
        (void)dup2(fd, STDERR_FILENO);
        /* exec wants its words without const and does not write to them. */
        (void)execv(f->program, (char *const *)(mode != NULL ? distil : plain));
        _exit(127);
    }
    free(log);
    free(set_out);
    return pid;
}

/* Waits until the process ends (true, with its status) or the time is over (false). */
static bool ended_within(pid_t pid, double seconds, int *status)
{
    const double end = now_s() + seconds;
    pid_t got = waitpid(pid, status, WNOHANG);
    while (got == 0 && now_s() < end) {
        (void)usleep(500);
        got = waitpid(pid, status, WNOHANG);
    }
    assert_true(got == 0 || got == pid);
    return got == pid;
}

static void assert_exit(const char *out, int status, int code)
{
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code) {
        char *log = xformat("%s.log", out);
        show_log(log);
        fail_msg("%s: status %#x, expected exit code %d", out, (unsigned)status, code);
    }
}

static void run_to_end(const Fixture *f, const Mode *mode, const char *out)
{
    const pid_t pid = launch(f, mode, out);
    int status = 0;
    if (!ended_within(pid, LIMIT_S, &status)) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, &status, 0);
        fail_msg("%s did not end within %.0f s", out, LIMIT_S);
    }
    assert_exit(out, status, 0);
}

/* ---- What a run has left ---- */

/* Newest checkpoint by name, which must be valid as it stands; -1 = none. Changes nothing, unlike checkpoint_newest. */
static long newest_checkpoint(const char *out)
{
    char *root = path_join(out, "checkpoints");
    char **names = NULL;
    size_t count = 0;
    long newest = -1;
    if (path_is_dir(root)) {
        assert_ok(dir_list(root, &names, &count));
    }
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], "step-", 5) == 0) {
            assert_null(strstr(names[i], "corrupt"));
            char *path = path_join(root, names[i]);
            assert_ok(checkpoint_verify(path));
            free(path);
            newest = strtol(names[i] + 5, NULL, 10);
        }
    }
    names_free(names, count);
    free(root);
    return newest;
}

/* What metrics.jsonl says. */
typedef struct {
    long last;       /* highest step of any line; -1 = none */
    long checkpoint; /* the last one recorded; -1 = none */
    long resume;     /* the last one; -1 = none */
    int resumes, epochs;
    bool in_order; /* checkpoints and epochs rise strictly: no step is there twice */
} Journal;

static void journal_line(const json_t *object, Journal *out)
{
    const char *event = json_string_value(json_object_get(object, "event"));
    const json_t *step_json = json_object_get(object, "step");
    if (event == NULL || step_json == NULL) {
        return;
    }
    const long step = (long)json_integer_value(step_json);
    out->last = step > out->last ? step : out->last;
    if (strcmp(event, "checkpoint") == 0) {
        out->in_order = out->in_order && step > out->checkpoint;
        out->checkpoint = step;
    } else if (strcmp(event, "resume") == 0) {
        out->resume = step;
        out->resumes++;
    } else if (strcmp(event, "epoch") == 0) {
        out->epochs++;
        out->in_order =
            out->in_order && json_integer_value(json_object_get(object, "epoch")) == out->epochs;
    }
}

/* A last line that a kill has torn is passed over. */
static Journal journal_read(const char *out)
{
    Journal journal = {.last = -1, .checkpoint = -1, .resume = -1, .in_order = true};
    char *path = path_join(out, "metrics.jsonl");
    char *text = NULL;
    if (path_exists(path)) {
        assert_ok(file_read_text(path, 1 << 20, &text));
    }
    char *rest = NULL;
    for (char *line = text != NULL ? strtok_r(text, "\n", &rest) : NULL; line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        json_t *object = json_loads(line, 0, NULL);
        journal_line(object, &journal);
        json_decref(object);
    }
    free(text);
    free(path);
    return journal;
}

static void assert_same_file(const char *a_dir, const char *b_dir, const char *name)
{
    char *a = path_join(a_dir, name);
    char *b = path_join(b_dir, name);
    FileMap left;
    FileMap right;
    assert_ok(file_map(a, &left));
    assert_ok(file_map(b, &right));
    if (left.size == 0 || left.size != right.size ||
        memcmp(left.data, right.data, left.size) != 0) {
        fail_msg("%s and %s differ", a, b);
    }
    file_unmap(&left);
    file_unmap(&right);
    free(b);
    free(a);
}

/* The columns of epochs.csv that are no times, all rows in one text. Caller frees. */
static char *epoch_results(const char *out)
{
    char *path = path_join(out, "epochs.csv");
    char *text = NULL;
    assert_ok(file_read_text(path, 1 << 20, &text));
    char *to = text;
    int column = 0;
    for (const char *from = text; *from != '\0'; from++) {
        column = *from == '\n' ? 0 : column + (*from == ',' ? 1 : 0);
        if (column < RESULT_COLUMNS) {
            *to++ = *from;
        }
    }
    *to = '\0';
    free(path);
    return text;
}

/* Weights, momentum and the epochs' results are those of the undisturbed run, and every record is there once. */
static void assert_same_run(const char *reference, const char *out)
{
    assert_same_file(reference, out, "student_last.safetensors");
    assert_same_file(reference, out, "student_best.safetensors");
    assert_same_file(reference, out, "checkpoints/latest/model.safetensors");
    assert_same_file(reference, out, "checkpoints/latest/momentum.safetensors");
    char *expected = epoch_results(reference);
    char *found = epoch_results(out);
    assert_string_equal(found, expected);
    free(found);
    free(expected);
    const Journal journal = journal_read(out);
    assert_true(journal.in_order);
    assert_int_equal(journal.epochs, EPOCHS);
}

/* ---- Kills ---- */

typedef struct {
    int kills, after_checkpoint, resumed;
    long most_redone;
} Totals;

/* After a kill: what is on the disk, and how much of the journal is to be done again. */
static long assess_kill(const char *out, Totals *totals)
{
    const long newest = newest_checkpoint(out);
    const Journal journal = journal_read(out);
    if (newest < journal.checkpoint) {
        fail_msg("%s: newest checkpoint %ld, and %ld was recorded", out, newest,
                 journal.checkpoint);
    }
    const long redone = journal.last - (newest > 0 ? newest : 0);
    if (redone > EVERY) {
        fail_msg(
            "%s: step %ld was recorded, the newest checkpoint is %ld: more than %d steps are lost",
            out, journal.last, newest, (int)EVERY);
    }
    totals->kills++;
    totals->after_checkpoint += newest >= 0 ? 1 : 0;
    totals->most_redone = redone > totals->most_redone ? redone : totals->most_redone;
    return newest;
}

/* A launch that came as far as its log must have resumed where the newest checkpoint was. */
static void assess_resume(const char *out, long expected, const Journal *before, bool completed,
                          Totals *totals)
{
    const Journal now = journal_read(out);
    if (expected < 0) {
        assert_int_equal(now.resumes, 0);
        return;
    }
    const bool came_so_far = now.resumes > before->resumes;
    assert_true(came_so_far || !completed);
    if (came_so_far) {
        assert_int_equal(now.resume, expected);
        totals->resumed++;
    }
}

/* Kills at random times until a launch is left to end by itself. Returns the number of kills. */
static int kill_trial(Fixture *f, const Mode *mode, const char *out, Totals *totals)
{
    long newest = newest_checkpoint(out);
    for (int kills = 0; kills < MAX_LAUNCHES; kills++) {
        const Journal before = journal_read(out);
        const pid_t pid = launch(f, mode, out);
        int status = 0;
        const bool completed =
            ended_within(pid, mode->full_s * (double)rng_uniform(&f->rng), &status);
        if (!completed) {
            assert_int_equal(kill(pid, SIGKILL), 0);
            assert_int_equal(waitpid(pid, &status, 0), pid);
        }
        /* It may have ended between the last look and the kill. */
        const bool by_itself = completed || WIFEXITED(status);
        assess_resume(out, newest, &before, by_itself, totals);
        if (by_itself) {
            assert_exit(out, status, 0);
            return kills;
        }
        newest = assess_kill(out, totals);
    }
    fail_msg("%s was killed %d times and never came to its end", out, (int)MAX_LAUNCHES);
    return -1;
}

static void copy_folder(const char *from, const char *to)
{
    char *command = xformat("cp -a '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
    free(command);
}

/* A trial's folder, as trials of this mode begin. Caller frees. */
static char *place_for(const Fixture *f, const Mode *mode, const char *name, int number)
{
    char *out = xformat("%s/%s-%d", f->dir, name, number);
    if (mode->start != NULL) {
        copy_folder(mode->start, out);
    }
    return out;
}

/* The undisturbed run. */
static void mode_open(const Fixture *f, Mode *mode)
{
    mode->reference = place_for(f, mode, "reference", 0);
    const double begin = now_s();
    run_to_end(f, mode, mode->reference);
    mode->full_s = now_s() - begin;
}

static void mode_close(Mode *mode)
{
    assert_ok(dir_remove(mode->reference));
    free(mode->reference);
    free(mode->start);
}

static Totals kill_trials(Fixture *f, const Mode *mode, int wanted)
{
    Totals totals = {0};
    const double begin = now_s();
    int trials = 0;
    for (int i = 0; trials < wanted; i++) {
        assert_true(i < 4 * wanted);
        char *out = place_for(f, mode, "kill", i);
        const int kills = kill_trial(f, mode, out, &totals);
        assert_same_run(mode->reference, out);
        trials += kills > 0 ? 1 : 0;
        assert_ok(dir_remove(out));
        free(out);
    }
    print_message("kill -9, %s: %d of %d trials bit-identical; %d kills, %d after a checkpoint; %d "
                  "resumes; at most "
                  "%ld steps redone (interval %d); undisturbed run %.2f s, all %.0f s\n",
                  mode->deterministic, trials, wanted, totals.kills, totals.after_checkpoint,
                  totals.resumed, totals.most_redone, (int)EVERY, mode->full_s, now_s() - begin);
    return totals;
}

static void test_kill(void **state)
{
    Fixture *f = *state;
    Mode mode = {.deterministic = "run.deterministic=true"};
    mode_open(f, &mode);
    const Totals totals = kill_trials(f, &mode, TRIALS);
    assert_in_range(totals.after_checkpoint, MIN_KILLS_AFTER, totals.kills);
    mode_close(&mode);
}

/* ---- Signals ---- */

/* Waits until training begins, which the line with the loss says. Before the handlers stand a signal is an
 * ordinary death; before step 1 there is nothing to save. */
static bool training_began(const char *log)
{
    char *text = NULL;
    err_free(file_read_text(log, 1 << 20, &text));
    const bool began = text && strstr(text, "loss = ");
    free(text);
    return began;
}

static bool wait_for_start(const char *out, pid_t pid, int *status)
{
    char *path = xformat("%s.log", out);
    bool ended = false;
    const double end = now_s() + LIMIT_S;
    while (!training_began(path) && !ended && now_s() < end) {
        ended = ended_within(pid, 0.001, status);
    }
    free(path);
    return !ended;
}

static void assert_stopped_at(const char *out, long step)
{
    char *path = xformat("%s.log", out);
    char *expected = xformat("at step %ld: checkpoint written", step);
    char *text = NULL;
    assert_ok(file_read_text(path, 1 << 20, &text));
    if (strstr(text, expected) == NULL) {
        fail_msg("the newest checkpoint is %ld, and the program says: %s", step, text);
    }
    free(text);
    free(expected);
    free(path);
}

typedef struct {
    int number, code;
    const char *name;
} SignalCase;

/* false: the run was over before the signal came. */
static bool signal_trial(Fixture *f, const Mode *mode, const char *out, const SignalCase *one,
                         double *slowest_s)
{
    const pid_t pid = launch(f, mode, out);
    int status = 0;
    if (!wait_for_start(out, pid, &status) ||
        ended_within(pid, 0.8 * mode->full_s * (double)rng_uniform(&f->rng), &status)) {
        assert_exit(out, status, 0);
        return false;
    }
    const double begin = now_s();
    assert_int_equal(kill(pid, one->number), 0);
    if (!ended_within(pid, 30.0, &status)) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, &status, 0);
        fail_msg("%s: no end within 30 s", one->name);
    }
    *slowest_s = now_s() - begin > *slowest_s ? now_s() - begin : *slowest_s;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return false;
    }
    assert_exit(out, status, one->code);
    const long newest = newest_checkpoint(out);
    assert_stopped_at(out, newest);
    assert_true(journal_read(out).last <= newest);
    run_to_end(f, mode, out);
    assert_int_equal(journal_read(out).resume, newest);
    assert_same_run(mode->reference, out);
    return true;
}

static void test_signals(void **state)
{
    Fixture *f = *state;
    static const SignalCase cases[] = {{SIGTERM, EXIT_PREEMPTED, "SIGTERM"},
                                       {SIGUSR1, EXIT_PREEMPTED, "SIGUSR1"},
                                       {SIGINT, EXIT_INTERRUPTED, "SIGINT"}};
    Mode mode = {.deterministic = "run.deterministic=true"};
    mode_open(f, &mode);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        double slowest_s = 0;
        int trials = 0;
        for (int i = 0; trials < SIGNAL_TRIALS; i++) {
            assert_true(i < 6 * SIGNAL_TRIALS);
            char *out = place_for(f, &mode, cases[c].name, i);
            trials += signal_trial(f, &mode, out, &cases[c], &slowest_s) ? 1 : 0;
            assert_ok(dir_remove(out));
            free(out);
        }
        print_message("%s: %d of %d trials left with %d and a checkpoint, and resumed "
                      "bit-identical; slowest %.2f s\n",
                      cases[c].name, trials, SIGNAL_TRIALS, cases[c].code, slowest_s);
    }
    mode_close(&mode);
}

/* ---- Timed choices ---- */

/* Stops a run as soon as it trains, which leaves an early checkpoint. */
static char *make_start(Fixture *f, const Mode *mode)
{
    char *out = xformat("%s/start", f->dir);
    const pid_t pid = launch(f, mode, out);
    int status = 0;
    assert_true(wait_for_start(out, pid, &status));
    assert_int_equal(kill(pid, SIGUSR1), 0);
    assert_true(ended_within(pid, LIMIT_S, &status));
    assert_exit(out, status, EXIT_PREEMPTED);
    const long step = newest_checkpoint(out);
    assert_in_range(step, 0, EVERY);
    return out;
}

static void test_kill_with_timed_choices(void **state)
{
    Fixture *f = *state;
    Mode mode = {.deterministic = "run.deterministic=false"};
    mode.start = make_start(f, &mode);
    mode_open(f, &mode);
    (void)kill_trials(f, &mode, TIMED_TRIALS);
    mode_close(&mode);
}

/* ---- Fixture ---- */

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    const char *program = getenv("CUDISTILL");
    f->program = xstrdup(program != NULL && program[0] != '\0' ? program : "build/cudistill");
    if (access(f->program, X_OK) != 0 || !path_exists(CONFIG)) {
        (void)fprintf(stderr,
                      "no program '%s', or no %s here: build first, and run from the tree's root\n",
                      f->program, CONFIG);
        return -1;
    }
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/check_kill_XXXXXX");
    if (mkdtemp(f->dir) == NULL) {
        return -1;
    }
    const uint64_t seed = (uint64_t)time(NULL);
    (void)printf("seed of the kill times: %llu\n", (unsigned long long)seed);
    f->rng = rng_make(seed, 0, 0, RNG_TEST);
    char *teacher = path_join(f->dir, "teacher");
    run_to_end(f, NULL, teacher);
    f->teacher = xformat("teacher.weights=%s/student_last.safetensors", teacher);
    free(teacher);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;
    assert_ok(dir_remove(f->dir));
    free(f->teacher);
    free(f->program);
    free(f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_kill_with_timed_choices),
    };
    return cmocka_run_group_tests_name("kill and resume", tests, setup, teardown);
}
