/* `cudistill eval`: accuracy of a weight file on a data set's test split. */
#include "train/commands.h"

#include "base/log.h"
#include "train/device.h"
#include "train/evaluate.h"
#include "train/nets.h"
#include "train/prepare.h"
#include "train/settings.h"
#include "train/store.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *weights, *model, *data, *device;
    Precision precision;
    int batch, threads;
    float mean[3], std[3];
    bool json;
} EvalArgs;

/* Three numbers with commas; `least` is the smallest that makes sense. */
static Err *parse_three(const char *option, const char *text, float least, float out[3])
{
    bool fine = true;
    const char *at = text;
    for (int i = 0; fine && i < 3; i++) {
        char *end;
        out[i] = strtof(at, &end);
        fine = end != at && *end == (i < 2 ? ',' : '\0') && isfinite(out[i]) && out[i] >= least;
        at = end + 1;
    }
    if (!fine) {
        return err_new(EXIT_USAGE_ERR,
                       "--%s %s: three numbers of at least %g with commas are needed, as "
                       "0.5071,0.4867,0.4408",
                       option, text, (double)least);
    }
    return NULL;
}

static Err *parse_count(const char *option, const char *text, int *out)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (*end != '\0' || end == text || value < 1 || value > 1 << 20) {
        return err_new(EXIT_USAGE_ERR, "--%s %s: a whole number above 0 is needed", option, text);
    }
    *out = (int)value;
    return NULL;
}

static Err *parse_option(int option, const char *value, EvalArgs *args)
{
    switch (option) {
    case 'm':
        args->model = value;
        return NULL;
    case 'd':
        args->data = value;
        return NULL;
    case 'D':
        args->device = value;
        return NULL;
    case 'p':
        return precision_parse(value, &args->precision);
    case 'b':
        return parse_count("batch", value, &args->batch);
    case 't':
        return parse_count("threads", value, &args->threads);
    case 'M':
        return parse_three("mean", value, 0.0f, args->mean);
    case 'S':
        return parse_three("std", value, 1e-6f, args->std);
    case 'j':
        args->json = true;
        return NULL;
    default:
        return err_new(EXIT_USAGE_ERR, "'cudistill help' shows the options of eval");
    }
}

static Err *parse_eval(int argc, char **argv, EvalArgs *args)
{
    static const struct option options[] = {
        {"model", required_argument, NULL, 'm'},  {"data", required_argument, NULL, 'd'},
        {"device", required_argument, NULL, 'D'}, {"precision", required_argument, NULL, 'p'},
        {"batch", required_argument, NULL, 'b'},  {"threads", required_argument, NULL, 't'},
        {"mean", required_argument, NULL, 'M'},   {"std", required_argument, NULL, 'S'},
        {"json", no_argument, NULL, 'j'},         {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        TRY(parse_option(option, optarg, args));
    }
    if (optind != argc - 1 || !args->model || !args->data) {
        return err_new(EXIT_USAGE_ERR,
                       "usage: cudistill eval WEIGHTS --model NAME --data cifar100:DIR");
    }
    args->weights = argv[optind];
    return NULL;
}

static Err *open_eval(const EvalArgs *args, const Dataset *dataset, Backend *backend,
                      Params *params, Store *store, Exec **exec)
{
    NetSpec net = {.model = args->model};
    memcpy(net.mean, args->mean, sizeof net.mean);
    memcpy(net.std, args->std, sizeof net.std);
    TRY(precision_choose(backend, args->precision, &net.act));
    TRY(nets_register(params, NULL, &net, dataset->classes));
    TRY(store_open(backend, params, false, store));
    TRY(store_load(store, STUDENT_PREFIX, args->weights, NULL));
    Graph g;
    TRY(nets_eval_graph(params, &net, STUDENT_PREFIX, dataset->classes, dataset->height,
                        args->batch, false, 1.0f, &g));
    const int last = (int)(dataset->count % (uint32_t)args->batch);
    Err *err =
        exec_open(backend, &g, &(ExecOptions){.ladder = &last, .ladder_count = last > 0}, exec);
    graph_free(&g);
    TRY(err);
    store_bind(store, *exec);
    exec_refresh(*exec, false);
    return NULL;
}

static void print_eval(const EvalArgs *args, const EvalResult *r)
{
    if (args->json) {
        char loss[32] = "null"; /* JSON has no NaN */
        if (isfinite(r->loss)) {
            snprintf(loss, sizeof loss, "%.6f", r->loss);
        }
        printf(
            "{\"top1\": %.4f, \"top5\": %.4f, \"loss\": %s, \"count\": %ld, \"seconds\": %.3f}\n",
            r->top1, r->top5, loss, r->count, r->seconds);
        return;
    }
    printf("%s  %s  top-1 %.2f %%  top-5 %.2f %%  loss %.4f  %ld images  %.2f s  %.0f img/s\n",
           args->model, args->weights, r->top1, r->top5, r->loss, r->count, r->seconds,
           (double)r->count / r->seconds);
}

Err *command_eval(int argc, char **argv)
{
    EvalArgs args = {.device = "auto",
                     .batch = 250,
                     .mean = {0.5071f, 0.4867f, 0.4408f},
                     .std = {0.2675f, 0.2565f, 0.2761f}};
    TRY(parse_eval(argc, argv, &args));
    Dataset *dataset = NULL;
    Backend *backend = NULL;
    Params params = {0};
    Store store = {0};
    Exec *exec = NULL;
    Choices choices = {0};
    Err *err = dataset_open(args.data, SPLIT_TEST, &dataset);
    if (!err) {
        err = device_open(
            args.device, &(BackendOptions){.threads = args.threads, .choices = &choices}, &backend);
    }
    if (!err) {
        err = open_eval(&args, dataset, backend, &params, &store, &exec);
    }
    if (!err) {
        const EvalResult result = evaluate(exec, dataset, false, false);
        print_eval(&args, &result);
    }
    exec_close(exec);
    store_close(&store);
    backend_close(backend);
    params_free(&params);
    choices_free(&choices);
    dataset_close(dataset);
    return err;
}
