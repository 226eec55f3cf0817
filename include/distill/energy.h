/* The thresholds of Energy KD (Kim et al. 2024, arXiv 2311.14334). Pure, thread-safe. */
#ifndef CUDISTILL_DISTILL_ENERGY_H
#define CUDISTILL_DISTILL_ENERGY_H

#include "base/err.h"
#include <stddef.h>

/* Exact quantiles of n energies, which are left sorted ascending:
 *   theta[0] = sorted[floor(n * r_low)],  theta[1] = sorted[n - (floor(n * r_high) + 1)]
 * with the product in double, as the authors' code. So floor(n * r_low) rows lie before theta[0] in
 * the order (fewer below it where values tie), and as many by r_high after theta[1]. Errors:
 * EXIT_CONFIG_ERR for rates outside [0, 1) or so large that the bands cross at this n; EXIT_TEACHER
 * for energies that are not finite; EXIT_BAD_DATA for n = 0. */
Err *energy_thresholds(float *energies, size_t n, double r_low, double r_high, float theta[2]);

#endif
