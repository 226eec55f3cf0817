/* Weight gradients through oneDNN, one independent primitive per thread: each takes an equal part
 * of the batch and writes a gradient of its own; these are then added in order. oneDNN's own
 * division of this work meets at spinning barriers, which cost a time slice each whenever another
 * process holds one of the cores. */
#include "backend/cpu.h"

#include <omp.h>
#include <stdlib.h>

static const size_t PARTS_MAX_BYTES = (size_t)64 << 20; /* of all parts' gradients together */

struct ConvParts {
    ConvShape shape; /* of a part */
    int parts;
    size_t elems; /* of the gradient */
    size_t part_bytes;
    DnnlConv *conv[];
};

static size_t gradient_elems(const ConvShape *s)
{
    return (size_t)s->oc * (size_t)s->kernel_h * (size_t)s->kernel_w * (size_t)s->weight_ic;
}

bool cpu_conv_parts_fit(const ConvShape *shape, int threads)
{
    return shape->kind == CONV_WGRAD && threads > 1 && shape->n % threads == 0 &&
           gradient_elems(shape) * sizeof(float) * (size_t)threads <= PARTS_MAX_BYTES;
}

Err *cpu_conv_parts_open(DnnlContext *context, const ConvShape *shape, int way, int threads,
                         ConvParts **out)
{
    ConvParts *p = xcalloc(1, sizeof *p + (size_t)threads * sizeof p->conv[0]);
    *out = NULL;
    p->shape = *shape;
    p->shape.n = shape->n / threads;
    p->parts = threads;
    p->elems = gradient_elems(shape);
    Err *err = NULL;
    omp_set_num_threads(1); /* a primitive is made for the number of threads of this moment */
    for (int i = 0; i < threads && !err; i++) {
        err = cpu_dnnl_conv_open(context, &p->shape, way, &p->conv[i]);
    }
    omp_set_num_threads(threads);
    if (err) {
        cpu_conv_parts_close(p);
        return err;
    }
    p->part_bytes =
        cpu_lines(cpu_dnnl_conv_workspace(p->conv[0])) + cpu_lines(p->elems * sizeof(float));
    *out = p;
    return NULL;
}

void cpu_conv_parts_close(ConvParts *p)
{
    if (!p) {
        return;
    }
    for (int i = 0; i < p->parts; i++) {
        cpu_dnnl_conv_close(p->conv[i]);
    }
    free(p);
}

size_t cpu_conv_parts_workspace(const ConvParts *p)
{
    return (size_t)p->parts * p->part_bytes;
}

static float *gradient_of(const ConvParts *p, const ConvArgs *args, int part)
{
    return (float *)(void *)((char *)args->workspace + (size_t)part * p->part_bytes);
}

static void run_part(const ConvParts *p, const ConvArgs *args, int part)
{
    const ConvShape *s = &p->shape;
    const size_t x_bytes =
        (size_t)s->n * (size_t)s->h * (size_t)s->w * (size_t)s->ic * dtype_size(s->act);
    const size_t y_bytes =
        (size_t)s->n * (size_t)s->oh * (size_t)s->ow * (size_t)s->oc * dtype_size(s->act);
    float *grad = gradient_of(p, args, part);
    const ConvArgs mine = {.x = (char *)args->x + (size_t)part * x_bytes,
                           .y = (char *)args->y + (size_t)part * y_bytes,
                           .grad = grad,
                           .workspace = (char *)grad + cpu_lines(p->elems * sizeof(float))};
    cpu_dnnl_conv_run(p->conv[part], &mine);
}

void cpu_conv_parts_run(const ConvParts *p, const ConvArgs *args)
{
    const int parts = p->parts;
#pragma omp parallel num_threads(parts)
    {
        const int t = omp_get_thread_num();
        run_part(p, args, t);
#pragma omp barrier
        const Range range = cpu_part((long)p->elems, 16, t, parts);
        for (long i = range.begin; i < range.end; i++) {
            float sum = args->add ? args->grad[i] : 0.0f;
            for (int part = 0; part < parts; part++) {
                sum += gradient_of(p, args, part)[i];
            }
            args->grad[i] = sum;
        }
    }
}
