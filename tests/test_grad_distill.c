/* The gradient of every form of the distillation loss against central differences of the
 * exported loss, in double on `ref`: every logit of every row. Error of (L(x+h) - L(x-h)) / 2h
 * with h = 1e-5: h^2 L'''/6 + eps*|L|/h, below 1e-9 for losses and third derivatives of order
 * 1..10; asked: 1e-6 of gradients of order 1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "distill_values.h"
#include "rig.h"

static const double STEP = 1e-5;
static const double TOLERANCE = 1e-6;
static const float SCALE = 0.5F;

typedef struct {
    Params params; /* none */
    Graph g;
} Problem;

static void begin(Problem *p, int batch)
{
    memset(p, 0, sizeof *p);
    graph_init(&p->g, &p->params, batch, DT_F64);
}

static void end(Problem *p)
{
    graph_free(&p->g);
    params_free(&p->params);
}

static Backend *open_ref(void)
{
    Backend *backend = NULL;
    assert_null(backend_open("ref", NULL, &backend));
    return backend;
}

enum { ROWS = 6, VALID = 5, DISTILL_CLASSES = 7, SPARSE = 2 };

typedef struct {
    const char *name;
    DistillSpec spec;
    bool row_params, theta, targets;
} LossCase;

static void distill_input(Problem *p, int *in, int slot, DType dtype, int n, int c)
{
    char name[16];
    snprintf(name, sizeof name, "in%d", slot);
    in[slot] = graph_input(&p->g, name, dtype, n, 1, 1, c, n == ROWS);
}

static double distill_value(int slot, size_t i, Rng *rng)
{
    const double u = (double)rng_uniform(rng);
    switch (slot) {
    case DISTILL_IN_Z:
    case DISTILL_IN_T:
        return 2 * rng_normal(rng);
    case DISTILL_IN_LABELS:
    case DISTILL_IN_TARGET_CLASS:
        return (double)rng_below(rng, DISTILL_CLASSES);
    case DISTILL_IN_THETA:
        return i == 0 ? -5 : -4;
    case DISTILL_IN_ROW_PARAMS:
        return i % 2 == 0 ? 0.2 + u : 1 + 3 * u;
    case DISTILL_IN_TARGET_KIND:
        return (double)(i % 2 == 0 ? 1 + i / 2 % 3 : i / 2 % 4);
    case DISTILL_IN_SPARSE_INDEX:
        return (double)((i * 3 + 1) % DISTILL_CLASSES);
    default:
        return u / 3;
    }
}

static void build_loss(Problem *p, const LossCase *c)
{
    begin(p, ROWS);
    params_finish(&p->params);
    int in[DISTILL_IN_COUNT];
    no_inputs(in);
    distill_input(p, in, DISTILL_IN_Z, DT_F64, ROWS, DISTILL_CLASSES);
    distill_input(p, in, DISTILL_IN_T, DT_F64, ROWS, DISTILL_CLASSES);
    distill_input(p, in, DISTILL_IN_LABELS, DT_I32, ROWS, 1);
    if (c->theta) {
        distill_input(p, in, DISTILL_IN_THETA, DT_F32, 1, 2);
    }
    if (c->row_params) {
        distill_input(p, in, DISTILL_IN_ROW_PARAMS, DT_F32, ROWS, 2);
    }
    if (c->targets) {
        distill_input(p, in, DISTILL_IN_TARGET_KIND, DT_I32, ROWS, 2);
        distill_input(p, in, DISTILL_IN_TARGET_WEIGHT, DT_F32, ROWS, 2);
        distill_input(p, in, DISTILL_IN_TARGET_CLASS, DT_I32, ROWS, 2);
        distill_input(p, in, DISTILL_IN_SPARSE_INDEX, DT_I32, ROWS, 2 * SPARSE);
        distill_input(p, in, DISTILL_IN_SPARSE_VALUE, DT_F32, ROWS, 2 * SPARSE);
        distill_input(p, in, DISTILL_IN_DENSE, DT_F32, ROWS, 2 * DISTILL_CLASSES);
    }
    const int node = graph_distill(&p->g, "loss", &c->spec, in);
    graph_output(&p->g, p->g.nodes[node].out[DISTILL_OUT_DZ], "dz");
}

static double loss_of(Rig *rig)
{
    rig_run(rig, VALID, SCALE, false, false);
    double *sums = rig_read(rig, "loss.sums");
    const double loss = (double)SCALE * sums[SUM_LOSS];
    free(sums);
    return loss;
}

/* Writes all inputs; returns the student's logits. */
static double *fill_loss(const Problem *p, Rig *rig)
{
    double *logits = NULL;
    for (int slot = 0; slot < DISTILL_IN_COUNT; slot++) {
        char name[16];
        snprintf(name, sizeof name, "in%d", slot);
        if (graph_find_tensor(&p->g, name) < 0) {
            continue;
        }
        const size_t elems = rig_elems(rig, name);
        Rng rng = rng_make(5, (uint32_t)slot, 1, RNG_TEST);
        double *values = xmalloc((elems + 1) * sizeof *values);
        for (size_t i = 0; i < elems; i++) {
            values[i] = distill_value(slot, i, &rng);
        }
        rig_write(rig, name, values);
        if (slot == DISTILL_IN_Z) {
            logits = values;
        } else {
            free(values);
        }
    }
    return logits;
}

/* Every logit of every valid row; the rows beyond have no gradient. */
static void check_loss(Backend *backend, const LossCase *c)
{
    Problem p;
    build_loss(&p, c);
    Rig rig;
    const ExecOptions options = {.check_plan = true, .poison = true};
    assert_null(rig_open(&rig, backend, &p.g, &options));
    double used = 0;
    double *logits = fill_loss(&p, &rig);
    loss_of(&rig);
    double *dz = rig_read(&rig, "dz");
    for (int i = 0; i < ROWS * DISTILL_CLASSES; i++) {
        const double at = logits[i];
        logits[i] = at + STEP;
        rig_write(&rig, "in0", logits);
        const double up = loss_of(&rig);
        logits[i] = at - STEP;
        rig_write(&rig, "in0", logits);
        const double numeric = (up - loss_of(&rig)) / (2 * STEP);
        logits[i] = at;
        const double share = fabs(numeric - dz[i]) / TOLERANCE;
        if (!(share <= 1) || (i >= VALID * DISTILL_CLASSES && dz[i] != 0)) {
            fail_msg("%s: dz[%d] = %.10g, central difference %.10g", c->name, i, dz[i], numeric);
        }
        used = fmax(used, share);
    }
    printf("distill %-20s %5.1f%%\n", c->name, 100 * used);
    free(logits);
    free(dz);
    rig_close(&rig);
    end(&p);
}

/* WSL's weight depends on z but carries no gradient: dz is that of the same weights given as row
 * parameters. */
static void test_detached_weights(void **state)
{
    (void)state;
    Backend *backend = open_ref();
    double *dz[2];
    double *weights = NULL;
    for (int as_rows = 0; as_rows < 2; as_rows++) {
        LossCase c = {.name = "WSL", .spec = kd_spec(), .row_params = as_rows};
        c.spec.terms[0].weight = as_rows ? (RowValue){.source = SOURCE_ROW, .value = 1, .column = 0}
                                         : (RowValue){.source = SOURCE_WSL, .value = 2};
        Problem p;
        build_loss(&p, &c);
        Rig rig;
        assert_null(rig_open(&rig, backend, &p.g, NULL));
        free(fill_loss(&p, &rig));
        if (as_rows) {
            char name[16];
            snprintf(name, sizeof name, "in%d", DISTILL_IN_ROW_PARAMS);
            rig_write(&rig, name, weights);
        }
        loss_of(&rig);
        dz[as_rows] = rig_read(&rig, "dz");
        if (!as_rows) {
            double *rows = rig_read(&rig, "loss.rows");
            weights = xcalloc(ROWS, 2 * sizeof *weights);
            for (int i = 0; i < VALID; i++) {
                weights[2 * i] = rows[i * ROW_FIELDS + ROW_A0];
                assert_true(weights[2 * i] > 0 && weights[2 * i] < 2);
            }
            free(rows);
        }
        rig_close(&rig);
        end(&p);
    }
    for (int i = 0; i < ROWS * DISTILL_CLASSES; i++) {
        assert_true(fabs(dz[0][i] - dz[1][i]) <= TOLERANCE); /* row parameters are fp32 */
    }
    free(weights);
    free(dz[0]);
    free(dz[1]);
    backend_close(backend);
}

static void test_distill_forms(void **state)
{
    (void)state;
    Backend *backend = open_ref();
    DistillSpec spec = kd_spec();
    check_loss(backend, &(LossCase){.name = "KD", .spec = spec});
    spec.terms[0].factor = FACTOR_NONE;
    spec.smoothing = 0.2F;
    check_loss(backend, &(LossCase){.name = "no factor, smoothing", .spec = spec});
    spec = kd_spec();
    spec.n_terms = 0;
    check_loss(backend, &(LossCase){.name = "CE", .spec = spec});
    spec = kd_spec();
    spec.terms[0].form = FORM_DKD;
    spec.terms[0].alpha = 1;
    spec.terms[0].beta = 4;
    check_loss(backend, &(LossCase){.name = "DKD", .spec = spec});
    spec = kd_spec();
    spec.terms[0].form = FORM_NKD;
    spec.terms[0].gamma = 1.5F;
    spec.terms[0].ts = spec.terms[0].tt = constant_value(1);
    check_loss(backend, &(LossCase){.name = "NKD", .spec = spec});
    spec.terms[0].ts = spec.terms[0].tt = constant_value(2);
    check_loss(backend, &(LossCase){.name = "NKD, T = 2", .spec = spec});
    spec = kd_spec();
    spec.terms[0].zscore = true;
    check_loss(backend, &(LossCase){.name = "LSKD", .spec = spec});
    spec.terms[0].form = FORM_DKD;
    spec.terms[0].alpha = 1;
    spec.terms[0].beta = 2;
    check_loss(backend, &(LossCase){.name = "LSKD of DKD", .spec = spec});
    spec = kd_spec();
    spec.terms[0].topk = 3;
    check_loss(backend, &(LossCase){.name = "top-k", .spec = spec});
    spec.terms[0].topk_renorm = true;
    check_loss(backend, &(LossCase){.name = "top-k renormalised", .spec = spec});
    spec = kd_spec();
    spec.terms[0].ts = spec.terms[0].tt = (RowValue){.source = SOURCE_BAND, .band = {1.5F, 2, 4}};
    check_loss(backend, &(LossCase){.name = "energy bands", .spec = spec, .theta = true});
    spec = kd_spec();
    spec.terms[0].weight = (RowValue){.source = SOURCE_ROW, .value = 1, .column = 0};
    spec.terms[0].ts = spec.terms[0].tt = (RowValue){.source = SOURCE_ROW, .column = 1};
    spec.ce_weight = (RowValue){.source = SOURCE_ROW, .column = 0};
    check_loss(backend, &(LossCase){.name = "row parameters", .spec = spec, .row_params = true});
    spec = kd_spec();
    spec.terms[0].edit = EDIT_SWAP;
    check_loss(backend, &(LossCase){.name = "KA swap", .spec = spec});
    spec.terms[0].edit = EDIT_SMOOTH;
    spec.terms[0].edit_delta = 0.1F;
    check_loss(backend, &(LossCase){.name = "KA smooth", .spec = spec});
    spec = kd_spec();
    spec.terms[1] = spec.terms[0];
    spec.terms[1].form = FORM_DKD;
    spec.terms[1].alpha = 0.5F;
    spec.terms[1].beta = 2;
    spec.terms[2] = spec.terms[0];
    spec.terms[2].zscore = true;
    spec.n_terms = 3;
    spec.smoothing = 0.1F;
    spec.sparse_k = SPARSE;
    check_loss(backend, &(LossCase){.name = "three terms, targets", .spec = spec, .targets = true});
    spec.sparse_renorm = true;
    check_loss(backend, &(LossCase){.name = "sparse renormalised", .spec = spec, .targets = true});
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distill_forms),
        cmocka_unit_test(test_detached_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
