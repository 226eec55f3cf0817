/* Wide residual networks (Zagoruyko and Komodakis 2016) as RepDistiller defines them:
 * pre-activation basic blocks. Where a block changes the width, its 1x1 shortcut reads the
 * activated input and has no batch norm. layout: depth = 6n + 4, widening factor. */
#include "models/build.h"

#include <stdio.h>

enum { STAGES = 3, STEM_WIDTH = 16 };

static Feature preact_block(const ModelBuild *build, const char *path, Feature x, int width,
                            int stride)
{
    Feature active = build_bn(build, path, "bn1", x);
    active = build_relu(build, path, "relu1", active);
    Feature y = build_conv(build, path, "conv1", active, width, 3, stride, false);
    y = build_bn(build, path, "bn2", y);
    y = build_relu(build, path, "relu2", y);
    y = build_conv(build, path, "conv2", y, width, 3, 1, false);
    Feature shortcut = x;
    if (x.c != width) {
        shortcut = build_conv(build, path, "convShortcut", active, width, 1, stride, false);
    }
    return build_add(build, path, "add", y, shortcut);
}

void wrn_build(ModelBuild *build, const int layout[])
{
    const int depth = layout[0];
    const int widen = layout[1];
    const int blocks = (depth - 4) / 6;
    Feature x = build_conv(build, "", "conv1", build_input(build), STEM_WIDTH, 3, 1, false);
    build_tap(build, x);
    for (int stage = 0; stage < STAGES; ++stage) {
        const int width = (STEM_WIDTH << stage) * widen;
        for (int i = 0; i < blocks; ++i) {
            char path[48];
            (void)snprintf(path, sizeof path, "block%d.layer.%d.", stage + 1, i);
            x = preact_block(build, path, x, width, stage > 0 && i == 0 ? 2 : 1);
        }
        build_tap(build, x);
    }
    x = build_bn(build, "", "bn1", x);
    x = build_relu(build, "", "relu", x);
    x = build_global_pool(build, "avgpool", x);
    build_tap(build, x);
    build_classifier(build, "fc", x, LINEAR_ZERO_BIAS);
}
