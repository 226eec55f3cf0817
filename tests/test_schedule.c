/* host/train/schedule.c: values worked out by hand, and PyTorch's own schedulers where it is installed. */
#include "base/err.h"
#include "train/schedule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "python.h"

/* A handful of roundings of fp64 on values of the size of lr. */
static void assert_rate(double found, double expected)
{
    if (!(fabs(found - expected) <= 8 * 0x1p-53 * fmax(fabs(expected), 1e-3))) {
        fail_msg("rate %.17g, expected %.17g", found, expected);
    }
}

static Schedule recipe_of_repdistiller(void)
{
    return (Schedule){.kind = SCHEDULE_MULTISTEP,
                      .lr = 0.05,
                      .epochs = 240,
                      .milestones = {150, 180, 210},
                      .n_milestones = 3,
                      .gamma = 0.1};
}

static void test_multistep(void **state)
{
    (void)state;
    const Schedule schedule = recipe_of_repdistiller();
    /* Epochs from 0: the first 150 epochs (numbers 1..150 counted from 1) have the full rate. */
    assert_rate(schedule_lr(&schedule, 0, 0, 782), 0.05);
    assert_rate(schedule_lr(&schedule, 149, 781, 782), 0.05);
    assert_rate(schedule_lr(&schedule, 150, 0, 782), 0.005);
    assert_rate(schedule_lr(&schedule, 179, 781, 782), 0.005);
    assert_rate(schedule_lr(&schedule, 180, 0, 782), 0.0005);
    assert_rate(schedule_lr(&schedule, 210, 0, 782), 0.00005);
    assert_rate(schedule_lr(&schedule, 239, 781, 782), 0.00005);
    /* The same milestone twice falls twice. */
    const Schedule twice = {.kind = SCHEDULE_MULTISTEP,
                            .lr = 1.0,
                            .epochs = 10,
                            .milestones = {4, 4},
                            .n_milestones = 2,
                            .gamma = 0.5};
    assert_rate(schedule_lr(&twice, 3, 9, 10), 1.0);
    assert_rate(schedule_lr(&twice, 4, 0, 10), 0.25);
}

static void test_constant(void **state)
{
    (void)state;
    const Schedule schedule = {.kind = SCHEDULE_CONSTANT, .lr = 0.3, .epochs = 5};
    assert_true(schedule_lr(&schedule, 0, 0, 3) == 0.3);
    assert_true(schedule_lr(&schedule, 4, 2, 3) == 0.3);
}

static void test_cosine(void **state)
{
    (void)state;
    /* cos(pi/3) = 1/2, cos(pi/2) = 0, cos(2 pi/3) = -1/2, so the shares of the fall are 3/4, 1/2 and 1/4. */
    Schedule schedule = {.kind = SCHEDULE_COSINE, .lr = 0.5, .min_lr = 0.1, .epochs = 6};
    assert_rate(schedule_lr(&schedule, 0, 0, 4), 0.5);
    assert_rate(schedule_lr(&schedule, 2, 0, 4), 0.4);
    assert_rate(schedule_lr(&schedule, 2, 3, 4), 0.4);
    assert_rate(schedule_lr(&schedule, 3, 0, 4), 0.3);
    assert_rate(schedule_lr(&schedule, 4, 1, 4), 0.2);
    assert_rate(schedule_lr(&schedule, 6, 0, 4), 0.1);
    /* Beyond the planned end the rate stays there. */
    assert_rate(schedule_lr(&schedule, 9, 2, 4), 0.1);
    /* Per step: 2 epochs of 3 steps are 6 points. */
    schedule.per_step = true;
    schedule.epochs = 2;
    assert_rate(schedule_lr(&schedule, 0, 2, 3), 0.4);
    assert_rate(schedule_lr(&schedule, 1, 0, 3), 0.3);
    assert_rate(schedule_lr(&schedule, 1, 1, 3), 0.2);
}

static void test_linear(void **state)
{
    (void)state;
    Schedule schedule = {.kind = SCHEDULE_LINEAR, .lr = 0.5, .min_lr = 0.1, .epochs = 4};
    const double expected[] = {0.5, 0.4, 0.3, 0.2, 0.1};
    for (int epoch = 0; epoch <= 4; epoch++) {
        assert_rate(schedule_lr(&schedule, epoch, 1, 2), expected[epoch]);
    }
    schedule.per_step = true;
    schedule.epochs = 2;
    for (int point = 0; point < 4; point++) {
        assert_rate(schedule_lr(&schedule, point / 2, point % 2, 2), expected[point]);
    }
}

static void test_warmup(void **state)
{
    (void)state;
    Schedule schedule = {.kind = SCHEDULE_COSINE,
                         .lr = 0.5,
                         .min_lr = 0.1,
                         .epochs = 8,
                         .warmup_epochs = 2,
                         .warmup_start = 0.1};
    /* 2 epochs of 4 steps: 0.1 + 0.4 * k/8, and the cosine over the other 6 epochs. */
    for (int k = 0; k < 8; k++) {
        assert_rate(schedule_lr(&schedule, k / 4, k % 4, 4), 0.1 + 0.05 * k);
    }
    assert_rate(schedule_lr(&schedule, 2, 0, 4), 0.5);
    assert_rate(schedule_lr(&schedule, 4, 0, 4), 0.4);
    assert_rate(schedule_lr(&schedule, 5, 3, 4), 0.3);
    /* Milestones count from the first epoch of training, warm-up included. */
    Schedule steps = recipe_of_repdistiller();
    steps.warmup_epochs = 5;
    assert_rate(schedule_lr(&steps, 0, 0, 10), 0.0);
    assert_rate(schedule_lr(&steps, 2, 5, 10), 0.025);
    assert_rate(schedule_lr(&steps, 5, 0, 10), 0.05);
    assert_rate(schedule_lr(&steps, 149, 9, 10), 0.05);
    assert_rate(schedule_lr(&steps, 150, 0, 10), 0.005);
    /* Warm-up alone leads to the peak. */
    schedule.epochs = 2;
    assert_rate(schedule_lr(&schedule, 1, 0, 4), 0.3);
}

/* ---- PyTorch ---- */

typedef struct {
    Schedule schedule;
    int epochs, steps_per_epoch;
    /* PyTorch computes each cosine and linear rate from the one before: n roundings add up. */
    double relative;
} Case;

static void compare_with(FILE *oracle, const Case *one)
{
    double worst = 0;
    for (int epoch = 0; epoch < one->epochs; epoch++) {
        for (int step = 0; step < one->steps_per_epoch; step++) {
            char line[64];
            assert_non_null(fgets(line, sizeof line, oracle));
            const double expected = strtod(line, NULL);
            const double found = schedule_lr(&one->schedule, epoch, step, one->steps_per_epoch);
            const double error = fabs(found - expected) / one->schedule.lr;
            if (!(error <= one->relative)) {
                fail_msg("kind %d, epoch %d, step %d: %.17g, PyTorch %.17g",
                         (int)one->schedule.kind, epoch, step, found, expected);
            }
            worst = fmax(worst, error);
        }
    }
    print_message("kind %d: largest error %.2g of lr, allowed %.2g\n", (int)one->schedule.kind,
                  worst, one->relative);
}

static void test_against_pytorch(void **state)
{
    (void)state;
    if (!python_has("torch")) {
        python_skip("torch");
        skip();
    }
    FILE *oracle = python_open("tests/test_schedule_torch.py");
    assert_non_null(oracle);
    const Case cases[] = {
        {recipe_of_repdistiller(), 240, 1, 4 * 0x1p-53},
        {{.kind = SCHEDULE_COSINE, .lr = 0.1, .min_lr = 0.001, .epochs = 40},
         40,
         1,
         64 * 0x1p-53 * 40},
        {{.kind = SCHEDULE_LINEAR, .lr = 0.2, .min_lr = 0.002, .epochs = 50},
         50,
         1,
         8 * 0x1p-53 * 50},
        {{.kind = SCHEDULE_COSINE, .lr = 0.1, .epochs = 3, .per_step = true},
         3,
         7,
         64 * 0x1p-53 * 21},
        {{.kind = SCHEDULE_COSINE,
          .lr = 0.4,
          .epochs = 4,
          .warmup_epochs = 1,
          .warmup_start = 0.04,
          .per_step = true},
         4,
         10,
         64 * 0x1p-53 * 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        compare_with(oracle, &cases[i]);
    }
    assert_int_equal(fgetc(oracle), EOF);
    assert_int_equal(python_close(oracle), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constant), cmocka_unit_test(test_multistep),
        cmocka_unit_test(test_cosine),   cmocka_unit_test(test_linear),
        cmocka_unit_test(test_warmup),   cmocka_unit_test(test_against_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
