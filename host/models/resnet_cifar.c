/* Residual networks for 32x32 images (He et al. 2016, section 4.2) as RepDistiller defines them:
 * three stages of basic blocks; a 1x1 convolution with batch norm wherever the shortcut changes
 * shape, which gives the x4 networks one in the first stage too. layout: blocks per stage, stem
 * width, three stage widths. */
#include "models/build.h"

#include <stdio.h>

enum { STAGES = 3 };

static Feature basic_block(const ModelBuild *build, const char *path, Feature x, int width,
                           int stride)
{
    Feature y = build_conv(build, path, "conv1", x, width, 3, stride, false);
    y = build_bn(build, path, "bn1", y);
    y = build_relu(build, path, "relu1", y);
    y = build_conv(build, path, "conv2", y, width, 3, 1, false);
    y = build_bn(build, path, "bn2", y);
    Feature shortcut = x;
    if (stride != 1 || x.c != width) {
        shortcut = build_conv(build, path, "downsample.0", x, width, 1, stride, false);
        shortcut = build_bn(build, path, "downsample.1", shortcut);
    }
    y = build_add(build, path, "add", y, shortcut);
    return build_relu(build, path, "relu2", y);
}

void resnet_cifar_build(ModelBuild *build, const int layout[])
{
    const int blocks = layout[0];
    const int stem = layout[1];
    const int *widths = &layout[2];
    Feature x = build_conv(build, "", "conv1", build_input(build), stem, 3, 1, false);
    x = build_bn(build, "", "bn1", x);
    x = build_relu(build, "", "relu", x);
    build_tap(build, x);
    for (int stage = 0; stage < STAGES; ++stage) {
        for (int i = 0; i < blocks; ++i) {
            char path[48];
            (void)snprintf(path, sizeof path, "layer%d.%d.", stage + 1, i);
            x = basic_block(build, path, x, widths[stage], stage > 0 && i == 0 ? 2 : 1);
        }
        build_tap(build, x);
    }
    x = build_global_pool(build, "avgpool", x);
    build_tap(build, x);
    build_classifier(build, "fc", x, LINEAR_DEFAULT);
}
