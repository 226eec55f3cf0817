/* Properties of operations that hold for every node of their kind: names, which memory an output
 * may take over, and which outputs are inputs. */
#include "graph/graph.h"

#include "base/err.h"

const char *op_name(Op op)
{
    static const char *const names[OP_COUNT] = {
        [OP_IMAGE] = "image",
        [OP_CONV] = "conv",
        [OP_CONV_DGRAD] = "conv_dgrad",
        [OP_CONV_WGRAD] = "conv_wgrad",
        [OP_BIAS_GRAD] = "bias_grad",
        [OP_BN_STATS] = "bn_stats",
        [OP_BN_FINALIZE] = "bn_finalize",
        [OP_BN_RUNNING] = "bn_running",
        [OP_BN_INFER] = "bn_infer",
        [OP_BN_APPLY] = "bn_apply",
        [OP_BN_REDUCE] = "bn_reduce",
        [OP_BN_DPARAM] = "bn_dparam",
        [OP_BN_DX] = "bn_dx",
        [OP_RELU] = "relu",
        [OP_RELU_BWD] = "relu_bwd",
        [OP_ADD] = "add",
        [OP_AVGPOOL] = "avgpool",
        [OP_AVGPOOL_BWD] = "avgpool_bwd",
        [OP_MAXPOOL] = "maxpool",
        [OP_MAXPOOL_BWD] = "maxpool_bwd",
        [OP_LINEAR] = "linear",
        [OP_LINEAR_DGRAD] = "linear_dgrad",
        [OP_LINEAR_WGRAD] = "linear_wgrad",
        [OP_CAST] = "cast",
        [OP_FOLD_BN] = "fold_bn",
        [OP_DISTILL] = "distill",
        [OP_GRAD_NORM] = "grad_norm",
        [OP_SGD] = "sgd",
        [OP_LOSS_SCALE] = "loss_scale",
        [OP_GATHER] = "gather",
        [OP_VIEWS] = "views",
    };
    CHECK(op >= 0 && op < OP_COUNT, "no such operation: %d", (int)op);
    return names[op];
}

int op_inplace_input(Op op, int out_slot, int candidate)
{
    /* By preference: gradients die at once, while forward tensors seldom do. Slot 3 of OP_CONV is
     * the residual: the sum is the last thing the epilogue does with it. */
    static const struct {
        Op op;
        int out_slot;
        int slots[4];
    } table[] = {
        {OP_CONV, 0, {3, -1, -1, -1}},     {OP_BN_APPLY, 0, {0, 2, -1, -1}},
        {OP_BN_REDUCE, 1, {0, 4, -1, -1}}, {OP_BN_DX, 0, {0, 1, 5, -1}},
        {OP_RELU, 0, {0, -1, -1, -1}},     {OP_RELU_BWD, 0, {0, 1, -1, -1}},
        {OP_ADD, 0, {0, 1, -1, -1}},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].op == op && table[i].out_slot == out_slot) {
            return candidate >= 0 && candidate < 4 ? table[i].slots[candidate] : -1;
        }
    }
    return -1;
}

int op_alias_input(Op op, int out_slot)
{
    if (op == OP_BN_RUNNING) {
        return out_slot == 0 || out_slot == 1 ? out_slot + 1 : -1;
    }
    return op == OP_LOSS_SCALE && out_slot == 0 ? 1 : -1;
}
