/* cuDNN's plans for a described H200 on a machine without a GPU: every convolution of the fused training graph of a student
 * and of its teacher has one, for ResNet-50 at batch 256 and for two CIFAR pairs at batch 64, in fp16. The plan cache
 * gives the same plans again without compiling, and a damaged one is ignored.
 *
 * Skipped where no libcuda.so.1 can be had (no driver and no C compiler). */
#include "plan_nets.h"

static char skip_reason[200];

/* Convolutions (with their gradients) that carry fused work, of the networks below. Fewer than with the library that the
 * support table was made with would be a fusion lost; with another one the numbers are only printed. */
typedef struct {
    int teacher;           /* bias, residual and ReLU, or an affine input */
    int stats, affine, bn; /* of the student */
} Expected;

static void plans_expected(const Backend *backend, PlanCount teacher, PlanCount student,
                           Expected expected)
{
    char library[64];
    char *table = NULL;
    Err *err = file_read_text(PLANS_TABLE, 1 << 20, &table);
    CHECK(!err, "%s", err ? err->message : "");
    cudnn_context_describe(cuda_cudnn(backend->state), library, sizeof library);
    if (strncmp(table, library, strlen(library)) == 0) {
        assert_int_equal(teacher.fused, expected.teacher);
        assert_int_equal(student.stats, expected.stats);
        assert_int_equal(student.affine, expected.affine);
        assert_int_equal(student.bn, expected.bn);
    }
    free(table);
}

static void check_pair(const char *teacher, const char *student, int size, int classes, int batch,
                       Expected expected)
{
    if (skip_reason[0]) {
        print_message("skipped: %s\n", skip_reason);
        skip();
    }
    Backend backend;
    plans_backend(&backend, NULL);
    PlanNets nets;
    plan_nets_open(&nets, &backend, teacher, student, DT_F16, size, classes, batch);
    const PlanCount of_teacher = plan_nets_count(&nets, TEACHER_PREFIX);
    const CudnnCounts plans = cudnn_context_counts(cuda_cudnn(backend.state));
    const PlanCount of_student = plan_nets_count(&nets, STUDENT_PREFIX);
    print_message("%s -> %s: %.1f s; teacher: %d of %d convolutions fused; student: %d forward, %d "
                  "with gradients, of them %d with statistics, %d affine, %d with batch norm's "
                  "gradient; workspace %.0f MB; %d plans, %d of them compiled, %.1f s "
                  "of compiling\n",
                  teacher, student, nets.seconds, of_teacher.fused, of_teacher.nodes,
                  of_student.forward, of_student.nodes, of_student.stats, of_student.affine,
                  of_student.bn, (double)exec_bytes(nets.exec, ARENA_WORKSPACE) / 1e6, plans.plans,
                  plans.compiled, plans.compile_s);
    /* Forward, and two gradients of all but the stem, whose input wants none. */
    assert_int_equal(of_student.nodes, 3 * of_student.forward - 1);
    plans_expected(&backend, of_teacher, of_student, expected);
    plan_nets_close(&nets);
    backend.close(&backend);
}

static void test_resnet50(void **state)
{
    (void)state;
    check_pair("resnet50", "resnet50", 224, 1000, 256, (Expected){53, 53, 64, 32});
}

static void test_resnet8x4(void **state)
{
    (void)state;
    check_pair("resnet8x4", "resnet8x4", 32, 100, 64, (Expected){10, 10, 10, 3});
}

static void test_wrn_16_2(void **state)
{
    (void)state;
    check_pair("wrn_16_2", "wrn_16_2", 32, 100, 64, (Expected){13, 7, 30, 9});
}

/* ---- The cache ---- */

static CudnnCounts plan_once(const char *device, const char *folder, char name[200])
{
    static const TableShape shape = {"", 8, 16, 16, 16, 3, 1, 1};
    static const TablePattern pattern = {.bias = true, .relu = true};
    const CudnnConvSpec spec = table_spec(&shape, &pattern, DT_F16);
    CudnnContext *cudnn = NULL;
    CudnnPlan *plan = NULL;
    CudnnPlan *again = NULL;
    Err *err = cudnn_context_open(device, folder, &cudnn);
    CHECK(!err, "%s", err ? err->message : "");
    err = cudnn_plan_make(cudnn, &spec, NULL, false, &plan);
    CHECK(!err, "%s", err ? err->message : "");
    err = cudnn_plan_make(cudnn, &spec, NULL, false, &again);
    CHECK(!err, "%s", err ? err->message : "");
    assert_ptr_equal(plan, again);
    snprintf(name, 200, "%s, %zu", cudnn_plan_name(plan), cudnn_plan_workspace(plan));
    const CudnnCounts counts = cudnn_context_counts(cudnn);
    cudnn_context_close(cudnn);
    return counts;
}

static void damage(const char *folder)
{
    char **names = NULL;
    size_t count = 0;
    Err *err = dir_list(folder, &names, &count);
    CHECK(!err && count == 1, "one file of plans is expected");
    char *path = path_join(folder, names[0]);
    FILE *file = fopen(path, "r+");
    CHECK(file && fseek(file, -100, SEEK_END) == 0 && fputc('#', file) != EOF, "%s", path);
    fclose(file);
    free(path);
    names_free(names, count);
}

static void test_cache(void **state)
{
    (void)state;
    if (skip_reason[0]) {
        print_message("skipped: %s\n", skip_reason);
        skip();
    }
    char folder[] = "/tmp/cudistill-plans-XXXXXX";
    char first[200];
    char second[200];
    char *device = plans_device();
    assert_non_null(mkdtemp(folder));
    const CudnnCounts made = plan_once(device, folder, first);
    assert_int_equal(made.plans, 1);
    assert_int_equal(made.compiled, 1);
    const CudnnCounts loaded = plan_once(device, folder, second);
    assert_int_equal(loaded.loaded, 1);
    assert_int_equal(loaded.compiled, 0);
    assert_string_equal(first, second);
    damage(folder);
    const CudnnCounts remade = plan_once(device, folder, second);
    assert_int_equal(remade.loaded, 0);
    assert_int_equal(remade.compiled, 1);
    assert_string_equal(first, second);
    assert_int_equal(plan_once(device, folder, second).loaded, 1);
    err_free(dir_remove(folder));
    free(device);
}

/* What cuDNN says of a description that is none. */
static void test_bad_device(void **state)
{
    (void)state;
    CudnnContext *cudnn = NULL;
    Err *err = cudnn_context_open("{\"deviceName\": 3", NULL, &cudnn);
    assert_non_null(err);
    assert_null(cudnn);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    err_free(err);
}

int main(int argc, char **argv)
{
    (void)argc;
    (void)plans_need_libcuda(argv, skip_reason);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_device), cmocka_unit_test(test_cache),
        cmocka_unit_test(test_resnet8x4), cmocka_unit_test(test_wrn_16_2),
        cmocka_unit_test(test_resnet50)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
