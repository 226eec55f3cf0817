/* The HTML report on made-up runs: statistics by hand and against NumPy, contents, escaping, size, damaged folders. */
#include "report/report.h"

#include "report/markup.h"
#include "report/run_data.h"
#include "report/stats.h"
#include "report/svg.h"
#include "report/svg_axes.h"

#include "html_check.h"
#include "python.h"
#include "run_rig.h"

#include <sys/stat.h>
#include <unistd.h>

/* ---- Statistics by hand ---- */

static WeightEntry matrix(const float *values, int64_t rows, int64_t columns)
{
    return (WeightEntry){.type = WEIGHT_F32,
                         .ndim = 2,
                         .shape = {rows, columns},
                         .count = (size_t)(rows * columns),
                         .bytes = (size_t)(rows * columns) * sizeof(float),
                         .data = values};
}

/* Two classes at logits (0, log 3): confidence 3/4, which lies in bin 11 of 15 (0.733..0.8). */
static void calibration_by_hand(void **state)
{
    (void)state;
    const float l3 = logf(3.0F);
    const float values[] = {0, l3, 0, l3, 0, l3, l3, 0};
    const int32_t labels[] = {1, 1, 0, 0};
    const WeightEntry logits = matrix(values, 4, 2);
    NetStats *stats = net_stats(&logits, labels);
    assert_float_equal(stats->top1, 75.0, 1e-12);
    assert_int_equal(stats->bin_count[11], 4);
    assert_float_equal(stats->bin_confidence[11], 0.75, 1e-6);
    assert_float_equal(stats->bin_accuracy[11], 0.75, 1e-12);
    assert_float_equal(stats->ece, 0.0, 1e-6);
    /* -log 3/4 three times, -log 1/4 once */
    assert_float_equal(stats->mean_nll, (3.0 * log(4.0 / 3.0) + log(4.0)) / 4.0, 1e-6);
    const double entropy = -(0.75 * log(0.75) + 0.25 * log(0.25));
    assert_float_equal(stats->mean_entropy, entropy, 1e-6);
    assert_float_equal(net_class_accuracy(stats, 0), 50.0, 1e-12);
    assert_float_equal(net_class_accuracy(stats, 1), 100.0, 1e-12);
    net_stats_free(stats);
    const int32_t wrong[] = {0, 0, 1, 1};
    stats = net_stats(&logits, wrong);
    assert_float_equal(stats->top1, 25.0, 1e-12);
    assert_float_equal(stats->ece, 0.5, 1e-6);
    net_stats_free(stats);
}

static void ties_and_broken_rows(void **state)
{
    (void)state;
    const float values[] = {1, 1, 0, NAN, 5, 0, INFINITY, 0, 0, -INFINITY, 2, 1};
    const int32_t labels[] = {0, 1, 0, 1};
    const WeightEntry logits = matrix(values, 4, 3);
    NetStats *stats = net_stats(&logits, labels);
    assert_int_equal(stats->prediction[0], 0); /* the lowest of a tie */
    assert_int_equal(stats->prediction[1], -1);
    assert_int_equal(stats->prediction[2], -1);
    assert_int_equal(stats->prediction[3], 1);
    assert_int_equal(stats->nonfinite, 2);
    assert_float_equal(stats->top1, 50.0, 1e-12);
    assert_true(isfinite(stats->ece) && isfinite(stats->mean_nll) && isfinite(stats->mean_entropy));
    size_t rows[8];
    assert_int_equal(net_hardest(stats, rows, 8), 2);
    assert_int_equal(rows[0], 0); /* log(2 + 1/e), more than log(1 + 1/e) */
    net_stats_free(stats);
}

static void who_is_right(void **state)
{
    (void)state;
    /* Rows: both, only student, only teacher, same wrong, different wrong. */
    const float s[] = {9, 0, 0, 9, 0, 0, 0, 9, 0, 0, 9, 0, 0, 9, 0};
    const float t[] = {9, 0, 0, 0, 9, 0, 9, 0, 0, 0, 9, 0, 0, 0, 9};
    const int32_t labels[] = {0, 0, 0, 0, 0};
    const WeightEntry student = matrix(s, 5, 3);
    const WeightEntry teacher = matrix(t, 5, 3);
    NetStats *a = net_stats(&student, labels);
    NetStats *b = net_stats(&teacher, labels);
    const Agreement who = net_agreement(a, b, labels);
    assert_int_equal(who.both_right, 1);
    assert_int_equal(who.only_student, 1);
    assert_int_equal(who.only_teacher, 1);
    assert_int_equal(who.wrong_same, 1);
    assert_int_equal(who.wrong_different, 1);
    Confusion pairs[4];
    assert_int_equal(net_confusions(b, labels, pairs, 4), 2);
    assert_int_equal(pairs[0].b, 1);
    assert_int_equal(pairs[0].a_as_b, 2);
    assert_int_equal(pairs[0].b_as_a, 0);
    assert_int_equal(pairs[1].b, 2);
    assert_int_equal(net_confusions(b, labels, pairs, 1), 1);
    net_stats_free(a);
    net_stats_free(b);
}

static void confusions_count_both_ways(void **state)
{
    (void)state;
    const float z[] = {0, 9, 0, 9, 0, 0, 9, 0, 0, 0, 0, 9};
    const int32_t labels[] = {0, 1, 1, 1};
    const WeightEntry logits = matrix(z, 4, 3);
    NetStats *stats = net_stats(&logits, labels);
    Confusion pairs[4];
    assert_int_equal(net_confusions(stats, labels, pairs, 4), 2);
    assert_int_equal(pairs[0].a, 0);
    assert_int_equal(pairs[0].b, 1);
    assert_int_equal(pairs[0].a_as_b, 1);
    assert_int_equal(pairs[0].b_as_a, 2);
    const Confusion same = net_confusion_of(stats, labels, 0, 1);
    assert_int_equal(same.a_as_b, 1);
    assert_int_equal(same.b_as_a, 2);
    net_stats_free(stats);
}

static void spreads(void **state)
{
    (void)state;
    const double values[] = {1.0, NAN, 3.0, 5.0};
    const Spread three = spread_of(values, 4);
    assert_int_equal(three.n, 3);
    assert_float_equal(three.mean, 3.0, 1e-12);
    assert_float_equal(three.deviation, 2.0, 1e-12); /* sqrt((4 + 0 + 4) / 2) */
    const Spread one = spread_of(values, 1);
    assert_float_equal(one.mean, 1.0, 1e-12);
    assert_true(isnan(one.deviation));
}

/* ---- Statistics against NumPy ---- */

static void check_oracle(FILE *python, const char *name, double ours, double tolerance)
{
    char got[64];
    char number[64];
    assert_int_equal(fscanf(python, "%63s %63s", got, number), 2);
    const double value = strtod(number, NULL);
    assert_string_equal(got, name);
    if (fabs(ours - value) > tolerance * fmax(1.0, fabs(value))) {
        fail_msg("%s: %.12g, NumPy %.12g", name, ours, value);
    }
}

static void statistics_as_numpy(void **state)
{
    (void)state;
    if (!python_has("numpy")) {
        python_skip("numpy");
        skip();
    }
    char *folder = rig_folder();
    RigRun spec = rig_run();
    spec.images = 3000;
    spec.classes = 37;
    char *path = rig_make(folder, "run", &spec);
    RunData *run = NULL;
    rig_ok(run_data_open(path, RUN_DATA_ALL, &run));
    NetStats *student = net_stats(run->student_logits, run->labels);
    NetStats *teacher = net_stats(run->teacher_logits, run->labels);
    const Agreement who = net_agreement(student, teacher, run->labels);
    char *script = xformat("tests/test_report_stats.py '%s'", path);
    FILE *python = python_open(script);
    free(script);
    const NetStats *nets[] = {student, teacher};
    /* Both sides in double from the same fp16 numbers: only the order of sums differs (1e-12), and our stored loss is
     * rounded to fp32 (6e-8). */
    for (int n = 0; n < 2; n++) {
        check_oracle(python, "top1", nets[n]->top1, 1e-10);
        check_oracle(python, "top5", nets[n]->top5, 1e-10);
        check_oracle(python, "nll", nets[n]->mean_nll, 1e-7);
        check_oracle(python, "ece", nets[n]->ece, 1e-7);
        check_oracle(python, "entropy", nets[n]->mean_entropy, 1e-10);
        for (int b = 0; b < ECE_BINS; b++) {
            check_oracle(python, "bin", (double)nets[n]->bin_count[b], 0.0);
        }
    }
    check_oracle(python, "both", (double)who.both_right, 0.0);
    check_oracle(python, "student", (double)who.only_student, 0.0);
    check_oracle(python, "teacher", (double)who.only_teacher, 0.0);
    check_oracle(python, "same", (double)who.wrong_same, 0.0);
    check_oracle(python, "different", (double)who.wrong_different, 0.0);
    Confusion pair;
    assert_int_equal(net_confusions(student, run->labels, &pair, 1), 1);
    check_oracle(python, "pair_a", pair.a, 0.0);
    check_oracle(python, "pair_b", pair.b, 0.0);
    check_oracle(python, "pair_count", (double)(pair.a_as_b + pair.b_as_a), 0.0);
    assert_int_equal(python_close(python), 0);
    net_stats_free(student);
    net_stats_free(teacher);
    run_data_free(run);
    free(path);
    rig_remove(folder);
}

/* ---- Axes and text ---- */

static void round_ticks(void **state)
{
    (void)state;
    const Ticks ten = ticks_linear(0.0, 100.0, 5, false);
    assert_int_equal(ten.count, 6);
    assert_string_equal(ten.text[1], "20");
    const Ticks small = ticks_linear(0.0, 0.05, 5, false);
    assert_string_equal(small.text[1], "0.01");
    const Ticks epochs = ticks_linear(1.0, 3.0, 7, true);
    assert_int_equal(epochs.count, 3);
    assert_string_equal(epochs.text[0], "1");
    const Ticks many = ticks_linear(1.0, 1.0, 7, true); /* one epoch */
    assert_true(many.count >= 1);
    double low = 23.4;
    double high = 71.9;
    range_round(&low, &high, 5);
    assert_float_equal(low, 20.0, 1e-9);
    assert_float_equal(high, 80.0, 1e-9);
    const Ticks decades = ticks_log(1e-5, 0.1);
    assert_int_equal(decades.count, 5);
    assert_string_equal(decades.text[0], "1e-5");
}

static void texts_are_harmless(void **state)
{
    (void)state;
    Text text = {0};
    markup_text(&text, "a<b>\"\xff\x01\xe2\x80\xae", 100);
    assert_string_equal(text.text, "a&lt;b&gt;&quot;\xEF\xBF\xBD  ");
    text.size = 0;
    markup_text(&text, "\xC3\xA4\xC3\xB6\xC3\xBC", 2);
    assert_string_equal(text.text, "\xC3\xA4\xC3\xB6…");
    text.size = 0;
    markup_count(&text, 1234567.0);
    assert_string_equal(text.text, "1\xE2\x80\xAF"
                                   "234\xE2\x80\xAF"
                                   "567");
    text.size = 0;
    markup_number(&text, -0.001, 2);
    assert_string_equal(text.text, "0.00");
    text.size = 0;
    markup_duration(&text, 700.0);
    assert_string_equal(text.text, "11 m 40 s");
    text.size = 0;
    const uint8_t bytes[] = {0, 255, 16, 3};
    markup_png(&text, bytes, 4, "\"");
    assert_string_equal(text.text, "<img alt=\"&quot;\" src=\"data:image/png;base64,AP8QAw==\">");
    text_free(&text);
    assert_int_equal(text_columns("a\xC3\xA4\xE4\xB8\xAD"), 4);
}

/* ---- Pages ---- */

static size_t count_of(const char *page, const char *what)
{
    size_t count = 0;
    const size_t size = strlen(what);
    for (size_t at = 0; page[at] != '\0'; at++) {
        count += strncmp(&page[at], what, size) == 0 ? 1 : 0;
    }
    return count;
}

static char *read_page(const char *path)
{
    char *page = rig_read(path);
    HtmlCheck check;
    if (!html_well_formed(page, &check)) {
        fail_msg("%s: %s", path, check.why);
    }
    assert_true(strlen(page) < REPORT_BYTES_MAX);
    assert_int_equal(count_of(page, "<script"), 0);
    assert_int_equal(count_of(page, "http:"), 0);
    assert_int_equal(count_of(page, "https:"), 0);
    assert_int_equal(count_of(page, "javascript:"), 0);
    assert_int_equal(count_of(page, "NaN"), 0);
    assert_int_equal(count_of(page, "nan"), 0);
    assert_int_equal(count_of(page, "inf\""), 0);
    return page;
}

static void one_run(void **state)
{
    (void)state;
    char *folder = rig_folder();
    RigRun spec = rig_run();
    spec.class_name = RIG_EVIL;
    spec.name = "<b>" RIG_EVIL;
    char *path = rig_make(folder, "run", &spec);
    char *written = NULL;
    const char *const runs[] = {path};
    rig_ok(report_write_to(runs, 1, NULL, &written));
    char *expected = path_join(path, RUN_REPORT);
    assert_string_equal(written, expected);
    char *page = read_page(written);
    static const char *const wanted[] = {"70.00 <small>%",
                                         "71.00 <small>%",
                                         "72.34 <small>%",
                                         "−2.34 <small>points",
                                         "epoch 7 of 240",
                                         "11 m 40 s",
                                         "finished",
                                         "Where the time goes",
                                         "Reliability",
                                         "ECE ",
                                         "Who is right",
                                         "most confused",
                                         "hardest",
                                         "Temperature per image",
                                         "Energy of the teacher",
                                         "my.ini:9",
                                         "oneDNN",
                                         "resumed ",
                                         "2 updates were skipped",
                                         "≠ teacher"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        if (strstr(page, wanted[i]) == NULL) {
            fail_msg("the page lacks '%s'", wanted[i]);
        }
    }
    assert_int_equal(count_of(page, "data:image/png;base64,"), 12);
    /* i/5 shifts the teacher's class from picture 5 on. */
    assert_int_equal(count_of(page, "≠ teacher"), 12 - 5);
    assert_true(count_of(page, "&lt;script&gt;") > 10);
    assert_int_equal(count_of(page, "could not be read"), 0);
    free(page);
    free(written);
    free(expected);
    free(path);
    rig_remove(folder);
}

static void failed_run(void **state)
{
    (void)state;
    char *folder = rig_folder();
    RigRun spec = rig_run();
    spec.status = "failed";
    spec.done = 5;
    char *path = rig_make(folder, "run", &spec);
    static const char error[] =
        "{\"time\":1,\"code\":79,\"message\":\"loss <not> finite\",\"step\":41,\"epoch\":5}";
    rig_file(path, "errors/rank-000.json", error, strlen(error));
    static const char torn[] = "{\"event\":\"epo";
    char *metrics = path_join(path, RUN_METRICS);
    FILE *file = fopen(metrics, "ab");
    assert_non_null(file);
    fputs(torn, file);
    assert_int_equal(fclose(file), 0);
    const char *const runs[] = {path};
    rig_ok(report_write(runs, 1, NULL));
    char *out = path_join(path, RUN_REPORT);
    char *page = read_page(out);
    assert_non_null(strstr(page, "<span class=\"status bad\">failed"));
    assert_non_null(strstr(page, "step 41: loss &lt;not&gt; finite"));
    assert_non_null(strstr(page, "metrics.jsonl: 1 line could not be read"));
    assert_non_null(strstr(page, "5 of 240 epochs"));
    free(page);
    free(out);
    free(metrics);
    free(path);
    rig_remove(folder);
}

static void many_classes_many_epochs(void **state)
{
    (void)state;
    char *folder = rig_folder();
    char *paths[3];
    for (int i = 0; i < 3; i++) {
        RigRun spec = rig_run();
        spec.seed = i + 1;
        spec.classes = 1000;
        spec.images = 3000;
        spec.epochs = 300;
        spec.done = 300;
        spec.pictures = 64;
        spec.lr = i == 1 ? "0.123" : "0.05";
        char *name = xformat("run%d", i);
        paths[i] = rig_make(folder, name, &spec);
        free(name);
    }
    char *out = path_join(folder, "compare.html");
    rig_ok(report_write((const char *const *)paths, 3, out));
    char *page = read_page(out);
    assert_non_null(strstr(page, "3 runs compared"));
    assert_non_null(strstr(page, "optim.lr"));
    assert_non_null(strstr(page, "0.123"));
    assert_int_equal(count_of(page, "<details>"), 3);
    assert_true(count_of(page, "data:image/png") >= 3 * 30);
    /* What all have alike is not among the differences, which come before the curves. */
    const char *differences = strstr(page, "Settings that differ");
    const char *curves = strstr(page, "Test accuracy");
    const char *alike = strstr(differences, "distill.temperature");
    assert_true(alike == NULL || alike > curves);
    free(page);
    free(out);
    for (int i = 0; i < 3; i++) {
        free(paths[i]);
    }
    rig_remove(folder);
}

/* More runs than a page can hold: it stays small and says what it left out. */
static void sixty_runs(void **state)
{
    (void)state;
    enum { RUNS = 60 };
    char *folder = rig_folder();
    char *paths[RUNS];
    for (int i = 0; i < RUNS; i++) {
        RigRun spec = rig_run();
        spec.seed = i + 1;
        spec.images = 100;
        spec.pictures = 16;
        spec.epochs = 200;
        spec.done = 200;
        char *name = xformat("run%02d", i);
        paths[i] = rig_make(folder, name, &spec);
        free(name);
    }
    char *out = path_join(folder, "compare.html");
    rig_ok(report_write((const char *const *)paths, RUNS, out));
    char *page = read_page(out);
    const size_t details = count_of(page, "<details>");
    assert_true(details > 0 && details < RUNS);
    char *left_out = xformat("Details of %zu runs are left out", RUNS - details);
    assert_non_null(strstr(page, left_out));
    free(left_out);
    free(page);
    free(out);
    for (int i = 0; i < RUNS; i++) {
        free(paths[i]);
    }
    rig_remove(folder);
}

/* ---- Damage ---- */

static const char *const all_files[] = {RUN_MANIFEST,       RUN_METRICS,      RUN_EPOCHS,
                                        RUN_ORIGINS,        RUN_ENVIRONMENT,  RUN_CLASSES,
                                        RUN_SAMPLES_PNG,    RUN_SAMPLES_JSON, RUN_STUDENT_LOGITS,
                                        RUN_TEACHER_LOGITS, RUN_LABELS,       RUN_HISTOGRAMS};
enum { FILES = sizeof all_files / sizeof all_files[0] };

static void report_anyway(const char *path, const char *what)
{
    const char *const runs[] = {path};
    char *out = path_join(path, "out.html");
    Err *err = report_write(runs, 1, out);
    if (err != NULL) {
        fail_msg("%s: %s", what, err->message);
    }
    free(read_page(out));
    free(out);
}

static void damaged_files(void **state)
{
    (void)state;
    char *folder = rig_folder();
    RigRun spec = rig_run();
    spec.done = 12;
    char *path = rig_make(folder, "run", &spec);
    for (int f = 0; f < FILES; f++) {
        char *file = path_join(path, all_files[f]);
        FileMap map;
        rig_ok(file_map(file, &map));
        const size_t size = map.size;
        char *bytes = xmalloc(size);
        memcpy(bytes, map.data, size);
        file_unmap(&map);
        assert_int_equal(unlink(file), 0);
        report_anyway(path, all_files[f]);
        const size_t cuts[] = {0, size / 3, size - 2};
        for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
            rig_file(path, all_files[f], bytes, cuts[c]);
            report_anyway(path, all_files[f]);
        }
        char *copy = xmalloc(size);
        for (size_t round = 0; round < 5; round++) {
            memcpy(copy, bytes, size);
            for (size_t k = 0; k < 6; k++) {
                Rng rng = rng_make(round, (uint32_t)f, k, RNG_TEST);
                const uint32_t at = rng_below(&rng, (uint32_t)size);
                copy[at] = (char)rng_u32(&rng);
            }
            rig_file(path, all_files[f], copy, size);
            report_anyway(path, all_files[f]);
        }
        rig_file(path, all_files[f], bytes, size);
        free(copy);
        free(bytes);
        free(file);
    }
    free(path);
    rig_remove(folder);
}

/* Files that fit their format but not each other. */
static void files_that_do_not_fit(void **state)
{
    (void)state;
    char *folder = rig_folder();
    RigRun spec = rig_run();
    spec.done = 3;
    char *path = rig_make(folder, "run", &spec);
    const int64_t short_labels[] = {7};
    const int32_t seven[7] = {0};
    rig_npy(path, RUN_LABELS, WEIGHT_I32, 1, short_labels, seven);
    RunData *run = NULL;
    rig_ok(run_data_open(path, RUN_DATA_ALL, &run));
    assert_null(run->student_logits);
    assert_null(run->teacher_logits);
    assert_true(run->notes.count >= 1);
    run_data_free(run);
    report_anyway(path, "labels too short");
    static const char wide[] =
        "{\"size\":32,\"columns\":200,\"scale\":1,\"gap\":2,\"pictures\":[{},{},{}]}";
    rig_file(path, RUN_SAMPLES_JSON, wide, strlen(wide));
    report_anyway(path, "pictures beyond the sheet");
    static const char huge[] =
        "{\"size\":4000,\"columns\":1,\"scale\":32,\"gap\":64,\"pictures\":[{},{}]}";
    rig_file(path, RUN_SAMPLES_JSON, huge, strlen(huge));
    report_anyway(path, "pictures larger than the sheet");
    static const char odd[] =
        "{\"status\":7,\"result\":[],\"dataset\":\"x\",\"resumes\":{},\"seed\":\"a\"}";
    rig_file(path, RUN_MANIFEST, odd, strlen(odd));
    report_anyway(path, "types of the manifest");
    static const char far[] =
        "{\"event\":\"epoch\",\"epoch\":1,\"step\":1e300,\"train_loss\":1e308,\"eval_top1\":-1e308}"
        "\n"
        "{\"event\":\"epoch\",\"epoch\":2,\"step\":-5,\"train_loss\":-1e308,\"eval_top1\":1e308}\n"
        "[]\n7\n{}\n";
    rig_file(path, RUN_METRICS, far, strlen(far));
    report_anyway(path, "far numbers");
    free(path);
    rig_remove(folder);
}

/* Only metrics of steps, only a CSV. */
static void parts_of_a_run(void **state)
{
    (void)state;
    char *folder = rig_folder();
    static const char steps[] = "{\"schema\":1,\"event\":\"open\"}\n"
                                "{\"event\":\"step\",\"step\":10,\"epoch\":1,\"loss\":3.5,\"top1\":"
                                "4,\"images_per_s\":99,\"data_share\":0.2}\n"
                                "{\"event\":\"step\",\"step\":20,\"epoch\":1,\"loss\":3.1,\"top1\":"
                                "9,\"images_per_s\":98,\"data_share\":0.1}\n";
    char *a = path_join(folder, "a");
    rig_file(a, RUN_METRICS, steps, strlen(steps));
    report_anyway(a, "steps only");
    static const char csv[] =
        "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,step,train_ce\n1,2,3,44.5,80,0.1,10,1\n"
        "2,1.5,2.5,55.5,85,0.1,20,1\n";
    char *b = path_join(folder, "b");
    rig_file(b, RUN_EPOCHS, csv, strlen(csv));
    RunData *run = NULL;
    rig_ok(run_data_open(b, RUN_DATA_ALL, &run));
    assert_int_equal(run->epochs_seen.count, 2);
    assert_float_equal(run_last_top1(run), 55.5, 1e-12);
    double epoch;
    assert_float_equal(run_best_top1(run, &epoch), 55.5, 1e-12);
    assert_float_equal(epoch, 2.0, 0.0);
    run_data_free(run);
    report_anyway(b, "CSV only");
    free(a);
    free(b);
    rig_remove(folder);
}

/* ---- Errors ---- */

static void no_run(void **state)
{
    (void)state;
    char *folder = rig_folder();
    char *out = path_join(folder, "x.html");
    const char *const empty[] = {folder};
    Err *err = report_write(empty, 1, out);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_NO_INPUT);
    assert_non_null(strstr(err->message, "not the folder of a run"));
    err_free(err);
    const char *const absent[] = {"/nowhere/at/all"};
    err = report_write(absent, 1, out);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_NO_INPUT);
    err_free(err);
    assert_false(path_exists(out));
    rig_file(folder, RUN_MANIFEST, "{", 1);
    err = report_write(empty, 1, out);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_NO_INPUT);
    err_free(err);
    free(out);
    rig_remove(folder);
}

static void one_of_two_is_no_run(void **state)
{
    (void)state;
    char *folder = rig_folder();
    RigRun spec = rig_run();
    spec.done = 3;
    char *path = rig_make(folder, "run", &spec);
    const char *const runs[] = {"/nowhere/at/all", path};
    char *out = path_join(folder, "x.html");
    rig_ok(report_write(runs, 2, out));
    char *page = read_page(out);
    assert_null(strstr(page, "runs compared"));
    free(page);
    char *nowhere = path_join(folder, "no/such/folder/x.html");
    const char *const one[] = {path};
    Err *err = report_write(one, 1, nowhere);
    assert_non_null(err);
    assert_non_null(strstr(err->message, "no/such/folder"));
    err_free(err);
    free(nowhere);
    free(out);
    free(path);
    rig_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calibration_by_hand),
        cmocka_unit_test(ties_and_broken_rows),
        cmocka_unit_test(who_is_right),
        cmocka_unit_test(confusions_count_both_ways),
        cmocka_unit_test(spreads),
        cmocka_unit_test(statistics_as_numpy),
        cmocka_unit_test(round_ticks),
        cmocka_unit_test(texts_are_harmless),
        cmocka_unit_test(one_run),
        cmocka_unit_test(failed_run),
        cmocka_unit_test(many_classes_many_epochs),
        cmocka_unit_test(sixty_runs),
        cmocka_unit_test(damaged_files),
        cmocka_unit_test(files_that_do_not_fit),
        cmocka_unit_test(parts_of_a_run),
        cmocka_unit_test(no_run),
        cmocka_unit_test(one_of_two_is_no_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
