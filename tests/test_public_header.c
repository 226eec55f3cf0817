/* include/cudistill.h for other programs: it stands alone in C99, C11 and C++, and the structure that Python callers write by
 * hand (bench/peers/torch_loss.py, ctypes) has its fields in the same places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/log.h"
#include "cudistill.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLER "bench/peers/torch_loss.py"

/* ---- The ctypes structure ---- */

typedef struct {
    const char *name;
    size_t offset, size;
} Field;

#define FIELD(name)                                                                                \
    {                                                                                              \
#name, offsetof(CudistillLoss, name), sizeof(((CudistillLoss *)NULL)->name)                \
    }
static const Field fields[] = {FIELD(size),
                               FIELD(n),
                               FIELD(classes),
                               FIELD(type),
                               FIELD(dz_type),
                               FIELD(z),
                               FIELD(t),
                               FIELD(ldz),
                               FIELD(ldt),
                               FIELD(lddz),
                               FIELD(labels),
                               FIELD(rows_valid),
                               FIELD(scale),
                               FIELD(dz),
                               FIELD(dz_add),
                               FIELD(rows),
                               FIELD(sums),
                               FIELD(workspace),
                               FIELD(form),
                               FIELD(t_squared),
                               FIELD(temperature),
                               FIELD(teacher_temperature),
                               FIELD(weight),
                               FIELD(ce_weight),
                               FIELD(label_smoothing),
                               FIELD(alpha),
                               FIELD(beta),
                               FIELD(gamma),
                               FIELD(zscore),
                               FIELD(topk),
                               FIELD(topk_renorm),
                               FIELD(edit),
                               FIELD(edit_delta),
                               FIELD(row_values),
                               FIELD(row_columns),
                               FIELD(temperature_column),
                               FIELD(teacher_temperature_column),
                               FIELD(weight_column),
                               FIELD(ce_weight_column),
                               FIELD(wsl),
                               FIELD(use_bands),
                               FIELD(bands),
                               FIELD(thresholds),
                               FIELD(energy_temperature)};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static size_t round_up(size_t at, size_t to)
{
    return (at + to - 1) / to * to;
}

/* Element size of a ctypes type as the script abbreviates them; 0: not known. */
static size_t python_size(const char *type)
{
    if (strncmp(type, "ctypes.c_size_t", strlen("ctypes.c_size_t")) == 0) {
        return sizeof(size_t);
    }
    return *type == 'P' ? sizeof(void *) : *type == 'L' ? 8 : *type == 'I' || *type == 'R' ? 4 : 0;
}

/* The text of `name` = (...) or [...] in the script, from after the bracket. */
static const char *after(const char *text, const char *what)
{
    const char *found = strstr(text, what);
    assert_non_null(found);
    return found + strlen(what);
}

static void test_ctypes_offsets(void **state)
{
    const char *at = after(*state, "_fields_ = [");
    size_t offset = 0;
    size_t largest = 1;
    int count = 0;
    for (; *at && *at != ']'; at++) {
        char name[64];
        char type[32];
        if (*at != '(') {
            continue;
        }
        assert_int_equal(sscanf(at, "(\"%63[a-z_]\", %31[^)]", name, type), 2);
        const char *times = strchr(type, '*');
        const size_t element = python_size(type);
        const size_t elements = times ? strtoul(times + 1, NULL, 10) : 1;
        CHECK(element > 0 && elements > 0, "%s: type of %s", CALLER, name);
        assert_true(count < FIELDS);
        assert_string_equal(name, fields[count].name);
        offset = round_up(offset, element);
        assert_int_equal(offset, fields[count].offset);
        assert_int_equal(element * elements, fields[count].size);
        offset += element * elements;
        largest = element > largest ? element : largest;
        at = strchr(at, ')');
        count++;
    }
    assert_int_equal(count, FIELDS);
    assert_int_equal(round_up(offset, largest), sizeof(CudistillLoss));
}

static void test_ctypes_constants(void **state)
{
    char *codes = xformat("\nCODES = {\"fp32\": %d, \"bf16\": %d, \"fp16\": %d}\n", CUDISTILL_F32,
                          CUDISTILL_BF16, CUDISTILL_F16);
    char *columns = xformat("\nROW_FIELDS, SUM_FIELDS, SUM_LOSS = %d, %d, %d\n",
                            CUDISTILL_ROW_FIELDS, CUDISTILL_SUM_FIELDS, CUDISTILL_SUM_LOSS);
    assert_non_null(strstr(*state, codes));
    assert_non_null(strstr(*state, columns));
    free(codes);
    free(columns);
}

/* ---- The header by itself ---- */

static void test_languages(void **state)
{
    (void)state;
    static const char *const languages[] = {"-x c -std=c99", "-x c -std=c11", "-x c++ -std=c++11",
                                            "-x c++ -std=c++17"};
    const char *compiler = getenv("CXX") ? getenv("CXX") : "g++";
    char *probe = xformat("command -v %s >/dev/null 2>&1", compiler);
    const bool absent = system(probe) != 0; /* NOLINT(cert-env33-c): asks for a compiler */
    free(probe);
    if (absent) {
        print_message("skipped: no %s here\n", compiler);
        skip();
    }
    for (int i = 0; i < 4; i++) {
        char *command =
            xformat("printf '#include \"cudistill.h\"\\nint main(void) "
                    "{CudistillLoss loss; return cudistill_loss_init(&loss, sizeof loss);}\\n' | "
                    "%s %s -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only -",
                    compiler, languages[i]);
        print_message("%s\n", languages[i]);
        assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): the compiler */
        free(command);
    }
}

int main(void)
{
    char *text = NULL;
    Err *err = file_read_text(CALLER, 1 << 20, &text);
    CHECK(!err, "%s", err ? err->message : "");
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_ctypes_offsets, text),
                                       cmocka_unit_test_prestate(test_ctypes_constants, text),
                                       cmocka_unit_test(test_languages)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(text);
    return failed;
}
