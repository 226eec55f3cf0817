/* `cudistill train`, `cudistill models` and `cudistill help KEY`. */
#include "train/commands.h"

#include "base/log.h"
#include "models/models.h"
#include "train/dry_run.h"
#include "train/signals.h"
#include "train/train.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OVERRIDES = 256 };

typedef struct {
    const char *config;
    const char *overrides[MAX_OVERRIDES];
    size_t count;
    Resume resume;
    bool dry, json;
    const char *describe;
} TrainArgs;

static Err *parse_resume(const char *text, Resume *out)
{
    static const char *const names[] = {"auto", "must", "never"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (Resume)i;
            return NULL;
        }
    }
    return err_new(EXIT_USAGE_ERR, "--resume %s: use auto, must or never", text);
}

static Err *parse_train(int argc, char **argv, TrainArgs *args)
{
    static const struct option options[] = {
        {"set", required_argument, NULL, 's'}, {"resume", required_argument, NULL, 'r'},
        {"quiet", no_argument, NULL, 'q'},     {"verbose", no_argument, NULL, 'v'},
        {"dry-run", no_argument, NULL, 'n'},   {"describe", required_argument, NULL, 'd'},
        {"json", no_argument, NULL, 'j'},      {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "qv", options, NULL)) != -1) {
        switch (option) {
        case 's':
            if (args->count == MAX_OVERRIDES) {
                return err_new(EXIT_USAGE_ERR, "more than %d --set: put them into a file",
                               MAX_OVERRIDES);
            }
            args->overrides[args->count++] = optarg;
            break;
        case 'r':
            TRY(parse_resume(optarg, &args->resume));
            break;
        case 'n':
            args->dry = true;
            break;
        case 'd':
            args->describe = optarg;
            break;
        case 'j':
            args->json = true;
            break;
        case 'q':
            log_set_level(LOG_WARN);
            break;
        case 'v':
            log_set_level(LOG_DEBUG);
            break;
        default:
            return err_new(EXIT_USAGE_ERR, "'cudistill help' shows the options of train");
        }
    }
    if (optind != argc - 1) {
        return err_new(EXIT_USAGE_ERR, "train takes one configuration file, for example "
                                       "configs/cifar100/none/resnet20.ini");
    }
    args->config = argv[optind];
    if (!args->dry && (args->describe || args->json)) {
        return err_new(EXIT_USAGE_ERR, "train: --describe and --json go with --dry-run");
    }
    return NULL;
}

static void print_result(const Settings *s, const RunResult *r)
{
    printf("%-28s %-12s last %.2f %%  best %.2f %% (epoch %u)", s->name, s->student_model,
           r->last_top1, r->best_top1, r->best_epoch);
    if (r->teacher_top1 >= 0) {
        printf("  teacher %.2f %%", r->teacher_top1);
    }
    printf("  %ld steps, %.0f s, %.0f img/s\n", r->steps, r->train_seconds, r->images_per_s);
}

static Err *plan(const TrainArgs *args, const Settings *settings)
{
    DryRunReport report;
    TRY(dry_run(settings, args->describe, &report));
    dry_run_print(&report, args->json);
    return NULL;
}

Err *command_train(int argc, char **argv)
{
    TrainArgs args = {0};
    TRY(parse_train(argc, argv, &args));
    Settings settings;
    TRY(settings_load(args.config, args.overrides, args.count, &settings));
    if (args.dry) {
        Err *err = plan(&args, &settings);
        settings_free(&settings);
        return err;
    }
    signals_install();
    RunResult result;
    Err *err = train_run(&settings, args.resume, &result);
    if (!err) {
        print_result(&settings, &result);
    }
    settings_free(&settings);
    return err;
}

Err *command_models(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        return err_new(EXIT_USAGE_ERR, "models takes no arguments");
    }
    int count;
    const ModelInfo *models = model_list(&count);
    printf("%-14s %6s %8s %12s %10s  %s\n", "name", "pixels", "classes", "parameters", "M mult-add",
           "family");
    for (int i = 0; i < count; i++) {
        printf("%-14s %6d %8d %12zu ", models[i].name, models[i].input_size, models[i].classes,
               models[i].params);
        if (models[i].macs > 0) {
            printf("%10.1f  %s\n", models[i].macs, models[i].family);
        } else {
            printf("%10s  %s\n", "", models[i].family);
        }
    }
    return NULL;
}

/* `key` is "section", "section.key" or "key". */
static bool key_matches(const ConfigKey *row, const char *key)
{
    const char *dot = strchr(key, '.');
    if (!dot) {
        return strcmp(row->section, key) == 0 || strcmp(row->key, key) == 0;
    }
    return strncmp(row->section, key, (size_t)(dot - key)) == 0 &&
           row->section[dot - key] == '\0' && strcmp(row->key, dot + 1) == 0;
}

Err *command_help_key(const char *key)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    int found = 0;
    for (size_t i = 0; i < count; i++) {
        if (!key_matches(&rows[i], key)) {
            continue;
        }
        const char *fallback = rows[i].fallback;
        printf("%s.%s = %s\n    %s%s%s%s\n", rows[i].section, rows[i].key,
               fallback && fallback[0] ? fallback : "(none)", rows[i].help,
               rows[i].names ? " [" : "", rows[i].names ? rows[i].names : "",
               rows[i].names ? "]" : "");
        found++;
    }
    return found ? NULL : err_new(EXIT_USAGE_ERR, "no configuration key or section '%s'", key);
}
