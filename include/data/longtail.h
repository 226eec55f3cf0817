/* Long-tailed versions of a training set: CIFAR-10-LT and CIFAR-100-LT, and the same of any other set.
 *
 * Class i of C keeps int(n_max (1/IF)^(i/(C-1))) of its images, where n_max is the size of the largest class and IF the
 * imbalance factor: the first class keeps n_max, the last one n_max / IF. Classes are not permuted. For each class, in
 * order, the list of its images in the set's order is shuffled and the first ones are kept, in the shuffled order; one
 * generator runs through all classes. A class that has fewer images than its share keeps all of them.
 *
 * Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, whose
 * published loader shuffles with numpy.random.seed(0) and numpy.random.shuffle. The indices here are the same as NumPy's.
 * They are positions in the set: the pictures are those of the literature only where the records are in the order of the
 * official archive, and mirrors reorder them (longtail_remark).
 *
 * No global state: safe from any thread. */
#ifndef CUDISTILL_DATA_LONGTAIL_H
#define CUDISTILL_DATA_LONGTAIL_H

#include "base/err.h"
#include "data/dataset.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    double factor; /* largest class over smallest; 0 or 1: the set stays as it is */
    uint32_t seed; /* of the shuffles; the literature takes 0 */
} LongTail;

static inline bool longtail_wanted(const LongTail *how)
{
    return how->factor > 1.0;
}

/* Images that each of `classes` classes keeps if it has them. EXIT_CONFIG_ERR when a class would keep none. */
Err *longtail_counts(const LongTail *how, uint32_t largest, int classes, uint32_t *counts);

/* The images kept, as positions in the set, in the order of the new set. Caller frees *indices. */
Err *longtail_indices(const Dataset *set, const LongTail *how, uint32_t **indices, uint32_t *count);

/* A new set of these images, sealed: named "cifar100-lt", with what was done in `source`. The set must be a training set;
 * it stays as it is. */
Err *longtail_make(const Dataset *set, const LongTail *how, Dataset **out);

/* What a training run does: puts the long-tailed version in the place of *set, says how large it is and warns where the
 * pictures are not the literature's. Nothing happens unless longtail_wanted. On an error *set is as it was. */
Err *longtail_apply(const LongTail *how, Dataset **set);

/* How the images chosen from `set` (not itself long-tailed) relate to those of the literature: a sentence that the caller
 * frees, NULL where there is no literature, since the set is not CIFAR. *same: they are the same pictures. Reads the
 * file that the set came from once more, for its MD5. */
Err *longtail_remark(const Dataset *set, const LongTail *how, bool *same, char **text);

/* The generator: MT19937 (Matsumoto and Nishimura 1998) seeded by the recurrence of 2002 with the factor 1812433253, as
 * numpy.random.seed does. */
enum { MT19937_WORDS = 624 };
typedef struct {
    uint32_t words[MT19937_WORDS];
    int at; /* words of this block already used */
} Mt19937;

void mt19937_seed(Mt19937 *generator, uint32_t seed);
uint32_t mt19937_next(Mt19937 *generator);
/* numpy.random.shuffle of a list: from the last item down, each is exchanged with one drawn from those up to it, a draw
 * being masked to the bits of its limit and repeated while above. */
void mt19937_shuffle(Mt19937 *generator, uint32_t *items, size_t count);

#endif
