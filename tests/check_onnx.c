/* The large networks of the zoo as ONNX files in ONNX Runtime; test_onnx.c has the others. */
#include "base/log.h"
#include "onnx_rig.h"

static void check_large(void **state)
{
    (void)state;
    if (!python_has(PYTHON_MODULES)) {
        python_skip(PYTHON_MODULES);
        skip();
    }
    check_zoo(SMALL_PARAMETERS, SIZE_MAX);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {cmocka_unit_test(check_large)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
