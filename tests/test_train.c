/* Whole runs on a small drawn data set: resume gives the same bits, in the middle of an epoch too; what must not change
 * between the parts of a run is refused; the teacher's check, the energy scan and the policy on non-finite gradients. */
#include "base/files.h"
#include "io/weights.h"
#include "train/checkpoint.h"
#include "train/train.h"
#include "train_rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* 20 steps at once = 7 steps, resume (in the middle of an epoch), 6 more, resume (second epoch), the rest. */
static void resume_is_exact(void **state)
{
    const Fixture *f = *state;
    const char *method[] = {"distill.method=energy_kd", "teacher.model=resnet8", f->teacher, NULL,
                            NULL};
    RunResult whole;
    assert_fine(run_in(f, "whole", RESUME_AUTO, method, &whole));
    assert_int_equal(whole.steps, 20);
    const char *const stops[] = {"train.max_steps=7", "train.max_steps=13", "train.max_steps=0"};
    RunResult parts;
    for (int i = 0; i < 3; i++) {
        method[3] = stops[i];
        assert_fine(run_in(f, "parts", i == 0 ? RESUME_AUTO : RESUME_MUST, method, &parts));
    }
    char a[33];
    char b[33];
    weights_hash(f, "whole", a);
    weights_hash(f, "parts", b);
    assert_string_equal(a, b);
    assert_int_equal(parts.steps, 20);
    assert_float_equal(whole.last_top1, parts.last_top1, 0.0);
    /* Another seed gives other weights: the comparison can fail. */
    method[3] = "run.seed=2";
    assert_fine(run_in(f, "other", RESUME_AUTO, method, NULL));
    weights_hash(f, "other", b);
    assert_string_not_equal(a, b);
}

static void a_finished_run_is_not_repeated(void **state)
{
    const Fixture *f = *state;
    RunResult first;
    RunResult again;
    assert_fine(run_in(f, "twice", RESUME_AUTO, NULL, &first));
    assert_fine(run_in(f, "twice", RESUME_AUTO, NULL, &again));
    assert_int_equal(first.steps, again.steps);
    assert_float_equal(first.last_top1, again.last_top1, 0.0);
    assert_float_equal(first.train_seconds, again.train_seconds, 0.0);
}

static void drift_is_refused(void **state)
{
    const Fixture *f = *state;
    assert_fine(run_in(f, "drift", RESUME_AUTO, (const char *[]){"train.max_steps=3", NULL}, NULL));
    assert_code(run_in(f, "drift", RESUME_AUTO, (const char *[]){"run.seed=9", NULL}, NULL),
                EXIT_CONFIG_ERR, "run.seed");
    assert_code(
        run_in(f, "drift", RESUME_AUTO, (const char *[]){"student.model=resnet14", NULL}, NULL),
        EXIT_CONFIG_ERR, "student.model");
    assert_code(run_in(f, "drift", RESUME_AUTO,
                       (const char *[]){"data.options=classes=4,train=301,test=120", NULL}, NULL),
                EXIT_CONFIG_ERR, "data");
    assert_code(run_in(f, "drift", RESUME_NEVER, NULL, NULL), EXIT_CANT_CREATE, "--resume never");
    assert_code(run_in(f, "nothing-here", RESUME_MUST, NULL, NULL), EXIT_NO_INPUT, "no checkpoint");
}

/* Text of the newest checkpoint's state.json; caller frees. */
static void newest_state(const Fixture *f, const char *name, char **text)
{
    char *path = xformat("%s/%s/checkpoints/latest/state.json", f->dir, name);
    assert_fine(file_read_text(path, 1 << 20, text));
    free(path);
}

/* Every setting that decides the result counts, in whatever spelling; others may change. */
static void drift_of_any_setting_is_refused(void **state)
{
    const Fixture *f = *state;
    assert_fine(run_in(f, "keys", RESUME_AUTO, (const char *[]){"train.max_steps=2", NULL}, NULL));
    static const char *const changes[][2] = {{"optim.lr=0.07", "optim.lr = '0.05'"},
                                             {"augment.flip=false", "augment.flip = 'true'"},
                                             {"train.precision=fp32", "train.precision = 'auto'"},
                                             {"schedule.epochs=3", "schedule.epochs = '2'"},
                                             {"augment.mean=0.5, 0.5, 0.5", "augment.mean"}};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        const char *const extra[] = {changes[i][0], NULL};
        assert_code(run_in(f, "keys", RESUME_AUTO, extra, NULL), EXIT_CONFIG_ERR, changes[i][1]);
    }
    char *path = xformat("%s/keys/config.ini", f->dir);
    char *text = NULL;
    assert_fine(file_read_text(path, 1 << 20, &text));
    assert_null(strstr(text, "0.07")); /* a refused run leaves the folder as it was */
    const char *const same[] = {"optim.lr=5e-2", "train.max_steps=3", "eval.batch=40",
                                "checkpoint.keep_last=2", NULL};
    assert_fine(run_in(f, "keys", RESUME_MUST, same, NULL));
    free(text);
    free(path);
}

/* The same configuration may mean another type elsewhere: bf16 here, fp32 on the reference backend. */
static void another_type_of_activations_is_refused(void **state)
{
    const Fixture *f = *state;
    assert_fine(run_in(f, "type", RESUME_AUTO, (const char *[]){"train.max_steps=1", NULL}, NULL));
    char *text = NULL;
    newest_state(f, "type", &text);
    const bool fp32 = strstr(text, "\"student_act\": \"f32\"") != NULL;
    free(text);
    if (fp32) {
        print_message("skipped: this processor has no fast bf16\n");
        return;
    }
    assert_code(run_in(f, "type", RESUME_MUST, (const char *[]){"dist.device=ref", NULL}, NULL),
                EXIT_CONFIG_ERR, "train.precision");
}

static void a_loss_that_is_not_finite_survives_a_checkpoint(void **state)
{
    const Fixture *f = *state;
    const char *wild[] = {"optim.lr=1e6",
                          "optim.weight_decay=0",
                          "schedule.kind=constant",
                          "train.max_nonfinite=1000",
                          "train.precision=fp32",
                          "train.max_steps=3",
                          NULL};
    assert_fine(run_in(f, "nan", RESUME_AUTO, wild, NULL));
    char *text = NULL;
    newest_state(f, "nan", &text);
    assert_non_null(strstr(text, "\"last_loss\": null"));
    assert_non_null(strstr(text, "\"train_images\""));
    free(text);
    wild[5] = "train.max_steps=5";
    RunResult result;
    assert_fine(run_in(f, "nan", RESUME_MUST, wild, &result));
    assert_int_equal(result.steps, 5);
}

static int threads_of(const Fixture *f, const char *name)
{
    char *text = NULL;
    newest_state(f, name, &text);
    const char *at = strstr(text, "\"threads\": ");
    assert_non_null(at);
    const int threads = atoi(at + strlen("\"threads\": "));
    free(text);
    return threads;
}

/* A count that was given is obeyed; the automatic one follows the checkpoint. */
static void given_threads_are_obeyed(void **state)
{
    const Fixture *f = *state;
    const char *extra[] = {"train.max_steps=1", "dist.threads=2", NULL};
    assert_fine(run_in(f, "threads", RESUME_AUTO, extra, NULL));
    assert_int_equal(threads_of(f, "threads"), 2);
    extra[0] = "train.max_steps=2";
    extra[1] = "dist.threads=3";
    assert_fine(run_in(f, "threads", RESUME_MUST, extra, NULL));
    assert_int_equal(threads_of(f, "threads"), 3);
    extra[0] = "train.max_steps=3";
    extra[1] = "dist.threads=0";
    assert_fine(run_in(f, "threads", RESUME_MUST, extra, NULL));
    assert_int_equal(threads_of(f, "threads"), 3);
}

static Err *write_bare_state(void *context, const char *dir)
{
    const char *text = context;
    char *path = path_join(dir, "state.json");
    Err *err = file_write_atomic(path, text, strlen(text));
    free(path);
    return err;
}

static void an_incomplete_state_is_refused(void **state)
{
    const Fixture *f = *state;
    char *root = xformat("%s/bare/checkpoints", f->dir);
    char text[] = "{\"format\": 4, \"step\": 4}";
    assert_fine(checkpoint_save(root, 4, 0, 1, write_bare_state, text));
    assert_code(run_in(f, "bare", RESUME_AUTO, NULL, NULL), EXIT_BAD_DATA, "'epoch' is missing");
    free(root);
}

/* An earlier start that came to no checkpoint is nothing to be protected. */
static void an_empty_folder_may_be_begun(void **state)
{
    const Fixture *f = *state;
    char *root = xformat("%s/empty/checkpoints", f->dir);
    assert_fine(dir_make(root));
    assert_fine(
        run_in(f, "empty", RESUME_NEVER, (const char *[]){"train.max_steps=1", NULL}, NULL));
    free(root);
}

static void the_teacher_is_checked(void **state)
{
    const Fixture *f = *state;
    const char *const wrong[] = {"distill.method=kd", "teacher.model=resnet8", f->teacher,
                                 "teacher.expect_top1=99.9", NULL};
    assert_code(run_in(f, "teacher-check", RESUME_AUTO, wrong, NULL), EXIT_TEACHER,
                "expected 99.90");
    const char *const other[] = {"distill.method=kd", "teacher.model=resnet14", f->teacher, NULL};
    assert_code(run_in(f, "teacher-model", RESUME_AUTO, other, NULL), EXIT_BAD_DATA, "resnet8");
    char *made = path_join(f->dir, "teacher-model");
    assert_false(path_exists(made)); /* nothing is created before the input is right */
    free(made);
}

/* Both pairings are configuration, and they are different losses. */
static void pairings_differ(void **state)
{
    const Fixture *f = *state;
    const char *paper[] = {"distill.method=energy_kd",
                           "teacher.model=resnet8",
                           f->teacher,
                           "energy_kd.t_low_energy=6",
                           "energy_kd.t_high_energy=2",
                           "train.max_steps=3",
                           NULL};
    assert_fine(run_in(f, "paper", RESUME_AUTO, paper, NULL));
    paper[3] = "energy_kd.t_low_energy=2";
    paper[4] = "energy_kd.t_high_energy=6";
    assert_fine(run_in(f, "code", RESUME_AUTO, paper, NULL));
    paper[3] = "energy_kd.t_low_energy=4";
    paper[4] = "energy_kd.t_high_energy=4";
    assert_fine(run_in(f, "all4", RESUME_AUTO, paper, NULL));
    const char *const plain[] = {"distill.method=kd", "teacher.model=resnet8", f->teacher,
                                 "train.max_steps=3", NULL};
    assert_fine(run_in(f, "kd", RESUME_AUTO, plain, NULL));
    char hash[4][33];
    const char *const names[] = {"paper", "code", "all4", "kd"};
    for (int i = 0; i < 4; i++) {
        weights_hash(f, names[i], hash[i]);
    }
    assert_string_not_equal(hash[0], hash[1]);
    assert_string_not_equal(hash[0], hash[2]);
    assert_string_equal(hash[2],
                        hash[3]); /* one temperature for all bands is plain KD, bit for bit */
}

static void a_gradient_that_is_not_finite_stops_the_run(void **state)
{
    const Fixture *f = *state;
    const char *const wild[] = {"optim.lr=1e6",          "optim.weight_decay=1e6",
                                "train.max_nonfinite=4", "schedule.kind=constant",
                                "train.precision=fp32",  NULL};
    assert_code(run_in(f, "wild", RESUME_AUTO, wild, NULL), EXIT_NOT_FINITE, "4 updates in a row");
}

static void clipping_changes_the_run(void **state)
{
    const Fixture *f = *state;
    const char *clip[] = {"optim.clip_grad=0.01", "train.max_steps=3", NULL};
    assert_fine(run_in(f, "clipped", RESUME_AUTO, clip, NULL));
    clip[0] = "optim.clip_grad=1e9";
    assert_fine(run_in(f, "loose", RESUME_AUTO, clip, NULL));
    clip[0] = "optim.clip_grad=0";
    assert_fine(run_in(f, "free", RESUME_AUTO, clip, NULL));
    char hash[3][33];
    weights_hash(f, "clipped", hash[0]);
    weights_hash(f, "loose", hash[1]);
    weights_hash(f, "free", hash[2]);
    assert_string_not_equal(hash[0], hash[2]);
    assert_string_equal(hash[1], hash[2]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resume_is_exact),
        cmocka_unit_test(a_finished_run_is_not_repeated),
        cmocka_unit_test(drift_is_refused),
        cmocka_unit_test(drift_of_any_setting_is_refused),
        cmocka_unit_test(another_type_of_activations_is_refused),
        cmocka_unit_test(a_loss_that_is_not_finite_survives_a_checkpoint),
        cmocka_unit_test(given_threads_are_obeyed),
        cmocka_unit_test(an_incomplete_state_is_refused),
        cmocka_unit_test(an_empty_folder_may_be_begun),
        cmocka_unit_test(the_teacher_is_checked),
        cmocka_unit_test(pairings_differ),
        cmocka_unit_test(a_gradient_that_is_not_finite_stops_the_run),
        cmocka_unit_test(clipping_changes_the_run),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
