/* The public library (cudistill.h): every option against the definition in double, an older caller's smaller structure,
 * statuses, the order statistics. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include "cudistill.h"
#include "distill_rig.h"

enum { ROWS = 6, CLASSES = 83 };

/* The library's structure for a problem of one term, with results in device memory. */
typedef struct {
    Uploads uploads;
    CudistillLoss loss;
} Call;

static void take_column(const RowValue *v, float *value, int32_t *column)
{
    *value = v->value;
    *column = v->source == SOURCE_ROW ? v->column : -1;
}

static void *room(Uploads *u, size_t bytes)
{
    u->all[u->count] = device_bytes(NULL, bytes);
    return u->all[u->count++];
}

static Call call_new(const Problem *p)
{
    Call call = {.uploads = {.count = 0}};
    Uploads *u = &call.uploads;
    CudistillLoss *loss = &call.loss;
    assert_int_equal(cudistill_loss_init(loss, sizeof *loss), CUDISTILL_OK);
    const size_t elements = (size_t)p->n * (size_t)p->c * sizeof(float);
    const float valid = (float)p->rows_valid;
    const float scale = (float)p->scale;
    loss->n = p->n;
    loss->classes = p->c;
    loss->type = CUDISTILL_F32;
    loss->z = upload(u, p->z, elements);
    loss->t = upload(u, p->t, elements);
    loss->labels = upload(u, p->labels, (size_t)p->n * sizeof(int32_t));
    loss->rows_valid = upload(u, &valid, sizeof valid);
    loss->scale = upload(u, &scale, sizeof scale);
    loss->dz = room(u, elements);
    loss->rows = room(u, (size_t)p->n * ROW_FIELDS * sizeof(float));
    loss->sums = room(u, SUM_FIELDS * sizeof(float));
    loss->workspace = room(u, cudistill_workspace(p->n, p->c));
    CUDA_OK(cudaMemset(loss->workspace, 0, cudistill_workspace(p->n, p->c)));
    loss->row_values = upload(u, p->row_params, (size_t)p->n * PROBLEM_COLUMNS * sizeof(float));
    loss->row_columns = PROBLEM_COLUMNS;
    loss->thresholds = upload(u, p->theta, sizeof p->theta);
    loss->energy_temperature = p->spec.energy_temperature;
    loss->label_smoothing = p->spec.smoothing;
    take_column(&p->spec.ce_weight, &loss->ce_weight, &loss->ce_weight_column);
    const DistillTerm *term = &p->spec.terms[0];
    loss->form = p->spec.n_terms == 0 ? CUDISTILL_NONE : (int32_t)term->form;
    if (p->spec.n_terms == 0) {
        return call;
    }
    loss->t_squared = term->factor == FACTOR_TSTT;
    take_column(&term->weight, &loss->weight, &loss->weight_column);
    loss->wsl = term->weight.source == SOURCE_WSL;
    loss->use_bands = term->ts.source == SOURCE_BAND;
    if (loss->use_bands) {
        memcpy(loss->bands, term->ts.band, sizeof loss->bands);
    } else {
        take_column(&term->ts, &loss->temperature, &loss->temperature_column);
        take_column(&term->tt, &loss->teacher_temperature, &loss->teacher_temperature_column);
    }
    loss->alpha = term->alpha;
    loss->beta = term->beta;
    loss->gamma = term->gamma;
    loss->zscore = term->zscore;
    loss->topk = term->topk;
    loss->topk_renorm = term->topk_renorm;
    loss->edit = (int32_t)term->edit;
    loss->edit_delta = term->edit_delta;
    return call;
}

static void call_free(Call *call)
{
    for (int i = 0; i < call->uploads.count; i++) {
        CUDA_OK(cudaFree(call->uploads.all[i]));
    }
}

static Result call_results(const Problem *p, const Call *call)
{
    Result r = result_new(p, DT_F32, DT_F32);
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(r.dz, call->loss.dz, (size_t)p->n * (size_t)p->c * sizeof(float),
                       cudaMemcpyDeviceToHost));
    CUDA_OK(cudaMemcpy(r.rows, call->loss.rows, (size_t)p->n * ROW_FIELDS * sizeof(float),
                       cudaMemcpyDeviceToHost));
    CUDA_OK(
        cudaMemcpy(r.sums, call->loss.sums, SUM_FIELDS * sizeof(float), cudaMemcpyDeviceToHost));
    return r;
}

/* The same bits as the kernel called directly, whose results test_distill compares with the definition; and near the
 * definition itself. */
static void test_options(void **state)
{
    (void)state;
    int cases = 0;
    for (int i = 0; i < spec_count(); i++) {
        Problem p = problem_new(CLASSES, ROWS, DT_F32, i, 2.0);
        const bool plain = p.spec.n_terms <= 1 && !p.has_targets && !p.no_labels && !p.no_student &&
                           !p.spec.statistics_only;
        if (plain) {
            Call call = call_new(&p);
            const int status = cudistill_loss(&call.loss, NULL);
            if (status != CUDISTILL_OK) {
                fail_msg("%s: %s", p.name, cudistill_status_text(status));
            }
            Result got = call_results(&p, &call);
            Result direct = result_new(&p, DT_F32, DT_F32);
            const Layout layout = plain_layout(&p);
            assert_int_equal(run_kernel(&p, &layout, DISTILL_AUTO, &direct), 0);
            Result ref = result_new(&p, DT_F64, DT_F64);
            run_ref(&p, &ref);
            const double loss = ((double *)ref.sums)[SUM_LOSS];
            if (memcmp(got.dz, direct.dz, ROWS * CLASSES * sizeof(float)) != 0 ||
                memcmp(got.sums, direct.sums, SUM_FIELDS * sizeof(float)) != 0 ||
                memcmp(got.rows, direct.rows, ROWS * ROW_FIELDS * sizeof(float)) != 0 ||
                fabs((double)((float *)got.sums)[CUDISTILL_SUM_LOSS] - loss) > 1e-5 * fabs(loss)) {
                fail_msg("%s: library and kernel differ", p.name);
            }
            result_free(&ref);
            result_free(&direct);
            result_free(&got);
            call_free(&call);
            cases++;
        }
        problem_free(&p);
    }
    print_message("%d specs through the library\n", cases);
    assert_true(cases >= 24);
}

/* A caller that knows only the fields up to weight and ce_weight; one from the future that sets nothing new, or does. */
static void test_sizes(void **state)
{
    (void)state;
    Problem p = problem_new(CLASSES, ROWS, DT_F32, SPEC_KD, 2.0);
    Call call = call_new(&p);
    assert_int_equal(cudistill_loss(&call.loss, NULL), CUDISTILL_OK);
    Result whole = call_results(&p, &call);
    struct {
        CudistillLoss loss;
        int32_t later[4];
    } larger = {.loss = call.loss};
    larger.loss.size = sizeof larger;
    CudistillLoss smaller = call.loss;
    smaller.size = offsetof(CudistillLoss, label_smoothing);
    memset((char *)&smaller + smaller.size, 0x7f, sizeof smaller - smaller.size);
    const CudistillLoss *const others[] = {&larger.loss, &smaller};
    for (int i = 0; i < 2; i++) {
        CUDA_OK(cudaMemset(call.loss.dz, 0, ROWS * CLASSES * sizeof(float)));
        assert_int_equal(cudistill_loss(others[i], NULL), CUDISTILL_OK);
        Result again = call_results(&p, &call);
        assert_memory_equal(again.dz, whole.dz, ROWS * CLASSES * sizeof(float));
        result_free(&again);
    }
    larger.later[0] = 1;
    assert_int_equal(cudistill_loss(&larger.loss, NULL), CUDISTILL_BAD_SIZE);
    smaller.size = 0;
    assert_int_equal(cudistill_loss(&smaller, NULL), CUDISTILL_BAD_SIZE);
    assert_int_equal(cudistill_loss_init(&smaller, 0), CUDISTILL_BAD_SIZE);
    assert_int_equal(cudistill_version(), CUDISTILL_VERSION);
    result_free(&whole);
    call_free(&call);
    problem_free(&p);
}

static void test_statuses(void **state)
{
    (void)state;
    Problem p = problem_new(CLASSES, ROWS, DT_F32, SPEC_KD, 2.0);
    Call call = call_new(&p);
    const CudistillLoss good = call.loss;
    CudistillLoss bad[14];
    static const int want[14] = {
        CUDISTILL_BAD_SHAPE,   CUDISTILL_BAD_SHAPE,   CUDISTILL_BAD_SHAPE,  CUDISTILL_BAD_TYPE,
        CUDISTILL_NO_POINTER,  CUDISTILL_NO_POINTER,  CUDISTILL_NO_POINTER, CUDISTILL_NO_POINTER,
        CUDISTILL_BAD_OPTION,  CUDISTILL_BAD_OPTION,  CUDISTILL_BAD_OPTION, CUDISTILL_BAD_MIXTURE,
        CUDISTILL_BAD_MIXTURE, CUDISTILL_BAD_MIXTURE,
    };
    for (int i = 0; i < 14; i++) {
        bad[i] = good;
    }
    bad[0].n = 0;
    bad[1].classes = 262145;
    bad[2].ldt = CLASSES - 1;
    bad[3].type = 7;
    bad[4].t = NULL;
    bad[5].labels = NULL;
    bad[6].workspace = NULL;
    bad[7].dz = bad[7].rows = NULL, bad[7].sums = NULL;
    bad[8].temperature = 0;
    bad[9].weight_column = PROBLEM_COLUMNS;
    bad[10].form = 9;
    bad[11].form = CUDISTILL_DKD, bad[11].topk = 2;
    bad[12].wsl = 1, bad[12].weight_column = 2;
    bad[13].use_bands = 1, bad[13].temperature_column = 0;
    for (int i = 0; i < 3; i++) {
        bad[13].bands[i] = 1;
    }
    for (int i = 0; i < 14; i++) {
        const int status = cudistill_loss(&bad[i], NULL);
        if (status != want[i]) {
            fail_msg("case %d: status %d, want %d", i, status, want[i]);
        }
    }
    for (int status = CUDISTILL_BAD_MIXTURE; status <= 1; status++) {
        assert_true(strlen(cudistill_status_text(status)) > 5);
    }
    assert_true(cudistill_workspace(0, 10) == 0 && cudistill_workspace(1, 1) == 0);
    call_free(&call);
    problem_free(&p);
}

/* Without a gradient: statistics of the teacher alone, and the median energy of a scan. */
static void test_scan(void **state)
{
    (void)state;
    Problem p = problem_new(CLASSES, ROWS, DT_F32, SPEC_KD, 2.0);
    p.rows_valid = p.n;
    Call call = call_new(&p);
    const float rows = (float)p.n;
    CUDA_OK(cudaMemcpy((void *)call.loss.rows_valid, &rows, sizeof rows, cudaMemcpyHostToDevice));
    call.loss.form = CUDISTILL_NONE;
    call.loss.z = NULL;
    call.loss.ce_weight = 0;
    void *const dz = call.loss.dz;
    call.loss.dz = NULL;
    assert_int_equal(cudistill_loss(&call.loss, NULL), CUDISTILL_OK);
    void *workspace = device_bytes(NULL, cudistill_select_workspace());
    float *median = device_bytes(NULL, sizeof(float));
    const int64_t rank = ROWS / 2;
    assert_int_equal(cudistill_select(call.loss.rows + CUDISTILL_ROW_ENERGY, ROWS,
                                      CUDISTILL_ROW_FIELDS, &rank, 1, median, workspace, NULL),
                     CUDISTILL_OK);
    float got;
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(&got, median, sizeof got, cudaMemcpyDeviceToHost));
    call.loss.dz = dz;
    Result r = call_results(&p, &call);
    int below = 0;
    bool found = false;
    for (int row = 0; row < ROWS; row++) {
        const float energy = ((float *)r.rows)[row * ROW_FIELDS + CUDISTILL_ROW_ENERGY];
        below += energy < got;
        found = found || energy == got;
    }
    assert_true(found && below == ROWS / 2 && got < 0);
    assert_int_equal(cudistill_select(NULL, ROWS, 1, &rank, 1, median, workspace, NULL),
                     CUDISTILL_NO_POINTER);
    CUDA_OK(cudaFree(workspace));
    CUDA_OK(cudaFree(median));
    result_free(&r);
    call_free(&call);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_scan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
