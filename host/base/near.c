/* Near misses: the candidate with the smallest edit distance (optimal string alignment: insertions, deletions,
 * substitutions and exchanges of neighbours), if it is small against the word. */
#include "base/near.h"

#include "base/err.h"

#include <ctype.h>
#include <string.h>

enum { WORD_MAX = 64 /* longer words get no suggestion */ };

static size_t min3(size_t a, size_t b, size_t c)
{
    const size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Edit distance with transpositions of neighbours, upper and lower case equal. */
static size_t edit_distance(const char *a, const char *b)
{
    const size_t n = strlen(a);
    const size_t m = strlen(b);
    if (n >= WORD_MAX || m >= WORD_MAX) {
        return WORD_MAX;
    }
    size_t rows[3][WORD_MAX + 1];
    for (size_t j = 0; j <= m; j++) {
        rows[0][j] = j;
    }
    for (size_t i = 1; i <= n; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i - 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            const int p = tolower((unsigned char)a[i - 1]);
            const int q = tolower((unsigned char)b[j - 1]);
            row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + (p != q));
            if (i > 1 && j > 1 && p == tolower((unsigned char)b[j - 2]) &&
                q == tolower((unsigned char)a[i - 2])) {
                row[j] = min3(row[j], row[j], rows[(i - 2) % 3][j - 2] + 1);
            }
        }
    }
    return rows[n % 3][m];
}

NearMiss near_start(const char *word)
{
    return (NearMiss){.word = word, .best_distance = strlen(word) / 3 + 2};
}

void near_offer(NearMiss *near, const char *candidate)
{
    const size_t distance = edit_distance(near->word, candidate);
    if (distance < near->best_distance) {
        near->best_distance = distance;
        near->best = candidate;
    }
}

char *near_hint(const NearMiss *near)
{
    return near->best != NULL ? xformat("; did you mean '%s'?", near->best) : xstrdup("");
}
