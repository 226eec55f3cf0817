/* The distillation kernel's launcher: checks the arguments, chooses the form, and adds up the rows' shares in the sums
 * in a fixed order. The forms are in files of their own, see distill_forms.cuh. */
#include "kernels/distill_forms.cuh"

/* Rows that one block adds up; above it blocks first make partial sums of at least PART_ROWS each. */
enum { ROWS_AT_ONCE = 2048, PART_ROWS = 256, MAX_PARTS = 256 };
/* A quad of every chunk per thread. */
enum { SUM_THREADS = SUM_CHUNKS * SUM_QUADS };

static_assert((int)SUM_THREADS % (int)WARP_SIZE == 0, "whole warps");
static_assert(sizeof(DistillParams) <= 4000, "kernel parameters");

/* ---- Sums over rows ---- */

/* out[block][f] = sum over `each` rows of partials[row][f]. */
__global__ void __launch_bounds__(SUM_THREADS)
    sum_rows_kernel(const float *partials, int64_t rows, int64_t each, float *out)
{
    SHARED_ARRAY(float, scratch, SUM_SCRATCH);
    const int64_t begin = (int64_t)blockIdx.x * each;
    const int64_t end = begin + each < rows ? begin + each : rows;
    add_rows(partials, begin, end, scratch, out + (int64_t)blockIdx.x * SUM_FIELDS);
}

static KernelStatus sum_rows(KernelStream stream, const float *partials, int64_t rows, float *parts,
                             float *sums)
{
    if (rows > ROWS_AT_ONCE) {
        int64_t each = (rows + MAX_PARTS - 1) / MAX_PARTS;
        each = each < PART_ROWS ? (int64_t)PART_ROWS : each;
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

/* Whether distill_single.cuh can serve. */
static bool is_single(const DistillSpec *spec, const DistillLaunch *in)
{
    if (spec->n_terms != 0 || in->target_kind || (in->z && in->t)) {
        return false;
    }
    return spec->statistics_only || (in->labels && in->z_type == in->dz_type);
}

static size_t shared_room(void)
{
    const size_t limit = shared_limit();
    return limit > DISTILL_STATIC_SHARED ? limit - DISTILL_STATIC_SHARED : 0;
}

/* Logits that a block holds of every column. */
typedef struct {
    KernelType z, t;
    bool single; /* of one network only, of type z */
} HeldTypes;

static bool block_holds(int columns, HeldTypes types)
{
    /* Rounded as the fast and the general kernels need it, whichever is more. */
    const int padded = (columns + 63) / 64 * 64;
    const size_t bytes = types.single ? row_part_bytes(padded, types.z)
                                      : distill_row_bytes(padded, types.z, types.t);
    return bytes <= shared_room();
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
static int cluster_blocks(int classes, HeldTypes types)
{
    if (!has_clusters()) {
        return 0;
    }
    for (int blocks = 2; blocks <= DISTILL_MAX_CLUSTER; blocks *= 2) {
        if (block_holds(cluster_slice(classes, blocks), types)) {
            return blocks;
        }
    }
    return 0;
}

static DistillForm best_form(int classes, HeldTypes types)
{
    if (classes <= DISTILL_WARP_CLASSES) {
        return DISTILL_WARP;
    }
    if (block_holds(classes, types)) {
        return DISTILL_BLOCK;
    }
    return cluster_blocks(classes, types) > 0 ? DISTILL_CLUSTER : DISTILL_TWO_SWEEP;
}

extern "C" DistillForm kernel_distill_form(const DistillSpec *spec, int classes, KernelType z_type,
                                           KernelType t_type)
{
    (void)spec;
    return best_form(classes, HeldTypes{z_type, t_type, false});
}

/* The launchers of one kind of row. */
typedef struct {
    KernelStatus (*warp)(KernelStream, const DistillParams &);
    KernelStatus (*block)(KernelStream, const DistillParams &);
    KernelStatus (*sweep)(KernelStream, const DistillParams &);
    KernelStatus (*cluster)(KernelStream, const DistillParams &, int);
} RowKernels;

static RowKernels row_kernels(const DistillSpec *spec, const DistillLaunch *in)
{
    if (is_common(spec, in)) {
        return RowKernels{distill_fast_warp, distill_fast_block, distill_fast_sweep,
                          distill_fast_cluster};
    }
    if (is_single(spec, in)) {
        return RowKernels{distill_single_warp, distill_single_block, distill_single_sweep,
                          distill_single_cluster};
    }
    return RowKernels{distill_general_warp, distill_general_block, distill_general_sweep,
                      distill_general_cluster};
}

static HeldTypes held_types(const DistillSpec *spec, const DistillLaunch *in)
{
    const bool single = is_single(spec, in);
    return HeldTypes{single && !in->z ? in->t_type : in->z_type, in->t_type, single};
}

/* Threads of a block; `blocks` of a cluster. */
static int form_threads(const DistillLaunch *in, DistillForm form, int blocks)
{
    return form == DISTILL_WARP      ? distill_warp_rows(in->n) * WARP_SIZE
           : form == DISTILL_CLUSTER ? distill_block_threads(cluster_slice(in->classes, blocks))
                                     : distill_block_threads(in->classes);
}

/* Launches the rows; *summed: they also form the sums. */
static KernelStatus launch_rows(KernelStream stream, DistillParams &params, DistillForm form,
                                bool *summed)
{
    DistillLaunch &in = params.launch;
    const RowKernels kernels = row_kernels(&params.spec, &in);
    const HeldTypes types = held_types(&params.spec, &in);
    form = form == DISTILL_AUTO ? best_form(in.classes, types) : form;
    const int blocks = form == DISTILL_CLUSTER ? cluster_blocks(in.classes, types) : 1;
    if ((form == DISTILL_WARP && in.classes > DISTILL_WARP_CLASSES) ||
        (form == DISTILL_BLOCK && !block_holds(in.classes, types)) || blocks == 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    *summed = in.sums && in.counter && distill_adds_rows(in.n, form_threads(&in, form, blocks));
    in.counter = *summed ? in.counter : NULL;
    switch (form) {
    case DISTILL_WARP:
        return kernels.warp(stream, params);
    case DISTILL_BLOCK:
        return kernels.block(stream, params);
    case DISTILL_TWO_SWEEP:
        return kernels.sweep(stream, params);
    case DISTILL_CLUSTER:
        return kernels.cluster(stream, params, blocks);
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
    bool summed = false;
    if (in.n > 0) {
        const KernelStatus status = launch_rows(stream, params, form, &summed);
        if (status != 0) {
            return status;
        }
    }
    if (!in.sums || summed) {
        return 0;
    }
    return sum_rows(stream, params.partials, in.n, params.partials + (int64_t)in.n * SUM_FIELDS,
                    in.sums);
}
