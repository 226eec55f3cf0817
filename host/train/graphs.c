/* Which graphs a run needs and the executors that run them: the step, the update, the evaluation. The switches that
 * change a graph's wiring are settled here. */
#include "train/graphs.h"

#include <string.h>

#define RESIDENT_AUTO_BYTES ((size_t)4 << 30)

static Err *open_exec(const Run *run, Graph *graph, int last_batch, bool shared, Exec **exec)
{
    const int ladder[1] = {last_batch};
    const bool rung = last_batch > 0 && last_batch < graph->batch;
    const ExecOptions options = {
        .ladder = ladder, .ladder_count = rung, .shared_scratch = shared, .plan_only = run->dry};
    Err *err = exec_open(run->backend, graph, &options, exec);
    graph_free(graph);
    if (!err && !run->dry) {
        store_bind(&run->store, *exec);
    }
    return err;
}

static Err *open_net_exec(const Run *run, const NetSpec *net, const char *prefix, int batch,
                          bool shared, Exec **exec)
{
    const bool as_teacher = strcmp(prefix, TEACHER_PREFIX) == 0;
    Graph g;
    TRY(nets_eval_graph(&run->params, net, prefix, run->test_set->classes, run->test_set->height,
                        batch, as_teacher, run->objective.spec.energy_temperature, &g));
    return open_exec(run, &g, (int)(run->test_set->count % (uint32_t)batch), shared, exec);
}

Err *run_eval_exec(const Run *run, const NetSpec *net, const char *prefix, int batch, Exec **exec)
{
    return open_net_exec(run, net, prefix, batch, false, exec);
}

/* Resident sets: `auto` is for devices with a memory of their own, and for sets that it will hardly notice. */
static bool keep_resident(const Run *run)
{
    const size_t bytes = run->train_set->count * dataset_image_size(run->train_set);
    switch (run->settings->resident) {
    case SWITCH_ON:
        return true;
    case SWITCH_OFF:
        return false;
    case SWITCH_AUTO:
        break;
    }
    return policy_is_none(&run->settings->policy) && strcmp(run->backend->name, "cuda") == 0 &&
           bytes <= RESIDENT_AUTO_BYTES;
}

/* fp16 needs a loss scale, other types can have one; a constant of 1 is none. */
static LossScaling loss_scaling(const Run *run)
{
    const double wanted = run->settings->loss_scale;
    if (wanted > 0.0) {
        return wanted == 1.0 ? LOSS_SCALE_NONE : LOSS_SCALE_CONSTANT;
    }
    return run->student.act == DT_F16 ? LOSS_SCALE_DYNAMIC : LOSS_SCALE_NONE;
}

static Err *choose_capture(Run *run)
{
    const bool possible = run->backend->capture_begin != NULL;
    if (run->settings->capture == SWITCH_ON && !possible) {
        return err_new(EXIT_CONFIG_ERR,
                       "train.capture = on: the %s backend runs steps at once, there is nothing to "
                       "record; use auto or off",
                       run->backend->name);
    }
    run->capture = possible && run->settings->capture != SWITCH_OFF;
    return NULL;
}

/* The step, the update and the evaluation never run at once: they share activations and workspace. */
static Err *share_scratch(Run *run)
{
    Exec *const execs[] = {run->step, run->update, run->eval};
    const Arena arenas[] = {ARENA_ACT, ARENA_WORKSPACE};
    for (int a = 0; a < 2; a++) {
        size_t bytes = 64;
        for (int i = 0; i < 3; i++) {
            const size_t needed = exec_bytes(execs[i], arenas[a]);
            bytes = needed > bytes ? needed : bytes;
        }
        run->scratch[a] = run->backend->alloc(run->backend, MEM_DEVICE, bytes);
        if (!run->scratch[a]) {
            return err_new(EXIT_DEVICE_MEMORY,
                           "no memory for %zu MiB of activations: lower train.batch or eval.batch",
                           bytes >> 20);
        }
        for (int i = 0; i < 3; i++) {
            exec_bind(execs[i], arenas[a], run->scratch[a]);
        }
    }
    return NULL;
}

Err *graphs_open(Run *run)
{
    const Settings *s = run->settings;
    Graph g;
    TRY(nets_train_graph(&run->params, &run->wiring, &g));
    TRY(open_exec(run, &g, (int)(run->train_set->count % (uint32_t)s->batch), true, &run->step));
    nets_update_graph(&run->params, run->student.act, s->decay_norm_bias, run->scaling, &g);
    TRY(open_exec(run, &g, 0, true, &run->update));
    if (!run->dry) {
        exec_bind(run->step, ARENA_SHARED, run->shared);
        exec_bind(run->update, ARENA_SHARED, run->shared);
    }
    TRY(open_net_exec(run, &run->student, STUDENT_PREFIX, s->eval_batch, true, &run->eval));
    return run->dry ? NULL : share_scratch(run);
}

Err *graphs_settle(Run *run)
{
    const Settings *s = run->settings;
    run->scaling = loss_scaling(run);
    run->wiring = (StepGraph){.teacher = &run->teacher,
                              .student = &run->student,
                              .classes = run->train_set->classes,
                              .size = run->train_set->height,
                              .batch = s->batch,
                              .spec = &run->objective.spec,
                              .bn = BN_TRAIN,
                              .backward = true,
                              .loss_scale = run->scaling != LOSS_SCALE_NONE,
                              .resident = keep_resident(run),
                              .views = {.pad = s->padding, .flip = s->flip},
                              .samples = (int)run->train_set->count};
    return choose_capture(run);
}
