/* The files of a run (train/rundir.h): each exists, parses, and says what is true, checked against the data, the drawing
 * of views and the run's own result. */
#include "base/half.h"
#include "base/rng.h"
#include "data/augment.h"
#include "data/dataset.h"
#include "io/events.h"
#include "io/png.h"
#include "run_files.h"
#include "train/metrics.h"
#include "train/samples.h"

#include <math.h>

enum { TRAIN = 300, TEST = 120, CLASSES = 4, BATCH = 32, STEPS = 20, SIDE = 32 };
static const char DATA[] = "synthetic:classes=4,train=300,test=120";

/* The run that most tests look at: 2 epochs of Energy KD, a progress line every step. */
typedef struct {
    Fixture base; /* first: used as one */
    RunResult result;
} Full;

static int open_full(void **state)
{
    void *base = NULL;
    (void)open_fixture(&base);
    Full *full = xcalloc(1, sizeof *full);
    full->base = *(Fixture *)base;
    free(base);
    const char *const method[] = {"distill.method=energy_kd",
                                  "teacher.model=resnet8",
                                  full->base.teacher,
                                  "log.every_s=0",
                                  "run.tags=a,b",
                                  "run.notes=say \"hello\"",
                                  NULL};
    assert_fine(run_in(&full->base, "full", RESUME_AUTO, method, &full->result));
    *state = full;
    return 0;
}

static int close_full(void **state)
{
    Full *full = *state;
    err_free(dir_remove(full->base.dir));
    free(full->base.teacher);
    free(full);
    return 0;
}

static void every_file_is_there(void **state)
{
    const Fixture *f = *state;
    static const char *const names[] = {RUN_CONFIG,
                                        RUN_ORIGINS,
                                        RUN_MANIFEST,
                                        RUN_ENVIRONMENT,
                                        RUN_LOG,
                                        RUN_METRICS,
                                        RUN_EPOCHS,
                                        RUN_EVENTS,
                                        RUN_PROMETHEUS,
                                        RUN_CLASSES,
                                        RUN_SAMPLES_PNG,
                                        RUN_SAMPLES_JSON,
                                        RUN_STUDENT_LOGITS,
                                        RUN_LABELS,
                                        RUN_HISTOGRAMS,
                                        "checkpoints",
                                        RUN_TEACHER_LOGITS,
                                        "LOCK",
                                        "student_last.safetensors",
                                        "student_best.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!has_file(f, "full", names[i])) {
            fail_msg("%s is missing", names[i]);
        }
    }
    assert_false(has_file(f, "full", "errors/rank-000.json"));
    json_t *classes = read_json(f, "full", RUN_CLASSES);
    assert_int_equal(json_array_size(classes), CLASSES);
    json_decref(classes);
    json_t *env = read_json(f, "full", RUN_ENVIRONMENT);
    assert_string_equal(text_at(env, "device.backend"), "cpu");
    assert_int_equal(number_at(env, "device.threads"), 2);
    assert_true(number_at(env, "memory_bytes") > 1e8);
    assert_true(strlen(text_at(env, "libraries.glibc")) >= 3);
    assert_true(json_array_size(member(env, "command")) >= 1);
    json_decref(env);
}

static void the_manifest_tells_the_result(void **state)
{
    const Full *full = *state;
    const RunResult *r = &full->result;
    json_t *m = read_json(&full->base, "full", RUN_MANIFEST);
    assert_status(&full->base, "full", "finished", 0);
    assert_string_equal(text_at(m, "student"), "resnet8");
    assert_string_equal(text_at(m, "method"), "energy_kd");
    assert_string_equal(text_at(m, "notes"), "say \"hello\"");
    assert_string_equal(text_at(m, "dataset.name"), "synthetic");
    assert_int_equal(number_at(m, "dataset.train"), TRAIN);
    assert_int_equal(number_at(m, "dataset.test"), TEST);
    assert_int_equal(number_at(m, "dataset.classes"), CLASSES);
    assert_int_equal(number_at(m, "result.steps"), STEPS);
    assert_int_equal(number_at(m, "result.epochs"), 2);
    assert_true(strlen(text_at(m, "teacher_hash")) == 32);
    assert_true(number_at(m, "student_parameters") > 10000);
    assert_true(number_at(m, "updated") >= number_at(m, "started"));
    assert_true(number_at(m, "started") > 1.6e9);
    assert_int_equal(json_array_size(member(m, "resumes")), 0);
    const struct {
        const char *name;
        double value;
    } figures[] = {{"last_top1", r->last_top1},       {"last_top5", r->last_top5},
                   {"best_top1", r->best_top1},       {"teacher_top1", r->teacher_top1},
                   {"teacher_top5", r->teacher_top5}, {"agreement", r->agreement}};
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        char *path = xformat("result.%s", figures[i].name);
        assert_true(figures[i].value >= 0.0);
        assert_float_equal(number_at(m, path), figures[i].value, 1e-7); /* ten digits */
        free(path);
    }
    json_decref(m);
}

/* Every key with its value and where it came from; the configuration runs again and goes on in the same folder. */
static void the_configuration_runs_again(void **state)
{
    const Fixture *f = *state;
    char *origins = read_text(f, "full", RUN_ORIGINS);
    assert_non_null(strstr(origins, "train.batch\t32\t--set\n"));
    assert_non_null(strstr(origins, "optim.momentum\t0.9\tdefault\n"));
    size_t lines = 0;
    for (const char *at = origins; *at; at++) {
        lines += *at == '\n';
    }
    size_t keys;
    (void)settings_schema(&keys);
    assert_int_equal(lines, keys);
    free(origins);
    char *config = run_path(f, "full", RUN_CONFIG);
    Settings settings;
    assert_fine(settings_load(config, NULL, 0, &settings));
    char *folder = run_path(f, "full", "");
    assert_true(strncmp(settings.out, folder, strlen(folder) - 1) == 0);
    RunResult again;
    assert_fine(train_run(&settings, RESUME_MUST, &again));
    assert_float_equal(again.last_top1, ((const Full *)*state)->result.last_top1, 0.0);
    settings_free(&settings);
    assert_status(f, "full", "finished", 0);
    free(folder);
    free(config);
}

/* ---- Predictions ---- */

/* Right predictions and the chosen classes of a file of logits. */
static int right_of(const Fixture *f, const char *name, const int32_t *labels, int32_t *chosen)
{
    char *path = run_path(f, "full", name);
    WeightsFile *file = NULL;
    assert_fine(npy_open(path, &file));
    const WeightEntry *e = &file->entries[0];
    assert_int_equal(e->type, WEIGHT_F16);
    assert_int_equal(e->ndim, 2);
    assert_int_equal(e->shape[0], TEST);
    assert_int_equal(e->shape[1], CLASSES);
    float logits[TEST * CLASSES];
    weights_to_float(e, logits);
    weights_close(file);
    free(path);
    int right = 0;
    for (int i = 0; i < TEST; i++) {
        chosen[i] = 0;
        for (int k = 1; k < CLASSES; k++) {
            if (logits[i * CLASSES + k] > logits[i * CLASSES + chosen[i]]) {
                chosen[i] = k;
            }
        }
        right += chosen[i] == labels[i];
    }
    return right;
}

static void predictions_are_those_that_were_counted(void **state)
{
    const Full *full = *state;
    const Fixture *f = &full->base;
    Dataset *test = NULL;
    assert_fine(dataset_open(DATA, SPLIT_TEST, &test));
    char *path = run_path(f, "full", RUN_LABELS);
    WeightsFile *file = NULL;
    assert_fine(npy_open(path, &file));
    assert_int_equal(file->entries[0].type, WEIGHT_I32);
    assert_int_equal(file->entries[0].count, TEST);
    assert_memory_equal(file->entries[0].data, test->labels, TEST * sizeof(int32_t));
    weights_close(file);
    free(path);
    int32_t student[TEST];
    int32_t teacher[TEST];
    const int right = right_of(f, RUN_STUDENT_LOGITS, test->labels, student);
    assert_float_equal(100.0 * right / TEST, full->result.last_top1, 1e-9);
    const int teacher_right = right_of(f, RUN_TEACHER_LOGITS, test->labels, teacher);
    assert_float_equal(100.0 * teacher_right / TEST, full->result.teacher_top1, 1e-9);
    int same = 0;
    for (int i = 0; i < TEST; i++) {
        same += student[i] == teacher[i];
    }
    assert_float_equal(100.0 * same / TEST, full->result.agreement, 1e-9);
    assert_true(same < TEST);
    dataset_close(test);
}

/* Rounding to 16 bits may not change who is chosen. */
static void rounding_keeps_the_choice(void **state)
{
    (void)state;
    static const struct {
        float z[3];
        int chosen;
    } rows[] = {{{10.0f, 10.001f, -3.0f}, 1}, {{-10.001f, -10.0f, -10.0f}, 1},
                {{0.0f, 1e-9f, 0.0f}, 1},     {{-0.0f, -1e-9f, -1.0f}, 0},
                {{-1.0f, -1e-9f, 1e-9f}, 2},  {{1e30f, 3.0f, -INFINITY}, 0},
                {{2.0f, 1.999999f, 2.0f}, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fp16 half[3];
        logits_to_half(rows[i].z, 3, rows[i].chosen, half);
        int best = 0;
        for (int k = 0; k < 3; k++) {
            const float x = fp16_to_float(half[k]);
            best = x > fp16_to_float(half[best]) ? k : best;
            const float z = fmaxf(fminf(rows[i].z[k], 65504.0f), -65504.0f);
            if (isfinite(
                    rows[i].z[k])) { /* at most one step of 2^-10 of the value, or the smallest */
                assert_true(fabsf(x - z) <= fabsf(z) * 0x1p-10f + 0x1p-24f);
            }
        }
        assert_int_equal(best, rows[i].chosen);
    }
    const float none[3] = {NAN, 1.0f, INFINITY};
    fp16 half[3];
    logits_to_half(none, 3, -1, half);
    assert_true(isnan(fp16_to_float(half[0])) && isinf(fp16_to_float(half[2])));
}

/* ---- Pictures ---- */

static void assert_picture(const json_t *p, int index, const Dataset *train, const uint8_t *grid,
                           int width)
{
    const AugmentSpec spec = {.pad = 4, .flip = true};
    uint32_t order[TRAIN];
    rng_permutation(1, 0, order, TRAIN);
    const uint32_t id = order[index];
    assert_int_equal(number_at(p, "sample"), id);
    assert_int_equal(number_at(p, "label"), train->labels[id]);
    const AugmentView view = augment_view(1, 0, id, spec);
    assert_int_equal(number_at(p, "dx"), view.dx);
    assert_int_equal(number_at(p, "dy"), view.dy);
    assert_true(json_is_true(member(p, "flip")) == view.flip);
    uint8_t expected[SIDE * SIDE * 3];
    augment_apply(spec, view, dataset_image(train, id), SIDE, SIDE, expected);
    const int pitch = SIDE + SAMPLES_GAP;
    const uint8_t *at = grid + 3 * ((size_t)(index / SAMPLES_COLUMNS * pitch) * (size_t)width +
                                    (size_t)(index % SAMPLES_COLUMNS * pitch));
    for (int y = 0; y < SIDE; y++) {
        assert_memory_equal(at + (size_t)y * (size_t)width * 3, expected + y * SIDE * 3, SIDE * 3);
    }
}

static void pictures_are_what_training_saw(void **state)
{
    const Fixture *f = *state;
    Dataset *train = NULL;
    assert_fine(dataset_open(DATA, SPLIT_TRAIN, &train));
    json_t *root = read_json(f, "full", RUN_SAMPLES_JSON);
    const json_t *pictures = member(root, "pictures");
    assert_int_equal(json_array_size(pictures), SAMPLES_MAX);
    assert_int_equal(number_at(root, "size"), SIDE);
    char *path = run_path(f, "full", RUN_SAMPLES_PNG);
    FileMap map;
    assert_fine(file_map(path, &map));
    uint8_t *rgb = NULL;
    int height = 0;
    int width = 0;
    assert_fine(png_decode(map.data, map.size, 1 << 24, &rgb, &height, &width));
    assert_int_equal(width, SAMPLES_COLUMNS * SIDE + (SAMPLES_COLUMNS - 1) * SAMPLES_GAP);
    for (int i = 0; i < SAMPLES_MAX; i++) {
        assert_picture(json_array_get(pictures, (size_t)i), i, train, rgb, width);
    }
    file_unmap(&map);
    free(rgb);
    free(path);
    json_decref(root);
    dataset_close(train);
}

/* theta of the newest checkpoint. */
static void read_theta(const Fixture *f, double theta[2])
{
    json_t *root = read_json(f, "full", "checkpoints/latest/state.json");
    theta[0] = number_at(root, "theta_low");
    theta[1] = number_at(root, "theta_high");
    assert_true(theta[0] < theta[1]);
    json_decref(root);
}

static double band_of(const double theta[2], double energy)
{
    return energy < theta[0] ? 6.0 : energy > theta[1] ? 2.0 : 4.0;
}

/* The reference backend gives the same opinion to within the rounding of 16-bit activations. */
static void the_teacher_is_quoted(void **state)
{
    const Fixture *f = *state;
    double theta[2];
    read_theta(f, theta);
    const char *const plain[] = {"distill.method=energy_kd",
                                 "teacher.model=resnet8",
                                 f->teacher,
                                 "dist.device=ref",
                                 "train.precision=fp32",
                                 "train.max_steps=1",
                                 "data.options=classes=4,train=300,test=8",
                                 NULL};
    assert_fine(run_in(f, "ref", RESUME_AUTO, plain, NULL));
    json_t *root = read_json(f, "full", RUN_SAMPLES_JSON);
    json_t *ref = read_json(f, "ref", RUN_SAMPLES_JSON);
    for (size_t i = 0; i < SAMPLES_MAX; i++) {
        const json_t *p = json_array_get(member(root, "pictures"), i);
        const json_t *q = json_array_get(member(ref, "pictures"), i);
        const json_t *top = member(p, "teacher");
        assert_int_equal(json_array_size(top), SAMPLES_TOP);
        const double first = number_at(json_array_get(top, 0), "p");
        const double third = number_at(json_array_get(top, 2), "p");
        assert_true(first >= 0.25 && first <= 1.0 && third <= first);
        /* bf16 has 8 bits; logits of a few units lose some hundredths on the way. */
        const double other = number_at(json_array_get(member(q, "teacher"), 0), "p");
        assert_float_equal(first, other, 0.05);
        const double energy = number_at(p, "energy");
        assert_float_equal(energy, number_at(q, "energy"), 0.15);
        assert_float_equal(number_at(p, "temperature"), band_of(theta, energy), 0.0);
    }
    json_decref(ref);
    json_decref(root);
}

static void histograms_count_everyone(void **state)
{
    const Fixture *f = *state;
    json_t *root = read_json(f, "full", RUN_HISTOGRAMS);
    const json_t *edges = member(root, "energy.edges");
    const json_t *counts = member(root, "energy.counts");
    const size_t bins = json_array_size(counts);
    assert_int_equal(json_array_size(edges), bins + 1);
    long all = 0;
    for (size_t i = 0; i < bins; i++) {
        all += (long)json_integer_value(json_array_get(counts, i));
        assert_true(json_number_value(json_array_get(edges, i)) <
                    json_number_value(json_array_get(edges, i + 1)));
    }
    /* The pass leaves the incomplete last batch out. */
    const long n = TRAIN / BATCH * BATCH;
    assert_int_equal(all, n);
    double theta[2];
    read_theta(f, theta);
    assert_true(theta[0] > json_number_value(json_array_get(edges, 0)));
    assert_true(theta[1] < json_number_value(json_array_get(edges, bins)));
    assert_string_equal(text_at(root, "energy.of"), "teacher, training set");
    const double temperatures[] = {2, 4, 6};
    /* floor(n * 0.2) rows lie below the lower threshold, as many above the upper one. */
    const long expected[] = {57, n - 2 * 57, 57};
    for (size_t i = 0; i < 3; i++) {
        const json_t *value = json_array_get(member(root, "temperature.values"), i);
        const json_t *count = json_array_get(member(root, "temperature.counts"), i);
        assert_float_equal(json_number_value(value), temperatures[i], 0.0);
        assert_int_equal(json_integer_value(count), expected[i]);
    }
    json_decref(root);
    long steps[4];
    assert_int_equal(events_of(f, "full", "histogram", steps, 4), 2);
}

/* ---- Records of the loop ---- */

/* A line tells of the steps that were accounted for since the one before it: together of all of them. */
static void assert_steps_once(const Fixture *f, const char *run)
{
    char *text = read_text(f, run, RUN_METRICS);
    long all = 0;
    long last = 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        json_t *object = json_loads(line, 0, NULL);
        if (strcmp(text_at(object, "event"), "step") == 0) {
            assert_true(number_at(object, "step") > (double)last);
            last = (long)number_at(object, "step");
            all += (long)number_at(object, "steps");
        }
        json_decref(object);
    }
    free(text);
    assert_int_equal(last, STEPS);
    assert_int_equal(all, STEPS);
}

static void columns_are_those_of_timm(void **state)
{
    const Full *full = *state;
    char *text = read_text(&full->base, "full", RUN_EPOCHS);
    char *save = NULL;
    const char *head = strtok_r(text, "\n", &save);
    assert_true(strncmp(head, "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,", 50) == 0);
    assert_non_null(strstr(head, ",best,phase_data,phase_teacher,phase_student,phase_update"));
    int rows = 0;
    double eval_top1 = -1.0;
    for (const char *line = strtok_r(NULL, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int epoch = 0;
        double loss = 0.0;
        double eval_loss = 0.0;
        assert_int_equal(sscanf(line, "%d,%lf,%lf,%lf", &epoch, &loss, &eval_loss, &eval_top1), 4);
        assert_int_equal(epoch, ++rows);
        const double update = atof(strrchr(line, ',') + 1);
        assert_true(update > 0.0 && update < 1.0);
    }
    assert_int_equal(rows, 2);
    assert_float_equal(eval_top1, full->result.last_top1, 1e-7);
    free(text);
    assert_steps_once(&full->base, "full");
    long steps[4];
    assert_int_equal(events_of(&full->base, "full", "start", steps, 1), 1);
    assert_int_equal(events_of(&full->base, "full", "checkpoint", steps, 4), 2);
}

typedef struct {
    int losses, parts, images, weights, energies, other;
    double last_eval;
    long last_step;
    size_t png_size;
} Board;

static void note_event(void *context, const EventValue *v)
{
    Board *b = context;
    const char *tag = v->tag ? v->tag : "";
    b->losses += strcmp(tag, "train/loss") == 0;
    b->parts += strncmp(tag, "train/loss_", 11) == 0;
    b->weights += v->kind == EVENT_HISTOGRAM && strncmp(tag, "weights/", 8) == 0;
    b->energies += v->kind == EVENT_HISTOGRAM && strcmp(tag, "teacher/energy") == 0;
    b->other += v->kind == EVENT_OTHER;
    if (strcmp(tag, "eval/top1") == 0) {
        b->last_eval = v->value;
        b->last_step = (long)v->step;
    }
    if (v->kind == EVENT_IMAGE) {
        b->images++;
        b->png_size = v->png_size;
    }
}

/* All event files of a run. */
static Board read_board(const Fixture *f, const char *run)
{
    Board board = {0};
    char *dir = run_path(f, run, RUN_EVENTS);
    char **names = NULL;
    size_t count = 0;
    assert_fine(dir_list(dir, &names, &count));
    for (size_t i = 0; i < count; i++) {
        char *path = path_join(dir, names[i]);
        FileMap map;
        assert_fine(file_map(path, &map));
        EventsSummary summary;
        assert_fine(events_read(map.data, map.size, note_event, &board, &summary));
        assert_false(summary.torn);
        file_unmap(&map);
        free(path);
    }
    names_free(names, count);
    free(dir);
    return board;
}

static void tensorboard_has_it_all(void **state)
{
    const Full *full = *state;
    const Board board = read_board(&full->base, "full");
    long steps[STEPS];
    const int lines = events_of(&full->base, "full", "step", steps, STEPS);
    assert_true(lines > STEPS / 2);
    assert_int_equal(board.losses, lines);
    assert_int_equal(board.parts, 2 * lines);
    assert_int_equal(board.images, 1);
    assert_int_equal(board.energies, 1);
    assert_true(board.other >= 2); /* begin and end of the HParams session */
    assert_float_equal(board.last_eval, full->result.last_top1, 1e-4); /* fp32 */
    assert_int_equal(board.last_step, STEPS);
    char *path = run_path(&full->base, "full", "student_last.safetensors");
    WeightsFile *file = NULL;
    assert_fine(weights_open(path, &file));
    int trainable = 0;
    for (size_t i = 0; i < file->count; i++) {
        trainable += !strstr(file->entries[i].name, "running_") &&
                     !strstr(file->entries[i].name, "num_batches");
    }
    assert_int_equal(board.weights, 2 * trainable);
    weights_close(file);
    free(path);
    path = run_path(&full->base, "full", RUN_SAMPLES_PNG);
    FileMap map;
    assert_fine(file_map(path, &map));
    assert_int_equal(board.png_size, map.size);
    file_unmap(&map);
    free(path);
}

static void the_status_file_has_the_gauges(void **state)
{
    const Fixture *f = *state;
    char *text = read_text(f, "full", RUN_PROMETHEUS);
    static const char *const names[] = {"up",
                                        "epoch",
                                        "step",
                                        "loss",
                                        "loss_term",
                                        "train_top1",
                                        "eval_top1",
                                        "best_top1",
                                        "teacher_top1",
                                        "learning_rate",
                                        "images_per_second",
                                        "phase_share",
                                        "nonfinite_updates",
                                        "checkpoint_step",
                                        "eta_seconds"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *type = xformat("# TYPE cudistill_%s gauge\n", names[i]);
        if (!strstr(text, type)) {
            fail_msg("no gauge %s in\n%s", names[i], text);
        }
        free(type);
    }
    assert_non_null(strstr(text, "cudistill_up{run=\"run\"} 0\n"));
    assert_non_null(strstr(text, "term=\"KD\""));
    assert_non_null(strstr(text, "cudistill_step{run=\"run\"} 20\n"));
    free(text);
}

/* ---- Switches and parts ---- */

/* Records watch the run, they do not touch it. */
static void records_do_not_change_the_bits(void **state)
{
    const Fixture *f = *state;
    const char *const bare[] = {
        "distill.method=energy_kd", "teacher.model=resnet8", f->teacher,
        "log.tensorboard=false",    "log.images=false",      "log.histograms=false",
        "log.prometheus=false",     "log.predictions=false", NULL};
    RunResult result;
    assert_fine(run_in(f, "bare", RESUME_AUTO, bare, &result));
    char a[33];
    char b[33];
    weights_hash(f, "full", a);
    weights_hash(f, "bare", b);
    assert_string_equal(a, b);
    static const char *const absent[] = {RUN_EVENTS, "images", "predictions", RUN_PROMETHEUS};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        assert_false(has_file(f, "bare", absent[i]));
    }
    const Full *full = *state;
    assert_float_equal(result.last_top1, full->result.last_top1, 0.0);
    assert_float_equal(result.agreement, full->result.agreement, 0.0);
}

static void a_run_without_a_teacher(void **state)
{
    const Fixture *f = *state;
    json_t *root = read_json(f, "teacher", RUN_SAMPLES_JSON);
    const json_t *first = json_array_get(member(root, "pictures"), 0);
    assert_null(json_object_get(first, "teacher"));
    assert_null(json_object_get(first, "energy"));
    json_decref(root);
    assert_false(has_file(f, "teacher", RUN_TEACHER_LOGITS));
    assert_true(has_file(f, "teacher", RUN_STUDENT_LOGITS));
    assert_false(has_file(f, "teacher", RUN_HISTOGRAMS));
    root = read_json(f, "teacher", RUN_MANIFEST);
    assert_string_equal(text_at(root, "teacher"), "");
    assert_true(json_is_null(member(root, "result.teacher_top1")));
    assert_true(json_is_null(member(root, "result.agreement")));
    json_decref(root);
}

/* One temperature for all: the energies are those of the check on the test set. */
static void a_constant_temperature(void **state)
{
    const Fixture *f = *state;
    const char *const kd[] = {"distill.method=kd",     "teacher.model=resnet8", f->teacher,
                              "distill.temperature=3", "train.max_steps=1",     NULL};
    assert_fine(run_in(f, "kd", RESUME_AUTO, kd, NULL));
    json_t *root = read_json(f, "kd", RUN_HISTOGRAMS);
    assert_string_equal(text_at(root, "energy.of"), "teacher, test set");
    assert_int_equal(json_array_size(member(root, "temperature.values")), 1);
    const json_t *values = member(root, "temperature.values");
    const json_t *counts = member(root, "temperature.counts");
    assert_float_equal(json_number_value(json_array_get(values, 0)), 3.0, 0.0);
    assert_int_equal(json_integer_value(json_array_get(counts, 0)), TEST);
    json_decref(root);
}

/* 13 steps, the newest checkpoint lost, so that the run resumes at step 10; then the rest. */
static void a_resume_leaves_each_step_once(void **state)
{
    const Full *full = *state;
    const Fixture *f = &full->base;
    const char *extra[] = {
        "distill.method=energy_kd", "teacher.model=resnet8", f->teacher, "log.every_s=0",
        "checkpoint.every=5",       "train.max_steps=13",    NULL};
    assert_fine(run_in(f, "parts", RESUME_AUTO, extra, NULL));
    assert_status(f, "parts", "finished", 0);
    char *lost = run_path(f, "parts", "checkpoints/step-000000013");
    assert_fine(dir_remove(lost));
    free(lost);
    extra[5] = "train.max_steps=0";
    RunResult result;
    assert_fine(run_in(f, "parts", RESUME_MUST, extra, &result));
    assert_steps_once(f, "parts");
    long steps[3];
    assert_int_equal(events_of(f, "parts", "epoch", steps, 3), 2);
    assert_int_equal(events_of(f, "parts", "resume", steps, 2), 1);
    assert_int_equal(steps[0], 10);
    char *csv = read_text(f, "parts", RUN_EPOCHS);
    int lines = 0;
    for (const char *at = csv; *at; at++) {
        lines += *at == '\n';
    }
    assert_int_equal(lines, 3);
    free(csv);
    json_t *m = read_json(f, "parts", RUN_MANIFEST);
    assert_int_equal(json_array_size(member(m, "resumes")), 1);
    assert_int_equal(number_at(json_array_get(member(m, "resumes"), 0), "step"), 10);
    json_decref(m);
    char a[33];
    char b[33];
    weights_hash(f, "full", a);
    weights_hash(f, "parts", b);
    assert_string_equal(a, b);
    /* The teacher was not asked again, and its file still tells how often the two agree. */
    assert_float_equal(result.agreement, full->result.agreement, 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_is_there),
        cmocka_unit_test(the_manifest_tells_the_result),
        cmocka_unit_test(the_configuration_runs_again),
        cmocka_unit_test(predictions_are_those_that_were_counted),
        cmocka_unit_test(rounding_keeps_the_choice),
        cmocka_unit_test(pictures_are_what_training_saw),
        cmocka_unit_test(the_teacher_is_quoted),
        cmocka_unit_test(histograms_count_everyone),
        cmocka_unit_test(columns_are_those_of_timm),
        cmocka_unit_test(tensorboard_has_it_all),
        cmocka_unit_test(the_status_file_has_the_gauges),
        cmocka_unit_test(records_do_not_change_the_bits),
        cmocka_unit_test(a_run_without_a_teacher),
        cmocka_unit_test(a_constant_temperature),
        cmocka_unit_test(a_resume_leaves_each_step_once),
    };
    return cmocka_run_group_tests(tests, open_full, close_full);
}
