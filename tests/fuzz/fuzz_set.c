/* Overrides: each line of the input is one "--set" text. Inputs of one length in 128 go through settings_load, which also
 * checks keys against each other. */
#include "fuzz.h"
#include "fuzz_schema.h"

#include "train/settings.h"

#include <stdlib.h>
#include <string.h>

enum { OVERRIDES_MAX = 8 };

static size_t split(char *text, const char *overrides[OVERRIDES_MAX])
{
    size_t count = 0;
    while (text != NULL && count < OVERRIDES_MAX) {
        overrides[count++] = strsep(&text, "\n");
    }
    return count;
}

static void check_settings(const char *const *overrides, size_t count)
{
    Settings settings;
    if (fuzz_refused(settings_load(NULL, overrides, count, &settings), EXIT_CONFIG_ERR)) {
        return;
    }
    FUZZ_CHECK(settings.batch > 0 && settings.schedule.epochs > 0, "batch %d, epochs %d",
               settings.batch, settings.schedule.epochs);
    fuzz_check_settings_reload(&settings);
    settings_free(&settings);
}

static void check_config(const char *const *overrides, size_t count)
{
    Config *config = NULL;
    Err *err = config_load(fuzz_schema, fuzz_schema_size, NULL, overrides, count, &config);
    if (err != NULL) {
        FUZZ_CHECK(config == NULL, "a result beside an error");
        fuzz_check_config_error(err);
        (void)fuzz_refused(err, EXIT_CONFIG_ERR);
        return;
    }
    fuzz_check_reload(config, fuzz_schema, fuzz_schema_size);
    config_free(config);
}

int fuzz_set(const uint8_t *data, size_t size)
{
    char *text = fuzz_text((FuzzInput){data, size});
    const char *overrides[OVERRIDES_MAX];
    const size_t count = split(text, overrides);
    if (size % 128 == 127) {
        check_settings(overrides, count);
    } else {
        check_config(overrides, count);
    }
    fuzz_files_clear();
    free(text);
    return 0;
}
