/* Folders of runs made up for tests of reports and tables: every file of train/rundir.h, small numbers, no training. */
#ifndef CUDISTILL_TESTS_RUN_RIG_H
#define CUDISTILL_TESTS_RUN_RIG_H

#include "base/err.h"
#include "base/files.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/text.h"
#include "io/npy.h"
#include "io/png.h"
#include "train/rundir.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define RIG_EVIL "<script>alert('x')</script>\"&amp;"

typedef struct {
    const char *name, *student, *teacher, *method, *status, *dataset, *lr, *class_name;
    int seed, epochs, done, classes, images, pictures;
    double last, best, teacher_top1, agreement, seconds;
} RigRun;

static inline RigRun rig_run(void)
{
    return (RigRun){.name = "kd-resnet20",
                    .student = "resnet20",
                    .teacher = "resnet56",
                    .method = "kd",
                    .status = "finished",
                    .dataset = "cifar100",
                    .lr = "0.05",
                    .class_name = "thing",
                    .seed = 1,
                    .epochs = 240,
                    .done = 240,
                    .classes = 10,
                    .images = 200,
                    .pictures = 12,
                    .last = 70.0,
                    .best = 71.0,
                    .teacher_top1 = 72.34,
                    .agreement = 80.0,
                    .seconds = 700.0};
}

static inline void rig_ok(Err *err)
{
    if (err != NULL) {
        fail_msg("%s", err->message);
    }
}

static inline void rig_file(const char *folder, const char *name, const char *text, size_t size)
{
    char *path = path_join(folder, name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    rig_ok(dir_make(path));
    *slash = '/';
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    free(path);
}

static inline void rig_text(const char *folder, const char *name, Text *text)
{
    rig_file(folder, name, text->text, text->size);
    text_free(text);
}

static inline void rig_manifest(const char *folder, const RigRun *run)
{
    Text m = {0};
    text_puts(&m, "{\"format\":1,\"version\":\"0.1.0\",\"commit\":\"abc\",\"name\":");
    text_json(&m, run->name);
    text_puts(&m, ",\"project\":\"\",\"tags\":\"\",\"notes\":");
    text_json(&m, RIG_EVIL);
    text_add(
        &m,
        ",\"seed\":%d,\"status\":\"%s\",\"exit_code\":0,\"error\":null,\"started\":1000000000,"
        "\"updated\":1000003600,\"student\":\"%s\",\"student_parameters\":278324,\"teacher\":\"%"
        "s\","
        "\"teacher_weights\":\"w\",\"teacher_hash\":\"00\",\"method\":\"%s\",\"formula\":\"loss\","
        "\"device\":\"cpu\",\"precision\":\"fp32\",\"batch\":64,\"epochs\":%d,"
        "\"dataset\":{\"name\":\"%s\",\"source\":\"d\",\"hash\":\"11\",\"train\":50000,\"test\":%d,"
        "\"classes\":%d,\"size\":32},\"resumes\":[{\"time\":1000001000,\"step\":99,\"host\":\"h\"}]"
        ","
        "\"result\":{\"last_top1\":%.4f,\"last_top5\":90,\"last_loss\":1,\"best_top1\":%.4f,"
        "\"best_epoch\":7,\"teacher_top1\":",
        run->seed, run->status, run->student, run->teacher, run->method, run->epochs, run->dataset,
        run->images, run->classes, run->last, run->best);
    if (run->teacher[0] != '\0') {
        text_add(&m, "%.4f,\"teacher_top5\":93,\"agreement\":%.4f", run->teacher_top1,
                 run->agreement);
    } else {
        text_puts(&m, "null,\"teacher_top5\":null,\"agreement\":null");
    }
    text_add(&m,
             ",\"epochs\":%d,\"steps\":%d,\"train_seconds\":%.3f,\"images_per_s\":3000,"
             "\"nonfinite_steps\":2}}\n",
             run->done, run->done * 10, run->seconds);
    rig_text(folder, RUN_MANIFEST, &m);
}

static inline void rig_records(const char *folder, const RigRun *run)
{
    Text lines = {0};
    Text csv = {0};
    text_puts(&lines, "{\"schema\":1,\"event\":\"open\",\"time\":1}\n");
    text_puts(
        &csv,
        "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,step,train_ce,train_top1,teacher_top1,"
        "agreement,train_term1,eval_count,images_per_s,seconds,data_share,best\n");
    for (int e = 1; e <= run->done; e++) {
        const double fall = exp(-e / 40.0);
        for (int s = 5; s <= 10; s += 5) {
            text_add(
                &lines,
                "{\"event\":\"step\",\"time\":1,\"step\":%d,\"epoch\":%d,\"lr\":0.05,\"loss\":%.5f,"
                "\"ce\":0.3,\"top1\":50,\"teacher_top1\":80,\"agreement\":60,\"terms\":[%.5f],"
                "\"images_per_s\":%d}\n",
                (e - 1) * 10 + s, e, 1 + fall, fall, 3000 + e % 7 * 40);
        }
        text_add(
            &lines,
            "{\"event\":\"epoch\",\"time\":1,\"step\":%d,\"epoch\":%d,\"lr\":%g,\"train_loss\":%."
            "5f,"
            "\"train_ce\":0.3,\"train_top1\":%.4f,\"teacher_top1\":80,\"agreement\":60,\"terms\":[%"
            ".5f],"
            "\"eval_top1\":%.4f,\"eval_top5\":90,\"eval_loss\":%.5f,\"eval_count\":200,"
            "\"images_per_s\":3000,\"seconds\":3,\"data_share\":0.05,\"phase_data\":0.05,"
            "\"phase_teacher\":0.25,\"phase_student\":0.6,\"phase_update\":0.1,\"best\":false}\n",
            e * 10, e, e > 150 ? 0.005 : 0.05, 1 + fall, 70 - 40 * fall, fall, 70 - 45 * fall,
            1 + fall);
        text_add(&csv, "%d,%.5f,1,%.4f,90,0.05,%d,0.3,60,80,60,%.5f,200,3000,3,0.05,0\n", e,
                 1 + fall, 70 - 45 * fall, e * 10, fall);
    }
    rig_text(folder, RUN_METRICS, &lines);
    rig_text(folder, RUN_EPOCHS, &csv);
}

static inline void rig_settings(const char *folder, const RigRun *run)
{
    Text tsv = {0};
    text_add(
        &tsv,
        "run.name\t%s\tmy.ini:2\nrun.seed\t%d\t--set\nstudent.model\t%s\tmy.ini:5\n"
        "distill.method\t%s\tmy.ini:7\ndistill.temperature\t4\tdefault\noptim.lr\t%s\tmy.ini:9\n"
        "schedule.kind\tmultistep\tbase.ini:4\nschedule.epochs\t%d\tbase.ini:5\nlog.every_s\t%"
        "d\tdefault\n",
        run->name, run->seed, run->student, run->method, run->lr, run->epochs, run->seed);
    rig_text(folder, RUN_ORIGINS, &tsv);
    Text env = {0};
    text_puts(&env, "{\"host\":\"h\",\"libraries\":{\"oneDNN\":\"2.6.3\"},\"note\":");
    text_json(&env, RIG_EVIL);
    text_puts(&env, "}\n");
    rig_text(folder, RUN_ENVIRONMENT, &env);
    Text classes = {0};
    for (int k = 0; k < run->classes; k++) {
        char *name = xformat("%s %d", run->class_name, k);
        text_puts(&classes, k > 0 ? "," : "[");
        text_json(&classes, name);
        free(name);
    }
    text_puts(&classes, "]\n");
    rig_text(folder, RUN_CLASSES, &classes);
}

static inline void rig_npy(const char *folder, const char *name, WeightType type, int ndim,
                           const int64_t *shape, const void *data)
{
    char *path = path_join(folder, name);
    rig_ok(npy_write(path, type, ndim, shape, data));
    free(path);
}

/* The student is right more often than chance and takes the next class now and then. */
static inline void rig_predictions(const char *folder, const RigRun *run)
{
    char *path = path_join(folder, "predictions");
    rig_ok(dir_make(path));
    free(path);
    const size_t count = (size_t)run->images * (size_t)run->classes;
    fp16 *logits = xmalloc(count * sizeof *logits);
    int32_t *labels = xmalloc((size_t)run->images * sizeof *labels);
    const int64_t shape[2] = {run->images, run->classes};
    for (int net = 0; net < 2; net++) {
        for (int i = 0; i < run->images; i++) {
            Rng rng = rng_make((uint64_t)run->seed, (uint32_t)net, (uint64_t)i, RNG_TEST);
            labels[i] = i % run->classes;
            const int right = rng_uniform(&rng) < 0.7F ? labels[i] : (labels[i] + 1) % run->classes;
            for (int k = 0; k < run->classes; k++) {
                const float z = rng_uniform(&rng) * 2.0F + (k == right ? 4.0F : 0.0F);
                logits[(size_t)i * (size_t)run->classes + (size_t)k] = fp16_from_float(z);
            }
        }
        if (net == 0 || run->teacher[0] != '\0') {
            rig_npy(folder, net == 0 ? RUN_STUDENT_LOGITS : RUN_TEACHER_LOGITS, WEIGHT_F16, 2,
                    shape, logits);
        }
    }
    rig_npy(folder, RUN_LABELS, WEIGHT_I32, 1, shape, labels);
    free(logits);
    free(labels);
}

static inline void rig_pictures(const char *folder, const RigRun *run)
{
    enum { SIDE = 32, GAP = 2, COLUMNS = 8 };
    uint8_t *pictures = xmalloc((size_t)run->pictures * SIDE * SIDE * 3 + 1);
    for (int i = 0; i < run->pictures * SIDE * SIDE * 3; i++) {
        pictures[i] = (uint8_t)((unsigned)i * 2654435761u >> 24);
    }
    uint8_t *rgb = NULL;
    int height;
    int width;
    picture_grid(pictures, run->pictures, SIDE, SIDE, COLUMNS, GAP, 1, &rgb, &height, &width);
    uint8_t *png = NULL;
    size_t size = 0;
    rig_ok(png_encode(rgb, height, width, &png, &size));
    rig_file(folder, RUN_SAMPLES_PNG, (const char *)png, size);
    Text list = {0};
    text_puts(&list, "{\"size\":32,\"columns\":8,\"scale\":1,\"gap\":2,\"pictures\":[");
    for (int i = 0; i < run->pictures; i++) {
        text_add(&list,
                 "%s{\"sample\":%d,\"label\":%d,\"dx\":1,\"dy\":2,\"flip\":true,\"teacher\":[{"
                 "\"class\":%d,"
                 "\"p\":0.9},{\"class\":1,\"p\":0.05},{\"class\":2,\"p\":0.02}],\"energy\":-9.1,"
                 "\"temperature\":4}",
                 i > 0 ? "," : "", i, i % run->classes, (i + i / 5) % run->classes);
    }
    text_puts(&list, "]}\n");
    rig_text(folder, RUN_SAMPLES_JSON, &list);
    free(png);
    free(rgb);
    free(pictures);
}

static inline void rig_histograms(const char *folder)
{
    Text text = {0};
    text_puts(&text,
              "{\"energy\":{\"of\":\"teacher, training set\",\"edges\":[-12,-10,-8,-6],"
              "\"counts\":[10,30,5]},\"temperature\":{\"of\":\"training set\",\"values\":[2,4,6],"
              "\"counts\":[9,27,9]}}\n");
    rig_text(folder, RUN_HISTOGRAMS, &text);
}

/* All files of a run in folder/name; returns the path, caller frees. */
static inline char *rig_make(const char *folder, const char *name, const RigRun *run)
{
    char *path = path_join(folder, name);
    rig_ok(dir_make(path));
    rig_manifest(path, run);
    rig_records(path, run);
    rig_settings(path, run);
    rig_predictions(path, run);
    if (run->pictures > 0) {
        rig_pictures(path, run);
    }
    if (run->teacher[0] != '\0') {
        rig_histograms(path);
    }
    return path;
}

/* A folder of its own for each test. */
static inline char *rig_folder(void)
{
    char *folder = xstrdup("/tmp/cudistill-report-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return folder;
}

static inline void rig_remove(char *folder)
{
    rig_ok(dir_remove(folder));
    free(folder);
}

static inline char *rig_read(const char *path)
{
    char *text = NULL;
    rig_ok(file_read_text(path, (size_t)64 << 20, &text));
    return text;
}

#endif
