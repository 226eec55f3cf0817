/* The distillation kernel's launcher: checks the arguments, chooses the form, and adds up the rows' shares in the sums
 * in a fixed order. The forms are in files of their own, see distill_forms.cuh. */
#include "kernels/distill_forms.cuh"

enum { FIELD_THREADS = 32, SUM_THREADS = 1024, SUM_CHUNKS = SUM_THREADS / FIELD_THREADS };
/* Rows that one block adds up; above it blocks first make partial sums. */
enum { ROWS_AT_ONCE = 1024, MAX_PARTS = 256 };

static_assert((int)SUM_FIELDS <= (int)FIELD_THREADS, "a thread of the sum kernel per field");
static_assert(sizeof(DistillParams) <= 4000, "kernel parameters");

/* ---- Sums over rows ---- */

/* out[block][f] = sum over `each` rows of partials[row][f]. A thread adds every 32nd row of its field with the rounding
 * errors carried along (Neumaier), then the 32 threads of a field are added in order. */
__global__ void __launch_bounds__(SUM_THREADS)
    sum_rows_kernel(const float *partials, int64_t rows, int64_t each, float *out)
{
    SHARED_ARRAY(float, sums, SUM_THREADS);
    const int field = (int)threadIdx.x % FIELD_THREADS;
    const int64_t begin = (int64_t)blockIdx.x * each;
    const int64_t end = begin + each < rows ? begin + each : rows;
    float sum = 0;
    float lost = 0;
    if (field < SUM_FIELDS) {
        for (int64_t row = begin + threadIdx.x / FIELD_THREADS; row < end; row += SUM_CHUNKS) {
            const float x = load_global(partials + row * SUM_FIELDS + field);
            const float next = sum + x;
            lost += fabsf(sum) >= fabsf(x) ? (sum - next) + x : (x - next) + sum;
            sum = next;
        }
    }
    /* Infinite sums have lost nothing that counts. */
    sums[threadIdx.x] = isfinite(sum) ? sum + lost : sum;
    sync_block();
    if (threadIdx.x < SUM_FIELDS) {
        float total = 0;
        for (int i = 0; i < SUM_CHUNKS; i++) {
            total += sums[i * FIELD_THREADS + field];
        }
        store_global(out + (int64_t)blockIdx.x * SUM_FIELDS + field, total);
    }
}

static KernelStatus sum_rows(KernelStream stream, const float *partials, int64_t rows, float *parts,
                             float *sums)
{
    if (rows > ROWS_AT_ONCE) {
        int64_t each = (rows + MAX_PARTS - 1) / MAX_PARTS;
        each = each < ROWS_AT_ONCE / 4 ? ROWS_AT_ONCE / 4 : each;
        const unsigned blocks = (unsigned)((rows + each - 1) / each);
        LAUNCH(sum_rows_kernel, blocks, (unsigned)SUM_THREADS, 0, stream, partials, rows, each,
               parts);
        partials = parts;
        rows = blocks;
    }
    LAUNCH(sum_rows_kernel, 1u, (unsigned)SUM_THREADS, 0, stream, partials, rows, rows, sums);
    return kernel_status();
}

extern "C" size_t kernel_distill_workspace(const DistillSpec *spec, int n, int classes)
{
    (void)spec;
    (void)classes;
    return ((size_t)n + MAX_PARTS) * SUM_FIELDS * sizeof(float);
}

/* ---- Arguments ---- */

static bool is_logit_type(KernelType type)
{
    return type == KERNEL_F32 || type == KERNEL_BF16 || type == KERNEL_F16;
}

static bool value_fits(const RowValue *v, bool temperature, const DistillLaunch *in)
{
    switch (v->source) {
    case SOURCE_CONST:
        return !temperature || v->value > 0;
    case SOURCE_ROW:
        return in->row_params && v->column >= 0 && v->column < in->columns;
    case SOURCE_BAND:
        return temperature && in->theta && in->t && v->band[0] > 0 && v->band[1] > 0 &&
               v->band[2] > 0;
    case SOURCE_WSL:
        return !temperature && in->labels && in->t && in->z;
    default:
        return false;
    }
}

static bool term_fits(const DistillTerm *term, const DistillLaunch *in)
{
    const bool form = term->form == FORM_KL || term->form == FORM_DKD || term->form == FORM_NKD;
    const bool top = term->topk == 0 || (term->topk > 0 && term->form == FORM_KL);
    const bool label = in->labels || (term->form == FORM_KL && term->edit == EDIT_NONE);
    const bool delta = term->edit != EDIT_SMOOTH || (term->edit_delta >= 0 && term->edit_delta < 1);
    return form && top && label && delta && value_fits(&term->weight, false, in) &&
           value_fits(&term->ts, true, in) && value_fits(&term->tt, true, in);
}

static bool arguments_fit(const DistillSpec *spec, const DistillLaunch *in)
{
    const int64_t c = in->classes;
    if (in->n < 0 || c < 2 || c > DISTILL_MAX_CLASSES || spec->n_terms < 0 ||
        spec->n_terms > DISTILL_MAX_TERMS || spec->sparse_k < 0 || spec->sparse_k > c) {
        return false;
    }
    if (!is_logit_type(in->z_type) || !is_logit_type(in->t_type) || !is_logit_type(in->dz_type)) {
        return false;
    }
    const bool needs = (in->z || (spec->statistics_only && in->t)) &&
                       (spec->statistics_only || in->dz) && (in->t || spec->n_terms == 0) &&
                       (!in->t || spec->energy_temperature > 0) &&
                       (!in->target_kind || in->target_weight) && (!in->sums || in->workspace);
    const bool pitches = (in->ldz == 0 || in->ldz >= c) && (in->ldt == 0 || in->ldt >= c) &&
                         (in->lddz == 0 || in->lddz >= c);
    const RowValue *const b = &spec->ce_weight;
    if (!needs || !pitches || (b->source != SOURCE_CONST && b->source != SOURCE_ROW) ||
        !value_fits(b, false, in)) {
        return false;
    }
    for (int i = 0; i < spec->n_terms; i++) {
        if (!term_fits(&spec->terms[i], in)) {
            return false;
        }
    }
    return true;
}

/* ---- The form ---- */

/* Whether the row kernels of distill_fast.cuh can serve. */
static bool is_common(const DistillSpec *spec, const DistillLaunch *in)
{
    const DistillTerm *const term = &spec->terms[0];
    return spec->n_terms == 1 && !spec->statistics_only && in->z && in->t && in->labels &&
           !in->target_kind && in->z_type == in->t_type && in->z_type == in->dz_type &&
           term->form == FORM_KL && !term->zscore && term->topk == 0 && term->edit == EDIT_NONE;
}

static size_t shared_room(void)
{
    const size_t limit = shared_limit();
    return limit > DISTILL_STATIC_SHARED ? limit - DISTILL_STATIC_SHARED : 0;
}

/* Rounded as distill_shared.cuh and distill_general.cuh need it, whichever is more. */
static bool block_holds(int classes, KernelType z_type, KernelType t_type)
{
    return distill_row_bytes((classes + 63) / 64 * 64, z_type, t_type) <= shared_room();
}

static bool has_clusters(void)
{
    int device = 0;
    int major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
               cudaSuccess &&
           major >= 9;
}

/* Fewest blocks of a cluster that hold the row; 0 where none do. */
static int cluster_blocks(int classes, KernelType z_type, KernelType t_type)
{
    if (!has_clusters()) {
        return 0;
    }
    for (int blocks = 2; blocks <= DISTILL_MAX_CLUSTER; blocks *= 2) {
        if (distill_row_bytes(cluster_slice(classes, blocks), z_type, t_type) <= shared_room()) {
            return blocks;
        }
    }
    return 0;
}

extern "C" DistillForm kernel_distill_form(const DistillSpec *spec, int classes, KernelType z_type,
                                           KernelType t_type)
{
    (void)spec;
    if (classes <= DISTILL_WARP_CLASSES) {
        return DISTILL_WARP;
    }
    if (block_holds(classes, z_type, t_type)) {
        return DISTILL_BLOCK;
    }
    return cluster_blocks(classes, z_type, t_type) > 0 ? DISTILL_CLUSTER : DISTILL_TWO_SWEEP;
}

static KernelStatus launch_rows(KernelStream stream, const DistillParams &params, DistillForm form)
{
    const DistillLaunch &in = params.launch;
    const bool common = is_common(&params.spec, &in);
    switch (form) {
    case DISTILL_WARP:
        if (in.classes > DISTILL_WARP_CLASSES) {
            return KERNEL_BAD_ARGUMENT;
        }
        return common ? distill_fast_warp(stream, params) : distill_general_warp(stream, params);
    case DISTILL_BLOCK:
        if (!block_holds(in.classes, in.z_type, in.t_type)) {
            return KERNEL_BAD_ARGUMENT;
        }
        return common ? distill_fast_block(stream, params) : distill_general_block(stream, params);
    case DISTILL_TWO_SWEEP:
        return common ? distill_fast_sweep(stream, params) : distill_general_sweep(stream, params);
    case DISTILL_CLUSTER: {
        const int blocks = cluster_blocks(in.classes, in.z_type, in.t_type);
        if (blocks == 0) {
            return KERNEL_BAD_ARGUMENT;
        }
        return common ? distill_fast_cluster(stream, params, blocks)
                      : distill_general_cluster(stream, params, blocks);
    }
    default:
        return KERNEL_BAD_ARGUMENT;
    }
}

extern "C" KernelStatus kernel_distill(KernelStream stream, const DistillSpec *spec,
                                       const DistillLaunch *launch, DistillForm form)
{
    if (!arguments_fit(spec, launch)) {
        return KERNEL_BAD_ARGUMENT;
    }
    DistillParams params;
    params.spec = *spec;
    params.launch = *launch;
    DistillLaunch &in = params.launch;
    in.ldz = in.ldz == 0 ? in.classes : in.ldz;
    in.ldt = in.ldt == 0 ? in.classes : in.ldt;
    in.lddz = in.lddz == 0 ? in.classes : in.lddz;
    params.partials = in.sums ? static_cast<float *>(in.workspace) : NULL;
    if (form == DISTILL_AUTO) {
        form = kernel_distill_form(spec, in.classes, in.z_type, in.t_type);
    }
    if (in.n > 0) {
        const KernelStatus status = launch_rows(stream, params, form);
        if (status != 0) {
            return status;
        }
    }
    if (!in.sums) {
        return 0;
    }
    return sum_rows(stream, params.partials, in.n, params.partials + (int64_t)in.n * SUM_FIELDS,
                    in.sums);
}
