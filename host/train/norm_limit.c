/* The limit on the gradient's norm. All sums are made anew in each step, in the order of the steps. */
#include "train/norm_limit.h"

#include <float.h>
#include <math.h>

enum { WINDOW = 128, LAG = 2, FEWEST = 64 };
_Static_assert(NORM_RING >= WINDOW + LAG, "the window and the steps in flight");

float norm_limit(const float norms[NORM_RING], long step, double z)
{
    if (z <= 0.0) {
        return 0.0f;
    }
    double sum = 0.0;
    double squares = 0.0;
    int count = 0;
    for (long n = step - LAG - WINDOW + 1; n <= step - LAG; n++) {
        const double norm = n >= 0 ? (double)norms[n % NORM_RING] : 0.0;
        if (norm > 0.0) {
            sum += norm;
            squares += norm * norm;
            count++;
        }
    }
    if (count < FEWEST) {
        return 0.0f;
    }
    const double mean = sum / count;
    const double variance = fmax(0.0, squares / count - mean * mean);
    return (float)fmin(mean + z * sqrt(variance), (double)FLT_MAX);
}

double norm_note(float norms[NORM_RING], long step, const float grad_stats[2], float loss_scale)
{
    const double norm =
        grad_stats[1] == 0.0f ? 1.0 / (double)loss_scale * sqrt((double)grad_stats[0]) : 0.0;
    norms[step % NORM_RING] = isfinite((float)norm) ? (float)norm : 0.0f;
    return norm;
}
