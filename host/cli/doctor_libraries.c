/* Libraries, and what a GPU would need. Everything of CUDA is looked at through the loader: the program is not linked to
 * it, and why something cannot be opened is the finding. */
#include "cli/doctor.h"

#include "backend/backend.h"
#include "base/plugin.h"

#include <archive.h>
#include <dlfcn.h>
#include <glob.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- Libraries ---- */

/* Packages keep the interface within a major version: another one than at build time is a mismatch. */
static void check_version(Doctor *doctor, const char *name, int built_major, int built_minor,
                          int now_major, int now_minor)
{
    if (now_major != built_major || now_minor < built_minor) {
        doctor_add(doctor, DOCTOR_WARN, "library",
                   "install the version the program was built with, or build it again here",
                   "%s %d.%d, built with %d.%d", name, now_major, now_minor, built_major,
                   built_minor);
    } else {
        doctor_add(doctor, DOCTOR_OK, "library", NULL, "%s %d.%d", name, now_major, now_minor);
    }
}

static void check_host_libraries(Doctor *doctor)
{
    int major = 0;
    int minor = 0;
    if (sscanf(jansson_version_str(), "%d.%d", &major, &minor) == 2) {
        check_version(doctor, "jansson", JANSSON_MAJOR_VERSION, JANSSON_MINOR_VERSION, major,
                      minor);
    }
    const int archive = archive_version_number();
    check_version(doctor, "libarchive", ARCHIVE_VERSION_NUMBER / 1000000,
                  ARCHIVE_VERSION_NUMBER / 1000 % 1000, archive / 1000000, archive / 1000 % 1000);
    check_version(doctor, "OpenSSL", OPENSSL_VERSION_MAJOR, OPENSSL_VERSION_MINOR,
                  (int)OPENSSL_version_major(), (int)OPENSSL_version_minor());
    const unsigned hash = XXH_versionNumber();
    check_version(doctor, "xxHash", XXH_VERSION_MAJOR, XXH_VERSION_MINOR, (int)(hash / 10000),
                  (int)(hash / 100 % 100));
}

static void check_cpu_backend(Doctor *doctor)
{
    Backend *backend = NULL;
    Choices choices = {0};
    Err *err = backend_open("cpu", &(BackendOptions){.choices = &choices}, &backend);
    if (err) {
        doctor_add(doctor, DOCTOR_BAD, "cpu backend", "install oneDNN (libdnnl2) again", "%s",
                   err->message);
        err_free(err);
        return;
    }
    DeviceInfo info;
    backend->info(backend, &info);
    doctor_add(doctor, DOCTOR_OK, "cpu backend", NULL, "%s, %d threads, precision auto = %s",
               info.library, info.threads, info.bf16 ? "bf16" : "fp32");
    backend_close(backend);
    choices_free(&choices);
}

void doctor_libraries(Doctor *doctor)
{
    check_host_libraries(doctor);
    check_cpu_backend(doctor);
}

/* ---- Driver and GPUs ---- */

static bool gpu_on_the_bus(void)
{
    /* NVIDIA's vendor number among the display and 3D controllers. */
    glob_t found;
    bool gpu = false;
    if (glob("/sys/bus/pci/devices/*/vendor", 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc && !gpu; i++) {
            char vendor[16] = "";
            FILE *file = fopen(found.gl_pathv[i], "re");
            if (file) {
                gpu = fgets(vendor, sizeof vendor, file) && strncmp(vendor, "0x10de", 6) == 0;
                (void)fclose(file);
            }
        }
        globfree(&found);
    }
    return gpu;
}

/* Own prototypes of a few functions of NVML, which comes with the driver and without a header. */
typedef struct {
    int (*init)(void);
    int (*shutdown)(void);
    int (*driver)(char *, unsigned);
    int (*count)(unsigned *);
    int (*handle)(unsigned, void **);
    int (*name)(void *, char *, unsigned);
    int (*memory)(void *, unsigned long long *);
    int (*temperature)(void *, int, unsigned *);
} Nvml;

static bool nvml_open(void *library, Nvml *nvml)
{
    *(void **)&nvml->init = dlsym(library, "nvmlInit_v2");
    *(void **)&nvml->shutdown = dlsym(library, "nvmlShutdown");
    *(void **)&nvml->driver = dlsym(library, "nvmlSystemGetDriverVersion");
    *(void **)&nvml->count = dlsym(library, "nvmlDeviceGetCount_v2");
    *(void **)&nvml->handle = dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    *(void **)&nvml->name = dlsym(library, "nvmlDeviceGetName");
    *(void **)&nvml->memory = dlsym(library, "nvmlDeviceGetMemoryInfo");
    *(void **)&nvml->temperature = dlsym(library, "nvmlDeviceGetTemperature");
    return nvml->init && nvml->shutdown && nvml->driver && nvml->count && nvml->handle &&
           nvml->name && nvml->memory && nvml->temperature && nvml->init() == 0;
}

static void check_gpus(Doctor *doctor, const Nvml *nvml)
{
    enum { HOT_C = 85 };
    unsigned count = 0;
    char driver[96] = "";
    nvml->driver(driver, sizeof driver);
    nvml->count(&count);
    doctor_add(doctor, count > 0 ? DOCTOR_OK : DOCTOR_WARN, "driver",
               count > 0 ? NULL
                         : "the driver sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES",
               "NVIDIA %s, %u GPUs", driver, count);
    for (unsigned i = 0; i < count; i++) {
        void *gpu = NULL;
        char name[96] = "";
        unsigned long long memory[3] = {0}; /* total, free, used */
        unsigned degrees = 0;
        if (nvml->handle(i, &gpu) != 0 || nvml->name(gpu, name, sizeof name) != 0 ||
            nvml->memory(gpu, memory) != 0) {
            doctor_add(doctor, DOCTOR_BAD, "GPU", "reset it (nvidia-smi -r) or restart the machine",
                       "%u does not answer", i);
            continue;
        }
        nvml->temperature(gpu, 0, &degrees);
        const bool busy = memory[2] > memory[0] / 10;
        doctor_add(doctor, busy || degrees > HOT_C ? DOCTOR_WARN : DOCTOR_OK, "GPU",
                   degrees > HOT_C ? "check its cooling: it slows itself down when hot"
                   : busy          ? "other programs use it: see nvidia-smi"
                                   : NULL,
                   "%u: %s, %.1f of %.1f GiB free, %u C", i, name, (double)memory[1] / 1073741824.0,
                   (double)memory[0] / 1073741824.0, degrees);
    }
}

static void check_driver(Doctor *doctor)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    Nvml nvml = {0};
    if (library && nvml_open(library, &nvml)) {
        check_gpus(doctor, &nvml);
        nvml.shutdown();
    } else if (gpu_on_the_bus()) {
        doctor_add(doctor, DOCTOR_WARN, "driver",
                   "install NVIDIA's driver, or start the container with --gpus all",
                   "there is an NVIDIA device on the bus, but its driver cannot be opened");
    } else {
        doctor_add(doctor, DOCTOR_NOTE, "driver", NULL,
                   "no NVIDIA GPU or driver: training runs on cpu");
    }
    if (library) {
        (void)dlclose(library);
    }
}

/* ---- The CUDA part ---- */

static void check_cudnn_and_nccl(Doctor *doctor)
{
    void *cudnn = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    size_t (*cudnn_version)(void) = NULL;
    if (cudnn) {
        *(void **)&cudnn_version = dlsym(cudnn, "cudnnGetVersion");
    }
    if (cudnn_version) {
        const size_t v = cudnn_version();
        doctor_add(doctor, v < 90000 ? DOCTOR_WARN : DOCTOR_OK, "cuDNN",
                   v < 90000 ? "install cuDNN 9" : NULL, "%zu.%zu.%zu", v / 10000, v / 100 % 100,
                   v % 100);
    }
    void *nccl = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    int (*nccl_version)(int *) = NULL;
    if (nccl) {
        *(void **)&nccl_version = dlsym(nccl, "ncclGetVersion");
    }
    int v = 0;
    if (nccl_version && nccl_version(&v) == 0) {
        /* NVIDIA's own tools refuse these for a fault after a rank was lost. */
        const bool faulty = v >= 22803 && v <= 22808;
        doctor_add(doctor, faulty ? DOCTOR_WARN : DOCTOR_OK, "NCCL",
                   faulty ? "install 2.28.9 or later: these hang after a rank was lost" : NULL,
                   "%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    }
}

void doctor_gpu(Doctor *doctor)
{
    check_driver(doctor);
    if (!plugin_present(CUDA_PART, CUDA_PART_VARIABLE)) {
        doctor_add(doctor, DOCTOR_NOTE, "cuda backend",
                   "for GPUs: install the CUDA toolkit, cuDNN 9 and NCCL, then run make again",
                   "this program was built without it");
        return;
    }
    check_cudnn_and_nccl(doctor);
    Backend *backend = NULL;
    Choices choices = {0};
    Err *err = backend_open("cuda", &(BackendOptions){.choices = &choices}, &backend);
    if (err) {
        const bool wanted = gpu_on_the_bus();
        doctor_add(doctor, wanted ? DOCTOR_WARN : DOCTOR_NOTE, "cuda backend",
                   wanted ? "see what is missing above; 'auto' takes the cpu until then" : NULL,
                   "%s", err->message);
        err_free(err);
        return;
    }
    DeviceInfo info;
    backend->info(backend, &info);
    doctor_add(doctor, DOCTOR_OK, "cuda backend", NULL, "%s, %s, precision auto = %s", info.name,
               info.library, info.bf16 ? "bf16" : "fp32");
    backend_close(backend);
    choices_free(&choices);
}
