/* The definition of the distillation op against PyTorch in double: loss of each row, gradient by
 * autograd. */
#include "backend/distill_rows.h"
#include "base/err.h"
#include "distill_problem.h"
#include "python.h"
#include <unistd.h>
// clang-format off
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on

enum { ROWS = 24, CLASSES = 31 };

static void write_doubles(const char *folder, const char *name, const double *x, size_t n)
{
    char *path = xformat("%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(x, sizeof *x, n, f), n);
    assert_int_equal(fclose(f), 0);
    free(path);
}

/* Energy of a row in plain arithmetic: which temperature it gets is decided here, not by the op. */
static double plain_energy(const double *t)
{
    long double sum = 0;
    for (int k = 0; k < CLASSES; k++) {
        sum += expl((long double)(t[k] / 4));
    }
    return -4 * (double)logl(sum);
}

static void write_inputs(const Problem *p, const char *folder)
{
    double labels[ROWS];
    double temperatures[ROWS];
    int rows_at[7] = {0};
    for (int row = 0; row < ROWS; row++) {
        const double energy = plain_energy((double *)p->t + row * CLASSES);
        labels[row] = p->labels[row];
        temperatures[row] = energy < (double)p->theta[0] ? 6 : energy > (double)p->theta[1] ? 2 : 4;
        rows_at[(int)temperatures[row]]++;
    }
    assert_true(rows_at[2] > 2 && rows_at[4] > 2 && rows_at[6] > 2);
    write_doubles(folder, "z", p->z, ROWS * CLASSES);
    write_doubles(folder, "t", p->t, ROWS * CLASSES);
    write_doubles(folder, "labels", labels, ROWS);
    write_doubles(folder, "t_rows", temperatures, ROWS);
}

static DistillSpec spec_of(const char *name)
{
    DistillSpec s = {.energy_temperature = 4, .ce_weight = constant_value(1), .n_terms = 1};
    DistillTerm *t = &s.terms[0];
    *t = plain_term(FORM_KL, 4);
    t->weight = constant_value(1);
    if (strcmp(name, "kd") == 0 || strcmp(name, "energy") == 0) {
        s.ce_weight = constant_value(0.1f);
        t->weight = constant_value(0.9f);
    }
    if (strcmp(name, "energy") == 0) {
        t->ts = t->tt = (RowValue){.source = SOURCE_BAND, .band = {6, 4, 2}};
    } else if (strcmp(name, "smoothing") == 0) {
        s.n_terms = 0;
        s.smoothing = 0.125f;
    } else if (strcmp(name, "dkd") == 0) {
        t->form = FORM_DKD;
        t->beta = 8;
    } else if (strcmp(name, "nkd") == 0) {
        t->form = FORM_NKD;
        t->ts = t->tt = constant_value(2);
    } else if (strcmp(name, "lskd") == 0) {
        s.ce_weight = constant_value(0.1f);
        t->weight = constant_value(9);
        t->ts = t->tt = constant_value(2);
        t->zscore = true;
    } else if (strcmp(name, "wsl") == 0) {
        t->weight = (RowValue){.source = SOURCE_WSL, .value = 2.25f};
    }
    return s;
}

static void compare_case(Problem *p, const char *folder, const char *name)
{
    p->spec = spec_of(name);
    Result r = result_new(p, DT_F64, DT_F64);
    run_ref(p, &r);
    double want[ROWS + ROWS * CLASSES];
    char *path = xformat("%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(want, sizeof *want, ROWS + ROWS * CLASSES, f), ROWS + ROWS * CLASSES);
    (void)fclose(f);
    free(path);
    /* Both in double; the weights 0.1 and 0.9 are floats in the spec: 2^-24 of the loss. */
    double worst = 0;
    for (int i = 0; i < ROWS + ROWS * CLASSES; i++) {
        const double got =
            i < ROWS ? ((double *)r.rows)[i * ROW_FIELDS + ROW_LOSS] : ((double *)r.dz)[i - ROWS];
        const double bound = 0x1p-24 * (1 + fabs(want[i]));
        worst = fmax(worst, fabs(got - want[i]) / bound);
        if (!(fabs(got - want[i]) <= bound)) {
            fail_msg("%s, element %d: %.12g, PyTorch %.12g", name, i, got, want[i]);
        }
    }
    print_message("%s: largest used share %.3f\n", name, worst);
    result_free(&r);
}

static void test_against_autograd(void **state)
{
    (void)state;
    if (!python_has("torch")) {
        python_skip("torch");
        skip();
    }
    char folder[] = "/tmp/cudistill-torch-XXXXXX";
    assert_non_null(mkdtemp(folder));
    Problem p = problem_new(CLASSES, ROWS, DT_F64, SPEC_KD, 2.0);
    p.rows_valid = ROWS;
    p.scale = 1;
    write_inputs(&p, folder);
    char *script = xformat("tests/test_distill_torch.py %s %d %d", folder, ROWS, CLASSES);
    FILE *out = python_open(script);
    free(script);
    assert_non_null(out);
    assert_int_equal(python_close(out), 0);
    static const char *const cases[] = {"kd", "smoothing", "energy", "dkd", "nkd", "lskd", "wsl"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        compare_case(&p, folder, cases[i]);
    }
    problem_free(&p);
    static const char *const files[] = {"z",      "t",   "labels", "t_rows", "kd", "smoothing",
                                        "energy", "dkd", "nkd",    "lskd",   "wsl"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *path = xformat("%s/%s", folder, files[i]);
        (void)unlink(path);
        free(path);
    }
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_autograd)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
