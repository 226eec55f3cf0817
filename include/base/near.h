/* "Did you mean": of a list of words, the one that a mistyped word probably stands for.
 *
 *     NearMiss near = near_start(word);
 *     for each candidate: near_offer(&near, candidate);
 *     char *hint = near_hint(&near);
 *
 * Near are: few slips of the fingers (insertions, deletions, substitutions and exchanges of neighbours: the
 * Damerau-Levenshtein distance, at most a third of the word and one letter more, never more than four: `temprature`), the same parts in
 * another order (`lr_min` for `min_lr`), and abbreviations (`temp`, and `optimizer` for `optim`). Upper and lower case,
 * '-' and '_' count as equal. Among equally near words the one that begins alike wins, then the first offered.
 *
 * Borrows word and candidates; nothing to free but the hint. Pure functions, safe from any thread. */
#ifndef CUDISTILL_BASE_NEAR_H
#define CUDISTILL_BASE_NEAR_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const char *word;
    const char *best; /* NULL while no candidate is near */
    size_t best_cost;
} NearMiss;

enum {
    NEAR_SLIP = 8 /* cost of one slip; a worse beginning adds a part of it */,
    NEAR_NEVER = 1 << 20
};

NearMiss near_start(const char *word);
void near_offer(NearMiss *near, const char *candidate);
/* "; did you mean 'x'?" or "". Caller frees. */
char *near_hint(const NearMiss *near);

/* How far apart two words are; NEAR_NEVER where one cannot stand for the other. 0: they differ at most by case and dashes. */
size_t near_cost(const char *word, const char *candidate);
/* Equal but for case and '-' against '_'. */
bool near_same(const char *a, const char *b);

#endif
