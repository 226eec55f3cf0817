/* exec_run_watched: who looks on sees every step and changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "exec_snapshot.h"

typedef struct {
    Exec *exec;
    int seen;
    double seconds;
    double *logits; /* as the node that makes them left them */
} Watched;

static void look_on(void *context, const Graph *graph, int node, double seconds)
{
    Watched *w = context;
    const PlanStep *step = &exec_plan(w->exec)->steps[w->seen++];
    assert_int_equal(node, step->node);
    assert_true(seconds >= 0);
    w->seconds += seconds;
    const int logits = graph_find_tensor(graph, "logits");
    for (int o = 0; o < graph->nodes[node].n_out; o++) {
        if (graph->nodes[node].out[o] == logits) {
            const Tensor *t = &graph->tensors[logits];
            float *values = xmalloc(tensor_bytes(t));
            assert_true(exec_peek(w->exec, graph, logits, values));
            for (size_t i = 0; i < tensor_elems(t); i++) {
                w->logits[i] = (double)values[i];
            }
            free(values);
        }
    }
}

/* Every step is seen once and in order, its outputs are there to be looked at, and the results are the same bits; also
 * where queues are threads. */
static void test_watched_runs(void **state)
{
    (void)state;
    for (int threads = 0; threads < 2; threads++) {
        Backend *backend = NULL;
        const BackendOptions options = {.queue_threads = threads, .delay_seed = 5};
        assert_null(backend_open("ref", &options, &backend));
        Params params = {0};
        Graph g =
            random_graph_make(6, &params, (RandomGraphOptions){.act = DT_F32, .backward = true});
        Snapshot *taken[2];
        for (int watched = 0; watched < 2; watched++) {
            Rig rig;
            assert_null(rig_open(&rig, backend, &g, NULL));
            snapshot_write_inputs(&rig, &g, 6);
            snapshot_write_params(&rig, g.params, 6);
            rig_refresh(&rig);
            const ExecRun run = {
                .rows = g.batch, .bn_update = true, .scale = 1.0F / (float)g.batch};
            Watched w = {.exec = rig.exec, .logits = xcalloc(4096, sizeof *w.logits)};
            if (watched) {
                exec_run_watched(rig.exec, &run, look_on, &w);
                assert_int_equal(w.seen, exec_plan(rig.exec)->n_steps);
                assert_true(w.seconds > 0);
            } else {
                exec_run(rig.exec, &run);
            }
            taken[watched] = snapshot_take(&rig, &g);
            bool compared = !watched;
            for (int i = 0; watched && i < taken[0]->count; i++) {
                const SnapshotItem *item = &taken[0]->items[i];
                if (strcmp(item->name, "logits") == 0) {
                    assert_memory_equal(item->values, w.logits, item->elems * sizeof *w.logits);
                    compared = true;
                }
            }
            assert_true(compared);
            free(w.logits);
            rig_close(&rig);
        }
        const char *where = NULL;
        assert_true(snapshot_difference(taken[1], taken[0], g.batch, &where) == 0);
        snapshot_free(taken[0]);
        snapshot_free(taken[1]);
        graph_free(&g);
        params_free(&params);
        backend_close(backend);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watched_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
