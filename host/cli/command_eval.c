/* `cudistill eval`. */
#include "cli/commands.h"
#include "cli/triple.h"

#include "base/log.h"
#include "train/eval_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void print_json(const EvalResult *r)
{
    char loss[32] = "null"; /* JSON has no NaN */
    if (isfinite(r->loss)) {
        (void)snprintf(loss, sizeof loss, "%.6f", r->loss);
    }
    printf("{\"top1\": %.4f, \"top5\": %.4f, \"loss\": %s, \"count\": %ld, \"seconds\": %.3f}\n",
           r->top1, r->top5, loss, r->count, r->seconds);
}

static Err *run(const Args *args)
{
    EvalFile job = eval_file_defaults();
    job.weights = args_at(args, 0);
    job.model = args_text(args, "model", NULL);
    job.data = args_text(args, "data", NULL);
    if (!job.model || !job.data) {
        return err_new(EXIT_USAGE_ERR,
                       "eval: --%s is missing; usage: cudistill eval WEIGHTS --model NAME "
                       "--data cifar100:DIR",
                       job.model ? "data" : "model");
    }
    job.device = args_text(args, "device", job.device);
    job.precision = (Precision)args_choice(args, "precision", PRECISION_AUTO);
    job.batch = (int)args_int(args, "batch", job.batch);
    job.threads = (int)args_int(args, "threads", 0);
    TRY(args_triple(args, "mean", 0.0f, job.mean));
    TRY(args_triple(args, "std", 1e-6f, job.std));
    EvalResult r;
    TRY(eval_file(&job, &r));
    log_info("normalised by mean %g,%g,%g, std %g,%g,%g (--mean, --std: as in training)",
             (double)job.mean[0], (double)job.mean[1], (double)job.mean[2], (double)job.std[0],
             (double)job.std[1], (double)job.std[2]);
    if (args_flag(args, "json")) {
        print_json(&r);
        return NULL;
    }
    printf("%s  %s  top-1 %.2f %%  top-5 %.2f %%  loss %.4f  %ld images  %.2f s  %.0f img/s\n",
           job.model, job.weights, r.top1, r.top5, r.loss, r.count, r.seconds,
           (double)r.count / r.seconds);
    return NULL;
}

static const ArgOption options[] = {
    {.name = "model",
     .kind = ARG_MODEL,
     .metavar = "NAME",
     .help = "network ('cudistill models' lists them)"},
    {.name = "data",
     .kind = ARG_TEXT,
     .metavar = "KIND:WHERE",
     .help = "cifar10:DIR or cifar100:DIR (a folder or .tar.gz of the binary version), or "
             "synthetic:KEY=VALUE,..."},
    {.name = "device",
     .kind = ARG_CHOICE,
     .choices = "auto|cpu|cuda|ref",
     .help = "where to run (auto: cuda where there is a GPU)"},
    {.name = "precision",
     .kind = ARG_CHOICE,
     .choices = "auto|fp32|bf16|fp16",
     .help = "of activations (auto: the device's best)"},
    {.name = "batch",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 1,
     .max = 1 << 20,
     .help = "images of a step (250)"},
    {.name = "threads",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 1,
     .max = 4096,
     .help = "of the cpu device (as many as it may use)"},
    {.name = "mean",
     .kind = ARG_TEXT,
     .metavar = "R,G,B",
     .help = "normalisation (CIFAR-100's: 0.5071,0.4867,0.4408)"},
    {.name = "std",
     .kind = ARG_TEXT,
     .metavar = "R,G,B",
     .help = "normalisation (CIFAR-100's: 0.2675,0.2565,0.2761)"},
    {.name = "json", .kind = ARG_FLAG, .help = "one JSON object on stdout"},
};
static const char *const examples[] = {
    "cudistill eval student_best.safetensors --model resnet20 --data cifar100:DIR",
    "cudistill eval wrn_16_2.pth --model wrn_16_2 --data cifar100:DIR --json", NULL};

const Command command_eval = {
    .name = "eval",
    .arguments = "WEIGHTS",
    .argument_kind = ARG_FILE,
    .min_arguments = 1,
    .max_arguments = 1,
    .summary = "accuracy of a weight file on the test set",
    .details =
        "WEIGHTS is a safetensors or .pth file; --model and --data must be given. "
        "--mean and --std must be those of the training ('cudistill config show RUN/config.ini' "
        "prints augment.mean and augment.std).",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run,
    .computes = true};
