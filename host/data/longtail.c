/* Long-tailed training sets by the recipe of the literature, with NumPy's legacy generator, so that the same positions
 * come out bit for bit. */
#include "data/longtail.h"

#include "base/log.h"
#include "data/cifar.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- NumPy's legacy generator ---- */

enum { MT_DISTANCE = 397 };

void mt19937_seed(Mt19937 *generator, uint32_t seed)
{
    generator->words[0] = seed;
    for (uint32_t i = 1; i < MT19937_WORDS; i++) {
        const uint32_t before = generator->words[i - 1];
        generator->words[i] = 1812433253U * (before ^ (before >> 30)) + i;
    }
    generator->at = MT19937_WORDS;
}

static void next_block(uint32_t *words)
{
    for (int i = 0; i < MT19937_WORDS; i++) {
        const uint32_t low = words[(i + 1) % MT19937_WORDS];
        const uint32_t mixed = (words[i] & 0x80000000U) | (low & 0x7fffffffU);
        words[i] = words[(i + MT_DISTANCE) % MT19937_WORDS] ^ (mixed >> 1) ^
                   ((low & 1U) != 0 ? 0x9908b0dfU : 0U);
    }
}

uint32_t mt19937_next(Mt19937 *generator)
{
    if (generator->at == MT19937_WORDS) {
        next_block(generator->words);
        generator->at = 0;
    }
    uint32_t y = generator->words[generator->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680U;
    y ^= (y << 15) & 0xefc60000U;
    return y ^ (y >> 18);
}

/* 0 .. max, both included. */
static uint32_t draw_to(Mt19937 *generator, uint32_t max)
{
    uint32_t mask = max;
    for (int shift = 1; shift <= 16; shift *= 2) {
        mask |= mask >> shift;
    }
    uint32_t value;
    do {
        value = mt19937_next(generator) & mask;
    } while (value > max);
    return value;
}

void mt19937_shuffle(Mt19937 *generator, uint32_t *items, size_t count)
{
    CHECK(count <= UINT32_MAX, "%zu items to shuffle", count);
    for (size_t i = count; i-- > 1;) {
        const uint32_t j = draw_to(generator, (uint32_t)i);
        const uint32_t kept = items[i];
        items[i] = items[j];
        items[j] = kept;
    }
}

/* ---- Which images ---- */

Err *longtail_counts(const LongTail *how, uint32_t largest, int classes, uint32_t *counts)
{
    CHECK(longtail_wanted(how) && classes > 0, "imbalance %g of %d classes", how->factor, classes);
    for (int c = 0; c < classes; c++) {
        /* In double precision and this order of operations, as the recipe computes it in Python. */
        const double place = classes > 1 ? c / (classes - 1.0) : 0.0;
        counts[c] = (uint32_t)(largest * pow(1.0 / how->factor, place));
        if (counts[c] == 0) {
            return err_new(EXIT_CONFIG_ERR,
                           "an imbalance of %.10g leaves class %d without an image, since the "
                           "largest class has %u: choose a smaller one, below %u",
                           how->factor, c, largest, largest);
        }
    }
    return NULL;
}

/* sizes[c] = images of class c; returns the largest. */
static uint32_t class_sizes(const Dataset *set, uint32_t *sizes)
{
    uint32_t largest = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        const uint32_t size = ++sizes[set->labels[i]];
        largest = size > largest ? size : largest;
    }
    return largest;
}

/* The images of all classes in one list: those of class c in the set's order, after those of the classes before it. */
static void group_by_class(const Dataset *set, const uint32_t *sizes, uint32_t *list)
{
    uint32_t *next = xcalloc((size_t)set->classes, sizeof *next);
    for (int c = 1; c < set->classes; c++) {
        next[c] = next[c - 1] + sizes[c - 1];
    }
    for (uint32_t i = 0; i < set->count; i++) {
        list[next[set->labels[i]]++] = i;
    }
    free(next);
}

/* Shuffles each class and moves what it keeps to the front of the list. Returns how many that are. */
static uint32_t choose(const uint32_t *sizes, const uint32_t *wanted, int classes, uint32_t seed,
                       uint32_t *list)
{
    Mt19937 generator;
    mt19937_seed(&generator, seed);
    uint32_t kept = 0;
    uint32_t *members = list;
    for (int c = 0; c < classes; c++) {
        mt19937_shuffle(&generator, members, sizes[c]);
        const uint32_t count = wanted[c] < sizes[c] ? wanted[c] : sizes[c];
        memmove(list + kept, members, count * sizeof *list);
        kept += count;
        members += sizes[c];
    }
    return kept;
}

Err *longtail_indices(const Dataset *set, const LongTail *how, uint32_t **indices, uint32_t *count)
{
    *indices = NULL;
    *count = 0;
    uint32_t *sizes = xcalloc((size_t)set->classes, sizeof *sizes);
    uint32_t *wanted = xcalloc((size_t)set->classes, sizeof *wanted);
    Err *err = longtail_counts(how, class_sizes(set, sizes), set->classes, wanted);
    if (!err) {
        *indices = xmalloc(set->count * sizeof **indices);
        group_by_class(set, sizes, *indices);
        *count = choose(sizes, wanted, set->classes, how->seed, *indices);
    }
    free(wanted);
    free(sizes);
    return err;
}

/* ---- The new set ---- */

static Dataset *gather(const Dataset *set, const LongTail *how, const uint32_t *indices,
                       uint32_t count)
{
    char *name = xformat("%s-lt", set->name);
    char *source = xformat("%s, long-tailed: imbalance %.10g, seed %u, %u of %u images, chosen by "
                           "NumPy's legacy shuffle of each class",
                           set->source, how->factor, how->seed, count, set->count);
    Dataset *out =
        dataset_new(name, source, set->split, count, set->classes, set->height, set->width);
    free(source);
    free(name);
    for (int c = 0; c < set->classes; c++) {
        out->class_names[c] = xstrdup(set->class_names[c]);
    }
    const size_t size = dataset_image_size(set);
    for (uint32_t i = 0; i < count; i++) {
        out->labels[i] = set->labels[indices[i]];
        memcpy(out->images + i * size, dataset_image(set, indices[i]), size);
    }
    dataset_seal(out);
    return out;
}

Err *longtail_make(const Dataset *set, const LongTail *how, Dataset **out)
{
    *out = NULL;
    CHECK(set->split == SPLIT_TRAIN, "%s: a long tail of the test set was asked for", set->name);
    uint32_t *indices;
    uint32_t count;
    TRY(longtail_indices(set, how, &indices, &count));
    *out = gather(set, how, indices, count);
    free(indices);
    return NULL;
}

Err *longtail_remark(const Dataset *set, const LongTail *how, bool *same, char **text)
{
    *same = false;
    *text = NULL;
    CifarKind kind;
    if (!cifar_named(set->name, &kind)) {
        return NULL;
    }
    const char *name = kind == CIFAR_10 ? "CIFAR-10-LT" : "CIFAR-100-LT";
    CifarOrder order;
    TRY(cifar_order(kind, set->source, &order));
    *same = order == CIFAR_ORDER_OFFICIAL && how->seed == 0;
    if (*same) {
        *text = xformat("%s holds the official archive's records: the same pictures as the "
                        "literature's %s",
                        set->source, name);
        return NULL;
    }
    if (order == CIFAR_ORDER_OFFICIAL) {
        *text = xformat("seed %u: other pictures than the literature's %s, which takes seed 0",
                        how->seed, name);
        return NULL;
    }
    const bool other = order == CIFAR_ORDER_OTHER;
    char *cure = cifar_cure(kind);
    *text = xformat("%s: the record order is not %sthe official archive's: %sother pictures than "
                    "the literature's %s, though as many of each class; for the same ones %s",
                    set->source, other ? "" : "known to be ", other ? "" : "perhaps ", name, cure);
    free(cure);
    return NULL;
}

Err *longtail_apply(const LongTail *how, Dataset **set)
{
    if (!longtail_wanted(how)) {
        return NULL;
    }
    bool same;
    char *remark;
    Dataset *tail;
    TRY(longtail_make(*set, how, &tail));
    Err *err = longtail_remark(*set, how, &same, &remark);
    if (err) {
        dataset_close(tail);
        return err;
    }
    log_info("%s: %u of %u images, imbalance %.10g, seed %u", tail->name, tail->count,
             (*set)->count, how->factor, how->seed);
    if (remark && !same) {
        log_warn("%s", remark);
    }
    free(remark);
    dataset_close(*set);
    *set = tail;
    return NULL;
}
