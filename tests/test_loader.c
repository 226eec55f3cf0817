/* The loader: the stream of batches against one computed here without threads or slots, for every
 * number of workers, slots and ranks; resuming, seeking, the incomplete last batch, closing in
 * every state, memory and signals. */
#include "data/loader.h"

#include "base/err.h"
#include "base/rng.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { COUNT = 103, SIDE = 9, BATCH = 16, IMAGE = SIDE * SIDE * 3 };

static Dataset *make_dataset(void)
{
    Dataset *dataset = dataset_new("test", "test", SPLIT_TRAIN, COUNT, 7, SIDE, SIDE);
    for (uint32_t i = 0; i < COUNT; i++) {
        Rng rng = rng_make(11, 0, i, RNG_TEST);
        dataset->labels[i] = (int32_t)rng_below(&rng, 7);
        for (size_t p = 0; p < IMAGE; p++) {
            dataset->images[i * IMAGE + p] = (uint8_t)rng_u32(&rng);
        }
    }
    dataset_seal(dataset);
    return dataset;
}

static LoaderConfig base_config(void)
{
    return (LoaderConfig){
        .batch = BATCH, .seed = 42, .augment = {.pad = 2, .flip = true}, .shuffle = true};
}

static Loader *open_loader(const Dataset *dataset, LoaderConfig config)
{
    Loader *loader = NULL;
    Err *err = loader_open(dataset, &config, &loader);
    if (err) {
        fail_msg("%s", err->message);
    }
    return loader;
}

/* What the batch must hold, straight from the definitions. */
static void check_batch(const Dataset *dataset, const LoaderConfig *config, const Batch *batch,
                        uint32_t epoch, uint32_t position)
{
    const int world = config->world ? config->world : 1;
    const uint32_t left = COUNT - position;
    const uint32_t rows = left < config->batch ? left : config->batch;
    const uint32_t begin = rows * (uint32_t)config->rank / (uint32_t)world;
    const uint32_t end = rows * (uint32_t)(config->rank + 1) / (uint32_t)world;
    uint32_t order[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        order[i] = i;
    }
    if (config->shuffle) {
        rng_permutation(config->seed, epoch, order, COUNT);
    }
    assert_int_equal(batch->epoch, epoch);
    assert_int_equal(batch->position, position);
    assert_int_equal(batch->global_n, rows);
    assert_int_equal(batch->global_row, begin);
    assert_int_equal(batch->n, end - begin);
    assert_int_equal(batch->capacity, (config->batch + (uint32_t)world - 1) / (uint32_t)world);
    assert_true(batch->n <= batch->capacity);
    assert_int_equal((uintptr_t)batch->images % 64, 0);
    for (uint32_t row = 0; row < batch->n; row++) {
        const uint32_t id = order[position + begin + row];
        uint8_t want[IMAGE];
        uint8_t scratch[IMAGE];
        augment_apply(config->augment, augment_view(config->seed, epoch, id, config->augment),
                      dataset_image(dataset, id), SIDE, SIDE, want);
        const PolicyDraw draw = policy_draw(&config->policy, config->seed, epoch, id, SIDE, SIDE);
        policy_apply(&config->policy, &draw, want, SIDE, SIDE, scratch);
        assert_int_equal(batch->ids[row], id);
        assert_int_equal(batch->labels[row], dataset->labels[id]);
        assert_memory_equal(batch->images + row * IMAGE, want, IMAGE);
    }
    for (uint32_t row = batch->n; row < batch->capacity; row++) {
        assert_int_equal(batch->ids[row], 0);
        assert_int_equal(batch->labels[row], 0);
        for (size_t p = 0; p < IMAGE; p++) {
            assert_int_equal(batch->images[row * IMAGE + p], 0);
        }
    }
}

/* Runs `epochs` epochs from where the loader stands and checks every batch, holding `lag` older
 * batches. */
static void check_stream(const Dataset *dataset, const LoaderConfig *config, Loader *loader,
                         uint32_t epoch, uint32_t position, uint32_t epochs, int lag)
{
    const Batch *held[8] = {NULL};
    uint64_t taken = 0;
    for (uint32_t e = epoch; e < epoch + epochs; e++) {
        while (COUNT - position >= (config->drop_last ? config->batch : 1)) {
            const LoaderState state = loader_state(loader);
            assert_int_equal(state.epoch, e);
            assert_int_equal(state.position, position);
            const Batch *batch = loader_next(loader);
            assert_non_null(batch);
            check_batch(dataset, config, batch, e, position);
            position += batch->global_n;
            const uint32_t left = COUNT - position;
            assert_int_equal(batch->last, left < (config->drop_last ? config->batch : 1));
            const Batch **oldest = &held[taken++ % (uint64_t)(lag + 1)];
            *oldest = batch;
            const Batch **due = &held[taken % (uint64_t)(lag + 1)];
            if (*due) {
                loader_release(loader, *due);
                *due = NULL;
            }
        }
        assert_null(loader_next(loader));
        position = 0;
    }
    for (int i = 0; i <= lag; i++) {
        if (held[i]) {
            loader_release(loader, held[i]);
        }
    }
}

static void test_same_batches_for_any_workers(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    const int workers[] = {0, 1, 2, 7};
    const int slots[] = {1, 2, 3, 9};
    for (int w = 0; w < 4; w++) {
        for (int s = 0; s < 4; s++) {
            for (int variant = 0; variant < 4; variant++) {
                LoaderConfig config = base_config();
                config.workers = workers[w];
                config.slots = slots[s];
                config.drop_last = variant & 1;
                config.shuffle = !(variant & 2);
                if (variant == 3) {
                    config.augment = (AugmentSpec){0};
                }
                Loader *loader = open_loader(dataset, config);
                assert_int_equal(loader_slots(loader), slots[s]);
                assert_int_equal(loader_batches_per_epoch(loader), config.drop_last ? 6 : 7);
                const int lag = slots[s] > 3 ? 2 : slots[s] - 1;
                check_stream(dataset, &config, loader, 0, 0, 3, lag);
                const LoaderStats stats = loader_stats(loader);
                assert_int_equal(stats.batches, config.drop_last ? 18 : 21);
                assert_int_equal(stats.samples, 3 * (config.drop_last ? 96 : COUNT));
                assert_true(workers[w] > 0 ? stats.wait_s >= 0.0 : stats.wait_s > 0.0);
                loader_close(loader);
            }
        }
    }
    dataset_close(dataset);
}

/* Every policy, for any number of workers, from the beginning and from the middle of an epoch. */
static void test_same_policies_for_any_workers(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    const int workers[] = {0, 1, 3};
    for (int kind = POLICY_NONE; kind <= POLICY_RANDAUGMENT_TORCHVISION; kind++) {
        for (int w = 0; w < 3; w++) {
            LoaderConfig config = base_config();
            config.workers = workers[w];
            config.policy = (PolicySpec){.kind = (PolicyKind)kind,
                                         .n = 3,
                                         .m = 9,
                                         .mstd = 0.5,
                                         .inc = true,
                                         .cutout = 3,
                                         .cutout_prob = 0.5,
                                         .cutout_fill = {200, 100, 50}};
            Loader *loader = open_loader(dataset, config);
            check_stream(dataset, &config, loader, 0, 0, 2, 1);
            loader_seek(loader, 3, 2 * BATCH);
            check_stream(dataset, &config, loader, 3, 2 * BATCH, 1, 0);
            loader_close(loader);
            config.epoch = 1;
            config.position = 3 * BATCH;
            Loader *resumed = open_loader(dataset, config);
            check_stream(dataset, &config, resumed, 1, 3 * BATCH, 1, 0);
            loader_close(resumed);
        }
    }
    dataset_close(dataset);
}

static void test_epoch_covers_every_sample_once(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    LoaderConfig config = base_config();
    config.workers = 2;
    Loader *loader = open_loader(dataset, config);
    uint32_t first_ids[2];
    for (int epoch = 0; epoch < 2; epoch++) {
        int seen[COUNT] = {0};
        bool first = true;
        for (const Batch *batch = loader_next(loader); batch; batch = loader_next(loader)) {
            for (uint32_t row = 0; row < batch->n; row++) {
                seen[batch->ids[row]]++;
            }
            if (first) {
                memcpy(&first_ids[epoch], batch->ids, sizeof first_ids[epoch]);
                first = false;
            }
            loader_release(loader, batch);
        }
        for (uint32_t i = 0; i < COUNT; i++) {
            assert_int_equal(seen[i], 1);
        }
    }
    assert_int_not_equal(first_ids[0], first_ids[1]);
    loader_close(loader);
    dataset_close(dataset);
}

static void test_resume_and_seek_anywhere(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    const uint32_t positions[] = {0,  16,    48,
                                  96, COUNT, 5}; /* COUNT: the end of the epoch comes first */
    for (int workers = 0; workers <= 3; workers += 3) {
        LoaderConfig config = base_config();
        config.workers = workers;
        Loader *seeker = open_loader(dataset, config);
        for (uint32_t epoch = 0; epoch < 2; epoch++) {
            for (size_t p = 0; p < sizeof positions / sizeof positions[0]; p++) {
                LoaderConfig resumed = config;
                resumed.epoch = epoch;
                resumed.position = positions[p];
                Loader *loader = open_loader(dataset, resumed);
                check_stream(dataset, &config, loader, epoch, positions[p], 2, 0);
                loader_close(loader);
                loader_seek(seeker, epoch, positions[p]);
                check_stream(dataset, &config, seeker, epoch, positions[p], 1, 1);
            }
        }
        loader_close(seeker);
    }
    dataset_close(dataset);
}

/* Seeks at moments when workers are in the middle of filling: what they were filling must not be
 * taken for the batch at the new place. */
static void test_seek_while_filling(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    LoaderConfig config = base_config();
    config.batch = 50;
    config.workers = 4;
    Loader *loader = open_loader(dataset, config);
    for (uint32_t i = 0; i < 1000; i++) {
        const uint32_t epoch = i * 7 % 5;
        const uint32_t position = i * 13 % COUNT;
        loader_seek(loader, epoch, position);
        const Batch *batch = loader_next(loader);
        check_batch(dataset, &config, batch, epoch, position);
        loader_release(loader, batch);
    }
    loader_close(loader);
    dataset_close(dataset);
}

static void test_ranks_share_the_global_batches(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    const int worlds[] = {2, 3, 16}; /* 16: the last batch of 7 leaves some ranks without a row */
    for (int w = 0; w < 3; w++) {
        Loader *ranks[16];
        LoaderConfig config = base_config();
        config.world = worlds[w];
        for (int r = 0; r < worlds[w]; r++) {
            config.rank = r;
            config.workers = r % 2;
            ranks[r] = open_loader(dataset, config);
        }
        LoaderConfig alone = base_config();
        Loader *whole = open_loader(dataset, alone);
        for (int step = 0; step < 16; step++) {
            const Batch *all = loader_next(whole);
            uint32_t row = 0;
            for (int r = 0; r < worlds[w]; r++) {
                const Batch *part = loader_next(ranks[r]);
                assert_int_equal(part != NULL, all != NULL);
                if (part && all) {
                    config.rank = r;
                    check_batch(dataset, &config, part, all->epoch, all->position);
                    assert_int_equal(part->global_row, row);
                    assert_memory_equal(part->ids, all->ids + row, part->n * sizeof *part->ids);
                    assert_memory_equal(part->images, all->images + row * IMAGE,
                                        part->n * (size_t)IMAGE);
                    row += part->n;
                    loader_release(ranks[r], part);
                }
            }
            if (all) {
                assert_int_equal(row, all->n);
                loader_release(whole, all);
            }
        }
        loader_close(whole);
        for (int r = 0; r < worlds[w]; r++) {
            loader_close(ranks[r]);
        }
    }
    dataset_close(dataset);
}

static void pause_ms(long ms)
{
    const struct timespec time = {.tv_nsec = ms * 1000000};
    nanosleep(&time, NULL);
}

static void test_close_in_every_state(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    for (int workers = 0; workers <= 4; workers++) {
        for (int taken = 0; taken <= 9; taken++) {
            for (int wait = 0; wait < 2; wait++) {
                LoaderConfig config = base_config();
                config.workers = workers;
                config.slots = 3;
                Loader *loader = open_loader(dataset, config);
                for (int t = 0; t < taken; t++) {
                    const Batch *batch = loader_next(loader);
                    if (batch && t + 1 < taken) { /* the last one stays held */
                        loader_release(loader, batch);
                    }
                }
                if (wait) {
                    pause_ms(1); /* now the slots are full and the workers asleep */
                }
                loader_close(loader);
            }
        }
    }
    loader_close(NULL);
    dataset_close(dataset);
}

static void test_release_in_any_order(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    LoaderConfig config = base_config();
    config.workers = 2;
    config.slots = 4;
    Loader *loader = open_loader(dataset, config);
    for (int round = 0; round < 6; round++) {
        const Batch *a = loader_next(loader);
        a = a ? a : loader_next(loader);
        const Batch *b = loader_next(loader);
        b = b ? b : loader_next(loader);
        const Batch *c = loader_next(loader);
        c = c ? c : loader_next(loader);
        check_batch(dataset, &config, a, a->epoch, a->position);
        check_batch(dataset, &config, b, b->epoch, b->position);
        check_batch(dataset, &config, c, c->epoch, c->position);
        loader_release(loader, c);
        loader_release(loader, a);
        loader_release(loader, b);
    }
    loader_close(loader);
    dataset_close(dataset);
}

/* ---- memory ---- */

typedef struct {
    int live, calls, fail_at;
} Counter;

static void *counting_alloc(void *context, size_t bytes)
{
    Counter *counter = context;
    if (counter->calls++ == counter->fail_at) {
        return NULL;
    }
    counter->live++;
    return xaligned(bytes);
}

static void counting_release(void *context, void *memory)
{
    Counter *counter = context;
    counter->live--;
    free(memory);
}

static void test_slot_memory(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    Counter counter = {.fail_at = -1};
    LoaderConfig config = base_config();
    config.workers = 2;
    config.memory = (LoaderMemory){counting_alloc, counting_release, &counter};
    Loader *loader = open_loader(dataset, config);
    assert_int_equal(counter.calls, 4); /* workers + 2 */
    check_stream(dataset, &config, loader, 0, 0, 2, 0);
    assert_int_equal(counter.calls, 4);
    loader_close(loader);
    assert_int_equal(counter.live, 0);
    for (int fail = 0; fail < 4; fail++) {
        counter = (Counter){.fail_at = fail};
        Err *err = loader_open(dataset, &config, &loader);
        assert_non_null(err);
        assert_null(loader);
        assert_int_equal(err->code, EXIT_OS);
        assert_int_equal(counter.live, 0);
        err_free(err);
    }
    dataset_close(dataset);
}

/* ---- refusals ---- */

static void expect_refused(const Dataset *dataset, LoaderConfig config, ExitCode code,
                           const char *word)
{
    Loader *loader = NULL;
    Err *err = loader_open(dataset, &config, &loader);
    assert_non_null(err);
    assert_null(loader);
    assert_int_equal(err->code, code);
    if (!strstr(err->message, word)) {
        fail_msg("'%s' is not in: %s", word, err->message);
    }
    err_free(err);
}

static void test_bad_configurations(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    LoaderConfig config = base_config();
    config.batch = 0;
    expect_refused(dataset, config, EXIT_CONFIG_ERR, "batch is 0");
    config = base_config();
    config.world = 2;
    config.rank = 2;
    expect_refused(dataset, config, EXIT_CONFIG_ERR, "rank 2 of world 2");
    config = base_config();
    config.world = 17;
    expect_refused(dataset, config, EXIT_CONFIG_ERR, "number of ranks, 17");
    config = base_config();
    config.batch = COUNT + 1;
    config.drop_last = true;
    expect_refused(dataset, config, EXIT_CONFIG_ERR, "drop_last");
    config = base_config();
    config.workers = -1;
    expect_refused(dataset, config, EXIT_CONFIG_ERR, "-1 workers");
    config = base_config();
    config.slots = -3;
    expect_refused(dataset, config, EXIT_CONFIG_ERR, "-3 slots");
    config = base_config();
    config.augment.pad = 128;
    expect_refused(dataset, config, EXIT_CONFIG_ERR, "padding 128");
    config = base_config();
    config.position = COUNT + 1;
    expect_refused(dataset, config, EXIT_BAD_DATA, "position 104");
    dataset_close(dataset);
}

typedef enum { MISUSE_NEXT_ALL_HELD, MISUSE_RELEASE_TWICE, MISUSE_SEEK_WHILE_HELD } Misuse;

/* A bug of the caller ends the process with a message instead of hanging: seen from a child
 * process. */
static int exit_code_of(Misuse misuse)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        LoaderConfig config = base_config();
        config.slots = 2;
        Loader *loader = NULL;
        if (loader_open(make_dataset(), &config, &loader)) {
            _exit(1);
        }
        const Batch *batch = loader_next(loader);
        if (misuse == MISUSE_NEXT_ALL_HELD) {
            loader_next(loader);
            loader_next(loader);
        } else if (misuse == MISUSE_RELEASE_TWICE) {
            loader_release(loader, batch);
            loader_release(loader, batch);
        } else {
            loader_seek(loader, 0, 0);
        }
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_misuse_ends_the_process(void **state)
{
    (void)state;
    assert_int_equal(exit_code_of(MISUSE_NEXT_ALL_HELD), EXIT_INTERNAL);
    assert_int_equal(exit_code_of(MISUSE_RELEASE_TWICE), EXIT_INTERNAL);
    assert_int_equal(exit_code_of(MISUSE_SEEK_WHILE_HELD), EXIT_INTERNAL);
}

/* A signal for the process must reach the main thread. It is blocked here only after the workers
 * were started: were it open in a worker, its default action would end this program. */
static void test_workers_block_signals(void **state)
{
    (void)state;
    Dataset *dataset = make_dataset();
    LoaderConfig config = base_config();
    config.workers = 3;
    Loader *loader = open_loader(dataset, config);
    sigset_t set;
    sigset_t before;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, &set, &before), 0);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    check_stream(dataset, &config, loader, 0, 0, 1, 0);
    const struct timespec limit = {.tv_sec = 5};
    assert_int_equal(sigtimedwait(&set, NULL, &limit), SIGUSR1);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    loader_close(loader);
    dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_batches_for_any_workers),
        cmocka_unit_test(test_same_policies_for_any_workers),
        cmocka_unit_test(test_epoch_covers_every_sample_once),
        cmocka_unit_test(test_resume_and_seek_anywhere),
        cmocka_unit_test(test_seek_while_filling),
        cmocka_unit_test(test_ranks_share_the_global_batches),
        cmocka_unit_test(test_close_in_every_state),
        cmocka_unit_test(test_release_in_any_order),
        cmocka_unit_test(test_slot_memory),
        cmocka_unit_test(test_bad_configurations),
        cmocka_unit_test(test_misuse_ends_the_process),
        cmocka_unit_test(test_workers_block_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
