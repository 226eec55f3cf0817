/* Wires networks to losses. Each function builds one graph from scratch over the same Params; nothing here knows which
 * method runs: that is in the DistillSpec it is given. */
#include "train/nets.h"

#include "graph/gradient.h"
#include "models/models.h"

#include <string.h>

static ModelBuild model_build_of(const Params *params, Graph *g, const NetSpec *net,
                                 const char *prefix, int classes, bool trainable, BnMode bn)
{
    ModelBuild build = {.params = (Params *)params,
                        .graph = g,
                        .prefix = prefix,
                        .trainable = trainable,
                        .bn = bn,
                        .classes = classes,
                        .images = -1,
                        .stem_channels = 3};
    memcpy(build.mean, net->mean, sizeof build.mean);
    memcpy(build.std, net->std, sizeof build.std);
    return build;
}

/* Appends one network, in its own activation type, and gives its logits. */
static Err *append_net(const Params *params, Graph *g, const NetSpec *net, const char *prefix,
                       int classes, BnMode bn, int images, int *logits)
{
    const bool trainable = strcmp(prefix, STUDENT_PREFIX) == 0;
    ModelBuild build = model_build_of(params, g, net, prefix, classes, trainable, bn);
    build.images = images;
    g->act = net->act;
    TRY(model_build(net->model, &build));
    *logits = build.logits;
    return NULL;
}

Err *nets_register(Params *params, const NetSpec *teacher, const NetSpec *student, int classes)
{
    const NetSpec *const nets[2] = {teacher, student};
    const char *const prefixes[2] = {TEACHER_PREFIX, STUDENT_PREFIX};
    for (int i = 0; i < 2; i++) {
        if (!nets[i] || !nets[i]->model) {
            continue;
        }
        ModelBuild build =
            model_build_of(params, NULL, nets[i], prefixes[i], classes, i == 1, BN_TRAIN);
        TRY(model_build(nets[i]->model, &build));
    }
    params_finish(params);
    return NULL;
}

static int batched_input(Graph *g, const char *name, DType dtype, int h, int w, int c)
{
    return graph_input(g, name, dtype, g->batch, h, w, c, true);
}

static bool spec_has_bands(const DistillSpec *spec)
{
    for (int k = 0; k < spec->n_terms; k++) {
        if (spec->terms[k].ts.source == SOURCE_BAND || spec->terms[k].tt.source == SOURCE_BAND) {
            return true;
        }
    }
    return false;
}

static void no_inputs(int in[DISTILL_IN_COUNT])
{
    for (int i = 0; i < DISTILL_IN_COUNT; i++) {
        in[i] = -1;
    }
}

/* What a step reads of its batch, by tensor id; ids -1: nobody needs them. */
typedef struct {
    int images, labels, ids;
} BatchTensors;

static BatchTensors batch_of_host(Graph *g, const StepGraph *step)
{
    BatchTensors batch = {.ids = -1};
    batch.images = batched_input(g, "images", DT_U8, step->size, step->size, 3);
    batch.labels = batched_input(g, "labels", DT_I32, 1, 1, 1);
    if (step->table) {
        batch.ids = batched_input(g, "ids", DT_I32, 1, 1, 1);
    }
    return batch;
}

static BatchTensors batch_of_resident(Graph *g, const StepGraph *step)
{
    const int n = step->samples;
    const int images = graph_input(g, "set_images", DT_U8, n, step->size, step->size, 3, false);
    const int labels = graph_input(g, "set_labels", DT_I32, n, 1, 1, 1, false);
    const int order = graph_input(g, "order", DT_I32, n, 1, 1, 1, false);
    const int cursor = graph_input(g, "cursor", DT_I32, 1, 1, 1, 4, false);
    int out[3];
    graph_views(g, "views", images, labels, order, cursor, step->views, out);
    return (BatchTensors){.images = out[0], .labels = out[1], .ids = out[2]};
}

Err *nets_train_graph(const Params *params, const StepGraph *step, Graph *out)
{
    graph_init(out, params, step->batch, step->student->act);
    const BatchTensors batch =
        step->resident ? batch_of_resident(out, step) : batch_of_host(out, step);
    int in[DISTILL_IN_COUNT];
    no_inputs(in);
    in[DISTILL_IN_LABELS] = batch.labels;
    if (step->table) {
        const int table =
            graph_input(out, "teacher_table", out->math, step->samples, 1, 1, step->classes, false);
        in[DISTILL_IN_T] = graph_gather(out, "teacher_logits", table, batch.ids);
    } else if (step->teacher->model) {
        TRY(append_net(params, out, step->teacher, TEACHER_PREFIX, step->classes, BN_EVAL,
                       batch.images, &in[DISTILL_IN_T]));
    }
    TRY(append_net(params, out, step->student, STUDENT_PREFIX, step->classes, step->bn,
                   batch.images, &in[DISTILL_IN_Z]));
    if (spec_has_bands(step->spec)) {
        in[DISTILL_IN_THETA] = graph_input(out, "theta", DT_F32, 1, 1, 1, 2, false);
    }
    if (step->loss_scale) {
        in[DISTILL_IN_LOSS_SCALE] = graph_shared(out, "loss_scale", DT_F32, LOSS_SCALE_FIELDS, 0);
    }
    const int node = graph_distill(out, "distill", step->spec, in);
    graph_output(out, out->nodes[node].out[DISTILL_OUT_ROWS], "rows");
    graph_output(out, out->nodes[node].out[DISTILL_OUT_SUMS], "sums");
    return step->backward ? graph_backward_losses(out) : NULL;
}

Err *nets_logits_graph(const Params *params, const NetSpec *net, const char *prefix, int classes,
                       int size, int batch, Graph *out)
{
    graph_init(out, params, batch, net->act);
    const int images = batched_input(out, "images", DT_U8, size, size, 3);
    int logits;
    TRY(append_net(params, out, net, prefix, classes, BN_EVAL, images, &logits));
    graph_output(out, logits, "logits");
    return NULL;
}

Err *nets_eval_graph(const Params *params, const NetSpec *net, const char *prefix, int classes,
                     int size, int batch, bool as_teacher, float energy_temperature, Graph *out)
{
    graph_init(out, params, batch, net->act);
    const int images = batched_input(out, "images", DT_U8, size, size, 3);
    int in[DISTILL_IN_COUNT];
    no_inputs(in);
    in[DISTILL_IN_LABELS] = batched_input(out, "labels", DT_I32, 1, 1, 1);
    const int slot = as_teacher ? DISTILL_IN_T : DISTILL_IN_Z;
    TRY(append_net(params, out, net, prefix, classes, BN_EVAL, images, &in[slot]));
    graph_output(out, in[slot], "logits");
    in[DISTILL_IN_ROWS_VALID] = graph_rows_valid(out);
    DistillSpec spec = {.energy_temperature = energy_temperature, .statistics_only = true};
    spec.ce_weight = (RowValue){.source = SOURCE_CONST, .value = 1.0f};
    const int node = graph_distill(out, "statistics", &spec, in);
    graph_output(out, out->nodes[node].out[DISTILL_OUT_ROWS], "rows");
    graph_output(out, out->nodes[node].out[DISTILL_OUT_SUMS], "sums");
    return NULL;
}

void nets_update_graph(const Params *params, DType act, bool decay_norm_bias, LossScaling scaling,
                       Graph *out)
{
    graph_init(out, params, 1, act);
    const int hyper = graph_input(out, "hyper", DT_F32, 1, 1, 1, HYPER_COUNT, false);
    const int stats = graph_tensor(out, "grad_stats", TENSOR_ACT, out->math, 1, 1, 1, 2, false);
    (void)graph_node(out, OP_GRAD_NORM, "grad_norm", 0, NULL, 1, (int[]){stats});
    graph_output(out, stats, NULL);
    const bool scaled = scaling != LOSS_SCALE_NONE;
    const int scale = scaled ? graph_shared(out, "loss_scale", DT_F32, LOSS_SCALE_FIELDS, 0) : -1;
    Node *sgd =
        graph_node(out, OP_SGD, "sgd", scaled ? 3 : 2, (int[]){hyper, stats, scale}, 0, NULL);
    sgd->attr.sgd.decay_norm_bias = decay_norm_bias;
    if (scaling == LOSS_SCALE_DYNAMIC) {
        Node *next = graph_node(out, OP_LOSS_SCALE, "next_loss_scale", 2, (int[]){stats, scale}, 1,
                                (int[]){scale});
        next->attr.loss_scale = (LossScaleAttr){.growth = 2.0f, .backoff = 0.5f, .interval = 2000};
    }
}
