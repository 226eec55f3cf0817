/* cuDNN's plans for a described H200 without a GPU, at length: every network of the zoo in fp16 and bf16, training and
 * inference; and the table of what cuDNN takes, compared with tests/golden/cudnn_sm90.txt where the library is the one that
 * the table was made with.
 *
 *   check_plans                 all of it
 *   check_plans --write FILE    makes the table anew and leaves */
#include "plan_nets.h"

static char skip_reason[200];

static void skip_without_libcuda(void)
{
    if (skip_reason[0]) {
        print_message("skipped: %s\n", skip_reason);
        skip();
    }
}

static char *make_table(void)
{
    char *device = plans_device();
    CudnnContext *cudnn = NULL;
    Err *err = cudnn_context_open(device, NULL, &cudnn);
    CHECK(!err, "%s", err ? err->message : "");
    const double begin = now_s();
    char *text = table_text(cudnn);
    const CudnnCounts counts = cudnn_context_counts(cudnn);
    print_message("table: %d plans, %d compiled in %.0f s, %.0f s in all\n", counts.plans,
                  counts.compiled, counts.compile_s, now_s() - begin);
    cudnn_context_close(cudnn);
    free(device);
    return text;
}

/* Length of the line at `text`. */
static int line_length(const char *text)
{
    return (int)strcspn(text, "\n");
}

static int count_differences(const char *got, const char *want)
{
    int differences = 0;
    while (*got && *want) {
        const int a = line_length(got);
        const int b = line_length(want);
        if (a != b || strncmp(got, want, (size_t)a) != 0) {
            print_message("was: %.*s\nis:  %.*s\n", b, want, a, got);
            differences++;
        }
        got += a + (got[a] == '\n');
        want += b + (want[b] == '\n');
    }
    return differences + (*got || *want);
}

static void test_table(void **state)
{
    (void)state;
    char *want = NULL;
    skip_without_libcuda();
    Err *err = file_read_text(PLANS_TABLE, 1 << 20, &want);
    if (err) {
        fail_msg("%s", err->message);
    }
    char *got = make_table();
    const int length = line_length(want);
    const bool same_library = strncmp(got, want, (size_t)length) == 0 && got[length] == '\n';
    const int differences = count_differences(got, want);
    free(want);
    if (!same_library) {
        print_message("the table is of another cuDNN; this one is %.*s\n", line_length(got), got);
    }
    free(got);
    if (!same_library) {
        skip();
    }
    assert_int_equal(differences, 0);
}

static void report(const char *name, DType type, const PlanNets *nets)
{
    const PlanCount student = plan_nets_count(nets, STUDENT_PREFIX);
    const PlanCount teacher = plan_nets_count(nets, TEACHER_PREFIX);
    print_message(
        "%-12s %s: %3d + %3d convolutions, %3d with statistics, %3d affine, %3d with batch "
        "norm's gradient; workspace %5.0f MB; %4.0f s\n",
        name, dtype_name(type), teacher.nodes, student.nodes, student.stats, student.affine,
        student.bn, (double)exec_bytes(nets->exec, ARENA_WORKSPACE) / 1e6, nets->seconds);
}

/* One backend for all networks of a type: most of their convolutions are the same. */
static void check_zoo(DType type)
{
    skip_without_libcuda();
    Backend backend;
    int count = 0;
    const ModelInfo *models = model_list(&count);
    plans_backend(&backend, NULL);
    for (int i = 0; i < count; i++) {
        PlanNets nets;
        plan_nets_open(&nets, &backend, models[i].name, models[i].name, type, models[i].input_size,
                       models[i].classes, 64);
        report(models[i].name, type, &nets);
        plan_nets_close(&nets);
    }
    backend.close(&backend);
}

static void test_zoo_fp16(void **state)
{
    (void)state;
    check_zoo(DT_F16);
}

static void test_zoo_bf16(void **state)
{
    (void)state;
    check_zoo(DT_BF16);
}

static int write_table(const char *path)
{
    if (skip_reason[0]) {
        fprintf(stderr, "%s\n", skip_reason);
        return 1;
    }
    char *text = make_table();
    Err *err = file_write_atomic(path, text, strlen(text));
    if (err) {
        fprintf(stderr, "%s\n", err->message);
        err_free(err);
        free(text);
        return 1;
    }
    free(text);
    return 0;
}

int main(int argc, char **argv)
{
    (void)plans_need_libcuda(argv, skip_reason);
    if (argc == 3 && strcmp(argv[1], "--write") == 0) {
        return write_table(argv[2]);
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table),
                                       cmocka_unit_test(test_zoo_fp16),
                                       cmocka_unit_test(test_zoo_bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
