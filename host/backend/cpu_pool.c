/* Pooling on the CPU: pixels are independent, the inner loops run over channels. Average pooling
 * sums in fp32 and rounds once; its gradient gathers, so that overlapping windows need no second
 * pass. */
#include "backend/cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

typedef struct {
    int begin, end;
} Span;

/* Window `o` in input coordinates, clipped. */
static Span window(int o, const PoolAttr *a, int size)
{
    const int begin = o * a->stride - a->pad;
    const int end = begin + a->kernel;
    return (Span){begin < 0 ? 0 : begin, end > size ? size : end};
}

/* Windows that hold input position `i`. */
static Span windows_of(int i, const PoolAttr *a, int count)
{
    const int last = (i + a->pad) / a->stride;
    const int reach = i + a->pad - a->kernel;
    const int first = reach < 0 ? 0 : reach / a->stride + 1;
    return (Span){first, last >= count ? count : last + 1};
}

static const char *pixel_at(const void *x, const Tensor *t, int n, int h, int w)
{
    const size_t pixel = ((size_t)n * (size_t)t->h + (size_t)h) * (size_t)t->w + (size_t)w;
    return (const char *)x + pixel * (size_t)t->c * dtype_size(t->dtype);
}

/* What one thread needs of a pooling step. */
typedef struct {
    const CpuStep *own;
    const PoolAttr *attr;
    const Tensor *large, *small; /* x and y, or dx and dy */
    const void *in;
    void *out;
    uint8_t *index;
    float *line;       /* [2][line_elems] of this thread */
    size_t line_elems; /* channels, rounded up */
} PoolRun;

/* Rows of the output (of all images) in [begin, end). */
typedef void (*PoolRows)(const PoolRun *run, Range part);

static void average_rows(const PoolRun *run, Range part)
{
    const Tensor *y = run->small;
    const float share = 1.0f / (float)(run->attr->kernel * run->attr->kernel);
    for (long row = part.begin; row < part.end; row++) {
        const int n = (int)(row / y->h);
        const int oh = (int)(row % y->h);
        const Span rows = window(oh, run->attr, run->large->h);
        for (int ow = 0; ow < y->w; ow++) {
            const Span columns = window(ow, run->attr, run->large->w);
            memset(run->line, 0, (size_t)y->c * sizeof *run->line);
            for (int h = rows.begin; h < rows.end; h++) {
                for (int w = columns.begin; w < columns.end; w++) {
                    run->own->loops->accumulate(pixel_at(run->in, run->large, n, h, w), run->line,
                                                (size_t)y->c);
                }
            }
            run->own->loops->from_float(run->line, (void *)pixel_at(run->out, y, n, oh, ow),
                                        (size_t)y->c, share);
        }
    }
}

static void average_bwd_rows(const PoolRun *run, Range part)
{
    const Tensor *dx = run->large;
    const float share = 1.0f / (float)(run->attr->kernel * run->attr->kernel);
    for (long row = part.begin; row < part.end; row++) {
        const int n = (int)(row / dx->h);
        const int h = (int)(row % dx->h);
        const Span rows = windows_of(h, run->attr, run->small->h);
        for (int w = 0; w < dx->w; w++) {
            const Span columns = windows_of(w, run->attr, run->small->w);
            memset(run->line, 0, (size_t)dx->c * sizeof *run->line);
            for (int oh = rows.begin; oh < rows.end; oh++) {
                for (int ow = columns.begin; ow < columns.end; ow++) {
                    run->own->loops->accumulate(pixel_at(run->in, run->small, n, oh, ow), run->line,
                                                (size_t)dx->c);
                }
            }
            run->own->loops->from_float(run->line, (void *)pixel_at(run->out, dx, n, h, w),
                                        (size_t)dx->c, share);
        }
    }
}

/* The first of equal values wins, and NaN over all. */
static void max_rows(const PoolRun *run, Range part)
{
    const Tensor *y = run->small;
    const PoolAttr *a = run->attr;
    float *places = run->line + run->line_elems;
    for (long row = part.begin; row < part.end; row++) {
        const int n = (int)(row / y->h);
        const int oh = (int)(row % y->h);
        const Span rows = window(oh, a, run->large->h);
        for (int ow = 0; ow < y->w; ow++) {
            const Span columns = window(ow, a, run->large->w);
            uint8_t *index =
                run->index + (((size_t)row * (size_t)y->w) + (size_t)ow) * (size_t)y->c;
            const int top = oh * a->stride - a->pad;
            const int left = ow * a->stride - a->pad;
            const float first = (float)((rows.begin - top) * a->kernel + columns.begin - left);
            for (int c = 0; c < y->c; c++) {
                run->line[c] = -INFINITY;
                places[c] = first; /* of a window that holds nothing larger */
            }
            for (int h = rows.begin; h < rows.end; h++) {
                for (int w = columns.begin; w < columns.end; w++) {
                    run->own->loops->max_place(pixel_at(run->in, run->large, n, h, w), run->line,
                                               places, (size_t)y->c,
                                               (float)((h - top) * a->kernel + w - left));
                }
            }
            for (int c = 0; c < y->c; c++) {
                index[c] = (uint8_t)places[c];
            }
            run->own->loops->from_float(run->line, (void *)pixel_at(run->out, y, n, oh, ow),
                                        (size_t)y->c, 1.0f);
        }
    }
}

static void max_bwd_rows(const PoolRun *run, Range part)
{
    const Tensor *dx = run->large;
    const Tensor *dy = run->small;
    const PoolAttr *a = run->attr;
    for (long row = part.begin; row < part.end; row++) {
        const int n = (int)(row / dx->h);
        const int h = (int)(row % dx->h);
        const Span rows = windows_of(h, a, dy->h);
        for (int w = 0; w < dx->w; w++) {
            const Span columns = windows_of(w, a, dy->w);
            memset(run->line, 0, (size_t)dx->c * sizeof *run->line);
            for (int oh = rows.begin; oh < rows.end; oh++) {
                for (int ow = columns.begin; ow < columns.end; ow++) {
                    const int place =
                        (h - (oh * a->stride - a->pad)) * a->kernel + w - (ow * a->stride - a->pad);
                    const size_t pixel =
                        ((size_t)n * (size_t)dy->h + (size_t)oh) * (size_t)dy->w + (size_t)ow;
                    const uint8_t *index = run->index + pixel * (size_t)dy->c;
                    run->own->loops->accumulate_where(pixel_at(run->in, dy, n, oh, ow), index,
                                                      (uint8_t)place, run->line, (size_t)dx->c);
                }
            }
            run->own->loops->from_float(run->line, (void *)pixel_at(run->out, dx, n, h, w),
                                        (size_t)dx->c, 1.0f);
        }
    }
}

static size_t line_elems(int channels)
{
    return (size_t)(channels + 15) / 16 * 16;
}

static void run_rows(CpuStep *own, const PoolRun *run, long rows, float *lines, PoolRows loop)
{
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num();
        PoolRun mine = *run;
        mine.line_elems = line_elems(run->large->c);
        mine.line = lines + 2 * (size_t)t * mine.line_elems;
        loop(&mine, cpu_part(rows, 1, t, threads));
    }
}

static void run_forward(CpuStep *own, const Step *step, const RunArgs *args)
{
    const bool max = step_node(step)->op == OP_MAXPOOL;
    const PoolRun run = {.own = own,
                         .attr = &step_node(step)->attr.pool,
                         .large = cpu_in(step, 0),
                         .small = cpu_out(step, 0),
                         .in = cpu_in_at(step, args, 0),
                         .out = cpu_out_at(step, args, 0),
                         .index = max ? cpu_out_at(step, args, 1) : NULL};
    run_rows(own, &run, (long)run.small->n * run.small->h, args->arena[ARENA_WORKSPACE],
             max ? max_rows : average_rows);
}

static void run_backward(CpuStep *own, const Step *step, const RunArgs *args)
{
    const bool max = step_node(step)->op == OP_MAXPOOL_BWD;
    const PoolRun run = {.own = own,
                         .attr = &step_node(step)->attr.pool,
                         .large = cpu_out(step, 0),
                         .small = cpu_in(step, 0),
                         .in = cpu_in_at(step, args, 0),
                         .out = cpu_out_at(step, args, 0),
                         .index = max ? cpu_in_at(step, args, 1) : NULL};
    run_rows(own, &run, (long)run.large->n * run.large->h, args->arena[ARENA_WORKSPACE],
             max ? max_bwd_rows : average_bwd_rows);
}

Err *cpu_prepare_pool(Step *step, CpuStep *own)
{
    const Op op = step_node(step)->op;
    const Tensor *x = cpu_in(step, 0);
    TRY(cpu_check_storage(step, x->dtype));
    own->loops = cpu_loops(own->cpu->isa, x->dtype);
    step->workspace = (size_t)own->cpu->threads * 2 * line_elems(x->c) * sizeof(float);
    own->run = op == OP_AVGPOOL || op == OP_MAXPOOL ? run_forward : run_backward;
    return NULL;
}
