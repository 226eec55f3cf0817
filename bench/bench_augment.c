/* Images a second of one core for each augmentation policy, after crop and flip, beside crop and flip alone (the limit: a
 * copy). Arguments: height and width, default 32 32. Fixed work in rounds, the policies by turns; the median round. */
#include "base/err.h"
#include "base/rng.h"
#include "data/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 9, CASES = 7, MIN_SIDE = 1, ROUND_PIXELS = 1 << 20 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* of this thread: the machine may be shared */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

static ViewSpec case_of(int i)
{
    static const PolicyKind kinds[CASES] = {
        POLICY_NONE,
        POLICY_NONE,
        POLICY_AUTOAUGMENT_IMAGENET,
        POLICY_AUTOAUGMENT_CIFAR10,
        POLICY_AUTOAUGMENT_CIFAR10,
        POLICY_RANDAUGMENT_TIMM,
        POLICY_RANDAUGMENT_TORCHVISION,
    };
    ViewSpec spec = {.crop = {.pad = 4, .flip = true}};
    spec.policy = (PolicySpec){.kind = kinds[i], .n = 2, .m = 9, .mstd = 0.5, .inc = true};
    if (i == 1 || i == 4) {
        spec.policy.cutout = 16;
        spec.policy.cutout_prob = 1.0;
    }
    return spec;
}

int main(int argc, char **argv)
{
    static const char *const names[CASES] = {"crop and flip",
                                             "cutout 16",
                                             "autoaugment_imagenet",
                                             "autoaugment_cifar10",
                                             "autoaugment_cifar10, cutout 16",
                                             "randaugment_timm m9 mstd0.5 inc1",
                                             "randaugment_torchvision m9"};
    const int height = argc == 3 ? (int)strtol(argv[1], NULL, 10) : 32;
    const int width = argc == 3 ? (int)strtol(argv[2], NULL, 10) : 32;
    if ((argc != 1 && argc != 3) || height < MIN_SIDE || width < MIN_SIDE ||
        height > PIL_MAX_SIDE || width > PIL_MAX_SIDE) {
        (void)fprintf(stderr, "usage: bench_augment [HEIGHT WIDTH]\n");
        return EXIT_USAGE_ERR;
    }
    const size_t bytes = (size_t)height * (size_t)width * 3;
    uint8_t *image = xmalloc(3 * bytes);
    Rng rng = rng_make(1, 0, 0, RNG_TEST);
    for (size_t i = 0; i < bytes; i++) {
        image[i] = (uint8_t)rng_u32(&rng);
    }
    const uint32_t images = ROUND_PIXELS / (uint32_t)(height * width) + 1;
    double seconds[CASES][ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CASES; i++) {
            const ViewSpec spec = case_of(i);
            const double start = now();
            for (uint32_t sample = 0; sample < images; sample++) {
                view_make(&spec, 1, (uint32_t)round, sample, image, height, width, image + bytes,
                          image + 2 * bytes);
            }
            seconds[i][round] = now() - start;
        }
    }
    printf("%d x %d pixels, one core\n%-34s %10s %8s\n", width, height, "", "img/s", "us");
    for (int i = 0; i < CASES; i++) {
        qsort(seconds[i], ROUNDS, sizeof(double), ascending);
        const double each = seconds[i][ROUNDS / 2] / images;
        printf("%-34s %10.0f %8.2f\n", names[i], 1.0 / each, 1e6 * each);
    }
    free(image);
    return 0;
}
