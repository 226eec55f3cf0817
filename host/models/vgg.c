/* VGG networks with batch norm for small images as RepDistiller defines them: five blocks of 3x3
 * convolutions with bias, 2x2 max-pools after the first three (and the fourth for 64x64 images),
 * global average pool, one linear layer. layout: convolutions in each block. */
#include "models/build.h"

#include <stdio.h>

enum { BLOCKS = 5, TINY_IMAGENET_SIZE = 64 };

void vgg_build(ModelBuild *build, const int layout[])
{
    static const int widths[BLOCKS] = {64, 128, 256, 512, 512};
    const int pools = build_input_size(build) == TINY_IMAGENET_SIZE ? 4 : 3;
    Feature x = build_input(build);
    for (int block = 0; block < BLOCKS; ++block) {
        char path[32];
        (void)snprintf(path, sizeof path, "block%d.", block);
        /* A block is a sequence conv, bn, relu, conv, bn, relu, ...: indices go up by three. */
        for (int i = 0; i < layout[block]; ++i) {
            char conv[16];
            char bn[16];
            char relu[16];
            (void)snprintf(conv, sizeof conv, "%d", 3 * i);
            (void)snprintf(bn, sizeof bn, "%d", 3 * i + 1);
            (void)snprintf(relu, sizeof relu, "%d", 3 * i + 2);
            x = build_conv(build, path, conv, x, widths[block], 3, 1, true);
            x = build_bn(build, path, bn, x);
            x = build_relu(build, path, relu, x);
        }
        build_tap(build, x);
        if (block < pools) {
            char pool[16];
            (void)snprintf(pool, sizeof pool, "pool%d", block);
            x = build_maxpool(build, pool, x, 2, 2, 0);
        }
    }
    x = build_global_pool(build, "pool4", x);
    build_tap(build, x);
    build_classifier(build, "classifier", x, LINEAR_SMALL);
}
