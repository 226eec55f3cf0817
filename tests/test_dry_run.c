/* The dry run against the real one: same steps, same formula, and as many bytes as the opened run holds; sizes without
 * images; nothing on disk. */
#include "base/log.h"
#include "train/dry_run.h"
#include "train_rig.h"

#include <sys/stat.h>
#include <unistd.h>

/* Settings of a run in DIR/name on `device`. */
static Settings settings_of(const Fixture *f, const char *name, const char *const *extra)
{
    const char *overrides[MAX_OVERRIDES];
    size_t count = 0;
    for (int i = 0; i < COMMON; i++) {
        if (!replaced(common[i], extra)) {
            overrides[count++] = common[i];
        }
    }
    char *out = xformat("run.out=%s/%s", f->dir, name);
    overrides[count++] = out;
    for (int i = 0; extra && extra[i]; i++) {
        overrides[count++] = extra[i];
    }
    Settings settings;
    assert_fine(settings_load(NULL, overrides, count, &settings));
    free(out);
    return settings;
}

static size_t owned_by(const DryRunReport *r, const char *owner)
{
    for (int i = 0; i < r->n_owners; i++) {
        if (strcmp(r->owners[i].owner, owner) == 0) {
            return r->owners[i].bytes;
        }
    }
    return 0;
}

/* What an opened run has taken from the device, the teacher's table apart. */
static size_t taken(const Run *run)
{
    static const Arena scratch[] = {ARENA_ACT, ARENA_WORKSPACE};
    static const Arena own[] = {ARENA_PERSIST, ARENA_IO};
    const Exec *const execs[] = {run->step, run->update, run->eval};
    const size_t *elems = run->params.arena_elems;
    size_t bytes =
        sizeof(float) * (3 * elems[ARENA_WEIGHT] + elems[ARENA_FROZEN] + elems[ARENA_STATE]);
    for (int a = 0; a < 2; a++) {
        size_t most = 0;
        for (int i = 0; i < 3; i++) {
            const size_t needed = exec_bytes(execs[i], scratch[a]);
            most = needed > most ? needed : most;
            bytes += exec_bytes(execs[i], own[a]);
        }
        bytes += most;
    }
    return bytes + SHARED_BYTES;
}

static void a_dry_run_predicts_the_run(void **state)
{
    const Fixture *f = *state;
    static const char *const switches[][2] = {{"teacher.memo=off", "data.resident=off"},
                                              {"teacher.memo=on", "data.resident=on"}};
    for (int i = 0; i < 2; i++) {
        const char *const extra[] = {"distill.method=kd",    "teacher.model=resnet14",
                                     "teacher.weights=none", switches[i][0],
                                     switches[i][1],         NULL};
        Settings settings = settings_of(f, "planned", extra);
        DryRunReport report;
        assert_fine(dry_run(&settings, NULL, &report));
        assert_false(path_exists(settings.out)); /* nor were the teacher's weights looked for */
        assert_false(path_exists(settings.memo_dir));
        assert_int_equal(report.steps_per_epoch, 10);
        assert_int_equal(report.steps, 20);
        assert_int_equal(report.last_batch, 12);
        assert_string_equal(report.formula, "loss = 0.1*CE + 0.9*T^2*KL(teacher||student), T=4");
        assert_int_equal(report.resident, i);
        assert_int_equal(report.table, i);
        settings_free(&settings);

        const char *const real[] = {"distill.method=kd", "teacher.model=resnet8", f->teacher,
                                    switches[i][0],      switches[i][1],          NULL};
        settings = settings_of(f, "real", real);
        assert_fine(dry_run(&settings, NULL, &report));
        Run run;
        assert_fine(run_open(&settings, RESUME_AUTO, &run));
        const size_t pass = owned_by(&report, "teacher's pass that fills the table");
        assert_int_equal(pass > 0, i);
        assert_int_equal(report.total - pass, taken(&run));
        assert_int_equal(owned_by(&report, "resident training set"),
                         i ? 300 * (32 * 32 * 3 + 8) : 0);
        assert_int_equal(owned_by(&report, "teacher's table"), i ? 300 * 4 * 4 : 0);
        run_close(&run);
        settings_free(&settings);
        char *out = path_join(f->dir, "real");
        assert_fine(dir_remove(out));
        free(out);
    }
}

static size_t said(const DryRunReport *r, const char *part)
{
    for (int i = 0; i < r->n_disk; i++) {
        if (strstr(r->disk[i].owner, part)) {
            return r->disk[i].bytes;
        }
    }
    fail_msg("nothing is said about %s", part);
    return 0;
}

/* Bytes of all files below, links apart. */
static size_t tree_bytes(const char *path)
{
    struct stat info;
    assert_int_equal(lstat(path, &info), 0);
    if (!S_ISDIR(info.st_mode)) {
        return S_ISREG(info.st_mode) ? (size_t)info.st_size : 0;
    }
    char **names;
    size_t count;
    assert_fine(dir_list(path, &names, &count));
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        char *child = path_join(path, names[i]);
        bytes += tree_bytes(child);
        free(child);
    }
    names_free(names, count);
    return bytes;
}

static size_t taken_on_disk(const char *out, const char *name)
{
    char *path = path_join(out, name);
    const size_t bytes = tree_bytes(path);
    free(path);
    return bytes;
}

/* What is said of the disk against what a run leaves there: headers and states, a few KiB a file, are not counted. */
static void the_disk_holds_what_was_said(void **state)
{
    const Fixture *f = *state;
    const char *const extra[] = {"distill.method=kd", "teacher.model=resnet8", f->teacher,
                                 "teacher.memo=on", NULL};
    Settings settings = settings_of(f, "disk", extra);
    DryRunReport report;
    assert_fine(dry_run(&settings, NULL, &report));
    RunResult result;
    assert_fine(train_run(&settings, RESUME_AUTO, &result));
    const size_t slack = 24 << 10;
    const size_t saves = taken_on_disk(settings.out, "checkpoints"); /* of two epochs */
    const size_t checkpoints = said(&report, "checkpoints") / 4 * 2; /* two kept, best, next */
    const size_t weights = taken_on_disk(settings.out, "student_last.safetensors") +
                           taken_on_disk(settings.out, "student_best.safetensors");
    const size_t memo = tree_bytes(settings.memo_dir);
    print_message("checkpoints %zu (said %zu), weights %zu (%zu), memo %zu (%zu)\n", saves,
                  checkpoints, weights, said(&report, "weights"), memo, said(&report, "memo"));
    assert_true(saves >= checkpoints && saves <= checkpoints + 2 * slack);
    assert_true(weights >= said(&report, "weights") && weights <= said(&report, "weights") + slack);
    assert_in_range(memo, said(&report, "memo") * 9 / 10, said(&report, "memo") * 11 / 10);
    assert_string_equal(report.out, settings.out);
    assert_fine(dir_remove(settings.out));
    settings_free(&settings);
}

/* No images of this size exist here, and yet the run can be sized; activations grow with the batch. */
static void a_size_is_enough(void **state)
{
    const Fixture *f = *state;
    size_t activations[2];
    for (int i = 0; i < 2; i++) {
        const char *const extra[] = {"data.kind=shape",
                                     "data.options=size=224, classes=1000,train=1281167,test=50000",
                                     "student.model=resnet18",
                                     i ? "train.batch=32" : "train.batch=16",
                                     "eval.batch=16",
                                     "schedule.epochs=90",
                                     "train.precision=fp32",
                                     NULL};
        Settings settings = settings_of(f, "shape", extra);
        DryRunReport report;
        assert_fine(dry_run(&settings, NULL, &report));
        assert_int_equal(report.steps_per_epoch, i ? 40037 : 80073);
        assert_int_equal(report.steps, 90L * report.steps_per_epoch);
        assert_int_equal(report.last_batch, 15);
        assert_non_null(strstr(report.student, "11689512 parameters")); /* torchvision's count */
        assert_true(owned_by(&report, "momentum") >= 11689512 * sizeof(float));
        activations[i] = owned_by(&report, "activations and their gradients");
        RunResult result;
        assert_code(train_run(&settings, RESUME_AUTO, &result), EXIT_CONFIG_ERR, "--dry-run");
        assert_false(path_exists(settings.out));
        settings_free(&settings);
    }
    const double ratio = (double)activations[1] / (double)activations[0];
    print_message("activations: %.1f MiB at batch 16, %.3f times as much at 32\n",
                  (double)activations[0] / 0x1p20, ratio);
    assert_true(ratio > 1.98 && ratio < 2.02);
}

static void a_bad_size_is_refused(void **state)
{
    (void)state;
    static const char *const options[][2] = {{"size=0", "from 1 to 4096"},
                                             {"classes=ten", "from 2 to"},
                                             {"clases=10", "did you mean 'classes'?"},
                                             {"size", "are taken, as size=224"},
                                             {"train=-5", "from 1 to"},
                                             {"test=1x", "from 1 to"},
                                             {"size=", "from 1 to"},
                                             {"size=32, size=64", "given twice"}};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        char *override = xformat("data.options=%s", options[i][0]);
        const char *const overrides[] = {"data.kind=shape", override};
        Settings settings;
        assert_code(settings_load(NULL, overrides, 2, &settings), EXIT_CONFIG_ERR, options[i][1]);
        free(override);
    }
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dry_run_predicts_the_run),
        cmocka_unit_test(the_disk_holds_what_was_said),
        cmocka_unit_test(a_size_is_enough),
        cmocka_unit_test(a_bad_size_is_refused),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
