/* A teacher and a student on a described device: the fused training step, prepared and not run. */
#ifndef CUDISTILL_TESTS_PLAN_NETS_H
#define CUDISTILL_TESTS_PLAN_NETS_H

#include "support_table.h"

typedef struct {
    Params params;
    Graph graph;
    Exec *exec;
    double seconds;
} PlanNets;

static inline void plans_backend(Backend *backend, const char *plan_cache)
{
    char *device = plans_device();
    const BackendOptions options = {.described = device, .plan_cache = plan_cache};
    *backend = (Backend){0};
    Err *err = backend_open_cuda(&options, backend);
    CHECK(!err, "%s", err ? err->message : "");
    free(device);
}

/* Fails the test with the reason when a step has no plan. teacher NULL: the student alone. */
static inline void plan_nets_open(PlanNets *nets, Backend *backend, const char *teacher,
                                  const char *student, DType act, int size, int classes, int batch)
{
    const NetSpec teacher_net = {
        .model = teacher, .act = act, .mean = {0.5F, 0.5F, 0.5F}, .std = {0.25F, 0.25F, 0.25F}};
    NetSpec student_net = teacher_net;
    student_net.model = student;
    DistillSpec loss = {.ce_weight = {.value = 1}};
    const StepGraph step = {.teacher = &teacher_net,
                            .student = &student_net,
                            .classes = classes,
                            .size = size,
                            .batch = batch,
                            .spec = &loss,
                            .bn = BN_TRAIN,
                            .backward = true,
                            .loss_scale = act == DT_F16};
    if (teacher) {
        const RowValue temperature = {.value = 4};
        loss.n_terms = 1;
        loss.terms[0] = (DistillTerm){
            .factor = FACTOR_TSTT, .weight = {.value = 0.9F}, .ts = temperature, .tt = temperature};
    }
    *nets = (PlanNets){0};
    Err *err = nets_register(&nets->params, &teacher_net, &student_net, classes);
    err = err ? err : nets_train_graph(&nets->params, &step, &nets->graph);
    CHECK(!err, "%s", err ? err->message : "");
    const double begin = now_s();
    err = exec_open(backend, &nets->graph, &(ExecOptions){.plan_only = true, .check_plan = true},
                    &nets->exec);
    nets->seconds = now_s() - begin;
    if (err) {
        fail_msg("%s, %s: %s", student, dtype_name(act), err->message);
    }
}

static inline void plan_nets_close(PlanNets *nets)
{
    exec_close(nets->exec);
    graph_free(&nets->graph);
    params_free(&nets->params);
}

typedef struct {
    int nodes;   /* convolutions and their gradients */
    int forward; /* of them */
    int fused;   /* with anything in them beside the convolution */
    int stats, affine, bn;
} PlanCount;

static inline PlanCount plan_nets_count(const PlanNets *nets, const char *prefix)
{
    const Graph *g = exec_graph(nets->exec);
    PlanCount count = {0};
    for (int i = 0; i < g->n_nodes; i++) {
        const Node *node = &g->nodes[i];
        if ((node->op != OP_CONV && node->op != OP_CONV_DGRAD && node->op != OP_CONV_WGRAD) ||
            strncmp(node->name, prefix, strlen(prefix)) != 0) {
            continue;
        }
        const CudnnConvSpec spec = cuda_conv_spec(g, i);
        count.nodes++;
        count.forward += node->op == OP_CONV;
        count.fused += !cuda_conv_is_plain(&spec);
        count.stats += spec.stats;
        count.affine += spec.affine;
        count.bn += spec.drelu_bn;
    }
    return count;
}

#endif
