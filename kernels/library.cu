/* The public library: turns a CudistillLoss into the spec and the launch of the distillation kernel. Host code only. */
#include "cudistill.h"

#include "kernels/kernel.cuh"

#include "kernels/distill.h"

#define SAME(here, there) static_assert((int)(here) == (int)(there), #here)
SAME(CUDISTILL_F32, KERNEL_F32);
SAME(CUDISTILL_BF16, KERNEL_BF16);
SAME(CUDISTILL_F16, KERNEL_F16);
SAME(CUDISTILL_KL, FORM_KL);
SAME(CUDISTILL_DKD, FORM_DKD);
SAME(CUDISTILL_NKD, FORM_NKD);
SAME(CUDISTILL_EDIT_NONE, EDIT_NONE);
SAME(CUDISTILL_EDIT_SWAP, EDIT_SWAP);
SAME(CUDISTILL_EDIT_SMOOTH, EDIT_SMOOTH);
SAME(CUDISTILL_ROW_LOSS, ROW_LOSS);
SAME(CUDISTILL_ROW_CE, ROW_CE);
SAME(CUDISTILL_ROW_STUDENT_NLL, ROW_CE_S);
SAME(CUDISTILL_ROW_TEACHER_NLL, ROW_CE_T);
SAME(CUDISTILL_ROW_STUDENT_MAX, ROW_PMAX);
SAME(CUDISTILL_ROW_TEACHER_MAX, ROW_QMAX);
SAME(CUDISTILL_ROW_STUDENT_ARG, ROW_SARG);
SAME(CUDISTILL_ROW_TEACHER_ARG, ROW_TARG);
SAME(CUDISTILL_ROW_STUDENT_RANK, ROW_SRANK);
SAME(CUDISTILL_ROW_TEACHER_RANK, ROW_TRANK);
SAME(CUDISTILL_ROW_ENERGY, ROW_ENERGY);
SAME(CUDISTILL_ROW_COSINE, ROW_COS);
SAME(CUDISTILL_ROW_TEMPERATURE, ROW_T0);
SAME(CUDISTILL_ROW_WEIGHT, ROW_A0);
SAME(CUDISTILL_ROW_TERM, ROW_TERM);
SAME(CUDISTILL_ROW_TERM_DT, ROW_DT);
SAME(CUDISTILL_ROW_FIELDS, ROW_FIELDS);
SAME(CUDISTILL_SUM_ROWS, SUM_ROWS);
SAME(CUDISTILL_SUM_LOSS, SUM_LOSS);
SAME(CUDISTILL_SUM_CE, SUM_CE);
SAME(CUDISTILL_SUM_TOP1, SUM_TOP1);
SAME(CUDISTILL_SUM_TOP5, SUM_TOP5);
SAME(CUDISTILL_SUM_TEACHER_TOP1, SUM_TTOP1);
SAME(CUDISTILL_SUM_TEACHER_TOP5, SUM_TTOP5);
SAME(CUDISTILL_SUM_AGREE, SUM_AGREE);
SAME(CUDISTILL_SUM_ENERGY, SUM_ENERGY);
SAME(CUDISTILL_SUM_STUDENT_NLL, SUM_CE_S);
SAME(CUDISTILL_SUM_TEACHER_NLL, SUM_CE_T);
SAME(CUDISTILL_SUM_TERM, SUM_TERM);
SAME(CUDISTILL_SUM_NONFINITE, SUM_NONFINITE);
SAME(CUDISTILL_SUM_FIELDS, SUM_FIELDS);
#undef SAME

enum { MAX_CLASSES = 262144, COUNTER_BYTES = 16 /* at the front of the workspace */ };

extern "C" int cudistill_version(void)
{
    return CUDISTILL_VERSION;
}

extern "C" const char *cudistill_status_text(int status)
{
    switch (status) {
    case CUDISTILL_OK:
        return "launched";
    case CUDISTILL_BAD_SIZE:
        return "size: not a structure of this library; call cudistill_loss_init, or load a newer "
               "library";
    case CUDISTILL_BAD_SHAPE:
        return "shape: n >= 1, 2 <= classes <= 262144, leading dimensions 0 or >= classes";
    case CUDISTILL_BAD_TYPE:
        return "type: CUDISTILL_F32, CUDISTILL_BF16 or CUDISTILL_F16";
    case CUDISTILL_NO_POINTER:
        return "a pointer is NULL that the options need (z, t, labels, row_values, thresholds, "
               "workspace or every output)";
    case CUDISTILL_BAD_OPTION:
        return "an option is out of range (temperatures > 0, columns < row_columns, 0 <= "
               "edit_delta "
               "< 1, 0 <= label_smoothing <= 1)";
    case CUDISTILL_BAD_MIXTURE:
        return "options exclude each other (topk is for CUDISTILL_KL; wsl and weight_column; bands "
               "and temperature columns)";
    default:
        return status > 0 ? cudaGetErrorString((cudaError_t)status) : "unknown status";
    }
}

static void set_defaults(CudistillLoss *loss)
{
    memset(loss, 0, sizeof *loss);
    loss->size = sizeof *loss;
    loss->dz_type = -1;
    loss->t_squared = 1;
    loss->temperature = 1;
    loss->weight = 1;
    loss->alpha = 1;
    loss->beta = 8;
    loss->gamma = 1.5f;
    loss->temperature_column = loss->teacher_temperature_column = -1;
    loss->weight_column = loss->ce_weight_column = -1;
    loss->energy_temperature = 1;
}

extern "C" int cudistill_loss_init(CudistillLoss *loss, size_t size)
{
    if (size < sizeof loss->size) {
        return CUDISTILL_BAD_SIZE;
    }
    CudistillLoss defaults;
    set_defaults(&defaults);
    defaults.size = size;
    memset(loss, 0, size);
    memcpy(loss, &defaults, size < sizeof defaults ? size : sizeof defaults);
    return CUDISTILL_OK;
}

/* The caller's structure as this library knows it. */
static int take_structure(const CudistillLoss *loss, CudistillLoss *known)
{
    const size_t size = loss->size;
    set_defaults(known);
    if (size < offsetof(CudistillLoss, z) || size > 64 * sizeof *known) {
        return CUDISTILL_BAD_SIZE;
    }
    const unsigned char *const bytes = reinterpret_cast<const unsigned char *>(loss);
    for (size_t i = sizeof *known; i < size; i++) {
        if (bytes[i] != 0) {
            return CUDISTILL_BAD_SIZE;
        }
    }
    memcpy(known, loss, size < sizeof *known ? size : sizeof *known);
    return CUDISTILL_OK;
}

static bool is_type(int type)
{
    return type == CUDISTILL_F32 || type == CUDISTILL_BF16 || type == CUDISTILL_F16;
}

static bool pitch_fits(int64_t pitch, int classes)
{
    return pitch == 0 || pitch >= classes;
}

static bool column_fits(const CudistillLoss *loss, int column)
{
    return column >= -1 && column < (loss->row_values ? loss->row_columns : 0);
}

static bool options_fit(const CudistillLoss *loss)
{
    const bool no_constant = loss->use_bands || loss->temperature_column >= 0;
    const bool temperatures = (loss->temperature > 0 || no_constant) &&
                              loss->teacher_temperature >= 0 && loss->energy_temperature > 0;
    const bool bands =
        !loss->use_bands || (loss->bands[0] > 0 && loss->bands[1] > 0 && loss->bands[2] > 0);
    return temperatures && bands && loss->form >= CUDISTILL_KL && loss->form <= CUDISTILL_NONE &&
           loss->edit >= CUDISTILL_EDIT_NONE && loss->edit <= CUDISTILL_EDIT_SMOOTH &&
           loss->edit_delta >= 0 && loss->edit_delta < 1 && loss->topk >= 0 &&
           loss->label_smoothing >= 0 && loss->label_smoothing <= 1 &&
           column_fits(loss, loss->temperature_column) &&
           column_fits(loss, loss->teacher_temperature_column) &&
           column_fits(loss, loss->weight_column) && column_fits(loss, loss->ce_weight_column);
}

static bool has_columns(const CudistillLoss *loss)
{
    return loss->temperature_column >= 0 || loss->teacher_temperature_column >= 0 ||
           loss->weight_column >= 0 || loss->ce_weight_column >= 0;
}

static bool pointers_fit(const CudistillLoss *loss)
{
    const bool term = loss->form != CUDISTILL_NONE;
    const bool statistics_only = !loss->dz;
    const bool label = (term && (loss->form != CUDISTILL_KL || loss->edit || loss->wsl)) ||
                       loss->ce_weight != 0 || loss->ce_weight_column >= 0;
    return (loss->dz || loss->rows || loss->sums) && (loss->labels || !label) &&
           (loss->z || (statistics_only && loss->t && !term)) && (loss->t || !term) &&
           (!loss->use_bands || loss->thresholds) && (!has_columns(loss) || loss->row_values) &&
           (!loss->sums || loss->workspace);
}

static bool mixture_fits(const CudistillLoss *loss)
{
    const bool columns = loss->temperature_column >= 0 || loss->teacher_temperature_column >= 0;
    return (loss->topk == 0 || loss->form == CUDISTILL_KL) &&
           !(loss->wsl && loss->weight_column >= 0) && !(loss->use_bands && columns);
}

static int check_loss(const CudistillLoss *loss)
{
    if (loss->n < 1 || loss->classes < 2 || loss->classes > MAX_CLASSES ||
        !pitch_fits(loss->ldz, loss->classes) || !pitch_fits(loss->ldt, loss->classes) ||
        !pitch_fits(loss->lddz, loss->classes)) {
        return CUDISTILL_BAD_SHAPE;
    }
    if (!is_type(loss->type) || (loss->dz_type != -1 && !is_type(loss->dz_type))) {
        return CUDISTILL_BAD_TYPE;
    }
    if (!pointers_fit(loss)) {
        return CUDISTILL_NO_POINTER;
    }
    if (!options_fit(loss)) {
        return CUDISTILL_BAD_OPTION;
    }
    return mixture_fits(loss) ? CUDISTILL_OK : CUDISTILL_BAD_MIXTURE;
}

static RowValue row_value(ValueSource source, float value, int column)
{
    RowValue v = {};
    v.source = source;
    v.value = value;
    v.column = column;
    return v;
}

static RowValue temperature_of(const CudistillLoss *loss, float value, int column)
{
    if (loss->use_bands) {
        RowValue v = row_value(SOURCE_BAND, 0, 0);
        memcpy(v.band, loss->bands, sizeof v.band);
        return v;
    }
    return column >= 0 ? row_value(SOURCE_ROW, 0, column) : row_value(SOURCE_CONST, value, 0);
}

static DistillTerm term_of(const CudistillLoss *loss)
{
    const float teacher =
        loss->teacher_temperature > 0 ? loss->teacher_temperature : loss->temperature;
    /* A constant of its own takes the teacher out of the column of both. */
    const int column = loss->teacher_temperature_column >= 0 ? loss->teacher_temperature_column
                       : loss->teacher_temperature > 0       ? -1
                                                             : loss->temperature_column;
    DistillTerm term = {};
    term.form = (TermForm)loss->form;
    term.factor = loss->t_squared ? FACTOR_TSTT : FACTOR_NONE;
    term.weight = loss->weight_column >= 0
                      ? row_value(SOURCE_ROW, 0, loss->weight_column)
                      : row_value(loss->wsl ? SOURCE_WSL : SOURCE_CONST, loss->weight, 0);
    term.ts = temperature_of(loss, loss->temperature, loss->temperature_column);
    term.tt = temperature_of(loss, teacher, column);
    term.zscore = loss->zscore != 0;
    term.topk = loss->topk;
    term.topk_renorm = loss->topk_renorm != 0;
    term.edit = (RowEdit)loss->edit;
    term.edit_delta = loss->edit_delta;
    term.alpha = loss->alpha;
    term.beta = loss->beta;
    term.gamma = loss->gamma;
    return term;
}

static DistillSpec spec_of(const CudistillLoss *loss)
{
    DistillSpec spec = {};
    if (loss->form != CUDISTILL_NONE) {
        spec.n_terms = 1;
        spec.terms[0] = term_of(loss);
    }
    spec.ce_weight = loss->ce_weight_column >= 0 ? row_value(SOURCE_ROW, 0, loss->ce_weight_column)
                                                 : row_value(SOURCE_CONST, loss->ce_weight, 0);
    spec.smoothing = loss->label_smoothing;
    spec.energy_temperature = loss->energy_temperature;
    spec.statistics_only = !loss->dz;
    spec.dz_add = loss->dz_add != 0;
    return spec;
}

static DistillLaunch launch_of(const CudistillLoss *loss)
{
    DistillLaunch launch = {};
    launch.n = loss->n;
    launch.classes = loss->classes;
    launch.z_type = (KernelType)loss->type;
    launch.t_type = (KernelType)loss->type;
    launch.dz_type = (KernelType)(loss->dz_type == -1 ? loss->type : loss->dz_type);
    launch.z = loss->z;
    launch.t = loss->t;
    launch.dz = loss->dz;
    launch.ldz = loss->ldz;
    launch.ldt = loss->ldt;
    launch.lddz = loss->lddz;
    launch.labels = loss->labels;
    launch.theta = loss->thresholds;
    launch.row_params = loss->row_values;
    launch.columns = loss->row_columns;
    launch.rows_valid = loss->rows_valid;
    launch.scale = loss->scale;
    launch.rows = loss->rows;
    launch.sums = loss->sums;
    if (loss->workspace) {
        launch.counter = static_cast<unsigned *>(loss->workspace);
        launch.workspace = static_cast<char *>(loss->workspace) + COUNTER_BYTES;
    }
    return launch;
}

extern "C" size_t cudistill_workspace(int n, int classes)
{
    if (n < 1 || classes < 2 || classes > MAX_CLASSES) {
        return 0;
    }
    const DistillSpec spec = {};
    return COUNTER_BYTES + kernel_distill_workspace(&spec, n, classes);
}

extern "C" int cudistill_loss(const CudistillLoss *loss, void *stream)
{
    CudistillLoss known;
    int status = take_structure(loss, &known);
    status = status == CUDISTILL_OK ? check_loss(&known) : status;
    if (status != CUDISTILL_OK) {
        return status;
    }
    const DistillSpec spec = spec_of(&known);
    const DistillLaunch launch = launch_of(&known);
    return kernel_distill(static_cast<KernelStream>(stream), &spec, &launch, DISTILL_AUTO);
}

extern "C" size_t cudistill_select_workspace(void)
{
    return kernel_select_workspace();
}

extern "C" int cudistill_select(const float *values, int64_t n, int64_t stride,
                                const int64_t *ranks, int n_ranks, float *out, void *workspace,
                                void *stream)
{
    if (n < 1 || n > INT32_MAX || stride < 1) {
        return CUDISTILL_BAD_SHAPE;
    }
    if (!values || !ranks || !out || !workspace) {
        return CUDISTILL_NO_POINTER;
    }
    for (int i = 0; i < n_ranks; i++) {
        if (ranks[i] < 0 || ranks[i] >= n) {
            return CUDISTILL_BAD_OPTION;
        }
    }
    if (n_ranks < 0 || n_ranks > 8) {
        return CUDISTILL_BAD_OPTION;
    }
    return kernel_select(static_cast<KernelStream>(stream), values, n, stride, ranks, n_ranks, out,
                         workspace);
}
