/* From bytes to the network's input. Reference loops: host/data/augment.c, host/backend/ref_misc.c (OP_IMAGE, OP_VIEWS). */
#ifndef CUDISTILL_KERNELS_IMAGE_H
#define CUDISTILL_KERNELS_IMAGE_H

#include "kernels/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is done to one image while it is read, in device memory. Zero padding of `pad` pixels is implied: (dx, dy) is the
 * crop's corner in the padded image. Pixels outside the source are black bytes. */
typedef struct {
    int32_t dx, dy, flip;
    int32_t partner; /* row mixed in, or -1; the partner's own view is applied to it */
    float lambda;    /* mixup: lambda*own + (1 - lambda)*partner, in fp32 after normalisation */
    int32_t left, top, right,
        bottom; /* CutMix: inside this box of the output the partner is shown; empty = none */
} ImageView;

typedef struct {
    KernelType type; /* of y */
    int n, h, w;     /* source, U8 [n][h][w][3] */
    int oh, ow,
        c; /* y [n][oh][ow][c], c >= 3; channels 3.. are zero (c = 4 in fp16, 8 in bf16 suit cuDNN) */
    int pad;
    float mean[3], std[3]; /* y = (u8/255 - mean)/std */
} ImageShape;
/* views NULL: oh = h, ow = w, images as they are. Bytes: 3 a source pixel read, c elements a pixel written. */
KernelStatus kernel_image(KernelStream stream, const ImageShape *shape, const uint8_t *images,
                          const ImageView *views, void *y);

/* OP_VIEWS of graph.h. cursor (device) = {epoch, position, seed low, seed high}. */
typedef struct {
    int n, count, h, w; /* batch; samples of the set; pixels */
    int pad;
    bool flip;
    const uint8_t *set_images;
    const int32_t *set_labels, *order, *cursor;
    const float *rows_valid;
    uint8_t *images;
    int32_t *labels, *ids;
} ViewsLaunch;
KernelStatus kernel_views(KernelStream stream, const ViewsLaunch *launch);

/* Philox4x32-10 as base/rng.h: block i of the stream (seed, epoch, sample, purpose) into out[4*i ..]. For tests. */
KernelStatus kernel_philox(KernelStream stream, uint64_t seed, uint32_t epoch, uint64_t sample,
                           int purpose, int blocks, uint32_t *out);

#ifdef __cplusplus
}
#endif
#endif
