/* Every op case on a backend against `ref`, and `ref` in fp32 against itself in double.
 *
 * Integer data: sums are exact in fp32, results must agree bit for bit. Other data, element i of an
 * output:
 *
 *   |a_i - b_i| <= c * eps32 * sqrt(K) * A_i + eps(type) * |b_i|
 *
 * The second part is one unit in the last place of the storage type (both sides round once). In the
 * first, A_i is the sum of the absolute values of the terms, found by running the op in double on
 * data whose terms are all positive; K is how many terms there are. Each of K additions rounds a
 * partial sum of at most A_i by at most eps32/2 * A_i with either sign, so sqrt(K) of them is what
 * a random walk gives and c = 1 is twice that. Ops that are not sums (division, square root,
 * exponential) have A = the largest value of their output (of its column for row exports), and c
 * from the number of roundings and how much a later step amplifies them (see `rule_of`). The
 * largest used share is printed for each op.
 *
 * Fused forms that store their terms in 16 bits on the way (a normalised x, a y that is summed) may
 * round a term the other way where its fp32 value lies next to a tie: 4 * eps(type) * A_i / K more,
 * one term several times the usual size. A backend may refuse forms that only fusion makes, with
 * EXIT_CONFIG_ERR; they are counted.
 *
 * Weight gradients of 16-bit convolutions on cuda: cuDNN gives them in 16 bits, so each is rounded once
 * more before it is added, by at most eps(16 bits)/2 times the sum of the absolute terms; twice that is
 * allowed, and integer data are left out. In fp16 cuDNN reads an affine's scale and shift in fp16:
 * each term may be off by eps(fp16)/2 of its absolute value.
 *
 * Which backend is tested: first argument or CUDISTILL_TEST_BACKEND, default cpu;
 * CUDISTILL_TEST_ISA caps its instruction set; a second argument limits the run to cases whose
 * name contains it. Cases are skipped where the backend cannot be had. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "case_data.h"
#include "rig.h"

static const char *subject_name = "cpu";
static const char *only = ""; /* cases whose name contains this */

enum { MAX_OUTPUTS = 16 };

typedef struct {
    char name[NAME_MAX_LEN];
    DType dtype;
    size_t elems;
    size_t columns; /* elements of one row */
    double *values;
} Output;

typedef struct {
    Output items[MAX_OUTPUTS];
    int count;
} Outputs;

static void outputs_free(Outputs *outputs)
{
    for (int i = 0; i < outputs->count; i++) {
        free(outputs->items[i].values);
    }
    outputs->count = 0;
}

static void outputs_add(Outputs *outputs, const char *name, const char *what, DType dtype,
                        size_t elems, size_t columns, double *values)
{
    Output *out = &outputs->items[outputs->count++];
    *out = (Output){.dtype = dtype, .elems = elems, .columns = columns, .values = values};
    snprintf(out->name, sizeof out->name, "%.80s%s", name, what);
}

static void set_param(Rig *rig, const CaseNet *net, Arena arena, int param, int slot, DataMode mode,
                      uint64_t seed)
{
    double *values = case_param_values(net, param, slot, mode, net->graph.act, seed);
    rig_set_param(rig, arena, param, values);
    free(values);
}

static void write_data(Rig *rig, const OpCase *c, const CaseNet *net, DataMode mode, uint64_t seed)
{
    for (int t = 0; t < net->graph.n_tensors; t++) {
        const Tensor *tensor = &net->graph.tensors[t];
        const int slot = case_slot(tensor);
        if (slot >= 0) {
            double *values = case_input_values(c, slot, tensor, mode, seed);
            rig_write(rig, tensor->name, values);
            free(values);
        }
    }
    for (int p = 0; p < net->params.count; p++) {
        const Arena arena = net->params.items[p].arena;
        set_param(rig, net, arena, p, CASE_SLOT_PARAM, mode, seed);
        if (arena == ARENA_WEIGHT) {
            set_param(rig, net, ARENA_GRAD, p, CASE_SLOT_GRAD, mode, seed);
            set_param(rig, net, ARENA_NONE, p, CASE_SLOT_MOMENT, mode, seed);
        }
    }
}

static void collect(Rig *rig, const CaseNet *net, Outputs *outputs)
{
    for (int t = 0; t < net->graph.n_tensors; t++) {
        const Tensor *tensor = &net->graph.tensors[t];
        if (tensor->kind == TENSOR_ACT || tensor->kind == TENSOR_SHARED) {
            outputs_add(outputs, tensor->name, "", tensor->dtype, tensor_elems(tensor),
                        (size_t)tensor->c, rig_read(rig, tensor->name));
        }
    }
    for (int p = 0; p < net->params.count; p++) {
        const Param *param = &net->params.items[p];
        outputs_add(outputs, param->name, "", net->graph.math, param->count, 1,
                    rig_get_param(rig, param->arena, p));
        if (param->arena == ARENA_WEIGHT) {
            outputs_add(outputs, param->name, " gradient", net->graph.math, param->count, 1,
                        rig_get_param(rig, ARENA_GRAD, p));
            outputs_add(outputs, param->name, " momentum", net->graph.math, param->count, 1,
                        rig_get_param(rig, ARENA_NONE, p));
        }
    }
}

/* False where the backend does not take the case's fused form. */
static bool run_case(Backend *backend, const OpCase *c, DType act, DataMode mode, uint64_t seed,
                     Outputs *outputs)
{
    outputs->count = 0;
    CaseNet net;
    case_build(c, act, &net);
    char *wrong = graph_validate(&net.graph);
    if (wrong) {
        fail_msg("%s: %s", c->name, wrong);
    }
    Rig rig;
    const ExecOptions options = {.poison = true, .check_plan = true};
    Err *err = rig_open(&rig, backend, &net.graph, &options);
    if (err && err->code == EXIT_CONFIG_ERR && (c->form & C_OPTIONAL) != 0) {
        err_free(err);
        case_free(&net);
        return false;
    }
    if (err) {
        fail_msg("%s: %s", c->name, err->message);
    }
    write_data(&rig, c, &net, mode, seed);
    rig_refresh(&rig);
    rig_run(&rig, c->rows ? c->rows : c->n, 0.25F, (c->form & C_GRAD_ADD) != 0, true);
    collect(&rig, &net, outputs);
    rig_close(&rig);
    case_free(&net);
    return true;
}

/* ---- Tolerances ---- */

typedef struct {
    bool exact; /* on integer data */
    bool terms; /* A from the magnitude run; else the largest value */
    double c, terms_count;
    double rounded; /* terms that were stored on the way, 0 = none */
} Rule;

static double gradient_pixels(const OpCase *c)
{
    const int oh = case_window(c->h, c->k, c->stride, c->pad);
    const int ow = case_window(c->w, c->kw ? c->kw : c->k, c->stride, c->pad);
    return (double)c->n * oh * ow;
}

static Rule rule_of(const OpCase *c)
{
    const double taps = (double)c->k * (c->kw ? c->kw : c->k);
    const double groups = c->groups ? c->groups : 1;
    switch (c->op) {
    case OP_CONV:
        return (Rule){true, true, 1, taps * c->c / groups + 2, 0};
    case OP_CONV_DGRAD:
        return (Rule){true, true, 1, taps * c->o / groups, 0};
    case OP_CONV_WGRAD:
        return (Rule){true, true, 1, gradient_pixels(c) + 1, 0};
    case OP_BIAS_GRAD:
    case OP_BN_STATS:
    case OP_BN_REDUCE:
        return (Rule){true, true, 1, (double)c->n * c->h * c->w + 4, 0};
    case OP_LINEAR:
        return (Rule){true, true, 1, c->c + 1, 0};
    case OP_LINEAR_DGRAD:
        return (Rule){true, true, 1, c->o, 0};
    case OP_LINEAR_WGRAD:
        return (Rule){true, true, 1, c->n + 1, 0};
    case OP_AVGPOOL:
    case OP_AVGPOOL_BWD:
        return (Rule){(c->k & (c->k - 1)) == 0, true, 1, taps + 1, 0};
    case OP_BN_APPLY:
    case OP_BN_DPARAM:
    case OP_RELU:
    case OP_RELU_BWD:
    case OP_ADD:
    case OP_MAXPOOL:
    case OP_MAXPOOL_BWD:
    case OP_CAST:
        return (Rule){true, true, 1, 4, 0};
    case OP_LOSS_SCALE:
    case OP_GATHER:
    case OP_VIEWS:
        return (Rule){true, false, 0, 1, 0};
    case OP_BN_DX: /* six roundings, each of at most the sum of the terms */
        return (Rule){(c->form & C_FROZEN) != 0, true, 1, 36, 0};
    case OP_GRAD_NORM: /* squares: the result is the sum of its absolute terms */
        return (Rule){false, false, 1, taps * c->c * c->o + 3.0 * c->o, 0};
    /* variance = E[x^2] - mean^2: amplified by (var + mean^2) / var, up to 20 with these data */
    case OP_BN_FINALIZE:
    case OP_BN_RUNNING:
        return (Rule){false, false, 32, 1, 0};
    case OP_DISTILL: /* exponentials of arguments up to 12 have that many eps */
        return (Rule){false, false, 16, c->c, 0};
    default: /* a few roundings each */
        return (Rule){false, false, 8, 1, 0};
    }
}

/* The rule for one output: sums in an epilogue are made of values that took the convolution's terms
 * each, twice for squares, and were stored; a prologue stores each of the convolution's terms. */
static Rule output_rule(const OpCase *c, const Output *out)
{
    Rule rule = rule_of(c);
    if ((c->form & C_SUMS) != 0 && strcmp(out->name, "out1") == 0) {
        const double pixels = c->op == OP_CONV ? gradient_pixels(c) : (double)c->n * c->h * c->w;
        rule.terms_count = 4 * (rule.terms_count + pixels);
        rule.rounded = pixels;
    } else if ((c->form & C_AFFINE) != 0) {
        rule.rounded = rule.terms_count;
    }
    return rule;
}

typedef struct {
    double share; /* largest used share of the tolerance */
    int cases, failed, refused;
    double rounding; /* eps of one more rounding of each result, see above */
} Used;

/* Row exports of a term: T^2 times a difference of logarithms, which are of size log C. */
static double term_scale(const OpCase *c, const Output *out, size_t i)
{
    const size_t column = i % out->columns;
    const bool term = column == ROW_LOSS || column >= ROW_TERM;
    return c->op == OP_DISTILL && out->columns == ROW_FIELDS && term ? log((double)c->c) : 0;
}

static double largest(const Output *out, size_t i, bool by_column)
{
    double max = 0;
    for (size_t k = by_column ? i % out->columns : 0; k < out->elems;
         k += by_column ? out->columns : 1) {
        max = fmax(max, fabs(out->values[k]));
    }
    return max;
}

/* False, and says where, when an element is out of tolerance. */
static bool compare_output(const OpCase *c, const Output *got, const Output *want,
                           const Output *terms, DType act, bool exact, Used *used)
{
    const Rule rule = output_rule(c, got);
    const bool integer = got->dtype == DT_U8 || got->dtype == DT_I32;
    const bool by_column = c->op == OP_DISTILL && got->columns == ROW_FIELDS;
    const double whole = rule.terms ? 0 : largest(want, 0, false);
    assert_int_equal(got->elems, want->elems);
    for (size_t i = 0; i < got->elems; i++) {
        const double a = got->values[i];
        const double b = want->values[i];
        if (exact || integer) {
            if (a != b) {
                print_error("%s: %s[%zu] = %.9g, exact is %.9g\n", c->name, got->name, i, a, b);
                return false;
            }
            continue;
        }
        const double max = by_column ? fmax(largest(want, i, true), term_scale(c, want, i)) : whole;
        const double scale = rule.terms ? terms->values[i] : max;
        const double flip = rule.rounded > 0 ? 4 * dtype_eps(act) * scale / rule.rounded : 0;
        const double limit = rule.c * dtype_eps(DT_F32) * sqrt(rule.terms_count) * scale +
                             dtype_eps(got->dtype) * fabs(b) + used->rounding * scale + flip;
        const double share = a == b ? 0 : fabs(a - b) / limit;
        if (!(share <= 1)) {
            print_error("%s: %s[%zu] = %.9g, ref %.9g: %.3g times the tolerance %.3g\n", c->name,
                        got->name, i, a, b, share, limit);
            return false;
        }
        used->share = fmax(used->share, share);
    }
    return true;
}

static void compare_case(Backend *golden, DType golden_act, Backend *subject, DType act,
                         const OpCase *c, Used *used)
{
    for (int integers = 0; integers < 2; integers++) {
        if (integers && (!rule_of(c).exact || (c->op == OP_CONV_WGRAD && used->rounding > 0))) {
            continue;
        }
        const DataMode mode = integers ? DATA_INTEGER : DATA_NORMAL;
        const uint64_t seed = (uint64_t)(c - op_cases) + 17;
        Outputs want;
        Outputs got;
        Outputs terms;
        if (!run_case(subject, c, act, mode, seed, &got)) {
            used->refused++;
            return;
        }
        const DataMode sizes = rule_of(c).terms && !integers ? DATA_MAGNITUDE : mode;
        assert_true(run_case(golden, c, golden_act, mode, seed, &want));
        assert_true(run_case(golden, c, DT_F64, sizes, seed, &terms));
        assert_int_equal(got.count, want.count);
        for (int i = 0; i < got.count; i++) {
            used->failed += !compare_output(c, &got.items[i], &want.items[i], &terms.items[i], act,
                                            integers, used);
        }
        outputs_free(&want);
        outputs_free(&got);
        outputs_free(&terms);
    }
    used->cases++;
}

/* What cuda rounds beyond the definition, see above. */
static double more_rounding(const Backend *subject, const OpCase *c, DType act)
{
    if (strcmp(subject->name, "cuda") != 0 || act == DT_F32) {
        return 0;
    }
    const bool affine = act == DT_F16 && (c->form & C_AFFINE) != 0;
    return (c->op == OP_CONV_WGRAD ? dtype_eps(act) : 0) + (affine ? dtype_eps(act) / 2 : 0);
}

static void compare_all(Backend *golden, DType golden_act, Backend *subject, DType act)
{
    Used used[OP_COUNT] = {0};
    for (int i = 0; i < OP_CASE_COUNT; i++) {
        if (!strstr(op_cases[i].name, only)) {
            continue;
        }
        Used *use = &used[op_cases[i].op];
        use->rounding = more_rounding(subject, &op_cases[i], act);
        compare_case(golden, golden_act, subject, act, &op_cases[i], use);
    }
    int failed = 0;
    int refused = 0;
    printf("%s %s against ref %s, used share of the tolerance:", subject->name, dtype_name(act),
           dtype_name(golden_act));
    for (int op = 0; op < OP_COUNT; op++) {
        if (used[op].cases == 0) {
            if (only[0]) {
                continue;
            }
            fail_msg("no case for op %s", op_name((Op)op));
        }
        failed += used[op].failed;
        refused += used[op].refused;
        printf(" %s %.0f%%%s", op_name((Op)op), 100 * used[op].share,
               used[op].share > 0.9 ? " (close!)" : "");
    }
    printf("; %d fused forms refused\n", refused);
    assert_int_equal(failed, 0);
    assert_true(refused == 0 || strcmp(subject->name, "ref") != 0);
}

/* ---- Tests ---- */

static Backend *open_backend(const char *name)
{
    const BackendOptions options = {.isa = strcmp(name, "ref") == 0 ? NULL
                                                                    : getenv("CUDISTILL_TEST_ISA")};
    Backend *backend = NULL;
    Err *err = backend_open(name, &options, &backend);
    if (err && err->code == EXIT_NO_DEVICE && strcmp(name, "cuda") == 0) {
        printf("%s: skipped\n", err->message);
        err_free(err);
        skip();
    }
    if (err) {
        fail_msg("%s", err->message);
    }
    return backend;
}

static void test_ref_fp32_follows_double(void **state)
{
    (void)state;
    Backend *ref = open_backend("ref");
    compare_all(ref, DT_F64, ref, DT_F32);
    backend_close(ref);
}

static void check_subject(DType act)
{
    Backend *subject = open_backend(subject_name);
    Backend *ref = open_backend("ref");
    DeviceInfo info;
    subject->info(subject, &info);
    const bool usable =
        act == DT_F32 || (act == DT_BF16 && info.bf16) || (act == DT_F16 && info.fp16);
    if (usable) {
        compare_all(ref, act, subject, act);
    } else {
        printf("%s: %s is not offered here, skipped\n", subject_name, dtype_name(act));
    }
    backend_close(subject);
    backend_close(ref);
}

static void test_backend_fp32(void **state)
{
    (void)state;
    check_subject(DT_F32);
}

static void test_backend_bf16(void **state)
{
    (void)state;
    check_subject(DT_BF16);
}

static void test_backend_fp16(void **state)
{
    (void)state;
    check_subject(DT_F16);
}

static const OpCase *case_named(const char *name)
{
    for (int i = 0; i < OP_CASE_COUNT; i++) {
        if (strcmp(op_cases[i].name, name) == 0) {
            return &op_cases[i];
        }
    }
    fail_msg("no case '%s'", name);
    return NULL;
}

/* The case after its data were written, ready for a test's own values. */
static void open_case(Rig *rig, CaseNet *net, Backend *backend, const OpCase *c, DType act)
{
    case_build(c, act, net);
    assert_null(rig_open(rig, backend, &net->graph, &(ExecOptions){.check_plan = true}));
    write_data(rig, c, net, DATA_NORMAL, 5);
    rig_refresh(rig);
}

/* Channels 0 to 3 have sums that are not finite and keep their statistics; the others get what they
 * get from sound sums. Without any rows nothing changes. */
static void check_running(Backend *backend, DType act)
{
    const OpCase *c = case_named("bn_running");
    const size_t channels = (size_t)c->c;
    CaseNet net;
    Rig rig;
    double *got[4][2]; /* before, sound sums, bad sums, no rows; mean and variance */
    for (int run = 0; run < 4; run++) {
        open_case(&rig, &net, backend, c, act);
        double *sums =
            case_input_values(c, 0, &net.graph.tensors[net.graph.nodes[0].in[0]], DATA_NORMAL, 5);
        if (run == 2) {
            sums[0] = sums[channels + 1] = NAN;
            sums[2] = INFINITY;
            sums[channels + 2] = INFINITY;
            sums[channels + 3] = INFINITY;
        }
        if (run == 3) {
            memset(sums, 0, (2 * channels + 1) * sizeof *sums);
        }
        rig_write(&rig, "in0", sums);
        if (run > 0) {
            rig_run(&rig, c->n, 1, false, true);
        }
        for (int i = 0; i < 2; i++) {
            got[run][i] =
                rig_get_param(&rig, ARENA_STATE, params_find(&net.params, i ? "var" : "mean"));
        }
        free(sums);
        rig_close(&rig);
        case_free(&net);
    }
    for (int i = 0; i < 2; i++) {
        for (size_t k = 0; k < channels; k++) {
            assert_true(got[1][i][k] != got[0][i][k]);
            assert_true(got[2][i][k] == got[k < 4 ? 0 : 1][i][k]);
            assert_true(got[3][i][k] == got[0][i][k]);
        }
    }
    for (int run = 0; run < 4; run++) {
        free(got[run][0]);
        free(got[run][1]);
    }
}

/* Every third input is NaN: exactly those outputs are NaN, and no ReLU hides one. */
static void check_nan(Backend *backend, const char *name, DType act)
{
    const OpCase *c = case_named(name);
    CaseNet net;
    Rig rig;
    open_case(&rig, &net, backend, c, act);
    const Tensor *x = &net.graph.tensors[net.graph.nodes[0].in[0]];
    double *values = case_input_values(c, 0, x, DATA_NORMAL, 5);
    const size_t elems = tensor_elems(x);
    for (size_t i = 0; i < elems; i += 3) {
        values[i] = NAN;
    }
    rig_write(&rig, "in0", values);
    rig_run(&rig, c->n, 1, false, true);
    double *out = rig_read(&rig, "out0");
    for (size_t i = 0; i < elems; i++) {
        if (isnan(out[i]) != (i % 3 == 0)) {
            fail_msg("%s on %s, %s: out[%zu] = %g of input %g", name, backend->name,
                     dtype_name(act), i, out[i], values[i]);
        }
    }
    free(values);
    free(out);
    rig_close(&rig);
    case_free(&net);
}

/* One NaN weight: all of its output channel is NaN in the definition, ReLU or not. */
static void check_nan_weight(Backend *ref)
{
    const OpCase *c = case_named("conv bias relu");
    CaseNet net;
    Rig rig;
    open_case(&rig, &net, ref, c, DT_F32);
    const int param = params_find(&net.params, "bias");
    double *bias = rig_get_param(&rig, ARENA_WEIGHT, param);
    bias[1] = NAN;
    rig_set_param(&rig, ARENA_WEIGHT, param, bias);
    rig_refresh(&rig);
    rig_run(&rig, c->n, 1, false, true);
    double *out = rig_read(&rig, "out0");
    for (size_t i = 0; i < rig_elems(&rig, "out0"); i++) {
        assert_int_equal(isnan(out[i]) != 0, i % (size_t)c->o == 1);
        assert_false(out[i] < 0);
    }
    free(bias);
    free(out);
    rig_close(&rig);
    case_free(&net);
}

static void test_not_finite(void **state)
{
    (void)state;
    static const char *const relus[] = {"relu", "add relu", "bn_apply relu"};
    Backend *subject = open_backend(subject_name);
    Backend *ref = open_backend("ref");
    DeviceInfo info;
    subject->info(subject, &info);
    check_running(ref, DT_F64);
    check_running(ref, DT_F32);
    check_running(subject, DT_F32);
    for (int i = 0; i < 3; i++) {
        check_nan(ref, relus[i], DT_F32);
        check_nan(subject, relus[i], DT_F32);
        if (info.bf16) {
            check_nan(subject, relus[i], DT_BF16);
        }
        if (info.fp16) {
            check_nan(subject, relus[i], DT_F16);
        }
    }
    check_nan_weight(ref);
    backend_close(subject);
    backend_close(ref);
}

/* Known values by hand, so that ref itself is pinned to something: PyTorch's SGD on one weight,
 * two steps. */
static void test_sgd_by_hand(void **state)
{
    (void)state;
    Params params = {0};
    const int one = 1;
    params_add(&params, "w", ROLE_LINEAR_WEIGHT, 2, (int[]){1, 1}, true, INIT_ZERO, 0);
    params_add(&params, "b", ROLE_BIAS, 1, &one, true, INIT_ZERO, 0);
    params_finish(&params);
    Graph g;
    graph_init(&g, &params, 1, DT_F64);
    const int in[2] = {graph_input(&g, "hyper", DT_F32, 1, 1, 1, HYPER_COUNT, false), -1};
    graph_node(&g, OP_SGD, "sgd", 2, in, 0, NULL);
    Backend *ref = open_backend("ref");
    Rig rig;
    assert_null(rig_open(&rig, ref, &g, NULL));
    double hyper[HYPER_COUNT] = {0};
    hyper[HYPER_LR] = 0.5;
    hyper[HYPER_MOMENTUM] = 0.25;
    hyper[HYPER_WEIGHT_DECAY] = 0.125;
    hyper[HYPER_GRAD_SCALE] = 1;
    hyper[HYPER_FIRST] = 1;
    rig_set_param(&rig, ARENA_WEIGHT, 0, &(double){2});
    rig_set_param(&rig, ARENA_WEIGHT, 1, &(double){2});
    rig_set_param(&rig, ARENA_GRAD, 0, &(double){1});
    rig_set_param(&rig, ARENA_GRAD, 1, &(double){1});
    for (int step = 0; step < 2; step++) {
        rig_write(&rig, "hyper", hyper);
        rig_run(&rig, 1, 1, false, false);
        hyper[HYPER_FIRST] = 0;
    }
    /* w: g' = 1.25, v = 1.25, w = 1.375; g' = 1.171875, v = 0.3125 + 1.171875, w = 1.375 -
     * 0.7421875. b is not decayed: v = 1, b = 1.5; v = 1.25, b = 0.875. */
    double *w = rig_get_param(&rig, ARENA_WEIGHT, 0);
    double *b = rig_get_param(&rig, ARENA_WEIGHT, 1);
    assert_true(w[0] == 0.6328125);
    assert_true(b[0] == 0.875);
    free(w);
    free(b);
    rig_close(&rig);
    backend_close(ref);
    graph_free(&g);
    params_free(&params);
}

int main(int argc, char **argv)
{
    const char *from_env = getenv("CUDISTILL_TEST_BACKEND");
    subject_name = argc > 1 ? argv[1] : from_env && from_env[0] ? from_env : "cpu";
    only = argc > 2 ? argv[2] : "";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sgd_by_hand),  cmocka_unit_test(test_ref_fp32_follows_double),
        cmocka_unit_test(test_backend_fp32), cmocka_unit_test(test_backend_bf16),
        cmocka_unit_test(test_backend_fp16), cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
