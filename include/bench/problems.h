/* The operations that `cudistill bench op` knows: their axes with default values, the graph of one node that a point of the
 * axes gives, and the least bytes and the operations that it takes. Pure; bench/MEASURES.md has the formulas as a table.
 *
 * Life cycle: problem_find; axis_parse for the axes that the user gave; problem_point for each combination; problem_build;
 * problem_free. */
#ifndef CUDISTILL_BENCH_PROBLEMS_H
#define CUDISTILL_BENCH_PROBLEMS_H

#include "base/err.h"
#include "graph/graph.h"

enum { BENCH_MAX_AXES = 7, BENCH_MAX_VALUES = 32, BENCH_TEXT = 160 };

typedef struct {
    const char *name, *help;
    const char *fallback; /* "64,1024" */
    const char *choices;  /* of an axis of names: "ce|kd"; NULL: whole numbers */
    int least;            /* smallest number */
} BenchAxis;

typedef struct {
    int values[BENCH_MAX_VALUES]; /* numbers, or positions in the axis's choices */
    int count;
} AxisValues;

typedef struct BenchOp BenchOp;
typedef struct {
    const BenchOp *op;
    int value[BENCH_MAX_AXES];
    DType dtype;
} BenchPoint;

typedef struct {
    Params params;
    Graph graph;
    int node;
    double bytes; /* least that must be moved to and from memory */
    double flops; /* multiply-adds times two; 0 where memory binds */
} BenchProblem;

struct BenchOp {
    const char *name, *help;
    const char *formula; /* of the bytes; s = bytes of an element of --dtype */
    BenchAxis axes[BENCH_MAX_AXES];
    unsigned dtypes; /* bit d: DType d can be asked for */
    bool
        wide_logits; /* in graphs the logits are fp32; other types need the kernel itself (lab.h) */
    const char *(*wrong)(const BenchPoint *); /* NULL, or why a combination cannot be */
    void (*build)(const BenchPoint *, BenchProblem *);
};

/* "fp32", "bf16", "fp16", "u8": as the user writes them. */
const char *problem_dtype(DType dtype);
const BenchOp *problem_list(int *count);
/* EXIT_USAGE_ERR with the nearest name. */
Err *problem_find(const char *name, const BenchOp **out);
int problem_axes(const BenchOp *op);
/* Values with commas between; EXIT_USAGE_ERR names the axis and what it takes. */
Err *axis_parse(const BenchOp *op, int axis, const char *text, AxisValues *out);
/* Writes a value as the user would ("1024", "kd"). */
void axis_text(const BenchAxis *axis, int value, char *out, size_t size);
/* Combinations of the axes' values: how many, and number `index` of them (the last axis changes fastest). */
int problem_points(const BenchOp *op, const AxisValues *values);
BenchPoint problem_point(const BenchOp *op, const AxisValues *values, int index, DType dtype);
/* The loss of a "method" of op distill. */
DistillSpec problem_distill_spec(const BenchPoint *point);
/* For a point of which wrong() says nothing. */
void problem_build(const BenchPoint *point, BenchProblem *out);
void problem_free(BenchProblem *problem);

#endif
