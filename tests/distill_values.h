/* Small parts of distillation specs, for every test that makes some. */
#ifndef CUDISTILL_TESTS_DISTILL_VALUES_H
#define CUDISTILL_TESTS_DISTILL_VALUES_H

#include "graph/graph.h"

static inline RowValue constant_value(float value)
{
    return (RowValue){.source = SOURCE_CONST, .value = value};
}

/* Hinton's KD with different temperatures and a cross entropy. */
static inline DistillSpec kd_spec(void)
{
    DistillSpec spec = {.n_terms = 1, .ce_weight = constant_value(0.7F), .energy_temperature = 1};
    spec.terms[0] = (DistillTerm){.factor = FACTOR_TSTT,
                                  .weight = constant_value(0.9F),
                                  .ts = constant_value(2),
                                  .tt = constant_value(3)};
    return spec;
}

static inline void no_inputs(int in[DISTILL_IN_COUNT])
{
    for (int i = 0; i < DISTILL_IN_COUNT; i++) {
        in[i] = -1;
    }
}

#endif
