/* Fully connected layers on the CPU: fp32 matrix products, with 16-bit activations widened first
 * (they are few: one row an image). */
#include "backend/cpu.h"

#include <string.h>

/* The 16-bit or fp32 matrix `x` as fp32: itself, or a copy in `scratch`. */
static const float *widen(const CpuStep *own, const Tensor *t, const void *x, float *scratch)
{
    if (t->dtype == DT_F32) {
        return x;
    }
    own->loops->to_float(x, scratch, tensor_elems(t));
    return scratch;
}

static void run_linear(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *x_t = cpu_in(step, 0);
    const int outputs = cpu_out(step, 0)->c;
    const float *bias = cpu_in_at(step, args, 2);
    float *y = cpu_out_at(step, args, 0);
    const float *x = widen(own, x_t, cpu_in_at(step, args, 0), args->arena[ARENA_WORKSPACE]);
    for (int n = 0; bias && n < x_t->n; n++) {
        memcpy(y + (size_t)n * (size_t)outputs, bias, (size_t)outputs * sizeof *y);
    }
    cpu_dnnl_gemm(false, true, x_t->n, outputs, x_t->c, x, cpu_in_at(step, args, 1),
                  bias ? 1.0f : 0.0f, y);
}

static void run_dgrad(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *dy_t = cpu_in(step, 0);
    const Tensor *dx_t = cpu_out(step, 0);
    float *scratch = args->arena[ARENA_WORKSPACE];
    const float *dy = widen(own, dy_t, cpu_in_at(step, args, 0), scratch);
    void *dx = cpu_out_at(step, args, 0);
    if (dx_t->dtype == DT_F32) {
        cpu_dnnl_gemm(false, false, dy_t->n, dx_t->c, dy_t->c, dy, cpu_in_at(step, args, 1), 0.0f,
                      dx);
        return;
    }
    float *full = scratch + tensor_elems(dy_t);
    cpu_dnnl_gemm(false, false, dy_t->n, dx_t->c, dy_t->c, dy, cpu_in_at(step, args, 1), 0.0f,
                  full);
    own->loops->from_float(full, dx, tensor_elems(dx_t), 1.0f);
}

static void run_wgrad(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Tensor *x_t = cpu_in(step, 0);
    const Tensor *dy_t = cpu_in(step, 1);
    float *scratch = args->arena[ARENA_WORKSPACE];
    const float *x = widen(own, x_t, cpu_in_at(step, args, 0), scratch);
    const float *dy = widen(own, dy_t, cpu_in_at(step, args, 1), scratch + tensor_elems(x_t));
    cpu_dnnl_gemm(true, false, dy_t->c, x_t->c, x_t->n, dy, x, cpu_adds(step, args) ? 1.0f : 0.0f,
                  cpu_out_at(step, args, 0));
}

Err *cpu_prepare_linear(Step *step, CpuStep *own)
{
    const Node *node = step_node(step);
    DType narrow = DT_F32;
    size_t elems = 0;
    const Tensor *parts[3] = {cpu_in(step, 0), cpu_in(step, 1), cpu_out(step, 0)};
    for (int i = 0; i < 3; i++) {
        const DType type = parts[i]->dtype;
        TRY(cpu_check_storage(step, type));
        if (type == DT_BF16) {
            narrow = DT_BF16;
        }
        elems += parts[i]->kind == TENSOR_PARAM || parts[i]->kind == TENSOR_GRAD
                     ? 0
                     : tensor_elems(parts[i]);
    }
    own->loops = cpu_loops(own->cpu->isa, narrow);
    step->workspace = narrow == DT_BF16 ? elems * sizeof(float) : 0;
    own->run = node->op == OP_LINEAR         ? run_linear
               : node->op == OP_LINEAR_DGRAD ? run_dgrad
                                             : run_wgrad;
    return NULL;
}
