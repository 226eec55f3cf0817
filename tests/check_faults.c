/* Every write, fsync, rename, open for writing, mkdir and link of a small training run fails once, and from it on, with
 * ENOSPC and with EIO: see faults_rig.h. Besides: EROFS, writes that are cut short, which nobody may notice, and bits of
 * checkpoints that change on the disk. */
#include "base/rng.h"
#include "faults_rig.h"

enum { FLIPS = 500, PAGE = 4096 };

static void sweep_all(void **state, const char *error)
{
    fault_sweep(*state, &(FaultCase){error, "once"}, 1);
    fault_sweep(*state, &(FaultCase){error, "always"}, 1);
}

static void test_disk_full(void **state)
{
    sweep_all(state, "ENOSPC");
}

static void test_disk_error(void **state)
{
    sweep_all(state, "EIO");
}

static void test_read_only(void **state)
{
    fault_sweep(*state, &(FaultCase){"EROFS", "always"}, 5);
}

static void test_short_and_interrupted(void **state)
{
    fault_sweep(*state, &(FaultCase){"SHORT", "once"}, 3);
    fault_sweep(*state, &(FaultCase){"EINTR", "once"}, 7);
}

/* ---- Bits that rot ---- */

static void write_bytes(const char *path, const uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void assert_detected(const char *checkpoint)
{
    Err *err = checkpoint_verify(checkpoint);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_BAD_DATA);
    err_free(err);
}

/* Random bits, or every bit's byte of a small file, and a cut at every page. Returns the number of trials; the file is
 * whole again at the end. */
static int rot_file(const char *checkpoint, const char *name, Rng *rng)
{
    char *path = path_join(checkpoint, name);
    FileMap map;
    assert_null(file_map(path, &map));
    const size_t size = map.size;
    uint8_t *bytes = xmalloc(size);
    memcpy(bytes, map.data, size);
    file_unmap(&map);
    const size_t flips = size < FLIPS ? size : FLIPS;
    int trials = 0;
    for (size_t i = 0; i < flips; i++) {
        const size_t at = size < FLIPS ? i : rng_below(rng, (uint32_t)size);
        const uint8_t bit = (uint8_t)(1U << rng_below(rng, 8));
        bytes[at] ^= bit;
        write_bytes(path, bytes, size);
        assert_detected(checkpoint);
        bytes[at] ^= bit;
        trials++;
    }
    for (size_t at = 0; at < size; at += PAGE) {
        write_bytes(path, bytes, at);
        assert_detected(checkpoint);
        trials++;
    }
    write_bytes(path, bytes, size);
    assert_null(checkpoint_verify(checkpoint));
    free(bytes);
    free(path);
    return trials;
}

/* The newest checkpoint of a copy of the run loses a bit of `name`: the program takes the one before and arrives at the
 * same weights. */
static void fall_back(const FaultFixture *f, const char *name)
{
    char *out = path_join(f->dir, "rotten");
    char *command = xformat("cp -a '%s' '%s'", f->reference, out);
    assert_int_equal(system(command), 0);
    char *path = xformat("%s/checkpoints/latest/%s", out, name);
    FileMap map;
    assert_null(file_map(path, &map));
    uint8_t *bytes = xmalloc(map.size);
    const size_t size = map.size;
    memcpy(bytes, map.data, size);
    file_unmap(&map);
    bytes[size / 2] ^= 1;
    write_bytes(path, bytes, size);
    assert_int_equal(fault_run(f, out, NULL), 0);
    assert_true(fault_said(out, "corrupt"));
    char *reason = check_same_run(f, out);
    if (reason != NULL) {
        fail_msg("%s", reason);
    }
    char *log = xformat("%s.log", out);
    assert_int_equal(unlink(log), 0);
    assert_null(dir_remove(out));
    free(log);
    free(bytes);
    free(path);
    free(command);
    free(out);
}

static void test_bit_rot(void **state)
{
    const FaultFixture *f = *state;
    static const char *const names[] = {"MANIFEST", "state.json", "model.safetensors",
                                        "momentum.safetensors"};
    char *latest = path_join(f->reference, "checkpoints/latest");
    char *checkpoint = realpath(latest, NULL);
    Rng rng = rng_make(11, 0, 0, RNG_TEST);
    int trials = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        trials += rot_file(checkpoint, names[i], &rng);
        fall_back(f, names[i]);
    }
    print_message("%d of %d damages seen; the checkpoint before was used each time\n", trials,
                  trials);
    free(checkpoint);
    free(latest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bit_rot),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_disk_error),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_short_and_interrupted),
    };
    return cmocka_run_group_tests_name("faults", tests, fault_setup, fault_teardown);
}
