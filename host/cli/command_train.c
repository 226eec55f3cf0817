/* `cudistill train`: one run, a run for each seed, or the plan of one. Options that stand for a configuration key become
 * overrides like --set; one that was not given changes nothing. */
#include "cli/commands.h"

#include "train/dry_run.h"
#include "train/result.h"
#include "train/signals.h"
#include "train/suite.h"
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

/* Options that are configuration keys. */
static const struct {
    const char *option, *key;
} keys[] = {
    {"seed", "run.seed"},
    {"name", "run.name"},
    {"project", "run.project"},
    {"out", "run.out"},
    {"device", "dist.device"},
    {"epochs", "schedule.epochs"},
    {"max-steps", "train.max_steps"},
    {"time-limit", "train.time_limit"},
};
enum { KEY_COUNT = sizeof keys / sizeof keys[0] };

const char *train_option_key(const char *option)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (strcmp(keys[i].option, option) == 0) {
            return keys[i].key;
        }
    }
    return NULL;
}

/* What --set and the options say; the texts of the options are `own`. */
typedef struct {
    ConfigOverride *list;
    size_t count;
    char *own[2 * KEY_COUNT];
    size_t own_count;
} Overrides;

static char *keep(Overrides *o, char *text)
{
    o->own[o->own_count++] = text;
    return text;
}

static Overrides read_overrides(const Args *args)
{
    size_t set_count;
    const char *const *set = args_all(args, "set", &set_count);
    Overrides o = {.list = xcalloc(set_count + KEY_COUNT, sizeof *o.list)};
    for (size_t i = 0; i < set_count; i++) {
        o.list[o.count++] = (ConfigOverride){.text = set[i], .origin = "--set"};
    }
    for (size_t i = 0; i < KEY_COUNT; i++) {
        const char *option = keys[i].option;
        if (args_given(args, option)) {
            o.list[o.count++] = (ConfigOverride){
                .text = keep(&o, xformat("%s=%s", keys[i].key, args_text(args, option, ""))),
                .origin = keep(&o, xformat("--%s", option))};
        }
    }
    return o;
}

static void free_overrides(Overrides *o)
{
    for (size_t i = 0; i < o->own_count; i++) {
        free(o->own[i]);
    }
    free(o->list);
}

/* Two ways of saying one thing are refused before they meet as "given twice" in the configuration. */
static Err *check_overrides(const Args *args)
{
    size_t count;
    const char *const *set = args_all(args, "set", &count);
    for (size_t i = 0; i < KEY_COUNT; i++) {
        const char *key = keys[i].key;
        const size_t length = strlen(key);
        for (size_t s = 0; s < count && args_given(args, keys[i].option); s++) {
            if (strncmp(set[s], key, length) == 0 && set[s][length] == '=') {
                return err_new(EXIT_USAGE_ERR,
                               "train: --%s and --set %s are the same key: give one",
                               keys[i].option, set[s]);
            }
        }
    }
    return NULL;
}

static Err *check_together(const Args *args)
{
    static const struct {
        const char *option, *other;
    } never[] = {{"seed", "seeds"}, {"seeds", "dry-run"}};
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
        if (args_given(args, never[i].option) && args_given(args, never[i].other)) {
            return err_new(EXIT_USAGE_ERR, "train: --%s and --%s exclude each other",
                           never[i].option, never[i].other);
        }
    }
    if (args_given(args, "describe") && !args_given(args, "dry-run")) {
        return err_new(EXIT_USAGE_ERR, "train: --describe goes with --dry-run");
    }
    return check_overrides(args);
}

static Err *plan(const Args *args, const Settings *settings)
{
    DryRunReport report;
    TRY(dry_run(settings, args_text(args, "describe", NULL), &report));
    dry_run_print(&report, args_flag(args, "json"));
    return NULL;
}

static Err *train_seeds(const Args *args, const Overrides *overrides, ProgressMode progress)
{
    SeedsOptions options = {.overrides = overrides->list,
                            .n_overrides = overrides->count,
                            .resume = (Resume)args_choice(args, "resume", RESUME_AUTO),
                            .progress = progress,
                            .finished = command_report_finished};
    options.allow_drift = args_all(args, "allow-drift", &options.n_allow_drift);
    TRY(seeds_parse(args_text(args, "seeds", ""), &options.seeds));
    return seeds_run(args_at(args, 0), &options);
}

static Err *train_one(const Args *args, const Overrides *overrides, ProgressMode progress)
{
    Settings settings;
    TRY(settings_read(args_at(args, 0), overrides->list, overrides->count, &settings));
    settings.progress = progress;
    settings.finished = command_report_finished;
    settings.allow_drift = args_all(args, "allow-drift", &settings.n_allow_drift);
    Err *err;
    if (args_flag(args, "dry-run")) {
        err = plan(args, &settings);
    } else {
        signals_install();
        RunResult result;
        err = train_run(&settings, (Resume)args_choice(args, "resume", RESUME_AUTO), &result);
        if (!err) {
            result_print(&settings, &result);
        }
    }
    settings_free(&settings);
    return err;
}

static Err *run(const Args *args)
{
    TRY(check_together(args));
    ProgressMode progress;
    TRY(command_progress(args, &progress));
    Overrides overrides = read_overrides(args);
    Err *err = args_given(args, "seeds") ? train_seeds(args, &overrides, progress)
                                         : train_one(args, &overrides, progress);
    free_overrides(&overrides);
    return err;
}

static const ArgOption options[] = {
    {.name = "set",
     .letter = 's',
     .kind = ARG_SETTING,
     .many = true,
     .metavar = "SECTION.KEY=VALUE",
     .help = "set a configuration key ('cudistill help KEY' explains it)"},
    {.name = "resume",
     .kind = ARG_CHOICE,
     .choices = "auto|must|never",
     .help = "from the newest checkpoint: where there is one, or else fail, or begin anew in "
             "a folder NAME-2, which a given run.out forbids (auto)"},
    {.name = "seed",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 0,
     .max = 4294967295.0,
     .help = "seed of initialisation, order and augmentation (run.seed)"},
    {.name = "seeds",
     .kind = ARG_TEXT,
     .metavar = "N,N...",
     .help = "a run for each seed, one after the other, and a table at the end"},
    {.name = "name", .kind = ARG_TEXT, .metavar = "NAME", .help = "name of the run (run.name)"},
    {.name = "project",
     .kind = ARG_TEXT,
     .metavar = "NAME",
     .help = "folder of related runs (run.project)"},
    {.name = "out",
     .kind = ARG_DIR,
     .metavar = "DIR",
     .help = "folder of the run (run.out); with --seeds of the runs"},
    {.name = "device",
     .kind = ARG_CHOICE,
     .choices = "auto|cpu|ref|cuda",
     .help = "where to compute (dist.device)"},
    {.name = "epochs",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 1,
     .max = 1e6,
     .help = "length of the run (schedule.epochs)"},
    {.name = "max-steps",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 0,
     .max = 1e15,
     .help = "end after so many steps (train.max_steps)"},
    {.name = "time-limit",
     .kind = ARG_DURATION,
     .metavar = "TIME",
     .help = "as 90s, 12h or 23h50m; then a checkpoint and exit code 75 (train.time_limit)"},
    {.name = "allow-drift",
     .kind = ARG_TEXT,
     .many = true,
     .metavar = "KEY",
     .help = "resume although this key, or file, has changed"},
    {.name = "dry-run",
     .letter = 'n',
     .kind = ARG_FLAG,
     .help = "check, plan and report steps, loss and memory; start nothing"},
    {.name = "describe",
     .kind = ARG_FILE,
     .metavar = "DEVICE.json",
     .help = "--dry-run for a GPU that is not here"},
    {.name = "json", .kind = ARG_FLAG, .help = "progress, or the plan, as JSON lines on stdout"},
    {.name = "quiet",
     .letter = 'q',
     .kind = ARG_FLAG,
     .help = "only warnings, errors and the result"},
    {.name = "verbose", .letter = 'v', .kind = ARG_FLAG, .help = "say more"},
};
static const char *const examples[] = {
    "cudistill train configs/cifar100/none/resnet20.ini",
    "cudistill train configs/cifar100/kd/wrn_16_2__resnet20.ini --seeds 1,2,3",
    "cudistill train CONFIG.ini --set optim.lr=0.1 --out runs/lr01",
    "cudistill train CONFIG.ini --dry-run", NULL};

const Command command_train = {
    .name = "train",
    .arguments = "CONFIG.ini",
    .argument_kind = ARG_FILE,
    .min_arguments = 1,
    .max_arguments = 1,
    .summary = "train or distil a network",
    .details = "The run's folder is runs/NAME-sSEED unless run.out says otherwise. Started again, "
               "the same command goes on from the newest checkpoint.",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run,
    .computes = true};
