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

Err *nets_train_graph(const Params *params, const NetSpec *teacher, const NetSpec *student,
                      int classes, int size, int batch, const DistillSpec *spec, BnMode bn,
                      bool backward, Graph *out)
{
    graph_init(out, params, batch, student->act);
    const int images = batched_input(out, "images", DT_U8, size, size, 3);
    int in[DISTILL_IN_COUNT];
    no_inputs(in);
    in[DISTILL_IN_LABELS] = batched_input(out, "labels", DT_I32, 1, 1, 1);
    if (teacher->model) {
        TRY(append_net(params, out, teacher, TEACHER_PREFIX, classes, BN_EVAL, images,
                       &in[DISTILL_IN_T]));
    }
    TRY(append_net(params, out, student, STUDENT_PREFIX, classes, bn, images, &in[DISTILL_IN_Z]));
    if (spec_has_bands(spec)) {
        in[DISTILL_IN_THETA] = graph_input(out, "theta", DT_F32, 1, 1, 1, 2, false);
    }
    const int node = graph_distill(out, "distill", spec, in);
    graph_output(out, out->nodes[node].out[DISTILL_OUT_ROWS], "rows");
    graph_output(out, out->nodes[node].out[DISTILL_OUT_SUMS], "sums");
    return backward ? graph_backward_losses(out) : NULL;
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
    in[DISTILL_IN_ROWS_VALID] = graph_rows_valid(out);
    DistillSpec spec = {.energy_temperature = energy_temperature, .statistics_only = true};
    spec.ce_weight = (RowValue){.source = SOURCE_CONST, .value = 1.0f};
    const int node = graph_distill(out, "statistics", &spec, in);
    graph_output(out, out->nodes[node].out[DISTILL_OUT_ROWS], "rows");
    graph_output(out, out->nodes[node].out[DISTILL_OUT_SUMS], "sums");
    return NULL;
}

void nets_update_graph(const Params *params, DType act, bool decay_norm_bias, Graph *out)
{
    graph_init(out, params, 1, act);
    const int hyper = graph_input(out, "hyper", DT_F32, 1, 1, 1, HYPER_COUNT, false);
    const int stats = graph_tensor(out, "grad_stats", TENSOR_ACT, out->math, 1, 1, 1, 2, false);
    (void)graph_node(out, OP_GRAD_NORM, "grad_norm", 0, NULL, 1, (int[]){stats});
    graph_output(out, stats, NULL);
    Node *sgd = graph_node(out, OP_SGD, "sgd", 2, (int[]){hyper, stats}, 0, NULL);
    sgd->attr.sgd.decay_norm_bias = decay_norm_bias;
}
