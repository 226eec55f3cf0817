/* Builds objectives from plain values: the row contract, the step program, the preparatory passes,
 * the text. */
#include "distill/objective.h"
#include <math.h>
#include <stdio.h>

typedef enum { POSITIVE, NOT_NEGATIVE, BELOW_ONE } Range;

static Err *check_number(const char *key, double value, Range range)
{
    const bool low = range == POSITIVE ? value > 0 : value >= 0;
    if (isfinite(value) && low && (range != BELOW_ONE || value < 1)) {
        return NULL;
    }
    static const char *const must[] = {"be positive", "not be negative",
                                       "be at least 0 and below 1"};
    return err_new(EXIT_CONFIG_ERR, "%s = %g must %s", key, value, must[range]);
}

static Err *check_config(const ObjectiveConfig *c)
{
    TRY(check_number("label_smoothing", (double)c->label_smoothing, BELOW_ONE));
    if (c->method == METHOD_NONE) {
        return NULL;
    }
    TRY(check_number("ce_weight", (double)c->ce_weight, NOT_NEGATIVE));
    TRY(check_number("kd_weight", (double)c->kd_weight, NOT_NEGATIVE));
    TRY(check_number("energy_temperature", (double)c->energy_temperature, POSITIVE));
    if (c->ce_weight == 0 && c->kd_weight == 0) {
        return err_new(EXIT_CONFIG_ERR,
                       "ce_weight and kd_weight are both 0: there is nothing to learn from");
    }
    if (c->method == METHOD_KD) {
        return check_number("temperature", (double)c->temperature, POSITIVE);
    }
    TRY(check_number("t_low_energy", (double)c->t_low_energy, POSITIVE));
    TRY(check_number("t_mid", (double)c->t_mid, POSITIVE));
    TRY(check_number("t_high_energy", (double)c->t_high_energy, POSITIVE));
    TRY(check_number("r_low", c->r_low, BELOW_ONE));
    TRY(check_number("r_high", c->r_high, BELOW_ONE));
    if (c->r_low + c->r_high >= 1) {
        return err_new(EXIT_CONFIG_ERR,
                       "r_low = %g and r_high = %g leave no middle: their sum must be below 1",
                       c->r_low, c->r_high);
    }
    return NULL;
}

static RowValue constant(float value)
{
    return (RowValue){.source = SOURCE_CONST, .value = value};
}

static DistillSpec make_spec(const ObjectiveConfig *c)
{
    DistillSpec spec = {.ce_weight = constant(c->method == METHOD_NONE ? 1.0f : c->ce_weight),
                        .smoothing = c->label_smoothing,
                        .energy_temperature = c->energy_temperature};
    if (c->method == METHOD_NONE) {
        return spec;
    }
    const RowValue banded = {.source = SOURCE_BAND,
                             .band = {c->t_low_energy, c->t_mid, c->t_high_energy}};
    const RowValue temperature = c->method == METHOD_ENERGY_KD ? banded : constant(c->temperature);
    spec.terms[0] = (DistillTerm){.form = FORM_KL,
                                  .factor = FACTOR_TSTT,
                                  .weight = constant(c->kd_weight),
                                  .ts = temperature,
                                  .tt = temperature};
    spec.n_terms = 1;
    return spec;
}

/* "0.1*CE", "CE", "CE(smoothing 0.1)"; the KD part likewise leaves a weight of 1 out. */
static void weighted(char *text, size_t size, float weight, const char *what)
{
    if (weight == 1.0f) {
        (void)snprintf(text, size, "%s", what);
    } else {
        (void)snprintf(text, size, "%g*%s", (double)weight, what);
    }
}

static void write_formula(const ObjectiveConfig *c, char *text, size_t size)
{
    char name[48] = "CE";
    if (c->label_smoothing > 0) {
        (void)snprintf(name, sizeof name, "CE(smoothing %g)", (double)c->label_smoothing);
    }
    char ce[64];
    weighted(ce, sizeof ce, c->method == METHOD_NONE ? 1.0f : c->ce_weight, name);
    if (c->method == METHOD_NONE) {
        (void)snprintf(text, size, "loss = %s", ce);
        return;
    }
    char kd[64];
    weighted(kd, sizeof kd, c->kd_weight, "T^2*KL(teacher||student)");
    const bool both = c->ce_weight > 0 && c->kd_weight > 0;
    char sum[144];
    (void)snprintf(sum, sizeof sum, "%s%s%s", c->ce_weight > 0 ? ce : "", both ? " + " : "",
                   c->kd_weight > 0 ? kd : "");
    if (c->kd_weight == 0) {
        (void)snprintf(text, size, "loss = %s", sum);
    } else if (c->method == METHOD_KD) {
        (void)snprintf(text, size, "loss = %s, T=%g", sum, (double)c->temperature);
    } else {
        (void)snprintf(text, size,
                       "loss = %s, T=%g for the %g of lowest energy, %g for the %g of highest, "
                       "else %g; T_E=%g",
                       sum, (double)c->t_low_energy, c->r_low, (double)c->t_high_energy, c->r_high,
                       (double)c->t_mid, (double)c->energy_temperature);
    }
}

Err *objective_make(const ObjectiveConfig *config, Objective *out)
{
    TRY(check_config(config));
    const bool teacher = config->method != METHOD_NONE;
    *out = (Objective){.spec = make_spec(config),
                       .needs_thresholds = config->method == METHOD_ENERGY_KD};
    out->program.phases[0] = (Phase){.name = "main",
                                     .nets = PHASE_STUDENT | (teacher ? PHASE_TEACHER : 0u),
                                     .source = BATCH_STREAM,
                                     .bn = PHASE_BN_UPDATE,
                                     .gradient = GRADIENT_WRITE,
                                     .every = 1};
    out->program.n_phases = 1;
    if (out->needs_thresholds) {
        out->preparations[0] = (Preparation){.phase = {.name = "energy scan",
                                                       .nets = PHASE_TEACHER,
                                                       .source = BATCH_PASS,
                                                       .bn = PHASE_BN_EVAL,
                                                       .gradient = GRADIENT_NONE,
                                                       .every = 1},
                                             .column = ROW_ENERGY,
                                             .result = PREPARE_THRESHOLDS};
        out->n_preparations = 1;
    }
    write_formula(config, out->formula, sizeof out->formula);
    return NULL;
}

static bool add_part(ObjectivePart *part, const char *name, const RowValue *weight, int sum)
{
    const bool constant_weight = weight->source == SOURCE_CONST;
    *part = (ObjectivePart){
        .name = name, .weight = constant_weight ? (double)weight->value : 1.0, .sum = sum};
    return part->weight != 0.0;
}

int objective_parts(const DistillSpec *spec, ObjectivePart parts[OBJECTIVE_MAX_PARTS])
{
    static const char *const names[] = {[FORM_KL] = "KD", [FORM_DKD] = "DKD", [FORM_NKD] = "NKD"};
    int count = add_part(&parts[0], "CE", &spec->ce_weight, SUM_CE);
    for (int k = 0; k < spec->n_terms; k++) {
        const DistillTerm *term = &spec->terms[k];
        count += add_part(&parts[count], names[term->form], &term->weight, SUM_TERM + k);
    }
    return count;
}
