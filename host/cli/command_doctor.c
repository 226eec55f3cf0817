/* `cudistill doctor`. */
#include "cli/commands.h"
#include "cli/doctor.h"

#include "base/text.h"

#include <stdio.h>

static const char *const level_names[] = {"ok", "note", "warn", "bad"};

static void print_text(const Doctor *doctor)
{
    for (size_t i = 0; i < doctor->count; i++) {
        const Finding *f = &doctor->findings[i];
        printf("%-5s %-13s %s\n", level_names[f->level], f->subject, f->found);
        if (f->advice) {
            printf("%-5s %-13s -> %s\n", "", "", f->advice);
        }
    }
}

static void print_json(const Doctor *doctor)
{
    Text text = {0};
    text_add(&text, "{\"worst\":\"%s\",\"findings\":[", level_names[doctor_worst(doctor)]);
    for (size_t i = 0; i < doctor->count; i++) {
        const Finding *f = &doctor->findings[i];
        text_add(&text, "%s\n{\"level\":\"%s\",\"subject\":", i > 0 ? "," : "",
                 level_names[f->level]);
        text_json(&text, f->subject);
        text_puts(&text, ",\"found\":");
        text_json(&text, f->found);
        text_puts(&text, ",\"advice\":");
        if (f->advice) {
            text_json(&text, f->advice);
        } else {
            text_puts(&text, "null");
        }
        text_puts(&text, "}");
    }
    text_puts(&text, "]}\n");
    (void)fputs(text.text, stdout);
    text_free(&text);
}

static Err *run(const Args *args)
{
    Doctor doctor = {0};
    doctor_machine(&doctor);
    doctor_libraries(&doctor);
    doctor_gpu(&doctor);
    doctor_disk(&doctor, args_count(args) > 0 ? args_at(args, 0) : ".");
    if (args_flag(args, "json")) {
        print_json(&doctor);
    } else {
        print_text(&doctor);
    }
    Err *err = doctor_worst(&doctor) == DOCTOR_BAD
                   ? err_new(EXIT_OS, "something here will fail: see the lines that begin with bad")
                   : NULL;
    doctor_free(&doctor);
    return err;
}

static const ArgOption options[] = {
    {.name = "json", .kind = ARG_FLAG, .help = "one JSON object on stdout"}};
static const char *const examples[] = {"cudistill doctor", "cudistill doctor /data/runs --json",
                                       NULL};

const Command command_doctor = {
    .name = "doctor",
    .arguments = "[FOLDER]",
    .argument_kind = ARG_DIR,
    .max_arguments = 1,
    .summary = "look at this machine: what helps or hurts a run, and what to do",
    .details = "Processor, cores, memory, limits, libraries, driver, GPUs, and the disk under "
               "FOLDER (the current\n"
               "folder by default), where 32 MiB are written, synced and removed. Exit code 71 "
               "when something will\n"
               "fail.",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run};
