/* The doctor's findings: its own judgement of texts, a folder that cannot be written, and that nothing is left behind. What
 * it says of this machine is compared with what the C library says. */
#include "base/err.h"
#include "base/files.h"
#include "cli/doctor.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static const Finding *find(const Doctor *doctor, const char *subject)
{
    for (size_t i = 0; i < doctor->count; i++) {
        if (strcmp(doctor->findings[i].subject, subject) == 0) {
            return &doctor->findings[i];
        }
    }
    return NULL;
}

static void test_quota(void **state)
{
    (void)state;
    assert_true(doctor_cpu_quota("200000 100000") == 2.0);
    assert_true(doctor_cpu_quota("50000 100000") == 0.5);
    assert_true(doctor_cpu_quota("max 100000") < 0.0);
    assert_true(doctor_cpu_quota("") < 0.0);
    assert_true(doctor_cpu_quota(NULL) < 0.0);
}

static void test_machine(void **state)
{
    (void)state;
    Doctor doctor = {0};
    doctor_machine(&doctor);
    const Finding *cores = find(&doctor, "cores");
    cpu_set_t allowed;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    assert_non_null(cores);
    assert_int_equal(atoi(cores->found), CPU_COUNT(&allowed));
    assert_non_null(find(&doctor, "processor"));
    assert_non_null(find(&doctor, "memory"));
    for (size_t i = 0; i < doctor.count; i++) {
        /* A warning without advice helps nobody. */
        assert_true(doctor.findings[i].level < DOCTOR_WARN || doctor.findings[i].advice);
    }
    doctor_free(&doctor);
}

static void test_limits(void **state)
{
    (void)state;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(
        setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = 64, .rlim_max = before.rlim_max}), 0);
    Doctor doctor = {0};
    doctor_machine(&doctor);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    const Finding *limits = find(&doctor, "limits");
    assert_non_null(limits);
    assert_int_equal(limits->level, DOCTOR_WARN);
    assert_non_null(strstr(limits->found, "open files is limited to 64"));
    assert_non_null(strstr(limits->advice, "ulimit -n"));
    doctor_free(&doctor);
}

static void test_disk(void **state)
{
    (void)state;
    char folder[] = "/tmp/cudistill-doctor-XXXXXX";
    assert_non_null(mkdtemp(folder));
    Doctor doctor = {0};
    doctor_disk(&doctor, folder);
    assert_non_null(find(&doctor, "disk"));
    assert_true(doctor_worst(&doctor) < DOCTOR_BAD);
    char **names;
    size_t count;
    assert_null(dir_list(folder, &names, &count));
    assert_int_equal(count, 0); /* the probe's files are gone */
    names_free(names, count);
    doctor_free(&doctor);

    assert_int_equal(rmdir(folder), 0);
    doctor_disk(&doctor, folder);
    assert_int_equal(doctor_worst(&doctor), DOCTOR_BAD);
    assert_non_null(strstr(find(&doctor, "disk")->found, folder));
    doctor_free(&doctor);

    doctor_disk(&doctor, "/proc"); /* a folder where no file can be made */
    assert_int_equal(doctor_worst(&doctor), DOCTOR_BAD);
    assert_non_null(strstr(find(&doctor, "disk")->advice, "another folder"));
    doctor_free(&doctor);
}

static void test_libraries(void **state)
{
    (void)state;
    Doctor doctor = {0};
    doctor_libraries(&doctor);
    doctor_gpu(&doctor);
    const Finding *cpu = find(&doctor, "cpu backend");
    assert_non_null(cpu);
    assert_int_equal(cpu->level, DOCTOR_OK);
    assert_non_null(strstr(cpu->found, "oneDNN"));
    assert_non_null(find(&doctor, "driver"));
    assert_non_null(find(&doctor, "cuda backend"));
    doctor_free(&doctor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_quota), cmocka_unit_test(test_machine),
                                       cmocka_unit_test(test_limits), cmocka_unit_test(test_disk),
                                       cmocka_unit_test(test_libraries)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
