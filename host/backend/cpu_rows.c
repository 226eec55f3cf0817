/* Nodes that move whole rows on the CPU: gathering from a table, and augmented views of a data set
 * that lies in memory. Threads take equal parts of the batch. */
#include "backend/cpu.h"

#include <omp.h>
#include <string.h>

#include "data/augment.h"

static void run_gather(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *table = cpu_in(step, 0);
    const size_t row = (size_t)table->c * dtype_size(table->dtype);
    const char *from = cpu_in_at(step, args, 0);
    const int32_t *index = cpu_in_at(step, args, 1);
    char *to = cpu_out_at(step, args, 0);
    const int n = cpu_out(step, 0)->n;
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part = cpu_part(n, 1, omp_get_thread_num(), threads);
        for (long i = part.begin; i < part.end; i++) {
            if (index[i] >= 0 && index[i] < table->n) {
                memcpy(to + (size_t)i * row, from + (size_t)index[i] * row, row);
            } else {
                memset(to + (size_t)i * row, 0xFF, row); /* NaN in every floating-point type */
            }
        }
    }
}

typedef struct {
    AugmentSpec spec;
    uint64_t seed;
    uint32_t epoch;
    long position, count, rows; /* first place in `order`, its length, rows that count */
    int h, w;
    const uint8_t *set;
    const int32_t *set_labels, *order;
    uint8_t *images;
    int32_t *labels, *ids;
} Views;

static void view_row(const Views *v, long i)
{
    const size_t bytes = (size_t)v->h * (size_t)v->w * 3;
    const long at = v->position + i;
    const int32_t id = i < v->rows && at >= 0 && at < v->count ? v->order[at] : -1;
    uint8_t *image = v->images + (size_t)i * bytes;
    if (id < 0 || id >= v->count) {
        memset(image, 0, bytes);
        v->labels[i] = 0;
        v->ids[i] = 0;
        return;
    }
    const AugmentView view = augment_view(v->seed, v->epoch, (uint32_t)id, v->spec);
    augment_apply(v->spec, view, v->set + (size_t)id * bytes, v->h, v->w, image);
    v->labels[i] = v->set_labels[id];
    v->ids[i] = id;
}

static void run_views(CpuStep *own, const Step *step, const RunArgs *args)
{
    const ViewsAttr *attr = &step_node(step)->attr.views;
    const Tensor *set = cpu_in(step, 0);
    const int32_t *cursor = cpu_in_at(step, args, 3);
    const float *rows_valid = cpu_in_at(step, args, 4);
    const Views views = {.spec = {.pad = attr->pad, .flip = attr->flip},
                         .seed = (uint64_t)(uint32_t)cursor[3] << 32 | (uint32_t)cursor[2],
                         .epoch = (uint32_t)cursor[0],
                         .position = cursor[1],
                         .count = set->n,
                         .rows = (long)*rows_valid,
                         .h = set->h,
                         .w = set->w,
                         .set = cpu_in_at(step, args, 0),
                         .set_labels = cpu_in_at(step, args, 1),
                         .order = cpu_in_at(step, args, 2),
                         .images = cpu_out_at(step, args, 0),
                         .labels = cpu_out_at(step, args, 1),
                         .ids = cpu_out_at(step, args, 2)};
    const int n = cpu_out(step, 0)->n;
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part = cpu_part(n, 1, omp_get_thread_num(), threads);
        for (long i = part.begin; i < part.end; i++) {
            view_row(&views, i);
        }
    }
}

Err *cpu_prepare_rows(Step *step, CpuStep *own)
{
    own->run = step_node(step)->op == OP_GATHER ? run_gather : run_views;
    return NULL;
}
