/* The graphs behind the table of problems.c: one builder an operation, and why some combinations cannot be. */
#ifndef CUDISTILL_HOST_BENCH_PROBLEM_GRAPHS_H
#define CUDISTILL_HOST_BENCH_PROBLEM_GRAPHS_H

#include "bench/problems.h"

#define DISTILL_METHODS "ce|kd|energy_kd|dkd|nkd|topk"

const char *problem_wrong_views(const BenchPoint *point);
const char *problem_wrong_pool(const BenchPoint *point);
const char *problem_wrong_maxpool(const BenchPoint *point);
const char *problem_wrong_conv(const BenchPoint *point);

void problem_distill(const BenchPoint *point, BenchProblem *out);
void problem_sgd(const BenchPoint *point, BenchProblem *out);
void problem_grad_norm(const BenchPoint *point, BenchProblem *out);
void problem_bn_stats(const BenchPoint *point, BenchProblem *out);
void problem_bn_apply(const BenchPoint *point, BenchProblem *out);
void problem_bn_apply_add_relu(const BenchPoint *point, BenchProblem *out);
void problem_bn_reduce(const BenchPoint *point, BenchProblem *out);
void problem_bn_dx(const BenchPoint *point, BenchProblem *out);
void problem_image(const BenchPoint *point, BenchProblem *out);
void problem_views(const BenchPoint *point, BenchProblem *out);
void problem_relu(const BenchPoint *point, BenchProblem *out);
void problem_add(const BenchPoint *point, BenchProblem *out);
void problem_avgpool(const BenchPoint *point, BenchProblem *out);
void problem_maxpool(const BenchPoint *point, BenchProblem *out);
void problem_linear(const BenchPoint *point, BenchProblem *out);
void problem_conv(const BenchPoint *point, BenchProblem *out);
void problem_conv_dgrad(const BenchPoint *point, BenchProblem *out);
void problem_conv_wgrad(const BenchPoint *point, BenchProblem *out);
void problem_gather(const BenchPoint *point, BenchProblem *out);
void problem_cast(const BenchPoint *point, BenchProblem *out);

#endif
