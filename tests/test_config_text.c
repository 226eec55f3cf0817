/* Configurations that are hardly any: bytes that are no text, files changed at random, which never get further than an error
 * with a place; and how near two words are. */
#include "base/near.h"
#include "base/rng.h"
#include "config_rig.h"
#include "train/settings.h"

#include <time.h>

enum { MUTATIONS = 500 };

/* ---- Files that are no configuration ---- */

static Err *load_bytes(const void *bytes, size_t size)
{
    write_bytes(main_file, bytes, size);
    Settings settings;
    Err *err = settings_load(main_file, NULL, 0, &settings);
    if (err == NULL) {
        settings_free(&settings);
    }
    return err;
}

static void expect_bytes(const void *bytes, size_t size, const char *told)
{
    Err *err = load_bytes(bytes, size);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    char *want = xformat("%s:%s", main_file, told);
    assert_memory_equal(err->message, want, strlen(want));
    free(want);
    err_free(err);
}

static void expect_text(const char *text, const char *told)
{
    expect_bytes(text, strlen(text), told);
}

static void text_that_is_none_is_located(void **state)
{
    (void)state;
    static const char utf16[] = "\xff\xfe[\0r\0u\0n\0]\0\n\0";
    static const char nul[] = "[run]\nname = a\0b\n";
    expect_bytes(utf16, sizeof utf16 - 1, "1: a NUL byte: the file is not plain text (UTF-16?");
    expect_bytes(nul, sizeof nul - 1, "2: a NUL byte");
    expect_text("[run]\nname = gr\xfcn\n", "2:10: byte 0xFC is not UTF-8");
    expect_text("[run]\nname = a\xed\xa0\x80\n", "2:9: byte 0xED is not UTF-8");
    expect_text("[run]\nname = \xc3\xa4\t\xc3\xa4\n", "2:9: a tab inside the value");
    expect_text("[run]\rname = a\r", "1:6: a carriage return inside the line");
    char line[240];
    memset(line, 'x', sizeof line);
    memcpy(line, "[run]\nname = ", 13);
    expect_bytes(line, sizeof line, "2:1: the line has 234 bytes, at most 198 are allowed");
    static const char windows[] = "\xef\xbb\xbf[run]\r\nname = gr\xc3\xbcn\r\n";
    assert_null(load_bytes(windows, sizeof windows - 1));
    assert_null(load_bytes("", 0));
}

static const char sample[] =
    "# an experiment\ninclude = base.ini\n\n[run]\nname = try\nseed = 3\n\n[data]\nkind = "
    "cifar100\nroot = ${CIFAR100_ROOT}/x\nworkers = 2\n[augment]\nmean = 0.5, 0.5, 0.5\nflip = "
    "true\n[teacher]\nmodel = wrn_16_2\nweights = t.pth\n[student]\nmodel = "
    "resnet20\n[distill]\nmethod = energy_kd\nce_weight = 0.1\n[energy_kd]\nr_low = "
    "0.3\n[optim]\nlr = 5e-2\nloss_scale = dynamic\n[schedule]\nmilestones = 30, 60\nepochs = "
    "90\n[train]\ntime_limit = 12h\n";

/* Every line of the message but the last begins with a file, or speaks of none. */
static void assert_located(const Err *err)
{
    for (const char *at = err->message; at != NULL; at = strchr(at, '\n')) {
        at += *at == '\n';
        const bool footer = strchr(at, '\n') == NULL || strncmp(at, "and ", 4) == 0;
        if (!footer && strncmp(at, dir, strlen(dir)) != 0) {
            fail_msg("no place: %s", at);
        }
    }
}

/* The sample with up to eight changes; its new size. */
static size_t mutate(Rng *rng, char bytes[2 * sizeof sample])
{
    size_t size = sizeof sample - 1;
    memcpy(bytes, sample, size);
    for (uint32_t k = 1 + rng_below(rng, 8); k > 0; k--) {
        const size_t at = rng_below(rng, (uint32_t)size);
        const size_t length = 1 + rng_below(rng, 20);
        const size_t piece = length < size - at ? length : size - at;
        switch (rng_below(rng, 4)) {
        case 0: /* another byte */
            bytes[at] = (char)rng_below(rng, 256);
            break;
        case 1: /* a piece is lost */
            memmove(bytes + at, bytes + at + piece, size - at - piece);
            size -= piece;
            break;
        case 2: /* a piece comes twice */
            memmove(bytes + at + piece, bytes + at, size - at);
            size += piece;
            break;
        default: /* what has a meaning */
            bytes[at] = "=[]#;\n\t $%{}:,.-+e0"[rng_below(rng, 19)];
            break;
        }
    }
    return size;
}

static void changed_files_are_refused_or_fine(void **state)
{
    (void)state;
    write_companions();
    assert_null(load_bytes(sample, sizeof sample - 1));
    int refused = 0;
    double seconds = 0.0;
    for (uint32_t i = 0; i < MUTATIONS; i++) {
        Rng rng = rng_make(5, 0, i, RNG_TEST);
        char bytes[2 * sizeof sample];
        const size_t size = mutate(&rng, bytes);
        struct timespec begin;
        struct timespec end;
        (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
        Err *err = load_bytes(bytes, size);
        (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
        seconds +=
            (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
        if (err != NULL) {
            refused++;
            assert_int_equal(err->code, EXIT_CONFIG_ERR);
            assert_located(err);
        }
        err_free(err);
    }
    print_message("%d changed files, %d refused, %.3f ms each\n", MUTATIONS, refused,
                  1e3 * seconds / MUTATIONS);
    assert_true(refused > MUTATIONS / 2);
    assert_int_equal(names_in(work), 0);
}

/* ---- Near misses ---- */

static void near_words_are_ranked(void **state)
{
    (void)state;
    static const char *const cases[][5] = {
        /* word, the wanted, others */
        {"temprature", "temperature", "t_mid", "tolerance", NULL},
        {"epohcs", "epochs", "every", NULL, NULL},
        {"lr_min", "min_lr", "lr", "kind", NULL},
        {"warmup", "warmup_epochs", "gamma", NULL, NULL},
        {"optimizer", "optim", "option", NULL, NULL},
        {"weight-decay", "weight_decay", "decay_norm_bias", NULL, NULL},
        {"Batch", "batch", "match", NULL, NULL},
        {"meam", "mean", "team", "beam", NULL},
        {"ca", "abc", NULL, NULL, NULL}, /* Damerau: exchange, then insert between */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        NearMiss near = near_start(cases[i][0]);
        for (size_t k = 4; k >= 1; k--) {
            if (cases[i][k] != NULL) {
                near_offer(&near, cases[i][k]);
            }
        }
        if (i + 1 == sizeof cases / sizeof cases[0]) {
            assert_null(near.best); /* two slips are too many for two letters */
            continue;
        }
        assert_non_null(near.best);
        assert_string_equal(near.best, cases[i][1]);
    }
    assert_true(near_cost("same_word", "SAME-WORD") == 0);
    assert_true(near_cost("xyzzy", "temperature") == NEAR_NEVER);
    assert_true(near_cost("", "a") == NEAR_NEVER);
    /* The distance proper: 2 from "ca" to "abc", where optimal string alignment has 3. */
    assert_true(near_cost("ca_____", "abc_____") < 3 * NEAR_SLIP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_words_are_ranked),
        cmocka_unit_test(text_that_is_none_is_located),
        cmocka_unit_test(changed_files_are_refused_or_fine),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
