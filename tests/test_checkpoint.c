/* host/train/checkpoint.c and lock.c: what is saved, found, kept and refused. Failing system calls, crashes and kills are
 * in test_checkpoint_faults.c. */
#include "checkpoint_place.h"

#include "base/rng.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- Saving ---- */

static void test_save_and_find(void **state)
{
    const Place *place = *state;
    assert_int_equal(newest_step(place->root, 1), -1);
    assert_ok(save(place->root, 12, 1000, 3));
    assert_listing(place->root, "latest step-000000012 ");
    assert_link(place->root, "latest", "step-000000012");
    char *path = path_join(place->root, "step-000000012");
    assert_listing(path, "MANIFEST empty model.safetensors state.json ");
    assert_ok(checkpoint_verify(path));
    free(path);
    assert_int_equal(newest_step(place->root, 1000), 12);
    assert_ok(save(place->root, 7, 1000, 3));
    assert_int_equal(newest_step(place->root, 1000), 12);
    /* Beyond nine digits order is that of numbers. */
    assert_ok(save(place->root, 2000000000L, 1000, 3));
    assert_ok(save(place->root, 999999999L, 1000, 3));
    assert_int_equal(newest_step(place->root, 1000), 2000000000L);
    /* Names that are not a checkpoint's are left alone. */
    char *odd = path_join(place->root, "step-13");
    assert_ok(dir_make(odd));
    assert_int_equal(newest_step(place->root, 1000), 2000000000L);
    assert_true(path_is_dir(odd));
    free(odd);
}

static void test_keep_last_and_best(void **state)
{
    const Place *place = *state;
    for (long step = 1; step <= 6; step++) {
        assert_ok(save(place->root, step, 100, 2));
        if (step == 1) {
            assert_ok(checkpoint_mark(place->root, "best", 1));
        }
    }
    assert_listing(place->root, "best latest step-000000001 step-000000005 step-000000006 ");
    assert_link(place->root, "best", "step-000000001");
    assert_link(place->root, "latest", "step-000000006");
    assert_ok(checkpoint_mark(place->root, "best", 6));
    assert_ok(save(place->root, 7, 100, 1));
    assert_listing(place->root, "best latest step-000000006 step-000000007 ");
    /* The one just saved stays, even when older than others. */
    assert_ok(save(place->root, 3, 100, 1));
    assert_listing(place->root, "best latest step-000000003 step-000000006 step-000000007 ");
    assert_ok(save(place->root, 8, 100, 0));
    assert_ok(save(place->root, 9, 100, -1));
    assert_listing(place->root,
                   "best latest step-000000003 step-000000006 step-000000007 step-000000008 "
                   "step-000000009 ");
    assert_err(checkpoint_mark(place->root, "best", 77), EXIT_NO_INPUT, "step-000000077");
    assert_link(place->root, "best", "step-000000006");
}

static void test_writer_fails(void **state)
{
    const Place *place = *state;
    Payload payload = {.step = 3, .size = 100, .fail = true};
    assert_err(checkpoint_save(place->root, 3, 100, 2, write_payload, &payload), EXIT_INTERNAL,
               "checkpoint of step 3 was not saved");
    assert_listing(place->root, "");
    assert_ok(save(place->root, 2, 100, 2));
    assert_err(checkpoint_save(place->root, 3, 100, 2, write_payload, &payload), EXIT_INTERNAL,
               "the writer gives up");
    assert_listing(place->root, "latest step-000000002 ");
    assert_int_equal(newest_step(place->root, 100), 2);
}

static void test_no_space(void **state)
{
    const Place *place = *state;
    Payload payload = {.step = 3, .size = 100};
    assert_err(checkpoint_save(place->root, 3, (size_t)1 << 62, 2, write_payload, &payload),
               EXIT_IO, "MB free");
    assert_listing(place->root, "");
}

/* Runs `body` in a child and returns its status. */
static int in_child(int (*body)(const Place *), const Place *place)
{
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(body(place));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* 0 when the error is as expected. */
static int judge(Err *err, ExitCode code, const char *part)
{
    const bool right = err != NULL && err->code == code && strstr(err->message, part) != NULL;
    if (!right) {
        log_error("%s", err != NULL ? err->message : "no error");
    }
    err_free(err);
    return right ? 0 : 1;
}

static int save_beyond_limit(const Place *place)
{
    const struct rlimit limit = {100000, 100000};
    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) {
        return 2;
    }
    return judge(save(place->root, 2, 1 << 20, 3), EXIT_IO, "model.safetensors': File too large");
}

static void test_file_size_limit(void **state)
{
    const Place *place = *state;
    assert_ok(save(place->root, 1, 1000, 3));
    assert_int_equal(in_child(save_beyond_limit, place), 0);
    assert_listing(place->root, "latest step-000000001 ");
    assert_int_equal(newest_step(place->root, 1000), 1);
}

static int save_without_permission(const Place *place)
{
    /* root may write anywhere. */
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) {
        return 2;
    }
    if (judge(save(place->root, 2, 100, 3), EXIT_NOT_PERMITTED, place->root) != 0) {
        return 3;
    }
    /* Reading works; what cannot be repaired there is a warning. */
    char *path = NULL;
    Err *err = checkpoint_newest(place->root, &path);
    return err == NULL && path != NULL && step_of(path) == 1 ? 0 : 4;
}

static int find_unreadable(const Place *place)
{
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) {
        return 2;
    }
    char *path = NULL;
    return judge(checkpoint_newest(place->root, &path), EXIT_NOT_PERMITTED, "Permission denied");
}

static void test_permissions(void **state)
{
    const Place *place = *state;
    assert_ok(save(place->root, 1, 100, 3));
    assert_int_equal(chmod(place->dir, 0755), 0);
    assert_int_equal(chmod(place->root, 0555), 0);
    assert_int_equal(in_child(save_without_permission, place), 0);
    assert_listing(place->root, "latest step-000000001 ");
    /* A checkpoint, or a root, that may not be read is neither damage nor a fresh start. */
    char *path = path_join(place->root, "step-000000001");
    assert_int_equal(chmod(path, 0), 0);
    assert_int_equal(in_child(find_unreadable, place), 0);
    assert_int_equal(chmod(path, 0755), 0);
    assert_int_equal(chmod(place->root, 0), 0);
    assert_int_equal(in_child(find_unreadable, place), 0);
    assert_int_equal(chmod(place->root, 0755), 0);
    assert_listing(place->root, "latest step-000000001 ");
    free(path);
}

/* ---- Damage ---- */

static void assert_damaged(const char *dir)
{
    Err *err = checkpoint_verify(dir);
    assert_non_null(err);
    assert_non_null(strstr(err->message, dir));
    assert_true(err->code == EXIT_BAD_DATA || err->code == EXIT_NO_INPUT);
    err_free(err);
}

/* Flips one bit in each of `trials` bytes (all bytes when there are fewer) and cuts the file at as many places. */
static void check_damage(const char *dir, const char *name, size_t trials)
{
    char *path = path_join(dir, name);
    uint8_t *bytes = NULL;
    const size_t size = read_whole(path, &bytes);
    Rng rng = rng_make(5, 0, size, RNG_TEST);
    const size_t count = size < trials ? size : trials;
    for (size_t i = 0; i < count; i++) {
        const size_t at = size <= trials ? i : rng_below(&rng, (uint32_t)size);
        const uint8_t bit = (uint8_t)(1u << rng_below(&rng, 8));
        bytes[at] ^= bit;
        write_whole(path, bytes, size);
        assert_damaged(dir);
        bytes[at] ^= bit;
        write_whole(path, bytes, at);
        assert_damaged(dir);
    }
    if (strcmp(name, "MANIFEST") != 0 && size > 0) {
        write_whole(path, bytes, size - 1);
        assert_err(checkpoint_verify(dir), EXIT_BAD_DATA, "bytes, and MANIFEST says");
    }
    /* Longer than it was. */
    uint8_t *longer = xcalloc(size + 1, 1);
    memcpy(longer, bytes, size);
    write_whole(path, longer, size + 1);
    assert_damaged(dir);
    free(longer);
    assert_int_equal(remove(path), 0);
    assert_damaged(dir);
    write_whole(path, bytes, size);
    assert_ok(checkpoint_verify(dir));
    free(bytes);
    free(path);
}

static void test_damage_is_seen(void **state)
{
    const Place *place = *state;
    assert_ok(save(place->root, 20, 20000, 3));
    char *dir = path_join(place->root, "step-000000020");
    check_damage(dir, "MANIFEST", 1000);
    check_damage(dir, "state.json", 1000);
    check_damage(dir, "model.safetensors", 250);
    check_damage(dir, "empty", 1);
    /* A file that MANIFEST does not know changes nothing. */
    char *note = path_join(dir, "note.txt");
    write_whole(note, (const uint8_t *)"mine", 4);
    assert_ok(checkpoint_verify(dir));
    free(note);
    free(dir);
}

/* A manifest with a right hash and wrong lines: written by something else. */
static void test_forged_manifest(void **state)
{
    const Place *place = *state;
    assert_ok(save(place->root, 1, 100, 3));
    char *dir = path_join(place->root, "step-000000001");
    char *path = path_join(dir, "MANIFEST");
    static const char *const texts[] = {
        "cudistill-checkpoint 2\n",
        "cudistill-checkpoint 1\nno fields here\n",
        /* The hash of no bytes, so that all is right but the folder. */
        "cudistill-checkpoint 1\n99aa06d3014798d86001c324468d497f 0 ../step-000000001/empty\n",
        "cudistill-checkpoint 1\n0123456789abcdef0123456789abcdef -4 empty\n",
        "cudistill-checkpoint 1\n0123456789abcdef0123456789abcdef 0 empty",
        "cudistill-checkpoint 1\n0123456789abcdef0123456789abcdef 0 empty\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char hash[33];
        hash_hex(texts[i], strlen(texts[i]), hash);
        char *whole = xformat("%smanifest %s\n", texts[i], hash);
        write_whole(path, (const uint8_t *)whole, strlen(whole));
        assert_damaged(dir);
        free(whole);
    }
    const char *right = "cudistill-checkpoint 1\n99aa06d3014798d86001c324468d497f 0 empty\n";
    char hash[33];
    hash_hex(right, strlen(right), hash);
    char *whole = xformat("%smanifest %s\n", right, hash);
    write_whole(path, (const uint8_t *)whole, strlen(whole));
    assert_ok(checkpoint_verify(dir));
    free(whole);
    free(path);
    free(dir);
}

static void damage(const char *root, const char *file)
{
    char *path = path_join(root, file);
    uint8_t *bytes = NULL;
    const size_t size = read_whole(path, &bytes);
    bytes[size / 2] ^= 4;
    write_whole(path, bytes, size);
    free(bytes);
    free(path);
}

static void test_fall_back(void **state)
{
    const Place *place = *state;
    for (long step = 1; step <= 4; step++) {
        assert_ok(save(place->root, step * 10, 1000, 9));
    }
    char *stale = path_join(place->root, ".tmp-step-000000050");
    assert_ok(dir_make(stale));
    damage(place->root, "step-000000040/model.safetensors");
    damage(place->root, "step-000000030/MANIFEST");
    assert_int_equal(newest_step(place->root, 1000), 20);
    assert_listing(place->root, "latest step-000000010 step-000000020 step-000000030.corrupt "
                                "step-000000040.corrupt ");
    assert_link(place->root, "latest", "step-000000020");
    /* The same step goes bad again: the first one set aside stays. */
    assert_ok(save(place->root, 40, 1000, 9));
    assert_int_equal(newest_step(place->root, 1000), 40);
    damage(place->root, "step-000000040/state.json");
    assert_int_equal(newest_step(place->root, 1000), 20);
    damage(place->root, "step-000000020/model.safetensors");
    damage(place->root, "step-000000010/model.safetensors");
    char *path = NULL;
    /* Twice: now there are only folders set aside, and that is no fresh start either. */
    for (int i = 0; i < 2; i++) {
        assert_err(checkpoint_newest(place->root, &path), EXIT_IO,
                   "5 checkpoints and all are damaged");
        assert_null(path);
    }
    assert_listing(place->root,
                   "latest step-000000010.corrupt step-000000020.corrupt "
                   "step-000000030.corrupt step-000000040.corrupt step-000000040.corrupt-2 ");
    free(stale);
}

static void test_root_is_no_folder(void **state)
{
    const Place *place = *state;
    write_whole(place->root, (const uint8_t *)"x", 1);
    char *path = NULL;
    assert_err(checkpoint_newest(place->root, &path), EXIT_IO, "Not a directory");
    assert_err(save(place->root, 1, 100, 2), EXIT_CANT_CREATE, place->root);
    assert_int_equal(remove(place->root), 0);
    /* A link to a disk that is not mounted. */
    char *nowhere = path_join(place->dir, "nowhere");
    assert_int_equal(symlink(nowhere, place->root), 0);
    assert_err(checkpoint_newest(place->root, &path), EXIT_NO_INPUT, place->root);
    free(nowhere);
}

/* ---- Lock ---- */

static void test_lock(void **state)
{
    const Place *place = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = -1;
        Err *err = run_lock(place->dir, &fd);
        const char ready = err == NULL ? 'y' : 'n';
        if (write(ends[1], &ready, 1) != 1) {
            _exit(1);
        }
        (void)pause();
        _exit(0);
    }
    char ready = 0;
    assert_int_equal(read(ends[0], &ready, 1), 1);
    assert_int_equal(ready, 'y');
    int fd = 7;
    char *owner = xformat("locked by pid %d host ", (int)pid);
    assert_err(run_lock(place->dir, &fd), EXIT_CANT_CREATE, owner);
    assert_int_equal(fd, -1);
    assert_err(run_lock(place->dir, &fd), EXIT_CANT_CREATE, place->dir);
    free(owner);
    /* However the owner ends, its lock ends. */
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    (void)close(ends[0]);
    (void)close(ends[1]);
    assert_ok(run_lock(place->dir, &fd));
    assert_true(fd >= 0);
    int second = -1;
    assert_err(run_lock(place->dir, &second), EXIT_CANT_CREATE, "in use");
    run_unlock(fd);
    assert_ok(run_lock(place->root, &second));
    run_unlock(second);
    assert_ok(run_lock(place->dir, &second));
    run_unlock(second);
    run_unlock(-1);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, place_setup, place_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_save_and_find),
        TEST(test_keep_last_and_best),
        TEST(test_writer_fails),
        TEST(test_no_space),
        TEST(test_file_size_limit),
        TEST(test_permissions),
        TEST(test_damage_is_seen),
        TEST(test_forged_manifest),
        TEST(test_fall_back),
        TEST(test_root_is_no_folder),
        TEST(test_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
