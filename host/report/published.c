/* The published figures: one matrix for each group of pairs, a row a method, a column a pair; 0 = not stated.
 *
 * CIFAR-100, RepDistiller's recipe: 240 epochs, batch 64, SGD 0.05 (0.01 for MobileNetV2 and ShuffleNet) x0.1 at
 * 150/180/210. RepDistiller reports the last epoch; mdistiller, CTKD and Energy KD the best one on the test set, which
 * is on average 0.3 points higher. mdistiller's README heads its column of ShuffleNetV2 with MobileNetV2: 77.07 is
 * ShuffleNetV2. The figures of Energy KD are of the authors' released checkpoints, evaluated anew.
 *
 * ImageNet, mdistiller's recipe: 100 epochs, batch 512. "ResNet-50 -> MobileNetV2" of several papers is MobileNetV1. */
#include "report/published.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#define REP "RepDistiller README, last epoch"
#define MD "mdistiller README, best epoch"
#define LSKD "logit-standardization-KD README"
#define CTKD "CTKD README, best epoch"
#define TTM "TTM README"
#define ENERGY "EnergyKD's released checkpoint evaluated anew, best epoch"
#define OWN "README of its authors"

enum { SAME_PAIRS = 7, CROSS_PAIRS = 6, IMAGENET_PAIRS = 2 };

typedef struct {
    const char *teacher, *student;
    double teacher_top1;
} Pair;

/* ---- CIFAR-100, same family ---- */

static const Pair same_pairs[SAME_PAIRS] = {
    {"wrn_40_2", "wrn_16_2", 75.61},  {"wrn_40_2", "wrn_40_1", 75.61},
    {"resnet56", "resnet20", 72.34},  {"resnet110", "resnet20", 74.31},
    {"resnet110", "resnet32", 74.31}, {"resnet32x4", "resnet8x4", 79.42},
    {"vgg13", "vgg8", 74.64},
};

typedef struct {
    const char *method, *source;
    double top1[SAME_PAIRS];
} SameRow;

static const SameRow same_rows[] = {
    {"none", REP, {73.26, 71.98, 69.06, 69.06, 71.14, 72.50, 70.36}},
    {"kd", REP, {74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98}},
    {"fitnet", REP, {73.58, 72.24, 69.21, 68.99, 71.06, 73.50, 71.02}},
    {"at", REP, {74.08, 72.77, 70.55, 70.22, 72.31, 73.44, 71.43}},
    {"sp", REP, {73.83, 72.43, 69.67, 70.04, 72.69, 72.94, 72.68}},
    {"cc", REP, {73.56, 72.21, 69.63, 69.48, 71.48, 72.97, 70.71}},
    {"vid", REP, {74.11, 73.30, 70.38, 70.16, 72.61, 73.09, 71.23}},
    {"rkd", REP, {73.35, 72.22, 69.61, 69.25, 71.82, 71.90, 71.48}},
    {"pkt", REP, {74.54, 73.45, 70.34, 70.25, 72.61, 73.64, 72.88}},
    {"crd", REP, {75.48, 74.14, 71.16, 71.46, 73.48, 75.51, 73.94}},
    {"dkd", MD, {76.24, 74.81, 71.97, 0, 74.11, 76.32, 74.68}},
    {"dkd", LSKD, {0, 0, 0, 71.06, 0, 0, 0}},
    {"reviewkd", OWN, {0, 75.09, 71.89, 0, 0, 75.63, 0}},
    {"ofd", OWN, {0, 74.33, 70.98, 0, 0, 74.95, 0}},
    {"ctkd", CTKD, {75.45, 73.93, 71.19, 70.99, 73.52, 73.39, 73.52}},
    {"dist", TTM, {75.51, 74.73, 71.75, 71.65, 73.69, 76.31, 73.89}},
    {"itrd", TTM, {76.12, 75.18, 71.47, 71.99, 74.26, 76.19, 74.93}},
    {"ttm", TTM, {76.23, 74.32, 71.83, 71.46, 73.97, 76.17, 74.33}},
    {"wttm", TTM, {76.37, 74.58, 71.92, 71.67, 74.13, 76.06, 74.44}},
    {"energy_kd", ENERGY, {75.53, 0, 71.62, 0, 0, 0, 0}},
    {"kd_heda", ENERGY, {76.09, 0, 71.24, 0, 0, 0, 0}},
};

/* ---- CIFAR-100, different families ---- */

static const Pair cross_pairs[CROSS_PAIRS] = {
    {"vgg13", "mobilenet_v2", 74.64},       {"resnet50_cifar", "mobilenet_v2", 79.34},
    {"resnet50_cifar", "vgg8", 79.34},      {"resnet32x4", "shufflenet_v1", 79.42},
    {"resnet32x4", "shufflenet_v2", 79.42}, {"wrn_40_2", "shufflenet_v1", 75.61},
};

typedef struct {
    const char *method, *source;
    double top1[CROSS_PAIRS];
} CrossRow;

static const CrossRow cross_rows[] = {
    {"none", REP, {64.60, 64.60, 70.36, 70.50, 71.82, 70.50}},
    {"kd", REP, {67.37, 67.35, 73.81, 74.07, 74.45, 74.83}},
    {"fitnet", REP, {64.14, 63.16, 70.69, 73.59, 73.54, 73.73}},
    {"at", REP, {59.40, 58.58, 71.84, 71.73, 72.73, 73.32}},
    {"sp", REP, {66.30, 68.08, 73.34, 73.48, 74.56, 74.52}},
    {"vid", REP, {65.56, 67.57, 70.30, 73.38, 73.40, 73.61}},
    {"rkd", REP, {64.52, 64.43, 71.50, 72.28, 73.21, 72.21}},
    {"pkt", REP, {67.13, 66.52, 73.01, 74.10, 74.69, 73.89}},
    {"crd", REP, {69.73, 69.11, 74.30, 75.11, 75.65, 76.05}},
    {"dkd", MD, {69.71, 70.35, 0, 76.45, 77.07, 76.70}},
    {"reviewkd", OWN, {0, 69.89, 0, 77.45, 77.78, 0}},
    {"ofd", OWN, {0, 69.04, 0, 75.98, 76.82, 0}},
    {"dist", OWN, {0, 69.17, 0, 75.23, 76.08, 0}},
    {"ctkd", CTKD, {68.50, 68.67, 0, 0, 75.37, 0}},
    {"energy_kd", ENERGY, {68.41, 0, 0, 0, 0, 0}},
    {"kd_heda", ENERGY, {69.30, 0, 0, 0, 0, 0}},
};

/* ---- ImageNet ---- */

static const Pair imagenet_pairs[IMAGENET_PAIRS] = {
    {"resnet34", "resnet18", 73.31},
    {"resnet50", "mobilenet_v1", 76.16},
};

typedef struct {
    const char *method, *source;
    double top1[IMAGENET_PAIRS];
} ImagenetRow;

static const ImagenetRow imagenet_rows[] = {
    {"none", MD, {69.75, 68.87}},     {"kd", MD, {71.03, 70.50}},  {"dkd", MD, {71.70, 72.05}},
    {"reviewkd", MD, {71.61, 72.56}}, {"crd", MD, {71.17, 71.37}}, {"dist", OWN, {72.07, 0}},
};

/* ---- Look-up ---- */

enum {
    SAME_ROWS = sizeof same_rows / sizeof same_rows[0],
    CROSS_ROWS = sizeof cross_rows / sizeof cross_rows[0],
    IMAGENET_ROWS = sizeof imagenet_rows / sizeof imagenet_rows[0],
    SAME_CELLS = SAME_ROWS * SAME_PAIRS,
    CROSS_CELLS = CROSS_ROWS * CROSS_PAIRS,
    IMAGENET_CELLS = IMAGENET_ROWS * IMAGENET_PAIRS,
    CIFAR_EPOCHS = 240,
    CIFAR_BATCH = 64,
    IMAGENET_EPOCHS = 100,
    IMAGENET_BATCH = 512
};

bool published_at(size_t i, const char **dataset, const char **teacher, const char **student,
                  const char **method, Published *out)
{
    const Pair *pair;
    *dataset = "cifar100";
    *out = (Published){.epochs = CIFAR_EPOCHS, .batch = CIFAR_BATCH};
    if (i < SAME_CELLS) {
        const SameRow *row = &same_rows[i / SAME_PAIRS];
        pair = &same_pairs[i % SAME_PAIRS];
        *method = row->method;
        out->source = row->source;
        out->top1 = row->top1[i % SAME_PAIRS];
    } else if ((i -= SAME_CELLS) < CROSS_CELLS) {
        const CrossRow *row = &cross_rows[i / CROSS_PAIRS];
        pair = &cross_pairs[i % CROSS_PAIRS];
        *method = row->method;
        out->source = row->source;
        out->top1 = row->top1[i % CROSS_PAIRS];
    } else if ((i -= CROSS_CELLS) < IMAGENET_CELLS) {
        const ImagenetRow *row = &imagenet_rows[i / IMAGENET_PAIRS];
        pair = &imagenet_pairs[i % IMAGENET_PAIRS];
        *dataset = "imagenet";
        *method = row->method;
        out->source = row->source;
        out->top1 = row->top1[i % IMAGENET_PAIRS];
        out->epochs = IMAGENET_EPOCHS;
        out->batch = IMAGENET_BATCH;
    } else {
        return false;
    }
    const bool alone = strcmp(*method, "none") == 0;
    *teacher = alone ? "" : pair->teacher;
    *student = pair->student;
    out->teacher_top1 = alone ? 0.0 : pair->teacher_top1;
    return true;
}

/* Spellings of RepDistiller and mdistiller. */
static const char *usual_name(const char *dataset, const char *name)
{
    static const struct {
        const char *other, *ours;
    } names[] = {{"mobilenetv2", "mobilenet_v2"},   {"mobilenet_v2_half", "mobilenet_v2"},
                 {"mobilenetv1", "mobilenet_v1"},   {"mobilenet", "mobilenet_v1"},
                 {"shufflev1", "shufflenet_v1"},    {"shufflev2", "shufflenet_v2"},
                 {"shufflenetv1", "shufflenet_v1"}, {"shufflenetv2", "shufflenet_v2"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcasecmp(names[i].other, name) == 0) {
            return names[i].ours;
        }
    }
    /* CIFAR's ResNet-50 is another network than ImageNet's. */
    return strcmp(dataset, "cifar100") == 0 && strcasecmp(name, "ResNet50") == 0 ? "resnet50_cifar"
                                                                                 : name;
}

static bool same_name(const char *a, const char *b)
{
    for (; *a != '\0' && *b != '\0'; a++, b++) {
        const int p = *a == '-' ? '_' : tolower((unsigned char)*a);
        const int q = *b == '-' ? '_' : tolower((unsigned char)*b);
        if (p != q) {
            return false;
        }
    }
    return *a == *b;
}

bool published_find(const char *dataset, const char *teacher, const char *student,
                    const char *method, Published *out)
{
    const char *wanted_teacher = teacher != NULL ? usual_name(dataset, teacher) : "";
    const char *wanted_student = usual_name(dataset, student);
    if (strcmp(method, "none") == 0) {
        wanted_teacher = "";
    }
    const char *d;
    const char *t;
    const char *s;
    const char *m;
    Published entry;
    for (size_t i = 0; published_at(i, &d, &t, &s, &m, &entry); i++) {
        if (entry.top1 > 0.0 && same_name(d, dataset) && same_name(t, wanted_teacher) &&
            same_name(s, wanted_student) && same_name(m, method)) {
            *out = entry;
            return true;
        }
    }
    return false;
}

const char *published_warning(const char *dataset, const char *teacher, const char *student)
{
    if (same_name(dataset, "imagenet") && teacher != NULL && same_name(teacher, "resnet50") &&
        same_name(usual_name(dataset, student), "mobilenet_v2")) {
        return "what papers print as ResNet-50 -> MobileNetV2 on ImageNet is MobileNetV1: their "
               "figures belong to student mobilenet_v1";
    }
    return NULL;
}
