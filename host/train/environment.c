/* The environment of a run, from /proc, /etc/os-release and the libraries' own version functions. What cannot be found out
 * is left out or null: the file explains results later, it decides nothing. */
#include "train/environment.h"

#include "base/files.h"

#include <archive.h>
#include <gnu/libc-version.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <protobuf-c/protobuf-c.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <xxhash.h>

extern char **environ;

enum { PROC_MAX_BYTES = 4 << 20 };

static void member(Text *out, const char *key, const char *text)
{
    text_add(out, ",\"%s\":", key);
    text_json(out, text);
}

/* The value behind `label` and its separators on the first line that begins with it; "" when there is none. Caller frees. */
static char *line_value(const char *path, const char *label)
{
    char *text = NULL;
    Err *err = file_read_text(path, PROC_MAX_BYTES, &text);
    char *value = NULL;
    for (const char *line = text; !err && line && !value;) {
        const size_t size = strcspn(line, "\n");
        if (strncmp(line, label, strlen(label)) == 0) {
            const char *at = line + strlen(label);
            at += strspn(at, " \t:=\"");
            value = xformat("%.*s", (int)strcspn(at, "\"\n"), at);
        }
        line = line[size] ? line + size + 1 : NULL;
    }
    err_free(err);
    free(text);
    return value ? value : xstrdup("");
}

static void put_file_value(Text *out, const char *key, const char *path, const char *label)
{
    char *value = line_value(path, label);
    member(out, key, value);
    free(value);
}

static void put_machine(Text *out)
{
    struct utsname system;
    char host[256] = "unknown";
    (void)gethostname(host, sizeof host - 1);
    text_puts(out, "{\"host\":");
    text_json(out, host);
    if (uname(&system) == 0) {
        char *text = xformat("%s %s %s", system.sysname, system.release, system.machine);
        member(out, "system", text);
        free(text);
    }
    put_file_value(out, "distribution", "/etc/os-release", "PRETTY_NAME");
    put_file_value(out, "processor", "/proc/cpuinfo", "model name");
    cpu_set_t allowed;
    const int cores = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 0;
    text_add(out, ",\"cores_online\":%ld,\"cores_allowed\":%d", sysconf(_SC_NPROCESSORS_ONLN),
             cores);
    text_add(out, ",\"memory_bytes\":%.0f",
             (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE));
    member(out, "compiler", __VERSION__);
}

static void put_device(Text *out, Backend *backend)
{
    DeviceInfo info;
    backend->info(backend, &info);
    text_puts(out, ",\"device\":{\"backend\":");
    text_json(out, backend->name);
    member(out, "name", info.name);
    member(out, "library", info.library);
    text_add(out, ",\"threads\":%d}", info.threads);
}

static void put_libraries(Text *out)
{
    char xxhash[32];
    const unsigned version = XXH_versionNumber();
    (void)snprintf(xxhash, sizeof xxhash, "%u.%u.%u", version / 10000, version / 100 % 100,
                   version % 100);
    text_puts(out, ",\"libraries\":{\"glibc\":");
    text_json(out, gnu_get_libc_version());
    member(out, "jansson", jansson_version_str());
    member(out, "libarchive", archive_version_string());
    member(out, "openssl", OpenSSL_version(OPENSSL_VERSION));
    member(out, "protobuf-c", protobuf_c_version());
    member(out, "xxhash", xxhash);
    text_puts(out, "}");
}

static void put_limits(Text *out)
{
    static const struct {
        const char *name;
        int resource;
    } limits[] = {{"open_files", RLIMIT_NOFILE},    {"file_size_bytes", RLIMIT_FSIZE},
                  {"stack_bytes", RLIMIT_STACK},    {"memory_bytes", RLIMIT_AS},
                  {"locked_bytes", RLIMIT_MEMLOCK}, {"processor_seconds", RLIMIT_CPU},
                  {"processes", RLIMIT_NPROC}};
    text_puts(out, ",\"limits\":{");
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        struct rlimit limit;
        text_add(out, "%s\"%s\":", i > 0 ? "," : "", limits[i].name);
        if (getrlimit(limits[i].resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
            text_puts(out, "null");
        } else {
            text_add(out, "%llu", (unsigned long long)limit.rlim_cur);
        }
    }
    text_puts(out, "}");
}

static bool matters(const char *variable)
{
    static const char *const prefixes[] = {"OMP_",  "GOMP_",   "KMP_",    "DNNL_",    "ONEDNN_",
                                           "CUDA_", "CUDNN_",  "NVIDIA_", "NCCL_",    "CUBLAS_",
                                           "MKL_",  "MALLOC_", "UCX_",    "CUDISTILL"};
    static const char *const names[] = {"LD_LIBRARY_PATH=", "LD_PRELOAD=",   "SLURM_JOB_ID=",
                                        "SLURM_JOB_NAME=",  "SLURM_NNODES=", "SLURM_NTASKS=",
                                        "SLURM_PROCID=",    "PBS_JOBID=",    "LANG=",
                                        "LC_ALL=",          "TZ=",           "TMPDIR="};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (strncmp(variable, prefixes[i], strlen(prefixes[i])) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strncmp(variable, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return false;
}

static void put_variables(Text *out)
{
    text_puts(out, ",\"environment\":{");
    const char *comma = "";
    for (char **at = environ; at && *at; at++) {
        const size_t size = strcspn(*at, "=");
        if ((*at)[size] != '=' || !matters(*at)) {
            continue;
        }
        char *name = xformat("%.*s", (int)size, *at);
        text_puts(out, comma);
        text_json(out, name);
        text_puts(out, ":");
        text_json(out, *at + size + 1);
        free(name);
        comma = ",";
    }
    text_puts(out, "}");
}

/* Words are separated by NUL bytes in /proc/self/cmdline. */
static void put_command(Text *out)
{
    char *folder = getcwd(NULL, 0);
    member(out, "folder", folder ? folder : "");
    free(folder);
    char words[65536];
    FILE *file = fopen("/proc/self/cmdline", "re");
    const size_t size = file ? fread(words, 1, sizeof words - 1, file) : 0;
    if (file) {
        (void)fclose(file);
    }
    words[size] = '\0';
    text_puts(out, ",\"command\":[");
    for (size_t at = 0; at < size; at += strlen(words + at) + 1) {
        text_puts(out, at > 0 ? "," : "");
        text_json(out, words + at);
    }
    text_puts(out, "]}");
}

void environment_json(Backend *backend, Text *out)
{
    put_machine(out);
    put_device(out, backend);
    put_libraries(out);
    put_limits(out);
    put_variables(out);
    put_command(out);
}
