/* Crop and flip as copies of whole rows: the padding is never built, the part of a row that falls
 * outside the image is zeroed and the rest copied, mirrored where asked. */
#include "data/augment.h"

#include "base/err.h"
#include "base/rng.h"
#include <stddef.h>
#include <string.h>

AugmentView augment_view(uint64_t seed, uint32_t epoch, uint32_t sample, AugmentSpec spec)
{
    AugmentView view = {0};
    if (spec.pad > 0) {
        Rng rng = rng_make(seed, epoch, sample, RNG_CROP);
        const uint32_t offsets = 2 * (uint32_t)spec.pad + 1;
        view.dy = (uint8_t)rng_below(&rng, offsets);
        view.dx = (uint8_t)rng_below(&rng, offsets);
    }
    if (spec.flip) {
        Rng rng = rng_make(seed, epoch, sample, RNG_FLIP);
        view.flip = rng_u32(&rng) >> 31;
    }
    return view;
}

AugmentView augment_identity(AugmentSpec spec)
{
    return (AugmentView){.dx = (uint8_t)spec.pad, .dy = (uint8_t)spec.pad};
}

int augment_view_count(AugmentSpec spec)
{
    const int offsets = 2 * spec.pad + 1;
    return offsets * offsets * (spec.flip ? 2 : 1);
}

int augment_view_index(AugmentSpec spec, AugmentView view)
{
    const int offsets = 2 * spec.pad + 1;
    return (view.flip * offsets + view.dy) * offsets + view.dx;
}

AugmentView augment_view_at(AugmentSpec spec, int index)
{
    const int offsets = 2 * spec.pad + 1;
    CHECK(index >= 0 && index < augment_view_count(spec), "view %d of %d", index,
          augment_view_count(spec));
    return (AugmentView){.dx = (uint8_t)(index % offsets),
                         .dy = (uint8_t)(index / offsets % offsets),
                         .flip = index / (offsets * offsets) != 0};
}

static void copy_mirrored(uint8_t *dst, const uint8_t *src, int pixels)
{
    const uint8_t *from = src + 3 * (pixels - 1);
    for (int x = 0; x < pixels; x++) {
        dst[0] = from[0];
        dst[1] = from[1];
        dst[2] = from[2];
        dst += 3;
        from -= 3;
    }
}

void augment_apply(AugmentSpec spec, AugmentView view, const uint8_t *src, int height, int width,
                   uint8_t *dst)
{
    /* Column x of the crop is column x + shift_x of the image; columns [first, end) of the crop
     * lie inside it. */
    const int shift_x = view.dx - spec.pad;
    const int shift_y = view.dy - spec.pad;
    int first = shift_x < 0 ? -shift_x : 0;
    int end = shift_x > 0 ? width - shift_x : width;
    first = first < width ? first : width;
    end = end > first ? end : first;
    const int from = first + shift_x;
    if (view.flip) {
        const int mirrored = width - end;
        end = width - first;
        first = mirrored;
    }
    const size_t row_bytes = (size_t)width * 3;
    for (int y = 0; y < height; y++, dst += row_bytes) {
        const int source_y = y + shift_y;
        if (source_y < 0 || source_y >= height || first == end) {
            memset(dst, 0, row_bytes);
            continue;
        }
        const uint8_t *row = src + (size_t)source_y * row_bytes + (size_t)from * 3;
        memset(dst, 0, (size_t)first * 3);
        if (view.flip) {
            copy_mirrored(dst + (size_t)first * 3, row, end - first);
        } else {
            memcpy(dst + (size_t)first * 3, row, (size_t)(end - first) * 3);
        }
        memset(dst + (size_t)end * 3, 0, row_bytes - (size_t)end * 3);
    }
}
