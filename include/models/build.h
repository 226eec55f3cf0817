/* What the network families share: each helper registers the parameters of one module under
 * PyTorch's name (or finds them from an earlier build) and, when the build has a graph, appends the
 * module's nodes.
 *
 * A module is named by `path` ("" or "layer1.0.", with the dot) and `leaf` ("conv1"); the build's
 * prefix goes in front. Without a graph every `id` is -1 and only channel counts are carried.
 * Helpers end the process on a mistake of the calling family: a name registered with another shape,
 * a tensor of the wrong width. */
#ifndef CUDISTILL_MODELS_BUILD_H
#define CUDISTILL_MODELS_BUILD_H

#include "models/models.h"

/* A tensor under construction. */
typedef struct {
    int id; /* in the graph; -1 without one */
    int c;  /* channels as the network counts them: 3 for images, whatever their padding */
} Feature;

/* How a classifier begins. */
typedef enum {
    LINEAR_DEFAULT,   /* PyTorch's: weight and bias uniform within +-1/sqrt(inputs) */
    LINEAR_ZERO_BIAS, /* the same weight, bias 0 */
    LINEAR_SMALL      /* weight normal with deviation 0.01, bias 0 */
} LinearInit;

/* The normalised images; build_input_size is their side in pixels (0 without a graph). */
Feature build_input(const ModelBuild *build);
int build_input_size(const ModelBuild *build);

/* Kernel odd, padding kernel/2. Weights normal with deviation sqrt(2/(kernel^2*out)) (He et al.
 * 2015, fan out), which all families here use; bias 0. */
Feature build_conv(const ModelBuild *build, const char *path, const char *leaf, Feature x, int out,
                   int kernel, int stride, bool bias);
/* eps 1e-5, momentum 0.1; weight 1, bias 0, running mean 0, running variance 1. */
Feature build_bn(const ModelBuild *build, const char *path, const char *leaf, Feature x);
Feature build_relu(const ModelBuild *build, const char *path, const char *leaf, Feature x);
Feature build_add(const ModelBuild *build, const char *path, const char *leaf, Feature a,
                  Feature b);
Feature build_maxpool(const ModelBuild *build, const char *leaf, Feature x, int kernel, int stride,
                      int pad);
/* Mean over the whole map: [n,1,1,c]. */
Feature build_global_pool(const ModelBuild *build, const char *leaf, Feature x);
/* The classifier: sets build->logits. */
void build_classifier(ModelBuild *build, const char *leaf, Feature x, LinearInit init);
/* Appends x to build->taps. */
void build_tap(ModelBuild *build, Feature x);

/* The families, called through the table of models.c; layout[] is ModelInfo's. */
void resnet_cifar_build(ModelBuild *build, const int layout[]);
void wrn_build(ModelBuild *build, const int layout[]);
void vgg_build(ModelBuild *build, const int layout[]);
void resnet_imagenet_build(ModelBuild *build, const int layout[]);

#endif
