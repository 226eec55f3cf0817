/* Looks for the first tensor of a step that is not finite, and writes down what the step was. */
#include "train/nonfinite.h"

#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/text.h"
#include "train/nets.h"
#include "train/records.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *what, *pass;
    const char *name, *node, *op; /* node, op: NULL for a parameter */
    bool teacher;
    size_t elements, not_finite;
} Finding;

/* ---- The search ---- */

static size_t count_not_finite(DType dtype, const void *values, size_t count)
{
    size_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        bad += !isfinite(dtype_load(dtype, values, i));
    }
    return bad;
}

static bool is_teachers(const char *name)
{
    return strncmp(name, TEACHER_PREFIX, strlen(TEACHER_PREFIX)) == 0;
}

static size_t count_in_parameter(const Run *run, const Param *param)
{
    const Store *store = &run->store;
    Backend *b = run->backend;
    const size_t bytes = param->count * store->real_size;
    void *values = xmalloc(bytes + 1);
    b->download(b, QUEUE_COMPUTE, values,
                (const char *)store->arena[param->arena] + param->offset * store->real_size, bytes);
    b->sync(b, QUEUE_COMPUTE);
    const DType dtype = store->real_size == sizeof(float) ? DT_F32 : DT_F64;
    const size_t bad = count_not_finite(dtype, values, param->count);
    free(values);
    return bad;
}

/* Running statistics of the student are no part of a training step. */
static bool find_in_parameters(const Run *run, Finding *finding)
{
    const Params *params = &run->params;
    for (int p = 0; p < params->count; p++) {
        const Param *param = &params->items[p];
        const size_t bad = param->arena != ARENA_STATE ? count_in_parameter(run, param) : 0;
        if (bad > 0) {
            *finding = (Finding){.what = "parameter",
                                 .pass = "parameters",
                                 .name = param->name,
                                 .teacher = is_teachers(param->name),
                                 .elements = param->count,
                                 .not_finite = bad};
            return true;
        }
    }
    return false;
}

typedef struct {
    Exec *exec;
    Finding *finding;
    bool found;
    bool backward; /* the loss has run */
} Search;

static bool is_float(DType dtype)
{
    return dtype == DT_F64 || dtype == DT_F32 || dtype == DT_F16 || dtype == DT_BF16;
}

static void look_at(void *context, const Graph *graph, int node_index, double seconds)
{
    (void)seconds;
    Search *search = context;
    const Node *node = &graph->nodes[node_index];
    const bool loss = node->op == OP_DISTILL;
    for (int o = 0; o < node->n_out && !search->found; o++) {
        const Tensor *t = node->out[o] >= 0 ? &graph->tensors[node->out[o]] : NULL;
        if (!t || !is_float(t->dtype)) {
            continue;
        }
        void *values = xmalloc(tensor_bytes(t));
        const size_t bad = exec_peek(search->exec, graph, node->out[o], values)
                               ? count_not_finite(t->dtype, values, tensor_elems(t))
                               : 0;
        free(values);
        search->found = bad > 0;
        if (search->found) {
            *search->finding = (Finding){.what = "tensor",
                                         .pass = loss               ? "loss"
                                                 : search->backward ? "backward"
                                                                    : "forward",
                                         .name = t->name,
                                         .node = node->name,
                                         .op = op_name(node->op),
                                         .teacher = is_teachers(node->name),
                                         .elements = tensor_elems(t),
                                         .not_finite = bad};
        }
    }
    search->backward |= loss;
}

static bool find(Run *run, const Flight *flight, Finding *finding)
{
    exec_sync(run->step);
    if (find_in_parameters(run, finding)) {
        return true;
    }
    const Batch *batch = flight->batch;
    Search search = {.exec = run->step, .finding = finding};
    feed_upload(run->feed, batch, flight->memory->cursor);
    feed_enqueue(run->feed, flight->memory->cursor);
    const ExecRun again = {.rows = (int)batch->n, .scale = 1.0f / (float)batch->global_n};
    exec_run_watched(run->step, &again, look_at, &search);
    exec_sync(run->step);
    return search.found;
}

/* ---- The file ---- */

static void put_finding(Text *out, const Finding *f)
{
    text_add(out, "{\"what\":\"%s\",\"name\":", f->what);
    text_json(out, f->name);
    if (f->node) {
        text_add(out, ",\"node\":");
        text_json(out, f->node);
        text_add(out, ",\"op\":\"%s\"", f->op);
    }
    text_add(out, ",\"pass\":\"%s\",\"net\":\"%s\",\"elements\":%zu,\"not_finite\":%zu}", f->pass,
             f->teacher ? "teacher" : "student", f->elements, f->not_finite);
}

static void put_losses(Text *out, const float *sums, int n_terms)
{
    const double rows = (double)sums[SUM_ROWS];
    text_json_number(out, "loss", (double)sums[SUM_LOSS] / rows);
    text_json_number(out, "ce", (double)sums[SUM_CE] / rows);
    text_puts(out, ",\"terms\":[");
    for (int k = 0; k < n_terms; k++) {
        const double term = (double)sums[SUM_TERM + k] / rows;
        text_puts(out, k > 0 ? "," : "");
        text_add(out, isfinite(term) ? "%.9g" : "null", term);
    }
    text_puts(out, "]");
    text_json_number(out, "rows_not_finite", (double)sums[SUM_NONFINITE]);
}

static void put_hyper(Text *out, const StepMemory *memory)
{
    const float *h = memory->hyper;
    text_add(out, ",\"hyper\":{\"nesterov\":%s", h[HYPER_NESTEROV] != 0.0f ? "true" : "false");
    text_json_number(out, "lr", (double)h[HYPER_LR]);
    text_json_number(out, "momentum", (double)h[HYPER_MOMENTUM]);
    text_json_number(out, "weight_decay", (double)h[HYPER_WEIGHT_DECAY]);
    text_json_number(out, "clip_norm", (double)h[HYPER_CLIP_NORM]);
    text_json_number(out, "loss_scale", (double)memory->loss_scale[0]);
    text_puts(out, "}");
}

static void put_samples(Text *out, const Run *run, const Batch *batch)
{
    const Settings *s = run->settings;
    const Dataset *set = run->train_set;
    const ViewSpec view = settings_view(s);
    uint32_t *order = xmalloc(set->count * sizeof *order);
    rng_permutation(s->seed, batch->epoch, order, set->count);
    text_puts(out, ",\"samples\":[");
    for (uint32_t i = 0; i < batch->n; i++) {
        const uint32_t sample = order[batch->position + batch->global_row + i];
        text_add(out, "%s{\"sample\":%u,\"label\":%d,", i > 0 ? "," : "", sample,
                 (int)set->labels[sample]);
        view_json(out, &view, s->seed, batch->epoch, sample, set->height, set->width);
        text_puts(out, "}");
    }
    text_puts(out, "]");
    free(order);
}

static Err *write_dump(const Run *run, const Flight *flight, const Finding *finding)
{
    const Batch *batch = flight->batch;
    const StepMemory *memory = flight->memory;
    Text out = {0};
    text_add(&out, "{\"step\":%ld,\"epoch\":%u,\"position\":%u,\"rows\":%u", flight->step,
             batch->epoch + 1, batch->position, batch->n);
    put_losses(&out, memory->sums, run->objective.spec.n_terms);
    text_json_number(&out, "gradients_not_finite", (double)memory->grad_stats[1]);
    put_hyper(&out, memory);
    text_puts(&out, ",\"first\":");
    if (finding) {
        put_finding(&out, finding);
    } else {
        text_puts(&out, "null");
    }
    put_samples(&out, run, batch);
    text_puts(&out, "}\n");
    char *dir = xformat("%s/nonfinite-step-%ld", run->settings->out, flight->step);
    char *path = path_join(dir, "batch.json");
    Err *err = dir_make(dir);
    if (!err) {
        err = file_write_atomic(path, out.text, out.size);
    }
    free(path);
    free(dir);
    text_free(&out);
    return err;
}

void nonfinite_dump(Run *run, const Flight *flight)
{
    Finding finding;
    const bool found = find(run, flight, &finding);
    if (found) {
        log_warn("the first that is not finite is %s '%s' (%s, %s): %zu of %zu elements",
                 finding.what, finding.name, finding.teacher ? "teacher" : "student", finding.pass,
                 finding.not_finite, finding.elements);
    }
    Err *err = write_dump(run, flight, found ? &finding : NULL);
    if (err) {
        log_warn("step %ld: %s", flight->step, err->message);
        err_free(err);
    }
    Text fields = {0};
    text_puts(&fields, "\"first\":");
    if (found) {
        put_finding(&fields, &finding);
    } else {
        text_puts(&fields, "null");
    }
    records_event(run, "nonfinite", fields.text);
    text_free(&fields);
}
