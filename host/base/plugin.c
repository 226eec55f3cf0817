/* Opens optional parts of the program. A file that is there but does not load is reported as such and nothing else is
 * tried: another copy found further on would hide the fault. */
#include "base/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Folder of the running program without the last slash; "." where the system does not tell. */
static void program_folder(char folder[PATH_MAX])
{
    const ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    folder[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (!slash) {
        strcpy(folder, ".");
    } else {
        *slash = '\0';
    }
}

/* The path of the part beside the program, or NULL (caller frees). */
static char *find_beside_program(const char *file)
{
    static const char *const places[] = {"", "/../lib", "/../lib/cudistill"};
    char folder[PATH_MAX];
    program_folder(folder);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char *path = xformat("%s%s/%s", folder, places[i], file);
        if (access(path, F_OK) == 0) {
            return path;
        }
        free(path);
    }
    return NULL;
}

bool plugin_present(const char *file, const char *variable)
{
    const char *given = getenv(variable);
    if (given && given[0]) {
        return true;
    }
    char *path = find_beside_program(file);
    const bool found = path != NULL;
    free(path);
    return found || dlopen(file, RTLD_NOW | RTLD_LOCAL);
}

static const char *loader_reason(void)
{
    const char *reason = dlerror();
    return reason ? reason : "no reason given";
}

static Err *open_at(const char *path, const char *origin, void **part)
{
    *part = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return *part ? NULL
                 : err_new(EXIT_NO_DEVICE, "%s%s does not load: %s", origin, path, loader_reason());
}

static Err *open_part(const char *file, const char *variable, void **part)
{
    const char *given = getenv(variable);
    if (given && given[0]) {
        char *origin = xformat("%s = ", variable);
        Err *err = open_at(given, origin, part);
        free(origin);
        return err;
    }
    char *path = find_beside_program(file);
    if (path) {
        Err *err = open_at(path, "", part);
        free(path);
        return err;
    }
    *part = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (*part) {
        return NULL;
    }
    const char *reason = loader_reason();
    if (strstr(reason, file) && strstr(reason, "No such file")) {
        return err_new(EXIT_NO_DEVICE,
                       "this program comes without %s: it is built where its libraries are found "
                       "('make' tells), beside the program or where %s says",
                       file, variable);
    }
    return err_new(EXIT_NO_DEVICE, "%s does not load: %s", file, reason);
}

Err *plugin_symbol(const char *file, const char *variable, const char *symbol, void **out)
{
    *out = NULL;
    void *part = NULL;
    TRY(open_part(file, variable, &part));
    *out = dlsym(part, symbol);
    if (!*out) {
        return err_new(EXIT_NO_DEVICE, "%s is of another version of the program: %s; build again",
                       file, loader_reason());
    }
    return NULL;
}
