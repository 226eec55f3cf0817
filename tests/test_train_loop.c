/* What the loop does beside training: clocked steps, the time limit, what is left of a run that gives up, the limit on the
 * gradient's norm, and how much a run writes. */
#include "base/log.h"
#include "base/rng.h"
#include "train/nonfinite.h"
#include "train/norm_limit.h"
#include "train/phases.h"
#include "train/prepare.h"
#include "train/result.h"
#include "train/step.h"
#include "train_rig.h"

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const devices[] = {"dist.device=ref", "dist.device=cpu", "dist.device=cuda"};
enum { REF, CPU, CUDA, DEVICES };
/* The reference loops and the emulated device are slow: their sets are small. */
static const char *const sizes[] = {"data.options=classes=4,train=10,test=4",
                                    "data.options=classes=4,train=172,test=40",
                                    "data.options=classes=4,train=10,test=4"};
static const char *const batches[] = {"train.batch=4", "train.batch=32", "train.batch=4"};

/* $CUDISTILL_TEST_BACKEND names the one backend to test; without it, ref and cpu. */
static bool absent(int device)
{
    const char *wanted = getenv("CUDISTILL_TEST_BACKEND");
    const char *name = strchr(devices[device], '=') + 1;
    return wanted && wanted[0] ? strcmp(wanted, name) != 0 : device == CUDA;
}

static char *read_in(const Fixture *f, const char *run, const char *file)
{
    char *path = xformat("%s/%s/%s", f->dir, run, file);
    char *text = NULL;
    assert_fine(file_read_text(path, 4 << 20, &text));
    free(path);
    return text;
}

static long size_in(const Fixture *f, const char *run, const char *file)
{
    char *path = xformat("%s/%s/%s", f->dir, run, file);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    free(path);
    return (long)info.st_size;
}

/* The objects of one kind of event, as an array. */
static json_t *events_of(const Fixture *f, const char *run, const char *kind)
{
    char *text = read_in(f, run, "metrics.jsonl");
    json_t *events = json_array();
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_t *object = json_loads(line, 0, NULL);
        const char *event = json_string_value(json_object_get(object, "event"));
        if (event && strcmp(event, kind) == 0) {
            assert_int_equal(json_array_append(events, object), 0);
        }
        json_decref(object);
    }
    free(text);
    return events;
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) {
        fail_msg("'%s' is no number", key);
    }
    return json_number_value(value);
}

static void assert_same(const Fixture *f, const char *a, const char *b, bool same)
{
    char first[33];
    char second[33];
    weights_hash(f, a, first);
    weights_hash(f, b, second);
    assert_int_equal(strcmp(first, second) == 0, same);
}

static void remove_run(const Fixture *f, const char *name)
{
    char *path = path_join(f->dir, name);
    assert_fine(dir_remove(path));
    free(path);
}

/* ---- Clocked steps ---- */

/* log.every_s = 0 clocks every step but the first, 1000 the third alone. */
static void clocked_steps_have_the_same_bits(void **state)
{
    const Fixture *f = *state;
    for (int d = 0; d < DEVICES; d++) {
        if (absent(d)) {
            continue;
        }
        const char *extra[] = {devices[d],          sizes[d],           batches[d],
                               "distill.method=kd", f->teacher,         "teacher.model=resnet8",
                               "data.workers=0",    "log.every_s=1000", NULL};
        assert_fine(run_in(f, "few", RESUME_AUTO, extra, NULL));
        extra[7] = "log.every_s=0";
        assert_fine(run_in(f, "all", RESUME_AUTO, extra, NULL));
        assert_same(f, "few", "all", true);
        remove_run(f, "few");
        remove_run(f, "all");
    }
}

static void assert_shares(const json_t *line, bool teacher)
{
    static const char *const keys[] = {"phase_data", "phase_teacher", "phase_student",
                                       "phase_update"};
    double sum = 0.0;
    for (int i = 0; i < 4; i++) {
        const double share = number_of(line, keys[i]);
        assert_true(share >= 0.0);
        sum += share;
    }
    assert_true(fabs(sum - 1.0) < 1e-6);
    assert_int_equal(number_of(line, "phase_teacher") > 0.0, teacher);
    assert_true(number_of(line, "phase_student") > number_of(line, "phase_update"));
}

static void shares_are_recorded(void **state)
{
    const Fixture *f = *state;
    const char *extra[] = {"log.every_s=0", "data.workers=0", NULL, NULL, NULL, NULL};
    for (int teacher = 0; teacher < 2; teacher++) {
        if (teacher) {
            extra[2] = "distill.method=kd";
            extra[3] = f->teacher;
            extra[4] = "teacher.model=resnet8";
        }
        assert_fine(run_in(f, "shares", RESUME_AUTO, extra, NULL));
        json_t *epochs = events_of(f, "shares", "epoch");
        assert_int_equal(json_array_size(epochs), 2);
        assert_shares(json_array_get(epochs, 0), teacher);
        assert_shares(json_array_get(epochs, 1), teacher);
        json_t *steps = events_of(f, "shares", "step");
        assert_int_equal(json_array_size(steps),
                         18); /* the first of an epoch is not accounted for when it is submitted */
        assert_shares(json_array_get(steps, 9), teacher);
        print_message("%s: data %.3f teacher %.3f student %.3f update %.3f\n",
                      teacher ? "distilled" : "alone",
                      number_of(json_array_get(epochs, 1), "phase_data"),
                      number_of(json_array_get(epochs, 1), "phase_teacher"),
                      number_of(json_array_get(epochs, 1), "phase_student"),
                      number_of(json_array_get(epochs, 1), "phase_update"));
        json_decref(steps);
        json_decref(epochs);
        remove_run(f, "shares");
    }
}

/* Steps of resnet20, every other one clocked. One step is clocked in 10 seconds at the most (the first progress line comes
 * after so long), so what it takes more is a share of these. The fastest of each kind are compared: others ran beside
 * something else. */
static void clocked_steps_cost_little(void **state)
{
    const Fixture *f = *state;
    char *out = xformat("run.out=%s/cost", f->dir);
    const char *const overrides[] = {
        "dist.device=cpu",        out,
        "data.kind=synthetic",    "data.options=classes=4,train=640,test=8",
        "student.model=resnet20", "train.batch=32",
        "data.workers=0",         "eval.batch=8",
        "dist.threads=2"};
    Settings settings;
    assert_fine(settings_load(NULL, overrides, sizeof overrides / sizeof overrides[0], &settings));
    Run run;
    assert_fine(run_open(&settings, RESUME_AUTO, &run));
    assert_fine(run_prepare(&run));
    double fastest[2] = {INFINITY, INFINITY};
    for (int step = 0; step < 20; step++) {
        const bool clocked = step % 2 == 0;
        const Batch *batch = feed_next(run.feed);
        if (clocked) {
            phases_ask(run.clock);
        }
        const double begin = now_s();
        step_submit(&run, batch);
        assert_fine(step_land_all(&run));
        const double seconds = now_s() - begin;
        fastest[clocked] = step > 3 ? fmin(fastest[clocked], seconds) : INFINITY;
    }
    run_close(&run);
    settings_free(&settings);
    const double share = fmax(0.0, fastest[1] - fastest[0]) / 10.0;
    print_message(
        "resnet20, batch 32: a step %.2f ms, clocked %.2f ms: at most %.4f %% of the time\n",
        1e3 * fastest[0], 1e3 * fastest[1], 100.0 * share);
    assert_true(share < 0.005);
    free(out);
    remove_run(f, "cost");
}

/* ---- The time limit ---- */

/* A limit that is too short for anything leaves after each step, and the parts make the same run. */
static void the_time_limit_leaves_a_checkpoint(void **state)
{
    const Fixture *f = *state;
    const char *extra[] = {"schedule.epochs=1", "train.time_limit=0.01s", NULL};
    for (int part = 1; part <= 3; part++) {
        assert_code(run_in(f, "limited", RESUME_AUTO, extra, NULL), EXIT_PREEMPTED,
                    "train.time_limit");
        char *text = read_in(f, "limited", "checkpoints/latest/state.json");
        json_t *object = json_loads(text, 0, NULL);
        assert_true(number_of(object, "step") == part);
        json_decref(object);
        free(text);
    }
    extra[1] = NULL;
    assert_fine(run_in(f, "limited", RESUME_AUTO, extra, NULL));
    assert_fine(run_in(f, "unlimited", RESUME_AUTO, extra, NULL));
    assert_same(f, "limited", "unlimited", true);
    char *log = read_in(f, "limited", "log.txt");
    assert_non_null(strstr(log, "error: stopped by train.time_limit (0.01 s) at step 1"));
    free(log);
    remove_run(f, "limited");
    remove_run(f, "unlimited");
}

/* A limit with room for it is used, but for what leaving takes, and kept. */
static void the_time_limit_is_kept(void **state)
{
    const Fixture *f = *state;
    const char *const extra[] = {"schedule.epochs=100000", "train.time_limit=6s",
                                 "checkpoint.every=5", "eval.every=100000", NULL};
    const double begin = now_s();
    assert_code(run_in(f, "hurried", RESUME_AUTO, extra, NULL), EXIT_PREEMPTED, "time_limit");
    const double seconds = now_s() - begin;
    print_message("a limit of 6 s: left after %.2f s\n", seconds);
    assert_true(seconds > 1.0 && seconds < 6.0);
    remove_run(f, "hurried");
}

/* ---- A run that gives up ---- */

static json_t *dump_of(const Fixture *f, const char *run, long step)
{
    char *name = xformat("nonfinite-step-%ld/batch.json", step);
    char *text = read_in(f, run, name);
    json_t *dump = json_loads(text, 0, NULL);
    assert_true(json_is_object(dump));
    free(text);
    free(name);
    return dump;
}

static void a_run_that_gives_up_says_what_it_saw(void **state)
{
    const Fixture *f = *state;
    for (int resident = 0; resident < 2; resident++) {
        const char *const extra[] = {"train.precision=fp32",
                                     "optim.lr=1e6",
                                     "optim.weight_decay=1e6",
                                     "schedule.kind=constant",
                                     "train.max_nonfinite=4",
                                     "checkpoint.every=1",
                                     "data.workers=0",
                                     resident ? "data.resident=on" : "data.resident=off",
                                     "run.seed=3",
                                     NULL};
        Err *err = run_in(f, "hopeless", RESUME_AUTO, extra, NULL);
        assert_non_null(err);
        assert_int_equal(err->code, EXIT_NOT_FINITE);
        const char *const place = strstr(err->message, "nonfinite-step-");
        assert_non_null(place);
        const long step = strtol(place + strlen("nonfinite-step-"), NULL, 10);
        err_free(err);
        json_t *dump = dump_of(f, "hopeless", step);
        assert_true(number_of(dump, "step") == step);
        assert_true(number_of(dump, "gradients_not_finite") > 0);
        const json_t *first = json_object_get(dump, "first");
        assert_string_equal(json_string_value(json_object_get(first, "net")), "student");
        assert_non_null(json_string_value(json_object_get(first, "name")));
        assert_true(number_of(first, "not_finite") > 0);
        assert_true(number_of(first, "not_finite") <= number_of(first, "elements"));
        /* The samples are those of the stream: by definition, rng_permutation(seed, epoch). */
        uint32_t order[300];
        rng_permutation(3, 0, order, 300);
        const json_t *samples = json_object_get(dump, "samples");
        assert_int_equal(json_array_size(samples), 32);
        for (size_t i = 0; i < 32; i++) {
            const uint32_t sample = order[32 * (step - 1) + (long)i];
            const AugmentView view =
                augment_view(3, 0, sample, (AugmentSpec){.pad = 4, .flip = true});
            const json_t *entry = json_array_get(samples, i);
            assert_true(number_of(entry, "sample") == sample);
            assert_true(number_of(entry, "dx") == view.dx && number_of(entry, "dy") == view.dy);
            assert_int_equal(json_is_true(json_object_get(entry, "flip")), view.flip);
        }
        json_t *events = events_of(f, "hopeless", "nonfinite");
        assert_int_equal(json_array_size(events), 1);
        json_decref(events);
        json_decref(dump);
        /* The newest checkpoint is of the last step that had a finite gradient. */
        char *text = read_in(f, "hopeless", "checkpoints/latest/state.json");
        json_t *newest = json_loads(text, 0, NULL);
        assert_true(number_of(newest, "step") <= step - 4);
        assert_true(number_of(newest, "nonfinite_streak") == 0);
        json_decref(newest);
        free(text);
        remove_run(f, "hopeless");
    }
}

/* One step of a healthy run, then the search: nothing may be found; and what is planted is found where it lies. */
static void dump_one_step(const Fixture *f, int d, int plant)
{
    char *out = xformat("run.out=%s/healthy", f->dir);
    const char *const overrides[] = {devices[d],
                                     sizes[d],
                                     batches[d],
                                     out,
                                     "data.kind=synthetic",
                                     "student.model=resnet8",
                                     "distill.method=kd",
                                     f->teacher,
                                     "teacher.model=resnet8",
                                     "data.workers=0",
                                     "eval.batch=4",
                                     "dist.threads=2",
                                     "teacher.memo=off"};
    Settings settings;
    assert_fine(settings_load(NULL, overrides, sizeof overrides / sizeof overrides[0], &settings));
    Run run;
    assert_fine(run_open(&settings, RESUME_AUTO, &run));
    assert_fine(run_prepare(&run));
    const int planted = params_find(&run.params, plant == 1   ? "student.layer2.0.bn1.weight"
                                                 : plant == 2 ? "teacher.layer1.0.conv1.weight"
                                                              : "student.conv1.weight");
    assert_true(planted >= 0);
    if (plant > 0) {
        const Param *param = &run.params.items[planted];
        const float bad = NAN;
        Backend *b = run.backend;
        b->upload(b, QUEUE_COMPUTE,
                  (char *)run.store.arena[param->arena] + (param->offset + 1) * sizeof bad, &bad,
                  sizeof bad);
        b->sync(b, QUEUE_COMPUTE);
    }
    const Batch *batch = feed_next(run.feed);
    step_submit(&run, batch);
    exec_sync(run.step);
    Flight *flight = &run.flights[0];
    assert_ptr_equal(flight->batch, batch);
    nonfinite_dump(&run, flight);
    json_t *dump = dump_of(f, "healthy", 1);
    const json_t *first = json_object_get(dump, "first");
    if (plant > 0) {
        assert_string_equal(json_string_value(json_object_get(first, "name")),
                            run.params.items[planted].name);
        assert_string_equal(json_string_value(json_object_get(first, "net")),
                            plant == 2 ? "teacher" : "student");
        assert_true(number_of(first, "not_finite") == 1.0);
    } else {
        assert_true(json_is_null(first));
        assert_true(number_of(dump, "loss") > 0.0);
    }
    json_decref(dump);
    assert_fine(step_land_all(&run));
    run_close(&run);
    settings_free(&settings);
    free(out);
    remove_run(f, "healthy");
}

static void the_search_finds_what_is_there(void **state)
{
    for (int d = 0; d < DEVICES; d++) {
        for (int plant = 0; plant < 3 && !absent(d); plant++) {
            dump_one_step(*state, d, plant);
        }
    }
}

/* ---- The limit on the norm ---- */

static void the_limit_is_mean_and_deviations(void **state)
{
    (void)state;
    float norms[NORM_RING] = {0};
    assert_true(norm_limit(norms, 500, 3.0) == 0.0f);
    /* Steps 0 to 199 with norms 1 and 3 in turns; step 200 sees 71 to 198 of them: mean 2, deviation 1. */
    for (long step = 0; step < 200; step++) {
        const float stats[2] = {step % 2 == 0 ? 4.0f : 36.0f, 0.0f};
        const double norm = norm_note(norms, step, stats, 2.0f);
        assert_true(norm == (step % 2 == 0 ? 1.0 : 3.0));
        assert_int_equal(norm_limit(norms, step + 1, 2.0) > 0.0f, step >= 64);
    }
    assert_true(norm_limit(norms, 200, 0.0) == 0.0f);
    assert_true(norm_limit(norms, 200, 2.5) == 4.5f);
    /* The last step is never in the window: the one that is in flight when the limit is sent. */
    (void)norm_note(norms, 200, (float[2]){1e10f, 0.0f}, 1.0f);
    assert_true(norm_limit(norms, 201, 2.5) == 4.5f);
    assert_true(norm_limit(norms, 202, 2.5) > 1000.0f);
    /* What is not finite is left out: by its count, or by its size. */
    (void)norm_note(norms, 200, (float[2]){INFINITY, 0.0f}, 1.0f);
    assert_true(norms[200 % NORM_RING] == 0.0f);
    assert_true(norm_note(norms, 200, (float[2]){1.0f, 3.0f}, 1.0f) == 0.0);
    const float limit = norm_limit(norms, 202, 2.5);
    assert_true(fabsf(limit - 4.5f) < 0.02f); /* 127 of them now, 63 and 64 */
}

static void long_gradients_are_skipped_and_resume_is_exact(void **state)
{
    const Fixture *f = *state;
    const char *extra[] = {"schedule.epochs=9", "eval.every=9", "train.skip_zscore=0.5", NULL,
                           NULL};
    RunResult skipping;
    assert_fine(run_in(f, "skipping", RESUME_AUTO, extra, &skipping));
    print_message("z = 0.5: %ld of %ld updates skipped\n", skipping.nonfinite, skipping.steps);
    assert_true(skipping.nonfinite > 0 && skipping.nonfinite < 30);
    static const char *const stops[] = {"train.max_steps=71", "train.max_steps=78",
                                        "train.max_steps=0"};
    RunResult parts;
    for (int i = 0; i < 3; i++) {
        extra[3] = stops[i];
        assert_fine(run_in(f, "parts", RESUME_AUTO, extra, &parts));
    }
    assert_same(f, "skipping", "parts", true);
    assert_int_equal(parts.nonfinite, skipping.nonfinite);
    extra[2] = "train.skip_zscore=0";
    extra[3] = NULL;
    assert_fine(run_in(f, "plain", RESUME_AUTO, extra, &parts));
    assert_int_equal(parts.nonfinite, 0);
    assert_same(f, "skipping", "plain", false);
    remove_run(f, "skipping");
    remove_run(f, "parts");
    remove_run(f, "plain");
}

/* ---- What a run writes ---- */

static void a_hundred_epochs_are_small(void **state)
{
    const Fixture *f = *state;
    const char *const extra[] = {"schedule.epochs=100",
                                 "data.options=classes=4,train=64,test=16",
                                 "distill.method=kd",
                                 f->teacher,
                                 "teacher.model=resnet8",
                                 "log.every_s=0.000001",
                                 NULL};
    (void)fflush(stderr);
    const int kept = dup(STDERR_FILENO);
    char *said = path_join(f->dir, "stderr");
    assert_non_null(freopen(said, "w", stderr));
    log_set_level(LOG_INFO);
    Err *err = run_in(f, "long", RESUME_AUTO, extra, NULL);
    log_set_level(LOG_ERROR);
    (void)fflush(stderr);
    (void)dup2(kept, STDERR_FILENO);
    (void)close(kept);
    assert_fine(err);
    struct stat info;
    assert_int_equal(stat(said, &info), 0);
    const long log = size_in(f, "long", "log.txt");
    const long metrics = size_in(f, "long", "metrics.jsonl");
    json_t *steps = events_of(f, "long", "step");
    char *lines = json_dumps(steps, JSON_COMPACT);
    const long line = (long)(strlen(lines) / json_array_size(steps));
    free(lines);
    assert_int_equal(json_array_size(steps), 100);
    /* The most lines that there can be are ten an epoch: nine more than here. */
    const long most_metrics = metrics + 900 * line;
    const long most_log = log + 900 * (log / 200);
    print_message("100 epochs of one step line: log.txt %ld, metrics.jsonl %ld, epochs.csv %ld, "
                  "stderr %ld bytes; of ten: log.txt %ld, metrics.jsonl %ld\n",
                  log, metrics, size_in(f, "long", "epochs.csv"), (long)info.st_size, most_log,
                  most_metrics);
    assert_true(most_metrics + most_log < 1 << 20);
    assert_true(info.st_size <= log && info.st_size > 0);
    json_decref(steps);
    free(said);
    remove_run(f, "long");
}

/* ---- The end ---- */

static void the_result_can_be_read(void **state)
{
    const Fixture *f = *state;
    Settings s = {.name = "n\"1", .out = "runs/it's", .student_model = "resnet8", .seed = 7};
    RunResult r = {.best_top1 = 70.5,
                   .last_top1 = 70.25,
                   .last_top5 = 91.0,
                   .teacher_top1 = -1.0,
                   .teacher_top5 = -1.0,
                   .agreement = -1.0,
                   .best_epoch = 3,
                   .epochs = 4,
                   .train_seconds = 3723.0,
                   .images_per_s = 1000.0,
                   .steps = 99};
    (void)f;
    Text out = {0};
    result_table(&out, &s, &r);
    assert_non_null(strstr(out.text, "last top-1      70.25 %\n"));
    assert_null(strstr(out.text, "teacher  "));
    assert_non_null(strstr(out.text, "teacher.weights='runs/it'\\''s'/student_last.safetensors"));
    out.size = 0;
    result_json(&out, &s, &r);
    json_t *object = json_loads(out.text, JSON_REJECT_DUPLICATES, NULL);
    assert_string_equal(json_string_value(json_object_get(object, "event")), "result");
    assert_true(json_is_null(json_object_get(object, "agreement")));
    assert_true(number_of(object, "last_top1") == 70.25);
    json_decref(object);
    out.size = 0;
    s.teacher_model = "wrn_16_2";
    r.teacher_top1 = 75.0;
    r.agreement = 81.5;
    result_table(&out, &s, &r);
    assert_non_null(strstr(out.text, "last top-1      70.25 %    75.00 %    -4.75\n"));
    assert_non_null(strstr(out.text, "agreement       81.50 %  same class"));
    assert_non_null(strstr(out.text, "1:02:03  99 steps, 1000 img/s"));
    assert_non_null(strstr(out.text, "cudistill report 'runs/it'\\''s'\n"));
    text_free(&out);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocked_steps_have_the_same_bits),
        cmocka_unit_test(shares_are_recorded),
        cmocka_unit_test(clocked_steps_cost_little),
        cmocka_unit_test(the_time_limit_leaves_a_checkpoint),
        cmocka_unit_test(the_time_limit_is_kept),
        cmocka_unit_test(a_run_that_gives_up_says_what_it_saw),
        cmocka_unit_test(the_search_finds_what_is_there),
        cmocka_unit_test(the_limit_is_mean_and_deviations),
        cmocka_unit_test(long_gradients_are_skipped_and_resume_is_exact),
        cmocka_unit_test(a_hundred_epochs_are_small),
        cmocka_unit_test(the_result_can_be_read),
    };
    /* What a device of its own may do otherwise is in these two. */
    const struct CMUnitTest on_device[] = {
        cmocka_unit_test(clocked_steps_have_the_same_bits),
        cmocka_unit_test(the_search_finds_what_is_there),
    };
    return absent(CUDA) ? cmocka_run_group_tests(tests, open_fixture, close_fixture)
                        : cmocka_run_group_tests(on_device, open_fixture, close_fixture);
}
