/* The graphs a run needs, built from models and the objective: all wiring of networks to losses is here. */
#ifndef CUDISTILL_TRAIN_NETS_H
#define CUDISTILL_TRAIN_NETS_H

#include "backend/backend.h"
#include "base/err.h"
#include "graph/distill_spec.h"
#include "graph/graph.h"

#define STUDENT_PREFIX "student."
#define TEACHER_PREFIX "teacher."

typedef struct {
    const char *model; /* NULL = absent */
    DType act;
    float mean[3], std[3];
} NetSpec;

/* Names of inputs and outputs in all graphs below: "images" u8 [n,size,size,3], "labels" I32, "rows_valid", "scale",
 * "theta" F32 [2] (when the loss has energy bands); outputs "rows", "sums", "hyper", "grad_stats". */

/* Registers the parameters of both networks (either model may be NULL). Call once; then build graphs. */
Err *nets_register(Params *params, const NetSpec *teacher, const NetSpec *student, int classes);
/* Teacher (inference) + student (training) + distillation + gradient. teacher->model NULL: no teacher. */
Err *nets_train_graph(const Params *params, const NetSpec *teacher, const NetSpec *student,
                      int classes, int size, int batch, const DistillSpec *spec, BnMode bn,
                      bool backward, Graph *out);
/* One network in inference, statistics of its logits against the labels. The network is the `z` (or, as_teacher, the `t`)
 * of OP_DISTILL. energy_temperature matters only as_teacher. */
Err *nets_eval_graph(const Params *params, const NetSpec *net, const char *prefix, int classes,
                     int size, int batch, bool as_teacher, float energy_temperature, Graph *out);
/* GRAD_NORM and SGD over the whole arena. */
void nets_update_graph(const Params *params, DType act, bool decay_norm_bias, Graph *out);

#endif
