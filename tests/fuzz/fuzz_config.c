/* A configuration file: "main file, a line %%, the file that it may include as other.ini". */
#include "fuzz.h"
#include "fuzz_schema.h"

#include "train/settings.h"

#include <stdlib.h>
#include <string.h>

static const char MARK[] = "\n%%\n";

static void add_files(const uint8_t *data, size_t size)
{
    const uint8_t *mark = memmem(data, size, MARK, strlen(MARK));
    const size_t length = mark != NULL ? (size_t)(mark - data) + 1 : size;
    fuzz_file_add("input.ini", data, length);
    if (mark != NULL) {
        const size_t rest = length - 1 + strlen(MARK);
        fuzz_file_add("other.ini", data + rest, size - rest);
    }
}

/* Through the whole table and its checks, which takes about a hundred times as long. */
static void check_settings(void)
{
    Settings settings;
    Err *err = settings_load("input.ini", NULL, 0, &settings);
    if (err != NULL) {
        FUZZ_CHECK(err->code == EXIT_CONFIG_ERR || err->code == EXIT_BAD_DATA, "code %d",
                   (int)err->code);
        if (err->code == EXIT_CONFIG_ERR) {
            fuzz_check_config_error(err);
        }
        err_free(err);
        return;
    }
    fuzz_check_settings_reload(&settings);
    settings_free(&settings);
}

static void check_config(void)
{
    Config *config = NULL;
    Err *err = config_load(fuzz_schema, fuzz_schema_size, "input.ini", NULL, 0, &config);
    if (err != NULL) {
        FUZZ_CHECK(config == NULL, "a result beside an error");
        FUZZ_CHECK(err->code == EXIT_CONFIG_ERR || err->code == EXIT_BAD_DATA, "code %d",
                   (int)err->code);
        if (err->code == EXIT_CONFIG_ERR) {
            fuzz_check_config_error(err);
        }
        err_free(err);
        return;
    }
    fuzz_check_reload(config, fuzz_schema, fuzz_schema_size);
    config_free(config);
}

int fuzz_config(const uint8_t *data, size_t size)
{
    add_files(data, size);
    /* Inputs of one length in 128 meet the whole table. */
    if (size % 128 == 127) {
        check_settings();
    } else {
        check_config();
    }
    fuzz_files_clear();
    return 0;
}
