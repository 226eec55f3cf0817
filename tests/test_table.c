/* Tables of made-up runs: groups, means, published figures, remarks, the four forms. */
#include "report/table.h"

#include "report/markup.h"
#include "run_rig.h"

#include <jansson.h>

static char *make(const char *folder, const char *name, RigRun spec)
{
    spec.pictures = 0;
    spec.images = 20;
    spec.done = spec.done > 3 ? 3 : spec.done;
    return rig_make(folder, name, &spec);
}

static Table *open_all(const char *folder)
{
    Table *table = NULL;
    rig_ok(table_open(&folder, 1, &table));
    return table;
}

static char *print(const Table *table, TableForm form)
{
    Text text = {0};
    table_print(table, form, &text);
    return text.text;
}

/* Seeds 1 to 3 with 70, 71, 73: mean 71.33, sample deviation 1.53. Other names, seeds and log settings are one group;
 * another learning rate is another. */
static void seeds_are_a_group(void **state)
{
    (void)state;
    char *folder = rig_folder();
    const double last[] = {70.0, 71.0, 73.0};
    for (int i = 0; i < 3; i++) {
        RigRun spec = rig_run();
        spec.seed = i + 1;
        spec.last = last[i];
        spec.best = last[i] + 0.5;
        spec.seconds = 600.0 + 100.0 * i;
        spec.name = i == 2 ? "another-name" : "kd-resnet20";
        char *name = xformat("deep/er/kd-s%d", i + 1);
        free(make(folder, name, spec));
        free(name);
    }
    RigRun other = rig_run();
    other.lr = "0.1";
    other.last = 65.0;
    free(make(folder, "kd-lr", other));
    Table *table = open_all(folder);
    assert_int_equal(table->run_count, 4);
    assert_int_equal(table->count, 2);
    const TableGroup *seeds = table->groups[0].count == 3 ? &table->groups[0] : &table->groups[1];
    assert_int_equal(seeds->count, 3);
    assert_int_equal(seeds->last.n, 3);
    assert_float_equal(seeds->last.mean, 214.0 / 3.0, 1e-9);
    assert_float_equal(seeds->last.deviation, sqrt(7.0 / 3.0), 1e-9);
    assert_float_equal(seeds->best.mean, 214.0 / 3.0 + 0.5, 1e-9);
    assert_float_equal(seeds->seconds.mean, 700.0, 1e-9);
    assert_float_equal(seeds->agreement.mean, 80.0, 1e-9);
    assert_string_equal(seeds->settings, "optim.lr=0.05");
    assert_true(seeds->published);
    assert_float_equal(seeds->figure.top1, 70.66, 1e-9);
    assert_string_equal(seeds->remark, "");
    char *text = print(table, TABLE_TEXT);
    assert_non_null(strstr(text, "71.33 ± 1.53"));
    assert_non_null(strstr(text, "71.83 ± 1.53"));
    assert_non_null(strstr(text, "11 m 40 s"));
    assert_non_null(strstr(text, "70.66"));
    assert_non_null(strstr(text, "RepDistiller README"));
    assert_null(strstr(text, "65.00 ±")); /* one run has no deviation */
    assert_non_null(strstr(text, "65.00"));
    free(text);
    table_free(table);
    rig_remove(folder);
}

static void short_schedule_is_not_comparable(void **state)
{
    (void)state;
    char *folder = rig_folder();
    RigRun spec = rig_run();
    spec.epochs = 12;
    spec.teacher_top1 = 70.0;
    free(make(folder, "run", spec));
    Table *table = open_all(folder);
    assert_non_null(strstr(table->groups[0].remark, "not comparable: 12 of 240 epochs"));
    assert_non_null(strstr(table->groups[0].remark, "teacher 70.00, published 72.34"));
    char *text = print(table, TABLE_TEXT);
    assert_non_null(strstr(text, "not comparable: 12 of 240 epochs"));
    free(text);
    table_free(table);
    rig_remove(folder);
}

static void unfinished_runs_are_left_out(void **state)
{
    (void)state;
    char *folder = rig_folder();
    RigRun spec = rig_run();
    free(make(folder, "a", spec));
    spec.seed = 2;
    spec.status = "running";
    spec.last = 10.0;
    spec.done = 3;
    free(make(folder, "b", spec));
    Table *table = open_all(folder);
    assert_int_equal(table->count, 1);
    assert_int_equal(table->groups[0].finished, 1);
    assert_float_equal(table->groups[0].last.mean, 70.0, 1e-9);
    assert_non_null(strstr(table->groups[0].remark, "1 not finished (3 of 240 epochs), left out"));
    table_free(table);
    char *only = path_join(folder, "b");
    table = open_all(only);
    assert_float_equal(table->groups[0].last.mean, 10.0, 1e-9);
    assert_string_equal(table->groups[0].remark, "1 not finished (3 of 240 epochs)");
    table_free(table);
    /* Named twice, and once more by the folder around it: still two runs. */
    const char *const often[] = {only, folder, only};
    table = NULL;
    rig_ok(table_open(often, 3, &table));
    assert_int_equal(table->run_count, 2);
    free(only);
    table_free(table);
    rig_remove(folder);
}

/* Every line of the text is as wide, in columns of a terminal, up to its last cell; wide and multi-byte names too. */
static void columns_line_up(void **state)
{
    (void)state;
    char *folder = rig_folder();
    static const char *const names[] = {"resnet20", "n\xC3\xA4tz", "\xE7\xBD\x91\xE7\xBB\x9C"};
    for (int i = 0; i < 3; i++) {
        RigRun spec = rig_run();
        spec.student = names[i];
        char *name = xformat("r%d", i);
        free(make(folder, name, spec));
        free(name);
    }
    Table *table = open_all(folder);
    char *text = print(table, TABLE_TEXT);
    int where = -1;
    int lines = 0;
    for (char *rest = text, *line = NULL;
         (line = strsep(&rest, "\n")) != NULL && line[0] != '\0';) {
        char *method = strstr(line, lines == 0 ? "method" : "kd");
        assert_non_null(method);
        *method = '\0';
        const int at = text_columns(line);
        assert_true(where < 0 || at == where);
        where = at;
        lines++;
    }
    assert_int_equal(lines, 4);
    free(text);
    table_free(table);
    rig_remove(folder);
}

static void machine_forms(void **state)
{
    (void)state;
    char *folder = rig_folder();
    RigRun spec = rig_run();
    spec.student = "a\"b,c|d";
    RigRun plain = rig_run();
    plain.last = 69.25;
    plain.teacher = "";
    plain.method = "none";
    Text manifest = {0};
    char *path = make(folder, "odd", plain);
    text_puts(&manifest, "{\"name\":\"odd\",\"status\":\"finished\",\"dataset\":{\"name\":"
                         "\"cifar100\"},\"student\":");
    text_json(&manifest, spec.student);
    text_puts(&manifest, ",\"method\":\"none\",\"seed\":1,\"epochs\":240}");
    rig_text(path, RUN_MANIFEST, &manifest);
    free(path);
    free(make(folder, "plain", plain));
    Table *table = open_all(folder);
    char *json = print(table, TABLE_JSON);
    json_t *groups = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
    assert_int_equal(json_array_size(groups), 2);
    const json_t *second = json_array_get(groups, 1);
    assert_string_equal(json_string_value(json_object_get(second, "student")), "resnet20");
    assert_float_equal(json_number_value(json_object_get(second, "last_top1_mean")), 69.25, 1e-9);
    assert_float_equal(json_number_value(json_object_get(second, "published_top1")), 69.06, 1e-9);
    assert_true(json_is_null(json_object_get(second, "last_top1_sd")));
    json_decref(groups);
    free(json);
    char *csv = print(table, TABLE_CSV);
    assert_non_null(strstr(csv, "\n\"cifar100\",\"a\"\"b,c|d\",\"\",\"none\",1,"));
    assert_non_null(strstr(csv, "\n\"cifar100\",\"resnet20\",\"\",\"none\",1,69.25,,71,,"));
    free(csv);
    char *markdown = print(table, TABLE_MARKDOWN);
    assert_non_null(strstr(markdown, "a\"b,c\\|d"));
    free(markdown);
    table_free(table);
    rig_remove(folder);
}

/* ---- Published figures ---- */

static double figure(const char *dataset, const char *teacher, const char *student,
                     const char *method)
{
    Published out;
    return published_find(dataset, teacher, student, method, &out) ? out.top1 : NAN;
}

/* From the README files; a column taken for its neighbour would show. */
static void figures_as_published(void **state)
{
    (void)state;
    assert_float_equal(figure("cifar100", "resnet56", "resnet20", "kd"), 70.66, 0.0);
    assert_float_equal(figure("cifar100", "resnet110", "resnet20", "kd"), 70.67, 0.0);
    assert_float_equal(figure("cifar100", "resnet110", "resnet32", "crd"), 73.48, 0.0);
    assert_float_equal(figure("cifar100", "resnet32x4", "resnet8x4", "dkd"), 76.32, 0.0);
    assert_float_equal(figure("cifar100", "wrn_40_2", "wrn_40_1", "kd"), 73.54, 0.0);
    assert_float_equal(figure("cifar100", "vgg13", "vgg8", "kd"), 72.98, 0.0);
    assert_float_equal(figure("cifar100", "wrn-40-2", "WRN-16-2", "energy_kd"), 75.53, 0.0);
    assert_float_equal(figure("cifar100", "resnet32x4", "ShuffleV2", "dkd"), 77.07, 0.0);
    assert_float_equal(figure("cifar100", "vgg13", "MobileNetV2", "kd"), 67.37, 0.0);
    assert_float_equal(figure("cifar100", "ResNet50", "vgg8", "kd"), 73.81, 0.0);
    assert_float_equal(figure("cifar100", NULL, "resnet8x4", "none"), 72.50, 0.0);
    assert_float_equal(figure("imagenet", "resnet34", "resnet18", "dkd"), 71.70, 0.0);
    assert_float_equal(figure("imagenet", "resnet50", "mobilenet_v1", "kd"), 70.50, 0.0);
    assert_true(isnan(figure("cifar10", "resnet56", "resnet20", "kd")));
    assert_true(isnan(figure("cifar100", "wrn_16_2", "resnet20", "kd")));
    assert_true(isnan(figure("cifar100", "vgg13", "vgg8", "energy_kd")));
    /* MobileNetV1's figures must not appear beside a MobileNetV2. */
    assert_true(isnan(figure("imagenet", "resnet50", "mobilenet_v2", "kd")));
    assert_non_null(published_warning("imagenet", "resnet50", "MobileNetV2"));
    assert_null(published_warning("imagenet", "resnet50", "mobilenet_v1"));
    assert_null(published_warning("cifar100", "resnet50", "mobilenet_v2"));
}

/* A method lies above chance, below its teacher by no more than distillation explains, and has a source. */
static void figures_are_plausible(void **state)
{
    (void)state;
    const char *dataset;
    const char *teacher;
    const char *student;
    const char *method;
    Published out;
    size_t stated = 0;
    for (size_t i = 0; published_at(i, &dataset, &teacher, &student, &method, &out); i++) {
        if (out.top1 > 0.0) {
            stated++;
            assert_true(out.top1 > 55.0 && out.top1 < 80.0);
            assert_true(out.source != NULL && out.source[0] != '\0');
            assert_true(out.epochs > 0 && out.batch > 0);
            assert_true((teacher[0] == '\0') == (strcmp(method, "none") == 0));
        }
    }
    assert_true(stated > 200);
}

/* ---- Errors ---- */

static void nothing_to_show(void **state)
{
    (void)state;
    char *folder = rig_folder();
    Table *table = NULL;
    const char *path = folder;
    Err *err = table_open(&path, 1, &table);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_NO_INPUT);
    assert_non_null(strstr(err->message, folder));
    err_free(err);
    path = "/nowhere/at/all";
    err = table_open(&path, 1, &table);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_NO_INPUT);
    err_free(err);
    /* A damaged run beside a good one is named, not fatal. */
    free(make(folder, "good", rig_run()));
    char *bad = path_join(folder, "bad");
    rig_file(bad, RUN_MANIFEST, "{", 1);
    table = open_all(folder);
    assert_int_equal(table->run_count, 1);
    assert_non_null(strstr(table->skipped, "bad"));
    table_free(table);
    free(bad);
    rig_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_are_a_group),
        cmocka_unit_test(short_schedule_is_not_comparable),
        cmocka_unit_test(unfinished_runs_are_left_out),
        cmocka_unit_test(columns_line_up),
        cmocka_unit_test(machine_forms),
        cmocka_unit_test(figures_as_published),
        cmocka_unit_test(figures_are_plausible),
        cmocka_unit_test(nothing_to_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
