/* Lengths of time: what people write, and what only looks like it. */
#include "base/duration.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void lengths_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double seconds;
    } good[] = {{"90", 90},          {"90s", 90},    {"15m", 900},         {"12h", 43200},
                {"1d", 86400},       {"1.5h", 5400}, {"0.5", 0.5},         {"23h50m", 85800},
                {"1d2h3m4s", 93784}, {"007s", 7},    {"3650d", 315360000}, {"2m0.25s", 120.25}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        double seconds = -1;
        assert_true(duration_parse(good[i].text, &seconds));
        assert_true(seconds == good[i].seconds); /* sums of few binary fractions: exact */
    }
}

static void other_texts_are_not(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",      "0",    "0s",   "-1s",  "+1s",   " 1s",   "1s ",   "s",        "1x",   "1 h",
        "0x10s", "1e3s", "1e3",  "inf",  "nan",   "1.s",   ".5s",   "1..5s",    "1,5h", "1m1h",
        "1h1h",  "1h30", "30m5", "5s5s", "3651d", "1e999", "1h-1m", "12 hours", "12H"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        double seconds = -1;
        if (duration_parse(bad[i], &seconds)) {
            fail_msg("'%s' became %g s", bad[i], seconds);
        }
        assert_true(seconds == -1); /* untouched */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_are_read),
        cmocka_unit_test(other_texts_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
