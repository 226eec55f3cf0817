/* Nodes over parameters on the CPU: folding of batch norm into weights, the gradient's norm, and
 * the optimizer. The flat arenas are cut into pieces of fixed size, so that the norm does not
 * depend on the number of threads. */
#include "backend/cpu.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

enum { PIECE = 16384 /* elements */ };

static void run_fold(CpuStep *own, const Step *step, const RunArgs *args)
{
    (void)own;
    const float *w = cpu_in_at(step, args, 0);
    const float *bias = cpu_in_at(step, args, 1);
    const float *gamma = cpu_in_at(step, args, 2);
    const float *beta = cpu_in_at(step, args, 3);
    const float *mean = cpu_in_at(step, args, 4);
    const float *var = cpu_in_at(step, args, 5);
    float *folded = cpu_out_at(step, args, 0);
    float *shift = cpu_out_at(step, args, 1);
    const int outputs = cpu_out(step, 1)->c;
    const size_t each = tensor_elems(cpu_out(step, 0)) / (size_t)outputs;
    for (int o = 0; o < outputs; o++) {
        const double scale =
            (double)gamma[o] / sqrt((double)var[o] + (double)step_node(step)->attr.bn.eps);
        for (size_t i = 0; i < each; i++) {
            folded[(size_t)o * each + i] = (float)((double)w[(size_t)o * each + i] * scale);
        }
        shift[o] =
            (float)(((bias ? (double)bias[o] : 0.0) - (double)mean[o]) * scale + (double)beta[o]);
    }
}

/* A piece of the weight arena that lies inside one parameter. */
typedef struct {
    size_t offset, count;
    bool decay;
} Piece;

typedef struct {
    Piece *pieces;
    int count;
    const CpuArenaLoops *loops;
} Pieces;

static bool is_weight(const Param *param)
{
    return param->role == ROLE_CONV_WEIGHT || param->role == ROLE_LINEAR_WEIGHT;
}

static Pieces *pieces_of(const Params *params, bool decay_norm_bias, CpuIsa isa)
{
    Pieces *list = xcalloc(1, sizeof *list);
    size_t capacity = 0;
    list->loops = cpu_arena_loops(isa);
    for (int p = 0; p < params->count; p++) {
        const Param *param = &params->items[p];
        for (size_t at = 0; param->arena == ARENA_WEIGHT && at < param->count; at += PIECE) {
            list->pieces =
                xgrow(list->pieces, &capacity, (size_t)list->count + 1, sizeof *list->pieces);
            list->pieces[list->count++] =
                (Piece){.offset = param->offset + at,
                        .count = param->count - at < PIECE ? param->count - at : PIECE,
                        .decay = decay_norm_bias || is_weight(param)};
        }
    }
    return list;
}

static void release_pieces(CpuStep *own)
{
    Pieces *list = own->own;
    if (list) {
        free(list->pieces);
    }
    free(list);
}

static void run_grad_norm(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Pieces *list = own->own;
    const float *grad = args->arena[ARENA_GRAD];
    double *sums = args->arena[ARENA_WORKSPACE];
    float *stats = cpu_out_at(step, args, 0);
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part = cpu_part(list->count, 1, omp_get_thread_num(), threads);
        for (long i = part.begin; i < part.end; i++) {
            const Piece *piece = &list->pieces[i];
            sums[2 * i + 1] = 0.0;
            sums[2 * i] =
                list->loops->square_sum(grad + piece->offset, piece->count, &sums[2 * i + 1]);
        }
    }
    double square = 0.0;
    double bad = 0.0;
    for (int i = 0; i < list->count; i++) {
        square += sums[2 * i];
        bad += sums[2 * i + 1];
    }
    stats[0] = (float)square;
    stats[1] = (float)bad;
}

static void run_sgd(CpuStep *own, const Step *step, const RunArgs *args)
{
    const Pieces *list = own->own;
    const float *hyper = cpu_in_at(step, args, 0);
    const float *stats = cpu_in_at(step, args, 1);
    const float *loss_scale = cpu_in_at(step, args, 2);
    double factor = (double)hyper[HYPER_GRAD_SCALE] / (loss_scale ? (double)loss_scale[0] : 1.0);
    const double norm = stats ? factor * sqrt((double)stats[0]) : 0.0;
    if (stats && (stats[1] > 0.0f ||
                  (hyper[HYPER_SKIP_NORM] > 0.0f && norm > (double)hyper[HYPER_SKIP_NORM]))) {
        return;
    }
    if (stats && hyper[HYPER_CLIP_NORM] > 0.0f) {
        factor *= fmin(1.0, (double)hyper[HYPER_CLIP_NORM] / (norm + 1e-6));
    }
    const SgdCoef coef = {.lr = hyper[HYPER_LR],
                          .momentum = hyper[HYPER_MOMENTUM],
                          .dampening = hyper[HYPER_DAMPENING],
                          .weight_decay = hyper[HYPER_WEIGHT_DECAY],
                          .grad_factor = (float)factor,
                          .nesterov = hyper[HYPER_NESTEROV] != 0.0f,
                          .first = hyper[HYPER_FIRST] != 0.0f};
    SgdCoef bare = coef;
    bare.weight_decay = 0.0f;
    float *w = args->arena[ARENA_WEIGHT];
    float *moment = args->moment;
    const float *grad = args->arena[ARENA_GRAD];
    const int threads = own->cpu->threads;
#pragma omp parallel num_threads(threads)
    {
        const Range part = cpu_part(list->count, 1, omp_get_thread_num(), threads);
        for (long i = part.begin; i < part.end; i++) {
            const Piece *piece = &list->pieces[i];
            list->loops->sgd(w + piece->offset, moment + piece->offset, grad + piece->offset,
                             piece->count, piece->decay ? &coef : &bare);
        }
    }
}

static void run_loss_scale(CpuStep *own, const Step *step, const RunArgs *args)
{
    (void)own;
    const LossScaleAttr *a = &step_node(step)->attr.loss_scale;
    const float *stats = cpu_in_at(step, args, 0);
    float *state = cpu_out_at(step, args, 0);
    if (stats[1] > 0.0f) {
        state[0] = fmaxf(state[0] * a->backoff, 1.0f);
        state[1] = 0.0f;
        return;
    }
    state[1] += 1.0f;
    if (state[1] >= (float)a->interval) {
        state[0] = fminf(state[0] * a->growth, 0x1p24f);
        state[1] = 0.0f;
    }
}

Err *cpu_prepare_param(Step *step, CpuStep *own)
{
    const Node *node = step_node(step);
    if (node->op == OP_FOLD_BN || node->op == OP_LOSS_SCALE) {
        own->run = node->op == OP_FOLD_BN ? run_fold : run_loss_scale;
        return NULL;
    }
    if (step->graph->math != DT_F32) {
        return err_new(EXIT_CONFIG_ERR,
                       "%s: the cpu backend keeps parameters in fp32, not %s: use the ref backend",
                       node->name, dtype_name(step->graph->math));
    }
    const bool sgd = node->op == OP_SGD;
    Pieces *list =
        pieces_of(step->graph->params, sgd && node->attr.sgd.decay_norm_bias, own->cpu->isa);
    own->own = list;
    own->release = release_pieces;
    own->run = sgd ? run_sgd : run_grad_norm;
    step->workspace = sgd ? 0 : 2 * (size_t)list->count * sizeof(double);
    return NULL;
}
