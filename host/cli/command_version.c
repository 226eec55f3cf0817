/* `cudistill version`: the program, its commit, and the libraries that it runs with. */
#include "cli/commands.h"

#include "backend/backend.h"
#include "base/text.h"
#include "base/version.h"

#include <archive.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <xxhash.h>

static void add_text(Text *text, const char *key, const char *value)
{
    text_add(text, ",\"%s\":", key);
    text_json(text, value);
}

/* "oneDNN 2.6.3, avx512_core_bf16", or "" where the cpu backend does not open. */
static void add_cpu_library(Text *text)
{
    Backend *backend = NULL;
    Choices choices = {0};
    DeviceInfo info = {.library = ""};
    Err *err = backend_open("cpu", &(BackendOptions){.choices = &choices}, &backend);
    if (!err) {
        backend->info(backend, &info);
    }
    add_text(text, "cpu", info.library);
    err_free(err);
    backend_close(backend);
    choices_free(&choices);
}

static void print_json(void)
{
    const unsigned xxhash = XXH_versionNumber();
    char hash[32];
    (void)snprintf(hash, sizeof hash, "%u.%u.%u", xxhash / 10000, xxhash / 100 % 100, xxhash % 100);
    Text text = {0};
    text_puts(&text, "{\"version\":");
    text_json(&text, PROGRAM_VERSION);
    add_text(&text, "commit", version_commit());
    add_text(&text, "compiler", __VERSION__);
    text_puts(&text, ",\"libraries\":{\"jansson\":");
    text_json(&text, jansson_version_str());
    add_text(&text, "libarchive", archive_version_string());
    add_text(&text, "openssl", OpenSSL_version(OPENSSL_VERSION_STRING));
    add_text(&text, "xxhash", hash);
    add_cpu_library(&text);
    text_puts(&text, "}}");
    puts(text.text);
    text_free(&text);
}

static Err *run(const Args *args)
{
    if (args_flag(args, "json")) {
        print_json();
    } else {
        const char *commit = version_commit();
        printf("cudistill " PROGRAM_VERSION "%s%s%s\n", commit[0] ? " (" : "", commit,
               commit[0] ? ")" : "");
    }
    return NULL;
}

static const ArgOption options[] = {
    {.name = "json", .kind = ARG_FLAG, .help = "one JSON object, with the libraries' versions"}};

const Command command_version = {.name = "version",
                                 .arguments = "",
                                 .summary = "print the version",
                                 .options = options,
                                 .option_count = sizeof options / sizeof options[0],
                                 .run = run};
