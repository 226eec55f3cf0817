/* The communicator of one rank, and what is refused. Two and more ranks: check_emu_ranks.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/plugin.h"
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

static void test_self(void **state)
{
    (void)state;
    Comm *comm = NULL;
    assert_null(comm_open("self", NULL, &comm));
    assert_string_equal(comm->name, "self");
    assert_int_equal(comm->rank, 0);
    assert_int_equal(comm->world, 1);
    float data[3] = {1.5F, -2, 1e30F};
    const float kept[3] = {1.5F, -2, 1e30F};
    assert_null(comm->all_reduce(comm, NULL, data, 3, COMM_F32));
    assert_memory_equal(data, kept, sizeof kept);
    assert_null(comm->all_reduce(comm, NULL, data, 6, COMM_BF16));
    assert_null(comm->all_reduce(comm, NULL, data, 6, COMM_F16));
    assert_null(comm->broadcast(comm, NULL, data, sizeof data, 0));
    assert_memory_equal(data, kept, sizeof kept);
    assert_null(comm->check(comm));
    comm->abort(comm);
    comm_close(comm);
    comm_close(NULL);
}

static void test_self_with_options(void **state)
{
    (void)state;
    Comm *comm = NULL;
    CommOptions options = {.rank = 0, .world = 1};
    assert_null(comm_new_id("self", options.id));
    assert_null(comm_open("self", &options, &comm));
    comm_close(comm);
}

static void expect_refused(const char *name, const CommOptions *options, ExitCode code,
                           const char *says)
{
    Comm *comm = (Comm *)&code;
    Err *err = comm_open(name, options, &comm);
    assert_non_null(err);
    assert_null(comm);
    if (err->code != code || !strstr(err->message, says)) {
        fail_msg("%d: %s", (int)err->code, err->message);
    }
    err_free(err);
}

static void test_refused(void **state)
{
    (void)state;
    expect_refused("self", &(CommOptions){.world = 2}, EXIT_USAGE_ERR, "one rank");
    expect_refused("smoke", NULL, EXIT_USAGE_ERR, "nccl");
    expect_refused("nccl", &(CommOptions){.rank = 2, .world = 2}, EXIT_USAGE_ERR, "rank 2 of 2");
    expect_refused("self", &(CommOptions){.world = 0}, EXIT_USAGE_ERR, "0 of 0");
    expect_refused("self", &(CommOptions){.rank = -1, .world = 1}, EXIT_USAGE_ERR, "-1");
    unsigned char id[COMM_ID_BYTES];
    Err *err = comm_new_id("smoke", id);
    assert_int_equal(err->code, EXIT_USAGE_ERR);
    err_free(err);
}

static void test_missing_library(void **state)
{
    (void)state;
    const char *kept = getenv(CUDA_PART_VARIABLE);
    char *copy = kept ? strdup(kept) : NULL;
    setenv(CUDA_PART_VARIABLE, "/nonexistent/libcudistill_cuda.so", 1);
    expect_refused("nccl", &(CommOptions){.world = 2}, EXIT_NO_DEVICE, "/nonexistent");
    unsigned char id[COMM_ID_BYTES];
    Err *err = comm_new_id("nccl", id);
    assert_int_equal(err->code, EXIT_NO_DEVICE);
    err_free(err);
    if (copy) {
        setenv(CUDA_PART_VARIABLE, copy, 1);
    } else {
        unsetenv(CUDA_PART_VARIABLE);
    }
    free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_self),
        cmocka_unit_test(test_self_with_options),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_missing_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
