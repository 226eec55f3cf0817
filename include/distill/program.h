/* What an objective asks of the training loop, as data: the phases of one step, and the passes over
 * the training set that come before step 1. Only `train` executes phases; no method's name appears
 * there.
 *
 * A step runs its phases in order, each on a batch of its own, then the optimizer once. Gradients
 * of phases are summed: the first writes, later ones add. Plain values, owned by the Objective. */
#ifndef CUDISTILL_DISTILL_PROGRAM_H
#define CUDISTILL_DISTILL_PROGRAM_H

enum { PROGRAM_MAX_PHASES = 8, OBJECTIVE_MAX_PREPARATIONS = 2 };

/* Networks that run in a phase, as a set. The teacher always runs in inference. */
enum { PHASE_TEACHER = 1, PHASE_STUDENT = 2 };

typedef enum {
    BATCH_STREAM, /* the step's batch of the training stream */
    /* Every batch of one pass over the training set: augmented and shuffled as in training, an
     * incomplete last batch left out. */
    BATCH_PASS
} BatchSource;

typedef enum {
    PHASE_BN_UPDATE, /* batch statistics, running ones updated */
    PHASE_BN_FROZEN, /* batch statistics, running ones left */
    PHASE_BN_EVAL    /* running statistics */
} PhaseBn;

typedef enum {
    GRADIENT_NONE,  /* forward only */
    GRADIENT_WRITE, /* the gradient arena is overwritten */
    GRADIENT_ADD    /* added to */
} GradientMode;

typedef struct {
    const char *name;
    unsigned nets; /* PHASE_TEACHER | PHASE_STUDENT */
    BatchSource source;
    int batch;  /* rows; 0 = the training batch size */
    PhaseBn bn; /* of the student */
    GradientMode gradient;
    int every; /* the phase runs in every n-th step */
} Phase;

typedef struct {
    Phase phases[PROGRAM_MAX_PHASES];
    int n_phases;
} Program;

/* What becomes of the column that a preparation collects. */
typedef enum {
    PREPARE_THRESHOLDS /* energy_thresholds (energy.h) -> input `theta` of the loss */
} PrepareResult;

/* A pass before step 1: column `column` (ROW_* of distill_spec.h) of every row, in statistics-only
 * mode. */
typedef struct {
    Phase phase;
    int column;
    PrepareResult result;
} Preparation;

#endif
