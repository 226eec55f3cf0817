/* Exact quantiles of the teacher's energies, by sorting: once per run, a fraction of a second for
 * ImageNet. */
#include "distill/energy.h"
#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a;
    const float y = *(const float *)b;
    return (x > y) - (x < y);
}

static Err *check_rate(const char *key, double rate)
{
    if (rate >= 0 && rate < 1) {
        return NULL;
    }
    return err_new(EXIT_CONFIG_ERR, "%s = %g must be at least 0 and below 1", key, rate);
}

Err *energy_thresholds(float *energies, size_t n, double r_low, double r_high, float theta[2])
{
    TRY(check_rate("r_low", r_low));
    TRY(check_rate("r_high", r_high));
    if (n == 0) {
        return err_new(
            EXIT_BAD_DATA,
            "no energies to take thresholds from: the training set is smaller than one batch");
    }
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad += !isfinite(energies[i]);
    }
    if (bad > 0) {
        return err_new(EXIT_TEACHER,
                       "%zu of %zu energies of the teacher are not finite: check its weights and "
                       "normalisation",
                       bad, n);
    }
    const size_t low = (size_t)((double)n * r_low);
    const size_t above = (size_t)((double)n * r_high) + 1;
    if (low + above > n) {
        return err_new(
            EXIT_CONFIG_ERR,
            "r_low = %g and r_high = %g leave no middle among %zu samples: lower one of them",
            r_low, r_high, n);
    }
    qsort(energies, n, sizeof *energies, by_value);
    theta[0] = energies[low];
    theta[1] = energies[n - above];
    return NULL;
}
