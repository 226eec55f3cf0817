/* The memory plan: proven by the checker, by a simulation of random schedules that tags memory, and
 * by corrupting plans, which the checker must notice. */
#include "graph/plan.h"

#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"
#include "graph_nets.h"
#include "random_graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { GRAPHS = 1000, SIMULATED = 250, MUTATED = 150, SCHEDULES = 3, CELL = 64 };

static void assert_proven(const Graph *g, const Plan *plan, uint64_t seed, const char *what)
{
    char *wrong = plan_check(g, plan);
    if (wrong != NULL) {
        print_error("graph %llu, %s: %s\n", (unsigned long long)seed, what, wrong);
    }
    assert_null(wrong);
}

/* Graphs of every kind: a third without backward, 1 to 4 queues, half of those with a gradient also
 * with an optimizer. */
static Graph any_graph(uint64_t seed, Params *params)
{
    const RandomGraphOptions options = {.act = seed % 4 == 1 ? DT_BF16 : DT_F32,
                                        .queues = (int)(seed % 4) + 1,
                                        .images = seed % 5 == 0,
                                        .backward = seed % 3 != 0,
                                        .sgd = seed % 3 != 0 && seed % 2 == 0,
                                        .loss_scale = seed % 3 == 1,
                                        .inference = seed % 7 == 0};
    return random_graph_make(seed, params, options);
}

/* Forms groups with random answers, as backends of all tastes would. */
static void fuse_randomly(Graph *g, uint64_t seed)
{
    Rng rng = rng_make(seed, 1, 0, RNG_TEST);
    for (int round = 0; round < 12; round++) {
        FuseCandidate *candidates = NULL;
        const int count = fusion_candidates(g, FUSE_ALL, &candidates);
        bool *verdict = xcalloc((size_t)count + 1, sizeof *verdict);
        for (int i = 0; i < count; i++) {
            verdict[i] = rng_below(&rng, 4) != 0;
        }
        fusion_apply(g, candidates, verdict, count);
        free(candidates);
        free(verdict);
    }
}

static void random_graphs_are_planned_safely(void **state)
{
    (void)state;
    size_t shared = 0;
    size_t unshared = 0;
    for (uint64_t seed = 0; seed < GRAPHS; seed++) {
        Params params = {0};
        Graph g = any_graph(seed, &params);
        if (seed % 2 == 1) {
            fuse_randomly(&g, seed);
        }
        char *wrong = graph_validate(&g);
        if (wrong != NULL) {
            print_error("graph %llu: %s\n", (unsigned long long)seed, wrong);
        }
        assert_null(wrong);
        Plan *plan = plan_build(&g, NULL);
        assert_proven(&g, plan, seed, "reuse");
        assert_true(plan->arena_bytes[ARENA_ACT] <= plan->act_bytes_unshared);
        Plan *apart = plan_build(&g, &(PlanOptions){.no_inplace = true});
        assert_proven(&g, apart, seed, "no in-place");
        Plan *off = plan_build(&g, &(PlanOptions){.no_reuse = true, .align = 128});
        assert_proven(&g, off, seed, "no reuse");
        assert_int_equal(off->arena_bytes[ARENA_ACT], off->act_bytes_unshared);
        shared += plan->arena_bytes[ARENA_ACT];
        unshared += plan->act_bytes_unshared;
        plan_free(off);
        plan_free(apart);
        plan_free(plan);
        graph_free(&g);
        params_free(&params);
    }
    print_message("%d random graphs: ACT takes %.1f %% of what it would without reuse\n", GRAPHS,
                  100.0 * (double)shared / (double)unshared);
    assert_true(shared < unshared);
}

/* --- simulation: memory remembers which tensor wrote it last --- */

typedef struct {
    const Graph *g;
    const Plan *plan;
    int *cells[ARENA_COUNT]; /* per 64 bytes: tensor + 1 */
    bool *done;
    int next[4], running[4]; /* per queue: next step to look at; step that has begun, -1 */
} Sim;

static void sim_tag(Sim *sim, int t)
{
    const Placement *at = &sim->plan->at[t];
    for (size_t c = at->offset / CELL; c * CELL < at->offset + at->bytes; c++) {
        sim->cells[at->arena][c] = t + 1;
    }
}

static bool sim_holds(const Sim *sim, int t)
{
    const Placement *at = &sim->plan->at[t];
    for (size_t c = at->offset / CELL; c * CELL < at->offset + at->bytes; c++) {
        if (sim->cells[at->arena][c] != t + 1) {
            return false;
        }
    }
    return true;
}

static bool sim_act(const Sim *sim, int t)
{
    return t >= 0 && sim->plan->at[t].arena == ARENA_ACT;
}

/* What the step reads is there when it begins; then its outputs own their memory until it ends. */
static bool sim_begin(Sim *sim, int s)
{
    const Node *node = &sim->g->nodes[sim->plan->steps[s].node];
    bool fine = true;
    for (int k = 0; k < node->n_in; k++) {
        fine = fine && (!sim_act(sim, node->in[k]) || sim_holds(sim, node->in[k]));
    }
    for (int k = 0; k < node->n_out; k++) {
        if (sim_act(sim, node->out[k])) {
            sim_tag(sim, node->out[k]);
        }
    }
    return fine;
}

static bool sim_end(const Sim *sim, int s)
{
    const Node *node = &sim->g->nodes[sim->plan->steps[s].node];
    bool fine = true;
    for (int k = 0; k < node->n_out; k++) {
        fine = fine && (!sim_act(sim, node->out[k]) || sim_holds(sim, node->out[k]));
    }
    for (int k = 0; k < node->n_in; k++) {
        bool taken = false;
        for (int o = 0; sim_act(sim, node->in[k]) && o < node->n_out; o++) {
            taken = taken || (sim_act(sim, node->out[o]) && sim->plan->at[node->out[o]].offset ==
                                                                sim->plan->at[node->in[k]].offset);
        }
        fine = fine && (!sim_act(sim, node->in[k]) || taken || sim_holds(sim, node->in[k]));
    }
    return fine;
}

static bool sim_ready(const Sim *sim, int s)
{
    for (int i = 0; i < sim->plan->steps[s].n_waits; i++) {
        if (!sim->done[sim->plan->steps[s].waits[i]]) {
            return false;
        }
    }
    return true;
}

/* Runs the steps with begin and end of different queues interleaved at random; false when memory
 * was clobbered. */
static bool simulate(const Graph *g, const Plan *plan, uint64_t seed)
{
    Rng rng = rng_make(seed, 2, 0, RNG_TEST);
    Sim sim = {.g = g, .plan = plan, .running = {-1, -1, -1, -1}};
    sim.cells[ARENA_ACT] = xcalloc(2 * plan->arena_bytes[ARENA_ACT] / CELL + 2,
                                   sizeof(int)); /* corrupted plans reach beyond */
    sim.done = xcalloc((size_t)plan->n_steps + 1, sizeof(bool));
    bool fine = true;
    int left = plan->n_steps;
    while (fine && left > 0) {
        const int q = (int)rng_below(&rng, 4);
        if (sim.running[q] >= 0) {
            fine = sim_end(&sim, sim.running[q]);
            sim.done[sim.running[q]] = true;
            sim.running[q] = -1;
            left--;
            continue;
        }
        int s = sim.next[q];
        while (s < plan->n_steps && plan->steps[s].queue != q) {
            s++;
        }
        sim.next[q] = s;
        if (s < plan->n_steps && sim_ready(&sim, s)) {
            fine = sim_begin(&sim, s);
            sim.running[q] = s;
            sim.next[q] = s + 1;
        }
    }
    free(sim.cells[ARENA_ACT]);
    free(sim.done);
    return fine;
}

static void random_schedules_never_clobber(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SIMULATED; seed++) {
        Params params = {0};
        Graph g = any_graph(seed, &params);
        fuse_randomly(&g, seed);
        Plan *plan = plan_build(&g, NULL);
        for (uint64_t k = 0; k < SCHEDULES; k++) {
            assert_true(simulate(&g, plan, seed * SCHEDULES + k));
        }
        plan_free(plan);
        graph_free(&g);
        params_free(&params);
    }
}

/* --- corrupted plans --- */

static bool noticed(const Graph *g, const Plan *plan)
{
    char *wrong = plan_check(g, plan);
    free(wrong);
    return wrong != NULL;
}

/* Removes wait k of step s for a moment. Waits are minimal and stand for data, so every single one
 * is missed. */
static bool dropped_wait_is_noticed(const Graph *g, Plan *plan, int s, int k)
{
    PlanStep *step = &plan->steps[s];
    const int kept = step->waits[k];
    memmove(&step->waits[k], &step->waits[k + 1], (size_t)(step->n_waits - k - 1) * sizeof(int));
    step->n_waits--;
    const bool seen = noticed(g, plan);
    step->n_waits++;
    memmove(&step->waits[k + 1], &step->waits[k], (size_t)(step->n_waits - k - 1) * sizeof(int));
    step->waits[k] = kept;
    return seen;
}

static bool moved_tensor_is_noticed(const Graph *g, Plan *plan, int t, size_t offset)
{
    const size_t kept = plan->at[t].offset;
    plan->at[t].offset = offset;
    const bool seen = noticed(g, plan);
    plan->at[t].offset = kept;
    return seen;
}

/* Two tensors that one node reads are live together: neither may lie in the other, not even by its
 * last line. */
static int move_inputs_together(const Graph *g, Plan *plan, const Node *node)
{
    int tried = 0;
    for (int a = 0; a < node->n_in; a++) {
        for (int b = 0; b < node->n_in; b++) {
            const int ta = node->in[a];
            const int tb = node->in[b];
            if (ta < 0 || tb < 0 || ta == tb || plan->at[ta].arena != plan->at[tb].arena) {
                continue;
            }
            assert_true(moved_tensor_is_noticed(g, plan, ta, plan->at[tb].offset));
            if (plan->at[ta].arena == ARENA_ACT &&
                tried == 0) { /* and the simulation, so it can fail as well */
                const size_t kept = plan->at[ta].offset;
                plan->at[ta].offset = plan->at[tb].offset;
                assert_false(simulate(g, plan, 1));
                plan->at[ta].offset = kept;
            }
            const size_t last_line = (plan->at[tb].bytes - 1) / CELL * CELL;
            assert_true(moved_tensor_is_noticed(g, plan, ta, plan->at[tb].offset + last_line));
            tried++;
        }
    }
    return tried;
}

static void corrupted_plans_are_noticed(void **state)
{
    (void)state;
    int waits = 0;
    int moves = 0;
    for (uint64_t seed = 0; seed < MUTATED; seed++) {
        Params params = {0};
        RandomGraphOptions options = {.queues = 3,
                                      .backward = seed % 3 != 0,
                                      .sgd = seed % 3 == 1,
                                      .loss_scale = seed % 3 == 1,
                                      .ops = 8};
        Graph g = random_graph_make(seed, &params, options);
        if (seed % 2 == 0) {
            fuse_randomly(&g, seed);
        }
        Plan *plan = plan_build(&g, NULL);
        assert_false(noticed(&g, plan));
        for (int s = 0; s < plan->n_steps; s++) {
            for (int k = 0; k < plan->steps[s].n_waits; k++) {
                assert_true(dropped_wait_is_noticed(&g, plan, s, k));
                waits++;
            }
            moves += move_inputs_together(&g, plan, &g.nodes[plan->steps[s].node]);
        }
        assert_false(noticed(&g, plan));
        for (int a = 0; a < ARENA_COUNT; a++) {
            bool used = false;
            size_t end = 0;
            for (int t = 0; t < plan->n_tensors; t++) {
                used = used || (int)plan->at[t].arena == a;
                end = (int)plan->at[t].arena == a && plan->at[t].offset + plan->at[t].bytes > end
                          ? plan->at[t].offset + plan->at[t].bytes
                          : end;
            }
            const size_t kept = plan->arena_bytes[a];
            plan->arena_bytes[a] = end > 0 ? end - 1 : 0;
            assert_true(!used || a == ARENA_NONE || noticed(&g, plan));
            plan->arena_bytes[a] = kept;
        }
        plan_free(plan);
        graph_free(&g);
        params_free(&params);
    }
    print_message("noticed: %d dropped waits, %d moved tensors\n", waits, moves);
    assert_true(waits > 1000 && moves > 1000);
}

/* What one step updates in place and others read: on other queues every reader waits for the last
 * writer, and the writer for every reader. */
static void shared_tensors_are_ordered(void **state)
{
    (void)state;
    Graph g;
    graph_init(&g, NULL, 2, DT_F32);
    const int stats = graph_input(&g, "stats", DT_F32, 1, 1, 1, 2, false);
    const int scale = graph_shared(&g, "loss_scale", DT_F32, 2, 128);
    const int other = graph_shared(&g, "other_scale", DT_F32, 2, 64);
    const LossScaleAttr attr = {.growth = 2, .backoff = 0.5F, .interval = 10};
    const int order[5] = {scale, other, scale, other, scale};
    for (int i = 0; i < 5; i++) {
        g.queue = i;
        const int in[2] = {stats, order[i]};
        graph_node(&g, OP_LOSS_SCALE, "scaler", 2, in, 1, &order[i])->attr.loss_scale = attr;
    }
    assert_null(graph_validate(&g));
    Plan *plan = plan_build(&g, NULL);
    assert_false(noticed(&g, plan));
    assert_int_equal(plan->at[scale].arena, ARENA_SHARED);
    assert_int_equal(plan->at[scale].offset, 128);
    assert_int_equal(plan->arena_bytes[ARENA_SHARED], 128 + 2 * sizeof(float));
    for (int s = 0; s < 5; s++) {
        assert_int_equal(plan->steps[s].n_waits, s < 2 ? 0 : 1);
        if (s >= 2) {
            assert_int_equal(plan->steps[s].waits[0], s - 2);
            assert_true(dropped_wait_is_noticed(&g, plan, s, 0));
        }
    }
    assert_true(moved_tensor_is_noticed(&g, plan, scale, 0));
    assert_true(moved_tensor_is_noticed(&g, plan, scale, plan->at[other].offset));
    plan_free(plan);
    g.tensors[scale].shared = g.tensors[other].shared + 4; /* the graph itself is wrong */
    plan = plan_build(&g, NULL);
    assert_true(noticed(&g, plan));
    plan_free(plan);
    graph_free(&g);
}

static void small_corruptions_are_noticed(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    Plan *plan = plan_build(&g, NULL);
    assert_false(noticed(&g, plan));
    plan->param_ready[0]--;
    assert_true(noticed(&g, plan));
    plan->param_ready[0]++;
    const int weight = graph_find_tensor(&g, "a.conv1.weight");
    assert_true(moved_tensor_is_noticed(&g, plan, weight, 0));
    const int logits = graph_find_tensor(&g, "logits");
    plan->at[logits].arena = ARENA_ACT;
    assert_true(noticed(&g, plan));
    plan->at[logits].arena = ARENA_NONE;
    assert_true(noticed(&g, plan));
    plan->at[logits].arena = ARENA_PERSIST;
    plan->at[logits].bytes--;
    assert_true(noticed(&g, plan));
    plan->at[logits].bytes++;
    const int first = plan->steps[0].node;
    plan->steps[0].node = plan->steps[1].node;
    assert_true(noticed(&g, plan));
    plan->steps[0].node = first;
    plan->steps[1].queue = 1;
    assert_true(noticed(&g, plan));
    plan->steps[1].queue = 0;
    assert_false(noticed(&g, plan));
    plan_free(plan);
    graph_free(&g);
    params_free(&params);
}

/* An in-place chain where a second reader of the old value still runs must be refused, and found by
 * the checker. */
static void inplace_needs_the_last_reader(void **state)
{
    (void)state;
    Params params = {0};
    params_finish(&params);
    Graph g;
    graph_init(&g, &params, 4, DT_F32);
    const int x = graph_input(&g, "x", DT_F32, 4, 4, 4, 8, true);
    const int a = graph_relu(&g, "a", x);
    const int b = graph_relu(&g, "b", a);
    const int c = graph_add(&g, "c", b, a);
    const int d = graph_add(&g, "d", c, c);
    const int e = graph_avgpool(&g, "e", d, 4, 1, 0);
    graph_output(&g, e, NULL);
    Plan *plan = plan_build(&g, NULL);
    assert_false(noticed(&g, plan));
    assert_int_equal(plan->at[x].arena, ARENA_IO);
    assert_true(plan->at[a].offset != plan->at[b].offset); /* a is read again by c */
    assert_int_equal(plan->at[c].offset, plan->at[b].offset);
    assert_int_equal(plan->at[d].offset, plan->at[c].offset);
    assert_int_equal(plan->arena_bytes[ARENA_ACT], 2 * tensor_bytes(&g.tensors[a]));
    assert_true(moved_tensor_is_noticed(&g, plan, b, plan->at[a].offset));
    plan_free(plan);
    graph_free(&g);
    params_free(&params);
}

/* Two readers of a: on one queue the later may overwrite it; on two queues neither knows that the
 * other is over. */
static void inplace_looks_across_queues(void **state)
{
    (void)state;
    for (int queue = 0; queue < 2; queue++) {
        Params params = {0};
        Graph g;
        graph_init(&g, &params, 4, DT_F32);
        const int a = graph_relu(&g, "a", graph_input(&g, "x", DT_F32, 4, 4, 4, 8, true));
        g.queue = queue;
        const int b = graph_relu(&g, "b", a);
        g.queue = 0;
        const int c = graph_relu(&g, "c", a);
        graph_output(&g, graph_avgpool(&g, "d", c, 4, 1, 0), NULL);
        graph_output(&g, graph_avgpool(&g, "e", b, 4, 1, 0), NULL);
        Plan *plan = plan_build(&g, NULL);
        assert_false(noticed(&g, plan));
        assert_true(plan->at[b].offset != plan->at[a].offset);
        assert_int_equal(plan->at[c].offset == plan->at[a].offset, queue == 0);
        assert_int_equal(moved_tensor_is_noticed(&g, plan, c, plan->at[a].offset), queue == 1);
        plan_free(plan);
        graph_free(&g);
    }
}

/* A convolution's own input cannot be overwritten by its output, even when it is the residual as
 * well. */
static void inplace_residual_is_not_the_input(void **state)
{
    (void)state;
    Params params = {0};
    const int shape[4] = {8, 8, 3, 3};
    const int w = params_add(&params, "w", ROLE_CONV_WEIGHT, 4, shape, false, INIT_NORMAL, 0.1);
    params_finish(&params);
    for (int same = 0; same < 2; same++) {
        Graph g;
        graph_init(&g, &params, 4, DT_F32);
        const int x = graph_input(&g, "x", DT_F32, 4, 4, 4, 8, true);
        const int a = graph_avgpool(&g, "a", x, 3, 1, 1);
        const int b = graph_avgpool(&g, "b", x, 3, 1, 1);
        const int c = graph_conv(&g, "c", b, w, -1, 1, 1, 1);
        const int d = graph_add(&g, "d", c, same ? b : a);
        const int e = graph_avgpool(&g, "e", d, 4, 1, 0);
        graph_output(&g, e, NULL);
        assert_int_equal(net_fuse(&g, FUSE_ALL), 1);
        assert_null(graph_validate(&g));
        Plan *plan = plan_build(&g, NULL);
        assert_false(noticed(&g, plan));
        assert_int_equal(plan->at[c].arena, ARENA_NONE);
        if (same) {
            assert_true(plan->at[d].offset != plan->at[b].offset);
            assert_true(moved_tensor_is_noticed(&g, plan, d, plan->at[b].offset));
        } else {
            assert_int_equal(plan->at[d].offset, plan->at[a].offset);
        }
        plan_free(plan);
        graph_free(&g);
    }
    params_free(&params);
}

static void smaller_rungs_use_the_same_plan(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        Params params = {0};
        RandomGraphOptions options = {.batch = 8, .queues = 2, .backward = true};
        Graph g = random_graph_make(seed, &params, options);
        Plan *plan = plan_build(&g, NULL);
        for (int batch = 1; batch <= 8; batch++) {
            Graph rung = graph_rebatch(&g, batch);
            assert_null(graph_validate(&rung));
            assert_int_equal(rung.tensors[graph_find_tensor(&rung, "logits")].n, batch);
            assert_proven(&rung, plan, seed, "rung");
            graph_free(&rung);
        }
        Graph larger = graph_rebatch(&g, 9);
        assert_true(noticed(&larger, plan));
        graph_free(&larger);
        plan_free(plan);
        graph_free(&g);
        params_free(&params);
    }
}

/* Most bytes of ACT that are live at one step when steps run one by one: no plan can need less. */
static size_t live_bound(const Graph *g, const Plan *plan)
{
    size_t *live = xcalloc((size_t)plan->n_steps + 2, sizeof *live);
    int *first = xmalloc(((size_t)g->n_tensors + 1) * sizeof *first);
    int *last = xmalloc(((size_t)g->n_tensors + 1) * sizeof *last);
    memset(first, 0xFF, ((size_t)g->n_tensors + 1) * sizeof *first);
    for (int s = 0; s < plan->n_steps; s++) {
        const Node *node = &g->nodes[plan->steps[s].node];
        for (int k = 0; k < node->n_in + node->n_out; k++) {
            const int t = k < node->n_in ? node->in[k] : node->out[k - node->n_in];
            if (t >= 0) {
                first[t] = first[t] < 0 ? s : first[t];
                last[t] = s;
            }
        }
    }
    for (int t = 0; t < g->n_tensors; t++) {
        for (int s = first[t]; plan->at[t].arena == ARENA_ACT && s <= last[t]; s++) {
            /* What is written in place of something read here need not be counted beside it. */
            bool taken = false;
            const Node *node = &g->nodes[plan->steps[s].node];
            for (int k = 0; s == first[t] && k < node->n_in; k++) {
                taken = taken || (node->in[k] >= 0 && plan->at[node->in[k]].arena == ARENA_ACT &&
                                  plan->at[node->in[k]].offset == plan->at[t].offset);
            }
            live[s] += taken ? 0 : plan->at[t].bytes;
        }
    }
    size_t most = 0;
    for (int s = 0; s < plan->n_steps; s++) {
        most = live[s] > most ? live[s] : most;
    }
    free(live);
    free(first);
    free(last);
    return most;
}

static void large_networks_plan_fast_and_tight(void **state)
{
    (void)state;
    const int blocks[4] = {3, 8, 36, 3};
    for (int mode = 0; mode < 3; mode++) {
        Params params = {0};
        const bool train = mode > 0;
        Graph g =
            net_bottleneck(&params, train ? BN_TRAIN : BN_EVAL, train, train, blocks, 64, DT_BF16);
        assert_int_equal(params_count(&params, ""), 60192808); /* torchvision's resnet152 */
        const double t0 = now_s();
        const int nodes = g.n_nodes;
        if (mode != 1) {
            net_fuse(&g, FUSE_ALL);
        }
        const double t1 = now_s();
        Plan *plan = plan_build(&g, NULL);
        const double t2 = now_s();
        assert_proven(&g, plan, 0, "resnet152");
        const double t3 = now_s();
        const size_t bound = live_bound(&g, plan);
        print_message("resnet152 %s: %d nodes, %d fused (%.3f s), plan %.3f s, check %.3f s; ACT "
                      "%.1f MB, bound %.1f, "
                      "unshared %.1f\n",
                      train ? "training" : "inference", nodes, g.n_nodes, t1 - t0, t2 - t1, t3 - t2,
                      (double)plan->arena_bytes[ARENA_ACT] / 1e6, (double)bound / 1e6,
                      (double)plan->act_bytes_unshared / 1e6);
        assert_true(t2 - t1 < 1.0);
        assert_true((double)plan->arena_bytes[ARENA_ACT] < 1.1 * (double)bound);
        plan_free(plan);
        graph_free(&g);
        params_free(&params);
    }
}

/* Registration order is forward order, so gradients become ready from the front of the arena to its
 * end. */
static void gradients_become_ready_front_to_back(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    net_fuse(&g, FUSE_ALL);
    Plan *plan = plan_build(&g, NULL);
    int before_block = -1;
    int after_block = plan->n_steps;
    for (int i = 0; i < params.count; i++) {
        assert_int_equal(plan->param_ready[i] >= 0, params.items[i].arena == ARENA_WEIGHT);
        const int ready = plan->param_ready[i];
        if (ready >= 0 && strncmp(params.items[i].name, "b.", 2) == 0) {
            before_block = ready > before_block ? ready : before_block;
        }
        if (ready >= 0 && strncmp(params.items[i].name, "a.", 2) == 0) {
            after_block = ready < after_block ? ready : after_block;
        }
    }
    assert_true(before_block < after_block);
    const int fc = params_find(&params, "fc.bias");
    assert_int_equal(params.items[fc].offset, 0);
    plan_free(plan);
    graph_free(&g);
    params_free(&params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_graphs_are_planned_safely),
        cmocka_unit_test(random_schedules_never_clobber),
        cmocka_unit_test(corrupted_plans_are_noticed),
        cmocka_unit_test(shared_tensors_are_ordered),
        cmocka_unit_test(small_corruptions_are_noticed),
        cmocka_unit_test(inplace_needs_the_last_reader),
        cmocka_unit_test(inplace_looks_across_queues),
        cmocka_unit_test(inplace_residual_is_not_the_input),
        cmocka_unit_test(smaller_rungs_use_the_same_plan),
        cmocka_unit_test(large_networks_plan_fast_and_tight),
        cmocka_unit_test(gradients_become_ready_front_to_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
