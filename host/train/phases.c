/* The clock of a step's phases. Whose a node of the step is follows from the graph: what the loss reads as the teacher's
 * logits, and all that leads there and not to the student's, is the teacher's. */
#include "train/phases.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CLOCKED = 2 /* the third step, counted from 0 */ };

struct PhaseClock {
    Backend *backend;
    const Exec *step; /* every node of the others is the update's */
    uint8_t *phase;   /* per node of `step` */
    long seen;        /* steps asked about */
    bool asked;
    double lap; /* now_s() at the end of the last call */
    double seconds[METER_PHASES];
};

/* ---- Whose node is it ---- */

/* Marks the nodes that `tensor` is computed from. */
static void mark_ancestors(const Graph *g, int tensor, bool *marked)
{
    const int node = tensor >= 0 ? g->tensors[tensor].producer : -1;
    if (node < 0 || marked[node]) {
        return;
    }
    marked[node] = true;
    for (int i = 0; i < g->nodes[node].n_in; i++) {
        mark_ancestors(g, g->nodes[node].in[i], marked);
    }
}

static void find_phases(const Graph *g, uint8_t *phase)
{
    bool *teacher = xcalloc((size_t)g->n_nodes + 1, sizeof *teacher);
    bool *student = xcalloc((size_t)g->n_nodes + 1, sizeof *student);
    for (int n = 0; n < g->n_nodes; n++) {
        const Node *node = &g->nodes[n];
        if (node->op == OP_DISTILL) {
            mark_ancestors(g, node->in[DISTILL_IN_T], teacher);
            mark_ancestors(g, node->in[DISTILL_IN_Z], student);
        }
    }
    for (int n = 0; n < g->n_nodes; n++) {
        phase[n] = g->nodes[n].op == OP_VIEWS  ? SHARE_DATA
                   : teacher[n] && !student[n] ? SHARE_TEACHER
                                               : SHARE_STUDENT;
    }
    free(teacher);
    free(student);
}

PhaseClock *phases_open(const Run *run)
{
    const Graph *g = exec_graph(run->step);
    PhaseClock *clock = xcalloc(1, sizeof *clock);
    clock->backend = run->backend;
    clock->step = run->step;
    clock->phase = xcalloc((size_t)g->n_nodes + 1, sizeof *clock->phase);
    find_phases(g, clock->phase);
    return clock;
}

void phases_close(PhaseClock *clock)
{
    if (clock) {
        free(clock->phase);
        free(clock);
    }
}

/* ---- When ---- */

bool phases_due(PhaseClock *clock)
{
    const bool due = clock->asked || clock->seen == FIRST_CLOCKED;
    clock->seen++;
    clock->asked = false;
    return due;
}

void phases_ask(PhaseClock *clock)
{
    clock->asked = true;
}

/* ---- A clocked step ---- */

void phases_begin(PhaseClock *clock)
{
    clock->backend->sync(clock->backend, QUEUE_COMPUTE);
    memset(clock->seconds, 0, sizeof clock->seconds);
    clock->lap = now_s();
}

static void note_step(void *context, const Graph *graph, int node, double seconds)
{
    PhaseClock *clock = context;
    (void)graph;
    clock->seconds[clock->phase[node]] += seconds;
}

static void note_update(void *context, const Graph *graph, int node, double seconds)
{
    PhaseClock *clock = context;
    (void)graph;
    (void)node;
    clock->seconds[SHARE_UPDATE] += seconds;
}

void phases_run(PhaseClock *clock, Exec *exec, const ExecRun *run)
{
    exec_run_watched(exec, run, exec == clock->step ? note_step : note_update, clock);
    clock->backend->sync(clock->backend, QUEUE_COMPUTE);
    clock->lap = now_s();
}

void phases_lap(PhaseClock *clock, ProgressShare phase)
{
    clock->backend->sync(clock->backend, QUEUE_COMPUTE);
    const double now = now_s();
    clock->seconds[phase] += now - clock->lap;
    clock->lap = now;
}

void phases_end(const PhaseClock *clock, Meter *meter)
{
    for (int i = 0; i < METER_PHASES; i++) {
        meter->phase_s[i] += clock->seconds[i];
    }
}
