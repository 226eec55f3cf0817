/* Nodes of a step around the networks, on ref and cpu: gathered rows and augmented views against
 * the data layer, the loss scale against PyTorch's rule step by step, and that scaling the loss by a
 * power of two changes no bit of the weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "data/augment.h"
#include "exec_snapshot.h"

static const char *const BACKENDS[] = {"ref", "cpu"};

static Backend *open_backend(const char *name)
{
    Backend *backend = NULL;
    Err *err = backend_open(name, NULL, &backend);
    if (err) {
        fail_msg("%s", err->message);
    }
    return backend;
}

static void open_graph(Rig *rig, Backend *backend, const Graph *g)
{
    Err *err = rig_open(rig, backend, g, &(ExecOptions){.check_plan = true, .poison = true});
    if (err) {
        fail_msg("%s", err->message);
    }
}

/* ---- Views ---- */

enum { SET = 11, HEIGHT = 6, WIDTH = 5, PIXELS = HEIGHT * WIDTH * 3, BATCH = 4, PAD = 2 };

typedef struct {
    uint8_t images[SET * PIXELS];
    int32_t labels[SET], order[SET];
} Set;

static void fill_set(Set *set)
{
    for (int i = 0; i < SET * PIXELS; i++) {
        set->images[i] = (uint8_t)(i * 7 % 251 + 1);
    }
    for (int i = 0; i < SET; i++) {
        set->labels[i] = 100 + i;
        set->order[i] = (i * 4 + 3) % SET;
    }
}

static void check_views(Backend *backend, const Set *set, const int32_t cursor[4], int rows)
{
    Params params = {0};
    params_finish(&params);
    Graph g;
    graph_init(&g, &params, BATCH, DT_F32);
    int out[3];
    graph_views(&g, "views", graph_input(&g, "set", DT_U8, SET, HEIGHT, WIDTH, 3, false),
                graph_input(&g, "labels", DT_I32, SET, 1, 1, 1, false),
                graph_input(&g, "order", DT_I32, SET, 1, 1, 1, false),
                graph_input(&g, "cursor", DT_I32, 1, 1, 1, 4, false),
                (ViewsAttr){.pad = PAD, .flip = true}, out);
    for (int i = 0; i < 3; i++) {
        graph_output(&g, out[i], NULL);
    }
    Rig rig;
    open_graph(&rig, backend, &g);
    exec_write(rig.exec, "set", set->images, sizeof set->images);
    exec_write(rig.exec, "labels", set->labels, sizeof set->labels);
    exec_write(rig.exec, "order", set->order, sizeof set->order);
    exec_write(rig.exec, "cursor", cursor, 4 * sizeof cursor[0]);
    rig_run(&rig, rows, 1, false, false);
    uint8_t images[BATCH * PIXELS];
    int32_t labels[BATCH];
    int32_t ids[BATCH];
    exec_read(rig.exec, "views.images", images, sizeof images);
    exec_read(rig.exec, "views.labels", labels, sizeof labels);
    exec_read(rig.exec, "views.ids", ids, sizeof ids);
    const uint64_t seed = (uint64_t)(uint32_t)cursor[3] << 32 | (uint32_t)cursor[2];
    const AugmentSpec spec = {.pad = PAD, .flip = true};
    for (int i = 0; i < BATCH; i++) {
        uint8_t want[PIXELS] = {0};
        const bool there = i < rows && cursor[1] + i < SET;
        const int id = there ? set->order[cursor[1] + i] : 0;
        if (there) {
            augment_apply(spec, augment_view(seed, (uint32_t)cursor[0], (uint32_t)id, spec),
                          set->images + (size_t)id * PIXELS, HEIGHT, WIDTH, want);
        }
        assert_memory_equal(images + (size_t)i * PIXELS, want, PIXELS);
        assert_int_equal(labels[i], there ? set->labels[id] : 0);
        assert_int_equal(ids[i], id);
    }
    rig_close(&rig);
    graph_free(&g);
    params_free(&params);
}

static void views_are_those_of_the_data_layer(void **state)
{
    (void)state;
    static const int32_t cursors[][4] = {
        {0, 0, 1, 0}, {7, 3, -5, 12}, {7, SET - BATCH, 123, -1}, {1, SET - 1, 9, 9}};
    Set set;
    fill_set(&set);
    for (int b = 0; b < 2; b++) {
        Backend *backend = open_backend(BACKENDS[b]);
        for (int i = 0; i < 4; i++) {
            for (int rows = BATCH - 1; rows <= BATCH; rows++) {
                check_views(backend, &set, cursors[i], rows);
            }
        }
        backend_close(backend);
    }
}

/* ---- Gather ---- */

static void gather_moves_rows(void **state)
{
    (void)state;
    const float table[4][3] = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}};
    const int32_t index[BATCH] = {3, 0, -1, 4};
    for (int b = 0; b < 2; b++) {
        Backend *backend = open_backend(BACKENDS[b]);
        Params params = {0};
        params_finish(&params);
        Graph g;
        graph_init(&g, &params, BATCH, DT_F32);
        const int rows = graph_input(&g, "table", DT_F32, 4, 1, 1, 3, false);
        const int ids = graph_input(&g, "index", DT_I32, BATCH, 1, 1, 1, true);
        graph_output(&g, graph_gather(&g, "rows", rows, ids), NULL);
        Rig rig;
        open_graph(&rig, backend, &g);
        exec_write(rig.exec, "table", table, sizeof table);
        exec_write(rig.exec, "index", index, sizeof index);
        rig_run(&rig, BATCH, 1, false, false);
        double *got = rig_read(&rig, "rows");
        for (int i = 0; i < 3; i++) {
            assert_true(got[i] == (double)table[3][i] && got[3 + i] == (double)table[0][i]);
            assert_true(isnan(got[6 + i]) && isnan(got[9 + i])); /* no such rows */
        }
        free(got);
        rig_close(&rig);
        graph_free(&g);
        params_free(&params);
        backend_close(backend);
    }
}

/* ---- Loss scale ---- */

/* torch.amp.GradScaler(init_scale=65536, growth_factor=2, backoff_factor=0.5, growth_interval=3) on
 * this sequence of found_inf. */
static void loss_scale_follows_pytorch(void **state)
{
    (void)state;
    static const struct {
        int bad;
        double scale, good;
    } steps[] = {{0, 65536, 1}, {0, 65536, 2}, {0, 131072, 0}, {0, 131072, 1},
                 {2, 65536, 0}, {1, 32768, 0}, {0, 32768, 1},  {0, 32768, 2},
                 {1, 16384, 0}, {0, 16384, 1}, {0, 16384, 2},  {0, 32768, 0}};
    for (int b = 0; b < 2; b++) {
        Backend *backend = open_backend(BACKENDS[b]);
        Params params = {0};
        params_finish(&params);
        Graph g;
        graph_init(&g, &params, 1, DT_F32);
        const int stats = graph_input(&g, "stats", DT_F32, 1, 1, 1, 2, false);
        const int scale = graph_shared(&g, "loss_scale", DT_F32, 2, 64);
        graph_node(&g, OP_LOSS_SCALE, "scaler", 2, (int[]){stats, scale}, 1, &scale)
            ->attr.loss_scale = (LossScaleAttr){.growth = 2, .backoff = 0.5F, .interval = 3};
        Rig rig;
        open_graph(&rig, backend, &g);
        rig_write(&rig, "loss_scale", (double[]){65536, 0});
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            rig_write(&rig, "stats", (double[]){1, steps[i].bad});
            rig_run(&rig, 1, 1, false, false);
            double *got = rig_read(&rig, "loss_scale");
            assert_true(got[0] == steps[i].scale && got[1] == steps[i].good);
            free(got);
        }
        rig_close(&rig);
        graph_free(&g);
        params_free(&params);
        backend_close(backend);
    }
}

/* The gradients are 4 times as large and are divided by 4: both exact. Clipping sees the true
 * norm. */
static void scaling_the_loss_changes_no_weight(void **state)
{
    (void)state;
    for (int b = 0; b < 2; b++) {
        Backend *backend = open_backend(BACKENDS[b]);
        for (uint64_t seed = 1; seed <= 6; seed++) {
            Snapshot *snapshots[2];
            for (int scaled = 0; scaled < 2; scaled++) {
                Params params = {0};
                Graph g = random_graph_make(
                    seed, &params,
                    (RandomGraphOptions){
                        .act = DT_F32, .backward = true, .sgd = true, .loss_scale = scaled != 0});
                snapshots[scaled] = snapshot_run(backend, &g, NULL, g.batch, seed, NULL, NULL);
                graph_free(&g);
                params_free(&params);
            }
            int weights = 0;
            for (int i = 0; i < snapshots[0]->count; i++) {
                const SnapshotItem *plain = &snapshots[0]->items[i];
                const SnapshotItem *same = NULL;
                for (int k = 0; k < snapshots[1]->count; k++) {
                    const SnapshotItem *item = &snapshots[1]->items[k];
                    same = strcmp(item->name, plain->name) == 0 ? item : same;
                }
                assert_non_null(same);
                const double factor = strstr(plain->name, " gradient") ? 4 : 1;
                for (size_t e = 0; e < plain->elems; e++) {
                    assert_true(same->values[e] == factor * plain->values[e]);
                    weights += factor > 1 && plain->values[e] != 0;
                }
            }
            assert_true(weights > 0);
            snapshot_free(snapshots[0]);
            snapshot_free(snapshots[1]);
        }
        backend_close(backend);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_are_those_of_the_data_layer),
        cmocka_unit_test(gather_moves_rows),
        cmocka_unit_test(loss_scale_follows_pytorch),
        cmocka_unit_test(scaling_the_loss_changes_no_weight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
