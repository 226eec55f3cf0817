/* Element types and the parameter list. Parameters are few (some hundreds), so look-ups are linear
 * scans and the list is one array; offsets are given once all networks have registered theirs. */
#include "graph/tensor.h"

#include "base/err.h"
#include "base/half.h"
#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

/* 16 floats are one 64-byte line: every parameter starts aligned in fp32, and at 32 bytes in 16-bit
 * copies. */
enum { PARAM_ALIGN = 16 };

size_t dtype_size(DType dtype)
{
    switch (dtype) {
    case DT_F32:
    case DT_I32:
        return 4;
    case DT_BF16:
    case DT_F16:
        return 2;
    case DT_F64:
        return 8;
    case DT_U8:
        return 1;
    case DT_COUNT:
        break;
    }
    CHECK(false, "no such element type: %d", (int)dtype);
}

const char *dtype_name(DType dtype)
{
    static const char *const names[DT_COUNT] = {"f32", "bf16", "f16", "f64", "i32", "u8"};
    CHECK(dtype >= 0 && dtype < DT_COUNT, "no such element type: %d", (int)dtype);
    return names[dtype];
}

double dtype_eps(DType dtype)
{
    switch (dtype) {
    case DT_F32:
        return 0x1p-23;
    case DT_BF16:
        return 0x1p-7;
    case DT_F16:
        return 0x1p-10;
    case DT_F64:
        return 0x1p-52;
    default:
        return 0.0;
    }
}

double dtype_load(DType dtype, const void *base, size_t i)
{
    switch (dtype) {
    case DT_F32:
        return ((const float *)base)[i];
    case DT_BF16:
        return bf16_to_float(((const bf16 *)base)[i]);
    case DT_F16:
        return fp16_to_float(((const fp16 *)base)[i]);
    case DT_F64:
        return ((const double *)base)[i];
    case DT_I32:
        return ((const int32_t *)base)[i];
    case DT_U8:
        return ((const uint8_t *)base)[i];
    case DT_COUNT:
        break;
    }
    CHECK(false, "no such element type: %d", (int)dtype);
}

void dtype_store(DType dtype, void *base, size_t i, double value)
{
    switch (dtype) {
    case DT_F32:
        ((float *)base)[i] = (float)value;
        return;
    case DT_BF16:
        ((bf16 *)base)[i] = bf16_from_float((float)value);
        return;
    case DT_F16:
        ((fp16 *)base)[i] = fp16_from_float((float)value);
        return;
    case DT_F64:
        ((double *)base)[i] = value;
        return;
    case DT_I32:
        ((int32_t *)base)[i] = (int32_t)value;
        return;
    case DT_U8:
        ((uint8_t *)base)[i] = (uint8_t)value;
        return;
    case DT_COUNT:
        break;
    }
    CHECK(false, "no such element type: %d", (int)dtype);
}

static Arena role_arena(ParamRole role, bool trainable)
{
    if (role == ROLE_RUNNING_MEAN || role == ROLE_RUNNING_VAR) {
        return ARENA_STATE;
    }
    return trainable ? ARENA_WEIGHT : ARENA_FROZEN;
}

static int role_ndim(ParamRole role)
{
    switch (role) {
    case ROLE_CONV_WEIGHT:
        return 4;
    case ROLE_LINEAR_WEIGHT:
        return 2;
    default:
        return 1;
    }
}

int params_add(Params *params, const char *name, ParamRole role, int ndim, const int *shape,
               bool trainable, InitKind init, double init_scale)
{
    CHECK(strlen(name) < PARAM_NAME_MAX, "parameter name '%s' is longer than %d characters", name,
          PARAM_NAME_MAX - 1);
    CHECK(params_find(params, name) < 0, "parameter '%s' is registered twice", name);
    CHECK(ndim == role_ndim(role), "parameter '%s' has %d dimensions, its role has %d", name, ndim,
          role_ndim(role));
    params->items =
        xgrow(params->items, &params->capacity, (size_t)params->count + 1, sizeof params->items[0]);
    Param *p = &params->items[params->count];
    memset(p, 0, sizeof *p);
    memcpy(p->name, name, strlen(name) + 1);
    p->role = role;
    p->ndim = ndim;
    p->count = 1;
    for (int i = 0; i < ndim; i++) {
        CHECK(shape[i] > 0, "parameter '%s' has the size %d in dimension %d", name, shape[i], i);
        p->shape[i] = shape[i];
        p->count *= (size_t)shape[i];
    }
    p->arena = role_arena(role, trainable);
    p->trainable = trainable && p->arena == ARENA_WEIGHT;
    p->init = init;
    p->init_scale = init_scale;
    return params->count++;
}

void params_finish(Params *params)
{
    memset(params->arena_elems, 0, sizeof params->arena_elems);
    for (int i = params->count - 1; i >= 0; i--) {
        Param *p = &params->items[i];
        p->offset = params->arena_elems[p->arena];
        params->arena_elems[p->arena] += (p->count + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN;
    }
    params->arena_elems[ARENA_GRAD] = params->arena_elems[ARENA_WEIGHT];
}

int params_find(const Params *params, const char *name)
{
    for (int i = 0; i < params->count; i++) {
        if (strcmp(params->items[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

void params_free(Params *params)
{
    free(params->items);
    memset(params, 0, sizeof *params);
}

/* FNV-1a, 64 bits: the draw of a parameter depends on its name, not on what else was registered. */
static uint64_t name_hash(const char *name)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (const char *c = name; *c != '\0'; c++) {
        hash = (hash ^ (uint8_t)*c) * 0x100000001B3u;
    }
    return hash;
}

static void param_draw(const Param *p, const char *short_name, uint64_t seed, float *values)
{
    /* Philox streams of different purposes are distinct for sample numbers below 2^56. */
    Rng rng = rng_make(seed, 0, name_hash(short_name) & 0xFFFFFFFFFFFFFFu, RNG_INIT);
    for (size_t i = 0; i < p->count; i++) {
        switch (p->init) {
        case INIT_ZERO:
            values[i] = 0.0f;
            break;
        case INIT_ONE:
            values[i] = 1.0f;
            break;
        case INIT_NORMAL:
            values[i] = (float)(p->init_scale * rng_normal(&rng));
            break;
        case INIT_UNIFORM:
            values[i] = (float)((2.0 * (double)rng_uniform(&rng) - 1.0) * p->init_scale);
            break;
        }
    }
}

void params_init(const Params *params, const char *prefix, uint64_t seed,
                 float *const arena[ARENA_COUNT])
{
    const size_t prefix_len = strlen(prefix);
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->items[i];
        if (strncmp(p->name, prefix, prefix_len) != 0) {
            continue;
        }
        CHECK(arena[p->arena] != NULL, "no memory was given for the arena of parameter '%s'",
              p->name);
        param_draw(p, p->name + prefix_len, seed, arena[p->arena] + p->offset);
    }
}

size_t params_count(const Params *params, const char *prefix)
{
    const size_t prefix_len = strlen(prefix);
    size_t count = 0;
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->items[i];
        if (p->arena != ARENA_STATE && strncmp(p->name, prefix, prefix_len) == 0) {
            count += p->count;
        }
    }
    return count;
}
