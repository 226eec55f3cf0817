/* `cudistill data`: data sets. `data show` draws pictures; `data make-lt` has a file of its own. */
#include "cli/commands.h"

#include "report/show.h"

#include <stdio.h>
#include <string.h>

enum { DEFAULT_COUNT = 64, DEFAULT_COLUMNS = 8, DEFAULT_SCALE = 2 };

static const ArgOption show_options[] = {
    {.name = "output",
     .letter = 'o',
     .kind = ARG_FILE,
     .metavar = "FILE",
     .help = "where the pictures go; default: pictures.png, with --html pictures.html"},
    {.name = "split",
     .kind = ARG_CHOICE,
     .metavar = "SPLIT",
     .choices = "train|test",
     .help = "which part of the data; default: train"},
    {.name = "count",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 1,
     .max = SHOW_COUNT_MAX,
     .help = "how many pictures; default: 64"},
    {.name = "classes",
     .kind = ARG_TEXT,
     .metavar = "A,B",
     .help = "only these classes, by name or number; default: all"},
    {.name = "augment", .kind = ARG_FLAG, .help = "crop and flip at random, as training does"},
    {.name = "policy",
     .kind = ARG_CHOICE,
     .metavar = "POLICY",
     .choices = POLICY_NAMES,
     .help = "what augment.policy would do ('cudistill help augment.policy' lists them), after "
             "--augment if given; RandAugment: 2 operations, magnitude 9"},
    {.name = "cutout",
     .kind = ARG_INT,
     .metavar = "SIDE",
     .min = 0,
     .max = POLICY_MAX_CUTOUT,
     .help = "a grey square of so many pixels at random in every picture"},
    {.name = "seed",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 0,
     .max = 4294967295.0,
     .help = "which pictures, and how they are augmented; default: 1"},
    {.name = "columns",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 1,
     .max = 1024,
     .help = "pictures in a row of the PNG; default: 8"},
    {.name = "scale",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 1,
     .max = SHOW_SCALE_MAX,
     .help = "pixels of the PNG for a pixel of a picture; default: 2"},
    {.name = "html", .kind = ARG_FLAG, .help = "a page with the labels instead of a PNG"},
};

static const char *const show_examples[] = {
    "cudistill data show cifar100:data/cifar-100-binary -o grid.png",
    "cudistill data show cifar100:data/cifar-100-binary --classes maple_tree,oak_tree --html",
    "cudistill data show synthetic:classes=20 --augment --seed 7",
    "cudistill data show cifar10:data/cifar-10-batches-bin --augment --policy autoaugment_cifar10",
    NULL,
};

static Err *run_show(const Args *args)
{
    const char *out = args_text(args, "output", "");
    const size_t length = strlen(out);
    const bool html =
        args_flag(args, "html") || (length > 5 && strcmp(out + length - 5, ".html") == 0);
    const ShowRequest request = {
        .spec = args_at(args, 0),
        .split = args_choice(args, "split", 0) == 0 ? SPLIT_TRAIN : SPLIT_TEST,
        .count = (int)args_int(args, "count", DEFAULT_COUNT),
        .classes = args_text(args, "classes", NULL),
        .augment = args_flag(args, "augment"),
        .seed = (uint64_t)args_int(args, "seed", 1),
        .columns = (int)args_int(args, "columns", DEFAULT_COLUMNS),
        .scale = (int)args_int(args, "scale", DEFAULT_SCALE),
        .html = html,
        .policy = {.kind = (PolicyKind)args_choice(args, "policy", POLICY_NONE),
                   .n = 2,
                   .m = 9,
                   .mstd = 0.5,
                   .inc = true,
                   .cutout = (int)args_int(args, "cutout", 0),
                   .cutout_prob = 1.0,
                   .cutout_fill = {128, 128, 128}},
        .out = args_text(args, "output", html ? "pictures.html" : "pictures.png"),
    };
    Text said = {0};
    Err *err = dataset_show(&request, &said);
    if (err == NULL) {
        fputs(said.text, stdout);
    }
    text_free(&said);
    return err;
}

static const Command command_data_show = {
    .name = "show",
    .arguments = "DATASET",
    .argument_kind = ARG_TEXT,
    .min_arguments = 1,
    .max_arguments = 1,
    .summary = "pictures of a data set as a grid (PNG) or as a page with labels",
    .details = "DATASET is cifar10:PATH, cifar100:PATH (the folder of the binary version or its "
               ".tar.gz) or "
               "synthetic[:classes=20,train=4000,...]. The pictures are drawn at random; the same "
               "seed gives the same. What "
               "was written and how many images the classes have goes to stdout.",
    .options = show_options,
    .option_count = sizeof show_options / sizeof show_options[0],
    .examples = show_examples,
    .run = run_show,
};

static const Command *const data_commands[] = {&command_data_show, &command_data_make_lt, NULL};

const Command command_data = {
    .name = "data",
    .arguments = "",
    .summary = "look at data sets, make long-tailed ones",
    .commands = data_commands,
};
