/* The model zoo: names, shapes, counts and initialisation exactly as the ecosystem has them
 * (RepDistiller's CIFAR networks, torchvision's ImageNet networks). A builder appends one network
 * to a graph. The first build of a prefix registers its parameters in Params; later builds (an
 * evaluation graph, another mode) find them there.
 *
 * Parameters are registered in the order of PyTorch's state_dict; the four of a batch norm (weight,
 * bias, running mean, running variance) are consecutive. num_batches_tracked is no parameter:
 * load.h ignores it and writes it. Node names are the prefix and PyTorch's module path
 * ("student.layer1.0.conv1").
 *
 * Sources: He et al. 2016 (residual networks), Zagoruyko and Komodakis 2016 (wide residual
 * networks), Simonyan and Zisserman 2015 (VGG); tensor names of RepDistiller (Tian et al. 2020) and
 * torchvision.
 * Thread rules: the tables are constant; a build touches its own Params and Graph only. */
#ifndef CUDISTILL_MODELS_MODELS_H
#define CUDISTILL_MODELS_MODELS_H

#include "base/err.h"
#include "graph/graph.h"

enum { MODEL_MAX_TAPS = 8 };

typedef struct {
    /* in */
    Params *params;
    Graph *graph;       /* NULL: only register the parameters */
    const char *prefix; /* "student." or "teacher."; may be "" */
    bool trainable;
    BnMode bn;
    int classes;
    int images; /* u8 images tensor [n,h,w,3], or -1 with `x` given */
    int x;      /* normalised images [n,h,w,stem_channels], read only when `images` is -1 */
    float mean[3], std[3]; /* of pixels scaled to [0,1]; for `images` */
    int stem_channels;     /* channels of the normalised image: 3, or 4 / 8 where the backend wants
                              padding */
    /* out */
    int logits;               /* [n,1,1,classes], graph->math */
    int taps[MODEL_MAX_TAPS]; /* feature taps f0 (stem), f1.. (stages), pooled vector last. After
                                 the ReLU, except WRN's, which are what its blocks hand on (before
                                 BN); ImageNet's f0 precedes the max-pool. Not marked as outputs:
                                 graph_output those that are read. */
    int n_taps;
} ModelBuild;

typedef struct {
    const char *name;
    const char *family; /* one line for help */
    int input_size;     /* 32 or 224 */
    size_t params;      /* trainable parameters at `classes` */
    int classes;        /* of that count: 100 or 1000 */
    double macs; /* multiply-adds per image of convolutions and linear layers at `input_size`, M */
    void (*build)(ModelBuild *build, const int layout[]); /* for model_build */
    int layout[5];                                        /* the family's own meaning */
} ModelInfo;

const ModelInfo *model_list(int *count);
/* The exact name, else the same letters in either case with '-' for '_' ("WRN-16-2"); NULL when
 * unknown. */
const ModelInfo *model_find(const char *name);
/* EXIT_CONFIG_ERR with a suggestion for an unknown name, for fewer than 2 classes, and for images
 * that are not square or too small for the network. Ends the process when `prefix` holds the
 * parameters of another network (a bug). */
Err *model_build(const char *name, ModelBuild *build);
/* Multiply-adds per image of the forward convolutions and linear layers whose names begin with
 * `prefix`. */
double model_macs(const Graph *graph, const char *prefix);

#endif
