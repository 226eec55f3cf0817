/* Findings, and the checks of the machine itself: everything that needs no library but the C library. */
#include "cli/doctor.h"

#include "base/err.h"

#include <langinfo.h>
#include <locale.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define GIB (1024.0 * 1024.0 * 1024.0)
enum { SMALL_FILE = 1 << 20, FEW_FILES = 1024 };

/* ---- Findings ---- */

void doctor_add(Doctor *doctor, DoctorLevel level, const char *subject, const char *advice,
                const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *found = xvformat(format, args);
    va_end(args);
    doctor->findings =
        xgrow(doctor->findings, &doctor->capacity, doctor->count + 1, sizeof *doctor->findings);
    doctor->findings[doctor->count++] = (Finding){.level = level,
                                                  .subject = xstrdup(subject),
                                                  .found = found,
                                                  .advice = advice ? xstrdup(advice) : NULL};
}

DoctorLevel doctor_worst(const Doctor *doctor)
{
    DoctorLevel worst = DOCTOR_OK;
    for (size_t i = 0; i < doctor->count; i++) {
        worst = doctor->findings[i].level > worst ? doctor->findings[i].level : worst;
    }
    return worst;
}

void doctor_free(Doctor *doctor)
{
    for (size_t i = 0; i < doctor->count; i++) {
        free(doctor->findings[i].subject);
        free(doctor->findings[i].found);
        free(doctor->findings[i].advice);
    }
    free(doctor->findings);
    *doctor = (Doctor){0};
}

/* ---- Small files of /proc and /sys ---- */

/* Contents without the last newline, or NULL. */
static char *small_file(const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        return NULL;
    }
    char *text = xmalloc(SMALL_FILE);
    const size_t got = fread(text, 1, SMALL_FILE - 1, file);
    (void)fclose(file);
    text[got] = '\0';
    while (got > 0 && strlen(text) > 0 && text[strlen(text) - 1] == '\n') {
        text[strlen(text) - 1] = '\0';
    }
    return text;
}

/* Value of the first line "name : value" of a /proc file; caller frees; NULL when there is none. */
static char *proc_value(const char *text, const char *name)
{
    const size_t length = strlen(name);
    const char *at = text;
    while (at && *at) {
        if (strncmp(at, name, length) == 0) {
            const char *colon = at + length + strspn(at + length, " \t");
            if (*colon == ':') {
                const char *value = colon + 1 + strspn(colon + 1, " \t");
                return xformat("%.*s", (int)strcspn(value, "\n"), value);
            }
        }
        at = strchr(at, '\n');
        at = at ? at + 1 : NULL;
    }
    return NULL;
}

static bool has_word(const char *words, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = strstr(words, word); at; at = strstr(at + 1, word)) {
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

/* ---- Processor ---- */

static void check_processor(Doctor *doctor)
{
    char *info = small_file("/proc/cpuinfo");
    char *model = info ? proc_value(info, "model name") : NULL;
    char *flags = info ? proc_value(info, "flags") : NULL;
    static const char *const wanted[] = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"};
    char list[64] = "";
    for (size_t i = 0; flags && i < sizeof wanted / sizeof wanted[0]; i++) {
        if (has_word(flags, wanted[i])) {
            strcat(list, list[0] ? ", " : "");
            strcat(list, wanted[i]);
        }
    }
    const char *name = model ? model : "unknown model";
    if (!flags) {
        doctor_add(doctor, DOCTOR_NOTE, "processor", NULL, "%s, instruction sets unknown", name);
    } else if (!has_word(flags, "avx2")) {
        doctor_add(doctor, DOCTOR_WARN, "processor",
                   "training on it is slow: use a GPU or a processor with AVX2", "%s without AVX2",
                   name);
    } else if (!has_word(flags, "avx512_bf16") && !has_word(flags, "amx_bf16")) {
        doctor_add(doctor, DOCTOR_NOTE, "processor", "precision auto is fp32 here; nothing to do",
                   "%s: %s", name, list);
    } else {
        doctor_add(doctor, DOCTOR_OK, "processor", NULL, "%s: %s", name, list);
    }
    free(info);
    free(model);
    free(flags);
}

double doctor_cpu_quota(const char *cpu_max)
{
    double quota;
    double period;
    if (!cpu_max || sscanf(cpu_max, "%lf %lf", &quota, &period) != 2 || !(period > 0)) {
        return -1.0; /* "max 100000": none */
    }
    return quota / period;
}

static void check_cores(Doctor *doctor)
{
    cpu_set_t allowed;
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    const int mine =
        sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : (int)online;
    char *limit = small_file("/sys/fs/cgroup/cpu.max");
    const double quota = doctor_cpu_quota(limit);
    free(limit);
    if (quota > 0 && quota < mine - 0.5) {
        doctor_add(doctor, DOCTOR_WARN, "cores",
                   "set dist.threads (and OMP_NUM_THREADS) to that quota: more threads only wait",
                   "%d of %ld usable, but the container's quota is %.1f", mine, online, quota);
        return;
    }
    const char *omp = getenv("OMP_NUM_THREADS");
    if (omp && strtol(omp, NULL, 10) > mine) {
        doctor_add(doctor, DOCTOR_WARN, "cores", "lower OMP_NUM_THREADS, or unset it",
                   "%d of %ld usable, OMP_NUM_THREADS = %s", mine, online, omp);
        return;
    }
    doctor_add(doctor, DOCTOR_OK, "cores", NULL, "%d of %ld usable%s%s", mine, online,
               omp ? ", OMP_NUM_THREADS = " : "", omp ? omp : "");
}

static void check_load(Doctor *doctor)
{
    double load;
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (getloadavg(&load, 1) == 1 && load > 0.5 * (double)online + 0.5) {
        doctor_add(doctor, DOCTOR_NOTE, "load",
                   "figures of speed mean little while others compute here",
                   "%.1f processes compute on %ld cores", load, online);
    }
}

/* ---- Memory and limits ---- */

static void check_memory(Doctor *doctor)
{
    char *info = small_file("/proc/meminfo");
    char *total = info ? proc_value(info, "MemTotal") : NULL;
    char *available = info ? proc_value(info, "MemAvailable") : NULL;
    const double all = total ? strtod(total, NULL) * 1024.0 / GIB : 0.0;
    const double left = available ? strtod(available, NULL) * 1024.0 / GIB : 0.0;
    char *limit = small_file("/sys/fs/cgroup/memory.max");
    const double quota = limit ? strtod(limit, NULL) / GIB : 0.0; /* "max" reads as 0 */
    const double least = quota > 0 && quota < left ? quota : left;
    const bool small = least < 2.0;
    doctor_add(doctor, small ? DOCTOR_WARN : DOCTOR_OK, "memory",
               small ? "CIFAR needs about 1 GiB; 'cudistill train --dry-run' tells what a run needs"
                     : NULL,
               "%.1f of %.1f GiB free%s", left, all, quota > 0 ? ", limited by the container" : "");
    free(info);
    free(total);
    free(available);
    free(limit);
}

static void check_limit(Doctor *doctor, int resource, const char *name, double least,
                        const char *advice)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return;
    }
    if ((double)limit.rlim_cur < least) {
        doctor_add(doctor, DOCTOR_WARN, "limits", advice, "%s is limited to %llu", name,
                   (unsigned long long)limit.rlim_cur);
    }
}

static void check_limits(Doctor *doctor)
{
    const size_t before = doctor->count;
    check_limit(doctor, RLIMIT_NOFILE, "the number of open files", FEW_FILES,
                "ulimit -n 4096, or more in /etc/security/limits.conf");
    check_limit(doctor, RLIMIT_FSIZE, "the size of a file (bytes)", 16.0 * GIB,
                "ulimit -f unlimited: checkpoints beyond the limit cannot be written");
    check_limit(doctor, RLIMIT_AS, "address space (bytes)", 64.0 * GIB,
                "ulimit -v unlimited: CUDA reserves far more address space than memory");
    check_limit(doctor, RLIMIT_CPU, "processor time (seconds)", 864000.0,
                "ulimit -t unlimited: the run would be killed at the limit");
    struct statvfs shm;
    if (statvfs("/dev/shm", &shm) == 0 && (double)shm.f_blocks * (double)shm.f_frsize < 0.5 * GIB) {
        doctor_add(doctor, DOCTOR_NOTE, "limits",
                   "several GPUs on this machine need more: docker run --shm-size=1g",
                   "/dev/shm holds %.0f MiB",
                   (double)shm.f_blocks * (double)shm.f_frsize / (1024.0 * 1024.0));
    }
    if (doctor->count == before) {
        doctor_add(doctor, DOCTOR_OK, "limits", NULL, "files, memory and time are not limited");
    }
}

/* ---- The rest ---- */

static void check_openmp(Doctor *doctor)
{
    const char *policy = getenv("OMP_WAIT_POLICY");
    const char *spin = getenv("GOMP_SPINCOUNT");
    const char *bind = getenv("OMP_PROC_BIND");
    if (policy && strcasecmp(policy, "active") == 0) {
        doctor_add(doctor, DOCTOR_WARN, "OpenMP",
                   "unset OMP_WAIT_POLICY: idle threads that spin slow down everything beside them",
                   "OMP_WAIT_POLICY = %s", policy);
    } else if (bind && strcasecmp(bind, "false") != 0) {
        doctor_add(doctor, DOCTOR_NOTE, "OpenMP",
                   "bound threads of two runs on one machine share the same cores: unset it then",
                   "OMP_PROC_BIND = %s", bind);
    } else {
        doctor_add(doctor, DOCTOR_OK, "OpenMP", NULL, "threads wait %s%s%s",
                   policy ? policy : "briefly", spin ? ", GOMP_SPINCOUNT = " : "",
                   spin ? spin : "");
    }
}

static void check_system(Doctor *doctor)
{
    struct utsname name;
    if (uname(&name) == 0) {
        char *release = small_file("/etc/os-release");
        char *pretty = NULL;
        const char *at = release ? strstr(release, "PRETTY_NAME=\"") : NULL;
        if (at) {
            at += strlen("PRETTY_NAME=\"");
            pretty = xformat("%.*s, ", (int)strcspn(at, "\"\n"), at);
        }
        doctor_add(doctor, DOCTOR_OK, "system", NULL, "%s%s %s on %s", pretty ? pretty : "",
                   name.sysname, name.release, name.nodename);
        free(pretty);
        free(release);
    }
    const time_t now = time(NULL);
    struct tm parts;
    if (gmtime_r(&now, &parts) && parts.tm_year + 1900 < 2024) {
        doctor_add(doctor, DOCTOR_WARN, "clock",
                   "set the clock: names of event files and records carry the time",
                   "the system's year is %d", parts.tm_year + 1900);
    }
}

static void check_terminal(Doctor *doctor)
{
    const char *term = getenv("TERM");
    const bool tty = isatty(STDERR_FILENO);
    const locale_t utf = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
    const char *codeset = utf ? nl_langinfo_l(CODESET, utf) : "unknown";
    doctor_add(doctor, DOCTOR_OK, "terminal", NULL, "%s, %s%s",
               tty ? (term ? term : "TERM is not set") : "none: progress as plain lines", codeset,
               getenv("NO_COLOR") ? ", NO_COLOR" : "");
    if (utf) {
        freelocale(utf);
    }
}

void doctor_machine(Doctor *doctor)
{
    check_system(doctor);
    check_processor(doctor);
    check_cores(doctor);
    check_load(doctor);
    check_memory(doctor);
    check_limits(doctor);
    check_openmp(doctor);
    check_terminal(doctor);
}
