/* What shim.c and the tests that preload it share. */
#ifndef CUDISTILL_TESTS_FAULTS_SHIM_H
#define CUDISTILL_TESTS_FAULTS_SHIM_H

#include <stdatomic.h>

enum { PATH_BYTES = 4096 };

typedef enum {
    FAULT_WRITE,
    FAULT_FSYNC,
    FAULT_RENAME,
    FAULT_OPEN,
    FAULT_TRUNCATE,
    FAULT_CLOSE,
    FAULT_MKDIR,
    FAULT_LINK,
    FAULT_UNLINK,
    FAULT_CALLS
} FaultCall;

/* Content of the file FAULTS_COUNT: chosen calls below FAULTS_ROOT. */
typedef struct {
    _Atomic long calls[FAULT_CALLS];
    _Atomic long total;  /* of all kinds: what FAULTS_AT counts */
    _Atomic long failed; /* made to fail */
} FaultCounts;

#endif
