/* One training run: everything that is open while it lasts, and the state that a checkpoint holds.
 *
 * run_open opens and wires (settings, data, backend, networks, graphs); run_prepare does what comes before step 1
 * (resume, teacher check, preparatory passes); train (train.h) is the loop; run_close frees all. */
#ifndef CUDISTILL_TRAIN_RUN_H
#define CUDISTILL_TRAIN_RUN_H

#include "distill/objective.h"
#include "io/progress.h"
#include "train/evaluate.h"
#include "train/feed.h"
#include "train/metrics.h"
#include "train/nets.h"
#include "train/settings.h"
#include "train/store.h"

/* What computes a run, as text. The types of the activations must stay the same over all its parts; another backend or
 * library is a warning. */
typedef struct {
    char student_act[16], teacher_act[16]; /* dtype_name; teacher "": none */
    char backend[16];
    char library[64]; /* with its version and instruction set */
} Arithmetic;

enum { NORM_RING = 130 };

/* What a checkpoint holds besides weights and momentum. Exact: doubles are written with 17 digits. */
typedef struct {
    long step;         /* finished */
    uint32_t epoch;    /* from 0; where the next batch comes from */
    uint32_t position; /* samples of the epoch already used */
    float theta[2];    /* energy thresholds */
    bool has_theta;
    float loss_scale[LOSS_SCALE_FIELDS]; /* scale, good steps; {1, 0} without one */
    int nonfinite_streak; /* steps in a row whose update was skipped with the loss scale at its lowest */
    long nonfinite_total; /* updates skipped, those that only lowered the loss scale too */
    /* The gradient's norm at step n (from 0) in norms[n % NORM_RING]; <= 0: none, or it was not finite */
    float norms[NORM_RING];
    Meter epoch_meter;                                 /* of the epoch in progress */
    double best_top1, last_top1, last_top5, last_loss; /* percent; < 0: none yet */
    uint32_t best_epoch, last_epoch;                   /* from 1 */
    double teacher_top1, teacher_top5;                 /* percent, < 0: no teacher */
    double agreement;     /* percent of the test set in the last evaluation, < 0: unknown */
    double train_seconds; /* wall time in training steps over all parts of the run */
    long train_images;
    char dataset_hash[DATASET_HASH_CHARS];
    char teacher_hash[DATASET_HASH_CHARS];
    int threads;
    Arithmetic arithmetic;
} RunState;

enum { FLIGHTS = 2 };

/* What a step reads from the host and leaves there, in memory that the device reaches: a replayed step does so again at
 * the same addresses. */
typedef struct {
    float hyper[HYPER_COUNT];
    ExecScalars phases[PROGRAM_MAX_PHASES], update;
    int32_t cursor[CURSOR_FIELDS];
    float sums[SUM_FIELDS];
    float grad_stats[2];
    float loss_scale[LOSS_SCALE_FIELDS];
} StepMemory;

/* A step between its submission and the look at its sums. */
typedef struct {
    const Batch *batch; /* NULL: none */
    long step;
    StepMemory *memory;
    int event;
} Flight;

/* A step recorded once and replayed: all that is submitted for `rows` rows, on one flight, with one set of phases. */
typedef struct {
    int rows, flight;
    unsigned phases;
    int recording; /* NOT_RECORDED: it has run once */
} Capture;
enum { MAX_CAPTURES = 16, NOT_RECORDED = -1 };

typedef struct TeacherTable TeacherTable;
typedef struct PhaseClock PhaseClock;

/* For decisions by time: what things took when they last happened, seconds; 0 = not yet. */
typedef struct {
    double begun; /* now_s() when the process began this part of the run */
    double step, evaluation, save;
    double mean_step; /* smoothed */
} RunTimes;
typedef struct Records Records; /* records.h */

typedef struct {
    const Settings *settings; /* the caller's, or `renamed` */
    Settings renamed;         /* with `folder` as `out`, where --resume never chose another one */
    char *folder;             /* NULL: as the caller said */
    Dataset *train_set, *test_set;
    Backend *backend;
    Choices choices;
    Params params;
    Store store;
    NetSpec teacher, student;
    Objective objective;
    Exec *step, *update, *eval;
    void *scratch[2]; /* ACT and WORKSPACE of these three */
    void *shared;     /* ARENA_SHARED: the loss scale */
    bool dry;         /* nothing runs: for sizes only */
    LossScaling scaling;
    StepGraph wiring; /* of `step` */
    Feed *feed;
    TeacherTable *table; /* NULL: the teacher runs in the step */
    bool table_filled;   /* for table_epoch */
    uint32_t table_epoch;
    bool capture; /* steps are recorded and replayed */
    Capture captures[MAX_CAPTURES];
    int n_captures;
    Records *records;
    RunState state;
    Flight flights[FLIGHTS]; /* of step n: flights[n % FLIGHTS] */
    long landed;             /* the last step whose sums are in the meters */
    Meter interval;          /* since the last progress line */
    PhaseClock *clock;       /* train/phases.h */
    Progress *progress;      /* NULL: none */
    RunTimes times;
    double lr; /* of the last step submitted */
    int lock_fd;
    int save_failures; /* checkpoints in a row that could not be written */
    bool resumed;
} Run;

/* Bytes of one batch of images etc. are derived from train_set. Errors leave *run ready for run_close. */
Err *run_open(const Settings *settings, Resume resume, Run *run);
Err *run_prepare(Run *run);
/* A dry run: as run_open for data sets that need have no images (their ownership passes to the run), and nothing on disk
 * is read or made, no device memory taken. described: JSON of a device that is not here (BackendOptions), or NULL. */
Err *run_plan(const Settings *settings, Dataset *train_set, Dataset *test_set,
              const char *described, Run *run);
void run_close(Run *run);
/* No step is left: all epochs are done, or train.max_steps is reached. */
bool run_finished(const Run *run);

/* state.c: the checkpoint of a run. */
Err *run_save(Run *run);
/* Reads state.json (and choices, threads) of the newest checkpoint, before the backend is opened; *checkpoint = its
 * folder, or NULL when there is none; caller frees. EXIT_CONFIG_ERR when the configuration or the training set differs
 * in what decides the result, EXIT_BAD_DATA when the file lacks something. */
Err *run_read_state(Run *run, Resume resume, char **checkpoint);
/* Whether the run's folder holds checkpoints, damaged ones too. Changes nothing. */
Err *run_has_checkpoints(const Run *run, bool *found);
/* The student's weights as DIR/NAME, for other programs and as a teacher. */
Err *run_save_student(const Run *run, const char *dir, const char *name);
/* Loads weights and momentum of `checkpoint` into the open store. */
Err *run_load_weights(Run *run, const char *checkpoint);

#endif
