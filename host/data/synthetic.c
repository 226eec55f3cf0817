/* The drawn data set: one figure (shape, texture, hue: the class) on a patterned background with
 * distractors. All curves are made of polynomials and square roots, so every machine draws the same
 * bytes. */
#include "data/synthetic.h"

#include "base/rng.h"
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A product fused with a sum would round differently. gcc -std=c11 never fuses; clang must be told.
 */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

enum { SIDE = SYNTHETIC_SIDE, OPTION_MAX = 64, MAX_DISTRACTORS = 2 };

/* Above 1/2, so that a few labels (one in twenty or so) are the weaker half of what is seen. */
static const float MAX_SHARE = 0.56f;

typedef struct {
    float r, g, b; /* 0 .. 1 */
} Color;

/* Everything that decides the pixels of one image. */
typedef struct {
    int shape, other_shape;
    int texture, other_texture;
    float share;                       /* of the other class, 0 .. MAX_SHARE */
    float frequency, phase_u, phase_v; /* of the texture, turns a radius and turns */
    Color light, dark;                 /* the texture runs between them */
} Figure;

typedef struct {
    float x, y;         /* centre, pixels */
    float cos_a, sin_a; /* rotation */
    float radius;       /* pixels */
} Pose;

typedef struct {
    Color from, to;
    float wave_x, wave_y, phase; /* turns a pixel, turns */
    float slope_x, slope_y;      /* of the blend, a pixel */
} Background;

typedef struct {
    int shape;
    Pose pose;
    Color color;
    bool in_front;
} Distractor;

/* ---- small mathematics ---- */

static float between(Rng *rng, float low, float high)
{
    return low + (high - low) * rng_uniform(rng);
}

static float clamp01(float x)
{
    return x < 0.0f ? 0.0f : (x > 1.0f ? 1.0f : x);
}

static float fraction(float x)
{
    return x - floorf(x);
}

/* sin(2 pi turns) to about 0.001: a parabola per half turn, bent to fit. */
static float wave(float turns)
{
    const float t = 2.0f * fraction(turns) - 1.0f; /* -1 .. 1, sine of -pi t */
    const float p = 4.0f * t * (fabsf(t) - 1.0f);
    return p * (0.775f + 0.225f * fabsf(p));
}

static Color blend(Color a, Color b, float share)
{
    return (Color){a.r + (b.r - a.r) * share, a.g + (b.g - a.g) * share, a.b + (b.b - a.b) * share};
}

static Color from_hsv(float hue, float saturation, float value)
{
    const float h = 6.0f * fraction(hue);
    const float r = clamp01(fabsf(h - 3.0f) - 1.0f);
    const float g = clamp01(2.0f - fabsf(h - 2.0f));
    const float b = clamp01(2.0f - fabsf(h - 4.0f));
    const float grey = 1.0f - saturation;
    return (Color){value * (grey + saturation * r), value * (grey + saturation * g),
                   value * (grey + saturation * b)};
}

/* ---- shapes: rough signed distance to the outline in radii, negative inside ---- */

static float box(float u, float v, float half_u, float half_v)
{
    return fmaxf(fabsf(u) - half_u, fabsf(v) - half_v);
}

/* Five points: mirrored into one wedge of 36 degrees, where the outline is a straight line. */
static float star(float u, float v)
{
    const float c36 = 0.809017f;
    const float s36 = 0.587785f;
    u = fabsf(u);
    const float first = fmaxf(c36 * u - s36 * v, 0.0f);
    u -= 2.0f * first * c36;
    v += 2.0f * first * s36;
    const float second = fmaxf(-c36 * u - s36 * v, 0.0f);
    u += 2.0f * second * c36;
    v += 2.0f * second * s36;
    u = fabsf(u);
    return 0.77f * u + 0.35f * v - 0.35f;
}

static float shape_distance(int shape, float u, float v)
{
    const float r = sqrtf(u * u + v * v);
    switch (shape) {
    case 0: /* disc */
        return r - 0.85f;
    case 1: /* square */
        return box(u, v, 0.75f, 0.75f);
    case 2: /* triangle */
        return fmaxf(0.866f * fabsf(u) + 0.5f * v, -v) - 0.5f;
    case 3:
        return star(u, v);
    case 4: /* cross */
        return fminf(box(u, v, 0.95f, 0.32f), box(u, v, 0.32f, 0.95f));
    case 5: /* ring */
        return fabsf(r - 0.64f) - 0.26f;
    case 6: { /* crescent */
        const float bite = u - 0.5f;
        return fmaxf(r - 0.9f, 0.68f - sqrtf(bite * bite + v * v));
    }
    default: /* bar */
        return box(u, v, 1.0f, 0.42f);
    }
}

/* ---- textures: 0 (dark) .. 1 (light) over the figure's own coordinates ---- */

static float texture_value(int texture, float u, float v, const Figure *figure)
{
    const float f = figure->frequency;
    const float a = f * u + figure->phase_u;
    const float b = f * v + figure->phase_v;
    switch (texture) {
    case 0: /* plain */
        return 0.8f;
    case 1: /* stripes */
        return clamp01(0.5f + 1.5f * wave(a));
    case 2: /* checkers */
        return clamp01(0.5f + 2.0f * wave(0.7f * a) * wave(0.7f * b));
    case 3: /* dots */
        return clamp01(0.1f + 2.0f * (wave(a) + wave(b) - 0.6f));
    case 4: /* rings */
        return clamp01(0.5f + 1.5f * wave(f * sqrtf(u * u + v * v) + figure->phase_u));
    default: /* zigzag */
        return clamp01(0.5f + 1.5f * wave(a + 0.9f * fabsf(2.0f * fraction(0.8f * b) - 1.0f)));
    }
}

/* ---- what is drawn ---- */

int synthetic_label(const SyntheticConfig *config, uint32_t sample)
{
    return (int)(sample % (uint32_t)config->classes);
}

SyntheticClass synthetic_class(int label)
{
    /* Classes 8k .. 8k+7 differ in shape; the step k moves texture and hue. 96 combinations
     * differ. */
    const int shape = label % SYNTHETIC_SHAPES;
    const int k = label / SYNTHETIC_SHAPES;
    return (SyntheticClass){shape, (shape + k) % SYNTHETIC_TEXTURES,
                            (shape / 2 + k) % SYNTHETIC_HUES};
}

static bool are_neighbours(int a, int b)
{
    const SyntheticClass x = synthetic_class(a);
    const SyntheticClass y = synthetic_class(b);
    return x.shape == y.shape || x.texture == y.texture || x.hue == y.hue;
}

/* A class that shares an attribute with `label`, each equally likely; any other class where none
 * does. */
static int draw_neighbour(Rng *rng, int label, int classes)
{
    int candidates[SYNTHETIC_MAX_CLASSES];
    uint32_t count = 0;
    for (int c = 0; c < classes; c++) {
        if (c != label && are_neighbours(c, label)) {
            candidates[count++] = c;
        }
    }
    return count > 0 ? candidates[rng_below(rng, count)] : (label + 1) % classes;
}

/* Share of the neighbour: mostly small, now and then around one half, where the image belongs to
 * both. */
static float draw_share(Rng *rng)
{
    const float x = rng_uniform(rng);
    return MAX_SHARE * x * x;
}

/* From hue a the shorter way round towards hue b. */
static float blend_hues(int a, int b, float share)
{
    int steps = b - a;
    steps = steps > SYNTHETIC_HUES / 2 ? steps - SYNTHETIC_HUES : steps;
    steps = steps < -SYNTHETIC_HUES / 2 ? steps + SYNTHETIC_HUES : steps;
    return ((float)a + share * (float)steps) / SYNTHETIC_HUES;
}

static Figure draw_figure(Rng *rng, int label, int classes)
{
    const SyntheticClass own = synthetic_class(label);
    const SyntheticClass other = synthetic_class(draw_neighbour(rng, label, classes));
    Figure figure = {.shape = own.shape,
                     .other_shape = other.shape,
                     .texture = own.texture,
                     .other_texture = other.texture,
                     .share = draw_share(rng)};
    figure.frequency = between(rng, 1.1f, 1.7f);
    figure.phase_u = rng_uniform(rng);
    figure.phase_v = rng_uniform(rng);
    /* Hues lie a quarter turn apart. */
    const float spread = between(rng, -0.06f, 0.06f) + between(rng, -0.06f, 0.06f);
    const float hue = blend_hues(own.hue, other.hue, figure.share) + spread;
    /* One draw a statement: C does not say in which order arguments are evaluated. */
    const float light_saturation = between(rng, 0.3f, 0.9f);
    const float light_value = between(rng, 0.65f, 1.0f);
    const float dark_hue = hue + between(rng, -0.08f, 0.08f);
    const float dark_saturation = between(rng, 0.2f, 0.9f);
    const float dark_value = between(rng, 0.1f, 0.45f);
    figure.light = from_hsv(hue, light_saturation, light_value);
    figure.dark = from_hsv(dark_hue, dark_saturation, dark_value);
    return figure;
}

static Pose draw_pose(Rng *rng, float centre_spread, float min_radius, float max_radius,
                      float max_slope)
{
    Pose pose;
    const float centre = 0.5f * (SIDE - 1);
    pose.x = centre + between(rng, -centre_spread, centre_spread);
    pose.y = centre + between(rng, -centre_spread, centre_spread);
    pose.radius = between(rng, min_radius, max_radius);
    /* A rotation from the half-angle's tangent: exact, without sine and cosine. */
    const float t = between(rng, -max_slope, max_slope);
    pose.cos_a = (1.0f - t * t) / (1.0f + t * t);
    pose.sin_a = 2.0f * t / (1.0f + t * t);
    return pose;
}

static Color draw_color(Rng *rng)
{
    const float hue = rng_uniform(rng);
    const float saturation = between(rng, 0.0f, 0.8f);
    return from_hsv(hue, saturation, between(rng, 0.1f, 0.95f));
}

static Background draw_background(Rng *rng)
{
    Background back;
    back.from = draw_color(rng);
    back.to = draw_color(rng);
    back.wave_x = between(rng, -0.1f, 0.1f);
    back.wave_y = between(rng, -0.1f, 0.1f);
    back.phase = rng_uniform(rng);
    back.slope_x = between(rng, -0.03f, 0.03f);
    back.slope_y = between(rng, -0.03f, 0.03f);
    return back;
}

static int draw_distractors(Rng *rng, Distractor *items)
{
    const int count = (int)rng_below(rng, MAX_DISTRACTORS + 1);
    for (int i = 0; i < count; i++) {
        items[i].shape = (int)rng_below(rng, SYNTHETIC_SHAPES);
        items[i].pose = draw_pose(rng, 15.0f, 2.0f, 4.0f, 1.0f);
        items[i].color = draw_color(rng);
        items[i].in_front = rng_below(rng, 2) != 0;
    }
    return count;
}

/* ---- pixels ---- */

static void to_local(const Pose *pose, int x, int y, float *u, float *v)
{
    const float dx = ((float)x - pose->x) / pose->radius;
    const float dy = ((float)y - pose->y) / pose->radius;
    *u = pose->cos_a * dx + pose->sin_a * dy;
    *v = pose->cos_a * dy - pose->sin_a * dx;
}

/* Share of the pixel that an outline at this distance covers. */
static float coverage(float distance, const Pose *pose)
{
    return clamp01(0.5f - distance * pose->radius);
}

static Color paint_distractors(Color under, const Distractor *items, int count, bool in_front,
                               int x, int y)
{
    for (int i = 0; i < count; i++) {
        if (items[i].in_front == in_front) {
            float u;
            float v;
            to_local(&items[i].pose, x, y, &u, &v);
            const float cover = coverage(shape_distance(items[i].shape, u, v), &items[i].pose);
            under = blend(under, items[i].color, cover);
        }
    }
    return under;
}

static Color paint_figure(Color under, const Figure *figure, const Pose *pose, int x, int y)
{
    float u;
    float v;
    to_local(pose, x, y, &u, &v);
    const float own = shape_distance(figure->shape, u, v);
    const float other = shape_distance(figure->other_shape, u, v);
    const float cover = coverage(own + (other - own) * figure->share, pose);
    if (cover <= 0.0f) {
        return under;
    }
    const float value = texture_value(figure->texture, u, v, figure);
    const float foreign = texture_value(figure->other_texture, u, v, figure);
    const float mixed = value + (foreign - value) * figure->share;
    return blend(under, blend(figure->dark, figure->light, mixed), cover);
}

static Color paint_background(const Background *back, int x, int y)
{
    const float fx = (float)x;
    const float fy = (float)y;
    const float share = 0.5f + 0.45f * wave(back->wave_x * fx + back->wave_y * fy + back->phase) +
                        back->slope_x * (fx - 0.5f * SIDE) + back->slope_y * (fy - 0.5f * SIDE);
    return blend(back->from, back->to, clamp01(share));
}

static uint8_t to_byte(float x)
{
    return (uint8_t)(255.0f * clamp01(x) + 0.5f);
}

void synthetic_draw(const SyntheticConfig *config, Split split, uint32_t sample, uint8_t *rgb)
{
    const int label = synthetic_label(config, sample);
    Rng rng = rng_make(config->seed, split == SPLIT_TRAIN ? 0 : 1, sample, RNG_SYNTH);
    const Figure figure = draw_figure(&rng, label, config->classes);
    const Pose pose = draw_pose(&rng, 4.0f, 8.0f, 13.0f, 0.3f);
    const Background back = draw_background(&rng);
    Distractor distractors[MAX_DISTRACTORS];
    const int count = draw_distractors(&rng, distractors);
    const float gain = between(&rng, 0.7f, 1.1f);
    const float noise = between(&rng, 0.02f, 0.08f);
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            Color color = paint_background(&back, x, y);
            color = paint_distractors(color, distractors, count, false, x, y);
            color = paint_figure(color, &figure, &pose, x, y);
            color = paint_distractors(color, distractors, count, true, x, y);
            /* Ten bits a channel from one draw. */
            const uint32_t bits = rng_u32(&rng);
            const float scale = 2.0f * noise / 1023.0f;
            *rgb++ = to_byte(gain * color.r + (float)(bits & 1023u) * scale - noise);
            *rgb++ = to_byte(gain * color.g + (float)(bits >> 10 & 1023u) * scale - noise);
            *rgb++ = to_byte(gain * color.b + (float)(bits >> 20 & 1023u) * scale - noise);
        }
    }
}

/* ---- the set ---- */

SyntheticConfig synthetic_default(void)
{
    return (SyntheticConfig){.classes = 20, .train = 5000, .test = 2500, .seed = 1};
}

static Err *parse_number(const char *key, const char *value, uint64_t low, uint64_t high,
                         uint64_t *out)
{
    char *end = NULL;
    errno = 0;
    const uint64_t number = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end || errno || number < low || number > high) {
        return err_new(EXIT_CONFIG_ERR,
                       "data synthetic: %s=%s; it must be a whole number from %llu to %llu", key,
                       value, (unsigned long long)low, (unsigned long long)high);
    }
    *out = number;
    return NULL;
}

static Err *parse_option(char *option, SyntheticConfig *config)
{
    char *equals = strchr(option, '=');
    if (!equals) {
        return err_new(EXIT_CONFIG_ERR,
                       "data synthetic: '%s' is not key=value; keys are classes, train, test, seed",
                       option);
    }
    *equals = '\0';
    const char *value = equals + 1;
    uint64_t number = 0;
    if (!strcmp(option, "classes")) {
        TRY(parse_number(option, value, 2, SYNTHETIC_MAX_CLASSES, &number));
        config->classes = (int)number;
    } else if (!strcmp(option, "train")) {
        TRY(parse_number(option, value, 1, SYNTHETIC_MAX_COUNT, &number));
        config->train = (uint32_t)number;
    } else if (!strcmp(option, "test")) {
        TRY(parse_number(option, value, 1, SYNTHETIC_MAX_COUNT, &number));
        config->test = (uint32_t)number;
    } else if (!strcmp(option, "seed")) {
        TRY(parse_number(option, value, 0, UINT64_MAX, &config->seed));
    } else {
        return err_new(EXIT_CONFIG_ERR,
                       "data synthetic: unknown key '%s'; keys are classes, train, test, seed",
                       option);
    }
    return NULL;
}

Err *synthetic_parse(const char *options, SyntheticConfig *out)
{
    *out = synthetic_default();
    const char *at = options ? options : "";
    while (*at) {
        const size_t length = strcspn(at, ",");
        char option[OPTION_MAX];
        if (length >= sizeof option) {
            return err_new(EXIT_CONFIG_ERR, "data synthetic: '%.*s' is too long for key=value",
                           (int)length, at);
        }
        memcpy(option, at, length);
        option[length] = '\0';
        TRY(parse_option(option, out));
        at += length + (at[length] == ',');
    }
    return NULL;
}

static char *class_name(int label)
{
    static const char *const shapes[SYNTHETIC_SHAPES] = {"disc",  "square", "triangle", "star",
                                                         "cross", "ring",   "crescent", "bar"};
    static const char *const textures[SYNTHETIC_TEXTURES] = {"plain",  "striped", "checkered",
                                                             "dotted", "ringed",  "zigzag"};
    static const char *const hues[SYNTHETIC_HUES] = {"red", "green", "cyan", "violet"};
    const SyntheticClass own = synthetic_class(label);
    return xformat("%s %s %s", hues[own.hue], textures[own.texture], shapes[own.shape]);
}

Err *synthetic_open(const SyntheticConfig *config, Split split, Dataset **out)
{
    CHECK(config->classes >= 2 && config->classes <= SYNTHETIC_MAX_CLASSES, "%d classes",
          config->classes);
    char *source = xformat("synthetic:classes=%d,train=%u,test=%u,seed=%llu", config->classes,
                           config->train, config->test, (unsigned long long)config->seed);
    const uint32_t count = split == SPLIT_TRAIN ? config->train : config->test;
    Dataset *dataset = dataset_new("synthetic", source, split, count, config->classes, SIDE, SIDE);
    free(source);
    for (int c = 0; c < config->classes; c++) {
        dataset->class_names[c] = class_name(c);
    }
    const size_t image_size = dataset_image_size(dataset);
    for (uint32_t i = 0; i < count; i++) {
        dataset->labels[i] = synthetic_label(config, i);
        synthetic_draw(config, split, i, dataset->images + i * image_size);
    }
    dataset_seal(dataset);
    *out = dataset;
    return NULL;
}
