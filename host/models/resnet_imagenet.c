/* Residual networks for 224x224 images (He et al. 2016) with torchvision's names and its place of
 * the stride: on the 3x3 convolution of a bottleneck ("v1.5"). layout: 1 = bottleneck blocks,
 * blocks in each of four stages. */
#include "models/build.h"

#include <stdio.h>

enum { STAGES = 4, STEM_WIDTH = 64, EXPANSION = 4 };

/* The branch up to its last batch norm, which has no ReLU of its own. */
static Feature basic_branch(const ModelBuild *build, const char *path, Feature x, int width,
                            int stride)
{
    x = build_conv(build, path, "conv1", x, width, 3, stride, false);
    x = build_bn(build, path, "bn1", x);
    x = build_relu(build, path, "relu1", x);
    x = build_conv(build, path, "conv2", x, width, 3, 1, false);
    return build_bn(build, path, "bn2", x);
}

static Feature bottleneck_branch(const ModelBuild *build, const char *path, Feature x, int width,
                                 int stride)
{
    x = build_conv(build, path, "conv1", x, width, 1, 1, false);
    x = build_bn(build, path, "bn1", x);
    x = build_relu(build, path, "relu1", x);
    x = build_conv(build, path, "conv2", x, width, 3, stride, false);
    x = build_bn(build, path, "bn2", x);
    x = build_relu(build, path, "relu2", x);
    x = build_conv(build, path, "conv3", x, width * EXPANSION, 1, 1, false);
    return build_bn(build, path, "bn3", x);
}

static Feature residual_block(const ModelBuild *build, const char *path, Feature x, int width,
                              int stride, bool bottleneck)
{
    Feature y = bottleneck ? bottleneck_branch(build, path, x, width, stride)
                           : basic_branch(build, path, x, width, stride);
    Feature shortcut = x;
    if (stride != 1 || x.c != y.c) {
        shortcut = build_conv(build, path, "downsample.0", x, y.c, 1, stride, false);
        shortcut = build_bn(build, path, "downsample.1", shortcut);
    }
    y = build_add(build, path, "add", y, shortcut);
    return build_relu(build, path, "relu", y);
}

void resnet_imagenet_build(ModelBuild *build, const int layout[])
{
    const bool bottleneck = layout[0] != 0;
    Feature x = build_conv(build, "", "conv1", build_input(build), STEM_WIDTH, 7, 2, false);
    x = build_bn(build, "", "bn1", x);
    x = build_relu(build, "", "relu", x);
    build_tap(build, x);
    x = build_maxpool(build, "maxpool", x, 3, 2, 1);
    for (int stage = 0; stage < STAGES; ++stage) {
        for (int i = 0; i < layout[1 + stage]; ++i) {
            char path[48];
            (void)snprintf(path, sizeof path, "layer%d.%d.", stage + 1, i);
            x = residual_block(build, path, x, STEM_WIDTH << stage, stage > 0 && i == 0 ? 2 : 1,
                               bottleneck);
        }
        build_tap(build, x);
    }
    x = build_global_pool(build, "avgpool", x);
    build_tap(build, x);
    build_classifier(build, "fc", x, LINEAR_DEFAULT);
}
