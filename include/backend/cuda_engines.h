/* What cuda_plans.c needs of cuDNN: the engines that it proposes for a convolution, and plans made of them. Implemented by
 * host/backend/cuda_cudnn.c on the library (the only file with cudnn.h) and under emulation by tests/emu/cudnn_by_ref.c
 * with plain loops. See cuda_cudnn.h for what plans compute.
 *
 * Life cycle: engines_open; lists and plans; plans and lists freed before engines_close. One thread. */
#ifndef CUDISTILL_BACKEND_CUDA_ENGINES_H
#define CUDISTILL_BACKEND_CUDA_ENGINES_H

#include "backend/cuda_cudnn.h"

typedef struct Engines Engines;
typedef struct EngineList EngineList;
typedef struct EnginePlan EnginePlan;

enum { ENGINE_NAME_MAX = 160, ENGINE_REASON_MAX = 400 };

typedef struct {
    int choice;    /* a number that means the same engine for the same spec, library and device */
    bool compiled; /* at run time: 0.3 to 2 s */
    char name[ENGINE_NAME_MAX];
} EngineInfo;

/* Tensors of a plan. The numbers travel through serialized plans. */
typedef enum {
    UID_X = 1,
    UID_W,
    UID_Y,
    UID_BIAS,
    UID_RESIDUAL,
    UID_SCALE,
    UID_SHIFT,
    UID_SUM,
    UID_SQUARE_SUM,
    UID_MEAN,
    UID_INVSTD,
    UID_GAMMA,
    UID_BETA,
    UID_BN_X,
    UID_EQ_DY, /* of BN_BWD_WEIGHTS: coefficients of dx = a*dy + b*x + c, not used */
    UID_EQ_X,
    UID_EQ_BIAS,
    UID_COUNT,
    UID_VIRTUAL = 100
} Uid;

/* What an execution binds: pure functions of the spec (cuda_bindings.c). Vectors that a graph gives and nobody reads
 * (unused statistics, coefficients) are bound to `extra`, memory behind the library's own workspace. */
typedef struct {
    int64_t uids[UID_COUNT];
    void *pointers[UID_COUNT];
    int count;
} EngineBindings;
EngineBindings engine_bindings(const CudnnConvSpec *spec, bool unused_stats,
                               const CudnnConvArgs *args, char *extra);
size_t engine_extra_bytes(const CudnnConvSpec *spec, bool unused_stats);
size_t engine_align(size_t bytes);

/* described: see cudnn_context_open. */
Err *engines_open(const char *described, Engines **out);
void engines_close(Engines *engines);
/* "cuDNN 9.19.0" */
void engines_library(char *text, size_t size);
/* Text that is the same for equal devices. */
void engines_device(const Engines *engines, char *text, size_t size);
bool engines_can_run(const Engines *engines); /* a real device */

/* Best first; those that cuda_cudnn.h leaves out are not in it. reason: why it is empty. */
EngineList *engine_list(Engines *engines, const CudnnConvSpec *spec, bool deterministic,
                        char reason[ENGINE_REASON_MAX]);
int engine_list_count(const EngineList *list);
const EngineInfo *engine_list_info(const EngineList *list, int i);
void engine_list_free(EngineList *list);

/* NULL and the reason when the engine turns out not to take the spec. */
EnginePlan *engine_build(Engines *engines, const EngineList *list, int i,
                         char reason[ENGINE_REASON_MAX]);
/* Plan from what engine_store gave; NULL when the library does not take it. */
EnginePlan *engine_load(Engines *engines, const CudnnConvSpec *spec, int choice, const char *data,
                        size_t size);
/* Caller frees; NULL when the library cannot. */
char *engine_store(const EnginePlan *plan, size_t *size);
size_t engine_workspace(const EnginePlan *plan);
int engine_run(Engines *engines, const EnginePlan *plan, KernelStream stream,
               const CudnnConvArgs *args);
void engine_free(EnginePlan *plan); /* accepts NULL */

#endif
