/* Objectives: what a method minimises, as data. From plain values an Objective gives the row
 * contract of its loss (kernels/distill_spec.h), the step program (program.h), the passes before step
 * 1, and one line of text for logs. Nothing is read from files here, nothing is run, nothing needs
 * freeing.
 *
 * none: CE with label smoothing s, (1-s)*CE + s*mean_k(-log p_k), PyTorch's form; weight 1.
 *
 * kd: b*CE + a*T^2*KL(teacher || student) (Hinton et al. 2015; RepDistiller: a 0.9, b 0.1, T 4).
 *
 * energy_kd: the same with T by the teacher's energy E = -T_E log sum exp(t/T_E) of the row:
 * t_low_energy where E < theta_low, t_high_energy where E > theta_high, else t_mid (Kim et al.
 * 2024, arXiv 2311.14334). Certain rows have low energy. The paper's abstract gives them the higher
 * temperature (6, and 2 to uncertain rows); the authors' code does the opposite (2 and 6). Which of
 * the two made the published tables is not known: both are configuration. */
#ifndef CUDISTILL_DISTILL_OBJECTIVE_H
#define CUDISTILL_DISTILL_OBJECTIVE_H

#include "base/err.h"
#include "distill/program.h"
#include "kernels/distill_spec.h"

typedef enum { METHOD_NONE, METHOD_KD, METHOD_ENERGY_KD } ObjectiveMethod;

enum { OBJECTIVE_FORMULA_MAX = 384 };

typedef struct {
    ObjectiveMethod method;
    float ce_weight, kd_weight; /* b, a; >= 0; METHOD_NONE has weight 1 and reads neither */
    float temperature;          /* KD */
    float label_smoothing;      /* of the CE, in [0, 1) */
    float energy_temperature;   /* T_E; the exports of every method with a teacher use it */
    double r_low, r_high; /* shares of rows below and above the thresholds; >= 0, sum below 1 */
    float t_low_energy, t_mid, t_high_energy;
} ObjectiveConfig;

typedef struct {
    DistillSpec spec;
    Program program;
    Preparation preparations[OBJECTIVE_MAX_PREPARATIONS];
    int n_preparations;
    bool needs_thresholds; /* the loss reads the input `theta`, which a preparation yields */
    char formula[OBJECTIVE_FORMULA_MAX]; /* "loss = 0.1*CE + 0.9*T^2*KL(teacher||student), T=4" */
} Objective;

/* The parts of the loss for people: loss = sum of weight * mean of the part. */
typedef struct {
    const char *name; /* "CE", "KD" */
    double weight;    /* 1 where every row has its own */
    int sum;          /* its SUM_ field, the weight included */
} ObjectivePart;
enum { OBJECTIVE_MAX_PARTS = DISTILL_MAX_TERMS + 1 };
/* Parts of weight 0 are left out. Gives their number. */
int objective_parts(const DistillSpec *spec, ObjectivePart parts[OBJECTIVE_MAX_PARTS]);

/* EXIT_CONFIG_ERR for a value that cannot work, naming key and value. */
Err *objective_make(const ObjectiveConfig *config, Objective *out);

#endif
