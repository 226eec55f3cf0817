/* `cudistill bench op`. */
#include "cli/commands.h"

#include "bench/bench_op.h"

enum { CACHE_BOTH, CACHE_WARM, CACHE_COLD, MAX_MIB = 1 << 16 };

static Err *run_op(const Args *args)
{
    if (args_flag(args, "list")) {
        bench_op_list();
        return NULL;
    }
    if (args_count(args) == 0) {
        return err_new(EXIT_USAGE_ERR, "bench op: NAME is missing; usage: cudistill bench op NAME "
                                       "[options] ('cudistill bench op --list' shows the names)");
    }
    const int cache = args_choice(args, "cache", CACHE_BOTH);
    BenchOptions bench = {.op = args_at(args, 0),
                          .dtypes = args_text(args, "dtype", NULL),
                          .device = args_text(args, "device", "cpu"),
                          .warm = cache != CACHE_COLD,
                          .cold = cache != CACHE_WARM,
                          .graph = args_flag(args, "graph"),
                          .json = args_text(args, "json", NULL),
                          .baseline = args_text(args, "baseline", NULL),
                          .tolerance = args_float(args, "tolerance", BENCH_TOLERANCE),
                          .min_time_s = args_float(args, "min-time", 0),
                          .buffer_mib = (int)args_int(args, "buffer", 0),
                          .threads = (int)args_int(args, "threads", 0)};
    bench.axes = args_all(args, "axis", &bench.n_axes);
    return bench_op_run(&bench);
}

static const ArgOption op_options[] = {
    {.name = "axis",
     .kind = ARG_TEXT,
     .many = true,
     .metavar = "NAME=V,V...",
     .help = "values of an axis; the others keep their defaults"},
    {.name = "dtype",
     .kind = ARG_TEXT,
     .metavar = "T,T...",
     .help = "fp32, bf16, fp16 (what the device is made for)"},
    {.name = "device", .kind = ARG_CHOICE, .choices = "cpu|ref|cuda", .help = "where to run (cpu)"},
    {.name = "cache",
     .kind = ARG_CHOICE,
     .choices = "both|warm|cold",
     .help = "caches as the run before left them, flushed before each run, or both (both)"},
    {.name = "graph", .kind = ARG_FLAG, .help = "replay runs that were recorded once (cuda)"},
    {.name = "json",
     .kind = ARG_FILE,
     .metavar = "FILE",
     .help = "also write the results as JSON lines"},
    {.name = "baseline",
     .kind = ARG_FILE,
     .metavar = "FILE",
     .help = "compare with such a file; exit code 1 when something is slower"},
    {.name = "tolerance",
     .kind = ARG_FLOAT,
     .metavar = "X",
     .min = 0,
     .max = 1e6,
     .help = "share by which a case may be slower (0.1)"},
    {.name = "min-time",
     .kind = ARG_FLOAT,
     .metavar = "S",
     .min = 0,
     .max = 3600,
     .help = "seconds to sample each point (0.5)"},
    {.name = "buffer",
     .kind = ARG_INT,
     .metavar = "MIB",
     .min = 1,
     .max = MAX_MIB,
     .help = "size of the buffer that flushes the caches and of the copy that speeds are compared "
             "with (twice the last-level cache)"},
    {.name = "threads",
     .kind = ARG_INT,
     .metavar = "N",
     .min = 1,
     .max = 4096,
     .help = "of the cpu device (as many as it may use)"},
    {.name = "list",
     .kind = ARG_FLAG,
     .help = "the operations with their axes, defaults and bytes"},
};
static const char *const op_examples[] = {
    "cudistill bench op distill --axis B=64,1024 --axis C=100,1000 --dtype fp32",
    "cudistill bench op conv --axis C=16 --axis O=16 --axis H=32 --cache cold",
    "cudistill bench op sgd --device cuda --graph --json now.json --baseline old.json", NULL};

static const Command bench_op = {
    .name = "op",
    .arguments = "NAME",
    .argument_kind = ARG_BENCH_OP,
    .max_arguments = 1,
    .summary = "time one operation",
    .details =
        "Measures every combination of the values of the axes. \"of copy\" is bytes a second "
        "as a share of those of a plain copy in the same run, \"noise\" is (90th - 10th "
        "percentile) / median.",
    .options = op_options,
    .option_count = sizeof op_options / sizeof op_options[0],
    .examples = op_examples,
    .run = run_op};

static const Command *const commands[] = {&bench_op, NULL};

const Command command_bench = {.name = "bench",
                               .arguments = "",
                               .summary = "time operations on a device",
                               .commands = commands,
                               .computes = true};
