/* Batch norm nodes on the CPU. A [pixels][channels] tensor is read as [rows][width] with width a
 * multiple of CPU_BLOCK (channels repeated), split over threads in equal parts; pixels left over at
 * the end are handled by scalar loops. Sums are combined thread by thread, so they repeat exactly
 * at one thread count.
 *
 * Bytes moved (e = bytes of an element, P pixels, C channels): statistics e*P*C; apply 2e*P*C
 * (+e*P*C residual); reduce 2e*P*C (+ mask, second gradient, dz); dx 3e*P*C. Where y is relu(bn(x))
 * the mask is computed again from x instead of reading y. */
#include "backend/cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/half.h"

/* Geometry of the main tensor of a step. */
typedef struct {
    long rows;   /* full rows of `width` columns */
    long pixels; /* all pixels that count */
    long left;   /* first pixel of the scalar rest */
} Split;

static Split split_pixels(const CpuStep *own, long pixels)
{
    const long rows = pixels / own->repeat;
    return (Split){.rows = rows, .pixels = pixels, .left = rows * own->repeat};
}

static long valid_pixels(const Tensor *x, const float *rows_valid)
{
    long rows = rows_valid ? (long)*rows_valid : x->n;
    rows = rows < 0 ? 0 : rows;
    rows = rows > x->n ? x->n : rows;
    return rows * x->h * x->w;
}

static float get(const void *x, DType type, long at)
{
    return type == DT_F32 ? ((const float *)x)[at] : bf16_to_float(((const bf16 *)x)[at]);
}

static void put(void *x, DType type, long at, float value)
{
    if (type == DT_F32) {
        ((float *)x)[at] = value;
    } else {
        ((bf16 *)x)[at] = bf16_from_float(value);
    }
}

static void *element(const void *x, DType type, long at)
{
    return x ? (char *)x + at * (long)dtype_size(type) : NULL;
}

/* Repeats `channels` values until `width` columns are full. */
static void spread(float *columns, const float *values, int channels, int width)
{
    for (int at = 0; at < width; at += channels) {
        memcpy(columns + at, values, (size_t)channels * sizeof *values);
    }
}

static size_t column_bytes(const CpuStep *own)
{
    return 5 * (size_t)own->width * sizeof(float);
}

static size_t sum_bytes(const CpuStep *own)
{
    return (size_t)own->cpu->threads * CPU_SUM_BYTES(own->width);
}

/* Columns of coef [4C] (mean, invstd, scale, shift) in the workspace. */
static ColumnCoef spread_coef(const CpuStep *own, const float *coef, int channels, float *workspace)
{
    const int width = own->width;
    spread(workspace, coef + 2 * channels, channels, width);
    spread(workspace + width, coef + 3 * channels, channels, width);
    spread(workspace + 2 * width, coef, channels, width);
    return (ColumnCoef){
        .scale = workspace, .shift = workspace + width, .mean = workspace + 2 * width};
}

/* Adds the threads' column sums up to channel sums: total[0..c), total[c..2c). */
static void combine(const CpuStep *own, const double *acc, int channels, double *first,
                    double *second)
{
    const int width = own->width;
    const size_t stride = CPU_SUM_BYTES(width) / sizeof(double);
    for (int c = 0; c < channels; c++) {
        double a = 0.0;
        double b = 0.0;
        for (int t = 0; t < own->cpu->threads; t++) {
            const double *mine = acc + (size_t)t * stride;
            for (int at = c; at < width; at += channels) {
                a += mine[at];
                b += mine[width + at];
            }
        }
        first[c] = a;
        second[c] = b;
    }
}

static void run_stats(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *x_t = cpu_in(step, 0);
    const void *x = cpu_in_at(step, args, 0);
    float *sums = cpu_out_at(step, args, 0);
    double *acc = args->arena[ARENA_WORKSPACE];
    const int channels = x_t->c;
    const Split split = split_pixels(own, valid_pixels(x_t, cpu_in_at(step, args, 1)));
    const size_t stride = CPU_SUM_BYTES(own->width) / sizeof(double);
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num();
        double *mine = acc + (size_t)t * stride;
        memset(mine, 0, 2 * (size_t)own->width * sizeof *mine);
        const Range part = cpu_part(split.rows, 1, t, threads);
        own->loops->stats(element(x, x_t->dtype, part.begin * own->width), part.end - part.begin,
                          own->width, mine);
    }
    for (long p = split.left; p < split.pixels; p++) {
        for (int c = 0; c < channels; c++) {
            const double v = (double)get(x, x_t->dtype, p * channels + c);
            acc[c] += v;
            acc[own->width + c] += v * v;
        }
    }
    double *first = acc + (size_t)threads * stride;
    combine(own, acc, channels, first, first + channels);
    for (int c = 0; c < 2 * channels; c++) {
        sums[c] = (float)first[c];
    }
    sums[2 * channels] = (float)split.pixels;
}

static void run_finalize(CpuStep *own, const Step *step, const RunArgs *args)
{
    (void)own;
    const float *sums = cpu_in_at(step, args, 0);
    const float *gamma = cpu_in_at(step, args, 1);
    const float *beta = cpu_in_at(step, args, 2);
    float *coef = cpu_out_at(step, args, 0);
    const int channels = cpu_out(step, 0)->c / 4;
    const double count = sums[2 * channels] > 0.0f ? (double)sums[2 * channels] : 1.0;
    for (int c = 0; c < channels; c++) {
        const double mean = (double)sums[c] / count;
        const double square = (double)sums[channels + c] / count - mean * mean;
        const double invstd =
            1.0 / sqrt((square > 0.0 ? square : 0.0) + (double)step_node(step)->attr.bn.eps);
        const double scale = (double)gamma[c] * invstd;
        coef[c] = (float)mean;
        coef[channels + c] = (float)invstd;
        coef[2 * channels + c] = (float)scale;
        coef[3 * channels + c] = (float)((double)beta[c] - mean * scale);
    }
}

static void run_running(CpuStep *own, const Step *step, const RunArgs *args)
{
    (void)own;
    const float *sums = cpu_in_at(step, args, 0);
    float *mean = cpu_out_at(step, args, 0);
    float *var = cpu_out_at(step, args, 1);
    const int channels = cpu_out(step, 0)->c;
    const double count = (double)sums[2 * channels];
    const double m = (double)step_node(step)->attr.bn.momentum;
    if (!(count >= 1.0)) {
        return;
    }
    for (int c = 0; c < channels; c++) {
        /* The sums, since the clamp below hides a NaN in the variance. */
        if (!isfinite(sums[c]) || !isfinite(sums[channels + c])) {
            continue;
        }
        const double batch_mean = (double)sums[c] / count;
        const double square = (double)sums[channels + c] / count - batch_mean * batch_mean;
        const double batch_var =
            (square > 0.0 ? square : 0.0) * (count > 1.0 ? count / (count - 1.0) : 1.0);
        mean[c] = (float)((1.0 - m) * (double)mean[c] + m * batch_mean);
        var[c] = (float)((1.0 - m) * (double)var[c] + m * batch_var);
    }
}

static void run_infer(CpuStep *own, const Step *step, const RunArgs *args)
{
    (void)own;
    const float *gamma = cpu_in_at(step, args, 0);
    const float *beta = cpu_in_at(step, args, 1);
    const float *mean = cpu_in_at(step, args, 2);
    const float *var = cpu_in_at(step, args, 3);
    float *coef = cpu_out_at(step, args, 0);
    const int channels = cpu_out(step, 0)->c / 4;
    for (int c = 0; c < channels; c++) {
        const double invstd = 1.0 / sqrt((double)var[c] + (double)step_node(step)->attr.bn.eps);
        const double scale = (double)gamma[c] * invstd;
        coef[c] = mean[c];
        coef[channels + c] = (float)invstd;
        coef[2 * channels + c] = (float)scale;
        coef[3 * channels + c] = (float)((double)beta[c] - (double)mean[c] * scale);
    }
}

static void run_apply(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *x_t = cpu_in(step, 0);
    const DType type = x_t->dtype;
    const void *x = cpu_in_at(step, args, 0);
    const float *coef = cpu_in_at(step, args, 1);
    const void *residual = cpu_in_at(step, args, 2);
    void *y = cpu_out_at(step, args, 0);
    const int channels = x_t->c;
    const bool relu = step_node(step)->attr.bn.relu;
    const Split split = split_pixels(own, valid_pixels(x_t, cpu_in_at(step, args, 3)));
    const ColumnCoef columns = spread_coef(own, coef, channels, args->arena[ARENA_WORKSPACE]);
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part = cpu_part(split.rows, 1, omp_get_thread_num(), threads);
        const long at = part.begin * own->width;
        own->loops->apply(element(x, type, at), element(residual, type, at), element(y, type, at),
                          part.end - part.begin, own->width, &columns, relu);
    }
    for (long p = split.left; p < split.pixels; p++) {
        for (int c = 0; c < channels; c++) {
            const long at = p * channels + c;
            float v = fmaf(get(x, type, at), columns.scale[c], columns.shift[c]);
            v += residual ? get(residual, type, at) : 0.0f;
            put(y, type, at, relu && v <= 0.0f ? 0.0f : v);
        }
    }
    const long all = (long)tensor_elems(x_t);
    memset(element(y, type, split.pixels * channels), 0,
           (size_t)(all - split.pixels * channels) * dtype_size(type));
}

typedef struct {
    const void *dy, *dy2, *x, *y;
    void *dz;
    DType type;
} Backward;

static bool is_open(const CpuStep *own, const Backward *b, long at, const ColumnCoef *columns,
                    int channel)
{
    switch (own->mask) {
    case MASK_OUTPUT:
        return get(b->y, b->type, at) > 0.0f;
    case MASK_RECOMPUTE:
        return fmaf(get(b->x, b->type, at), columns->scale[channel], columns->shift[channel]) >
               0.0f;
    default:
        return true;
    }
}

/* The scalar rest of BN_REDUCE. */
static void reduce_rest(const CpuStep *own, const Backward *b, Split split, int channels,
                        const ColumnCoef *columns, double *acc)
{
    for (long p = split.left; p < split.pixels; p++) {
        for (int c = 0; c < channels; c++) {
            const long at = p * channels + c;
            float dz = get(b->dy, b->type, at) + (b->dy2 ? get(b->dy2, b->type, at) : 0.0f);
            dz = is_open(own, b, at, columns, c) ? dz : 0.0f;
            if (b->dz) {
                put(b->dz, b->type, at, dz);
                dz = get(b->dz, b->type, at);
            }
            acc[c] += (double)dz;
            acc[own->width + c] += (double)dz * (double)(get(b->x, b->type, at) - columns->mean[c]);
        }
    }
}

static void run_reduce(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *x_t = cpu_in(step, 1);
    const int channels = x_t->c;
    const Backward b = {.dy = cpu_in_at(step, args, 0),
                        .x = cpu_in_at(step, args, 1),
                        .dy2 = cpu_in_at(step, args, 4),
                        .y = cpu_in_at(step, args, 5),
                        .dz = cpu_out_at(step, args, 1),
                        .type = x_t->dtype};
    const float *coef = cpu_in_at(step, args, 2);
    float *sums = cpu_out_at(step, args, 0);
    char *workspace = args->arena[ARENA_WORKSPACE];
    const ColumnCoef columns = spread_coef(own, coef, channels, (float *)(void *)workspace);
    double *acc = (double *)(void *)(workspace + column_bytes(own));
    const size_t stride = CPU_SUM_BYTES(own->width) / sizeof(double);
    const Split split = split_pixels(own, valid_pixels(x_t, cpu_in_at(step, args, 3)));
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num();
        double *mine = acc + (size_t)t * stride;
        memset(mine, 0, 2 * (size_t)own->width * sizeof *mine);
        const Range part = cpu_part(split.rows, 1, t, threads);
        const long at = part.begin * own->width;
        own->loops->reduce(element(b.dy, b.type, at), element(b.dy2, b.type, at),
                           element(b.x, b.type, at), element(b.y, b.type, at),
                           element(b.dz, b.type, at), part.end - part.begin, own->width, &columns,
                           own->mask, mine);
    }
    reduce_rest(own, &b, split, channels, &columns, acc);
    double *first = acc + (size_t)threads * stride;
    combine(own, acc, channels, first, first + channels);
    for (int c = 0; c < channels; c++) {
        sums[c] = (float)first[c];
        sums[channels + c] = (float)(first[channels + c] * (double)coef[channels + c]);
    }
    sums[2 * channels] = (float)split.pixels;
    if (b.dz) {
        const size_t rest = tensor_elems(x_t) - (size_t)split.pixels * (size_t)channels;
        memset(element(b.dz, b.type, split.pixels * channels), 0, rest * dtype_size(b.type));
    }
}

static void run_dparam(CpuStep *own, const Step *step, const RunArgs *args)
{
    (void)own;
    const float *sums = cpu_in_at(step, args, 0);
    float *dgamma = cpu_out_at(step, args, 0);
    float *dbeta = cpu_out_at(step, args, 1);
    const int channels = (cpu_in(step, 0)->c - 1) / 2;
    const float keep = cpu_adds(step, args) ? 1.0f : 0.0f;
    for (int c = 0; c < channels; c++) {
        if (dgamma) {
            dgamma[c] = (keep != 0.0f ? dgamma[c] : 0.0f) + sums[channels + c];
        }
        if (dbeta) {
            dbeta[c] = (keep != 0.0f ? dbeta[c] : 0.0f) + sums[c];
        }
    }
}

/* Adds x_factor and offset: dx = scale*dz - scale*(sum_dz + xhat*sum_dzx)/count. */
static void spread_dx(const CpuStep *own, ColumnCoef *columns, const float *coef, const float *sums,
                      int channels, float *workspace)
{
    float *factor = workspace + 3 * own->width;
    float *offset = workspace + 4 * own->width;
    const double count = sums[2 * channels] > 0.0f ? (double)sums[2 * channels] : 1.0;
    for (int c = 0; c < channels; c++) {
        const double scale = (double)coef[2 * channels + c];
        factor[c] =
            (float)(-scale * (double)coef[channels + c] * (double)sums[channels + c] / count);
        offset[c] = (float)(-scale * (double)sums[c] / count);
    }
    for (int at = channels; at < own->width; at++) {
        factor[at] = factor[at - channels];
        offset[at] = offset[at - channels];
    }
    columns->x_factor = factor;
    columns->offset = offset;
}

static void run_dx(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *x_t = cpu_in(step, 0);
    const int channels = x_t->c;
    const Backward b = {.dy = cpu_in_at(step, args, 0),
                        .x = cpu_in_at(step, args, 1),
                        .y = cpu_in_at(step, args, 5),
                        .dz = cpu_out_at(step, args, 0),
                        .type = x_t->dtype};
    const float *coef = cpu_in_at(step, args, 2);
    float *workspace = args->arena[ARENA_WORKSPACE];
    ColumnCoef columns = spread_coef(own, coef, channels, workspace);
    if (!step_node(step)->attr.bn.frozen) {
        spread_dx(own, &columns, coef, cpu_in_at(step, args, 3), channels, workspace);
    }
    const Split split = split_pixels(own, valid_pixels(x_t, cpu_in_at(step, args, 4)));
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part = cpu_part(split.rows, 1, omp_get_thread_num(), threads);
        const long at = part.begin * own->width;
        own->loops->dx(element(b.dy, b.type, at), element(b.x, b.type, at),
                       element(b.y, b.type, at), element(b.dz, b.type, at), part.end - part.begin,
                       own->width, &columns, own->mask);
    }
    for (long p = split.left; p < split.pixels; p++) {
        for (int c = 0; c < channels; c++) {
            const long at = p * channels + c;
            float v =
                is_open(own, &b, at, &columns, c) ? columns.scale[c] * get(b.dy, b.type, at) : 0.0f;
            if (columns.x_factor) {
                v += columns.x_factor[c] * (get(b.x, b.type, at) - columns.mean[c]) +
                     columns.offset[c];
            }
            put(b.dz, b.type, at, v);
        }
    }
    const size_t rest = tensor_elems(x_t) - (size_t)split.pixels * (size_t)channels;
    memset(element(b.dz, b.type, split.pixels * channels), 0, rest * dtype_size(b.type));
}

/* MASK_RECOMPUTE where y is relu(bn(x)) of the same x and coef and nothing was added in between. */
static MaskKind mask_kind(const Step *step, int y_slot, int x_slot, int coef_slot)
{
    const Node *node = step_node(step);
    if (y_slot >= node->n_in || node->in[y_slot] < 0) {
        return MASK_NONE;
    }
    const int producer = step->graph->tensors[node->in[y_slot]].producer;
    if (producer < 0 || x_slot >= node->n_in || node->in[x_slot] < 0) {
        return MASK_OUTPUT;
    }
    const Node *made = &step->graph->nodes[producer];
    const bool same = made->op == OP_BN_APPLY && made->attr.bn.relu &&
                      made->in[0] == node->in[x_slot] && made->in[1] == node->in[coef_slot] &&
                      (made->n_in <= 2 || made->in[2] < 0);
    return same ? MASK_RECOMPUTE : MASK_OUTPUT;
}

/* The node's main tensor: what is normalised. */
static Err *set_loops(const Step *step, CpuStep *own, const Tensor *x)
{
    TRY(cpu_check_storage(step, x->dtype));
    own->loops = cpu_loops(own->cpu->isa, x->dtype);
    own->width = cpu_width(x->c, &own->repeat);
    return NULL;
}

Err *cpu_prepare_bn(Step *step, CpuStep *own)
{
    const Node *node = step_node(step);
    switch (node->op) {
    case OP_BN_STATS:
        TRY(set_loops(step, own, cpu_in(step, 0)));
        step->workspace = sum_bytes(own) + 2 * (size_t)cpu_in(step, 0)->c * sizeof(double);
        own->run = run_stats;
        return NULL;
    case OP_BN_FINALIZE:
        own->run = run_finalize;
        return NULL;
    case OP_BN_RUNNING:
        own->run = run_running;
        return NULL;
    case OP_BN_INFER:
        own->run = run_infer;
        return NULL;
    case OP_BN_APPLY:
        TRY(set_loops(step, own, cpu_in(step, 0)));
        step->workspace = column_bytes(own);
        own->run = run_apply;
        return NULL;
    case OP_BN_REDUCE:
        TRY(set_loops(step, own, cpu_in(step, 1)));
        step->workspace =
            column_bytes(own) + sum_bytes(own) + 2 * (size_t)cpu_in(step, 1)->c * sizeof(double);
        own->mask = mask_kind(step, 5, 1, 2);
        own->run = run_reduce;
        return NULL;
    case OP_BN_DPARAM:
        own->run = run_dparam;
        return NULL;
    default:
        CHECK(node->op == OP_BN_DX, "%s is not a batch norm op", op_name(node->op));
        TRY(set_loops(step, own, cpu_in(step, 0)));
        step->workspace = column_bytes(own);
        own->mask = mask_kind(step, 5, 1, 2);
        own->run = run_dx;
        return NULL;
    }
}
