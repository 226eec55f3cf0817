/* The graphs a run needs, built from models and the objective: all wiring of networks to losses is here. */
#ifndef CUDISTILL_TRAIN_NETS_H
#define CUDISTILL_TRAIN_NETS_H

#include "backend/backend.h"
#include "base/err.h"
#include "graph/graph.h"
#include "kernels/distill_spec.h"

#define STUDENT_PREFIX "student."
#define TEACHER_PREFIX "teacher."

typedef struct {
    const char *model; /* NULL = absent */
    DType act;
    float mean[3], std[3];
} NetSpec;

/* How a training step is wired. Names of its inputs: "theta" F32 [2] (where the loss has energy bands), the scalars
 * "rows_valid" and "scale"; then, by where batches come from,
 *     the host:   "images" U8 [n,size,size,3], "labels" I32 [n], with a table "ids" I32 [n]
 *     the device: "set_images" U8 [N,size,size,3], "set_labels" I32 [N], "order" I32 [N], "cursor" I32 [4] (OP_VIEWS)
 * and, where the teacher's logits come from a table, "teacher_table" F32 [N,classes]. Outputs: "rows", "sums". */
typedef struct {
    const NetSpec *teacher, *student; /* teacher->model NULL: none */
    int classes, size, batch;
    const DistillSpec *spec;
    BnMode bn;
    bool backward;
    bool loss_scale; /* the loss is multiplied by the shared loss scale */
    bool resident;   /* batches are made on the device */
    ViewsAttr views; /* of resident sets */
    bool table;      /* the teacher does not run: OP_GATHER by sample id */
    int samples;     /* N: of resident sets and tables */
} StepGraph;

/* The loss scale lies at the beginning of ARENA_SHARED: F32 {scale, good steps}. */
enum { SHARED_BYTES = 64, LOSS_SCALE_FIELDS = 2 };
typedef enum {
    LOSS_SCALE_NONE,
    LOSS_SCALE_CONSTANT,
    LOSS_SCALE_DYNAMIC /* as PyTorch's GradScaler: halved after a skipped step, doubled after 2000 good ones in a row */
} LossScaling;

/* Registers the parameters of both networks (either model may be NULL). Call once; then build graphs. */
Err *nets_register(Params *params, const NetSpec *teacher, const NetSpec *student, int classes);
/* Teacher (inference) or its table + student (training) + distillation + gradient. */
Err *nets_train_graph(const Params *params, const StepGraph *step, Graph *out);
/* One network in inference, statistics of its logits against the labels: inputs "images" and "labels", outputs "rows",
 * "sums" and "logits" F32 [n,classes]. The network is the `z` (or, as_teacher, the `t`) of OP_DISTILL. energy_temperature matters only as_teacher. */
Err *nets_eval_graph(const Params *params, const NetSpec *net, const char *prefix, int classes,
                     int size, int batch, bool as_teacher, float energy_temperature, Graph *out);
/* One network in inference: input "images", output "logits" F32 [n,classes]. */
Err *nets_logits_graph(const Params *params, const NetSpec *net, const char *prefix, int classes,
                       int size, int batch, Graph *out);
/* GRAD_NORM, SGD over the whole arena, and the next loss scale: input "hyper", output "grad_stats". */
void nets_update_graph(const Params *params, DType act, bool decay_norm_bias, LossScaling scaling,
                       Graph *out);

#endif
