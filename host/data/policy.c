/* From draws to operations with arguments. Each convention turns (operation, magnitude) into Pillow's arguments by its own
 * scale; what they share is the list of operations to apply. */
#include "data/policy.h"

#include "base/rng.h"

#include <math.h>

enum { PAPER_LEVELS = 9, GREY = 128 };

static const double APPLY_PROBABILITY = 0.5; /* of each of timm's operations */
static const double TRANSLATE_PART = 150.0 / 331.0;

typedef struct {
    int height, width;
} Size;

static const PilKind timm_kinds[] = {
    PIL_AUTO_CONTRAST, PIL_EQUALIZE,     PIL_INVERT,  PIL_ROTATE,      PIL_POSTERIZE,
    PIL_SOLARIZE,      PIL_SOLARIZE_ADD, PIL_COLOR,   PIL_CONTRAST,    PIL_BRIGHTNESS,
    PIL_SHARPNESS,     PIL_SHEAR_X,      PIL_SHEAR_Y, PIL_TRANSLATE_X, PIL_TRANSLATE_Y};

static const PilKind torchvision_kinds[] = {
    PIL_IDENTITY,  PIL_SHEAR_X,    PIL_SHEAR_Y,       PIL_TRANSLATE_X, PIL_TRANSLATE_Y,
    PIL_ROTATE,    PIL_BRIGHTNESS, PIL_COLOR,         PIL_CONTRAST,    PIL_SHARPNESS,
    PIL_POSTERIZE, PIL_SOLARIZE,   PIL_AUTO_CONTRAST, PIL_EQUALIZE};

#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof(array)[0]))

/* ---- Checks ---- */

static Err *refuse(const char **key, const char *name, double value, const char *range)
{
    if (key) {
        *key = name;
    }
    return err_new(EXIT_CONFIG_ERR, "augment.%s = %g: %s", name, value, range);
}

static Err *check_magnitude(const PolicySpec *spec, const char **key)
{
    const bool timm = spec->kind == POLICY_RANDAUGMENT_TIMM;
    const int levels = timm ? POLICY_TIMM_LEVELS : POLICY_TORCHVISION_LEVELS;
    if (spec->n < 1 || spec->n > POLICY_MAX_OPS) {
        return refuse(key, "randaug_n", spec->n, "1 to 16 operations are possible");
    }
    if (!(spec->m >= 0.0 && spec->m <= levels)) {
        return refuse(key, "randaug_m", spec->m,
                      timm ? "timm's magnitudes are 0 to 10"
                           : "torchvision's magnitudes are 0 to 30 (bins of 31)");
    }
    if (!timm && spec->m != floor(spec->m)) {
        return refuse(key, "randaug_m", spec->m,
                      "torchvision's magnitude is the number of a bin: a whole number");
    }
    if (timm && !(spec->mstd >= 0.0)) {
        return refuse(key, "randaug_mstd", spec->mstd, "a deviation is 0 or more");
    }
    return NULL;
}

Err *policy_check(const PolicySpec *spec, const char **key)
{
    if (spec->cutout < 0 || spec->cutout > POLICY_MAX_CUTOUT) {
        return refuse(key, "cutout", spec->cutout, "a side of 0 to 8192 pixels is possible");
    }
    if (!(spec->cutout_prob >= 0.0 && spec->cutout_prob <= 1.0)) {
        return refuse(key, "cutout_prob", spec->cutout_prob, "a probability is 0 to 1");
    }
    switch (spec->kind) {
    case POLICY_RANDAUGMENT_TIMM:
    case POLICY_RANDAUGMENT_TORCHVISION:
        return check_magnitude(spec, key);
    default:
        return NULL;
    }
}

bool policy_is_none(const PolicySpec *spec)
{
    return spec->kind == POLICY_NONE && (spec->cutout == 0 || spec->cutout_prob == 0.0);
}

/* ---- Draws ---- */

static bool happens(Rng *rng, double probability)
{
    return (double)rng_uniform(rng) < probability;
}

static double negate_or_not(Rng *rng, double value)
{
    return rng_u32(rng) >> 31 ? -value : value;
}

/* ---- AutoAugment ---- */

static double paper_value(Rng *rng, PilKind kind, int magnitude, Size size)
{
    const double part = (double)magnitude / PAPER_LEVELS;
    switch (kind) {
    case PIL_SHEAR_X:
    case PIL_SHEAR_Y:
        return negate_or_not(rng, 0.3 * part);
    case PIL_TRANSLATE_X:
        return negate_or_not(rng, floor(TRANSLATE_PART * size.width * part));
    case PIL_TRANSLATE_Y:
        return negate_or_not(rng, floor(TRANSLATE_PART * size.height * part));
    case PIL_ROTATE:
        return negate_or_not(rng, 30.0 * part);
    case PIL_COLOR:
    case PIL_CONTRAST:
    case PIL_BRIGHTNESS:
    case PIL_SHARPNESS:
        return 1.0 + negate_or_not(rng, 0.9 * part);
    case PIL_POSTERIZE:
        return 8.0 - nearbyint(4.0 * part);
    case PIL_SOLARIZE:
        return 256.0 - 256.0 * part;
    default:
        return 0.0;
    }
}

static void draw_autoaugment(Rng *rng, const PolicySpec *spec, Size size, PolicyDraw *out)
{
    const PolicyStep *steps = policy_subpolicies(spec->kind)[rng_below(rng, POLICY_SUBPOLICIES)];
    for (int i = 0; i < 2; i++) {
        if (happens(rng, steps[i].probability)) {
            out->ops[out->n++] =
                (PilOp){.kind = steps[i].kind,
                        .filter = PIL_NEAREST,
                        .fill = {GREY, GREY, GREY},
                        .value = paper_value(rng, steps[i].kind, steps[i].magnitude, size)};
        }
    }
}

/* ---- RandAugment as timm has it ---- */

static double timm_level(Rng *rng, const PolicySpec *spec)
{
    double level = spec->m;
    if (spec->mstd >= POLICY_UNIFORM_MSTD) {
        level *= (double)rng_uniform(rng);
    } else if (spec->mstd > 0.0) {
        level += spec->mstd * rng_normal(rng);
    }
    return fmax(0.0, fmin(level, POLICY_TIMM_LEVELS));
}

/* Bits and thresholds are truncated before they are counted from the other end. */
static double timm_value(Rng *rng, PilKind kind, double level, bool inc, Size size)
{
    const double part = level / POLICY_TIMM_LEVELS;
    switch (kind) {
    case PIL_ROTATE:
        return negate_or_not(rng, part * 30.0);
    case PIL_SHEAR_X:
    case PIL_SHEAR_Y:
        return negate_or_not(rng, part * 0.3);
    case PIL_TRANSLATE_X:
        return negate_or_not(rng, part * 0.45) * size.width;
    case PIL_TRANSLATE_Y:
        return negate_or_not(rng, part * 0.45) * size.height;
    case PIL_COLOR:
    case PIL_CONTRAST:
    case PIL_BRIGHTNESS:
    case PIL_SHARPNESS:
        return inc ? fmax(0.1, 1.0 + negate_or_not(rng, part * 0.9)) : part * 1.8 + 0.1;
    case PIL_POSTERIZE:
        return inc ? 4.0 - floor(part * 4.0) : floor(part * 4.0);
    case PIL_SOLARIZE:
        return inc ? 256.0 - floor(part * 256.0) : floor(part * 256.0);
    case PIL_SOLARIZE_ADD:
        return floor(part * 110.0);
    default:
        return 0.0;
    }
}

static void draw_timm(Rng *rng, const PolicySpec *spec, Size size, PolicyDraw *out)
{
    for (int i = 0; i < spec->n; i++) {
        const PilKind kind = timm_kinds[rng_below(rng, COUNT(timm_kinds))];
        if (happens(rng, APPLY_PROBABILITY)) {
            const PilFilter filter = rng_u32(rng) >> 31 ? PIL_BICUBIC : PIL_BILINEAR;
            const double level = timm_level(rng, spec);
            out->ops[out->n++] = (PilOp){.kind = kind,
                                         .filter = filter,
                                         .fill = {GREY, GREY, GREY},
                                         .value = timm_value(rng, kind, level, spec->inc, size)};
        }
    }
}

/* ---- RandAugment as torchvision has it ---- */

/* Point `i` of torch.linspace(from, to, 31): single precision, from the nearer end. */
static double bin_of(double from, double to, int i)
{
    const float step = ((float)to - (float)from) / (float)POLICY_TORCHVISION_LEVELS;
    const float value = i < (POLICY_TORCHVISION_LEVELS + 1) / 2
                            ? (float)from + step * (float)i
                            : (float)to - step * (float)(POLICY_TORCHVISION_LEVELS - i);
    return (double)value;
}

/* torchvision moves the picture right and down by positive values. */
static double moved(Rng *rng, int side, int bin)
{
    return -trunc(negate_or_not(rng, bin_of(0.0, TRANSLATE_PART * side, bin)));
}

static double torchvision_value(Rng *rng, PilKind kind, int bin, Size size)
{
    switch (kind) {
    case PIL_SHEAR_X:
    case PIL_SHEAR_Y:
        return negate_or_not(rng, bin_of(0.0, 0.3, bin));
    case PIL_TRANSLATE_X:
        return moved(rng, size.width, bin);
    case PIL_TRANSLATE_Y:
        return moved(rng, size.height, bin);
    case PIL_ROTATE:
        return negate_or_not(rng, bin_of(0.0, 30.0, bin));
    case PIL_COLOR:
    case PIL_CONTRAST:
    case PIL_BRIGHTNESS:
    case PIL_SHARPNESS:
        return 1.0 + negate_or_not(rng, bin_of(0.0, 0.9, bin));
    case PIL_POSTERIZE:
        return 8.0 - nearbyint(bin * 4.0 / POLICY_TORCHVISION_LEVELS);
    case PIL_SOLARIZE:
        return bin_of(255.0, 0.0, bin);
    default:
        return 0.0;
    }
}

static void draw_torchvision(Rng *rng, const PolicySpec *spec, Size size, PolicyDraw *out)
{
    for (int i = 0; i < spec->n; i++) {
        const PilKind kind = torchvision_kinds[rng_below(rng, COUNT(torchvision_kinds))];
        out->ops[out->n++] = (PilOp){.kind = kind,
                                     .filter = PIL_NEAREST,
                                     .value = torchvision_value(rng, kind, (int)spec->m, size)};
    }
}

/* ---- All of them ---- */

PolicyDraw policy_draw(const PolicySpec *spec, uint64_t seed, uint32_t epoch, uint32_t sample,
                       int height, int width)
{
    const Size size = {height, width};
    PolicyDraw out = {.n = 0};
    Rng rng = rng_make(seed, epoch, sample, RNG_AUGMENT);
    switch (spec->kind) {
    case POLICY_NONE:
        break;
    case POLICY_AUTOAUGMENT_IMAGENET:
    case POLICY_AUTOAUGMENT_CIFAR10:
        draw_autoaugment(&rng, spec, size, &out);
        break;
    case POLICY_RANDAUGMENT_TIMM:
        draw_timm(&rng, spec, size, &out);
        break;
    case POLICY_RANDAUGMENT_TORCHVISION:
        draw_torchvision(&rng, spec, size, &out);
        break;
    }
    if (spec->cutout > 0) {
        Rng cutout = rng_make(seed, epoch, sample, RNG_CUTOUT);
        out.cut = happens(&cutout, spec->cutout_prob);
        out.cut_x = (int)rng_below(&cutout, (uint32_t)width);
        out.cut_y = (int)rng_below(&cutout, (uint32_t)height);
    }
    return out;
}

void policy_apply(const PolicySpec *spec, const PolicyDraw *draw, uint8_t *image, int height,
                  int width, uint8_t *scratch)
{
    for (int i = 0; i < draw->n; i++) {
        pil_apply(&draw->ops[i], image, height, width, scratch);
    }
    if (draw->cut) {
        pil_cutout(image, height, width, draw->cut_x, draw->cut_y, spec->cutout, spec->cutout_fill);
    }
}
