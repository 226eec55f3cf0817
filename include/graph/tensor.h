/* Element types, parameters and arenas. A network's parameters are built once, apart from its graphs:
 * a graph refers to them by index and runs on a Base (master weights, EMA, a perturbed copy). */
#ifndef CUDISTILL_GRAPH_TENSOR_H
#define CUDISTILL_GRAPH_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { DT_F32, DT_BF16, DT_F16, DT_F64, DT_I32, DT_U8, DT_COUNT } DType;
size_t dtype_size(DType dtype);
const char *dtype_name(DType dtype);
double dtype_eps(
    DType dtype); /* distance from 1 to the next value: 2^-23, 2^-7, 2^-10, 2^-52; 0 for integers */
/* Element i of an array as a double, and back: to nearest even (F32, F64 in one rounding, 16-bit types by way of
 * float); integer types hold whole numbers. */
double dtype_load(DType dtype, const void *base, size_t i);
void dtype_store(DType dtype, void *base, size_t i, double value);

/* Where memory lives. The address of a tensor is arena base + offset; tensors own nothing. */
typedef enum {
    ARENA_NONE, /* not placed (fused away) */
    ARENA_WEIGHT, /* trainable parameters; with ARENA_GRAD and the optimizer's arenas: equal element offsets */
    ARENA_GRAD,   /* their gradients, fp32 (F64 in double graphs) */
    ARENA_FROZEN, /* parameters that are not trained (a teacher) */
    ARENA_STATE,  /* running mean and variance of batch norm, all networks */
    ARENA_ACT, /* activations and scratch: offsets by lifetime, shared by all graphs that do not run at once */
    ARENA_PERSIST, /* outlives a run of the graph: folded weights, tapped tensors, outputs; one per graph */
    ARENA_IO,        /* inputs that the host uploads, DynScalars; one per batch slot */
    ARENA_WORKSPACE, /* scratch of one step: max over steps */
    ARENA_SHARED,    /* a few values that several graphs of a run read and write: the loss scale */
    ARENA_COUNT
} Arena;

typedef enum {
    ROLE_CONV_WEIGHT,   /* logical O,I,Kh,Kw; stored O,Kh,Kw,I (I = channels per group) */
    ROLE_LINEAR_WEIGHT, /* logical O,I; stored so */
    ROLE_BIAS,
    ROLE_BN_WEIGHT,
    ROLE_BN_BIAS,
    ROLE_RUNNING_MEAN, /* ARENA_STATE */
    ROLE_RUNNING_VAR   /* ARENA_STATE */
} ParamRole;

typedef enum { INIT_ZERO, INIT_ONE, INIT_NORMAL, INIT_UNIFORM } InitKind;

enum { PARAM_NAME_MAX = 120 };

typedef struct {
    char name
        [PARAM_NAME_MAX]; /* ecosystem's name, under the network's prefix: "student.layer1.0.conv1.weight" */
    ParamRole role;
    int ndim;
    int shape[4]; /* logical, PyTorch's order */
    size_t count; /* elements */
    bool trainable;
    Arena arena; /* WEIGHT, FROZEN or STATE */
    /* Elements from the arena's base, set by params_finish; multiples of 16. The gaps between parameters hold zeros in
     * every arena (memory is zeroed when it is allocated): the flat optimizer kernels run over them. */
    size_t offset;
    InitKind init;
    double init_scale; /* standard deviation of NORMAL, half-width of UNIFORM */
} Param;

typedef struct {
    Param *items;
    int count;
    size_t capacity;
    size_t arena_elems[ARENA_COUNT]; /* elements of WEIGHT, FROZEN, STATE (set by params_finish) */
} Params;

/* Adds a parameter, returns its index. Role decides the arena together with `trainable`. Ends the process on a
 * duplicate name (a bug in a model). */
int params_add(Params *params, const char *name, ParamRole role, int ndim, const int *shape,
               bool trainable, InitKind init, double init_scale);
/* Gives every parameter its offset, in reverse order of registration, so that gradients become ready front to back
 * in backward and an all-reduce bucket is a slice. Call once, after all networks are built. */
void params_finish(Params *params);
int params_find(const Params *params, const char *name); /* -1 when absent */
void params_free(Params *params);
/* Draws initial values with Philox(seed, 0, hash of the name without prefix, RNG_INIT) into float arenas; only
 * names that begin with `prefix`. */
void params_init(const Params *params, const char *prefix, uint64_t seed,
                 float *const arena[ARENA_COUNT]);
/* Trainable-or-frozen parameters (not running statistics) under `prefix`: the published count of a network. */
size_t params_count(const Params *params, const char *prefix);

#endif
