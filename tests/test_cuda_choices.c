/* Timed choices of the cuda backend on the emulated device, which then proposes three engines a convolution: they are
 * recorded, taken again, and neither they nor the plan cache change a bit. Skipped where the emulated library is not the
 * one that CUDISTILL_CUDA_LIBRARY names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/files.h"
#include "graph_nets.h"
#include "rig.h"

#include <unistd.h>

enum { BATCH = 4, SIZE = 6, CHANNELS = 8 };

static bool emulated(void)
{
    const char *library = getenv("CUDISTILL_CUDA_LIBRARY");
    return library && strstr(library, "emu");
}

typedef struct {
    double y[BATCH * SIZE * SIZE * CHANNELS];
    int count; /* of choices afterwards */
} Result;

/* One convolution on a backend of its own. */
static Result run_once(Choices *choices, const char *plan_cache)
{
    Params params = {0};
    Graph g;
    Backend *backend = NULL;
    Rig rig;
    Result result = {.count = 0};
    double x[BATCH * SIZE * SIZE * CHANNELS];
    graph_init(&g, &params, BATCH, DT_F16);
    const int input = graph_input(&g, "x", DT_F16, BATCH, SIZE, SIZE, CHANNELS, true);
    Net net = {.params = &params, .g = &g, .bn = BN_EVAL, .trainable = true};
    const int y = net_conv(&net, "conv", input, CHANNELS, 3, 1);
    params_finish(&params);
    graph_output(&g, y, "y");
    const BackendOptions options = {.choices = choices, .plan_cache = plan_cache};
    Err *err = backend_open("cuda", &options, &backend);
    err = err ? err : rig_open(&rig, backend, &g, &(ExecOptions){.poison = true});
    if (err) {
        fail_msg("%s", err->message);
    }
    for (int i = 0; i < BATCH * SIZE * SIZE * CHANNELS; i++) {
        x[i] = i % 7 - 3;
    }
    double w[CHANNELS * CHANNELS * 9];
    for (int i = 0; i < CHANNELS * CHANNELS * 9; i++) {
        w[i] = i % 5 - 2;
    }
    rig_set_param(&rig, ARENA_WEIGHT, 0, w);
    rig_write(&rig, "x", x);
    rig_refresh(&rig);
    rig_run(&rig, BATCH, 1, false, true);
    double *got = rig_read(&rig, "y");
    memcpy(result.y, got, sizeof result.y);
    free(got);
    result.count = choices ? choices->count : 0;
    rig_close(&rig);
    backend_close(backend);
    graph_free(&g);
    params_free(&params);
    return result;
}

static void test_choices(void **state)
{
    (void)state;
    if (!emulated()) {
        print_message("skipped: not on the emulated device\n");
        skip();
    }
    Choices choices = {0};
    setenv("CUDISTILL_EMU_ENGINES", "3", 1);
    const Result plain = run_once(NULL, NULL);
    const Result timed = run_once(&choices, NULL);
    assert_int_equal(timed.count, 1);
    assert_memory_equal(plain.y, timed.y, sizeof plain.y);
    assert_in_range(choices.values[0], 0, 2);
    for (int wanted = 0; wanted < 3; wanted++) {
        choices.values[0] = wanted;
        const Result again = run_once(&choices, NULL);
        assert_int_equal(again.count, 1);
        assert_int_equal(choices.values[0], wanted);
        assert_memory_equal(plain.y, again.y, sizeof plain.y);
    }
    choices.values[0] = 17; /* no such engine: timed anew, and said so */
    (void)run_once(&choices, NULL);
    assert_in_range(choices.values[0], 0, 2);
    unsetenv("CUDISTILL_EMU_ENGINES");
    choices_free(&choices);
}

static void test_cache(void **state)
{
    (void)state;
    if (!emulated()) {
        print_message("skipped: not on the emulated device\n");
        skip();
    }
    char folder[] = "/tmp/cudistill-choices-XXXXXX";
    char **names = NULL;
    size_t count = 0;
    Choices first = {0};
    Choices second = {0};
    assert_non_null(mkdtemp(folder));
    setenv("CUDISTILL_EMU_ENGINES", "3", 1);
    const Result made = run_once(&first, folder);
    Err *err = dir_list(folder, &names, &count);
    assert_null(err);
    assert_int_equal(count, 1);
    names_free(names, count);
    const Result loaded = run_once(&second, folder);
    /* What the first run found to be fastest is what the second one takes. */
    assert_int_equal(second.count, 1);
    assert_int_equal(first.values[0], second.values[0]);
    assert_memory_equal(made.y, loaded.y, sizeof made.y);
    unsetenv("CUDISTILL_EMU_ENGINES");
    choices_free(&first);
    choices_free(&second);
    err_free(dir_remove(folder));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_choices),
                                       cmocka_unit_test(test_cache)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
