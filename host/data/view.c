/* Crop and flip, then the policy, in place. */
#include "data/view.h"

#include <string.h>

bool view_is_plain(const ViewSpec *spec)
{
    return spec->crop.pad == 0 && !spec->crop.flip && policy_is_none(&spec->policy);
}

void view_make(const ViewSpec *spec, uint64_t seed, uint32_t epoch, uint32_t sample,
               const uint8_t *image, int height, int width, uint8_t *dst, uint8_t *scratch)
{
    if (spec->crop.pad == 0 && !spec->crop.flip) {
        memcpy(dst, image, (size_t)height * (size_t)width * 3);
    } else {
        augment_apply(spec->crop, augment_view(seed, epoch, sample, spec->crop), image, height,
                      width, dst);
    }
    if (!policy_is_none(&spec->policy)) {
        const PolicyDraw draw = policy_draw(&spec->policy, seed, epoch, sample, height, width);
        policy_apply(&spec->policy, &draw, dst, height, width, scratch);
    }
}

static bool has_value(PilKind kind)
{
    return kind != PIL_IDENTITY && kind != PIL_AUTO_CONTRAST && kind != PIL_EQUALIZE &&
           kind != PIL_INVERT;
}

static void put_draw(Text *out, const PolicyDraw *draw)
{
    for (int i = 0; i < draw->n; i++) {
        const PilOp *op = &draw->ops[i];
        text_add(out, "%s%s", i > 0 ? ", " : "", pil_name(op->kind));
        if (has_value(op->kind)) {
            text_add(out, " %.3g", op->value);
        }
    }
    if (draw->cut) {
        text_add(out, "%scutout at %d,%d", draw->n > 0 ? ", " : "", draw->cut_x, draw->cut_y);
    }
}

void view_json(Text *out, const ViewSpec *spec, uint64_t seed, uint32_t epoch, uint32_t sample,
               int height, int width)
{
    const AugmentView view = augment_view(seed, epoch, sample, spec->crop);
    text_add(out, "\"dx\":%d,\"dy\":%d,\"flip\":%s", view.dx, view.dy,
             view.flip ? "true" : "false");
    if (!policy_is_none(&spec->policy)) {
        const PolicyDraw draw = policy_draw(&spec->policy, seed, epoch, sample, height, width);
        text_puts(out, ",\"policy\":\"");
        put_draw(out, &draw);
        text_puts(out, "\"");
    }
}
