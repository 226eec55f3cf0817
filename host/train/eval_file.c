/* One network opened for inference alone, run once over the test split. */
#include "train/eval_file.h"

#include "train/device.h"
#include "train/nets.h"
#include "train/prepare.h"
#include "train/store.h"

#include <string.h>

EvalFile eval_file_defaults(void)
{
    return (EvalFile){.device = "auto",
                      .batch = 250,
                      .mean = {0.5071f, 0.4867f, 0.4408f},
                      .std = {0.2675f, 0.2565f, 0.2761f}};
}

static Err *open_eval(const EvalFile *job, const Dataset *dataset, Backend *backend,
                      const NetSpec *given, const Params *params, Store *store, Exec **exec)
{
    NetSpec net = *given;
    TRY(precision_choose(backend, job->precision, &net.act));
    TRY(store_open(backend, params, false, store));
    TRY(store_load(store, STUDENT_PREFIX, job->weights, NULL));
    Graph g;
    TRY(nets_eval_graph(params, &net, STUDENT_PREFIX, dataset->classes, dataset->height, job->batch,
                        false, 1.0f, &g));
    const int last = (int)(dataset->count % (uint32_t)job->batch);
    Err *err =
        exec_open(backend, &g, &(ExecOptions){.ladder = &last, .ladder_count = last > 0}, exec);
    graph_free(&g);
    TRY(err);
    store_bind(store, *exec);
    exec_refresh(*exec, false);
    return NULL;
}

Err *eval_file(const EvalFile *job, EvalResult *out)
{
    Dataset *dataset = NULL;
    Backend *backend = NULL;
    Params params = {0};
    Store store = {0};
    Exec *exec = NULL;
    Choices choices = {0};
    NetSpec net = {.model = job->model};
    memcpy(net.mean, job->mean, sizeof net.mean);
    memcpy(net.std, job->std, sizeof net.std);
    Err *err = dataset_open(job->data, SPLIT_TEST, &dataset);
    if (!err) {
        err = nets_register(&params, NULL, &net, dataset->classes);
    }
    if (!err) {
        err = device_open(
            job->device,
            &(BackendOptions){.threads = job->threads, .choices = &choices, .deterministic = true},
            &backend);
    }
    if (!err) {
        err = open_eval(job, dataset, backend, &net, &params, &store, &exec);
    }
    if (!err) {
        *out = evaluate(exec, dataset, false, false);
    }
    exec_close(exec);
    store_close(&store);
    backend_close(backend);
    params_free(&params);
    choices_free(&choices);
    dataset_close(dataset);
    return err;
}
