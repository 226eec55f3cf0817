/* One operation made ready on a backend: memory, data, the prepared step. It is run through the backend's table alone, so
 * that a measurement holds the operation and nothing else.
 *
 * Logits of 16 bits do not occur in graphs; on cuda the loss kernel itself is called with them (kernels/distill.h, looked
 * up in the CUDA library).
 *
 * Life cycle: lab_open, any number of lab_submit, lab_close. One thread. */
#ifndef CUDISTILL_BENCH_LAB_H
#define CUDISTILL_BENCH_LAB_H

#include "backend/backend.h"
#include "bench/problems.h"

typedef struct BenchLab BenchLab;

/* Errors: why the backend cannot do it, or EXIT_DEVICE_MEMORY with the bytes that are needed. */
Err *lab_open(Backend *backend, const BenchPoint *point, BenchLab **out);
void lab_close(BenchLab *lab);
/* Submits one run to QUEUE_COMPUTE; neither allocates nor waits. */
void lab_submit(BenchLab *lab);
const BenchProblem *lab_problem(const BenchLab *lab);
/* Copies `elems` first elements of a tensor (dz of 16-bit logits: "dz") out as doubles, for tests. False when there is none. */
bool lab_read(BenchLab *lab, const char *tensor, double *values, size_t elems);

#endif
