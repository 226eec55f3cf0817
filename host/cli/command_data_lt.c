/* `cudistill data make-lt`: which images a long-tailed version of a training set keeps, for other programs and for the eye.
 * Training makes the same set itself (data.imbalance). */
#include "cli/commands.h"

#include "base/files.h"
#include "base/text.h"
#include "data/longtail.h"
#include "io/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_FACTOR 100.0

/* The images kept of an open set. */
typedef struct {
    const Dataset *set;
    LongTail how;
    uint32_t *indices;
    uint32_t count;
} Choice;

static const ArgOption options[] = {
    {.name = "output",
     .letter = 'o',
     .kind = ARG_FILE,
     .metavar = "FILE",
     .help = "the indices: a .txt, one a line, or a .npy; default: indices.txt"},
    {.name = "imbalance",
     .kind = ARG_FLOAT,
     .metavar = "FACTOR",
     .min = 1,
     .max = 1e9,
     .help = "images of the largest class over those of the smallest; default: 100"},
    {.name = "seed",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 0,
     .max = 4294967295.0,
     .help = "which images are kept; default: 0, as in the literature"},
};

static const char *const examples[] = {
    "cudistill data make-lt cifar100:cifar-100-binary.tar.gz -o cifar100_lt_100.npy",
    "cudistill data make-lt cifar10:data --imbalance 50 -o cifar10_lt_50.txt",
    "cudistill train configs/cifar100_lt/kd/wrn_16_2__resnet20.ini --set data.imbalance=50",
    NULL,
};

static bool ends_in(const char *path, const char *ending)
{
    const size_t size = strlen(path);
    const size_t own = strlen(ending);
    return size > own && strcmp(path + size - own, ending) == 0;
}

static Err *write_text(const char *path, const Choice *choice)
{
    Text lines = {0};
    for (uint32_t i = 0; i < choice->count; i++) {
        text_add(&lines, "%u\n", choice->indices[i]);
    }
    Err *err = file_write_atomic(path, lines.text, lines.size);
    text_free(&lines);
    return err;
}

/* 64-bit integers: what NumPy itself makes of a list of indices. */
static Err *write_npy(const char *path, const Choice *choice)
{
    int64_t *wide = xcalloc(choice->count, sizeof *wide);
    for (uint32_t i = 0; i < choice->count; i++) {
        wide[i] = choice->indices[i];
    }
    const int64_t shape[] = {choice->count};
    Err *err = npy_write(path, WEIGHT_I64, 1, shape, wide);
    free(wide);
    return err;
}

static void print_counts(const Choice *choice)
{
    const Dataset *set = choice->set;
    uint32_t *had = xcalloc((size_t)set->classes, sizeof *had);
    uint32_t *kept = xcalloc((size_t)set->classes, sizeof *kept);
    for (uint32_t i = 0; i < set->count; i++) {
        had[set->labels[i]]++;
    }
    for (uint32_t i = 0; i < choice->count; i++) {
        kept[set->labels[choice->indices[i]]]++;
    }
    uint32_t most = 0;
    uint32_t least = UINT32_MAX;
    printf("class   kept     of  name\n");
    for (int c = 0; c < set->classes; c++) {
        printf("%5d %6u %6u  %s\n", c, kept[c], had[c], set->class_names[c]);
        most = kept[c] > most ? kept[c] : most;
        least = kept[c] < least ? kept[c] : least;
    }
    printf("total %6u %6u  largest class %u, smallest %u, imbalance %.10g, seed %u\n",
           choice->count, set->count, most, least, choice->how.factor, choice->how.seed);
    free(kept);
    free(had);
}

static Err *write_choice(const char *path, const Choice *choice)
{
    bool same;
    char *remark;
    TRY(longtail_remark(choice->set, &choice->how, &same, &remark));
    Err *err = ends_in(path, ".npy") ? write_npy(path, choice) : write_text(path, choice);
    if (!err) {
        print_counts(choice);
        printf("%s%s%s: %u indices, counted from 0 in the order of the records\n",
               remark ? remark : "", remark ? "\n" : "", path, choice->count);
    }
    free(remark);
    return err;
}

static Err *run_make_lt(const Args *args)
{
    const char *path = args_text(args, "output", "indices.txt");
    if (!ends_in(path, ".txt") && !ends_in(path, ".npy")) {
        return err_new(EXIT_USAGE_ERR, "--output %s: a name that ends in .txt or .npy is needed",
                       path);
    }
    Choice choice = {.how = {.factor = args_float(args, "imbalance", DEFAULT_FACTOR),
                             .seed = (uint32_t)args_int(args, "seed", 0)}};
    if (!longtail_wanted(&choice.how)) {
        return err_new(EXIT_USAGE_ERR, "--imbalance %g keeps every image: give a factor above 1",
                       choice.how.factor);
    }
    Dataset *set = NULL;
    TRY(dataset_open(args_at(args, 0), SPLIT_TRAIN, &set));
    choice.set = set;
    Err *err = longtail_indices(set, &choice.how, &choice.indices, &choice.count);
    if (!err) {
        err = write_choice(path, &choice);
    }
    free(choice.indices);
    dataset_close(set);
    return err;
}

const Command command_data_make_lt = {
    .name = "make-lt",
    .arguments = "DATASET",
    .argument_kind = ARG_TEXT,
    .min_arguments = 1,
    .max_arguments = 1,
    .summary = "the images that a long-tailed version of a training set keeps (CIFAR-100-LT)",
    .details =
        "DATASET is cifar10:PATH, cifar100:PATH or synthetic[:...], as for 'data show'. Class i of "
        "C keeps int(n (1/IMBALANCE)^(i/(C-1))) of its n images, chosen by NumPy's legacy shuffle "
        "of each class: the recipe of CIFAR-10-LT and CIFAR-100-LT (LDAM, NeurIPS 2019), with the "
        "same indices. The counts of all classes go to stdout.\n\nIndices are positions in the "
        "file. They mean the pictures of the literature only in the official archive "
        "(cifar-100-binary.tar.gz, recognised by its MD5, or its train.bin by its own); mirrors "
        "hold the same images in another order, and then the counts are right but the pictures are "
        "others. What was found is said at the end, and training warns of it.\n\nTraining needs "
        "no file of indices: data.imbalance and data.imbalance_seed make the same set.",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run_make_lt,
};
