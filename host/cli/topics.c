/* Tables for people: what an exit code means, which environment variables are read, which files are written. */
#include "cli/help.h"

#include "base/plugin.h"
#include "cli/args.h"

#include <string.h>

static const TopicRow exit_codes[] = {
    {"0", "done"},
    {"1", "bench op: a case is slower than in the baseline"},
    {"64", "the command line is wrong"},
    {"65", "a file holds something else than it should"},
    {"66", "a file is missing or cannot be read"},
    {"69", "no such device, or its driver or library is missing"},
    {"70", "a bug, or a device that died: please report it"},
    {"71", "the operating system refused something"},
    {"73", "an output cannot be created"},
    {"74", "reading or writing failed; disk full"},
    {"75", "stopped by a signal or the time limit, checkpoint written: run again to go on"},
    {"76", "another rank failed"},
    {"77", "no permission"},
    {"78", "the configuration is wrong; the message has each FILE:LINE"},
    {"79", "the loss is not finite"},
    {"80", "the device's memory is too small"},
    {"81", "the teacher is not as good as it should be"},
    {"130", "stopped by Ctrl-C, checkpoint written"},
};

static const TopicRow environment[] = {
    {"OMP_NUM_THREADS", "threads of the cpu device where dist.threads is 0"},
    {"OMP_WAIT_POLICY, GOMP_SPINCOUNT",
     "how idle threads wait; where neither is set, train, eval, suite and bench set a short spin"},
    {CUDA_PART_VARIABLE, "path of libcudistill_cuda.so; nothing else is tried then"},
    {"CUDISTILL_PLAN_CACHE", "folder in which compiled plans of cuDNN are kept between runs"},
    {"CUDISTILL_DESCRIBE", "description of a GPU for train --dry-run, as --describe"},
    {"CUDA_VISIBLE_DEVICES", "which GPUs there are, as for every CUDA program"},
    {"ONEDNN_MAX_CPU_ISA", "most recent instruction set that oneDNN may use"},
    {"NO_COLOR", "when set: no colours on terminals"},
    {"any", "${NAME} in a path of a configuration is replaced by the variable NAME"},
};

static const TopicRow files[] = {
    {"runs/NAME-sSEED",
     "folder of a run where run.out is empty; below runs/PROJECT with run.project"},
    {"config.ini", "the resolved configuration: runs again from any folder"},
    {"manifest.json", "what the run is, and what became of it"},
    {"log.txt", "what was said, with times"},
    {"metrics.jsonl, epochs.csv", "figures by interval and epoch"},
    {"tb", "event files for TensorBoard"},
    {"student_best.safetensors, student_last.safetensors", "weights"},
    {"checkpoints", "from which a run goes on"},
    {"report.html", "pictures: 'cudistill report'"},
};

#define ROWS(rows) rows, sizeof(rows) / sizeof(rows)[0]
static const Topic topics[] = {
    {"exit-codes", "EXIT STATUS", ROWS(exit_codes)},
    {"environment", "ENVIRONMENT", ROWS(environment)},
    {"files", "FILES", ROWS(files)},
};

const Topic *help_topics(size_t *count)
{
    *count = sizeof topics / sizeof topics[0];
    return topics;
}

void help_topic(const Topic *topic, FILE *out)
{
    enum { COLUMN = 6 };
    for (size_t i = 0; i < topic->count; i++) {
        const TopicRow *row = &topic->rows[i];
        const int length = (int)strlen(row->name);
        if (length < COLUMN - 1) {
            fprintf(out, "%-*s", COLUMN, row->name);
        } else {
            fprintf(out, "%s\n%*s", row->name, COLUMN, "");
        }
        args_wrap(out, row->text, COLUMN, COLUMN);
    }
}
