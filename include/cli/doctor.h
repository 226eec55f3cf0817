/* `cudistill doctor`: what this machine is, and what about it could hurt a run, each with what to do.
 *
 * A check adds findings to a Doctor; nothing is printed and nothing is changed but one file that the disk check makes and
 * removes. Not for several threads. */
#ifndef CUDISTILL_CLI_DOCTOR_H
#define CUDISTILL_CLI_DOCTOR_H

#include <stddef.h>

typedef enum {
    DOCTOR_OK,
    DOCTOR_NOTE, /* worth knowing; nothing is wrong */
    DOCTOR_WARN, /* works, but slower or riskier than it need be */
    DOCTOR_BAD   /* something will fail */
} DoctorLevel;

typedef struct {
    DoctorLevel level;
    char *subject; /* "processor" */
    char *found;   /* what is so */
    char *advice;  /* what to do; NULL when there is nothing to do */
} Finding;

typedef struct {
    Finding *findings;
    size_t count, capacity;
} Doctor;

void doctor_add(Doctor *doctor, DoctorLevel level, const char *subject, const char *advice,
                const char *format, ...) __attribute__((format(printf, 5, 6)));
DoctorLevel doctor_worst(const Doctor *doctor);
void doctor_free(Doctor *doctor);

/* Processor, cores left to this process, memory, limits, OpenMP's variables, clock, terminal. */
void doctor_machine(Doctor *doctor);
/* Versions at build time and now, and the cpu backend with its arithmetic. */
void doctor_libraries(Doctor *doctor);
/* Driver, GPUs (NVML), the CUDA part and its libraries: why a GPU cannot be used. */
void doctor_gpu(Doctor *doctor);
/* The folder that runs would be written to: space, file system, speed of a synced write and of a rename. */
void doctor_disk(Doctor *doctor, const char *folder);

/* The smaller of a cgroup's limit files (version 2 or 1), or -1: "cpu.max" as cores, "memory.max" as bytes. The text is the
 * file's contents. */
double doctor_cpu_quota(const char *cpu_max);

#endif
