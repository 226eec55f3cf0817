/* The fused distillation kernel against the definition in double: every form, every part of the row contract, storage
 * types, pitches and shapes; the same bits in every thread order and for any number of rows. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include "distill_rig.h"

enum { SPEC_SMOOTHING = 1, SPEC_BANDS = 6, SPEC_ROW_T = 5 };

typedef struct {
    DistillForm form;
    int classes, n;
} Shape;

static void run_shapes(const Shape *shapes, int count, int specs)
{
    double worst[FORM_COUNT] = {0};
    int cases = 0;
    for (int s = 0; s < count; s++) {
        for (int i = 0; i < specs; i++) {
            Problem p = problem_new(shapes[s].classes, shapes[s].n, DT_F32, i, 3.0);
            const Layout layout = plain_layout(&p);
            double *const of_form = &worst[shapes[s].form];
            *of_form = fmax(*of_form, compare_with_ref(&p, &layout, shapes[s].form));
            cases++;
            problem_free(&p);
        }
    }
    for (int form = 1; form < FORM_COUNT; form++) {
        print_message("form %s, f32: largest used share of the bound %.3f\n", form_names[form],
                      worst[form]);
    }
    print_message("%d cases\n", cases);
}

static void test_all_specs(void **state)
{
    (void)state;
    static const Shape shapes[] = {
        {DISTILL_WARP, 2, 9},     {DISTILL_WARP, 3, 9},       {DISTILL_WARP, 10, 9},
        {DISTILL_WARP, 100, 9},   {DISTILL_WARP, 129, 5},     {DISTILL_WARP, 1001, 4},
        {DISTILL_BLOCK, 3, 9},    {DISTILL_BLOCK, 1025, 4},   {DISTILL_TWO_SWEEP, 2, 9},
        {DISTILL_CLUSTER, 10, 5}, {DISTILL_CLUSTER, 1025, 3}, {DISTILL_TWO_SWEEP, 100, 6}};
    run_shapes(shapes, sizeof shapes / sizeof *shapes, spec_count() + 24);
}

/* The common case and a few of the others at sizes that matter. */
static void test_shapes(void **state)
{
    (void)state;
    static const int specs[] = {SPEC_KD, SPEC_SMOOTHING, 4, SPEC_ROW_T, SPEC_BANDS, 9, 17, 25};
    static const Shape shapes[] = {
        {DISTILL_WARP, 1000, 6},   {DISTILL_WARP, 1024, 4},     {DISTILL_WARP, 512, 4},
        {DISTILL_WARP, 513, 4},    {DISTILL_BLOCK, 4099, 3},    {DISTILL_TWO_SWEEP, 4099, 3},
        {DISTILL_BLOCK, 21843, 1}, {DISTILL_CLUSTER, 21843, 1}, {DISTILL_TWO_SWEEP, 32000, 1}};
    double worst = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
            Problem p = problem_new(shapes[s].classes, shapes[s].n, DT_F32, specs[i], 3.0);
            const Layout layout = plain_layout(&p);
            worst = fmax(worst, compare_with_ref(&p, &layout, shapes[s].form));
            problem_free(&p);
        }
    }
    print_message("shapes: largest used share %.3f\n", worst);
}

static void test_largest_class_count(void **state)
{
    (void)state;
    static const DType types[] = {DT_F32, DT_BF16};
    for (int i = 0; i < 2; i++) {
        Problem p = problem_new(262144, 1, types[i], SPEC_KD, 3.0);
        const Layout layout = plain_layout(&p);
        print_message("C 262144, type %d: used share %.3f\n", (int)types[i],
                      compare_with_ref(&p, &layout, DISTILL_AUTO));
        problem_free(&p);
    }
    Problem p = problem_new(262144, 2, DT_F32, SPEC_BANDS, 3.0);
    const Layout layout = plain_layout(&p);
    print_message("C 262144, bands, two-sweep: used share %.3f\n",
                  compare_with_ref(&p, &layout, DISTILL_TWO_SWEEP));
    problem_free(&p);
}

static void test_storage_types(void **state)
{
    (void)state;
    static const Shape shapes[] = {{DISTILL_WARP, 3, 5},      {DISTILL_WARP, 100, 5},
                                   {DISTILL_WARP, 1003, 3},   {DISTILL_BLOCK, 1096, 3},
                                   {DISTILL_CLUSTER, 400, 3}, {DISTILL_TWO_SWEEP, 520, 3}};
    static const DType types[] = {DT_BF16, DT_F16};
    for (int type = 0; type < 2; type++) {
        double worst = 0;
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            for (int i = 0; i < spec_count(); i += i < 8 ? 1 : 3) {
                Problem p = problem_new(shapes[s].classes, shapes[s].n, types[type], i, 2.0);
                const Layout layout = plain_layout(&p);
                worst = fmax(worst, compare_with_ref(&p, &layout, shapes[s].form));
                problem_free(&p);
            }
        }
        print_message("logits and gradient of type %d: largest used share %.3f\n", (int)types[type],
                      worst);
    }
}

/* Rows that begin anywhere, gaps, gradients added, a loss scale, types that differ. */
static void test_layouts(void **state)
{
    (void)state;
    static const DType types[] = {DT_F32, DT_BF16, DT_F16};
    static const Shape shapes[] = {{DISTILL_WARP, 100, 5},
                                   {DISTILL_WARP, 1000, 3},
                                   {DISTILL_BLOCK, 1032, 3},
                                   {DISTILL_CLUSTER, 520, 3},
                                   {DISTILL_TWO_SWEEP, 136, 3}};
    static const int specs[] = {SPEC_KD, SPEC_BANDS, 7, 13, 25};
    double worst = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
            for (int type = 0; type < 3; type++) {
                Problem p = problem_new(shapes[s].classes, shapes[s].n, types[type], specs[i], 2.0);
                Layout layout = {.gap_z = 1,
                                 .gap_t = 3,
                                 .gap_dz = 5,
                                 .offset = 1,
                                 .t_type = types[type],
                                 .dz_type = types[type]};
                worst = fmax(worst, compare_with_ref(&p, &layout, shapes[s].form));
                layout = (Layout){.gap_z = 24,
                                  .gap_t = 8,
                                  .gap_dz = 40,
                                  .t_type = types[type],
                                  .dz_type = types[type],
                                  .add = true,
                                  .loss_scale = 1024};
                worst = fmax(worst, compare_with_ref(&p, &layout, shapes[s].form));
                problem_free(&p);
            }
            Problem p = problem_new(shapes[s].classes, shapes[s].n, DT_BF16, specs[i], 2.0);
            const Layout mixed = {.t_type = DT_F32, .dz_type = DT_F32};
            worst = fmax(worst, compare_with_ref(&p, &mixed, shapes[s].form));
            problem_free(&p);
        }
    }
    print_message("layouts: largest used share %.3f\n", worst);
}

static void assert_same(const Problem *p, const Result *a, const Result *b, const char *what)
{
    const size_t rows = (size_t)p->n * ROW_FIELDS * sizeof(float);
    const size_t elements = (size_t)p->n * (size_t)p->c * dtype_size(a->dz_type);
    if (memcmp(a->rows, b->rows, rows) != 0 || memcmp(a->dz, b->dz, elements) != 0 ||
        memcmp(a->sums, b->sums, SUM_FIELDS * sizeof(float)) != 0) {
        fail_msg("%s, C %d: %s: other bits", p->name, p->c, what);
    }
}

static void test_thread_orders(void **state)
{
    (void)state;
    static const Shape shapes[] = {{DISTILL_WARP, 100, 6},
                                   {DISTILL_BLOCK, 700, 3},
                                   {DISTILL_CLUSTER, 700, 3},
                                   {DISTILL_TWO_SWEEP, 700, 3}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int i = 0; i < spec_count(); i += i < 8 ? 2 : 4) {
            Problem p = problem_new(shapes[s].classes, shapes[s].n, DT_F32, i, 3.0);
            const Layout layout = plain_layout(&p);
            Result first = result_new(&p, DT_F32, DT_F32);
            assert_int_equal(run_kernel(&p, &layout, shapes[s].form, &first), 0);
            for (int order = 1; order < 3 && order_count() > 1; order++) {
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

/* A row's bits do not depend on how many rows there are (1100: other rows per block), nor on where it begins. */
static void test_rows_stand_alone(void **state)
{
    (void)state;
    Problem many = problem_new(10, 1100, DT_F32, SPEC_KD, 3.0);
    many.rows_valid = many.n;
    Problem few = many;
    few.n = few.rows_valid = 7;
    const Layout plain = plain_layout(&many);
    const Layout odd = {.gap_z = 1, .gap_t = 2, .gap_dz = 3, .offset = 1};
    Result all = result_new(&many, DT_F32, DT_F32);
    assert_int_equal(run_kernel(&many, &plain, DISTILL_WARP, &all), 0);
    for (int i = 0; i < 2; i++) {
        Result some = result_new(&few, DT_F32, DT_F32);
        assert_int_equal(run_kernel(&few, i == 0 ? &plain : &odd, DISTILL_WARP, &some), 0);
        assert_memory_equal(all.rows, some.rows, 7 * ROW_FIELDS * sizeof(float));
        assert_memory_equal(all.dz, some.dz, 7 * 10 * sizeof(float));
        result_free(&some);
    }
    const float *sums = all.sums;
    assert_true(sums[SUM_ROWS] == 1100 && sums[SUM_NONFINITE] == 0);
    result_free(&all);
    problem_free(&many);
}

/* Gradient and sums keep their bits where the exports are not asked for. */
static void test_without_rows(void **state)
{
    (void)state;
    static const Shape shapes[] = {{DISTILL_WARP, 100, 5},
                                   {DISTILL_BLOCK, 1100, 3},
                                   {DISTILL_CLUSTER, 1100, 3},
                                   {DISTILL_TWO_SWEEP, 4100, 3}};
    static const int specs[] = {SPEC_KD, SPEC_SMOOTHING, 4, SPEC_BANDS, 9};
    for (size_t i = 0; i < 4 * sizeof specs / sizeof *specs; i++) {
        const Shape *shape = &shapes[i % 4];
        Problem p = problem_new(shape->classes, shape->n, DT_F32, specs[i / 4], 3.0);
        Layout layout = plain_layout(&p);
        Result with = result_new(&p, DT_F32, DT_F32);
        assert_int_equal(run_kernel(&p, &layout, shape->form, &with), 0);
        Result without = result_new(&p, DT_F32, DT_F32);
        layout.no_rows = true;
        assert_int_equal(run_kernel(&p, &layout, shape->form, &without), 0);
        memcpy(without.rows, with.rows, (size_t)p.n * ROW_FIELDS * sizeof(float));
        assert_same(&p, &with, &without, "without rows");
        result_free(&with);
        result_free(&without);
        problem_free(&p);
    }
}

#ifdef CUDISTILL_EMU
/* Bytes that the launch moves, against z + t + dz + exports (+ the shares of the sums). */
static void check_bytes(const Problem *p, DistillForm form, int sweeps)
{
    Layout layout = plain_layout(p);
    layout.no_counter = true;
    Result r = result_new(p, p->dtype, DT_F32);
    emu_counts_reset();
    assert_int_equal(run_kernel(p, &layout, form, &r), 0);
    static const char *const kernels[] = {"", "_warp", "_block", "_sweep", "_cluster"};
    EmuCounts rows;
    assert_int_equal(emu_counts(kernels[form], &rows, NULL), 1);
    const double row = (double)p->c * (double)dtype_size(p->dtype);
    const double n = p->rows_valid;
    const double read = 2 * row * n * sweeps;
    const double written = row * p->n + p->n * (ROW_FIELDS + SUM_FIELDS) * 4.0;
    print_message("%s, form %s, C %d, type %d: read %.3f, written %.3f of the minimum\n", p->name,
                  form_names[form], p->c, (int)p->dtype, (double)rows.loaded / read,
                  (double)rows.stored / written);
    assert_true((double)rows.loaded <= 1.02 * read && (double)rows.loaded >= read);
    assert_true((double)rows.stored <= 1.02 * written && (double)rows.stored >= written);
    result_free(&r);
}

static void test_bytes(void **state)
{
    (void)state;
    static const Shape shapes[] = {{DISTILL_WARP, 100, 8},
                                   {DISTILL_WARP, 1000, 5},
                                   {DISTILL_BLOCK, 4099, 3},
                                   {DISTILL_CLUSTER, 4096, 3},
                                   {DISTILL_TWO_SWEEP, 4096, 3}};
    static const DType types[] = {DT_F32, DT_BF16};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int type = 0; type < 2; type++) {
            const int sweeps = shapes[s].form == DISTILL_TWO_SWEEP ? 2 : 1;
            Problem p = problem_new(shapes[s].classes, shapes[s].n, types[type], SPEC_KD, 3.0);
            check_bytes(&p, shapes[s].form, sweeps);
            problem_free(&p);
            if (sweeps == 1) {
                /* Eight terms of every form: still one reading. */
                p = problem_new(shapes[s].classes, shapes[s].n, types[type], spec_count() - 1, 3.0);
                check_bytes(&p, shapes[s].form, sweeps);
                problem_free(&p);
            }
        }
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_specs),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_largest_class_count),
        cmocka_unit_test(test_storage_types),
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_thread_orders),
        cmocka_unit_test(test_rows_stand_alone),
        cmocka_unit_test(test_without_rows),
#ifdef CUDISTILL_EMU
        cmocka_unit_test(test_bytes),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
