/* The distillation kernel for one network without a term (cross entropy alone, statistics of one network), and the sums
 * over rows at the end of the row kernel: against the definition in double, the bits of other thread orders and of the
 * sums' own launch, rows that are not finite, and the bytes moved. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include "distill_rig.h"

enum { CE, SMOOTHED, ROW_WEIGHT, STUDENT_STATISTICS, TEACHER_STATISTICS, NO_LABELS, CASES };

typedef struct {
    DistillForm form;
    int classes, n;
} Shape;

static const Shape shapes[] = {
    {DISTILL_WARP, 2, 9},        {DISTILL_WARP, 3, 5},         {DISTILL_WARP, 100, 6},
    {DISTILL_WARP, 129, 5},      {DISTILL_WARP, 1000, 4},      {DISTILL_WARP, 1024, 3},
    {DISTILL_BLOCK, 2, 4},       {DISTILL_BLOCK, 1025, 4},     {DISTILL_BLOCK, 4099, 3},
    {DISTILL_CLUSTER, 10, 4},    {DISTILL_CLUSTER, 1025, 3},   {DISTILL_CLUSTER, 21843, 1},
    {DISTILL_TWO_SWEEP, 100, 5}, {DISTILL_TWO_SWEEP, 4099, 3}, {DISTILL_AUTO, 70000, 1}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static const DType types[] = {DT_F32, DT_BF16, DT_F16};

static Problem single_problem(int classes, int n, DType type, int kind, Layout *layout)
{
    Problem p = problem_new(classes, n, type, 0, 2.0);
    static const char *const names[CASES] = {"cross entropy",      "smoothed",
                                             "weight of the row",  "student statistics",
                                             "teacher statistics", "teacher without labels"};
    (void)snprintf(p.name, sizeof p.name, "%s", names[kind]);
    p.spec.smoothing = kind == SMOOTHED ? 0.1f : 0;
    p.spec.ce_weight = kind == ROW_WEIGHT ? column_value(2) : p.spec.ce_weight;
    p.spec.statistics_only = kind >= STUDENT_STATISTICS;
    p.no_student = kind >= TEACHER_STATISTICS;
    p.no_labels = kind == NO_LABELS;
    *layout = plain_layout(&p);
    layout->no_teacher = kind < TEACHER_STATISTICS;
    return p;
}

static void test_definition(void **state)
{
    (void)state;
    for (int type = 0; type < 3; type++) {
        double worst = 0;
        for (int s = 0; s < SHAPES; s++) {
            for (int kind = 0; kind < CASES; kind++) {
                Layout layout;
                Problem p =
                    single_problem(shapes[s].classes, shapes[s].n, types[type], kind, &layout);
                worst = fmax(worst, compare_with_ref(&p, &layout, shapes[s].form));
                problem_free(&p);
            }
        }
        print_message("one network, type %d: largest used share of the bound %.3f\n", type, worst);
        assert_true(worst > 0);
    }
}

/* Rows that begin anywhere, gaps, a gradient added to, a loss scale; energies of other temperatures. */
static void test_layouts(void **state)
{
    (void)state;
    static const float temperatures[] = {1, 2, 3};
    for (int s = 0; s < SHAPES; s++) {
        for (int kind = 0; kind < CASES; kind++) {
            Layout layout;
            Problem p = single_problem(shapes[s].classes, shapes[s].n, types[s % 3], kind, &layout);
            p.spec.energy_temperature = temperatures[s % 3];
            layout.gap_z = layout.gap_t = 1;
            layout.gap_dz = 3;
            layout.offset = 1;
            (void)compare_with_ref(&p, &layout, shapes[s].form);
            layout.offset = 0;
            layout.gap_z = layout.gap_t = layout.gap_dz = 8 - p.c % 8;
            layout.add = true;
            layout.loss_scale = 1024;
            (void)compare_with_ref(&p, &layout, shapes[s].form);
            problem_free(&p);
        }
    }
}

static void assert_same(const Problem *p, const Result *a, const Result *b, const char *what)
{
    const size_t elements = (size_t)p->n * (size_t)p->c * dtype_size(a->dz_type);
    if (memcmp(a->rows, b->rows, (size_t)p->n * ROW_FIELDS * sizeof(float)) != 0 ||
        memcmp(a->dz, b->dz, elements) != 0 ||
        memcmp(a->sums, b->sums, SUM_FIELDS * sizeof(float)) != 0) {
        fail_msg("%s, n %d, C %d: %s: other bits", p->name, p->n, p->c, what);
    }
}

static void test_thread_orders(void **state)
{
    (void)state;
    for (int s = 0; s < SHAPES; s++) {
        for (int kind = 0; kind < CASES; kind += 2) {
            Layout layout;
            Problem p = single_problem(shapes[s].classes, shapes[s].n, DT_F32, kind, &layout);
            Result first = result_new(&p, DT_F32, DT_F32);
            assert_int_equal(run_kernel(&p, &layout, shapes[s].form, &first), 0);
            for (int order = 1; order < order_count(); order++) {
                set_order(order);
                Result again = result_new(&p, DT_F32, DT_F32);
                assert_int_equal(run_kernel(&p, &layout, shapes[s].form, &again), 0);
                set_order(0);
                assert_same(&p, &first, &again, form_names[shapes[s].form]);
                result_free(&again);
            }
            result_free(&first);
            problem_free(&p);
        }
    }
}

/* NaN or +inf anywhere spoils the row and no other; -inf on another class does not, but smoothing makes its loss
 * infinite. */
static void test_rows_that_are_not_finite(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    enum { CLASSES = 300, ROWS = 4, BAD_ROW = 1 };
    static const DistillForm forms[] = {DISTILL_WARP, DISTILL_BLOCK, DISTILL_TWO_SWEEP,
                                        DISTILL_CLUSTER};
    for (int i = 0; i < 4 * CASES * 3 * 4; i++) {
        const DistillForm form = forms[i % 4];
        const int kind = i / 4 % CASES;
        const float value = bad[i / 4 / CASES % 3];
        const int where = i / 4 / CASES / 3; /* the label, the first, the last other class, all */
        Layout layout;
        Problem p = single_problem(CLASSES, ROWS, DT_F32, kind, &layout);
        p.rows_valid = ROWS;
        p.labels[BAD_ROW] = 7;
        Result clean = result_new(&p, DT_F32, DT_F32);
        assert_int_equal(run_kernel(&p, &layout, form, &clean), 0);
        float *const x = (float *)(p.no_student ? p.t : p.z) + (size_t)BAD_ROW * CLASSES;
        for (int k = 0; k < CLASSES; k++) {
            const int at = where == 0 ? 7 : (where == 1 ? 0 : CLASSES - 1);
            x[k] = where == 3 || k == at ? value : x[k];
        }
        Result r = result_new(&p, DT_F32, DT_F32);
        assert_int_equal(run_kernel(&p, &layout, form, &r), 0);
        const bool sound = value == -INFINITY && where != 3;
        const float *out = (float *)r.rows + BAD_ROW * ROW_FIELDS;
        const float *sums = r.sums;
        const bool student = kind < TEACHER_STATISTICS;
        const bool finite = sound && (!student || (where != 0 && kind != SMOOTHED));
        if ((out[student ? ROW_SARG : ROW_TARG] == -1) == sound ||
            sums[SUM_NONFINITE] != (finite ? 0 : 1)) {
            fail_msg("%s, form %s, %g at %d: prediction %g, %g rows not finite", p.name,
                     form_names[form], (double)value, where,
                     (double)out[student ? ROW_SARG : ROW_TARG], (double)sums[SUM_NONFINITE]);
        }
        if (!sound && kind < STUDENT_STATISTICS) {
            for (int k = 0; k < CLASSES; k++) {
                assert_true(isnan(((float *)r.dz)[BAD_ROW * CLASSES + k]));
            }
        }
        for (int row = 0; row < ROWS; row++) {
            if (row != BAD_ROW) {
                assert_memory_equal((float *)r.rows + row * ROW_FIELDS,
                                    (float *)clean.rows + row * ROW_FIELDS,
                                    ROW_FIELDS * sizeof(float));
                assert_memory_equal((float *)r.dz + row * CLASSES,
                                    (float *)clean.dz + row * CLASSES, CLASSES * sizeof(float));
            }
        }
        result_free(&r);
        result_free(&clean);
        problem_free(&p);
    }
}

static void test_labels_out_of_range(void **state)
{
    (void)state;
    static const int32_t wrong[] = {-1, 37, INT32_MIN, INT32_MAX};
    for (int i = 0; i < 4 * SHAPES; i++) {
        const Shape *shape = &shapes[i / 4];
        Layout layout;
        Problem p = single_problem(shape->classes, 4, DT_F32, CE, &layout);
        p.rows_valid = p.n;
        p.labels[1] = wrong[i % 4] == 37 ? p.c : wrong[i % 4];
        Result r = result_new(&p, DT_F32, DT_F32);
        assert_int_equal(run_kernel(&p, &layout, shape->form, &r), 0);
        assert_true(isnan(((float *)r.rows)[ROW_FIELDS + ROW_LOSS]));
        for (int k = 0; k < p.c; k++) {
            assert_true(isnan(((float *)r.dz)[p.c + k]));
            assert_true(isfinite(((float *)r.dz)[k]) && isfinite(((float *)r.dz)[2 * p.c + k]));
        }
        assert_true(((float *)r.sums)[SUM_NONFINITE] == 1 && ((float *)r.sums)[SUM_ROWS] == 4);
        result_free(&r);
        problem_free(&p);
    }
}

/* The sums of the row kernel's last block are those of a launch of their own, launch after launch, in every form and on
 * both sides of the number of rows from which there is always such a launch. */
static void test_sums_in_last_block(void **state)
{
    (void)state;
    static const Shape batches[] = {{DISTILL_WARP, 10, 1},      {DISTILL_WARP, 100, 64},
                                    {DISTILL_WARP, 3, 128},     {DISTILL_WARP, 3, 129},
                                    {DISTILL_WARP, 3, 131},     {DISTILL_WARP, 3, 512},
                                    {DISTILL_WARP, 3, 513},     {DISTILL_BLOCK, 3, 70},
                                    {DISTILL_CLUSTER, 130, 65}, {DISTILL_TWO_SWEEP, 3, 66}};
    for (size_t i = 0; i < 3 * sizeof batches / sizeof *batches; i++) {
        const Shape *shape = &batches[i / 3];
        Layout layout;
        /* The common, the general and the kernel for one network. */
        Problem p = i % 3 == 2
                        ? single_problem(shape->classes, shape->n, DT_F32, CE, &layout)
                        : problem_new(shape->classes, shape->n, DT_F32, i % 3 ? 9 : SPEC_KD, 2.0);
        if (i % 3 < 2) {
            layout = plain_layout(&p);
        }
        Result apart = result_new(&p, DT_F32, DT_F32);
        layout.no_counter = true;
        assert_int_equal(run_kernel(&p, &layout, shape->form, &apart), 0);
        assert_true(((float *)apart.sums)[SUM_ROWS] ==
                    (float)(p.rows_valid < p.n ? p.rows_valid : p.n));
        layout.no_counter = false;
        layout.runs = 3;
        for (int order = 0; order < order_count(); order++) {
            set_order(order);
            Result together = result_new(&p, DT_F32, DT_F32);
            assert_int_equal(run_kernel(&p, &layout, shape->form, &together), 0);
            set_order(0);
            assert_same(&p, &apart, &together, "sums in the last block");
            result_free(&together);
        }
        result_free(&apart);
        problem_free(&p);
    }
}

#ifdef CUDISTILL_EMU
/* Bytes against x, dz and exports; with a counter one launch does all. */
static void test_bytes(void **state)
{
    (void)state;
    static const char *const kernels[] = {"", "single_warp", "single_block", "single_sweep",
                                          "single_cluster"};
    static const Shape sizes[] = {{DISTILL_WARP, 100, 8},
                                  {DISTILL_WARP, 1000, 5},
                                  {DISTILL_BLOCK, 4096, 3},
                                  {DISTILL_CLUSTER, 4096, 3},
                                  {DISTILL_TWO_SWEEP, 4096, 3}};
    for (int i = 0; i < 5 * 2 * CASES; i++) {
        const Shape *shape = &sizes[i / 2 / CASES];
        const int kind = i % CASES;
        const DType type = types[i / CASES % 2];
        Layout layout;
        Problem p = single_problem(shape->classes, shape->n, type, kind, &layout);
        p.rows_valid = p.n;
        layout.no_counter = true;
        Result r = result_new(&p, type, DT_F32);
        emu_counts_reset();
        assert_int_equal(run_kernel(&p, &layout, shape->form, &r), 0);
        EmuCounts rows;
        assert_int_equal(emu_counts(kernels[shape->form], &rows, NULL), 1);
        const bool gradient = kind < STUDENT_STATISTICS;
        const double x = (double)p.n * p.c * (double)dtype_size(type);
        const double read = x * (gradient && shape->form == DISTILL_TWO_SWEEP ? 2 : 1);
        const double exports = p.n * (ROW_FIELDS + SUM_FIELDS) * 4.0;
        const double written = (gradient ? x : 0) + exports;
        if (i % CASES == CE || i % CASES == TEACHER_STATISTICS) {
            print_message("%s, form %s, C %d, type %d: read %.3f, written %.3f of the minimum\n",
                          p.name, form_names[shape->form], p.c, (int)type,
                          (double)rows.loaded / read, (double)rows.stored / written);
        }
        assert_true((double)rows.loaded == read && (double)rows.stored == written);
        layout.no_counter = false;
        emu_counts_reset();
        assert_int_equal(run_kernel(&p, &layout, shape->form, &r), 0);
        assert_int_equal(emu_counts("", &rows, NULL), 1);
        result_free(&r);
        problem_free(&p);
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition),
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_thread_orders),
        cmocka_unit_test(test_rows_that_are_not_finite),
        cmocka_unit_test(test_labels_out_of_range),
        cmocka_unit_test(test_sums_in_last_block),
#ifdef CUDISTILL_EMU
        cmocka_unit_test(test_bytes),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
