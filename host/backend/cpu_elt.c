/* Elementwise nodes on the CPU: images, ReLU, sums, casts, and the bias gradient (a column sum).
 * All are bound by memory. */
#include "backend/cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"

enum { FLAT_GRAIN = 64 /* elements: parts of flat loops begin on cache lines */ };

static char *at_element(const void *x, const Tensor *t, long index)
{
    return (char *)x + index * (long)dtype_size(t->dtype);
}

static void run_relu(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *t = cpu_in(step, 0);
    const void *x = cpu_in_at(step, args, 0);
    void *y = cpu_out_at(step, args, 0);
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part =
            cpu_part((long)tensor_elems(t), FLAT_GRAIN, omp_get_thread_num(), threads);
        own->loops->relu(at_element(x, t, part.begin), at_element(y, t, part.begin),
                         (size_t)(part.end - part.begin));
    }
}

static void run_relu_bwd(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *t = cpu_in(step, 0);
    const void *dy = cpu_in_at(step, args, 0);
    const void *y = cpu_in_at(step, args, 1);
    void *dx = cpu_out_at(step, args, 0);
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part =
            cpu_part((long)tensor_elems(t), FLAT_GRAIN, omp_get_thread_num(), threads);
        own->loops->relu_bwd(at_element(dy, t, part.begin), at_element(y, t, part.begin),
                             at_element(dx, t, part.begin), (size_t)(part.end - part.begin));
    }
}

static void run_add(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *t = cpu_in(step, 0);
    const void *a = cpu_in_at(step, args, 0);
    const void *b = cpu_in_at(step, args, 1);
    void *y = cpu_out_at(step, args, 0);
    const bool relu = step_node(step)->attr.bn.relu;
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part =
            cpu_part((long)tensor_elems(t), FLAT_GRAIN, omp_get_thread_num(), threads);
        own->loops->add(at_element(a, t, part.begin), at_element(b, t, part.begin),
                        at_element(y, t, part.begin), (size_t)(part.end - part.begin), relu);
    }
}

static void run_cast(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *from = cpu_in(step, 0);
    const Tensor *to = cpu_out(step, 0);
    const void *x = cpu_in_at(step, args, 0);
    void *y = cpu_out_at(step, args, 0);
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part =
            cpu_part((long)tensor_elems(from), FLAT_GRAIN, omp_get_thread_num(), threads);
        const size_t count = (size_t)(part.end - part.begin);
        const void *source = at_element(x, from, part.begin);
        void *target = at_element(y, to, part.begin);
        if (from->dtype == to->dtype) {
            memcpy(target, source, count * dtype_size(from->dtype));
        } else if (to->dtype == DT_F32) {
            own->loops->to_float(source, target, count);
        } else {
            own->loops->from_float(source, target, count, 1.0f);
        }
    }
}

/* A pixel has 256 values a channel: they are computed once. */
typedef struct {
    float full[3][256];
    bf16 half[3][256];
} ImageTable;

static void image_pixels(const ImageTable *table, const uint8_t *u8, int from_c, const Tensor *to,
                         void *y, Range part)
{
    if (to->dtype == DT_F32) {
        float *out = (float *)y + part.begin * to->c;
        for (long p = part.begin; p < part.end; p++, out += to->c) {
            for (int c = 0; c < to->c; c++) {
                out[c] = c < 3 ? table->full[c][u8[p * from_c + c]] : 0.0f;
            }
        }
        return;
    }
    bf16 *out = (bf16 *)y + part.begin * to->c;
    for (long p = part.begin; p < part.end; p++, out += to->c) {
        for (int c = 0; c < to->c; c++) {
            out[c] = c < 3 ? table->half[c][u8[p * from_c + c]] : 0;
        }
    }
}

static void run_image(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *from = cpu_in(step, 0);
    const Tensor *to = cpu_out(step, 0);
    const uint8_t *u8 = cpu_in_at(step, args, 0);
    void *y = cpu_out_at(step, args, 0);
    const long pixels = (long)to->n * to->h * to->w;
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        image_pixels(own->own, u8, from->c, to, y,
                     cpu_part(pixels, FLAT_GRAIN, omp_get_thread_num(), threads));
    }
}

static Err *prepare_image(const Step *step, CpuStep *own)
{
    const ImageAttr *attr = &step_node(step)->attr.image;
    TRY(cpu_check_storage(step, cpu_out(step, 0)->dtype));
    ImageTable *table = xmalloc(sizeof *table);
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < 256; i++) {
            const double value = ((double)i / 255.0 - (double)attr->mean[c]) / (double)attr->std[c];
            table->full[c][i] = (float)value;
            table->half[c][i] = bf16_from_float((float)value);
        }
    }
    own->own = table;
    own->run = run_image;
    return NULL;
}

static void run_bias_grad(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *t = cpu_in(step, 0);
    const void *dy = cpu_in_at(step, args, 0);
    float *db = cpu_out_at(step, args, 0);
    double *acc = args->arena[ARENA_WORKSPACE];
    const size_t stride = CPU_SUM_BYTES(own->width) / sizeof(double);
    const long pixels = (long)t->n * t->h * t->w;
    const long rows = pixels / own->repeat;
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const int thread = omp_get_thread_num();
        double *mine = acc + (size_t)thread * stride;
        memset(mine, 0, 2 * (size_t)own->width * sizeof *mine);
        const Range part = cpu_part(rows, 1, thread, threads);
        own->loops->stats(at_element(dy, t, part.begin * own->width), part.end - part.begin,
                          own->width, mine);
    }
    for (long e = rows * own->width; e < pixels * t->c; e++) {
        acc[e % t->c] += t->dtype == DT_F32 ? (double)((const float *)dy)[e]
                                            : (double)bf16_to_float(((const bf16 *)dy)[e]);
    }
    const bool add = cpu_adds(step, args);
    for (int c = 0; c < t->c; c++) {
        double sum = add ? (double)db[c] : 0.0;
        for (int thread = 0; thread < threads; thread++) {
            for (int at = c; at < own->width; at += t->c) {
                sum += acc[(size_t)thread * stride + (size_t)at];
            }
        }
        db[c] = (float)sum;
    }
}

static void release_own(CpuStep *own)
{
    free(own->own);
}

Err *cpu_prepare_elementwise(Step *step, CpuStep *own)
{
    own->release = release_own;
    const Op op = step_node(step)->op;
    if (op == OP_IMAGE) {
        return prepare_image(step, own);
    }
    const DType type = cpu_in(step, 0)->dtype;
    const DType other = cpu_out(step, 0)->dtype;
    TRY(cpu_check_storage(step, type));
    TRY(cpu_check_storage(step, other));
    own->loops = cpu_loops(own->cpu->isa, type);
    switch (op) {
    case OP_RELU:
        own->run = run_relu;
        break;
    case OP_RELU_BWD:
        own->run = run_relu_bwd;
        break;
    case OP_ADD:
        own->run = run_add;
        break;
    case OP_CAST:
        own->loops = cpu_loops(own->cpu->isa, type == DT_BF16 ? type : other);
        own->run = run_cast;
        break;
    default:
        CHECK(op == OP_BIAS_GRAD, "%s is not elementwise", op_name(op));
        own->width = cpu_width(cpu_in(step, 0)->c, &own->repeat);
        step->workspace = (size_t)own->cpu->threads * CPU_SUM_BYTES(own->width);
        own->run = run_bias_grad;
        break;
    }
    return NULL;
}
