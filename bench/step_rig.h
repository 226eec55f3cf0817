/* A training step, or a teacher's forward pass, ready to be run over and over on a backend: what bench_step times.
 *
 * Life cycle: step_rig_open, which puts weights and images where the device reads them; step_rig_run for index 0, 1, 2, ...;
 * step_rig_sync; step_rig_close. A run is submitted and not waited for. Index 0 is the first step of a training (the
 * momentum begins there) and always runs plainly; with `capture` index 1 is recorded and all from it on are replays. Not for
 * several threads. */
#ifndef CUDISTILL_BENCH_STEP_RIG_H
#define CUDISTILL_BENCH_STEP_RIG_H

#include "backend/exec.h"

typedef enum { RIG_AUTO, RIG_ON, RIG_OFF } RigSwitch;

typedef struct {
    const char *student; /* NULL: the teacher's forward pass alone */
    const char *teacher; /* NULL: cross entropy alone */
    const char *device;  /* as backend_open */
    int threads;         /* 0 = as the environment says */
    bool deterministic;  /* nothing is timed: the same algorithms in every process */
    int batch;
    DType act;         /* fp16: with a dynamic loss scale, as in training */
    RigSwitch capture; /* auto: where the backend records */
    /* Images lie on the device: a step makes its batch there, cropped and mirrored, as a training with a resident set does;
     * a forward pass alone takes the same batch every time. Off: batches are uploaded. auto: on cuda */
    RigSwitch resident;
    bool time_steps; /* exec_times has seconds by node; no recording then */
} RigOptions;

/* Bytes of device memory by owner. */
typedef struct {
    size_t parameters, gradients, momentum, state; /* of both networks; fp32 */
    size_t activations, persistent, inputs, workspace;
    size_t copies;   /* of all parameters in the 16-bit type, on cuda */
    size_t prepared; /* packed weights, constants of steps; 0 where the backend does not tell */
    /* By the device's own count, since before the backend was opened; 0 where it cannot be asked. Code and buffers of
     * libraries are in it, the driver's context is not. */
    size_t device_growth;
} RigMemory;

typedef struct StepRig StepRig;

/* Errors: unknown or unequal networks, a device that cannot be had or does not have the type, memory. */
Err *step_rig_open(const RigOptions *options, StepRig **out);
void step_rig_close(StepRig *rig); /* accepts NULL */
void step_rig_run(StepRig *rig, long index);
void step_rig_sync(StepRig *rig);

/* Mean loss of the last step's batch; of a forward pass alone the mean logit. Waits. */
double step_rig_loss(StepRig *rig);
/* The loss scale after the last step; 0 = none. Waits. */
double step_rig_loss_scale(StepRig *rig);
RigMemory step_rig_memory(const StepRig *rig);
/* Multiply-adds times two of one image, direct form: forward once, with a student three times its forward pass more. */
double step_rig_flops(const StepRig *rig);
int step_rig_size(const StepRig *rig); /* pixels of a side */
bool step_rig_captured(const StepRig *rig);
bool step_rig_resident(const StepRig *rig);
void step_rig_info(const StepRig *rig, DeviceInfo *info);
/* Executor of the step (0) and of the update (1, NULL without a student). */
const Exec *step_rig_exec(const StepRig *rig, int which);

#endif
