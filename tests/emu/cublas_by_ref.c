/* cuda_cublas.h without cuBLAS, for the emulated device: products as plain loops with sums in double, put into the stream
 * as host functions. */
#include "backend/cuda_cublas.h"

#include <cuda_runtime_api.h>

#include <stdlib.h>
#include <string.h>

enum { WORKSPACE = 1000 };

/* Kept as long as its plan: a captured one may be replayed. */
typedef struct Job Job;
struct Job {
    CublasSpec spec;
    const void *a, *b;
    const float *bias;
    float *c;
    void *workspace;
    bool add;
    Job *next;
};

struct CublasContext {
    bool described;
};

struct CublasPlan {
    CublasSpec spec;
    Job **jobs;
};

Err *cublas_context_open(bool described, CublasContext **out)
{
    *out = xcalloc(1, sizeof **out);
    (*out)->described = described;
    return NULL;
}

void cublas_context_close(CublasContext *context)
{
    free(context);
}

Err *cublas_plan_make(CublasContext *context, const CublasSpec *spec, bool deterministic,
                      CublasPlan **out)
{
    (void)context;
    (void)deterministic;
    *out = xcalloc(1, sizeof **out);
    **out = (CublasPlan){*spec, xcalloc(1, sizeof(Job *))};
    return NULL;
}

size_t cublas_plan_workspace(const CublasPlan *plan)
{
    (void)plan;
    return WORKSPACE;
}

static void run_job(void *user)
{
    const Job *job = user;
    const CublasSpec *s = &job->spec;
    memset(job->workspace, 0xFF, WORKSPACE);
    for (int row = 0; row < s->m; row++) {
        for (int column = 0; column < s->n; column++) {
            float *c = &job->c[(size_t)row * (size_t)s->n + (size_t)column];
            double sum = s->bias ? (double)job->bias[column] : 0;
            for (int i = 0; i < s->k; i++) {
                const int a = s->a_transposed ? i * s->m + row : row * s->k + i;
                const int b = s->b_transposed ? column * s->k + i : i * s->n + column;
                sum += dtype_load(s->in, job->a, (size_t)a) * dtype_load(s->in, job->b, (size_t)b);
            }
            *c = (float)(job->add ? (double)*c + sum : sum);
        }
    }
}

int cublas_plan_run(CublasContext *context, const CublasPlan *plan, KernelStream stream,
                    const void *a, const void *b, const float *bias, bool add, float *c,
                    void *workspace)
{
    (void)context;
    Job *job = *plan->jobs;
    while (job && (job->a != a || job->b != b || job->bias != bias || job->c != c ||
                   job->workspace != workspace || job->add != add)) {
        job = job->next;
    }
    if (!job) {
        job = xcalloc(1, sizeof *job);
        *job = (Job){plan->spec, a, b, bias, c, workspace, add, *plan->jobs};
        *plan->jobs = job;
    }
    return (int)cudaLaunchHostFunc(stream, run_job, job);
}

void cublas_plan_free(CublasPlan *plan)
{
    if (!plan) {
        return;
    }
    (void)cudaDeviceSynchronize(); /* jobs may still wait in a stream */
    while (*plan->jobs) {
        Job *job = *plan->jobs;
        *plan->jobs = job->next;
        free(job);
    }
    free((void *)plan->jobs);
    free(plan);
}

const char *cublas_status_text(int status)
{
    return cudaGetErrorString((cudaError_t)status);
}
