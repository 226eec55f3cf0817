/* What a finished run says at its end. It leaves by progress_write, not through stdio: that nobody listens is no failure of
 * the run, and must not make one of its exit code. */
#include "train/result.h"

#include "base/files.h"
#include "base/log.h"
#include "train/rundir.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROW "  %-12s"

static void put_percent(Text *out, double value)
{
    if (value >= 0.0) {
        text_add(out, "  %7.2f %%", value);
    } else {
        text_add(out, "  %9s", "-");
    }
}

/* Student, and where there is a teacher its figure and the difference. */
static void put_accuracy(Text *out, const char *name, double student, double teacher,
                         bool distilled)
{
    text_add(out, ROW, name);
    put_percent(out, student);
    if (distilled) {
        put_percent(out, teacher);
        if (student >= 0.0 && teacher >= 0.0) {
            text_add(out, "  %+7.2f", student - teacher);
        }
    }
}

/* As a word of a shell's command line. */
static char *shell_word(const char *text)
{
    if (text[strspn(text,
                    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=:,@%")] ==
        '\0') {
        return xstrdup(text);
    }
    Text out = {0};
    text_puts(&out, "'");
    for (const char *at = text; *at; at++) {
        if (*at == '\'') {
            text_puts(&out, "'\\''");
        } else {
            text_bytes(&out, at, 1);
        }
    }
    text_puts(&out, "'");
    return out.text;
}

static void put_next(Text *out, const Settings *s, const char *out_folder)
{
    char *folder = shell_word(out_folder);
    char *report = path_join(out_folder, RUN_REPORT);
    const bool reported = path_exists(report);
    if (reported) {
        text_add(out, ROW "  %s\n", "report", report);
    }
    if (!s->teacher_model) {
        text_add(
            out,
            ROW
            "  distil it: cudistill train CONFIG.ini --name NAME-kd --set distill.method=kd --set "
            "teacher.model=%s --set teacher.weights=%s/student_last.safetensors\n",
            "next", s->student_model, folder);
    } else if (reported) {
        text_add(out, ROW "  cudistill table %s\n", "next", folder);
    } else {
        text_add(out, ROW "  cudistill report %s\n", "next", folder);
    }
    free(report);
    free(folder);
}

/* A result that was not made by train_run has no folder of its own. */
static const char *folder_of(const Settings *s, const RunResult *r)
{
    return r->out[0] ? r->out : s->out;
}

void result_table(Text *out, const Settings *s, const RunResult *r)
{
    const bool distilled = s->teacher_model != NULL;
    text_add(out, "%s: %s", s->name, s->student_model);
    if (distilled) {
        text_add(out, ", teacher %s", s->teacher_model);
    }
    text_add(out, "\n" ROW "  %9s", "", "student");
    if (distilled) {
        text_add(out, "  %9s  %7s", "teacher", "gap");
    }
    text_puts(out, "\n");
    put_accuracy(out, "last top-1", r->last_top1, r->teacher_top1, distilled);
    text_puts(out, "\n");
    put_accuracy(out, "last top-5", r->last_top5, r->teacher_top5, distilled);
    text_puts(out, "\n");
    put_accuracy(out, "best top-1", r->best_top1, r->teacher_top1, distilled);
    if (r->best_epoch > 0) {
        text_add(out, "  epoch %u", r->best_epoch);
    }
    text_puts(out, "\n");
    if (distilled && r->agreement >= 0.0) {
        text_add(out, ROW, "agreement");
        put_percent(out, r->agreement);
        text_puts(out, "  same class as the teacher, test set\n");
    }
    char clock[16];
    progress_clock(r->train_seconds, clock);
    text_add(out, ROW "  %9s  %ld steps, %.0f img/s\n", "training", clock, r->steps,
             r->images_per_s);
    if (r->nonfinite > 0) {
        text_add(out, ROW "  %9ld  updates\n", "skipped", r->nonfinite);
    }
    text_add(out, ROW "  %s/student_last.safetensors, student_best.safetensors\n", "weights",
             folder_of(s, r));
    put_next(out, s, folder_of(s, r));
}

/* ---- JSON ---- */

static void put_text(Text *out, const char *key, const char *text)
{
    text_add(out, ",\"%s\":", key);
    text_json(out, text ? text : "");
}

static void put_known(Text *out, const char *key, double value)
{
    text_json_number(out, key, value >= 0.0 ? value : NAN);
}

void result_json(Text *out, const Settings *s, const RunResult *r)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    text_add(out, "{\"event\":\"result\",\"time\":%.3f",
             (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    put_text(out, "name", s->name);
    put_text(out, "out", folder_of(s, r));
    put_text(out, "student", s->student_model);
    put_text(out, "teacher", s->teacher_model);
    text_add(out, ",\"seed\":%llu,\"steps\":%ld,\"epochs\":%u,\"best_epoch\":%u,\"skipped\":%ld",
             (unsigned long long)s->seed, r->steps, r->epochs, r->best_epoch, r->nonfinite);
    put_known(out, "last_top1", r->last_top1);
    put_known(out, "last_top5", r->last_top5);
    put_known(out, "best_top1", r->best_top1);
    put_known(out, "teacher_top1", r->teacher_top1);
    put_known(out, "teacher_top5", r->teacher_top5);
    put_known(out, "agreement", r->agreement);
    text_json_number(out, "train_seconds", r->train_seconds);
    text_json_number(out, "images_per_s", r->images_per_s);
    text_puts(out, "}\n");
}

void result_print(const Settings *settings, const RunResult *result)
{
    Text out = {0};
    if (settings->progress == PROGRESS_JSON) {
        result_json(&out, settings, result);
    } else {
        result_table(&out, settings, result);
    }
    if (!progress_write(STDOUT_FILENO, out.text, out.size)) {
        log_warn("the result could not be written to standard output; it is in %s/" RUN_MANIFEST,
                 folder_of(settings, result));
    }
    text_free(&out);
}
