/* host/base: errors, half precision, random numbers, files. Half precision is compared with the processor's own
 * conversions over all inputs, Philox with the authors' library Random123. */
#include "base/err.h"
#include "base/files.h"
#include "base/half.h"
#include "base/log.h"
#include "base/rng.h"

#include <Random123/philox.h>
#include <cpuid.h>
#include <fcntl.h>
#include <immintrin.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Errors ---- */

static Err *pass_up(Err *err)
{
    TRY(err);
    return err_new(EXIT_INTERNAL, "not reached with an error");
}

static void test_err(void **state)
{
    (void)state;
    Err *err = err_new(EXIT_BAD_DATA, "row %d of '%s'", 3, "x");
    assert_int_equal(err->code, EXIT_BAD_DATA);
    assert_string_equal(err->message, "row 3 of 'x'");
    err = err_context(err, "file %s", "f");
    assert_string_equal(err->message, "file f: row 3 of 'x'");
    Err *same = pass_up(err);
    assert_ptr_equal(same, err);
    err_free(err);
    err = pass_up(NULL);
    assert_int_equal(err->code, EXIT_INTERNAL);
    err_free(err);
    assert_null(err_context(NULL, "nothing"));
    err_free(NULL);
}

/* Runs `body` in a child; its standard error goes into `text`. */
static int child_status(void (*body)(void), char *text, size_t size)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        (void)close(ends[0]);
        body();
        _exit(0);
    }
    (void)close(ends[1]);
    size_t used = 0;
    ssize_t got = read(ends[0], text, size - 1);
    while (got > 0) {
        used += (size_t)got;
        got = read(ends[0], text + used, size - 1 - used);
    }
    text[used] = '\0';
    (void)close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void fail_a_check(void)
{
    const int rows = 5;
    CHECK(rows < 4, "rows = %d", rows);
}

static void log_some(void)
{
    log_info("step %d", 7);
    log_debug("hidden");
    log_set_level(LOG_DEBUG);
    log_debug("shown");
    log_warn("careful");
    log_set_level(LOG_ERROR);
    log_warn("hidden");
    log_error("bad");
}

static void test_check_and_log(void **state)
{
    (void)state;
    char text[512];
    assert_int_equal(child_status(fail_a_check, text, sizeof text), EXIT_INTERNAL);
    assert_non_null(strstr(text, "test_base.c"));
    assert_non_null(strstr(text, "rows < 4"));
    assert_non_null(strstr(text, "rows = 5\n"));
    assert_int_equal(child_status(log_some, text, sizeof text), 0);
    assert_string_equal(text, "step 7\ndebug: shown\nwarning: careful\nerror: bad\n");
}

static void test_allocation(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < 200; bytes += 33) {
        uint8_t *block = xaligned(bytes);
        assert_int_equal((uintptr_t)block % 64, 0);
        for (size_t i = 0; i < bytes; i++) {
            assert_int_equal(block[i], 0);
        }
        free(block);
    }
    int *items = NULL;
    size_t capacity = 0;
    for (int i = 0; i < 1000; i++) {
        items = xgrow(items, &capacity, (size_t)i + 1, sizeof *items);
        items[i] = i;
    }
    assert_int_equal(items[999], 999);
    assert_in_range(capacity, 1000, 2000);
    free(items);
    char *text = xformat("%s-%d", "a", 1);
    assert_string_equal(text, "a-1");
    free(text);
}

/* ---- Half precision ---- */

__attribute__((target("f16c"))) static float cpu_half_to_float(uint16_t x)
{
    return _cvtsh_ss(x);
}

__attribute__((target("f16c"))) static uint16_t cpu_half_from_float(float x)
{
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void test_fp16(void **state)
{
    (void)state;
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    const bool has_cpuid = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0;
    if (!has_cpuid || !__builtin_cpu_supports("avx") || (ecx & bit_F16C) == 0) {
        print_message("skipped: this CPU has no F16C to compare with\n");
        skip();
        return;
    }
    for (uint32_t x = 0; x < 65536; x++) {
        assert_int_equal(bits_of(fp16_to_float((fp16)x)), bits_of(cpu_half_to_float((uint16_t)x)));
    }
    /* Every 4099th float (a prime), and the neighbourhood of every half value and of every tie. */
    for (uint64_t x = 0; x < (1ull << 32); x += 4099) {
        const float y = float_of((uint32_t)x);
        assert_int_equal(fp16_from_float(y), cpu_half_from_float(y));
    }
    for (uint32_t x = 0; x < 65536; x++) {
        const uint32_t exact = bits_of(fp16_to_float((fp16)x));
        for (uint32_t step = 0; step < 5; step++) {
            const float near = float_of(exact + step - 2);
            assert_int_equal(fp16_from_float(near), cpu_half_from_float(near));
            const float tie = float_of(exact + 0x1000u + step - 2);
            assert_int_equal(fp16_from_float(tie), cpu_half_from_float(tie));
        }
        /* The ties of subnormal halves are at odd multiples of 2^-25. */
        const float low = (float)(2 * (x & 0x7FFu) + 1) * 0x1p-25f;
        assert_int_equal(fp16_from_float(low), cpu_half_from_float(low));
        assert_int_equal(fp16_from_float(-low), cpu_half_from_float(-low));
    }
}

/* The nearest bf16 by a search in exact arithmetic: of the two neighbours, the closer one, or the even one. */
static void test_bf16(void **state)
{
    (void)state;
    Rng rng = rng_make(1, 0, 0, RNG_TEST);
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = rng_u32(&rng);
        if (i % 4 == 0) {
            bits = (bits & 0xFFFF0000u) | 0x8000u; /* a tie */
        }
        const float x = float_of(bits);
        const uint16_t got = bf16_from_float(x);
        if (isnan(x)) {
            assert_true(isnan(bf16_to_float(got)));
            continue;
        }
        const uint16_t down = (uint16_t)(bits >> 16);
        const uint16_t up = (uint16_t)(down + 1);
        const uint32_t rest = bits & 0xFFFFu;
        const uint16_t even = (down & 1) == 0 ? down : up;
        const uint16_t want = rest < 0x8000u ? down : rest > 0x8000u ? up : even;
        assert_int_equal(got, isinf(x) ? down : want);
    }
    assert_true(isinf(bf16_to_float(bf16_from_float(INFINITY))));
    assert_true(isnan(bf16_to_float(bf16_from_float(float_of(0x7F800001u)))));
    assert_true(isinf(bf16_to_float(bf16_from_float(3.4e38f))));
}

/* ---- Random numbers ---- */

static void test_philox(void **state)
{
    (void)state;
    const Philox4 zero = philox4x32_10((Philox4){{0, 0, 0, 0}}, 0, 0);
    assert_int_equal(zero.v[0], 0x6627e8d5u);
    assert_int_equal(zero.v[1], 0xe169c58du);
    assert_int_equal(zero.v[2], 0xbc57ac4cu);
    assert_int_equal(zero.v[3], 0x9b00dbd8u);
    Rng rng = rng_make(7, 0, 0, RNG_TEST);
    for (int i = 0; i < 10000; i++) {
        const Philox4 counter = {{rng_u32(&rng), rng_u32(&rng), rng_u32(&rng), rng_u32(&rng)}};
        const uint32_t key[2] = {rng_u32(&rng), rng_u32(&rng)};
        const Philox4 got = philox4x32_10(counter, key[0], key[1]);
        const philox4x32_ctr_t c = {{counter.v[0], counter.v[1], counter.v[2], counter.v[3]}};
        const philox4x32_key_t k = {{key[0], key[1]}};
        const philox4x32_ctr_t want = philox4x32(c, k);
        assert_memory_equal(got.v, want.v, sizeof got.v);
    }
}

static uint32_t first_draw(uint64_t seed, uint32_t epoch, uint64_t sample, RngPurpose purpose)
{
    Rng rng = rng_make(seed, epoch, sample, purpose);
    return rng_u32(&rng);
}

static void test_streams(void **state)
{
    (void)state;
    const uint32_t base = first_draw(1, 2, 3, RNG_CROP);
    assert_int_equal(first_draw(1, 2, 3, RNG_CROP), base);
    assert_int_not_equal(first_draw(1ull << 32 | 1, 2, 3, RNG_CROP), base);
    assert_int_not_equal(first_draw(2, 2, 3, RNG_CROP), base);
    assert_int_not_equal(first_draw(1, 3, 3, RNG_CROP), base);
    assert_int_not_equal(first_draw(1, 2, 4, RNG_CROP), base);
    assert_int_not_equal(first_draw(1, 2, 1ull << 40 | 3, RNG_CROP), base);
    assert_int_not_equal(first_draw(1, 2, 3, RNG_FLIP), base);
}

/* Moments of 2^18 draws. Limits are 5 standard errors: of a uniform mean 1/sqrt(12 n), of a normal mean 1/sqrt(n),
 * of a normal variance sqrt(2/n). */
static void test_distributions(void **state)
{
    (void)state;
    enum { N = 1 << 18 };
    Rng rng = rng_make(3, 0, 0, RNG_TEST);
    double uniform = 0;
    double mean = 0;
    double square = 0;
    uint32_t counts[7] = {0};
    for (int i = 0; i < N; i++) {
        const float u = rng_uniform(&rng);
        assert_true(u >= 0.0f && u < 1.0f);
        uniform += (double)u;
        const double z = rng_normal(&rng);
        mean += z;
        square += z * z;
        const uint32_t k = rng_below(&rng, 7);
        assert_in_range(k, 0, 6);
        counts[k]++;
    }
    assert_true(fabs(uniform / N - 0.5) < 5.0 / sqrt(12.0 * N));
    assert_true(fabs(mean / N) < 5.0 / sqrt(N));
    assert_true(fabs(square / N - 1.0) < 5.0 * sqrt(2.0 / N));
    for (int k = 0; k < 7; k++) {
        const double sigma = sqrt(N * (1.0 / 7) * (6.0 / 7));
        assert_true(fabs(counts[k] - N / 7.0) < 5.0 * sigma);
    }
    /* A bound just above 2^31 refuses almost half of the draws; the result must still reach both ends evenly. */
    const uint32_t bound = (1u << 31) + 1;
    int high = 0;
    for (int i = 0; i < 10000; i++) {
        const uint32_t k = rng_below(&rng, bound);
        assert_true(k < bound);
        high += k >= bound / 2;
    }
    assert_in_range(high, 4750, 5250);
    assert_int_equal(rng_below(&rng, 1), 0);
}

static void test_permutation(void **state)
{
    (void)state;
    enum { N = 1000 };
    uint32_t order[N];
    uint32_t again[N];
    uint32_t other[N];
    uint8_t seen[N] = {0};
    rng_permutation(5, 0, order, N);
    rng_permutation(5, 0, again, N);
    rng_permutation(5, 1, other, N);
    int fixed = 0;
    for (int i = 0; i < N; i++) {
        assert_in_range(order[i], 0, N - 1);
        assert_int_equal(seen[order[i]]++, 0);
        fixed += order[i] == (uint32_t)i;
    }
    assert_memory_equal(order, again, sizeof order);
    assert_memory_not_equal(order, other, sizeof order);
    assert_in_range(fixed, 0, 8); /* Poisson with mean 1 */
    rng_permutation(5, 0, order, 0);
}

/* ---- Files ---- */

static char *temp_dir(void)
{
    const char *root = getenv("TMPDIR");
    char *path = xformat("%s/cudistill-XXXXXX", root != NULL ? root : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

static void ok(Err *err)
{
    if (err != NULL) {
        print_message("%s\n", err->message);
    }
    assert_null(err);
}

static void expect_err(Err *err, ExitCode code, const char *part)
{
    assert_non_null(err);
    if (err->code != code || strstr(err->message, part) == NULL) {
        fail_msg("code %d, message: %s", (int)err->code, err->message);
    }
    err_free(err);
}

static void test_atomic_write(void **state)
{
    (void)state;
    char *dir = temp_dir();
    char *path = path_join(dir, "file");
    ok(file_write_atomic(path, "old", 3));
    FileMap map;
    ok(file_map(path, &map));
    const FilePart parts[] = {{"new", 3}, {"", 0}, {" text", 5}};
    ok(file_write_atomic_parts(path, parts, 3));
    /* A map of the older file still shows the older bytes. */
    assert_int_equal(map.size, 3);
    assert_memory_equal(map.data, "old", 3);
    file_unmap(&map);
    file_unmap(&map);
    char *text = NULL;
    ok(file_read_text(path, 100, &text));
    assert_string_equal(text, "new text");
    free(text);
    char **names = NULL;
    size_t count = 0;
    ok(dir_list(dir, &names, &count));
    assert_int_equal(count, 1);
    names_free(names, count);

    /* The target is a folder: rename refuses, and nothing is left behind. */
    char *sub = path_join(dir, "sub");
    ok(dir_make(sub));
    Err *err = file_write_atomic(sub, "x", 1);
    assert_non_null(err);
    err_free(err);
    ok(dir_list(dir, &names, &count));
    assert_int_equal(count, 2);
    assert_string_equal(names[0], "file");
    assert_string_equal(names[1], "sub");
    names_free(names, count);

    char *absent = path_join(dir, "absent/file");
    expect_err(file_write_atomic(absent, "x", 1), EXIT_CANT_CREATE, "absent/file");
    free(absent);
    free(sub);
    free(path);
    ok(dir_remove(dir));
    assert_false(path_exists(dir));
    free(dir);
}

static void write_to_full_disk(void)
{
    Err *err = file_append_line("/dev/full", "text");
    if (err == NULL || err->code != EXIT_IO || strstr(err->message, "free some space") == NULL) {
        _exit(1);
    }
}

static void test_read_errors(void **state)
{
    (void)state;
    char *dir = temp_dir();
    char *path = path_join(dir, "file");
    FileMap map;
    expect_err(file_map(path, &map), EXIT_NO_INPUT, path);
    expect_err(file_map(dir, &map), EXIT_NO_INPUT, "folder");
    ok(file_write_atomic(path, "", 0));
    ok(file_map(path, &map));
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    char *text = NULL;
    ok(file_write_atomic(path, "a\0b", 3));
    expect_err(file_read_text(path, 10, &text), EXIT_BAD_DATA, "NUL");
    expect_err(file_read_text(path, 2, &text), EXIT_BAD_DATA, "larger than the 2 bytes");
    assert_null(text);
    char line[256];
    assert_int_equal(child_status(write_to_full_disk, line, sizeof line), 0);
    ok(file_append_line(path, "one"));
    ok(file_append_line(path, "two"));
    ok(file_map(path, &map));
    assert_int_equal(map.size, 11);
    assert_memory_equal(map.data + 3, "one\ntwo\n", 8);
    file_unmap(&map);
    free(path);
    ok(dir_remove(dir));
    ok(dir_remove(dir));
    free(dir);
}

static void test_folders(void **state)
{
    (void)state;
    char *dir = temp_dir();
    char *deep = path_join(dir, "a/b//c/");
    ok(dir_make(deep));
    ok(dir_make(deep));
    assert_true(path_is_dir(deep));
    ok(dir_sync(deep));
    char *file = path_join(dir, "a/file");
    ok(file_write_atomic(file, "x", 1));
    assert_false(path_is_dir(file));
    char *under_file = path_join(file, "sub");
    Err *err = dir_make(under_file);
    expect_err(err, EXIT_CANT_CREATE, "not a folder");
    /* A link to a folder is removed, not followed. */
    char *outside = temp_dir();
    char *kept = path_join(outside, "kept");
    ok(file_write_atomic(kept, "x", 1));
    char *link_path = path_join(dir, "a/link");
    assert_int_equal(symlink(outside, link_path), 0);
    ok(dir_remove(dir));
    assert_true(path_exists(kept));
    ok(dir_remove(outside));
    char *absolute = path_join("x", "/y");
    assert_string_equal(absolute, "/y");
    free(absolute);
    free(link_path);
    free(kept);
    free(outside);
    free(under_file);
    free(file);
    free(deep);
    free(dir);
}

/* Values printed by `printf abc | md5sum` and `printf abc | xxh128sum`. */
static void test_hashes(void **state)
{
    (void)state;
    char *dir = temp_dir();
    char *path = path_join(dir, "file");
    ok(file_write_atomic(path, "abc", 3));
    char hex[33];
    ok(file_md5_hex(path, hex));
    assert_string_equal(hex, "900150983cd24fb0d6963f7d28e17f72");
    ok(file_hash_hex(path, hex));
    assert_string_equal(hex, "06b05ab6733a618578af5f94892f3950");
    hash_hex("abc", 3, hex);
    assert_string_equal(hex, "06b05ab6733a618578af5f94892f3950");
    hash_hex("", 0, hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
    free(path);
    ok(dir_remove(dir));
    free(dir);
}

static void test_err_is_harmless_on_a_terminal(void **state)
{
    (void)state;
    Err *err = err_new(EXIT_BAD_DATA, "tensor '\x1b[2Ja\r.\x7f' of\nline 2");
    assert_string_equal(err->message, "tensor '?[2Ja?.?' of\nline 2");
    err = err_context(err, "file \x1b]0;x\a");
    assert_string_equal(err->message, "file ?]0;x?: tensor '?[2Ja?.?' of\nline 2");
    err_free(err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err_is_harmless_on_a_terminal),
        cmocka_unit_test(test_err),
        cmocka_unit_test(test_check_and_log),
        cmocka_unit_test(test_allocation),
        cmocka_unit_test(test_fp16),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_permutation),
        cmocka_unit_test(test_atomic_write),
        cmocka_unit_test(test_read_errors),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_hashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
