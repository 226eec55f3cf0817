/* Room on the disk, asked before a run begins: hours later nobody is there to read the warning. */
#include "train/space.h"

#include "base/log.h"
#include "train/predictions.h"

#include <sys/statvfs.h>

static const double LOGS_BYTES = 64e6; /* events, metrics, pictures */

size_t space_needed(const Run *run)
{
    const Settings *s = run->settings;
    const Params *p = &run->params;
    const size_t weights = (p->arena_elems[ARENA_WEIGHT] + p->arena_elems[ARENA_STATE]) * 4;
    const size_t checkpoints = 2 * weights * ((size_t)s->keep_last + 1);
    const size_t networks = s->teacher_model ? 2 : 1;
    const size_t logits = 2 * (size_t)run->test_set->count * (size_t)run->test_set->classes;
    const size_t predictions =
        s->log_predictions && logits <= PREDICTIONS_MAX_BYTES ? networks * logits : 0;
    return checkpoints + 2 * weights + predictions + (size_t)LOGS_BYTES;
}

void space_warn(const Run *run)
{
    struct statvfs info;
    if (run->resumed || statvfs(run->settings->out, &info) != 0) {
        return;
    }
    const double free_bytes = (double)info.f_bavail * (double)info.f_frsize;
    const double needed = (double)space_needed(run);
    if (free_bytes < needed) {
        log_warn("%s: %.0f MB are free, the run may need %.0f (%d checkpoints, weights, records): "
                 "free some space, lower checkpoint.keep_last, or choose another run.out",
                 run->settings->out, free_bytes * 1e-6, needed * 1e-6, run->settings->keep_last);
    }
}
