/* A few of the faults that tests/check_faults.c tries one after the other: see faults_rig.h. */
#include "faults_rig.h"

enum { STRIDE = 37 };

static void test_some_faults(void **state)
{
    fault_sweep(*state, &(FaultCase){"ENOSPC", "once"}, STRIDE);
    fault_sweep(*state, &(FaultCase){"EIO", "always"}, STRIDE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_some_faults),
    };
    return cmocka_run_group_tests_name("some faults", tests, fault_setup, fault_teardown);
}
