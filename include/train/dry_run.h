/* `train --dry-run`: what a run would be, without any of it. The configuration is checked, the networks are built, every
 * step is planned and prepared on the backend (also for a GPU that is only described), and the report says how many steps
 * there are, what is minimised, and how much device memory and disk each owner would take. It says nothing about time,
 * which nobody knows before a step has run. Nothing on disk is opened but the configuration and the device's description;
 * no weights, no images. */
#ifndef CUDISTILL_TRAIN_DRY_RUN_H
#define CUDISTILL_TRAIN_DRY_RUN_H

#include "train/run.h"

enum { DRY_RUN_MAX_OWNERS = 20 };

typedef struct {
    const char *owner;
    size_t bytes;
} MemoryOwner;

typedef struct {
    uint32_t train_count, test_count;
    int size, classes;
    long steps_per_epoch, steps;
    int last_batch; /* of an epoch, when smaller; else 0 */
    char formula[OBJECTIVE_FORMULA_MAX];
    char device[160];              /* "cuda: NVIDIA H200 (described), cuDNN 9.19" */
    char student[64], teacher[64]; /* "resnet50 bf16, 25557032 parameters"; "" without a teacher */
    bool resident, table, captured;
    MemoryOwner owners[DRY_RUN_MAX_OWNERS];
    int n_owners;
    size_t total;
    /* Of the run's folder at its largest, and the teacher's memo beside it with all views that the epochs will show. */
    MemoryOwner disk[DRY_RUN_MAX_OWNERS];
    int n_disk;
    size_t disk_total;
    const char *out, *memo_dir; /* where; the settings' */
    bool
        packed_known; /* the backend tells what its packed weights take; else they are not in the total */
} DryRunReport;

/* describe: file with the JSON of a described device (for dist.device = cuda or auto), or NULL: the environment variable
 * CUDISTILL_DESCRIBE, else a real device. */
Err *dry_run(const Settings *settings, const char *describe, DryRunReport *out);
/* On stdout: text, or one JSON object. */
void dry_run_print(const DryRunReport *report, bool json);

#endif
