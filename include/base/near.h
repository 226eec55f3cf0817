/* "Did you mean": of a list of words, the one that a mistyped word probably stands for.
 *
 *     NearMiss near = near_start(word);
 *     for each candidate: near_offer(&near, candidate);
 *     char *hint = near_hint(&near);
 *
 * Borrows word and candidates; nothing to free but the hint. */
#ifndef CUDISTILL_BASE_NEAR_H
#define CUDISTILL_BASE_NEAR_H

#include <stddef.h>

typedef struct {
    const char *word;
    const char *best; /* NULL while no candidate is near */
    size_t best_distance;
} NearMiss;

/* A third of the word, plus one letter, may differ: `temprature` is a near miss of `temperature`. */
NearMiss near_start(const char *word);
void near_offer(NearMiss *near, const char *candidate);
/* "; did you mean 'x'?" or "". Caller frees. */
char *near_hint(const NearMiss *near);

#endif
