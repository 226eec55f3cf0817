/* Reasons to leave before the end. */
#include "train/stop.h"

#include "base/log.h"
#include "train/signals.h"

#include <math.h>

#define FIRST_SAVE_S 2.0 /* allowed for a checkpoint before one was written */
#define LEAVING_S 1.0    /* for the end of the process */

/* The step that comes next is its epoch's last: an evaluation follows. */
static bool epoch_ends_next(const Run *run)
{
    return run->state.position + (uint64_t)run->settings->batch >= run->train_set->count;
}

/* Before the first one of this part: as long as training on as many images, which takes longer. */
static double evaluation_s(const Run *run)
{
    const RunTimes *t = &run->times;
    return t->evaluation > 0.0
               ? t->evaluation
               : t->mean_step * (double)run->test_set->count / (double)run->settings->batch;
}

double stop_time(const Run *run)
{
    if (run->settings->time_limit_s <= 0.0) {
        return INFINITY;
    }
    const RunTimes *t = &run->times;
    const double limit = run->settings->time_limit_s;
    const double save = t->save > 0.0 ? t->save : FIRST_SAVE_S;
    const double reserve =
        LEAVING_S + 2.0 * save + t->step + (epoch_ends_next(run) ? evaluation_s(run) : 0.0);
    /* While nothing was measured the reserve is a guess, which must not eat up a short limit. */
    return t->begun + limit - (t->save > 0.0 ? reserve : fmin(reserve, 0.5 * limit));
}

int stop_asked(const Run *run)
{
    const int signal = signals_pending();
    return signal ? signal : now_s() >= stop_time(run) ? STOP_TIME : STOP_NO;
}

Err *stop_error(const Run *run, int stop)
{
    if (stop == STOP_TIME) {
        return err_new(
            EXIT_PREEMPTED,
            "stopped by train.time_limit (%g s) at step %ld: checkpoint written, run the "
            "same command again to resume",
            run->settings->time_limit_s, run->state.step);
    }
    return err_new(signals_exit_code(stop),
                   "stopped by signal %d at step %ld: checkpoint written, run the same command "
                   "again to resume",
                   stop, run->state.step);
}
