/* Which address stands for which tensor of a convolution's operation graph. */
#include "backend/cuda_engines.h"

enum { EXTRA_ALIGN = 256 /* bytes */, UNUSED_STATS = 2, UNUSED_COEFFICIENTS = 3 };

size_t engine_align(size_t bytes)
{
    return (bytes + EXTRA_ALIGN - 1) / EXTRA_ALIGN * EXTRA_ALIGN;
}

static size_t vector_bytes(const CudnnConvSpec *spec)
{
    return engine_align((size_t)(spec->drelu_bn ? spec->ic : spec->oc) * sizeof(float));
}

size_t engine_extra_bytes(const CudnnConvSpec *spec, bool unused_stats)
{
    return spec->drelu_bn ? UNUSED_COEFFICIENTS * vector_bytes(spec)
           : unused_stats ? UNUSED_STATS * vector_bytes(spec)
                          : 0;
}

static void bind(EngineBindings *b, Uid uid, const void *pointer)
{
    b->uids[b->count] = uid;
    b->pointers[b->count++] = (void *)pointer;
}

static void bind_bn(EngineBindings *b, const CudnnConvSpec *spec, const CudnnConvArgs *args,
                    char *extra)
{
    bind(b, UID_MEAN, args->mean);
    bind(b, UID_INVSTD, args->invstd);
    bind(b, UID_GAMMA, args->gamma);
    bind(b, UID_BETA, args->beta);
    bind(b, UID_BN_X, args->bn_x);
    for (int i = 0; i < UNUSED_COEFFICIENTS; i++) {
        bind(b, UID_EQ_DY + i, extra + (size_t)i * vector_bytes(spec));
    }
}

EngineBindings engine_bindings(const CudnnConvSpec *spec, bool unused_stats,
                               const CudnnConvArgs *args, char *extra)
{
    EngineBindings b = {.count = 0};
    bind(&b, UID_X, spec->kind == CUDNN_CONV_DGRAD ? args->out : args->x);
    bind(&b, UID_W, spec->kind == CUDNN_CONV_WGRAD ? args->out : args->w);
    bind(&b, UID_Y, spec->kind == CUDNN_CONV_FORWARD ? args->out : args->y);
    if (spec->bias) {
        bind(&b, UID_BIAS, args->bias);
    }
    if (spec->residual) {
        bind(&b, UID_RESIDUAL, args->residual);
    }
    if (spec->affine) {
        bind(&b, UID_SCALE, args->scale);
        bind(&b, UID_SHIFT, args->shift);
    }
    if (unused_stats) {
        bind(&b, UID_SUM, extra);
        bind(&b, UID_SQUARE_SUM, extra + vector_bytes(spec));
    } else if (spec->stats || spec->drelu_bn) {
        bind(&b, UID_SUM, args->sum);
        bind(&b, UID_SQUARE_SUM, args->square_sum);
    }
    if (spec->drelu_bn) {
        bind_bn(&b, spec, args, extra);
    }
    return b;
}
