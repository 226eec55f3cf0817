/* Near misses. The distance is Damerau's and Levenshtein's unrestricted one (Lowrance and Wagner 1975): letters between
 * two exchanged ones may have been edited too. */
#include "base/near.h"

#include "base/err.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

enum {
    WORD_MAX = 64, /* longer words get no suggestion */
    SLIPS_MAX = 4,
    ABBREVIATION_MIN = 3,
    SHUFFLED_COST = NEAR_SLIP + 2,
    ABBREVIATED_COST = NEAR_SLIP + 4
};

static unsigned char folded(char c)
{
    return c == '-' ? '_' : (unsigned char)tolower((unsigned char)c);
}

bool near_same(const char *a, const char *b)
{
    while (*a != '\0' && folded(*a) == folded(*b)) {
        a++;
        b++;
    }
    return *a == '\0' && *b == '\0';
}

static size_t min2(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t edit_distance(const char *a, size_t n, const char *b, size_t m)
{
    /* d[i + 1][j + 1] is the distance of the first i letters to the first j; row and column 0 stand for "never". */
    uint16_t d[WORD_MAX + 2][WORD_MAX + 2];
    size_t last_row[256] = {0}; /* where in `a` a letter was last seen */
    const size_t never = n + m;
    for (size_t i = 0; i <= n; i++) {
        d[i + 1][0] = (uint16_t)never;
        d[i + 1][1] = (uint16_t)i;
    }
    for (size_t j = 0; j <= m; j++) {
        d[0][j + 1] = (uint16_t)never;
        d[1][j + 1] = (uint16_t)j;
    }
    d[0][0] = (uint16_t)never;
    for (size_t i = 1; i <= n; i++) {
        size_t last_column = 0; /* where in `b` the letter of row i was last seen */
        for (size_t j = 1; j <= m; j++) {
            const size_t k = last_row[folded(b[j - 1])];
            const size_t l = last_column;
            const bool equal = folded(a[i - 1]) == folded(b[j - 1]);
            if (equal) {
                last_column = j;
            }
            const size_t exchanged = d[k][l] + (i - k - 1) + 1 + (j - l - 1);
            const size_t edited = min2(d[i][j + 1], d[i + 1][j]) + 1U;
            const size_t replaced = d[i][j] + (equal ? 0U : 1U);
            d[i + 1][j + 1] = (uint16_t)min2(min2(edited, replaced), exchanged);
        }
        last_row[folded(a[i - 1])] = i;
    }
    return d[n + 1][m + 1];
}

static bool starts_with(const char *text, const char *start)
{
    while (*start != '\0' && folded(*text) == folded(*start)) {
        text++;
        start++;
    }
    return *start == '\0';
}

static bool has_part(const char *text, const char *part, size_t length)
{
    for (const char *at = text;; at++) {
        const size_t size = strcspn(at, "_-");
        if (size == length) {
            size_t i = 0;
            while (i < length && folded(at[i]) == folded(part[i])) {
                i++;
            }
            if (i == length) {
                return true;
            }
        }
        at += size;
        if (*at == '\0') {
            return false;
        }
    }
}

/* The same words between underscores, in another order. */
static bool is_shuffled(const char *a, const char *b)
{
    if (strlen(a) != strlen(b) || strpbrk(a, "_-") == NULL) {
        return false;
    }
    for (const char *at = a;; at++) {
        const size_t size = strcspn(at, "_-");
        if (!has_part(b, at, size)) {
            return false;
        }
        at += size;
        if (*at == '\0') {
            return true;
        }
    }
}

/* 0 to 3: the later two words part, the less. */
static size_t beginning_cost(const char *a, const char *b)
{
    size_t same = 0;
    while (same < 3 && a[same] != '\0' && folded(a[same]) == folded(b[same])) {
        same++;
    }
    return 3 - same;
}

size_t near_cost(const char *word, const char *candidate)
{
    const size_t n = strlen(word);
    const size_t m = strlen(candidate);
    if (near_same(word, candidate)) {
        return 0;
    }
    if (n == 0 || m == 0 || n > WORD_MAX || m > WORD_MAX) {
        return NEAR_NEVER;
    }
    size_t cost = NEAR_NEVER;
    const size_t slips = min2(n / 3 + 1, SLIPS_MAX);
    if ((n > m ? n - m : m - n) <= slips) {
        const size_t distance = edit_distance(word, n, candidate, m);
        if (distance <= slips && distance < (n > m ? n : m)) {
            cost = distance * NEAR_SLIP + beginning_cost(word, candidate);
        }
    }
    if (is_shuffled(word, candidate)) {
        cost = min2(cost, SHUFFLED_COST);
    }
    if (n >= ABBREVIATION_MIN && m >= ABBREVIATION_MIN &&
        (starts_with(candidate, word) || starts_with(word, candidate))) {
        cost = min2(cost, ABBREVIATED_COST + (n > m ? n - m : m - n) / 4);
    }
    return cost;
}

NearMiss near_start(const char *word)
{
    return (NearMiss){.word = word, .best_cost = NEAR_NEVER};
}

void near_offer(NearMiss *near, const char *candidate)
{
    const size_t cost = near_cost(near->word, candidate);
    if (cost < near->best_cost) {
        near->best_cost = cost;
        near->best = candidate;
    }
}

char *near_hint(const NearMiss *near)
{
    return near->best != NULL ? xformat("; did you mean '%s'?", near->best) : xstrdup("");
}
