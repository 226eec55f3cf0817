/* Every switch of a run has the same weights on as off, bit for bit: the teacher's memo (cold, warm, resumed), the resident
 * training set, recorded steps, a constant loss scale. Each case runs on ref and cpu, or on the one backend that
 * $CUDISTILL_TEST_BACKEND names. And the dynamic loss scale of fp16: its falls and rises, its policy, its place in a checkpoint. */
#include "base/log.h"
#include "train_rig.h"

#include <jansson.h>
#include <math.h>

typedef struct {
    const char *device, *precision;
    const char *data, *batch; /* the last batch of an epoch is smaller */
    int steps;                /* of all 3 epochs */
    int tail;                 /* images of the last batch */
} Target;
#define TINY "data.options=classes=4,train=10,test=4", "train.batch=4", 9, 2
#define SMALL "data.options=classes=4,train=172,test=40", "train.batch=32", 18, 12
static const Target targets[] = {
    {"dist.device=ref", "train.precision=fp32", TINY},
    {"dist.device=cpu", "train.precision=fp32", SMALL},
    {"dist.device=cpu", "train.precision=auto", SMALL},
    {"dist.device=cuda", "train.precision=auto", TINY},
};
enum { TARGETS = sizeof targets / sizeof targets[0], REF = 0, CPU = 1, CUDA = 3 };

/* $CUDISTILL_TEST_BACKEND names the one backend to test; without it, ref and cpu. */
static bool absent(const Target *target)
{
    const char *wanted = getenv("CUDISTILL_TEST_BACKEND");
    const char *device = strchr(target->device, '=') + 1;
    return wanted && wanted[0] ? strcmp(wanted, device) != 0 : strcmp(device, "cuda") == 0;
}

static void skip_unless(const Target *target)
{
    if (absent(target)) {
        skip();
    }
}

/* A distillation on the target; `extra` overrides what is given here. */
static Err *distil_with(const Fixture *f, const Target *t, const char *name,
                        const char *const *extra, RunResult *result)
{
    const char *const base[] = {t->device,
                                t->precision,
                                t->data,
                                t->batch,
                                "schedule.epochs=3",
                                "distill.method=energy_kd",
                                "teacher.model=resnet8",
                                f->teacher,
                                "data.workers=0",
                                "eval.batch=16"};
    const char *overrides[MAX_OVERRIDES] = {NULL};
    int count = 0;
    for (size_t i = 0; i < sizeof base / sizeof base[0]; i++) {
        if (!replaced(base[i], extra)) {
            overrides[count++] = base[i];
        }
    }
    for (int i = 0; extra && extra[i]; i++) {
        overrides[count++] = extra[i];
    }
    return run_in(f, name, RESUME_AUTO, overrides, result);
}

static Err *distil(const Fixture *f, const Target *t, const char *name, const char *const *extra)
{
    return distil_with(f, t, name, extra, NULL);
}

static void assert_same(const Fixture *f, const char *a, const char *b)
{
    char first[33];
    char second[33];
    weights_hash(f, a, first);
    weights_hash(f, b, second);
    assert_string_equal(first, second);
}

/* Sum of a field over the events of one kind in a run's metrics.jsonl; *events = how many. */
static double sum_of_events(const Fixture *f, const char *name, const char *kind, const char *field,
                            int *events)
{
    char *path = xformat("%s/%s/metrics.jsonl", f->dir, name);
    char *text = NULL;
    assert_fine(file_read_text(path, 1 << 20, &text));
    double sum = 0;
    *events = 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        json_t *object = json_loads(line, 0, NULL);
        const char *event = json_string_value(json_object_get(object, "event"));
        if (event && strcmp(event, kind) == 0) {
            sum += json_number_value(json_object_get(object, field));
            (*events)++;
        }
        json_decref(object);
    }
    free(text);
    free(path);
    return sum;
}

static void remove_in(const Fixture *f, const char *name)
{
    char *path = path_join(f->dir, name);
    assert_fine(dir_remove(path));
    free(path);
}

/* ---- The memo ---- */

static void check_memo(const Fixture *f, const Target *t)
{
    static const char *const names[] = {"memo-off", "memo-cold", "memo-warm", "memo-parts"};
    assert_fine(distil(f, t, names[0], (const char *[]){"teacher.memo=off", NULL}));
    assert_fine(distil(f, t, names[1], (const char *[]){"teacher.memo=on", NULL}));
    assert_same(f, names[0], names[1]);
    int epochs;
    const double cold = sum_of_events(f, names[1], "memo", "computed", &epochs);
    assert_int_equal(epochs, 3);
    assert_true(cold > 0);
    /* The same run elsewhere: the teacher computes the last, smaller batches and nothing else. */
    assert_fine(distil(f, t, names[2], (const char *[]){"teacher.memo=on", NULL}));
    assert_same(f, names[0], names[2]);
    assert_true(sum_of_events(f, names[2], "memo", "computed", &epochs) == 3.0 * t->tail);
    assert_true(sum_of_events(f, names[2], "memo", "known", &epochs) >= cold - 3.0 * t->tail);
    /* In parts that end inside epochs, with and without the memo by turns. */
    remove_in(f, "memo");
    const char *const memo[] = {"teacher.memo=on", "teacher.memo=off", "teacher.memo=on"};
    const int stops[] = {t->steps / 3 - 1, t->steps / 3 + 1, 0};
    for (int i = 0; i < 3; i++) {
        char *stop = xformat("train.max_steps=%d", stops[i]);
        assert_fine(distil(f, t, names[3], (const char *[]){memo[i], stop, NULL}));
        free(stop);
    }
    assert_same(f, names[0], names[3]);
    /* A pass of another size: the same bits where logits do not depend on it, as by definition on ref. */
    if (t == &targets[REF]) {
        const char *const other[] = {"teacher.memo=on", "teacher.memo_batch=3", NULL};
        assert_fine(distil(f, t, "memo-3", other));
        assert_same(f, names[0], "memo-3");
        assert_true(sum_of_events(f, "memo-3", "memo", "computed", &epochs) > 0);
        remove_in(f, "memo-3");
    }
    for (int i = 0; i < 4; i++) {
        remove_in(f, names[i]);
    }
    remove_in(f, "memo");
}

static void the_memo_changes_nothing(void **state)
{
    for (int i = 0; i < TARGETS; i++) {
        if (!absent(&targets[i])) {
            check_memo(*state, &targets[i]);
        }
    }
}

/* Another seed sees other views, some of them known: a mixture gives the same bits too. A damaged memo costs time only. */
static void a_partly_known_epoch_is_completed(void **state)
{
    const Fixture *f = *state;
    const Target *t = &targets[CPU];
    skip_unless(t);
    const char *const few[] = {"teacher.memo=on", "run.seed=7", "augment.padding=1", NULL};
    const char *const off[] = {"teacher.memo=off", "run.seed=8", "augment.padding=1", NULL};
    const char *const mixed[] = {"teacher.memo=on", "run.seed=8", "augment.padding=1", NULL};
    assert_fine(distil(f, t, "seed7", few));
    assert_fine(distil(f, t, "seed8-off", off));
    assert_fine(distil(f, t, "seed8", mixed));
    assert_same(f, "seed8-off", "seed8");
    int epochs;
    assert_true(sum_of_events(f, "seed8", "memo", "known", &epochs) > 20.0);
    assert_true(sum_of_events(f, "seed8", "memo", "computed", &epochs) > 20.0 + 3.0 * t->tail);
    remove_in(f, "seed7");
    remove_in(f, "seed8");
    remove_in(f, "seed8-off");
    remove_in(f, "memo");
}

/* auto: on where views come up again, off where few do or all would not fit. */
static void auto_weighs_the_memo(void **state)
{
    const Fixture *f = *state;
    skip_unless(&targets[CPU]);
    static const struct {
        const char *padding, *flip, *mib;
        bool on;
    } cases[] = {{"augment.padding=0", "augment.flip=true", "teacher.memo_mib=16", true},
                 {"augment.padding=4", "augment.flip=true", "teacher.memo_mib=16", false},
                 {"augment.padding=0", "augment.flip=false", "teacher.memo_mib=1", true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const extra[] = {cases[i].padding, cases[i].flip, cases[i].mib, NULL};
        assert_fine(distil(f, &targets[CPU], "auto", extra));
        int epochs;
        (void)sum_of_events(f, "auto", "memo", "known", &epochs);
        assert_int_equal(epochs, cases[i].on ? 3 : 0);
        remove_in(f, "auto");
    }
    /* A folder that cannot be used: `on` says why, `auto` goes without. */
    const char *impossible[] = {"teacher.memo=on", "teacher.memo_dir=/dev/null/memo", NULL, NULL};
    assert_code(distil(f, &targets[CPU], "nowhere", impossible), EXIT_CANT_CREATE, "/dev/null");
    impossible[0] = "augment.padding=0";
    assert_fine(distil(f, &targets[CPU], "auto", impossible));
    remove_in(f, "auto");
    remove_in(f, "memo");
}

/* ---- The resident set ---- */

static void a_resident_set_changes_nothing(void **state)
{
    const Fixture *f = *state;
    for (int i = 0; i < TARGETS; i++) {
        const Target *t = &targets[i];
        if (absent(t)) {
            continue;
        }
        assert_fine(distil(f, t, "stream", (const char *[]){"data.resident=off", NULL}));
        RunResult result;
        assert_fine(
            distil_with(f, t, "resident", (const char *[]){"data.resident=on", NULL}, &result));
        assert_true(result.resident);
        assert_same(f, "stream", "resident");
        const char *const both[] = {"data.resident=on", "teacher.memo=on", NULL};
        assert_fine(distil(f, t, "both", both));
        assert_same(f, "stream", "both");
        const int stops[] = {t->steps / 3 - 1, t->steps / 3 + 1, 0};
        for (int k = 0; k < 3; k++) {
            char *stop = xformat("train.max_steps=%d", stops[k]);
            const char *const extra[] = {k == 1 ? "data.resident=off" : "data.resident=on", stop,
                                         NULL};
            assert_fine(distil(f, t, "parts", extra));
            free(stop);
        }
        assert_same(f, "stream", "parts");
        static const char *const names[] = {"stream", "resident", "both", "parts", "memo"};
        for (int k = 0; k < 5; k++) {
            remove_in(f, names[k]);
        }
    }
}

/* ---- Recorded steps ---- */

static void recording_changes_nothing(void **state)
{
    const Fixture *f = *state;
    const Target *t = &targets[CUDA];
    if (absent(t)) { /* hosts have nothing to record, and say so */
        assert_code(
            distil(f, &targets[CPU], "captured", (const char *[]){"train.capture=on", NULL}),
            EXIT_CONFIG_ERR, "train.capture");
        remove_in(f, "captured");
        return;
    }
    static const char *const resident[] = {"data.resident=on", "data.resident=off"};
    static const char *const memo[] = {"teacher.memo=on", "teacher.memo=off"};
    for (int i = 0; i < 2; i++) {
        RunResult result;
        const char *const off[] = {"train.capture=off", resident[i], "teacher.memo=off", NULL};
        assert_fine(distil_with(f, t, "plain", off, &result));
        assert_int_equal(result.recordings, 0);
        const char *const on[] = {"train.capture=on", resident[i], memo[i], NULL};
        assert_fine(distil_with(f, t, "captured", on, &result));
        assert_true(result.recordings >= 2); /* one for each flight */
        assert_same(f, "plain", "captured");
        remove_in(f, "plain");
        remove_in(f, "captured");
    }
    remove_in(f, "memo");
}

/* ---- The loss scale ---- */

/* A power of two changes exponents only, so that in fp32 nothing changes as long as nothing over- or underflows. */
static void a_constant_loss_scale_changes_nothing(void **state)
{
    const Fixture *f = *state;
    for (int i = 0; i < TARGETS; i++) {
        if (absent(&targets[i])) {
            continue;
        }
        const char *extra[] = {"train.precision=fp32", "optim.loss_scale=1", "train.max_steps=4",
                               "optim.clip_grad=0.5", NULL};
        assert_fine(distil(f, &targets[i], "unscaled", extra));
        extra[1] = "optim.loss_scale=1024";
        assert_fine(distil(f, &targets[i], "scaled", extra));
        assert_same(f, "unscaled", "scaled");
        extra[1] =
            "optim.loss_scale=1000"; /* no power of two: the scale does reach the arithmetic */
        assert_fine(distil(f, &targets[i], "odd", extra));
        char a[33];
        char b[33];
        weights_hash(f, "unscaled", a);
        weights_hash(f, "odd", b);
        assert_string_not_equal(a, b);
        remove_in(f, "unscaled");
        remove_in(f, "scaled");
        remove_in(f, "odd");
    }
    assert_code(distil(f, &targets[REF], "bad", (const char *[]){"optim.loss_scale=0.5", NULL}),
                EXIT_CONFIG_ERR, "optim.loss_scale");
    assert_code(distil(f, &targets[REF], "bad", (const char *[]){"optim.loss_scale=1x", NULL}),
                EXIT_CONFIG_ERR, "optim.loss_scale");
}

static json_t *newest_state(const Fixture *f, const char *name)
{
    char *path = xformat("%s/%s/checkpoints/latest/state.json", f->dir, name);
    char *text = NULL;
    assert_fine(file_read_text(path, 1 << 20, &text));
    json_t *object = json_loads(text, 0, NULL);
    assert_non_null(object);
    free(text);
    free(path);
    return object;
}

static double state_number(const Fixture *f, const char *name, const char *key)
{
    json_t *object = newest_state(f, name);
    const double value = json_number_value(json_object_get(object, key));
    json_decref(object);
    return value;
}

/* fp16 at 65536: too high a scale is halved, the update skipped, and good steps are counted; parts give the same bits. */
static void fp16_trains_with_a_dynamic_scale(void **state)
{
    const Fixture *f = *state;
    const char *extra[] = {"train.precision=fp16", "teacher.precision=fp32", "log.every_s=0", NULL,
                           NULL};
    for (int i = 0; i < TARGETS; i += CUDA - REF) {
        const Target *t = &targets[i];
        if (absent(t)) {
            continue;
        }
        assert_fine(distil(f, t, "fp16", extra));
        const double scale = state_number(f, "fp16", "loss_scale");
        const double skipped = state_number(f, "fp16", "nonfinite_total");
        const double good = state_number(f, "fp16", "loss_scale_good_steps");
        print_message("%s: scale %g, %g skipped, %g good steps in a row\n", t->device, scale,
                      skipped, good);
        assert_true(scale == 65536.0 * pow(0.5, skipped));
        assert_true(good <= t->steps - skipped && (skipped > 0 || good == t->steps));
        int lines;
        assert_true(sum_of_events(f, "fp16", "step", "loss_scale", &lines) >= scale * lines);
        assert_true(sum_of_events(f, "fp16", "epoch", "loss_scale", &lines) >= scale * lines);
        const char *const stops[] = {"train.max_steps=2", "train.max_steps=5", "train.max_steps=0"};
        for (int k = 0; k < 3; k++) {
            extra[3] = stops[k];
            assert_fine(distil(f, t, "parts", extra));
        }
        extra[3] = NULL;
        assert_same(f, "fp16", "parts");
        assert_true(state_number(f, "parts", "loss_scale") == scale);
        assert_true(state_number(f, "parts", "loss_scale_good_steps") == good);
        remove_in(f, "fp16");
        remove_in(f, "parts");
    }
}

/* A loss weight of 1e6 overflows fp16's 65504 until the scale has fallen: such skips are no errors. A run whose gradient
 * is never finite ends max_nonfinite steps after the scale has reached 1, 16 halvings below its start. */
static void only_skips_at_the_lowest_scale_are_errors(void **state)
{
    const Fixture *f = *state;
    const Target *t = &targets[REF];
    skip_unless(t);
    const char *falling[] = {"train.precision=fp16",  "teacher.precision=fp32",
                             "distill.ce_weight=3e4", "train.max_nonfinite=1",
                             "optim.lr=1e-6",         NULL};
    assert_fine(distil(f, t, "falling", falling));
    const double skipped = state_number(f, "falling", "nonfinite_total");
    assert_true(skipped >= 2);
    assert_true(state_number(f, "falling", "loss_scale") == 65536.0 * pow(0.5, skipped));
    assert_true(state_number(f, "falling", "nonfinite_streak") == 0);
    remove_in(f, "falling");
    const char *const hopeless[] = {
        "train.precision=fp16",  "teacher.precision=fp32", "optim.lr=1e6",
        "train.max_nonfinite=3", "optim.weight_decay=10",  "schedule.epochs=12",
        "checkpoint.every=1",    "eval.every=100",         NULL};
    assert_code(distil(f, t, "hopeless", hopeless), EXIT_NOT_FINITE, "3 updates in a row");
    /* The newest checkpoint is of the step before those that were errors. */
    assert_true(state_number(f, "hopeless", "loss_scale") == 2.0);
    assert_true(state_number(f, "hopeless", "nonfinite_total") >= 15.0);
    assert_true(state_number(f, "hopeless", "nonfinite_streak") == 0);
    remove_in(f, "hopeless");
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_memo_changes_nothing),
        cmocka_unit_test(a_partly_known_epoch_is_completed),
        cmocka_unit_test(auto_weighs_the_memo),
        cmocka_unit_test(a_resident_set_changes_nothing),
        cmocka_unit_test(recording_changes_nothing),
        cmocka_unit_test(a_constant_loss_scale_changes_nothing),
        cmocka_unit_test(fp16_trains_with_a_dynamic_scale),
        cmocka_unit_test(only_skips_at_the_lowest_scale_are_errors),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
